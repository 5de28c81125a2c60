//! What is told of a request: `audit.k8s.io/v1` Event, as JSON in upstream's order of fields and as the legacy line.

use std::collections::BTreeMap;

use apimachinery::field::quote;
use apimachinery::json;
use apimachinery::time::format_micro_time;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::filters::authentication::User;

/// How much is told. More is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub const ALL: [Level; 4] = [Level::None, Level::Metadata, Level::Request, Level::RequestResponse];

    pub fn parse(text: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub const ALL: [Stage; 4] = [Stage::RequestReceived, Stage::ResponseStarted, Stage::ResponseComplete, Stage::Panic];

    pub fn parse(text: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// What a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectRef {
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub api_group: String,
    pub api_version: String,
    pub resource_version: String,
    pub subresource: String,
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    pub level: Level,
    pub audit_id: String,
    pub stage: Stage,
    pub request_uri: String,
    pub verb: String,
    /// Nobody, if authentication failed.
    pub user: User,
    pub impersonated_user: Option<User>,
    /// The constrained mode in which somebody acts as somebody else.
    pub impersonation_constraint: String,
    pub source_ips: Vec<String>,
    pub user_agent: String,
    pub object_ref: Option<ObjectRef>,
    pub response_status: Option<Value>,
    /// JSON texts.
    pub request_object: Option<Bytes>,
    pub response_object: Option<Bytes>,
    pub received: Timestamp,
    pub staged: Timestamp,
    pub annotations: BTreeMap<String, String>,
}

/// A JSON object that is written member by member; what is empty is left out.
struct Members(Vec<u8>);

impl Members {
    fn raw(&mut self, name: &str, json: &[u8]) {
        self.0.extend_from_slice(if self.0.last() == Some(&b'{') { b"\"" } else { b",\"" });
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        self.0.extend_from_slice(json);
    }

    fn value(&mut self, name: &str, value: &Value) {
        self.raw(name, &json::to_vec(value));
    }

    fn text(&mut self, name: &str, text: &str) {
        self.value(name, &Value::String(text.to_owned()));
    }
}

fn user_value(user: &User) -> Value {
    let mut map = Map::new();
    if !user.name.is_empty() {
        map.insert("username".to_owned(), user.name.clone().into());
    }
    if !user.uid.is_empty() {
        map.insert("uid".to_owned(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        map.insert("groups".to_owned(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        let extra: BTreeMap<_, _> = user.extra.iter().cloned().collect();
        map.insert("extra".to_owned(), extra.into_iter().map(|(key, values)| (key, Value::from(values))).collect::<Map<_, _>>().into());
    }
    map.into()
}

impl ObjectRef {
    fn value(&self) -> Value {
        let members = [
            ("resource", &self.resource),
            ("namespace", &self.namespace),
            ("name", &self.name),
            ("uid", &self.uid),
            ("apiGroup", &self.api_group),
            ("apiVersion", &self.api_version),
            ("resourceVersion", &self.resource_version),
            ("subresource", &self.subresource),
        ];
        let members = members.into_iter().filter(|(_, text)| !text.is_empty());
        members.map(|(name, text)| (name.to_owned(), Value::String(text.clone()))).collect::<Map<_, _>>().into()
    }
}

impl Event {
    /// The event as a document of its own, on one line without an end.
    pub fn document(&self) -> Vec<u8> {
        let mut members = Members(Vec::with_capacity(1024));
        members.0.push(b'{');
        members.text("kind", "Event");
        members.text("apiVersion", "audit.k8s.io/v1");
        self.write(members)
    }

    /// The event as an item of a list, which has no kind of its own.
    pub fn item(&self) -> Vec<u8> {
        self.write(Members(vec![b'{']))
    }

    fn write(&self, mut members: Members) -> Vec<u8> {
        members.text("level", self.level.as_str());
        members.text("auditID", &self.audit_id);
        members.text("stage", self.stage.as_str());
        members.text("requestURI", &self.request_uri);
        members.text("verb", &self.verb);
        members.value("user", &user_value(&self.user));
        if let Some(user) = &self.impersonated_user {
            members.value("impersonatedUser", &user_value(user));
        }
        if !self.impersonation_constraint.is_empty() {
            members.value("authenticationMetadata", &serde_json::json!({ "impersonationConstraint": self.impersonation_constraint }));
        }
        if !self.source_ips.is_empty() {
            members.value("sourceIPs", &self.source_ips.clone().into());
        }
        if !self.user_agent.is_empty() {
            members.text("userAgent", &self.user_agent);
        }
        if let Some(object) = &self.object_ref {
            members.value("objectRef", &object.value());
        }
        if let Some(status) = &self.response_status {
            members.value("responseStatus", status);
        }
        for (name, object) in [("requestObject", &self.request_object), ("responseObject", &self.response_object)] {
            if let Some(object) = object {
                members.raw(name, object);
            }
        }
        members.text("requestReceivedTimestamp", &format_micro_time(self.received));
        members.text("stageTimestamp", &format_micro_time(self.staged));
        if !self.annotations.is_empty() {
            let annotations: Map<_, _> = self.annotations.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
            members.value("annotations", &annotations.into());
        }
        members.0.push(b'}');
        members.0
    }

    /// The event in the format `legacy`, without an end of line.
    pub fn line(&self) -> String {
        let list = |items: &[String]| items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(",");
        let (mut user, mut groups) = ("<none>".to_owned(), "<none>".to_owned());
        if !self.user.name.is_empty() {
            user.clone_from(&self.user.name);
            if !self.user.groups.is_empty() {
                groups = list(&self.user.groups);
            }
        }
        let (mut as_user, mut as_groups) = ("<self>".to_owned(), "<lookup>".to_owned());
        if let Some(other) = &self.impersonated_user {
            as_user.clone_from(&other.name);
            if !other.groups.is_empty() {
                as_groups = list(&other.groups);
            }
        }
        let namespace = self.object_ref.as_ref().map(|object| object.namespace.as_str()).filter(|name| !name.is_empty());
        let code = self.response_status.as_ref().map(|status| status.get("code").and_then(Value::as_u64).unwrap_or(0).to_string());
        format!(
            "{} AUDIT: id={} stage={} ip={} method={} user={} groups={} as={} asgroups={} user-agent={} namespace={} uri={} response=\"{}\"",
            nanoseconds(self.received),
            quote(&self.audit_id),
            quote(self.stage.as_str()),
            quote(self.source_ips.first().map_or("<unknown>", String::as_str)),
            quote(&self.verb),
            quote(&user),
            quote(&groups),
            quote(&as_user),
            quote(&as_groups),
            quote(&self.user_agent),
            quote(namespace.unwrap_or("<none>")),
            quote(&self.request_uri),
            code.as_deref().unwrap_or("<deferred>"),
        )
    }

    /// The same without the objects, and said to be so.
    pub fn truncated(&self) -> Event {
        let mut event = Event { request_object: None, response_object: None, ..self.clone() };
        event.annotations.insert("audit.k8s.io/truncated".to_owned(), "true".to_owned());
        event
    }
}

/// RFC 3339 with the digits of a second that are not trailing zeros.
fn nanoseconds(time: Timestamp) -> String {
    time.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            level: Level::Request,
            audit_id: "1".to_owned(),
            stage: Stage::ResponseComplete,
            request_uri: "/api/v1/namespaces/a/pods?x=<".to_owned(),
            verb: "create".to_owned(),
            user: User { name: "alice".to_owned(), groups: vec!["g".to_owned()], ..User::default() },
            impersonated_user: None,
            impersonation_constraint: String::new(),
            source_ips: vec!["10.0.0.1".to_owned()],
            user_agent: "test".to_owned(),
            object_ref: Some(ObjectRef {
                resource: "pods".into(),
                namespace: "a".into(),
                api_version: "v1".into(),
                ..ObjectRef::default()
            }),
            response_status: Some(serde_json::json!({ "metadata": {}, "code": 201 })),
            request_object: Some(Bytes::from_static(b"{\"kind\":\"Pod\"}")),
            response_object: None,
            received: Timestamp::from_microsecond(1_000_500).unwrap(),
            staged: Timestamp::from_second(2).unwrap(),
            annotations: BTreeMap::from([("authorization.k8s.io/decision".to_owned(), "allow".to_owned())]),
        }
    }

    #[test]
    fn an_event_is_written_as_upstream_writes_it() {
        let expect = concat!(
            r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Request","auditID":"1","stage":"ResponseComplete","#,
            r#""requestURI":"/api/v1/namespaces/a/pods?x=\u003c","verb":"create","user":{"username":"alice","groups":["g"]},"#,
            r#""sourceIPs":["10.0.0.1"],"userAgent":"test","objectRef":{"resource":"pods","namespace":"a","apiVersion":"v1"},"#,
            r#""responseStatus":{"metadata":{},"code":201},"requestObject":{"kind":"Pod"},"#,
            r#""requestReceivedTimestamp":"1970-01-01T00:00:01.000500Z","stageTimestamp":"1970-01-01T00:00:02.000000Z","#,
            r#""annotations":{"authorization.k8s.io/decision":"allow"}}"#
        );
        assert_eq!(String::from_utf8(event().document()).unwrap(), expect);
        let cut = String::from_utf8(event().truncated().item()).unwrap();
        assert!(cut.starts_with(r#"{"level":"Request""#) && !cut.contains("requestObject"), "{cut}");
        assert!(cut.contains(r#""audit.k8s.io/truncated":"true""#), "{cut}");
    }

    #[test]
    fn the_legacy_line_is_upstreams() {
        let expect = concat!(
            r#"1970-01-01T00:00:01.0005Z AUDIT: id="1" stage="ResponseComplete" ip="10.0.0.1" method="create" user="alice" "#,
            r#"groups="\"g\"" as="<self>" asgroups="<lookup>" user-agent="test" namespace="a" uri="/api/v1/namespaces/a/pods?x=<" response="201""#
        );
        assert_eq!(event().line(), expect);
    }
}
