//! A pod's quality of service class, which follows from its requests and limits.

use apimachinery::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};

use super::access::{items, text};
use super::validation::{amount, is_pod_level};

/// The class that the pod has been given, or the one it should have.
pub fn of_pod(pod: &Pod) -> String {
    let given = pod.status.as_ref().map(|status| text(&status.qos_class)).filter(|class| !class.is_empty());
    given.or_else(|| pod.spec.as_ref().map(compute)).unwrap_or("BestEffort").to_owned()
}

/// The class that follows from the spec.
pub fn compute(spec: &PodSpec) -> &'static str {
    if let Some(resources) = spec.resources.as_ref().filter(|r| has_pod_level(r)) {
        return of_requirements(resources);
    }
    let none = ResourceRequirements::default();
    let containers = items(&spec.init_containers).iter().chain(&spec.containers);
    let mut classes = containers.map(|c| of_requirements(c.resources.as_ref().unwrap_or(&none)));
    let Some(first) = classes.next() else { return "BestEffort" };
    if classes.all(|class| class == first) { first } else { "Burstable" }
}

fn has_pod_level(resources: &ResourceRequirements) -> bool {
    [&resources.requests, &resources.limits].into_iter().flatten().flat_map(|list| list.keys()).any(|name| is_pod_level(name))
}

fn of_requirements(resources: &ResourceRequirements) -> &'static str {
    let cpu = of_resource(resources, "cpu");
    if cpu == of_resource(resources, "memory") { cpu } else { "Burstable" }
}

fn of_resource(resources: &ResourceRequirements, name: &str) -> &'static str {
    let of = |list: &Option<super::access::ResourceList>| list.as_ref().and_then(|list| list.get(name)).map(amount);
    let (request, limit) = (of(&resources.requests).unwrap_or_default(), of(&resources.limits).unwrap_or_default());
    match (request == limit, request == Quantity::default()) {
        (false, _) => "Burstable",
        (true, true) => "BestEffort",
        (true, false) => "Guaranteed",
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        let both = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        let some = json!({"requests": {"cpu": "1"}});
        let extended = json!({"limits": {"example.com/x": "1"}, "requests": {"example.com/x": "1"}});
        let cases = [
            (json!([{}]), "BestEffort"),
            (json!([{"resources": both}]), "Guaranteed"),
            (json!([{"resources": some}]), "Burstable"),
            (json!([{"resources": both}, {}]), "Burstable"),
            (json!([{"resources": extended}]), "BestEffort"),
        ];
        for (containers, class) in cases {
            let spec: PodSpec = view(&json!({"containers": containers}));
            assert_eq!(compute(&spec), class, "{containers}");
        }
        let pod_level: PodSpec = view(&json!({"containers": [{}], "resources": both}));
        assert_eq!(compute(&pod_level), "Guaranteed");
    }
}
