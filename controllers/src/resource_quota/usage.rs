//! What objects count for in quotas: their number, and what they ask for. Pure.

use std::collections::BTreeMap;

use apimachinery::quantity::{Format, Quantity};
use client::Object;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodAffinityTerm, ScopedResourceSelectorRequirement, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::pod_amounts;
use crate::pod_state;

/// Amounts by name, in the order of names.
pub type Amounts = BTreeMap<String, Quantity>;

/// Between a storage class and a resource of its own quota.
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";

pub fn number(count: usize) -> Quantity {
    Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// Reads a list of amounts; what is no quantity counts for nothing.
pub fn read(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    let amounts = list.into_iter().flatten();
    amounts.filter_map(|(name, text)| Some((name.clone(), Quantity::parse(&text.0).ok()?))).collect()
}

pub fn write(amounts: &Amounts) -> BTreeMap<String, Text> {
    amounts.iter().map(|(name, amount)| (name.clone(), Text(amount.canonical()))).collect()
}

pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.get(name).map_or_else(|| amount.clone(), |sum| sum.plus(amount));
        total.insert(name.clone(), sum);
    }
}

/// The greater of each.
pub fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if total.get(name).is_none_or(|most| amount > most) {
            total.insert(name.clone(), amount.clone());
        }
    }
}

/// Kinds that count for more than their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    Pods,
    Services,
    Claims,
}

impl Counted {
    pub const ALL: [Counted; 3] = [Counted::Pods, Counted::Services, Counted::Claims];

    /// Whether objects of this kind count for the name in a quota.
    pub fn counts_for(self, name: &str) -> bool {
        match self {
            Counted::Pods => {
                let compute = |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage");
                let requested = name.strip_prefix("requests.");
                compute(name)
                    || matches!(name, "pods" | "count/pods")
                    || requested.is_some_and(compute)
                    || name.strip_prefix("limits.").is_some_and(compute)
                    || name.starts_with("hugepages-")
                    || requested.is_some_and(|name| name.starts_with("hugepages-") || is_extended(name))
            }
            Counted::Services => matches!(name, "count/services" | "services" | "services.nodeports" | "services.loadbalancers"),
            Counted::Claims => {
                let own = |name: &str| matches!(name, "persistentvolumeclaims" | "requests.storage");
                name == "count/persistentvolumeclaims" || own(name) || name.split_once(OF_CLASS).is_some_and(|(_, name)| own(name))
            }
        }
    }
}

/// A resource that is not Kubernetes' own: `vendor.com/thing`.
fn is_extended(name: &str) -> bool {
    name.starts_with(DEVICE_CLASS)
        || (name.contains('/') && !name.split_once('/').is_some_and(|(domain, _)| domain.ends_with("kubernetes.io")))
}

/// Whether the pod still holds what it asked for.
pub fn is_alive(pod: &Pod, now: Timestamp) -> bool {
    let over = pod.metadata.deletion_timestamp.as_ref().zip(pod.metadata.deletion_grace_period_seconds).is_some_and(|(deleted, grace)| {
        // Upstream adds the grace period to a time that has it already.
        deleted.0.saturating_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now > end)
    });
    !pod_state::is_terminal(pod) && !over
}

pub fn pod(pod: &Pod, now: Timestamp) -> Amounts {
    let mut usage = Amounts::from([("count/pods".to_owned(), number(1))]);
    if !is_alive(pod, now) {
        return usage;
    }
    usage.insert("pods".to_owned(), number(1));
    for (name, amount) in pod_amounts::requests(pod) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            usage.insert(name.clone(), amount.clone());
            usage.insert(format!("requests.{name}"), amount);
        } else if is_extended(&name) {
            usage.insert(format!("requests.{name}"), amount);
        }
    }
    for (name, amount) in pod_amounts::limits(pod) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), amount);
        }
    }
    usage
}

pub fn service(service: &Service) -> Amounts {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let (node_ports, balancers) = match spec.type_.as_deref() {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => {
            (ports.iter().filter(|port| port.node_port.is_some_and(|port| port != 0)).count(), 1)
        }
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    let counts = [("count/services", 1), ("services", 1), ("services.nodeports", node_ports), ("services.loadbalancers", balancers)];
    counts.into_iter().map(|(name, count)| (name.to_owned(), number(count))).collect()
}

pub fn claim(claim: &PersistentVolumeClaim) -> Amounts {
    let class = claim.annotation(CLASS_ANNOTATION).or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref()).unwrap_or("");
    let mut usage = Amounts::from([("count/persistentvolumeclaims".to_owned(), number(1))]);
    let mut charge = |name: &str, amount: Quantity| {
        if !class.is_empty() {
            usage.insert(format!("{class}{OF_CLASS}{name}"), amount.clone());
        }
        usage.insert(name.to_owned(), amount);
    };
    charge("persistentvolumeclaims", number(1));
    let requested = read(claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref())).remove("storage");
    let allocated = read(claim.status.as_ref().and_then(|status| status.allocated_resources.as_ref())).remove("storage");
    if let Some(mut storage) = requested {
        if let Some(allocated) = allocated.filter(|allocated| *allocated > storage) {
            storage = allocated;
        }
        storage.round_up(0);
        charge("requests.storage", storage);
    }
    usage
}

/// Whether one of the values that an object has for a scope fits it.
fn fits(scope: &ScopedResourceSelectorRequirement, has: &[&str]) -> bool {
    let listed = |value: &&&str| scope.values.iter().flatten().any(|v| v == **value);
    match scope.operator.as_str() {
        "Exists" => !has.is_empty(),
        "DoesNotExist" => has.is_empty(),
        "In" => has.iter().any(|value| listed(&value)),
        "NotIn" => has.is_empty() || has.iter().any(|value| !listed(&value)),
        _ => false,
    }
}

