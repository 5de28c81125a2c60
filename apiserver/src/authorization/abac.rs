//! Attribute based access control: a file of policies, one JSON object a line, which allow and never refuse.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::filters::authentication::User;
use crate::filters::authorization::{Authorizer, Decision, Rules};
use crate::filters::request_info::RequestInfo;
use crate::rbac::rule::Rule;

const API_VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";
const AUTHENTICATED: &str = "system:authenticated";

/// One policy; `*` stands for everything of its kind, and an empty field for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

/// The policies of a file.
pub struct Abac(Vec<Policy>);

impl Abac {
    pub fn read(path: &Path) -> Result<Abac, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("open {shown}: no such file or directory"),
            _ => format!("open {shown}: {error}"),
        })?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with('#'));
        let policies = lines.map(|(at, line)| {
            Policy::parse(line).map_err(|why| format!("error reading policy file {shown}, line {}: {line}: {why}", at + 1))
        });
        policies.collect::<Result<_, _>>().map(Abac)
    }
}

impl Policy {
    fn parse(line: &str) -> Result<Policy, String> {
        let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let of = |value: &Value| serde_json::from_value::<Policy>(value.clone()).map_err(|error| error.to_string());
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("apiVersion") != API_VERSION || text("kind") != "Policy" {
            return of(&value).map(Policy::unversioned);
        }
        let mut policy = of(value.get("spec").unwrap_or(&Value::Null))?;
        policy.read_wildcards();
        Ok(policy)
    }

    /// `*` is everybody who is known.
    fn read_wildcards(&mut self) {
        if self.user == "*" || self.group == "*" {
            AUTHENTICATED.clone_into(&mut self.group);
            self.user.clear();
        }
    }

    /// Before there were versions, what a policy left out was everything.
    fn unversioned(mut self) -> Policy {
        if self.user.is_empty() && self.group.is_empty() {
            AUTHENTICATED.clone_into(&mut self.group);
        }
        self.read_wildcards();
        self.non_resource_path = if self.namespace.is_empty() && self.resource.is_empty() { "*".to_owned() } else { String::new() };
        for field in [&mut self.namespace, &mut self.resource] {
            if field.is_empty() {
                "*".clone_into(field);
            }
        }
        "*".clone_into(&mut self.api_group);
        self
    }

    fn is_about(&self, user: &User) -> bool {
        let fits = |wanted: &str, has: &dyn Fn() -> bool| wanted.is_empty() || wanted == "*" || has();
        (!self.user.is_empty() || !self.group.is_empty())
            && fits(&self.user, &|| self.user == user.name)
            && fits(&self.group, &|| user.in_group(&self.group))
    }

    fn allows(&self, request: &RequestInfo) -> bool {
        if self.readonly && !matches!(request.verb.as_str(), "get" | "list" | "watch") {
            return false;
        }
        let fits = |wanted: &str, found: &str| wanted == "*" || wanted == found;
        if request.is_resource {
            return fits(&self.namespace, &request.namespace)
                && fits(&self.resource, &request.resource)
                && fits(&self.api_group, &request.group);
        }
        let below = self.non_resource_path.strip_suffix('*').map(|prefix| prefix.trim_end_matches('*'));
        self.non_resource_path == request.path || below.is_some_and(|prefix| request.path.starts_with(prefix))
    }
}

