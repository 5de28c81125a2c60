//! What a pod asks for as a whole: the sum of what runs at once, or the most that its start needs. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::usage::{Amounts, add, raise, read};
use crate::pod_state;

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Main containers and sidecars together, or the init container that needs most next to the sidecars started before it.
fn aggregate(pod: &Pod, need: impl Fn(&Container) -> Amounts) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = Amounts::new();
    spec.containers.iter().for_each(|container| add(&mut total, &need(container)));
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut at_start = need(container);
        if is_sidecar(container) {
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

fn status<'a>(pod: &'a Pod, container: &Container) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.into_iter().find(|status| status.name == container.name)
}

/// The node has said that a resize will never fit: what the spec says is not asked for.
fn is_infeasible(pod: &Pod) -> bool {
    pod_state::condition(pod, "PodResizePending").is_some_and(|pending| pending.reason.as_deref() == Some("Infeasible"))
}

/// Resources that a pod may state for all its containers together.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn own(pod: &Pod) -> Option<&ResourceRequirements> {
    pod.spec.as_ref()?.resources.as_ref()
}

fn override_by_own(total: &mut Amounts, own: Amounts) {
    total.extend(own.into_iter().filter(|(name, _)| is_pod_level(name)));
}

/// Amounts that are there, even if they are none.
type Stated<'a> = Option<&'a BTreeMap<String, Text>>;

/// Whether the pod states requests or limits of its own that count for its containers together.
fn has_own(list: Stated<'_>) -> bool {
    list.is_some_and(|list| list.keys().any(|name| is_pod_level(name)))
}

/// All that the pod asks for, has been allocated or uses, whichever is most, with its overhead. As admission counts it.
pub fn requests(pod: &Pod) -> Amounts {
    let infeasible = is_infeasible(pod);
    let stated = |container: &Container| read(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    let wanted = |container: &Container| if infeasible { Amounts::new() } else { stated(container) };
    let used = |status: &'_ ContainerStatus| status.resources.as_ref().and_then(|resources| resources.requests.clone());
    let allocated = |container: &Container| {
        let allocated = status(pod, container).and_then(|status| status.allocated_resources.as_ref());
        allocated.map_or_else(|| wanted(container), |list| read(Some(list)))
    };
    let actuated = |container: &Container| {
        let status = status(pod, container);
        let list = status.and_then(|status| used(status).or_else(|| status.allocated_resources.clone()));
        list.map_or_else(|| wanted(container), |list| read(Some(&list)))
    };
    let told = pod.status.as_ref();
    let (of_pod, used_by_pod) =
        (told.and_then(|status| status.allocated_resources.as_ref()), told.and_then(|status| status.resources.as_ref()?.requests.as_ref()));
    let (allocated, actuated) = match (of_pod, used_by_pod) {
        (Some(allocated), Some(actuated)) => (read(Some(allocated)), read(Some(actuated))),
        _ => (aggregate(pod, allocated), aggregate(pod, actuated)),
    };
    let mut total = if infeasible { Amounts::new() } else { aggregate(pod, stated) };
    raise(&mut total, &actuated);
    raise(&mut total, &allocated);
    let own_list = own(pod).and_then(|own| own.requests.as_ref());
    if has_own(own_list) {
        let mut own = read(own_list);
        if told.is_some_and(|status| status.resources.is_some()) {
            if infeasible {
                own.clear();
            }
            raise(&mut own, &read(used_by_pod));
            raise(&mut own, &read(of_pod));
        }
        override_by_own(&mut total, own);
    }
    add(&mut total, &read(pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref())));
    total
}

/// As [`requests`]; overhead adds only to what is limited.
pub fn limits(pod: &Pod) -> Amounts {
    let infeasible = is_infeasible(pod);
    let stated = |container: &Container| read(container.resources.as_ref().and_then(|resources| resources.limits.as_ref()));
    let actuated = |container: &Container| {
        let used = status(pod, container).and_then(|status| status.resources.as_ref()?.limits.as_ref());
        match used {
            Some(used) => read(Some(used)),
            None if infeasible => Amounts::new(),
            None => stated(container),
        }
    };
    let told = pod.status.as_ref();
    let used_by_pod = told.and_then(|status| status.resources.as_ref()?.limits.as_ref());
    let actuated = used_by_pod.map_or_else(|| aggregate(pod, actuated), |list| read(Some(list)));
    let mut total = if infeasible { Amounts::new() } else { aggregate(pod, stated) };
    raise(&mut total, &actuated);
    let own = own(pod);
    if own.is_some_and(|own| has_own(own.requests.as_ref()) || has_own(own.limits.as_ref())) {
        let mut limits = read(own.and_then(|own| own.limits.as_ref()));
        if told.is_some_and(|status| status.resources.is_some()) {
            if infeasible {
                limits.clear();
            }
            raise(&mut limits, &read(used_by_pod));
        }
        override_by_own(&mut total, limits);
    }
    for (name, overhead) in read(pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref())) {
        if let Some(limit) = total.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit = limit.plus(&overhead);
        }
    }
    total
}

