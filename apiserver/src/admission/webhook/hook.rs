//! One webhook as its configuration has it, and which writes it is concerned with.

use std::sync::Arc;

use apimachinery::selector::label::Selector;
use apimachinery::status::Status;
use serde_json::{Map, Value};

use crate::admission::{Attributes, Lookup, Operation};
use crate::catalog::{Gvk, Resource};
use crate::registry::read::{at, list_at, str_at};
use crate::webhook_client::Webhook;

const DEFAULT_TIMEOUT_SECONDS: u64 = 10;
/// The versions of AdmissionReview that can be sent.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// Configurations that no webhook has a say in.
const EXEMPT: [&str; 6] = [
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
];

/// Whether asking a webhook does something elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideEffects {
    /// Not for a dry run, at least.
    None,
    Some,
}

/// A webhook.
pub struct Hook {
    pub name: String,
    /// Distinct among all webhooks, and the same in both rounds.
    pub id: String,
    pub mutating: bool,
    pub client: Result<Webhook, String>,
    pub ignores_failures: bool,
    pub timeout_seconds: u64,
    pub side_effects: SideEffects,
    pub reinvoked: bool,
    pub has_match_conditions: bool,
    rules: Vec<Rule>,
    equivalent: bool,
    namespaces: Result<Selector, String>,
    objects: Result<Selector, String>,
    review_versions: Vec<String>,
}

struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

/// As what a webhook is shown a write: as the request, or as another version of the same resource.
pub struct Invocation {
    pub other: Option<Arc<Resource>>,
    pub kind: Gvk,
    pub plural: String,
}

/// The webhooks of a configuration.
pub fn read(configuration: &Value, mutating: bool) -> Vec<Hook> {
    let within = str_at(configuration, "/metadata/name");
    let list = list_at(configuration, "/webhooks").iter().enumerate();
    list.map(|(index, webhook)| Hook::read(within, index, webhook, mutating)).collect()
}

/// Whether the write is about a configuration that no webhook has a say in.
pub fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.group() == "admissionregistration.k8s.io" && EXEMPT.contains(&attributes.plural())
}

