//! Quality of service: how much a pod's requests and limits promise, which decides its cgroup, its OOM score and its place in evictions.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::pod_resources::{amount, has_pod_level};

/// The classes, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Guaranteed => "Guaranteed",
            Class::Burstable => "Burstable",
            Class::BestEffort => "BestEffort",
        })
    }
}

/// A pod's class: the one its status has, since that never changes, or else what its spec says.
pub fn class(pod: &Pod) -> Class {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => Class::Guaranteed,
        Some("Burstable") => Class::Burstable,
        Some("BestEffort") => Class::BestEffort,
        _ => class_of_spec(pod),
    }
}

/// The class that a pod's spec makes it.
pub fn class_of_spec(pod: &Pod) -> Class {
    let Some(spec) = &pod.spec else { return Class::BestEffort };
    if let Some(resources) = spec.resources.as_ref().filter(|_| has_pod_level(pod)) {
        return class_of_requirements(Some(resources));
    }
    let mut all: Option<Class> = None;
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        match (class_of_requirements(container.resources.as_ref()), all) {
            (Class::Burstable, _) => return Class::Burstable,
            (one, Some(others)) if one != others => return Class::Burstable,
            (one, _) => all = Some(one),
        }
    }
    all.unwrap_or(Class::BestEffort)
}

fn class_of_requirements(resources: Option<&ResourceRequirements>) -> Class {
    let Some(resources) = resources else { return Class::BestEffort };
    if is_empty(&resources.requests) && is_empty(&resources.limits) {
        return Class::BestEffort;
    }
    let of = |name: &str| {
        let (request, limit) = (amount(resources.requests.as_ref(), name), amount(resources.limits.as_ref(), name));
        match request == limit {
            false => Class::Burstable,
            true if request.is_zero() => Class::BestEffort,
            true => Class::Guaranteed,
        }
    };
    let (cpu, memory) = (of("cpu"), of("memory"));
    if cpu == memory { cpu } else { Class::Burstable }
}

fn is_empty(list: &Option<BTreeMap<String, Quantity>>) -> bool {
    list.as_ref().is_none_or(BTreeMap::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers}})).expect("it is a pod")
    }

    #[test]
    fn the_class_follows_from_what_every_container_asks_for() {
        let full = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}});
        let cases = [
            (json!([{"name": "a"}]), Class::BestEffort),
            (json!([{"name": "a", "resources": {"requests": {"cpu": "0"}}}]), Class::BestEffort),
            (json!([{"name": "a", "resources": {"requests": {"example.com/x": "1"}}}]), Class::BestEffort),
            (json!([{"name": "a", "resources": full}]), Class::Guaranteed),
            (json!([{"name": "a", "resources": full}, {"name": "b"}]), Class::Burstable),
            (json!([{"name": "a", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}]), Class::Burstable),
            (json!([{"name": "a", "resources": {"limits": {"memory": "1Gi"}}}]), Class::Burstable),
        ];
        for (containers, class) in cases {
            assert_eq!(class_of_spec(&pod(containers.clone())), class, "{containers}");
        }
    }

    #[test]
    fn resources_of_the_pod_count_before_those_of_containers() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
            "containers": [{"name": "a"}]}}))
        .expect("it is a pod");
        assert_eq!(class_of_spec(&pod), Class::Guaranteed);
    }
}