/// No container asks for or is limited in processors or memory.
pub fn is_best_effort(pod: &Pod) -> bool {
    let asks = |resources: Option<&ResourceRequirements>| {
        let lists = resources.into_iter().flat_map(|resources| [read(resources.requests.as_ref()), read(resources.limits.as_ref())]);
        lists.into_iter().flatten().any(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && amount.sign() > 0)
    };
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    !asks(own(pod)) && !containers.into_iter().any(|container| asks(container.resources.as_ref()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn print(amounts: &Amounts) -> String {
        amounts.iter().map(|(name, amount)| format!("{name}={}", amount.canonical())).collect::<Vec<_>>().join(",")
    }

    fn cpu(amount: &str) -> serde_json::Value {
        json!({"requests": {"cpu": amount}, "limits": {"cpu": amount}})
    }

    fn pod(spec: serde_json::Value, status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn a_pod_needs_what_runs_at_once_or_what_its_start_needs() {
        let spec = json!({
            "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": cpu("1")}, {"name": "i", "resources": cpu("5")}],
            "containers": [{"name": "a", "resources": cpu("2")}, {"name": "b", "resources": cpu("500m")}],
            "overhead": {"cpu": "250m", "memory": "1Mi"},
        });
        let pod = pod(spec, json!({}));
        assert_eq!(print(&requests(&pod)), "cpu=6250m,memory=1Mi");
        assert_eq!(print(&limits(&pod)), "cpu=6250m");
        assert!(!is_best_effort(&pod));
    }

    #[test]
    fn what_a_resize_still_holds_counts() {
        let status = json!({"containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "allocatedResources": {"cpu": "3"}}]});
        let spec = |amount| json!({"containers": [{"name": "a", "resources": cpu(amount)}]});
        assert_eq!(print(&requests(&pod(spec("1"), status.clone()))), "cpu=3");
        assert_eq!(print(&requests(&pod(spec("9"), status))), "cpu=9");
    }

    /// As admission counts them: what it charges and what is counted must not differ.
    #[test]
    fn sums_are_compared_not_containers() {
        let container = |name: &str, requested: &str| json!({"name": name, "resources": {"requests": {"cpu": requested}}});
        let status = |name: &str, allocated: &str, used: &str| {
            json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": allocated}, "resources": {"requests": {"cpu": used}}})
        };
        let spec = json!({"containers": [container("a", "1"), container("b", "1")]});
        // Of 1 + 1 wanted, 3 + 1 allocated and 1 + 4 used the greatest sum counts, not the greatest of each.
        let told = json!({"containerStatuses": [status("a", "3", "1"), status("b", "1", "4")]});
        assert_eq!(print(&requests(&pod(spec.clone(), told))), "cpu=5");
        // What is said of the pod as a whole goes before what is said of its containers.
        let of_pod = json!({
            "allocatedResources": {"cpu": "6"}, "resources": {"requests": {"cpu": "7"}},
            "containerStatuses": [status("a", "30", "1"), status("b", "1", "40")],
        });
        assert_eq!(print(&requests(&pod(spec.clone(), of_pod.clone()))), "cpu=7");
        let own = json!({"resources": {"requests": {"cpu": "2"}}, "containers": spec["containers"]});
        assert_eq!(print(&requests(&pod(own, of_pod))), "cpu=7");
    }

    #[test]
    fn what_the_pod_states_itself_goes_before_its_containers() {
        let spec =
            json!({"resources": {"requests": {"cpu": "1", "example.com/x": "1"}}, "containers": [{"name": "a", "resources": cpu("4")}]});
        assert_eq!(print(&requests(&pod(spec, json!({})))), "cpu=1");
    }
}
