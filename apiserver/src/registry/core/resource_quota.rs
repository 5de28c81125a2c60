//! core/v1 ResourceQuota.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, name_is_dns_subdomain};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ScopeSelector, ScopedResourceSelectorRequirement};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::{Value, json};

use super::resource::{is_standard_for_quota, quantity, validate_amount, validate_quota_name};
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, str_at};
use crate::registry::strategy::{keep_all_but_status, keep_status, set_field};
use crate::registry::{
    ALL_VERBS, Behaviour, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "resourcequotas",
    singular: "resourcequota",
    kind: "ResourceQuota",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["quota"],
    categories: &[],
    schema: "io.k8s.api.core.v1.ResourceQuota",
    name: name_is_dns_subdomain,
    strategy: &QuotaStrategy,
    subresources: &[Subresource {
        name: "status",
        group: "",
        version: "v1",
        kind: "ResourceQuota",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &StatusStrategy, reset_fields: &["spec"] },
    }],
    selectable: &[],
    printer: Printer {
        columns: &[
            NAME,
            printer::text("Request", Description::Text("Request represents a minimum amount of cpu/memory that a container may consume.")),
            printer::text(
                "Limit",
                Description::Text(
                    "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
                ),
            ),
            AGE,
        ],
        cells: |object, now| {
            let (request, limit) = usage(object);
            vec![printer::name(object), request.into(), limit.into(), printer::object_age(object, now)]
        },
    },
    reset_fields: &["status"],
};

/// `name: used/hard, …` of what is requested and of the `limits.` resources.
fn usage(quota: &Value) -> (String, String) {
    let hard: BTreeMap<&str, &str> =
        at(quota, "/status/hard").as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or("0"))).collect();
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in hard {
        let used = at(quota, "/status/used").get(name).and_then(Value::as_str).unwrap_or("0");
        let cell = format!("{name}: {used}/{hard}");
        if name.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    (requests.join(", "), limits.join(", "))
}

struct QuotaStrategy;

impl UpdateStrategy for QuotaStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let (new, old): (ResourceQuota, ResourceQuota) = (view(new), view(old));
        let spec = new.spec.unwrap_or_default();
        let mut errors = validate_spec(&spec);
        let set = |scopes: &Option<Vec<String>>| -> BTreeSet<String> { scopes.iter().flatten().cloned().collect() };
        if set(&old.spec.unwrap_or_default().scopes) != set(&spec.scopes) {
            let path = Path::new("spec");
            errors.push(Error::invalid(&path.child("scopes"), json!(spec.scopes), FIELD_IMMUTABLE));
        }
        errors
    }
}

impl Strategy for QuotaStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_field(new, "status", json!({}));
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let quota: ResourceQuota = view(new);
        validate_spec(&quota.spec.unwrap_or_default())
    }

    /// A request above its limit can never be used up.
    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        let hard = at(new, "/spec/hard");
        let amount = |name: &str| hard.get(name).and_then(Value::as_str).map(quantity);
        let mut warnings = Vec::new();
        for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
            let mut request_name = format!("requests.{name}");
            let mut request = amount(&request_name);
            if request.is_none() && matches!(name, "cpu" | "memory") {
                request = amount(name);
                request_name = name.to_owned();
            }
            let limit_name = format!("limits.{name}");
            if let (Some(request), Some(limit)) = (request, amount(&limit_name))
                && request > limit
            {
                let (request, limit) = (request.canonical(), limit.canonical());
                warnings.push(format!("ResourceQuota {request_name} ({request}) should be less than {limit_name} ({limit})"));
            }
        }
        warnings
    }
}

struct StatusStrategy;

impl UpdateStrategy for StatusStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if str_at(new, "/metadata/resourceVersion").is_empty() {
            errors.push(Error::required(&Path::new("resourceVersion"), ""));
        }
        let quota: ResourceQuota = view(new);
        let status = quota.status.unwrap_or_default();
        let path = Path::new("status");
        errors.extend(validate_amounts(status.hard.as_ref(), &path.child("hard")));
        errors.extend(validate_amounts(status.used.as_ref(), &path.child("used")));
        errors
    }
}

fn validate_amounts(amounts: Option<&BTreeMap<String, Text>>, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (name, amount) in amounts.into_iter().flatten() {
        let path = path.key(name);
        errors.extend(validate_quota_name(name, &path));
        errors.extend(validate_amount(name, &quantity(&amount.0), &path));
    }
    errors
}

fn validate_spec(spec: &ResourceQuotaSpec) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = validate_amounts(spec.hard.as_ref(), &path.child("hard"));
    errors.extend(validate_scopes(spec, &path.child("scopes")));
    if let Some(selector) = &spec.scope_selector {
        errors.extend(validate_selector(spec, selector, &path.child("scopeSelector.matchExpressions")));
    }
    errors
}

fn is_standard_scope(scope: &str) -> bool {
    matches!(
        scope,
        "Terminating"
            | "NotTerminating"
            | "BestEffort"
            | "NotBestEffort"
            | "PriorityClass"
            | "VolumeAttributesClass"
            | "CrossNamespacePodAffinity"
    )
}

