//! core/v1 LimitRange.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::quantity::Quantity;
use apimachinery::validation::{is_qualified_name, name_is_dns_subdomain};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::{Map, Value};

use super::resource::{is_overcommit_allowed, quantity, validate_container_name, validate_name};
use crate::registry::defaulting::{is_unset, nested};
use crate::registry::printer;
use crate::registry::read::str_at;
use crate::registry::{ALL_VERBS, Cx, Definition, Scope, Strategy, UpdateStrategy};

/// Values up to here are compared with three decimals.
const MAX_MILLI_VALUE: i64 = i64::MAX / 1000;

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "limitranges",
    singular: "limitrange",
    kind: "LimitRange",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["limits"],
    categories: &[],
    schema: "io.k8s.api.core.v1.LimitRange",
    name: name_is_dns_subdomain,
    strategy: &LimitRangeStrategy,
    subresources: &[],
    selectable: &[],
    printer: printer::DEFAULT,
    reset_fields: &[],
};

struct LimitRangeStrategy;

impl UpdateStrategy for LimitRangeStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate(&view(new))
    }
}

impl Strategy for LimitRangeStrategy {
    /// A limit range without a name gets one that nobody can have meant.
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        if str_at(new, "/metadata/name").is_empty()
            && let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.insert("name".to_owned(), uuid::Uuid::new_v4().to_string().into());
        }
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(new))
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

/// Limits of containers: what is not said follows from what is.
pub fn default_item(item: &mut Map<String, Value>) {
    if item.get("type").and_then(Value::as_str) != Some("Container") {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        if is_unset(item, from) {
            continue;
        }
        let source = item.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
        let Some(target) = nested(item, to) else { continue };
        for (name, amount) in source {
            if is_unset(target, &name) {
                target.insert(name, amount);
            }
        }
    }
}

fn validate(range: &LimitRange) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(spec) = &range.spec else { return errors };
    let path = Path::new("spec");
    let path = path.child("limits");
    let mut types = BTreeSet::new();
    for (i, item) in spec.limits.iter().enumerate() {
        let path = path.index(i);
        errors.extend(validate_type(&item.type_, &path.child("type")));
        if !types.insert(item.type_.as_str()) {
            errors.push(Error::duplicate(&path.child("type"), item.type_.as_str()));
        }
        errors.extend(validate_item(item, &path));
    }
    errors
}

fn validate_type(name: &str, path: &Path<'_>) -> ErrorList {
    let errors: ErrorList = is_qualified_name(name).into_iter().map(|message| Error::invalid(path, name, message)).collect();
    if errors.is_empty() && !name.contains('/') && !matches!(name, "Pod" | "Container" | "PersistentVolumeClaim") {
        return vec![Error::invalid(path, name, "must be a standard limit type or fully qualified")];
    }
    errors
}

type Amounts = BTreeMap<String, Quantity>;

/// The amounts of one field, its names checked.
fn amounts(item: &LimitRangeItem, of: Option<&BTreeMap<String, Text>>, path: &Path<'_>, errors: &mut ErrorList) -> Amounts {
    let check = if matches!(item.type_.as_str(), "Pod" | "Container") { validate_container_name } else { validate_name };
    let mut out = Amounts::new();
    for (name, amount) in of.into_iter().flatten() {
        errors.extend(check(name, &path.key(name)));
        out.insert(name.clone(), quantity(&amount.0));
    }
    out
}

fn validate_item(item: &LimitRangeItem, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let max = amounts(item, item.max.as_ref(), &path.child("max"), &mut errors);
    let min = amounts(item, item.min.as_ref(), &path.child("min"), &mut errors);
    let (mut default, mut request) = (Amounts::new(), Amounts::new());
    if item.type_ == "Pod" {
        for (field, given) in [("default", &item.default), ("defaultRequest", &item.default_request)] {
            if given.as_ref().is_some_and(|m| !m.is_empty()) {
                errors.push(Error::forbidden(&path.child(field), "may not be specified when `type` is 'Pod'"));
            }
        }
    } else {
        default = amounts(item, item.default.as_ref(), &path.child("default"), &mut errors);
        request = amounts(item, item.default_request.as_ref(), &path.child("defaultRequest"), &mut errors);
    }
    if item.type_ == "PersistentVolumeClaim" && !max.contains_key("storage") && !min.contains_key("storage") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(Error::required(&path.child("limits"), why));
    }
    let ratio = amounts(item, item.max_limit_request_ratio.as_ref(), &path.child("maxLimitRequestRatio"), &mut errors);

    let names: BTreeSet<&String> = max.keys().chain(min.keys()).chain(default.keys()).chain(request.keys()).chain(ratio.keys()).collect();
    for name in names {
        let one = OneResource {
            name,
            min: min.get(name),
            max: max.get(name),
            default: default.get(name),
            request: request.get(name),
            ratio: ratio.get(name),
        };
        errors.extend(one.validate(path));
    }
    errors
}

