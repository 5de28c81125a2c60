//! PodNodeSelector: the pods of a namespace run on the nodes that the namespace, or the cluster, is for.
//!
//! A namespace says so in an annotation; for namespaces that say nothing the configuration has a default, and it may have a list of what
//! the pods of a namespace may select at all.

use std::collections::BTreeMap;

use apimachinery::field::{Error, Path};
use apimachinery::status::Status;
use apimachinery::validation::{is_qualified_name, is_valid_label_value};
use serde_json::Value;

use super::pod_references::object_mut;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::{at, str_at};

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
/// The entry of the configuration for namespaces that say nothing.
const DEFAULT: &str = "clusterDefaultNodeSelector";
const CONFIG: &str = "podNodeSelectorPluginConfig";

type Labels = BTreeMap<String, String>;

/// The plugin, with the selectors of its configuration by their names.
#[derive(Debug, Default)]
pub struct PodNodeSelector {
    selectors: Labels,
}

impl PodNodeSelector {
    /// Documents that cannot be read say nothing, as upstream has it.
    pub fn new(configuration: Option<&[u8]>) -> PodNodeSelector {
        let mut selectors = Labels::new();
        for document in documents(configuration.unwrap_or_default()) {
            let Ok(parsed) = apimachinery::yaml::parse(document.as_bytes()) else { continue };
            let members = parsed.value.as_object().into_iter().flatten().filter(|(name, _)| name.eq_ignore_ascii_case(CONFIG));
            for (name, selector) in members.filter_map(|(_, value)| value.as_object()).flatten() {
                let text = match selector {
                    Value::String(text) => text.clone(),
                    Value::Number(_) | Value::Bool(_) => selector.to_string(),
                    _ => String::new(),
                };
                selectors.insert(name.clone(), text);
            }
        }
        PodNodeSelector { selectors }
    }

    fn selector(&self, name: &str) -> Result<Labels, Status> {
        parse(self.selectors.get(name).map_or("", String::as_str))
    }