impl Authorizer for Abac {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        if self.0.iter().any(|policy| policy.is_about(user) && policy.allows(request)) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion("No policy matched.".to_owned())
        }
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let mut rules = Rules::default();
        for policy in self.0.iter().filter(|policy| policy.is_about(user) && (policy.namespace == "*" || policy.namespace == namespace)) {
            let list = |texts: &[&str]| texts.iter().map(|text| Box::<str>::from(*text)).collect::<Vec<_>>();
            let verbs = if policy.readonly { list(&["get", "list", "watch"]) } else { list(&["*"]) };
            if !policy.resource.is_empty() {
                let (api_groups, resources) = (list(&[&policy.api_group]), list(&[&policy.resource]));
                rules.rules.push(Rule { verbs: verbs.clone(), api_groups, resources, ..Rule::default() });
            }
            if !policy.non_resource_path.is_empty() {
                rules.rules.push(Rule { verbs, urls: list(&[&policy.non_resource_path]), ..Rule::default() });
            }
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn allowed(lines: &[&str], user: &str, method: &Method, path: &str) -> bool {
        let abac = Abac(lines.iter().map(|line| Policy::parse(line).unwrap()).collect());
        let user = User { name: user.to_owned(), groups: vec![AUTHENTICATED.to_owned(), "dev".to_owned()], ..User::default() };
        matches!(abac.authorize(&user, &RequestInfo::parse(method, path, "")), Decision::Allow(_))
    }

    fn versioned(spec: &str) -> String {
        format!(r#"{{"apiVersion":"{API_VERSION}","kind":"Policy","spec":{spec}}}"#)
    }

    #[test]
    fn policies_allow_what_they_name() {
        const PODS: &str = "/api/v1/namespaces/a/pods";
        for (spec, user, method, path, expect) in [
            (r#"{"user":"ann","namespace":"a","resource":"pods"}"#, "ann", Method::POST, PODS, true),
            (r#"{"user":"ann","namespace":"a","resource":"pods"}"#, "bob", Method::POST, PODS, false),
            (r#"{"user":"ann","namespace":"b","resource":"pods"}"#, "ann", Method::GET, PODS, false),
            (r#"{"user":"ann","namespace":"*","resource":"*","apiGroup":"*","readonly":true}"#, "ann", Method::GET, PODS, true),
            (r#"{"user":"ann","namespace":"*","resource":"*","apiGroup":"*","readonly":true}"#, "ann", Method::DELETE, PODS, false),
            (
                r#"{"group":"dev","namespace":"a","resource":"deployments"}"#,
                "x",
                Method::GET,
                "/apis/apps/v1/namespaces/a/deployments",
                false,
            ),
            (
                r#"{"group":"dev","namespace":"a","apiGroup":"apps","resource":"*"}"#,
                "x",
                Method::GET,
                "/apis/apps/v1/namespaces/a/deployments",
                true,
            ),
            (r#"{"user":"ann","group":"ops","namespace":"*","resource":"*"}"#, "ann", Method::GET, PODS, false),
            (r#"{"group":"*","nonResourcePath":"/health/*"}"#, "x", Method::GET, "/health/a", true),
            (r#"{"group":"*","nonResourcePath":"/health/*"}"#, "x", Method::GET, "/version", false),
            (r#"{"namespace":"*","resource":"*"}"#, "x", Method::GET, PODS, false),
        ] {
            assert_eq!(allowed(&[&versioned(spec)], user, &method, path), expect, "{spec} {user} {method} {path}");
        }
    }

    #[test]
    fn what_the_old_form_leaves_out_is_everything() {
        assert!(allowed(&["{}"], "x", &Method::DELETE, "/apis/apps/v1/namespaces/a/deployments/b"));
        assert!(allowed(&["{}"], "x", &Method::GET, "/metrics"));
        assert!(allowed(&[r#"{"user":"ann","resource":"pods","readonly":true}"#], "ann", &Method::GET, "/api/v1/pods"));
        assert!(!allowed(&[r#"{"user":"ann","resource":"pods"}"#], "ann", &Method::GET, "/metrics"));
    }

    #[test]
    fn a_bad_line_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy");
        std::fs::write(&path, "# comment\n\n{}\n{\"user\": 1}\n").unwrap();
        let why = Abac::read(&path).err().unwrap();
        assert!(why.starts_with(&format!("error reading policy file {}, line 4: {{\"user\": 1}}: ", path.display())), "{why}");
    }
}
