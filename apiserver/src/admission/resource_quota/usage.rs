//! What an object counts for in quotas: its number, and what it asks for.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::quantity::{Format, Quantity};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::admission::amounts::{self, Amounts};
use crate::admission::default_storage_class::class_of;
use crate::admission::{Attributes, Operation, pod_amounts};
use crate::registry::core::pod::qos;
use crate::registry::core::resource::{is_extended, is_native, quantity};
use crate::registry::read::{at, int_at, list_at, str_at};

/// A scope that a quota is limited to, as `scopeSelector.matchExpressions` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub name: String,
    pub operator: String,
    pub values: Vec<String>,
}

/// How objects of a resource are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted {
    Pods,
    Services,
    Claims,
    /// By number alone, under these names.
    Objects(Vec<String>),
}

/// Resources that are not stored, and events, which nobody counts.
const IGNORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("", "events"),
    ("events.k8s.io", "events"),
];

/// Resources that were counted under their own name before `count/…` was.
const OLD_NAMES: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

const POD_NAMES: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];

/// What every container must state if a quota counts it.
const REQUIRED_OF_CONTAINERS: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

const SERVICE_NAMES: [&str; 4] = ["count/services", "services", "services.nodeports", "services.loadbalancers"];

const CLAIM_NAMES: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
/// Between a storage class and a resource of its own quota.
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";
const VOLUME_ATTRIBUTES_CLASS: &str = "VolumeAttributesClass";

fn number(count: usize) -> Quantity {
    Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

impl Counted {
    /// How a resource is counted; `None` if it is not.
    pub fn of(group: &str, plural: &str) -> Option<Counted> {
        if IGNORED.contains(&(group, plural)) {
            return None;
        }
        Some(match (group, plural) {
            ("", "pods") => Counted::Pods,
            ("", "services") => Counted::Services,
            ("", "persistentvolumeclaims") => Counted::Claims,
            ("", plural) if OLD_NAMES.contains(&plural) => Counted::Objects(vec![format!("count/{plural}"), plural.to_owned()]),
            ("", plural) => Counted::Objects(vec![format!("count/{plural}")]),
            (group, plural) => Counted::Objects(vec![format!("count/{plural}.{group}")]),
        })
    }

    /// Whether a write can change what is counted.
    pub fn handles(&self, attributes: &Attributes<'_>, new: &Value, old: Option<&Value>) -> bool {
        let (operation, subresource) = (attributes.operation, attributes.subresource);
        match (self, subresource, operation) {
            (Counted::Pods, "", Operation::Update) => old.is_some_and(|old| has_deadline(old) != has_deadline(new)),
            (Counted::Pods, "resize", Operation::Update) => true,
            (Counted::Services | Counted::Claims, "", Operation::Update) => true,
            (Counted::Claims, "status", Operation::Update) => true,
            (_, "", Operation::Create) => true,
            _ => false,
        }
    }

    /// Whether a quota's resource is one that these objects count for.
    pub fn counts_for(&self, name: &str) -> bool {
        match self {
            Counted::Pods => {
                POD_NAMES.contains(&name)
                    || name.starts_with("hugepages-")
                    || name
                        .strip_prefix("requests.")
                        .is_some_and(|r| r.starts_with("hugepages-") || r.starts_with(DEVICE_CLASS) || !is_native(name))
            }
            Counted::Services => SERVICE_NAMES.contains(&name),
            Counted::Claims => {
                name == "count/persistentvolumeclaims"
                    || CLAIM_NAMES.iter().any(|claim| name == *claim || name.strip_suffix(claim).is_some_and(|r| r.ends_with(OF_CLASS)))
            }
            Counted::Objects(names) => names.iter().any(|n| n == name),
        }
    }

    /// Whether an object is within a scope. Objects that have no scopes are in none.
    pub fn is_in_scope(&self, scope: &Scope, object: &Value) -> bool {
        match self {
            Counted::Pods => pod_is_in_scope(scope, object),
            Counted::Claims if scope.name == VOLUME_ATTRIBUTES_CLASS => claim_is_in_scope(scope, object),
            _ => false,
        }
    }

    /// What an object lacks that a quota of these resources demands of it.
    pub fn check_stated(&self, quota: &[&str], object: &Value) -> Result<(), String> {
        if *self != Counted::Pods || pod_amounts::has_pod_level(object) {
            return Ok(());
        }
        let required: Vec<&str> = quota.iter().copied().filter(|name| REQUIRED_OF_CONTAINERS.contains(name)).collect();
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in list_at(object, "/spec/containers").iter().chain(list_at(object, "/spec/initContainers")) {
            let read = |field: &str| amounts::read(at(container, "/resources").get(field));
            let stated = compute(&read("requests"), &read("limits"));
            for name in required.iter().filter(|name| !stated.contains_key(**name)) {
                missing.entry(name).or_default().insert(str_at(container, "/name"));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let tell =
            |(name, containers): (&str, BTreeSet<&str>)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","));
        Err(format!("must specify {}", missing.into_iter().map(tell).collect::<Vec<_>>().join("; ")))
    }

    /// What an object counts for.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        match self {
            Counted::Pods => pod_usage(object, now),
            Counted::Services => service_usage(object),
            Counted::Claims => claim_usage(object),
            Counted::Objects(names) => names.iter().map(|name| (name.clone(), number(1))).collect(),
        }
    }
}

