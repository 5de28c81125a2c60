//! From stored FlowSchemas and PriorityLevelConfigurations to what requests are matched with.
//!
//! Pure. Also says which FlowSchemas name a level that does not exist, and so which conditions have to be written.

use std::sync::Arc;

use http::HeaderValue;
use serde_json::Value;

use super::bootstrap;
use super::classify::{NonResourceRule, ResourceRule, Rule};
use crate::filters::authentication::User;
use crate::filters::request_info::RequestInfo;
use crate::registry::read::{bool_at, int_at, list_at, optional_int_at, str_at};

/// A FlowSchema.
#[derive(Clone, Debug)]
pub struct Schema {
    pub precedence: i64,
    pub name: Arc<str>,
    pub uid: HeaderValue,
    /// The place of its priority level among the levels.
    level: usize,
    pub distinguisher: Option<Distinguisher>,
    rules: Vec<Rule>,
}

/// What tells the flows of one schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinguisher {
    ByUser,
    ByNamespace,
}

/// A PriorityLevelConfiguration.
#[derive(Clone, Debug)]
pub struct Level {
    pub name: String,
    pub uid: HeaderValue,
    /// Exempt levels dispatch everything at once.
    pub exempt: bool,
    pub shares: i64,
    pub lendable_percent: i64,
    pub borrowing_limit_percent: Option<i64>,
    /// `None` where what cannot be dispatched at once is rejected.
    pub queuing: Option<Queuing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    pub queues: i64,
    pub hand_size: i64,
    pub queue_length_limit: i64,
}

/// All that is in force.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// In the order in which they are tried.
    pub schemas: Vec<Schema>,
    pub levels: Vec<Level>,
}

/// A `Dangling` condition that a FlowSchema should have and has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dangling {
    pub schema: String,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Config {
    /// Digests the stored objects. The mandatory ones are supplied where they are missing.
    pub fn digest(schemas: &[Value], levels: &[Value]) -> (Config, Vec<Dangling>) {
        let mut config = Config { schemas: Vec::with_capacity(schemas.len() + 2), levels: levels.iter().map(level).collect() };
        let stored = config.levels.len();
        let mut conditions = Vec::new();
        for object in schemas {
            let name = str_at(object, "/spec/priorityLevelConfiguration/name");
            let found = config.levels[..stored].iter().position(|l| l.name == name);
            conditions.extend(dangling(object, name, found.is_some()));
            if let Some(at) = found {
                config.schemas.push(schema(object, at));
            }
        }
        config.schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        config.add_mandatory();
        (config, conditions)
    }

    fn add_mandatory(&mut self) {
        for object in bootstrap::mandatory_levels() {
            if !self.levels.iter().any(|l| l.name == str_at(&object, "/metadata/name")) {
                self.levels.push(level(&object));
            }
        }
        for object in bootstrap::mandatory_schemas() {
            let name = str_at(&object, "/metadata/name");
            if self.schemas.iter().any(|s| *s.name == *name) {
                continue;
            }
            let Some(at) = self.levels.iter().position(|l| l.name == name) else { continue };
            // The exempt one is tried before all others, the one that catches all after them.
            let place = if self.levels[at].exempt { 0 } else { self.schemas.len() };
            self.schemas.insert(place, schema(&object, at));
        }
    }

    /// The schema that a request belongs to, and its level: the first that matches, else the one that catches all.
    pub fn find(&self, user: &User, request: &RequestInfo) -> Option<(&Schema, &Level)> {
        let schema = self
            .schemas
            .iter()
            .find(|s| s.rules.iter().any(|r| r.matches(user, request)))
            .or_else(|| self.schemas.iter().find(|s| &*s.name == bootstrap::CATCH_ALL))?;
        Some((schema, self.levels.get(schema.level)?))
    }
}

fn dangling(object: &Value, level: &str, found: bool) -> Option<Dangling> {
    let level = apimachinery::field::quote(level);
    let (status, reason, end) = if found { ("False", "Found", "it exists") } else { ("True", "NotFound", "there is no such object") };
    let joint = if found { "and" } else { "but" };
    let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level} {joint} {end}");
    let is = list_at(object, "/status/conditions").iter().find(|c| str_at(c, "/type") == "Dangling");
    let agrees = is.is_some_and(|c| str_at(c, "/status") == status && str_at(c, "/reason") == reason && str_at(c, "/message") == message);
    (!agrees).then(|| Dangling { schema: str_at(object, "/metadata/name").to_owned(), status, reason, message })
}

fn uid(object: &Value) -> HeaderValue {
    // A uid is made of digits, letters and dashes; an object that is only imagined has none.
    HeaderValue::from_str(str_at(object, "/metadata/uid")).unwrap_or(HeaderValue::from_static(""))
}

