//! LimitRanger: what a namespace's limit ranges fill in for containers, and what they refuse.

use std::sync::Arc;

use apimachinery::quantity::Quantity;
use apimachinery::status::Status;
use serde_json::Value;

use super::amounts::{self, Amounts};
use super::pod_amounts;
use super::pod_references::object_mut;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::{list_at, str_at};

/// Tells what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// The largest amount that can be told in thousandths.
const MAX_MILLI: i64 = i64::MAX / 1000;

/// The plugin.
pub struct LimitRanger;

impl LimitRanger {
    /// The limit ranges that apply to a write; none to objects on their way out.
    fn ranges(attributes: &Attributes<'_>, lookup: &dyn Lookup, old: Option<&Value>) -> Vec<Arc<Value>> {
        let applies = match (attributes.operation, attributes.subresource) {
            (Operation::Update, "resize") => attributes.is("", "pods"),
            (Operation::Create, "") => attributes.is("", "pods") || attributes.is("", "persistentvolumeclaims"),
            (Operation::Update, "") => attributes.is("", "persistentvolumeclaims"),
            _ => false,
        };
        if !applies || old.is_some_and(|old| !str_at(old, "/metadata/deletionTimestamp").is_empty()) {
            return Vec::new();
        }
        lookup.list("", "limitranges", attributes.namespace)
    }
}

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: &mut Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if attributes.is("", "pods") {
            for range in LimitRanger::ranges(attributes, lookup, old) {
                fill_in(&range, new);
            }
        }
        Ok(())
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(object) = new else { return Ok(()) };
        for range in LimitRanger::ranges(attributes, lookup, old) {
            let problems = if attributes.is("", "pods") { pod_problems(&range, object) } else { claim_problems(&range, object) };
            if let Some(why) = aggregate(problems) {
                return Err(attributes.forbidden(new, &why));
            }
        }
        Ok(())
    }
}

/// The distinct messages as one.
fn aggregate(problems: Vec<String>) -> Option<String> {
    let mut distinct: Vec<String> = Vec::with_capacity(problems.len());
    for problem in problems {
        if !distinct.contains(&problem) {
            distinct.push(problem);
        }
    }
    match distinct.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}

/// The items of a limit range that are about containers, pods or claims.
fn items<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    list_at(range, "/spec/limits").iter().filter(move |item| str_at(item, "/type") == kind)
}

/// Gives containers the requests and limits that they do not state, and says so in an annotation.
fn fill_in(range: &Value, pod: &mut Value) {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for item in items(range, "Container") {
        requests.extend(amounts::read(item.get("defaultRequest")));
        limits.extend(amounts::read(item.get("default")));
    }
    let mut done: Vec<String> = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.get_mut("spec").and_then(|s| s.get_mut(list)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = str_at(container, "/name").to_owned();
            let limited = fill_field(container, "limits", &limits);
            let requested = fill_field(container, "requests", &requests);
            for (filled, field) in [(requested, "request"), (limited, "limit")] {
                if !filled.is_empty() {
                    done.push(format!("{} {field} for {what} {name}", filled.join(", ")));
                }
            }
        }
    }
    if !done.is_empty()
        && let Some(annotations) = object_mut(pod, &["metadata", "annotations"])
    {
        annotations.insert(ANNOTATION.to_owned(), format!("LimitRanger plugin set: {}", done.join("; ")).into());
    }
}

/// Adds the amounts that are not stated; gives their names.
fn fill_field(container: &mut Value, field: &str, defaults: &Amounts) -> Vec<String> {
    if defaults.is_empty() {
        return Vec::new();
    }
    let Some(stated) = object_mut(container, &["resources", field]) else { return Vec::new() };
    let missing: Vec<(&String, &Quantity)> = defaults.iter().filter(|(name, _)| !stated.contains_key(*name)).collect();
    for (name, amount) in &missing {
        stated.insert((*name).clone(), amount.canonical().into());
    }
    missing.into_iter().map(|(name, _)| name.clone()).collect()
}

/// What an item constrains, and what it is held against.
struct Constraint<'a> {
    kind: &'a str,
    name: &'a str,
    bound: &'a Quantity,
    request: Option<&'a Quantity>,
    limit: Option<&'a Quantity>,
}

