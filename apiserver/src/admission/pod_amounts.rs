//! What a pod needs as a whole: the sum of what runs at once, or the most that its start needs.
//!
//! Reads spec and status; knows no limit.

use serde_json::Value;

use super::amounts::{Amounts, add, raise, read};
use crate::registry::read::{at, list_at, str_at};

/// What each container needs, by one way of looking at it.
type Need<'a> = dyn Fn(&Value) -> Option<Value> + 'a;

/// Sums up what containers need: main containers and sidecars together, or the init container that needs most.
fn aggregate(pod: &Value, of: &Need<'_>) -> Amounts {
    let need = |container: &Value| read(of(container).as_ref());
    let mut total = Amounts::new();
    for container in list_at(pod, "/spec/containers") {
        add(&mut total, &need(container));
    }
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in list_at(pod, "/spec/initContainers") {
        let mut at_start = need(container);
        if str_at(container, "/restartPolicy") == "Always" {
            add(&mut total, &at_start);
            add(&mut sidecars, &at_start);
            at_start.clone_from(&sidecars);
        } else {
            add(&mut at_start, &sidecars);
        }
        raise(&mut peak, &at_start);
    }
    raise(&mut total, &peak);
    total
}

/// `requests` or `limits` as the containers' specs state them.
pub fn of_specs(pod: &Value, field: &str) -> Amounts {
    aggregate(pod, &|container| container.get("resources")?.get(field).cloned())
}

/// What the pod itself states takes the place of what its containers add up to.
pub fn override_by_pod(pod: &Value, field: &str, total: &mut Amounts, is_pod_level: fn(&str) -> bool) {
    for (name, amount) in read(at(pod, "/spec/resources").get(field)) {
        if is_pod_level(&name) {
            total.insert(name, amount);
        }
    }
}

fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Whether the pod states requests or limits of its own.
pub fn has_pod_level(pod: &Value) -> bool {
    ["requests", "limits"].iter().any(|field| has_own(pod, field))
}

fn has_own(pod: &Value, field: &str) -> bool {
    at(pod, "/spec/resources").get(field).and_then(Value::as_object).is_some_and(|list| list.keys().any(|name| is_pod_level(name)))
}

/// Whether the node has said that a resize will never fit.
fn is_infeasible(pod: &Value) -> bool {
    let pending = list_at(pod, "/status/conditions").iter().find(|c| str_at(c, "/type") == "PodResizePending");
    pending.is_some_and(|c| str_at(c, "/reason") == "Infeasible")
}

fn status_of<'a>(pod: &'a Value, container: &Value) -> Option<&'a Value> {
    let name = str_at(container, "/name");
    let statuses = ["/status/containerStatuses", "/status/initContainerStatuses"];
    statuses.iter().flat_map(|list| list_at(pod, list)).find(|status| str_at(status, "/name") == name)
}

fn present<'a>(value: &'a Value, pointer: &str) -> Option<&'a Value> {
    value.pointer(pointer).filter(|v| !v.is_null())
}

/// All that the pod asks for, has been allocated or uses, whichever is most, with its overhead.
pub fn requests(pod: &Value) -> Amounts {
    let infeasible = is_infeasible(pod);
    let spec_of = |container: &Value| container.pointer("/resources/requests").cloned();
    let wanted = |container: &Value| if infeasible { None } else { spec_of(container) };
    let allocated = |container: &Value| {
        let allocated = status_of(pod, container).and_then(|s| present(s, "/allocatedResources"));
        allocated.cloned().or_else(|| wanted(container))
    };
    let actuated = |container: &Value| {
        let used = status_of(pod, container).and_then(|s| present(s, "/resources/requests").or_else(|| present(s, "/allocatedResources")));
        used.cloned().or_else(|| wanted(container))
    };
    let of_pod = (present(pod, "/status/allocatedResources"), present(pod, "/status/resources/requests"));
    let (allocated, actuated) = match of_pod {
        (Some(allocated), Some(actuated)) => (read(Some(allocated)), read(Some(actuated))),
        _ => (aggregate(pod, &allocated), aggregate(pod, &actuated)),
    };
    let mut total = if infeasible { Amounts::new() } else { aggregate(pod, &spec_of) };
    raise(&mut total, &actuated);
    raise(&mut total, &allocated);
    if has_own(pod, "requests") {
        let mut own = if infeasible { Amounts::new() } else { read(present(pod, "/spec/resources/requests")) };
        if present(pod, "/status/resources").is_some() {
            raise(&mut own, &read(present(pod, "/status/resources/requests")));
            raise(&mut own, &read(present(pod, "/status/allocatedResources")));
        } else {
            own = read(present(pod, "/spec/resources/requests"));
        }
        total.extend(own.into_iter().filter(|(name, _)| is_pod_level(name)));
    }
    add(&mut total, &read(present(pod, "/spec/overhead")));
    total
}

