//! Which writes a webhook or a policy is concerned with: rules, and selectors of namespaces and objects.

use std::sync::{Arc, OnceLock};

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

/// A write that webhooks or policies are matched with, and what was looked up for one of them and is the same for all.
pub struct Subject<'a> {
    pub attributes: &'a Attributes<'a>,
    lookup: &'a dyn Lookup,
    versions: OnceLock<Vec<Arc<Resource>>>,
    namespace: OnceLock<Option<Arc<Value>>>,
}

impl<'a> Subject<'a> {
    pub fn new(attributes: &'a Attributes<'a>, lookup: &'a dyn Lookup) -> Subject<'a> {
        Subject { attributes, lookup, versions: OnceLock::new(), namespace: OnceLock::new() }
    }

    /// The served versions of what is written.
    fn versions(&self) -> &[Arc<Resource>] {
        self.versions.get_or_init(|| self.lookup.versions_of(self.attributes.resource))
    }

    /// The namespace that the write is in, or that is written.
    fn namespace(&self) -> Option<&Arc<Value>> {
        let attributes = self.attributes;
        let found = self.namespace.get_or_init(|| {
            let name = if attributes.is("", "namespaces") { attributes.name } else { attributes.namespace };
            self.lookup.get("", "namespaces", "", name)
        });
        found.as_ref()
    }

    /// The namespace of what is written; null for what has none.
    pub fn namespace_object(&self) -> Arc<Value> {
        let named = !self.attributes.namespace.is_empty() && !self.attributes.is("", "namespaces");
        named.then(|| self.namespace().cloned()).flatten().unwrap_or_default()
    }
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
    pub fn concerns(&self, subject: &Subject<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<Option<Invocation>, Status> {
        if self.fit(&self.excluded, subject).is_some() {
            return Ok(None);
        }
        let Some(invocation) = self.fit(&self.rules, subject) else { return Ok(None) };
        Ok(self.selects(subject, new, old)?.then_some(invocation))
    }

    /// As [`Matcher::concerns`], where no rules mean any resource.
    pub fn allows(&self, subject: &Subject<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<bool, Status> {
        if self.rules.is_empty() {
            return Ok(self.fit(&self.excluded, subject).is_none() && self.selects(subject, new, old)?);
        }
        Ok(self.concerns(subject, new, old)?.is_some())
    }

    fn selects(&self, subject: &Subject<'_>, new: Option<&Value>, old: Option<&Value>) -> Result<bool, Status> {
        let namespaces = self.namespaces.as_ref().map_err(|error| Status::internal_error(error))?;
        let objects = self.objects.as_ref().map_err(|error| Status::internal_error(error))?;
        Ok(is_namespace_selected(namespaces, subject, new)
            && (objects.is_empty() || [new, old].into_iter().flatten().any(|object| objects.matches(&labels(object)))))
    }

    fn fit(&self, rules: &[Rule], subject: &Subject<'_>) -> Option<Invocation> {
        let attributes = subject.attributes;
        let resource = attributes.resource;
        let fits = |gvk: &Gvk, plural: &str| rules.iter().any(|rule| rule.fits(attributes, gvk, plural));
        if fits(&resource.gvk, &resource.plural) {
            return Some(Invocation { other: None, kind: kind_of(attributes, resource), plural: resource.plural.to_string() });
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        let other = subject.versions().iter().find(|other| fits(&other.gvk, &other.plural))?.clone();
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
fn is_namespace_selected(selector: &Selector, subject: &Subject<'_>, new: Option<&Value>) -> bool {
    let attributes = subject.attributes;
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
    selector.matches(&subject.namespace().and_then(|namespace| labels(namespace)))
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
            let concerned = matcher.concerns(&Subject::new(&pod.attributes(), &Objects::default()), None, None).unwrap().is_some();
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
        let subject = Subject::new(&attributes, &cluster);
        assert!(is_namespace_selected(&wanted, &subject, None));
        assert!(!is_namespace_selected(&other, &subject, None));
        assert!(is_namespace_selected(&selector(json!({})), &subject, None));
    }
}