impl Constraint<'_> {
    /// Request, limit and bound as numbers of one precision: thousandths if all of them can be told so.
    fn numbers(&self) -> (i64, i64, i64) {
        let zero = Quantity::default();
        let all = [self.request.unwrap_or(&zero), self.limit.unwrap_or(&zero), self.bound];
        let whole = all.map(Quantity::value);
        let [request, limit, bound] = if whole.iter().all(|v| *v <= MAX_MILLI) { all.map(Quantity::milli_value) } else { whole };
        (request, limit, bound)
    }

    fn minimum(&self) -> Option<String> {
        let (request, limit, bound) = self.numbers();
        let start = format!("minimum {} usage per {} is {}", self.name, self.kind, self.bound);
        match (self.request, self.limit) {
            (None, _) => Some(format!("{start}.  No request is specified")),
            (Some(stated), _) if request < bound => Some(format!("{start}, but request is {stated}")),
            (_, Some(stated)) if limit < bound => Some(format!("{start}, but limit is {stated}")),
            _ => None,
        }
    }

    fn maximum(&self) -> Option<String> {
        let (request, limit, bound) = self.numbers();
        let start = format!("maximum {} usage per {} is {}", self.name, self.kind, self.bound);
        match (self.limit, self.request) {
            (None, _) => Some(format!("{start}.  No limit is specified")),
            (Some(stated), _) if limit > bound => Some(format!("{start}, but limit is {stated}")),
            (_, Some(stated)) if request > bound => Some(format!("{start}, but request is {stated}")),
            _ => None,
        }
    }

    /// For what is only requested, never limited.
    fn maximum_request(&self) -> Option<String> {
        let (request, _, bound) = self.numbers();
        let start = format!("maximum {} usage per {} is {}", self.name, self.kind, self.bound);
        match self.request {
            None => Some(format!("{start}.  No request is specified")),
            Some(stated) if request > bound => Some(format!("{start}, but request is {stated}")),
            Some(_) => None,
        }
    }

    fn ratio(&self) -> Option<String> {
        let (request, limit, _) = self.numbers();
        let start = format!("{} max limit to request ratio per {} is {}", self.name, self.kind, self.bound);
        if self.request.is_none() || request == 0 {
            return Some(format!("{start}, but no request is specified or request is 0"));
        }
        if self.limit.is_none() || limit == 0 {
            return Some(format!("{start}, but no limit is specified or limit is 0"));
        }
        let ratio = limit as f64 / request as f64;
        let exceeds = if self.bound.value() <= MAX_MILLI {
            ratio * 1000.0 > self.bound.milli_value() as f64
        } else {
            ratio > self.bound.value() as f64
        };
        exceeds.then(|| format!("{start}, but provided ratio is {ratio:.6}"))
    }
}

