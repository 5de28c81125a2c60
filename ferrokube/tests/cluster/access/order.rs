//! The steps that a request passes, in their order: a request with two things wrong is told of the one that an earlier step sees.

use http::StatusCode;
use serde_json::Value;

use super::with_token;
use crate::process::Cluster;

/// A request of somebody, and the step that answers it.
struct Case {
    step: &'static str,
    token: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    code: StatusCode,
    message: &'static str,
}

const POSE: (&str, &str) = ("impersonate-user", "somebody");

/// Each case has wrong what its step sees, and what the step of the next case would see.
const CASES: [Case; 5] = [
    Case {
        step: "the deadline, before authentication",
        token: "wrong",
        path: "/api/v1/nodes?timeout=soon",
        headers: &[],
        code: StatusCode::BAD_REQUEST,
        message: "invalid timeout specified in the request URL",
    },
    Case {
        step: "authentication, before impersonation",
        token: "wrong",
        path: "/api/v1/nodes",
        headers: &[POSE],
        code: StatusCode::UNAUTHORIZED,
        message: "Unauthorized",
    },
    Case {
        step: "impersonation, before authorization",
        token: "dev-token",
        path: "/api/v1/nodes",
        headers: &[POSE],
        code: StatusCode::FORBIDDEN,
        message: "User \"dev\" cannot impersonate-on:user-info:list resource \"nodes\"",
    },
    Case {
        step: "authorization, before anybody looks whether there is such a resource",
        token: "dev-token",
        path: "/api/v1/nothings",
        headers: &[],
        code: StatusCode::FORBIDDEN,
        message: "cannot list resource \"nothings\"",
    },
    Case {
        step: "dispatch",
        token: "admin-token",
        path: "/api/v1/nothings",
        headers: &[],
        code: StatusCode::NOT_FOUND,
        message: "could not find the requested resource",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_told_of_what_the_first_step_to_see_it_finds() {
    let data = tempfile::tempdir().expect("a folder");
    let tokens = data.path().join("tokens.csv");
    std::fs::write(&tokens, "admin-token,admin,1,\"system:masters\"\ndev-token,dev,2\n").expect("a file");
    let cluster = Cluster::api_server_with(data.path(), &["--token-auth-file", tokens.to_str().expect("a path")]);
    for case in CASES {
        let mut request = http::Request::get(case.path).header("audit-id", case.step.len().to_string());
        for (name, value) in case.headers {
            request = request.header(*name, *value);
        }
        let client = with_token(&cluster, case.token).await;
        let answer = client.send(request.body(kube::client::Body::empty()).expect("a request")).await.expect("an answer");
        let (head, body) = answer.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.expect("a body")).expect("a Status");
        assert_eq!(head.status, case.code, "{}: {body}", case.step);
        let message = body["message"].as_str().unwrap_or_default();
        assert!(message.contains(case.message), "{}: {message}", case.step);
        // The audit id is given before all of them, and only who is known has taken a seat.
        assert_eq!(head.headers["audit-id"], case.step.len().to_string(), "{}", case.step);
        let seated = head.headers.contains_key("x-kubernetes-pf-flowschema-uid");
        assert_eq!(seated, case.step.starts_with("authorization") || case.step == "dispatch", "{}: {:?}", case.step, head.headers);
    }
}
