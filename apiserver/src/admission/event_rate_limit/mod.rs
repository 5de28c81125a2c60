//! EventRateLimit: no more core events than the configuration allows, in all, of a namespace, by a user, or of one thing.
//!
//! Events of events.k8s.io are not limited, as upstream has it. [`buckets`] knows how often is often.

mod buckets;

use apimachinery::field::{self, Error, ErrorList, Path};
use apimachinery::status::Status;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::buckets::{Buckets, Rate};
use super::{Attributes, Lookup, Plugin};
use crate::config_file::{self, Strictness};
use crate::registry::read::str_at;

const KINDS: [(&str, &str); 1] = [("eventratelimit.admission.k8s.io/v1alpha1", "Configuration")];
/// Buckets that are kept where the configuration does not say how many.
const DEFAULT_CACHE_SIZE: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Configuration {
    limits: Option<Vec<LimitConfiguration>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LimitConfiguration {
    #[serde(rename = "type")]
    kind: String,
    qps: i32,
    burst: i32,
    cache_size: i32,
}

/// Which events share a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Namespace,
    Server,
    SourceAndObject,
    User,
}

impl By {
    const ALL: [By; 4] = [By::Namespace, By::Server, By::SourceAndObject, By::User];

    fn name(self) -> &'static str {
        match self {
            By::Namespace => "Namespace",
            By::Server => "Server",
            By::SourceAndObject => "SourceAndObject",
            By::User => "User",
        }
    }

    fn of(name: &str) -> Option<By> {
        By::ALL.into_iter().find(|by| by.name() == name)
    }

    /// The name of an event's bucket.
    fn key(self, attributes: &Attributes<'_>, event: &Value) -> String {
        const SOURCE_AND_OBJECT: [&str; 7] = [
            "/source/component",
            "/source/host",
            "/involvedObject/kind",
            "/involvedObject/namespace",
            "/involvedObject/name",
            "/involvedObject/uid",
            "/involvedObject/apiVersion",
        ];
        match self {
            By::Server => String::new(),
            By::Namespace => attributes.namespace.to_owned(),
            By::User => attributes.user.name.clone(),
            By::SourceAndObject => SOURCE_AND_OBJECT.iter().map(|place| str_at(event, place)).collect(),
        }
    }
}

#[derive(Debug)]
struct Limit {
    by: By,
    buckets: Mutex<Buckets>,
}

/// The plugin, with its limits in the order of the configuration.
#[derive(Debug)]
pub struct EventRateLimit {
    limits: Vec<Limit>,
}

impl EventRateLimit {
    pub fn new(configuration: Option<&[u8]>) -> Result<EventRateLimit, String> {
        let configuration: Configuration = match configuration {
            Some(text) => config_file::decode_any(text, &KINDS, Strictness::Lenient).map_err(|error| error.to_string())?,
            None => Configuration::default(),
        };
        let errors = validate(&configuration);
        if !errors.is_empty() {
            return Err(field::aggregate(&errors));
        }
        let limits = configuration.limits.iter().flatten().filter_map(|limit| {
            let by = By::of(&limit.kind)?;
            let kept = match (by, usize::try_from(limit.cache_size)) {
                (By::Server, _) => 1,
                (_, Ok(0) | Err(_)) => DEFAULT_CACHE_SIZE,
                (_, Ok(size)) => size,
            };
            let rate = Rate { per_second: f64::from(limit.qps), burst: f64::from(limit.burst) };
            Some(Limit { by, buckets: Mutex::new(Buckets::new(rate, kept)) })
        });
        Ok(EventRateLimit { limits: limits.collect() })
    }
}

fn validate(configuration: &Configuration) -> ErrorList {
    let root = Path::new("limits");
    let limits = configuration.limits.as_deref().unwrap_or_default();
    let mut errors = ErrorList::new();
    if limits.is_empty() {
        errors.push(Error::invalid(&root, json!(configuration.limits), "must not be empty"));
    }
    for (at, limit) in limits.iter().enumerate() {
        let path = root.index(at);
        let by = By::of(&limit.kind);
        if by.is_none() {
            errors.push(Error::not_supported(&path.child("type"), limit.kind.as_str(), &By::ALL.map(By::name)));
        }
        for (name, value) in [("burst", limit.burst), ("qps", limit.qps)] {
            if value <= 0 {
                errors.push(Error::invalid(&path.child(name), value, "must be positive"));
            }
        }
        if by != Some(By::Server) && limit.cache_size < 0 {
            errors.push(Error::invalid(&path.child("cacheSize"), limit.cache_size, "must not be negative"));
        }
    }
    errors
}

impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: Option<&Value>,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let concerns = attributes.operation.writes() && attributes.is("", "events") && !attributes.dry_run;
        let Some(event) = new.filter(|_| concerns) else { return Ok(()) };
        let mut reached: Vec<String> = Vec::new();
        // Each limit counts the event, even if another refuses it.
        for limit in &self.limits {
            let key = limit.by.key(attributes, event);
            if !limit.buckets.lock().take(&key, attributes.now) {
                let why = format!("limit reached on type {} for key {key}", limit.by.name());
                if !reached.contains(&why) {
                    reached.push(why);
                }
            }
        }
        match reached.as_slice() {
            [] => Ok(()),
            [one] => Err(Status::too_many_requests_error(one)),
            several => Err(Status::too_many_requests_error(&format!("[{}]", several.join(", ")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Operation;
    use super::super::testing::{Objects, Write};
    use super::*;

    fn configured(limits: &str) -> Result<EventRateLimit, String> {
        let text = format!("apiVersion: eventratelimit.admission.k8s.io/v1alpha1\nkind: Configuration\nlimits: {limits}");
        EventRateLimit::new(Some(text.as_bytes()))
    }

    fn event(name: &str) -> Value {
        json!({ "source": { "component": "c", "host": "h" }, "involvedObject": { "kind": "Pod", "namespace": "ns", "name": name, "uid": "1", "apiVersion": "v1" } })
    }

    fn write(plugin: &EventRateLimit, write: &Write, event: &Value) -> Result<(), String> {
        write.validate(plugin, &Objects::default(), Some(event), None).map(drop)
    }

    fn of(user: &str) -> Write {
        Write::new(Operation::Create, "", "v1", "events").by(user, &[])
    }

    #[test]
    fn each_kind_of_limit_counts_by_its_key() {
        for (kind, key, others) in [
            ("Server", "", &[][..]),
            ("Namespace", "ns", &[]),
            ("User", "ann", &[("bob", "p")]),
            ("SourceAndObject", "chPodnsp1v1", &[("ann", "q"), ("bob", "q")]),
        ] {
            let plugin = configured(&format!("[{{type: {kind}, qps: 1, burst: 2}}]")).unwrap();
            for _ in 0..2 {
                write(&plugin, &of("ann"), &event("p")).unwrap();
            }
            let refused = write(&plugin, &of("ann"), &event("p")).unwrap_err();
            assert_eq!(refused, format!("Too many requests: limit reached on type {kind} for key {key}"));
            for (user, name) in others {
                write(&plugin, &of(user), &event(name)).unwrap();
            }
        }
    }

    #[test]
    fn every_limit_that_is_reached_is_told() {
        let plugin =
            configured("[{type: Server, qps: 1, burst: 1}, {type: User, qps: 1, burst: 1}, {type: Namespace, qps: 1, burst: 9}]").unwrap();
        write(&plugin, &of("ann"), &event("p")).unwrap();
        let attributes = of("ann");
        let refused = plugin.validate(&attributes.attributes(), &Objects::default(), Some(&event("p")), None, &mut Vec::new()).unwrap_err();
        let expect = "Too many requests: [limit reached on type Server for key , limit reached on type User for key ann]";
        assert_eq!((refused.code, &*refused.reason, refused.message.as_str()), (429, "TooManyRequests", expect));
        assert_eq!(refused.details, None);
    }

    #[test]
    fn only_writes_of_core_events_that_are_meant_count() {
        let plugin = configured("[{type: Server, qps: 1, burst: 1}]").unwrap();
        for free in [
            of("ann").as_dry_run(),
            Write::new(Operation::Create, "events.k8s.io", "v1", "events"),
            Write::new(Operation::Delete, "", "v1", "events"),
            Write::new(Operation::Create, "", "v1", "configmaps"),
        ] {
            write(&plugin, &free, &event("p")).unwrap();
        }
        write(&plugin, &Write::new(Operation::Update, "", "v1", "events"), &event("p")).unwrap();
        assert!(write(&plugin, &of("ann"), &event("p")).is_err());
    }

    #[test]
    fn a_configuration_is_checked() {
        for (limits, expect) in [
            ("[]", "limits: Invalid value: []: must not be empty"),
            ("", "limits: Invalid value: null: must not be empty"),
            (
                "[{type: Moon, qps: 1, burst: 1}]",
                r#"limits[0].type: Unsupported value: "Moon": supported values: "Namespace", "Server", "SourceAndObject", "User""#,
            ),
            (
                "[{type: User, cacheSize: -1}]",
                "[limits[0].burst: Invalid value: 0: must be positive, limits[0].qps: Invalid value: 0: must be positive, limits[0].cacheSize: Invalid value: -1: must not be negative]",
            ),
        ] {
            assert_eq!(configured(limits).unwrap_err(), expect);
        }
        assert_eq!(EventRateLimit::new(None).unwrap_err(), "limits: Invalid value: null: must not be empty");
        configured("[{type: Server, qps: 1, burst: 1, cacheSize: -1, more: 1}]").unwrap();
    }
}