/// Holds one bound of an item (`min`, `max`, `maxLimitRequestRatio`) against amounts.
fn hold(item: &Value, field: &str, requests: &Amounts, limits: &Amounts, check: fn(&Constraint<'_>) -> Option<String>) -> Vec<String> {
    let kind = str_at(item, "/type");
    let bounds = amounts::read(item.get(field));
    let constraint = |(name, bound)| check(&Constraint { kind, name, bound, request: requests.get(name), limit: limits.get(name) });
    bounds.iter().filter_map(|(name, bound)| constraint((name, bound))).collect()
}

fn compute_problems(item: &Value, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let mut problems = hold(item, "min", requests, limits, |c| c.minimum());
    problems.extend(hold(item, "max", requests, limits, |c| c.maximum()));
    problems.extend(hold(item, "maxLimitRequestRatio", requests, limits, |c| c.ratio()));
    problems
}

fn pod_problems(range: &Value, pod: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for item in list_at(range, "/spec/limits") {
        match str_at(item, "/type") {
            "Container" => {
                for container in list_at(pod, "/spec/containers").iter().chain(list_at(pod, "/spec/initContainers")) {
                    let requests = amounts::read(container.pointer("/resources/requests"));
                    let limits = amounts::read(container.pointer("/resources/limits"));
                    problems.extend(compute_problems(item, &requests, &limits));
                }
            }
            "Pod" => {
                let total = |field: &str| {
                    let mut total = pod_amounts::of_specs(pod, field);
                    pod_amounts::override_by_pod(pod, field, &mut total, |name| matches!(name, "cpu" | "memory"));
                    total
                };
                problems.extend(compute_problems(item, &total("requests"), &total("limits")));
            }
            _ => {}
        }
    }
    problems
}

fn claim_problems(range: &Value, claim: &Value) -> Vec<String> {
    let requests = amounts::read(claim.pointer("/spec/resources/requests"));
    let none = Amounts::new();
    let mut problems = Vec::new();
    for item in items(range, "PersistentVolumeClaim") {
        problems.extend(hold(item, "min", &requests, &none, |c| c.minimum()));
        problems.extend(hold(item, "max", &requests, &none, |c| c.maximum_request()));
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    fn objects() -> Objects {
        let range = json!({ "metadata": { "name": "l", "namespace": "ns" }, "spec": { "limits": [
            { "type": "Container", "default": { "cpu": "500m" }, "defaultRequest": { "cpu": "100m" }, "min": { "cpu": "50m" },
              "max": { "cpu": "2", "memory": "1Gi" }, "maxLimitRequestRatio": { "cpu": "10" } },
            { "type": "Pod", "max": { "cpu": "3" } },
            { "type": "PersistentVolumeClaim", "min": { "storage": "1Gi" }, "max": { "storage": "2Gi" } },
        ] } });
        Objects::of(vec![("", "limitranges", range)])
    }

    #[test]
    fn what_containers_do_not_state_is_filled_in_and_told() {
        let mut pod = json!({ "metadata": {}, "spec": {
            "containers": [{ "name": "a" }, { "name": "b", "resources": { "limits": { "cpu": "1" }, "requests": { "cpu": "1" } } }],
            "initContainers": [{ "name": "i", "resources": { "requests": { "cpu": "1" } } }],
        } });
        Write::new(Operation::Create, "", "v1", "pods").admit(&LimitRanger, &objects(), &mut pod).unwrap();
        assert_eq!(pod["spec"]["containers"][0]["resources"], json!({ "limits": { "cpu": "500m" }, "requests": { "cpu": "100m" } }));
        assert_eq!(pod["spec"]["initContainers"][0]["resources"], json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "500m" } }));
        assert_eq!(
            str_at(&pod, "/metadata/annotations/kubernetes.io~1limit-ranger"),
            "LimitRanger plugin set: cpu request for container a; cpu limit for container a; cpu limit for init container i"
        );
    }

    #[test]
    fn bounds_are_held_against_containers_and_the_pod() {
        let write = Write::new(Operation::Create, "", "v1", "pods");
        let check = |limit: &str, request: &str| {
            let resources = json!({ "limits": { "cpu": limit, "memory": "1Mi" }, "requests": { "cpu": request, "memory": "1Mi" } });
            let pod = json!({ "spec": { "containers": [{ "name": "c", "resources": resources }] } });
            write.validate(&LimitRanger, &objects(), Some(&pod), None).map_err(|e| e.replace("pods \"x\" is forbidden: ", ""))
        };
        assert!(check("1", "100m").is_ok());
        assert_eq!(
            check("4", "1m").unwrap_err(),
            "[minimum cpu usage per Container is 50m, but request is 1m, maximum cpu usage per Container is 2, but limit is 4, cpu max limit to request ratio per Container is 10, but provided ratio is 4000.000000, maximum cpu usage per Pod is 3, but limit is 4]"
        );
        assert_eq!(check("2", "60m").unwrap_err(), "cpu max limit to request ratio per Container is 10, but provided ratio is 33.333333");
    }

    #[test]
    fn claims_are_bounded_by_what_they_request() {
        let write = Write::new(Operation::Create, "", "v1", "persistentvolumeclaims");
        let check = |size: &str| {
            let claim = json!({ "spec": { "resources": { "requests": { "storage": size } } } });
            write.validate(&LimitRanger, &objects(), Some(&claim), None)
        };
        assert!(check("2Gi").is_ok());
        assert_eq!(
            check("5Gi").unwrap_err(),
            "persistentvolumeclaims \"x\" is forbidden: maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 5Gi"
        );
    }
}
