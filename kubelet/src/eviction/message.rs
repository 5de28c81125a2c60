//! What an evicted pod is told of the reason.

use std::collections::BTreeMap;

use apimachinery::quantity::{Format, Quantity};
use client::Object;
use k8s_openapi::api::core::v1::Pod;

use super::observation::Observations;
use super::rank::container_request;
use super::threshold::{Signal, Threshold};
use crate::container_config::pod_resources::{has_pod_level, parse};
use crate::stats::api::{ContainerStats, PodStats};

fn binary(amount: i64) -> Quantity {
    Quantity::new(amount, Format::BinarySi)
}

fn amount(signal: Signal, amount: i64) -> Quantity {
    let decimal = matches!(signal.resource(), "inodes" | "pids");
    Quantity::new(amount, if decimal { Format::DecimalSi } else { Format::BinarySi })
}

/// The message of the pod's status and event, and the event's annotations.
pub fn of(
    resource: &str,
    pod: &Pod,
    stats: Option<&PodStats>,
    thresholds: &[Threshold],
    observations: &Observations,
) -> (String, BTreeMap<String, String>) {
    let mut message = format!("The node was low on resource: {resource}. ");
    let met = thresholds.iter().find(|threshold| threshold.signal.resource() == resource);
    if let Some((threshold, observed)) = met.and_then(|threshold| Some((threshold, observations.get(&threshold.signal)?))) {
        let value = amount(threshold.signal, threshold.value.of(observed.capacity));
        message.push_str(&format!("Threshold quantity: {value}, available: {}. ", amount(threshold.signal, observed.available)));
    }
    let mut annotations = BTreeMap::new();
    let Some(stats) = stats else { return (message, annotations) };
    if resource == "memory" && has_pod_level(pod) {
        let request = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("memory")).map(parse);
        if let Some((request, memory)) = request.zip(stats.memory.as_ref()) {
            let used = binary(i64::try_from(memory.working_set_bytes).unwrap_or(i64::MAX));
            let name = pod.name();
            message.push_str(&format!("Pod {name} was using {used}, request is {request}, has larger consumption of {resource}. "));
            annotations.insert("offending_pod".to_owned(), name.to_owned());
            annotations.insert("offending_pod_usage".to_owned(), used.to_string());
        }
    }
    let (mut names, mut usages) = (Vec::new(), Vec::new());
    for container in &stats.containers {
        let Some(used) = used(container, resource) else { continue };
        let Some(request) = container_request(pod, &container.name, resource) else { continue };
        if used > request {
            let name = &container.name;
            message.push_str(&format!("Container {name} was using {used}, request is {request}, has larger consumption of {resource}. "));
            names.push(name.clone());
            usages.push(used.to_string());
        }
    }
    annotations.insert("offending_containers".to_owned(), names.join(","));
    annotations.insert("offending_containers_usage".to_owned(), usages.join(","));
    annotations.insert("starved_resource".to_owned(), resource.to_owned());
    (message, annotations)
}

fn used(container: &ContainerStats, resource: &str) -> Option<Quantity> {
    let bytes = match resource {
        "memory" => container.memory.as_ref()?.working_set_bytes,
        "ephemeral-storage" => container.rootfs.as_ref()?.used_bytes + container.logs.as_ref()?.used_bytes,
        _ => return None,
    };
    Some(binary(i64::try_from(bytes).unwrap_or(i64::MAX)))
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::eviction::observation::Observation;
    use crate::eviction::threshold::Value;
    use crate::stats::api::{MemoryStats, PodReference};

    pub fn pod_stats(uid: &str, bytes: u64) -> PodStats {
        let time = Timestamp::UNIX_EPOCH;
        let memory = MemoryStats {
            time,
            available_bytes: None,
            usage_bytes: bytes,
            working_set_bytes: bytes,
            rss_bytes: 0,
            page_faults: 0,
            major_page_faults: 0,
        };
        let container = ContainerStats {
            name: "c".to_owned(),
            start_time: time,
            cpu: None,
            memory: Some(memory.clone()),
            rootfs: None,
            logs: None,
            swap: None,
            origin: Default::default(),
        };
        PodStats {
            pod_ref: PodReference { name: uid.to_owned(), namespace: "d".to_owned(), uid: uid.to_owned() },
            start_time: time,
            containers: vec![container],
            cpu: None,
            memory: Some(memory),
            network: None,
            volumes: Vec::new(),
            ephemeral_storage: None,
            processes: None,
            swap: None,
        }
    }

    #[test]
    fn the_message_tells_of_the_node_and_of_who_used_too_much() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]}}))
        .expect("it is a pod");
        let threshold =
            Threshold { signal: Signal::MemoryAvailable, value: Value::Amount(100 << 20), grace: Duration::ZERO, min_reclaim: None };
        let observations = Observations::from([(Signal::MemoryAvailable, Observation { available: 5 << 20, capacity: 1 << 30 })]);
        let (message, annotations) = of("memory", &pod, Some(&pod_stats("u", 2 << 20)), &[threshold], &observations);
        assert_eq!(
            message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 5Mi. \
             Container c was using 2Mi, request is 1Mi, has larger consumption of memory. "
        );
        assert_eq!(annotations["offending_containers"], "c");
        assert_eq!(annotations["starved_resource"], "memory");
    }
}