/// Requests and limits under the names that quotas give them.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut usage = Amounts::from([("pods".to_owned(), number(1))]);
    for (name, amount) in requests {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            usage.insert(name.clone(), amount.clone());
            usage.insert(format!("requests.{name}"), amount.clone());
        }
        if is_extended(name) || name.starts_with(DEVICE_CLASS) {
            usage.insert(format!("requests.{name}"), amount.clone());
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            usage.insert(format!("limits.{name}"), amount.clone());
        }
    }
    usage
}

/// A pod that has ended, or should have, counts as an object and for nothing else.
fn pod_usage(pod: &Value, now: Timestamp) -> Amounts {
    let mut usage = Amounts::from([("count/pods".to_owned(), number(1))]);
    if is_alive(pod, now) {
        usage.extend(compute(&pod_amounts::requests(pod), &pod_amounts::limits(pod)));
    }
    usage
}

fn is_alive(pod: &Value, now: Timestamp) -> bool {
    if matches!(str_at(pod, "/status/phase"), "Failed" | "Succeeded") {
        return false;
    }
    let deleted: Option<Timestamp> = str_at(pod, "/metadata/deletionTimestamp").parse().ok();
    let (Some(deleted), Some(grace)) = (deleted, at(pod, "/metadata/deletionGracePeriodSeconds").as_i64()) else { return true };
    deleted.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now <= end)
}

fn service_usage(service: &Value) -> Amounts {
    let ports = list_at(service, "/spec/ports");
    let kind = str_at(service, "/spec/type");
    let node_ports = match kind {
        "LoadBalancer" if at(service, "/spec/allocateLoadBalancerNodePorts") == &Value::Bool(false) => {
            ports.iter().filter(|p| int_at(p, "/nodePort") != 0).count()
        }
        "LoadBalancer" | "NodePort" => ports.len(),
        _ => 0,
    };
    Amounts::from([
        ("count/services".to_owned(), number(1)),
        ("services".to_owned(), number(1)),
        ("services.nodeports".to_owned(), number(node_ports)),
        ("services.loadbalancers".to_owned(), number(usize::from(kind == "LoadBalancer"))),
    ])
}

fn claim_usage(claim: &Value) -> Amounts {
    let mut usage = Amounts::from([("persistentvolumeclaims".to_owned(), number(1))]);
    let size = claim.pointer("/spec/resources/requests/storage").and_then(Value::as_str).map(quantity);
    if let Some(requested) = size {
        let allocated = claim.pointer("/status/allocatedResources/storage").and_then(Value::as_str).map(quantity);
        let mut size = allocated.filter(|allocated| *allocated > requested).unwrap_or(requested);
        size.round_up(0);
        usage.insert("requests.storage".to_owned(), size);
    }
    let class = class_of(claim);
    if !class.is_empty() {
        let of_class: Vec<_> = usage.iter().map(|(name, amount)| (format!("{class}{OF_CLASS}{name}"), amount.clone())).collect();
        usage.extend(of_class);
    }
    usage.insert("count/persistentvolumeclaims".to_owned(), number(1));
    usage
}