    /// What the namespace's pods must select.
    fn of_namespace(&self, attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Result<Labels, Status> {
        let name = attributes.namespace;
        let absent = || Status::internal_error(&format!("namespace {name} does not exist"));
        let namespace = lookup.get("", "namespaces", "", name).ok_or_else(absent)?;
        match at(&namespace, "/metadata/annotations").get(ANNOTATION).and_then(Value::as_str) {
            Some(text) => parse(text),
            None => self.selector(DEFAULT),
        }
    }

    fn check(&self, attributes: &Attributes<'_>, pod: &Value, of_namespace: &Labels) -> Result<(), Status> {
        let selected = selected(pod);
        let name = str_at(pod, "/metadata/name");
        if conflict(of_namespace, &selected) {
            return Err(Status::forbidden("", "pods", name, "pod node label selector conflicts with its namespace node label selector"));
        }
        let allowed = self.selector(attributes.namespace)?;
        let is_allowed = |(label, value): (&String, &String)| allowed.get(label) == Some(value);
        if allowed.is_empty() || selected.iter().all(is_allowed) {
            return Ok(());
        }
        Err(Status::forbidden("", "pods", name, "pod node label selector labels conflict with its namespace whitelist"))
    }
}

/// The documents of a YAML text.
fn documents(text: &[u8]) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in String::from_utf8_lossy(text).lines() {
        if line.trim_end() == "---" {
            documents.push(String::new());
        } else if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents
}

/// `a=b,c=d`.
fn parse(selector: &str) -> Result<Labels, Status> {
    let mut labels = Labels::new();
    if selector.is_empty() {
        return Ok(labels);
    }
    for part in selector.split(',') {
        let sides: Vec<&str> = part.split('=').collect();
        let [key, value] = sides.as_slice() else {
            return Err(Status::unknown(format!("invalid selector: [{}]", sides.join(" "))));
        };
        let (key, value) = (key.trim(), value.trim());
        for (place, text, problems) in
            [("<nil>".to_owned(), key, is_qualified_name(key)), (format!("[{key}]"), value, is_valid_label_value(value))]
        {
            if !problems.is_empty() {
                let body = Error::invalid(&Path::ROOT, text, problems.join("; ")).body();
                return Err(Status::unknown(format!("{place}: {body}")));
            }
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

fn selected(pod: &Value) -> Labels {
    let members = at(pod, "/spec/nodeSelector").as_object().into_iter().flatten();
    members.map(|(label, value)| (label.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// Whether a label has one value here and another there.
fn conflict(a: &Labels, b: &Labels) -> bool {
    a.iter().any(|(label, value)| b.get(label).is_some_and(|other| other != value))
}

fn concerns(attributes: &Attributes<'_>) -> bool {
    attributes.operation == Operation::Create && attributes.is_main("", "pods")
}

impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
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
        let of_namespace = self.of_namespace(attributes, lookup)?;
        let before = selected(new);
        if !conflict(&of_namespace, &before) && !of_namespace.is_empty() {
            let mut merged = of_namespace.clone();
            merged.extend(before);
            if let Some(spec) = object_mut(new, &["spec"]) {
                let merged: serde_json::Map<String, Value> = merged.into_iter().map(|(label, value)| (label, value.into())).collect();
                spec.insert("nodeSelector".to_owned(), merged.into());
            }
        }
        self.check(attributes, new, &of_namespace)
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        match new.filter(|_| concerns(attributes)) {
            Some(pod) => self.check(attributes, pod, &self.of_namespace(attributes, lookup)?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    /// What becomes of a pod's selector in a namespace with this annotation.
    fn admit(configuration: &str, annotation: Option<&str>, selector: Value) -> Result<Value, String> {
        let annotations = annotation.map_or(json!({}), |text| json!({ ANNOTATION: text }));
        let objects = Objects::of(vec![("", "namespaces", json!({ "metadata": { "name": "ns", "annotations": annotations } }))]);
        let mut pod = json!({ "metadata": { "name": "p" }, "spec": { "nodeSelector": selector } });
        let plugin = PodNodeSelector::new(Some(configuration.as_bytes()));
        let write = Write::new(Operation::Create, "", "v1", "pods");
        write.admit(&plugin, &objects, &mut pod)?;
        write.validate(&plugin, &objects, Some(&pod), None)?;
        Ok(pod["spec"]["nodeSelector"].take())
    }

    #[test]
    fn a_pod_gets_what_its_namespace_selects_and_may_not_contradict() {
        let none = "";
        assert_eq!(admit(none, None, json!({ "a": "b" })), Ok(json!({ "a": "b" })));
        assert_eq!(admit(none, Some(" env = test , zone=b"), json!({ "a": "b" })), Ok(json!({ "a": "b", "env": "test", "zone": "b" })));
        assert_eq!(admit(none, Some("env=test"), json!({ "env": "test" })), Ok(json!({ "env": "test" })));
        assert_eq!(
            admit(none, Some("env=test"), json!({ "env": "production" })).unwrap_err(),
            "pods \"p\" is forbidden: pod node label selector conflicts with its namespace node label selector"
        );
    }

    #[test]
    fn the_configuration_has_a_default_and_lists_what_is_allowed() {
        let config = "podNodeSelectorPluginConfig:\n  clusterDefaultNodeSelector: infra=false\n  ns: infra=false,env=test\n";
        assert_eq!(admit(config, None, Value::Null), Ok(json!({ "infra": "false" })));
        assert_eq!(admit(config, Some(""), Value::Null), Ok(Value::Null), "an empty annotation wins over the default");
        assert_eq!(
            admit(config, None, json!({ "other": "x" })).unwrap_err(),
            "pods \"p\" is forbidden: pod node label selector labels conflict with its namespace whitelist"
        );
        assert_eq!(admit(config, None, json!({ "env": "test" })), Ok(json!({ "env": "test", "infra": "false" })));
        let several = "podNodeSelectorPluginConfig:\n  ns: a=b\n---\n{\n---\npodnodeselectorpluginconfig:\n  ns: c=d\n";
        assert_eq!(PodNodeSelector::new(Some(several.as_bytes())).selectors, Labels::from([("ns".to_owned(), "c=d".to_owned())]));
    }

    #[test]
    fn a_selector_that_is_none_is_an_error() {
        let error = |text: &str| admit("", Some(text), Value::Null).unwrap_err();
        assert_eq!(error("a=b=c"), "invalid selector: [a b c]");
        assert_eq!(error("a=b,c"), "invalid selector: [c]");
        assert!(error("a b=c").starts_with("<nil>: Invalid value: \"a b\": name part must consist of alphanumeric characters"));
        assert!(error("a=b c").starts_with("[a]: Invalid value: \"b c\": a valid label must be an empty string or consist of"));
    }

    #[test]
    fn updates_and_subresources_are_not_looked_at() {
        let plugin = PodNodeSelector::default();
        let pod = json!({ "spec": {} });
        for write in [Write::new(Operation::Update, "", "v1", "pods"), Write::new(Operation::Create, "", "v1", "pods").to("binding")] {
            assert_eq!(write.validate(&plugin, &Objects::default(), Some(&pod), None), Ok(Vec::new()));
        }
        let refused = Write::new(Operation::Create, "", "v1", "pods").validate(&plugin, &Objects::default(), Some(&pod), None);
        assert_eq!(refused.unwrap_err(), "Internal error occurred: namespace ns does not exist");
    }
}
