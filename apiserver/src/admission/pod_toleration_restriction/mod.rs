//! PodTolerationRestriction: what the pods of a namespace tolerate by default, and what they may tolerate at all.
//!
//! A namespace says so in annotations; for namespaces that say nothing the configuration may. [`toleration`] knows which toleration
//! covers which.

mod toleration;

use apimachinery::field::Path;
use apimachinery::status::Status;
use apimachinery::view::view;
use k8s_openapi::api::core::v1;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::toleration::{Toleration, are_allowed, merge};
use super::pod_references::object_mut;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::config_file::{self, Strictness};
use crate::registry::core::pod::qos;
use crate::registry::core::pod::validation::validate_tolerations;
use crate::registry::read::{at, list_at, str_at};

const DEFAULT: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";
const KINDS: [(&str, &str); 1] = [("podtolerationrestriction.admission.k8s.io/v1alpha1", "Configuration")];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Configuration {
    default: Option<Vec<Toleration>>,
    whitelist: Option<Vec<Toleration>>,
}

/// The plugin, with what counts where a namespace says nothing.
#[derive(Debug, Default)]
pub struct PodTolerationRestriction {
    default: Vec<Toleration>,
    allowed: Vec<Toleration>,
}

impl PodTolerationRestriction {
    pub fn new(configuration: Option<&[u8]>) -> Result<PodTolerationRestriction, String> {
        let Some(text) = configuration else { return Ok(PodTolerationRestriction::default()) };
        let read: Configuration = config_file::decode_any(text, &KINDS, Strictness::Lenient).map_err(|error| error.to_string())?;
        let (default, allowed) = (read.default.unwrap_or_default(), read.whitelist.unwrap_or_default());
        let root = Path::new("podtolerationrestriction");
        let mut errors = validate_tolerations(&typed(&default), &root.child("default"));
        errors.extend(validate_tolerations(&typed(&allowed), &root.child("whitelist")));
        if !errors.is_empty() {
            let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(format!("invalid config: [{}]", shown.join(" ")));
        }
        Ok(PodTolerationRestriction { default, allowed })
    }

    fn check(&self, attributes: &Attributes<'_>, lookup: &dyn Lookup, pod: &Value) -> Result<(), Status> {
        let tolerations = tolerations(pod);
        if tolerations.is_empty() {
            return Ok(());
        }
        let of_namespace = of_namespace(attributes, lookup, ALLOWED)?;
        let scope = if of_namespace.is_some() { "namespace" } else { "cluster" };
        if are_allowed(&tolerations, of_namespace.as_ref().unwrap_or(&self.allowed)) {
            return Ok(());
        }
        let why = format!("pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist");
        Err(Status::unknown(why))
    }
}

fn typed(tolerations: &[Toleration]) -> Vec<v1::Toleration> {
    tolerations.iter().map(|toleration| view(&toleration.to_value())).collect()
}

fn tolerations(pod: &Value) -> Vec<Toleration> {
    list_at(pod, "/spec/tolerations").iter().map(Toleration::of).collect()
}

/// What a namespace's annotation says, if it is there.
fn of_namespace(attributes: &Attributes<'_>, lookup: &dyn Lookup, annotation: &str) -> Result<Option<Vec<Toleration>>, Status> {
    let name = attributes.namespace;
    let namespace = lookup.get("", "namespaces", "", name).ok_or_else(|| Status::not_found("", "namespaces", name))?;
    match at(&namespace, "/metadata/annotations").get(annotation).and_then(Value::as_str) {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(text) => toleration::parse(text).map(Some).map_err(Status::unknown),
    }
}

fn is_best_effort(pod: &Value) -> bool {
    match str_at(pod, "/status/qosClass") {
        "" => qos::of_value(at(pod, "/spec")) == "BestEffort",
        class => class == "BestEffort",
    }
}

fn concerns(attributes: &Attributes<'_>) -> bool {
    attributes.operation.writes() && attributes.is_main("", "pods")
}

impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !concerns(attributes) {
            return Ok(());
        }
        let mut more = Vec::new();
        if attributes.operation == Operation::Create {
            more = of_namespace(attributes, lookup, DEFAULT)?.unwrap_or_else(|| self.default.clone());
        }
        if !is_best_effort(new) {
            let (key, operator, effect) = (MEMORY_PRESSURE.to_owned(), "Exists".to_owned(), "NoSchedule".to_owned());
            more.push(Toleration { key, operator, effect, ..Toleration::default() });
        }
        if !more.is_empty() {
            let merged: Vec<Value> = merge(tolerations(new), more).iter().map(Toleration::to_value).collect();
            if let Some(spec) = object_mut(new, &["spec"]) {
                spec.insert("tolerations".to_owned(), merged.into());
            }
        }
        self.check(attributes, lookup, new)
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        new.filter(|_| concerns(attributes)).map_or(Ok(()), |pod| self.check(attributes, lookup, pod))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    const ON_A: &str = r#"[{"key":"a","operator":"Exists"}]"#;
    const ON_B: &str = r#"[{"key":"b","operator":"Exists"}]"#;

    fn configured(body: &str) -> Result<PodTolerationRestriction, String> {
        let text = format!("apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1\nkind: Configuration\n{body}");
        PodTolerationRestriction::new(Some(text.as_bytes()))
    }

    /// The keys of what a pod tolerates in the end.
    fn admit(plugin: &PodTolerationRestriction, operation: Operation, annotations: Value, spec: Value) -> Result<Vec<String>, String> {
        let objects = Objects::of(vec![("", "namespaces", json!({ "metadata": { "name": "ns", "annotations": annotations } }))]);
        let mut pod = json!({ "spec": spec });
        let write = Write::new(operation, "", "v1", "pods");
        write.admit(plugin, &objects, &mut pod)?;
        write.validate(plugin, &objects, Some(&pod), None)?;
        Ok(tolerations(&pod).into_iter().map(|toleration| toleration.key).collect())
    }

    fn tolerating(keys: &[&str]) -> Value {
        let tolerations: Vec<Value> = keys.iter().map(|key| json!({ "key": key, "operator": "Exists" })).collect();
        json!({ "tolerations": tolerations })
    }

    #[test]
    fn a_new_pod_tolerates_what_its_namespace_or_the_cluster_has_for_it() {
        let plugin = configured("default: [{key: c, operator: Exists}]").unwrap();
        let create = |annotations: Value, spec: Value| admit(&plugin, Operation::Create, annotations, spec).unwrap();
        assert_eq!(create(json!({}), json!({})), ["c"]);
        assert_eq!(create(json!({ DEFAULT: ON_A }), tolerating(&["x"])), ["x", "a"]);
        assert!(create(json!({ DEFAULT: "" }), json!({})).is_empty());
        let asking = json!({ "containers": [{ "resources": { "requests": { "cpu": "1" } } }] });
        assert_eq!(create(json!({ DEFAULT: ON_A }), asking.clone()), ["a", MEMORY_PRESSURE]);
        assert_eq!(admit(&plugin, Operation::Update, json!({ DEFAULT: ON_A }), asking), Ok(vec![MEMORY_PRESSURE.to_owned()]));
    }

    #[test]
    fn what_is_not_allowed_is_an_error() {
        let plugin = configured("whitelist: [{key: a, operator: Exists}]").unwrap();
        let refusal = |scope: &str| {
            Err(format!("pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"))
        };
        for operation in [Operation::Create, Operation::Update] {
            let write = |annotations: Value, keys: &[&str]| admit(&plugin, operation, annotations, tolerating(keys));
            assert_eq!(write(json!({}), &["a"]), Ok(vec!["a".to_owned()]));
            assert_eq!(write(json!({}), &["b"]), refusal("cluster"));
            assert_eq!(write(json!({ ALLOWED: ON_B }), &["a"]), refusal("namespace"));
            assert_eq!(write(json!({ ALLOWED: ON_B }), &["b"]), Ok(vec!["b".to_owned()]));
            assert_eq!(write(json!({ ALLOWED: "" }), &["c"]), Ok(vec!["c".to_owned()]));
            assert_eq!(write(json!({ ALLOWED: "[" }), &["c"]), Err("unexpected end of JSON input".to_owned()));
            assert_eq!(write(json!({ ALLOWED: "[" }), &[]), Ok(Vec::new()));
        }
    }

    #[test]
    fn a_configuration_is_checked() {
        assert!(PodTolerationRestriction::new(None).unwrap().allowed.is_empty());
        assert!(configured("more: 1").unwrap().default.is_empty());
        let refusal = configured("default: [{key: a, operator: Near}]\nwhitelist: [{operator: Equal}]").unwrap_err();
        let expect = "invalid config: [podtolerationrestriction.default[0].operator: Unsupported value: \"Near\": supported values: \"Equal\", \"Exists\" podtolerationrestriction.whitelist[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"]";
        assert_eq!(refusal, expect);
        assert!(PodTolerationRestriction::new(Some(b"default: []")).unwrap_err().starts_with("Object 'Kind' is missing in"));
    }
}
