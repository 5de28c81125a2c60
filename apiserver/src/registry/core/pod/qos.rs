//! A pod's quality of service class, which follows from its requests and limits.

use apimachinery::quantity::Quantity;
use apimachinery::view::view;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};
use serde_json::Value;

use super::access::{items, text};
use super::validation::{amount, is_pod_level};
use crate::registry::read::list_at;

/// The class that the pod has been given, or the one it should have.
pub fn of_pod(pod: &Pod) -> String {
    let given = pod.status.as_ref().map(|status| text(&status.qos_class)).filter(|class| !class.is_empty());
    given.or_else(|| pod.spec.as_ref().map(compute)).unwrap_or("BestEffort").to_owned()
}

/// The class that follows from the spec.
pub fn compute(spec: &PodSpec) -> &'static str {
    let none = ResourceRequirements::default();
    let containers = items(&spec.init_containers).iter().chain(&spec.containers);
    of_all(spec.resources.as_ref(), containers.map(|c| of_requirements(c.resources.as_ref().unwrap_or(&none))))
}

/// The same for a spec that has not been read.
pub fn of_value(spec: &Value) -> &'static str {
    let read = |value: &Value| value.get("resources").filter(|value| value.is_object()).map(view::<ResourceRequirements>);
    let containers = list_at(spec, "/initContainers").iter().chain(list_at(spec, "/containers"));
    of_all(read(spec).as_ref(), containers.map(|container| of_requirements(&read(container).unwrap_or_default())))
}

fn of_all(pod_level: Option<&ResourceRequirements>, mut classes: impl Iterator<Item = &'static str>) -> &'static str {
    if let Some(resources) = pod_level.filter(|resources| has_pod_level(resources)) {
        return of_requirements(resources);
    }
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
            let spec = json!({"containers": containers});
            assert_eq!((compute(&view(&spec)), of_value(&spec)), (class, class), "{containers}");
        }
        let pod_level = json!({"containers": [{}], "resources": both});
        assert_eq!((compute(&view(&pod_level)), of_value(&pod_level)), ("Guaranteed", "Guaranteed"));
    }
}