/// What an item says about one resource.
struct OneResource<'a> {
    name: &'a str,
    min: Option<&'a Quantity>,
    max: Option<&'a Quantity>,
    default: Option<&'a Quantity>,
    request: Option<&'a Quantity>,
    ratio: Option<&'a Quantity>,
}

impl OneResource<'_> {
    fn validate(&self, path: &Path<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut ordered = |low: (&str, Option<&Quantity>), high: (&str, Option<&Quantity>), field: &str, shown: Option<&Quantity>| {
            if let (Some(a), Some(b), Some(shown)) = (low.1, high.1, shown)
                && a > b
            {
                let why = format!("{} value {} is greater than {} value {}", low.0, a.canonical(), high.0, b.canonical());
                errors.push(Error::invalid(&path.child(field).key(self.name), shown.canonical(), why));
            }
        };
        ordered(("min", self.min), ("max", self.max), "min", self.min);
        ordered(("min", self.min), ("default request", self.request), "defaultRequest", self.request);
        ordered(("default request", self.request), ("max", self.max), "defaultRequest", self.request);
        ordered(("default request", self.request), ("default limit", self.default), "defaultRequest", self.request);
        ordered(("min", self.min), ("default", self.default), "default", self.min);
        ordered(("default", self.default), ("max", self.max), "default", self.max);
        errors.extend(self.validate_ratio(&path.child("maxLimitRequestRatio").key(self.name)));
        if let (Some(default), Some(request)) = (self.default, self.request)
            && !is_overcommit_allowed(self.name)
            && default != request
        {
            let (shown, name) = (request.canonical(), self.name);
            let why = format!("default value {} must equal to defaultRequest value {shown} in {name}", default.canonical());
            errors.push(Error::invalid(&path.child("defaultRequest").key(name), shown, why));
        }
        errors
    }

    fn validate_ratio(&self, path: &Path<'_>) -> ErrorList {
        let Some(ratio) = self.ratio else { return ErrorList::new() };
        let mut errors = ErrorList::new();
        let shown = ratio.canonical();
        if *ratio < quantity("1") {
            errors.push(Error::invalid(path, shown.as_str(), format!("ratio {shown} is less than 1")));
        }
        if let (Some(min), Some(max)) = (self.min, self.max) {
            let small = [ratio, min, max].iter().all(|amount| amount.value() < MAX_MILLI_VALUE);
            let (given, low, high) = if small {
                (ratio.milli_value() as f64 / 1000.0, min.milli_value(), max.milli_value())
            } else {
                (ratio.value() as f64, min.value(), max.value())
            };
            let limit = high as f64 / low as f64;
            if given > limit {
                errors.push(Error::invalid(path, shown.as_str(), format!("ratio {shown} is greater than max/min = {limit:.6}")));
            }
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::{cx, messages};

    fn check(item: Value) -> Vec<String> {
        messages(&LimitRangeStrategy.validate(&cx(), &json!({"metadata": {}, "spec": {"limits": [item]}})))
    }

    #[test]
    fn amounts_must_be_in_order() {
        assert_eq!(
            check(json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}})),
            ["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"]
        );
        assert_eq!(
            check(json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}})),
            ["spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000"]
        );
        assert_eq!(
            check(json!({"type": "Container", "default": {"example.com/g": "2"}, "defaultRequest": {"example.com/g": "1"}})),
            [
                "spec.limits[0].defaultRequest[example.com/g]: Invalid value: \"1\": default value 2 must equal to defaultRequest value 1 in example.com/g"
            ]
        );
    }

    #[test]
    fn types_have_their_own_rules() {
        assert_eq!(
            check(json!({"type": "Pod", "default": {"cpu": "1"}})),
            ["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"]
        );
        assert_eq!(
            check(json!({"type": "PersistentVolumeClaim"})),
            ["spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"]
        );
        assert_eq!(
            check(json!({"type": "Bogus"})),
            ["spec.limits[0].type: Invalid value: \"Bogus\": must be a standard limit type or fully qualified"]
        );
    }

    #[test]
    fn container_limits_follow_from_each_other() {
        let mut item = json!({"type": "Container", "max": {"cpu": "2", "memory": "1Gi"}, "min": {"cpu": "1", "pods": "1"}, "default": {"memory": "1Mi"}});
        default_item(item.as_object_mut().unwrap());
        assert_eq!(item["default"], json!({"memory": "1Mi", "cpu": "2"}));
        assert_eq!(item["defaultRequest"], json!({"memory": "1Mi", "cpu": "2", "pods": "1"}));
    }
}
