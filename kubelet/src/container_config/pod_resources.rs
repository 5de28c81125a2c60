//! What a whole pod asks for and is limited to: the sum over its containers, or what the pod itself says.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// Amounts by the resource's name.
pub type ResourceList = BTreeMap<String, Quantity>;

/// The amount of a resource; zero if the list does not have it. What is no quantity does not pass the API server and counts as zero.
pub fn amount(list: Option<&BTreeMap<String, Text>>, name: &str) -> Quantity {
    list.and_then(|list| list.get(name)).map(parse).unwrap_or_default()
}

pub fn parse(text: &Text) -> Quantity {
    Quantity::parse(&text.0).unwrap_or_default()
}

/// The container's limit of a resource; zero if it has none.
pub fn limit(container: &Container, name: &str) -> Quantity {
    amount(container.resources.as_ref().and_then(|r| r.limits.as_ref()), name)
}

/// The container's request of a resource; zero if it has none.
pub fn request(container: &Container, name: &str) -> Quantity {
    amount(container.resources.as_ref().and_then(|r| r.requests.as_ref()), name)
}

/// The limit of a resource that the pod has as a whole.
pub fn pod_level_limit(pod: &Pod, name: &str) -> Quantity {
    amount(pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.as_ref()), name)
}

/// Whether a pod as a whole can ask for this resource.
fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

/// Whether the pod as a whole has requests or limits.
pub fn has_pod_level(pod: &Pod) -> bool {
    let Some(resources) = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()) else { return false };
    resources.requests.iter().chain(&resources.limits).flat_map(BTreeMap::keys).any(|name| is_pod_level(name))
}

/// Whether the pod as a whole has requests.
pub fn has_pod_level_requests(pod: &Pod) -> bool {
    let requests = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()).and_then(|r| r.requests.as_ref());
    requests.is_some_and(|requests| requests.keys().any(|name| is_pod_level(name)))
}

/// Which of the two lists of every container is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Requests,
    Limits,
}

/// What the pod asks for, with what running it costs (`spec.overhead`) or without.
pub fn requests(pod: &Pod, with_overhead: bool) -> ResourceList {
    let mut total = total(pod, Which::Requests);
    if with_overhead {
        add(&mut total, &overhead(pod));
    }
    total
}

/// What the pod is limited to. Resources that some container has without a limit are among them all the same.
pub fn limits(pod: &Pod, with_overhead: bool) -> ResourceList {
    let mut total = total(pod, Which::Limits);
    if with_overhead {
        for (name, more) in overhead(pod) {
            if let Some(limit) = total.get_mut(&name).filter(|limit| !limit.is_zero()) {
                *limit = limit.plus(&more);
            }
        }
    }
    total
}

pub fn overhead(pod: &Pod) -> ResourceList {
    read(pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref()))
}

fn total(pod: &Pod, which: Which) -> ResourceList {
    let Some(spec) = &pod.spec else { return ResourceList::new() };
    let of = |container: &Container| {
        let resources = container.resources.as_ref();
        read(resources.and_then(|r| if which == Which::Requests { r.requests.as_ref() } else { r.limits.as_ref() }))
    };
    let mut total = ResourceList::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    // An init container runs beside the sidecars that were started before it, and beside nothing else.
    let (mut sidecars, mut peak) = (ResourceList::new(), ResourceList::new());
    for container in spec.init_containers.iter().flatten() {
        let mut own = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut peak, &own);
    }
    raise(&mut total, &peak);
    if let Some(resources) = spec.resources.as_ref().filter(|_| has_pod_level(pod)) {
        let own = read(if which == Which::Requests { resources.requests.as_ref() } else { resources.limits.as_ref() });
        total.extend(own.into_iter().filter(|(name, _)| is_pod_level(name)));
    }
    total
}

fn read(list: Option<&BTreeMap<String, Text>>) -> ResourceList {
    list.into_iter().flatten().map(|(name, text)| (name.clone(), parse(text))).collect()
}

fn add(total: &mut ResourceList, more: &ResourceList) {
    for (name, amount) in more {
        total.entry(name.clone()).and_modify(|sum| *sum = sum.plus(amount)).or_insert_with(|| amount.clone());
    }
}

fn raise(total: &mut ResourceList, other: &ResourceList) {
    for (name, amount) in other {
        match total.get_mut(name) {
            Some(known) if *known >= *amount => {}
            _ => drop(total.insert(name.clone(), amount.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn init_containers_count_as_the_peak_and_sidecars_for_good() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "overhead": {"cpu": "100m"},
            "initContainers": [
                {"name": "i", "resources": {"requests": {"cpu": "2"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}}},
                {"name": "j", "resources": {"requests": {"cpu": "3"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}}))
        .expect("it is a pod");
        let total = requests(&pod, true);
        assert_eq!(total["cpu"].milli_value(), 3600);
        assert_eq!(total["memory"].value(), 1 << 30);
        assert_eq!(limits(&pod, true)["cpu"].milli_value(), 1100);
    }
}