/// As [`requests`]; overhead adds only to what is limited.
pub fn limits(pod: &Value) -> Amounts {
    let infeasible = is_infeasible(pod);
    let spec_of = |container: &Value| container.pointer("/resources/limits").cloned();
    let actuated = |container: &Value| {
        let used = status_of(pod, container).and_then(|s| present(s, "/resources/limits"));
        used.cloned().or_else(|| if infeasible { None } else { spec_of(container) })
    };
    let actuated = match present(pod, "/status/resources/limits") {
        Some(of_pod) => read(Some(of_pod)),
        None => aggregate(pod, &actuated),
    };
    let mut total = if infeasible { Amounts::new() } else { aggregate(pod, &spec_of) };
    raise(&mut total, &actuated);
    if has_pod_level(pod) {
        let mut own = read(present(pod, "/spec/resources/limits"));
        if present(pod, "/status/resources").is_some() {
            if infeasible {
                own.clear();
            }
            raise(&mut own, &read(present(pod, "/status/resources/limits")));
        }
        total.extend(own.into_iter().filter(|(name, _)| is_pod_level(name)));
    }
    for (name, overhead) in read(present(pod, "/spec/overhead")) {
        if let Some(limit) = total.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit = limit.plus(&overhead);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::amounts::print;
    use super::*;

    fn cpu(amount: &str) -> Value {
        json!({ "requests": { "cpu": amount }, "limits": { "cpu": amount } })
    }

    #[test]
    fn a_pod_needs_what_runs_at_once_or_what_its_start_needs() {
        let pod = json!({ "spec": {
            "initContainers": [
                { "name": "s", "restartPolicy": "Always", "resources": cpu("1") },
                { "name": "i", "resources": cpu("5") },
            ],
            "containers": [{ "name": "a", "resources": cpu("2") }, { "name": "b", "resources": cpu("500m") }],
            "overhead": { "cpu": "250m", "memory": "1Mi" },
        }});
        assert_eq!(print(&of_specs(&pod, "requests")), "cpu=6");
        assert_eq!(print(&requests(&pod)), "cpu=6250m,memory=1Mi");
        assert_eq!(print(&limits(&pod)), "cpu=6250m");
    }

    #[test]
    fn what_a_resize_still_holds_counts() {
        let mut pod = json!({
            "spec": { "containers": [{ "name": "a", "resources": cpu("1") }] },
            "status": { "containerStatuses": [{ "name": "a", "allocatedResources": { "cpu": "3" } }] },
        });
        assert_eq!(print(&requests(&pod)), "cpu=3");
        pod["spec"]["containers"][0]["resources"] = cpu("9");
        assert_eq!(print(&requests(&pod)), "cpu=9");
        pod["status"]["conditions"] = json!([{ "type": "PodResizePending", "reason": "Infeasible" }]);
        assert_eq!(print(&requests(&pod)), "cpu=3");
    }

    #[test]
    fn what_the_pod_states_itself_goes_before_its_containers() {
        let pod = json!({ "spec": { "resources": { "requests": { "cpu": "1", "example.com/x": "1" } }, "containers": [{ "name": "a", "resources": cpu("4") }] } });
        assert_eq!(print(&requests(&pod)), "cpu=1");
    }
}
