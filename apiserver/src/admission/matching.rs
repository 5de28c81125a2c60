//! Which writes a webhook or a policy is concerned with: rules, and selectors of namespaces and objects.

use std::sync::Arc;

use apimachinery::selector::label::Selector;
use apimachinery::status::Status;
use serde_json::{Map, Value};

use super::{Attributes, Lookup, Operation};
use crate::catalog::{Gvk, Resource};
use crate::registry::read::{at, list_at, str_at};

struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    /// Empty for any.
    names: Vec<String>,
    scope: String,
}

/// As what a write is shown: as the request, or as another version of the same resource.
pub struct Invocation {
    pub other: Option<Arc<Resource>>,
    pub kind: Gvk,
    pub plural: String,
}

/// What says whether a write is concerned.
pub struct Matcher {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    equivalent: bool,
    namespaces: Result<Selector, String>,
    objects: Result<Selector, String>,
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
            names: strings(rule, "/resourceNames"),
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
            && (self.names.is_empty() || self.names.iter().any(|name| name == attributes.name))
            && resource
    }
}

impl Matcher {
    /// Reads what webhooks (`rules`) and policies (`resourceRules`, `excludeResourceRules`) have alike.
    pub fn read(value: &Value) -> Matcher {
        // Nothing said means everything, as the API's defaults have it.
        let selector = |pointer: &str| match at(value, pointer) {
            Value::Null => Ok(Selector::of(Vec::new())),
            selector => Selector::from_value(Some(selector)).map_err(|error| error.to_string()),
        };
        let rules = |pointer| list_at(value, pointer).iter().map(Rule::read);
        Matcher {
            rules: rules("/rules").chain(rules("/resourceRules")).collect(),
            excluded: rules("/excludeResourceRules").collect(),
            equivalent: str_at(value, "/matchPolicy") != "Exact",
            namespaces: selector("/namespaceSelector"),
            objects: selector("/objectSelector"),
        }
    }

    /// As what the write is to be shown; `None` if it is of no concern.
    pub fn concerns(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Option<Invocation>, Status> {
        if self.fit(&self.excluded, attributes, lookup).is_some() {
            return Ok(None);
        }
        let Some(invocation) = self.fit(&self.rules, attributes, lookup) else { return Ok(None) };
        Ok(self.selects(attributes, lookup, new, old)?.then_some(invocation))
    }

    /// As [`Matcher::concerns`], where no rules mean any resource.
    pub fn allows(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<bool, Status> {
        if self.rules.is_empty() {
            return Ok(self.fit(&self.excluded, attributes, lookup).is_none() && self.selects(attributes, lookup, new, old)?);
        }
        Ok(self.concerns(attributes, lookup, new, old)?.is_some())
    }

    fn selects(&self, attributes: &Attributes<'_>, lookup: &dyn Lookup, new: Option<&Value>, old: Option<&Value>) -> Result<bool, Status> {
        let namespaces = self.namespaces.as_ref().map_err(|error| Status::internal_error(error))?;
        let objects = self.objects.as_ref().map_err(|error| Status::internal_error(error))?;
        Ok(is_namespace_selected(namespaces, attributes, lookup, new)
            && (objects.is_empty() || [new, old].into_iter().flatten().any(|object| objects.matches(&labels(object)))))
    }

    fn fit(&self, rules: &[Rule], attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Option<Invocation> {
        let resource = attributes.resource;
        let fits = |gvk: &Gvk, plural: &str| rules.iter().any(|rule| rule.fits(attributes, gvk, plural));
        if fits(&resource.gvk, &resource.plural) {
            return Some(Invocation { other: None, kind: kind_of(attributes, resource), plural: resource.plural.to_string() });
        }
        if !self.equivalent || rules.is_empty() {
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
    selector.matches(&namespace.as_deref().and_then(labels))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

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
            let matcher = Matcher::read(&json!({ "rules": rules, "matchPolicy": "Exact" }));
            let concerned = matcher.concerns(&pod.attributes(), &Objects::default(), None, None).unwrap().is_some();
            assert_eq!(concerned, expected, "{rules}");
        }
    }

    #[test]
    fn selectors_look_at_the_namespace_and_the_object() {
        let namespace = json!({ "metadata": { "name": "ns", "labels": { "a": "b" } } });
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
}