/// Whether the scope can select what the resource counts.
fn scope_fits(scope: &str, resource: &str) -> bool {
    let compute = || matches!(resource, "cpu" | "memory" | "limits.cpu" | "limits.memory" | "requests.cpu" | "requests.memory");
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            resource == "pods" || compute()
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

/// The limited resources that the scope cannot apply to.
fn misfits<'a>(spec: &'a ResourceQuotaSpec, scope: &'a str) -> impl Iterator<Item = &'a String> {
    spec.hard.iter().flat_map(BTreeMap::keys).filter(move |name| is_standard_for_quota(name) && !scope_fits(scope, name))
}

/// How many of the pairs of scopes that exclude each other are both there.
fn conflicts(scopes: &BTreeSet<&str>) -> usize {
    let pairs = [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];
    pairs.iter().filter(|(a, b)| scopes.contains(a) && scopes.contains(b)).count()
}

fn validate_scopes(spec: &ResourceQuotaSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let scopes = spec.scopes.as_deref().unwrap_or_default();
    let refuse = |why: &str| Error::invalid(path, json!(scopes), why);
    for scope in scopes {
        if !is_standard_scope(scope) {
            errors.push(refuse("unsupported scope"));
        }
        errors.extend(misfits(spec, scope).map(|_| refuse("unsupported scope applied to resource")));
    }
    let set = scopes.iter().map(String::as_str).collect();
    errors.extend((0..conflicts(&set)).map(|_| refuse("conflicting scopes")));
    errors
}

fn validate_selector(spec: &ResourceQuotaSpec, selector: &ScopeSelector, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let requirements = selector.match_expressions.as_deref().unwrap_or_default();
    for requirement in requirements {
        if !is_standard_scope(&requirement.scope_name) {
            errors.push(Error::invalid(&path.child("scopeName"), requirement.scope_name.as_str(), "unsupported scope"));
        }
        for _ in misfits(spec, &requirement.scope_name) {
            errors.push(Error::invalid(path, as_go_prints(requirements), "unsupported scope applied to resource"));
        }
        errors.extend(validate_requirement(requirement, path));
    }
    let set = requirements.iter().map(|requirement| requirement.scope_name.as_str()).collect();
    for _ in 0..conflicts(&set) {
        errors.push(Error::invalid(path, json!(spec.scopes), "conflicting scopes"));
    }
    errors
}

fn validate_requirement(requirement: &ScopedResourceSelectorRequirement, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let operator = requirement.operator.as_str();
    let exists_only = matches!(
        requirement.scope_name.as_str(),
        "BestEffort" | "NotBestEffort" | "Terminating" | "NotTerminating" | "CrossNamespacePodAffinity"
    );
    if exists_only && operator != "Exists" {
        let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.push(Error::invalid(&path.child("operator"), operator, why));
    }
    let values = requirement.values.as_deref().unwrap_or_default();
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.push(Error::required(&path.child("values"), why));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.push(Error::invalid(&path.child("values"), json!(values), why));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => errors.push(Error::invalid(&path.child("operator"), operator, "not a valid selector operator")),
    }
    errors
}

/// The selector as upstream's messages show it: its internal type has no JSON names.
fn as_go_prints(requirements: &[ScopedResourceSelectorRequirement]) -> Value {
    let items: Vec<Value> =
        requirements.iter().map(|r| json!({"ScopeName": r.scope_name, "Operator": r.operator, "Values": r.values})).collect();
    json!({"MatchExpressions": items})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::core::tests::{cx, messages};

    fn check(spec: Value) -> Vec<String> {
        messages(&QuotaStrategy.validate(&cx(), &json!({"metadata": {}, "spec": spec})))
    }

    #[test]
    fn names_and_amounts_are_checked() {
        assert_eq!(
            check(json!({"hard": {"bogus": "1", "pods": "-1"}})),
            [
                "spec.hard[bogus]: Invalid value: \"bogus\": must be a standard resource type or fully qualified",
                "spec.hard[bogus]: Invalid value: \"bogus\": must be a standard resource for quota",
                "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
            ]
        );
    }

    #[test]
    fn scopes_must_fit_the_resources_and_each_other() {
        assert_eq!(
            check(json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort", "NotBestEffort"]})),
            [
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ]
        );
        assert_eq!(
            check(json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}})),
            [
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            ]
        );
    }

    #[test]
    fn a_request_above_its_limit_is_warned_about() {
        let quota = json!({"metadata": {}, "spec": {"hard": {"cpu": "3", "limits.cpu": "2"}}});
        assert_eq!(QuotaStrategy.warnings_on_create(&cx(), &quota), ["ResourceQuota cpu (3) should be less than limits.cpu (2)"]);
    }

    #[test]
    fn the_table_shows_use_by_request_and_limit() {
        let quota = json!({"status": {"hard": {"pods": "3", "limits.cpu": "2", "cpu": "1"}, "used": {"pods": "1"}}});
        assert_eq!(usage(&quota), ("cpu: 0/1, pods: 1/3".to_owned(), "limits.cpu: 0/2".to_owned()));
    }
}
