//! Who may use which part of the kubelet: paths become subresources of this node, about which the API server is asked.

use std::time::{Duration, Instant};

use http::Method;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};

use super::authentication::User;
use super::reviews::{Cache, retrying};

/// `authorization.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    AlwaysAllow,
    /// The API server is asked; for how long its answers hold.
    Webhook {
        allowed: Duration,
        refused: Duration,
    },
}

/// What a request wants to do to `nodes/<subresource>`: any of the subresources being allowed is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub verb: &'static str,
    pub subresources: Vec<&'static str>,
}

/// What was decided.
#[derive(Debug)]
pub enum Decision {
    Allowed,
    Refused,
    /// The API server could not be asked about this subresource.
    Failed(&'static str, kube::Error),
}

/// The finer subresource of a path comes first; `proxy` is what everything that has no other was always guarded by.
pub fn attributes(method: &Method, path: &str) -> Attributes {
    let verb = match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let fine = [("/pods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"), ("/runningpods", "pods")];
    let own = [
        ("/stats", "stats"),
        ("/metrics", "metrics"),
        ("/logs", "log"),
        ("/checkpoint", "checkpoint"),
        ("/statusz", "statusz"),
        ("/flagz", "configz"),
    ];
    let find = |table: &[(&str, &'static str)]| table.iter().find(|(prefix, _)| is_under(prefix, path)).map(|(_, name)| *name);
    let mut subresources: Vec<&'static str> = find(&fine).into_iter().collect();
    subresources.push(find(&own).unwrap_or("proxy"));
    Attributes { verb, subresources }
}

fn is_under(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

type Question = (User, &'static str, &'static str);

/// Decides about requests.
pub struct Authorizer {
    node_name: String,
    client: Client,
    mode: Mode,
    answers: Cache<String, bool>,
}

impl Authorizer {
    pub fn new(node_name: &str, client: Client, mode: Mode) -> Authorizer {
        Authorizer { node_name: node_name.to_owned(), client, mode, answers: Cache::default() }
    }

    pub async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        let Mode::Webhook { allowed, refused } = self.mode else { return Decision::Allowed };
        for subresource in &attributes.subresources {
            let question = (user.clone(), attributes.verb, *subresource);
            let key = format!("{question:?}");
            let answer = match self.answers.get(&key, Instant::now()) {
                Some(known) => known,
                None => match self.ask(question).await {
                    Ok(answer) => {
                        let ttl = if answer { allowed } else { refused };
                        self.answers.insert(key, answer, Instant::now() + ttl);
                        answer
                    }
                    Err(error) => return Decision::Failed(subresource, error),
                },
            };
            if answer {
                return Decision::Allowed;
            }
        }
        Decision::Refused
    }

    async fn ask(&self, (user, verb, subresource): Question) -> Result<bool, kube::Error> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name),
                uid: Some(user.uid).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups),
                extra: (!user.extra.is_empty()).then(|| user.extra.into_iter().collect()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node_name.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        let answer = retrying(|| api.create(&parameters, &review)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_guarded_by_subresources_of_the_node() {
        let check = |path: &str, expected: &[&str]| {
            assert_eq!(attributes(&Method::GET, path).subresources, expected, "{path}");
        };
        check("/pods", &["pods", "proxy"]);
        check("/podsx", &["proxy"]);
        check("/runningpods/", &["pods", "proxy"]);
        check("/healthz/syncloop", &["healthz", "proxy"]);
        check("/configz", &["configz", "proxy"]);
        check("/stats/summary", &["stats"]);
        check("/metrics/cadvisor", &["metrics"]);
        check("/logs/", &["log"]);
        check("/checkpoint/n/p/c", &["checkpoint"]);
        check("/exec/n/p/c", &["proxy"]);
        check("/", &["proxy"]);
        assert_eq!(attributes(&Method::POST, "/run").verb, "create");
        assert_eq!(attributes(&Method::HEAD, "/run").verb, "");
    }
}