fn texts(value: &Value, pointer: &str) -> Vec<String> {
    list_at(value, pointer).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn schema(object: &Value, level: usize) -> Schema {
    Schema {
        precedence: int_at(object, "/spec/matchingPrecedence"),
        name: str_at(object, "/metadata/name").into(),
        uid: uid(object),
        level,
        distinguisher: match str_at(object, "/spec/distinguisherMethod/type") {
            "ByUser" => Some(Distinguisher::ByUser),
            "ByNamespace" => Some(Distinguisher::ByNamespace),
            _ => None,
        },
        rules: list_at(object, "/spec/rules").iter().map(rule).collect(),
    }
}

fn rule(object: &Value) -> Rule {
    let mut rule = Rule::default();
    for subject in list_at(object, "/subjects") {
        match str_at(subject, "/kind") {
            "User" => rule.users.push(str_at(subject, "/user/name").to_owned()),
            "Group" => rule.groups.push(str_at(subject, "/group/name").to_owned()),
            "ServiceAccount" => {
                let part = |pointer| str_at(subject, pointer).to_owned();
                rule.service_accounts.push((part("/serviceAccount/namespace"), part("/serviceAccount/name")));
            }
            _ => {}
        }
    }
    rule.resource_rules = list_at(object, "/resourceRules")
        .iter()
        .map(|r| ResourceRule {
            verbs: texts(r, "/verbs"),
            api_groups: texts(r, "/apiGroups"),
            resources: texts(r, "/resources"),
            cluster_scope: bool_at(r, "/clusterScope"),
            namespaces: texts(r, "/namespaces"),
        })
        .collect();
    rule.non_resource_rules = list_at(object, "/nonResourceRules")
        .iter()
        .map(|r| NonResourceRule { verbs: texts(r, "/verbs"), urls: texts(r, "/nonResourceURLs") })
        .collect();
    rule
}

fn level(object: &Value) -> Level {
    let exempt = str_at(object, "/spec/type") == "Exempt";
    let (part, usual_shares) = if exempt { ("/spec/exempt", 0) } else { ("/spec/limited", 30) };
    let settings = object.pointer(part).unwrap_or(&Value::Null);
    let queues = str_at(settings, "/limitResponse/type") == "Queue";
    Level {
        name: str_at(object, "/metadata/name").to_owned(),
        uid: uid(object),
        exempt,
        shares: optional_int_at(settings, "/nominalConcurrencyShares").unwrap_or(usual_shares),
        lendable_percent: int_at(settings, "/lendablePercent"),
        borrowing_limit_percent: optional_int_at(settings, "/borrowingLimitPercent"),
        queuing: queues.then(|| Queuing {
            queues: optional_int_at(settings, "/limitResponse/queuing/queues").unwrap_or(64),
            hand_size: optional_int_at(settings, "/limitResponse/queuing/handSize").unwrap_or(8),
            queue_length_limit: optional_int_at(settings, "/limitResponse/queuing/queueLengthLimit").unwrap_or(50),
        }),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn user(name: &str, groups: &[&str]) -> User {
        User { name: name.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..User::default() }
    }

    #[test]
    fn requests_find_the_schemas_that_upstream_gives_them() {
        let schemas: Vec<Value> = bootstrap::schemas().collect();
        let levels: Vec<Value> = bootstrap::levels().collect();
        let (config, conditions) = Config::digest(&schemas, &levels);
        assert_eq!(conditions.len(), schemas.len());
        let authenticated = "system:authenticated";
        for (who, method, path, expect) in [
            (user("admin", &["system:masters", authenticated]), Method::GET, "/api/v1/pods", "exempt/exempt"),
            (user("a", &[authenticated]), Method::GET, "/api/v1/pods", "global-default/global-default"),
            (user("a", &[authenticated]), Method::GET, "/readyz", "probes/exempt"),
            (user("a", &[authenticated]), Method::GET, "/readyz/etcd", "probes/exempt"),
            (user("system:node:n", &["system:nodes", authenticated]), Method::GET, "/api/v1/nodes/n", "system-node-high/node-high"),
            (user("system:node:n", &["system:nodes", authenticated]), Method::PUT, "/api/v1/nodes/n/status", "system-node-high/node-high"),
            (user("system:node:n", &["system:nodes", authenticated]), Method::GET, "/api/v1/pods", "system-nodes/system"),
            (
                user("system:kube-scheduler", &[authenticated]),
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
                "system-leader-election/leader-election",
            ),
            (user("system:kube-scheduler", &[authenticated]), Method::GET, "/api/v1/pods", "kube-scheduler/workload-high"),
            (
                user("system:serviceaccount:a:b", &["system:serviceaccounts", authenticated]),
                Method::GET,
                "/api/v1/pods",
                "service-accounts/workload-low",
            ),
            (user("nobody", &[]), Method::GET, "/api/v1/pods", "catch-all/catch-all"),
        ] {
            let (schema, level) = config.find(&who, &RequestInfo::parse(&method, path, "")).unwrap();
            assert_eq!(format!("{}/{}", schema.name, level.name), expect, "{} {path}", who.name);
        }
    }

    #[test]
    fn mandatory_objects_are_imagined_where_they_are_missing() {
        let (config, _) = Config::digest(&[], &[]);
        let names: Vec<&str> = config.schemas.iter().map(|s| &*s.name).collect();
        assert_eq!(names, ["exempt", "catch-all"]);
        let (schema, level) = config.find(&User::anonymous(), &RequestInfo::parse(&Method::GET, "/x", "")).unwrap();
        assert_eq!((&*schema.name, level.exempt, schema.uid.as_bytes()), ("catch-all", false, &b""[..]));
    }

    #[test]
    fn a_schema_without_its_level_dangles_and_matches_nothing() {
        let object = serde_json::json!({
            "metadata": {"name": "fs", "uid": "u"},
            "spec": {"priorityLevelConfiguration": {"name": "none"}, "matchingPrecedence": 1, "rules": [{
                "subjects": [{"kind": "Group", "group": {"name": "*"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }]},
        });
        let (config, conditions) = Config::digest(std::slice::from_ref(&object), &[]);
        assert_eq!(config.schemas.len(), 2);
        assert_eq!(
            conditions,
            [Dangling {
                schema: "fs".into(),
                status: "True",
                reason: "NotFound",
                message: "This FlowSchema references the PriorityLevelConfiguration object named \"none\" but there is no such object"
                    .into(),
            }]
        );
    }
}