pub fn pod_in_scope(pod: &Pod, scope: &ScopedResourceSelectorRequirement) -> bool {
    let spec = pod.spec.as_ref();
    let terminating = spec.and_then(|spec| spec.active_deadline_seconds).is_some_and(|seconds| seconds >= 0);
    match scope.scope_name.as_str() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => pod_amounts::is_best_effort(pod),
        "NotBestEffort" => !pod_amounts::is_best_effort(pod),
        "PriorityClass" => {
            let class = spec.and_then(|spec| spec.priority_class_name.as_deref()).filter(|class| !class.is_empty());
            fits(scope, class.as_slice())
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return false };
    let (near, far) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let required = near
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()))
        .flatten();
    let preferred = near
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()))
        .flatten();
    let crosses = |term: &PodAffinityTerm| term.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || term.namespace_selector.is_some();
    required.into_iter().any(crosses) || preferred.into_iter().any(|weighted| crosses(&weighted.pod_affinity_term))
}

pub fn claim_in_scope(claim: &PersistentVolumeClaim, scope: &ScopedResourceSelectorRequirement) -> bool {
    if scope.scope_name != "VolumeAttributesClass" {
        return false;
    }
    let status = claim.status.as_ref();
    let classes = [
        claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()),
        status.and_then(|status| status.current_volume_attributes_class_name.as_deref()),
        status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref()),
    ];
    let classes: Vec<&str> = classes.into_iter().flatten().filter(|class| !class.is_empty()).collect();
    fits(scope, &classes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn print(amounts: &Amounts) -> String {
        amounts.iter().map(|(name, amount)| format!("{name}={}", amount.canonical())).collect::<Vec<_>>().join(",")
    }

    fn scope(name: &str, operator: &str, values: &[&str]) -> ScopedResourceSelectorRequirement {
        let values = Some(values.iter().map(|&v| v.to_owned()).collect());
        ScopedResourceSelectorRequirement { scope_name: name.to_owned(), operator: operator.to_owned(), values }
    }

    #[test]
    fn a_pod_counts_for_what_it_asks_until_it_is_over() {
        let mut pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [{"name": "c", "resources": {
                "requests": {"cpu": "500m", "example.com/x": "2", "hugepages-2Mi": "4Mi"}, "limits": {"memory": "1Gi"},
            }}]},
        }))
        .unwrap();
        let expected = "count/pods=1,cpu=500m,hugepages-2Mi=4Mi,limits.memory=1Gi,pods=1,requests.cpu=500m,requests.example.com/x=2,requests.hugepages-2Mi=4Mi";
        assert_eq!(print(&super::pod(&pod, Timestamp::UNIX_EPOCH)), expected);
        pod.status.get_or_insert_default().phase = Some("Succeeded".to_owned());
        assert_eq!(print(&super::pod(&pod, Timestamp::UNIX_EPOCH)), "count/pods=1");
    }

    #[test]
    fn services_count_their_node_ports() {
        let service = |spec| print(&super::service(&serde_json::from_value(json!({"spec": spec})).unwrap()));
        let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30000}]);
        let counts =
            |nodes, balancers| format!("count/services=1,services=1,services.loadbalancers={balancers},services.nodeports={nodes}");
        assert_eq!(service(json!({"ports": ports})), counts(0, 0));
        assert_eq!(service(json!({"type": "NodePort", "ports": ports})), counts(2, 0));
        assert_eq!(service(json!({"type": "LoadBalancer", "ports": ports})), counts(2, 1));
        assert_eq!(service(json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false})), counts(1, 1));
    }

    #[test]
    fn a_claim_counts_for_its_class_too() {
        let claim = serde_json::from_value(json!({
            "spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"allocatedResources": {"storage": "2Gi"}},
        }))
        .unwrap();
        let expected = "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=2Gi,persistentvolumeclaims=1,requests.storage=2Gi";
        assert_eq!(print(&super::claim(&claim)), expected);
    }

    #[test]
    fn names_belong_to_the_kinds_that_count_for_them() {
        for (name, expected) in [
            ("requests.cpu", Some(Counted::Pods)),
            ("requests.nvidia.com/gpu", Some(Counted::Pods)),
            ("services.nodeports", Some(Counted::Services)),
            ("requests.storage", Some(Counted::Claims)),
            ("gold.storageclass.storage.k8s.io/requests.storage", Some(Counted::Claims)),
            ("count/configmaps", None),
        ] {
            assert_eq!(Counted::ALL.into_iter().find(|counted| counted.counts_for(name)), expected, "{name}");
        }
    }

    #[test]
    fn scopes_choose_pods() {
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [], "activeDeadlineSeconds": 5, "priorityClassName": "high"}})).unwrap();
        for (scope, expected) in [
            (scope("Terminating", "Exists", &[]), true),
            (scope("NotTerminating", "Exists", &[]), false),
            (scope("BestEffort", "Exists", &[]), true),
            (scope("PriorityClass", "In", &["high"]), true),
            (scope("PriorityClass", "NotIn", &["high"]), false),
            (scope("PriorityClass", "DoesNotExist", &[]), false),
            (scope("CrossNamespacePodAffinity", "Exists", &[]), false),
            (scope("VolumeAttributesClass", "Exists", &[]), false),
        ] {
            assert_eq!(pod_in_scope(&pod, &scope), expected, "{scope:?}");
        }
    }
}