fn has_deadline(pod: &Value) -> bool {
    at(pod, "/spec/activeDeadlineSeconds").as_i64().is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(pod: &Value) -> bool {
    qos::of_pod(&apimachinery::view::view(pod)) == "BestEffort"
}

fn pod_is_in_scope(scope: &Scope, pod: &Value) -> bool {
    match scope.name.as_str() {
        "Terminating" => has_deadline(pod),
        "NotTerminating" => !has_deadline(pod),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => scope.selects(Some(str_at(pod, "/spec/priorityClassName")).filter(|class| !class.is_empty())),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

impl Scope {
    /// Whether a label of the scope's name with this value is selected.
    fn selects(&self, value: Option<&str>) -> bool {
        let listed = || value.is_some_and(|value| self.values.iter().any(|v| v == value));
        match self.operator.as_str() {
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "In" => listed(),
            "NotIn" => !listed(),
            _ => false,
        }
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| !list_at(term, "/namespaces").is_empty() || !at(term, "/namespaceSelector").is_null();
    ["/spec/affinity/podAffinity", "/spec/affinity/podAntiAffinity"].iter().any(|affinity| {
        let affinity = at(pod, affinity);
        list_at(affinity, "/requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || list_at(affinity, "/preferredDuringSchedulingIgnoredDuringExecution").iter().any(|w| crosses(at(w, "/podAffinityTerm")))
    })
}

/// The attribute classes that a claim has, had, or is on its way to.
fn claim_is_in_scope(scope: &Scope, claim: &Value) -> bool {
    const NAMES: [&str; 3] = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ];
    let classes: Vec<&str> = NAMES.iter().map(|name| str_at(claim, name)).filter(|class| !class.is_empty()).collect();
    if classes.is_empty() { scope.selects(None) } else { classes.into_iter().any(|class| scope.selects(Some(class))) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    #[test]
    fn objects_count_for_what_they_are_and_ask_for() {
        let print = |plural: &str, object: Value| amounts::print(&Counted::of("", plural).unwrap().usage(&object, now()));
        let resources = json!({ "requests": { "cpu": "1", "example.com/gpu": "2" }, "limits": { "cpu": "2" } });
        assert_eq!(
            print("pods", json!({ "spec": { "containers": [{ "name": "c", "resources": resources }] } })),
            "count/pods=1,cpu=1,limits.cpu=2,pods=1,requests.cpu=1,requests.example.com/gpu=2"
        );
        assert_eq!(print("pods", json!({ "status": { "phase": "Failed" } })), "count/pods=1");
        let stuck = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30 });
        assert_eq!(print("pods", json!({ "metadata": stuck })), "count/pods=1");
        assert_eq!(
            print("services", json!({ "spec": { "type": "LoadBalancer", "ports": [{}, {}] } })),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
        );
        assert_eq!(
            print(
                "persistentvolumeclaims",
                json!({ "spec": { "storageClassName": "gold", "resources": { "requests": { "storage": "1500m" } } } })
            ),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=2,persistentvolumeclaims=1,requests.storage=2"
        );
        assert_eq!(print("secrets", json!({})), "count/secrets=1,secrets=1");
        assert_eq!(Counted::of("", "events"), None);
        assert_eq!(Counted::of("apps", "deployments"), Some(Counted::Objects(vec!["count/deployments.apps".to_owned()])));
    }

    #[test]
    fn names_of_quotas_find_what_counts_for_them() {
        let yes = [
            (Counted::Pods, "requests.example.com/gpu"),
            (Counted::Pods, "requests.hugepages-2Mi"),
            (Counted::Claims, "gold.storageclass.storage.k8s.io/requests.storage"),
        ];
        let no = [(Counted::Pods, "requests.storage"), (Counted::Pods, "services"), (Counted::Claims, "requests.cpu")];
        assert!(yes.iter().all(|(counted, name)| counted.counts_for(name)));
        assert!(!no.iter().any(|(counted, name)| counted.counts_for(name)));
    }

    #[test]
    fn containers_must_state_what_is_counted() {
        let pod = json!({ "spec": { "containers": [
            { "name": "b" }, { "name": "a" }, { "name": "ok", "resources": { "requests": { "cpu": "1", "memory": "1" } } },
        ] } });
        assert_eq!(Counted::Pods.check_stated(&["pods", "limits.ephemeral-storage"], &pod), Ok(()));
        assert_eq!(
            Counted::Pods.check_stated(&["requests.cpu", "memory"], &pod).unwrap_err(),
            "must specify memory for: a,b; requests.cpu for: a,b"
        );
    }

    #[test]
    fn scopes_select_pods() {
        let scope = |name: &str, operator: &str, values: &[&str]| Scope {
            name: name.to_owned(),
            operator: operator.to_owned(),
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        };
        let pod = json!({ "spec": { "activeDeadlineSeconds": 5, "priorityClassName": "high", "containers": [{ "name": "c" }] } });
        let cases = [
            (scope("Terminating", "Exists", &[]), true),
            (scope("NotTerminating", "Exists", &[]), false),
            (scope("BestEffort", "Exists", &[]), true),
            (scope("PriorityClass", "In", &["high"]), true),
            (scope("PriorityClass", "NotIn", &["high"]), false),
            (scope("PriorityClass", "DoesNotExist", &[]), false),
            (scope("CrossNamespacePodAffinity", "Exists", &[]), false),
        ];
        for (scope, expected) in cases {
            assert_eq!(Counted::Pods.is_in_scope(&scope, &pod), expected, "{scope:?}");
        }
    }
}
