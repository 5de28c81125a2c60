//! What a pod asks for as a whole: the sum of what runs at once, or the most that its start needs. Pure.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};

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

/// What the pod asks for, or holds while it is resized, whichever is more; with its overhead.
pub fn requests(pod: &Pod) -> Amounts {
    let infeasible = is_infeasible(pod);
    let wanted = |container: &Container| {
        if infeasible { Amounts::new() } else { read(container.resources.as_ref().and_then(|resources| resources.requests.as_ref())) }
    };
    let held = |container: &Container| {
        let status = status(pod, container);
        let mut held = read(status.and_then(|status| status.allocated_resources.as_ref()));
        raise(&mut held, &read(status.and_then(|status| status.resources.as_ref()?.requests.as_ref())));
        if held.is_empty() { wanted(container) } else { held }
    };
    let mut total = aggregate(pod, wanted);
    raise(&mut total, &aggregate(pod, held));
    override_by_own(&mut total, read(own(pod).and_then(|own| own.requests.as_ref())));
    add(&mut total, &read(pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref())));
    total
}

/// As [`requests`]; overhead adds only to what is limited.
pub fn limits(pod: &Pod) -> Amounts {
    let infeasible = is_infeasible(pod);
    let wanted = |container: &Container| {
        if infeasible { Amounts::new() } else { read(container.resources.as_ref().and_then(|resources| resources.limits.as_ref())) }
    };
    let held = |container: &Container| {
        let held = read(status(pod, container).and_then(|status| status.resources.as_ref()?.limits.as_ref()));
        if held.is_empty() { wanted(container) } else { held }
    };
    let mut total = aggregate(pod, wanted);
    raise(&mut total, &aggregate(pod, held));
    override_by_own(&mut total, read(own(pod).and_then(|own| own.limits.as_ref())));
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

    #[test]
    fn what_the_pod_states_itself_goes_before_its_containers() {
        let spec =
            json!({"resources": {"requests": {"cpu": "1", "example.com/x": "1"}}, "containers": [{"name": "a", "resources": cpu("4")}]});
        assert_eq!(print(&requests(&pod(spec, json!({})))), "cpu=1");
    }
}