fn strings(value: &Value, pointer: &str) -> Vec<String> {
    list_at(value, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

impl Rule {
    fn read(rule: &Value) -> Rule {
        Rule {
            operations: strings(rule, "/operations"),
            groups: strings(rule, "/apiGroups"),
            versions: strings(rule, "/apiVersions"),
            resources: strings(rule, "/resources"),
            scope: str_at(rule, "/scope").to_owned(),
        }
    }

    fn fits(&self, attributes: &Attributes<'_>, gvk: &Gvk, plural: &str) -> bool {
        let is_clusters = attributes.namespace.is_empty() || attributes.is("", "namespaces");
        let in_scope = match self.scope.as_str() {
            "Namespaced" => !is_clusters,
            "Cluster" => is_clusters,
            _ => true,
        };
        let resource = self.resources.iter().any(|rule| {
            let (resource, subresource) = rule.split_once('/').unwrap_or((rule, ""));
            (resource == "*" || resource == plural) && (subresource == "*" || subresource == attributes.subresource)
        });
        in_scope
            && has(&self.operations, attributes.operation.as_str())
            && has(&self.groups, &gvk.group)
            && has(&self.versions, &gvk.version)
            && resource
    }
}

impl Hook {
    fn read(within: &str, index: usize, webhook: &Value, mutating: bool) -> Hook {
        let name = str_at(webhook, "/name").to_owned();
        // Nothing said means everything, as the API's defaults have it.
        let selector_or_all = |pointer: &str| match at(webhook, pointer) {
            Value::Null => Ok(Selector::of(Vec::new())),
            selector => Selector::from_value(Some(selector)).map_err(|error| error.to_string()),
        };
        Hook {
            id: format!("{within}/{name}/{index}"),
            mutating,
            client: Webhook::read(at(webhook, "/clientConfig")),
            ignores_failures: str_at(webhook, "/failurePolicy") == "Ignore",
            timeout_seconds: at(webhook, "/timeoutSeconds").as_u64().unwrap_or(DEFAULT_TIMEOUT_SECONDS),
            side_effects: match str_at(webhook, "/sideEffects") {
                "None" | "NoneOnDryRun" => SideEffects::None,
                _ => SideEffects::Some,
            },
            reinvoked: str_at(webhook, "/reinvocationPolicy") == "IfNeeded",
            has_match_conditions: !list_at(webhook, "/matchConditions").is_empty(),
            rules: list_at(webhook, "/rules").iter().map(Rule::read).collect(),
            equivalent: str_at(webhook, "/matchPolicy") != "Exact",
            namespaces: selector_or_all("/namespaceSelector"),
            objects: selector_or_all("/objectSelector"),
            review_versions: strings(webhook, "/admissionReviewVersions"),
            name,
        }
    }

    /// The version of AdmissionReview to send: the first that both sides know.
    pub fn review_version(&self) -> Result<&'static str, &'static str> {
        let known = |version: &String| REVIEW_VERSIONS.into_iter().find(|known| known == version);
        self.review_versions.iter().find_map(known).ok_or("webhook does not accept known AdmissionReview versions (v1, v1beta1)")
    }

    /// As what the webhook is to be shown the write; `None` if it is not concerned.
    pub fn concerns(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Option<Invocation>, Status> {
        let Some(invocation) = self.invocation(attributes, lookup) else { return Ok(None) };
        let namespaces = self.namespaces.as_ref().map_err(|error| Status::internal_error(error))?;
        let objects = self.objects.as_ref().map_err(|error| Status::internal_error(error))?;
        let selected = is_namespace_selected(namespaces, attributes, lookup, new)
            && (objects.is_empty() || [new, old].into_iter().flatten().any(|object| objects.matches(&labels(object))));
        Ok(selected.then_some(invocation))
    }

    fn invocation(&self, attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Option<Invocation> {
        let resource = attributes.resource;
        let fits = |gvk: &Gvk, plural: &str| self.rules.iter().any(|rule| rule.fits(attributes, gvk, plural));
        if fits(&resource.gvk, &resource.plural) {
            return Some(Invocation { other: None, kind: kind_of(attributes, resource), plural: resource.plural.to_string() });
        }
        if !self.equivalent {
            return None;
        }
        let other = lookup.versions_of(resource).into_iter().find(|other| fits(&other.gvk, &other.plural))?;
        Some(Invocation { kind: kind_of(attributes, &other), plural: other.plural.to_string(), other: Some(other) })
    }
}

/// The kind of what is written: the subresource's, or the resource's.
pub fn kind_of(attributes: &Attributes<'_>, resource: &Resource) -> Gvk {
    resource.subresources.get(attributes.subresource).map_or_else(|| resource.gvk.clone(), |subresource| subresource.gvk.clone())
}

fn labels(object: &Value) -> Option<&Map<String, Value>> {
    at(object, "/metadata/labels").as_object()
}

/// Objects outside of namespaces are always selected, namespaces by their own labels.
fn is_namespace_selected(selector: &Selector, attributes: &Attributes<'_>, lookup: &dyn Lookup, new: Option<&Value>) -> bool {
    if selector.is_empty() {
        return true;
    }
    let is_namespace = attributes.is("", "namespaces");
    if !is_namespace && attributes.namespace.is_empty() {
        return true;
    }
    if is_namespace && attributes.subresource.is_empty() && matches!(attributes.operation, Operation::Create | Operation::Update) {
        return selector.matches(&new.and_then(labels));
    }
    let name = if is_namespace { attributes.name } else { attributes.namespace };
    let namespace = lookup.get("", "namespaces", "", name);
    selector.matches(&namespace.as_ref().and_then(labels))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::testing::{Objects, Write};
    use super::*;

    fn hook(webhook: Value) -> Hook {
        read(&json!({ "metadata": { "name": "c" }, "webhooks": [webhook] }), true).remove(0)
    }

    fn rule(groups: &str, versions: &str, resources: &str, scope: &str) -> Value {
        json!({ "operations": ["CREATE"], "apiGroups": [groups], "apiVersions": [versions], "resources": [resources], "scope": scope })
    }

    #[test]
    fn rules_say_which_writes_concern_a_webhook() {
        let pod = Write::new(Operation::Create, "", "v1", "pods");
        for (rules, expected) in [
            (json!([rule("", "v1", "pods", "*")]), true),
            (json!([rule("*", "*", "*", "")]), true),
            (json!([rule("", "v1", "pods/*", "*")]), true),
            (json!([rule("", "v1", "pods/status", "*")]), false),
            (json!([rule("apps", "v1", "pods", "*")]), false),
            (json!([rule("", "v2", "pods", "*")]), false),
            (json!([rule("", "v1", "pods", "Cluster")]), false),
            (json!([rule("", "v1", "pods", "Namespaced")]), true),
            (json!([]), false),
        ] {
            let hook = hook(json!({ "name": "h", "rules": rules, "matchPolicy": "Exact" }));
            assert_eq!(
                hook.rules.iter().any(|rule| rule.fits(&pod.attributes(), &pod.attributes().resource.gvk, "pods")),
                expected,
                "{rules}"
            );
        }
    }

    #[test]
    fn selectors_look_at_the_namespace_and_the_object() {
        let namespace = json!({ "metadata": { "name": "n", "labels": { "a": "b" } } });
        let cluster = Objects::of(vec![("", "namespaces", namespace)]);
        let pod = Write::new(Operation::Create, "", "v1", "pods");
        let selector = |value: Value| Selector::from_value(Some(&value)).unwrap();
        let wanted = selector(json!({ "matchLabels": { "a": "b" } }));
        let other = selector(json!({ "matchLabels": { "a": "c" } }));
        let attributes = pod.attributes();
        assert!(is_namespace_selected(&wanted, &attributes, &cluster, None));
        assert!(!is_namespace_selected(&other, &attributes, &cluster, None));
        assert!(is_namespace_selected(&selector(json!({})), &attributes, &cluster, None));
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        let hook = hook(json!({ "name": "h", "admissionReviewVersions": ["v2", "v1beta1", "v1"], "sideEffects": "None" }));
        assert_eq!((hook.timeout_seconds, hook.ignores_failures, hook.equivalent), (10, false, true));
        assert_eq!((hook.review_version(), hook.side_effects), (Ok("v1beta1"), SideEffects::None));
    }
}
