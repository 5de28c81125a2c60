//! What the kubelet asks containers, how often, and what it does about the answers. Probes by gRPC are left to the official tests: nothing
//! in the images here speaks it.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::node::asking::{restarts, until};
use crate::node::place::{Place, has_condition, named, one, pod, with};

pub(super) async fn story(place: Place) {
    tokio::join!(
        by_http(&place),
        by_connection(&place),
        by_command(&place),
        before_the_others(&place),
        how_long_it_is_given(&place),
        gates(&place)
    );
}

fn is_started(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().all(|status| status.started == Some(true))
}

/// The server is the pod's own, which shows a page when it is asked with the right words.
async fn by_http(place: &Place) {
    // What asks with another query or without the header gets another answer: the server runs a script.
    let script = "if [ \"$QUERY_STRING\" = a=b ] && [ \"$HTTP_X_TEST\" = yes -o \"$HTTP_HOST\" = named.test ]; then echo Status: 200 OK; else echo Status: 500 No; fi; echo";
    let server = format!(
        "mkdir -p /tmp/www/cgi-bin; printf '%s\\n' '#!/bin/sh' '{script}' > /tmp/www/cgi-bin/ready; chmod +x /tmp/www/cgi-bin/ready; exec httpd -f -p 8080 -h /tmp/www"
    );
    let server = server.as_str();
    let ports = json!([{ "name": "web", "containerPort": 8080, "protocol": "TCP" }]);
    let probe = |http: Value| json!({ "ports": ports, "readinessProbe": { "httpGet": http, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 2 } });
    let good =
        json!({ "path": "/cgi-bin/ready?a=b", "port": "web", "scheme": "HTTP", "httpHeaders": [{ "name": "X-Test", "value": "yes" }] });
    let host = json!({ "path": "/cgi-bin/ready?a=b", "port": 8080, "httpHeaders": [{ "name": "Host", "value": "named.test" }] });
    let bad = json!({ "path": "/cgi-bin/ready?a=b", "port": 8080 });
    let secure = json!({ "path": "/cgi-bin/ready?a=b", "port": 8080, "scheme": "HTTPS" });
    let elsewhere =
        json!({ "path": "/cgi-bin/ready?a=b", "port": 8080, "host": "127.0.0.2", "httpHeaders": [{ "name": "X-Test", "value": "yes" }] });
    tokio::join!(place.runs("http", one(server, probe(good))), place.runs("http-host", one(server, probe(host))));
    place.create::<Pod>(pod("http-bad", one(server, probe(bad)))).await;
    place.is_told("http-bad", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 500").await;
    place.create::<Pod>(pod("https", one(server, probe(secure)))).await;
    place.is_told("https", "Unhealthy", "Readiness probe failed: Get \"https://").await;
    // The node's own loopback, where nobody is.
    place.create::<Pod>(pod("http-elsewhere", one(server, probe(elsewhere)))).await;
    place.is_told("http-elsewhere", "Unhealthy", "127.0.0.2:8080").await;
    for name in ["http-bad", "https", "http-elsewhere"] {
        assert!(!has_condition(&place.get(name).await, "Ready"), "{name}");
    }
}

async fn by_connection(place: &Place) {
    let probe = |port: Value| json!({ "readinessProbe": { "tcpSocket": { "port": port }, "periodSeconds": 1 }, "ports": [{ "name": "web", "containerPort": 8080 }] });
    place.runs("tcp", one("exec httpd -f -p 8080 -h /www", probe(json!("web")))).await;
    place.create::<Pod>(pod("no-tcp", one("exec sleep 1000", probe(json!(8080))))).await;
    place.is_told("no-tcp", "Unhealthy", "connect: connection refused").await;
}

async fn by_command(place: &Place) {
    let asks = "test -e /tmp/go || { echo no >> /tmp/answers; exit 1; }";
    let probe = |over: Value| json!({ "readinessProbe": with(json!({ "exec": { "command": ["sh", "-c", asks] }, "periodSeconds": 1, "timeoutSeconds": 20 }), over) });
    let begin = Instant::now();
    place
        .create::<Pod>(pod(
            "exec",
            one("exec sleep 1000", probe(json!({ "initialDelaySeconds": 3, "successThreshold": 2, "failureThreshold": 2 }))),
        ))
        .await;
    until("it can be told", async || place.says("exec", "touch /tmp/go; echo done").await == "done").await;
    place.until_is("exec", "it is ready", |pod: &Pod| has_condition(pod, "Ready")).await;
    assert!(begin.elapsed() >= Duration::from_secs(4), "{:?}: a delay of three seconds, and two good answers", begin.elapsed());
    // One bad answer is not enough.
    let one_bad = "rm -f /tmp/answers /tmp/go; until [ -e /tmp/answers ]; do sleep 0.05; done; touch /tmp/go; grep -c no /tmp/answers";
    let bad_answers = place.says("exec", one_bad).await;
    assert!(bad_answers != "1" || has_condition(&place.get("exec").await, "Ready"), "{bad_answers:?} bad answers");
    assert_eq!(place.says("exec", "rm /tmp/go && echo done").await, "done");
    place.until_is("exec", "it is not ready any more", |pod: &Pod| !has_condition(pod, "Ready")).await;

    let slow = json!({ "readinessProbe": { "exec": { "command": ["sleep", "20"] }, "periodSeconds": 1, "timeoutSeconds": 1 } });
    place.create::<Pod>(pod("slow", one("exec sleep 1000", slow))).await;
    place.is_told("slow", "Unhealthy", "timed out after 1s").await;
}

/// While the startup probe fails nobody asks whether the container lives; it is killed by its own number of failures.
async fn before_the_others(place: &Place) {
    let spec = one(
        "[ -e /data/asked ] && touch /data/early; [ -e /data/restarted ] && touch /tmp/up; touch /data/restarted; exec sleep 1000",
        json!({
            "startupProbe": { "exec": { "command": ["test", "-e", "/tmp/up"] }, "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 3 },
            "livenessProbe": { "exec": { "command": ["sh", "-c", "echo asked >> /data/asked"] }, "periodSeconds": 1, "timeoutSeconds": 20 },
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        }),
    );
    let spec = with(spec, json!({ "restartPolicy": "Always", "volumes": [{ "name": "data", "emptyDir": {} }] }));
    place.create::<Pod>(pod("starts", spec)).await;
    place.is_told("starts", "Killing", "Container c failed startup probe, will be restarted").await;
    place.until_is("starts", "it has started", |pod: &Pod| restarts(pod) == 1 && is_started(pod)).await;
    until("then it is asked whether it lives", async || place.says("starts", "cat /data/asked").await.starts_with("asked")).await;
    assert_eq!(restarts(&place.get("starts").await), 1);
    assert_eq!(place.says("starts", "ls /data/early 2>/dev/null; echo asked").await, "asked", "not before it had started");
}

/// A container that fails its probe is given the probe's own time to end, not the pod's.
async fn how_long_it_is_given(place: &Place) {
    let probe = |grace: Option<i64>| {
        let probe = json!({ "exec": { "command": ["test", "!", "-e", "/tmp/ill"] }, "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 1 });
        json!({ "livenessProbe": with(probe, grace.map_or(json!({}), |seconds| json!({ "terminationGracePeriodSeconds": seconds }))) })
    };
    let spec = json!({
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 300,
        "containers": [named("c", "trap '' TERM; touch /tmp/ill; while :; do sleep 0.1; done", probe(Some(1)))],
    });
    let begin = Instant::now();
    place.create::<Pod>(pod("ill", spec)).await;
    place.until_is("ill", "it is restarted", |pod: &Pod| restarts(pod) > 0).await;
    assert!(begin.elapsed() < Duration::from_secs(100), "{:?}", begin.elapsed());
    place.delete::<Pod>("ill", &kube::api::DeleteParams::default().grace_period(0)).await;
}

/// A pod with a readiness gate is ready when somebody says so, too.
async fn gates(place: &Place) {
    let spec = with(one("exec sleep 1000", json!({})), json!({ "readinessGates": [{ "conditionType": "test.ferrokube.dev/good" }] }));
    place.create::<Pod>(pod("gated", spec)).await;
    let pod = place.until_is("gated", "its containers are ready", |pod: &Pod| has_condition(pod, "ContainersReady")).await;
    assert!(!has_condition(&pod, "Ready"));
    let condition = json!({ "status": { "conditions": [{ "type": "test.ferrokube.dev/good", "status": "True" }] } });
    place
        .api::<Pod>()
        .patch_status("gated", &kube::api::PatchParams::default(), &kube::api::Patch::Strategic(condition))
        .await
        .expect("a condition");
    place.until_is("gated", "it is ready", |pod: &Pod| has_condition(pod, "Ready")).await;
}
