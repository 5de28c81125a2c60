//! What pods ask for and nodes offer, as numbers: cpu in thousandths of a core, the rest in bytes or whole units.
//!
//! Specified by upstream's component-helpers `resource.PodRequests` (v1.37) and the scheduler's `Resource`.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::quantity::Quantity as Parsed;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What scoring takes a container to ask for that does not say: a tenth of a core and 200 MiB.
pub const DEFAULT_MILLI_CPU: i64 = 100;
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

pub type List = BTreeMap<String, Quantity>;

/// Amounts by resource. `scalars` are huge pages, attachable volumes and extended resources, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub scalars: Vec<(Arc<str>, i64)>,
}

/// The number in a quantity. The API server has validated every quantity, so one that cannot be read counts nothing.
pub fn value(quantity: &Quantity) -> i64 {
    Parsed::parse(&quantity.0).map_or(0, |q| q.value())
}

fn milli_value(quantity: &Quantity) -> i64 {
    Parsed::parse(&quantity.0).map_or(0, |q| q.milli_value())
}

/// Whether the scheduler counts this resource by its name.
pub fn is_scalar(name: &str) -> bool {
    name.contains('/') || name.starts_with("hugepages-") || name.starts_with("attachable-volumes-")
}

/// Whether this is a resource that somebody other than Kubernetes named.
pub fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

impl Resources {
    /// The amounts of a resource list. `pods` is not among them; see [`pod_limit`].
    pub fn of(list: &List) -> Resources {
        let mut all = Resources::default();
        for (name, quantity) in list {
            match name.as_str() {
                "cpu" => all.milli_cpu = milli_value(quantity),
                "memory" => all.memory = value(quantity),
                "ephemeral-storage" => all.ephemeral_storage = value(quantity),
                name if is_scalar(name) => all.scalars.push((Arc::from(name), value(quantity))),
                _ => {}
            }
        }
        all
    }

    pub fn scalar(&self, name: &str) -> i64 {
        self.scalars.iter().find(|(n, _)| **n == *name).map_or(0, |(_, amount)| *amount)
    }

    fn scalar_mut(&mut self, name: &Arc<str>) -> &mut i64 {
        let place = match self.scalars.binary_search_by(|(n, _)| n.cmp(name)) {
            Ok(place) => place,
            Err(place) => {
                self.scalars.insert(place, (name.clone(), 0));
                place
            }
        };
        &mut self.scalars[place].1
    }

    pub fn add(&mut self, other: &Resources, sign: i64) {
        self.milli_cpu += sign * other.milli_cpu;
        self.memory += sign * other.memory;
        self.ephemeral_storage += sign * other.ephemeral_storage;
        for (name, amount) in &other.scalars {
            *self.scalar_mut(name) += sign * amount;
        }
    }

    pub fn raise_to(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalars {
            let own = self.scalar_mut(name);
            *own = (*own).max(*amount);
        }
    }

    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0 && self.memory == 0 && self.ephemeral_storage == 0 && self.scalars.is_empty()
    }

    /// Takes over what a pod says as a whole, for the resources that it may say it of.
    fn override_pod_level(&mut self, list: &List) {
        for (name, quantity) in list.iter().filter(|(name, _)| is_pod_level(name)) {
            match name.as_str() {
                "cpu" => self.milli_cpu = milli_value(quantity),
                "memory" => self.memory = value(quantity),
                name => *self.scalar_mut(&Arc::from(name)) = value(quantity),
            }
        }
    }

    fn amount(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            name => self.scalar(name),
        }
    }

    /// The amount of a resource by its name; cpu in thousandths.
    pub fn get(&self, name: &str) -> i64 {
        self.amount(name)
    }
}

/// How many pods a node takes.
pub fn pod_limit(list: &List) -> i64 {
    list.get("pods").map_or(0, value)
}

/// What a pod asks for, and what scoring takes it to ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRequests {
    pub requests: Resources,
    pub non_zero_cpu: i64,
    pub non_zero_memory: i64,
}

/// Which of several lists counts for a container.
#[derive(Clone, Copy)]
enum Source {
    Spec,
    Allocated,
    Actuated,
}

#[derive(Clone, Copy, Default)]
struct Defaults {
    cpu: bool,
    memory: bool,
}

/// What a pod asks for. With `by_status` the resources that the kubelet has allocated and applied count too (in-place resize).
pub fn pod_requests(pod: &Pod, by_status: bool) -> PodRequests {
    let requests = total(pod, by_status, Defaults::default());
    let pod_level = pod_level_requests(pod);
    let has = |name: &str| pod_level.is_some_and(|_| presence(pod, name));
    let defaults = match pod_level {
        None => Defaults { cpu: true, memory: true },
        Some(_) => Defaults { cpu: !has("cpu"), memory: !has("memory") },
    };
    let non_zero = if defaults.cpu || defaults.memory { total(pod, by_status, defaults) } else { requests.clone() };
    PodRequests { non_zero_cpu: non_zero.milli_cpu, non_zero_memory: non_zero.memory, requests }
}

/// Whether anything in the pod asks for the resource.
fn presence(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let said = |list: Option<&List>| list.is_some_and(|list| list.contains_key(name));
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    said(spec.resources.as_ref().and_then(|r| r.requests.as_ref()))
        || said(spec.overhead.as_ref())
        || containers.into_iter().any(|c| said(c.resources.as_ref().and_then(|r| r.requests.as_ref())))
}

fn pod_level_requests(pod: &Pod) -> Option<&List> {
    let requests = pod.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.keys().any(|name| is_pod_level(name)).then_some(requests)
}

fn total(pod: &Pod, by_status: bool, defaults: Defaults) -> Resources {
    let infeasible = by_status && is_resize_infeasible(pod);
    let mut all = if !by_status || !has_container_resources(pod) {
        aggregate(pod, Source::Spec, false, defaults)
    } else {
        let mut all = aggregate(pod, Source::Actuated, infeasible, defaults);
        all.raise_to(&aggregate(pod, Source::Allocated, infeasible, defaults));
        if !infeasible {
            all.raise_to(&aggregate(pod, Source::Spec, false, defaults));
        }
        all
    };
    if let Some(requests) = pod_level_requests(pod) {
        all.override_pod_level(requests);
        if let Some(status) = pod.status.as_ref().filter(|_| by_status) {
            let actual = status.resources.as_ref().and_then(|r| r.requests.as_ref());
            for list in actual.into_iter().chain(status.allocated_resources.as_ref()) {
                let mut effective = all.clone();
                effective.override_pod_level(list);
                all.raise_to(&effective);
            }
        }
    }
    if let Some(overhead) = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref()) {
        all.add(&Resources::of(overhead), 1);
    }
    all
}

/// Whether the status says anything of resources; if not, the spec alone counts.
fn has_container_resources(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    statuses.into_iter().any(|s| s.allocated_resources.is_some() || s.resources.is_some())
}

fn is_resize_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().find(|c| c.type_ == "PodResizePending").is_some_and(|c| c.reason.as_deref() == Some("Infeasible"))
}

fn container_list<'a>(container: &'a Container, status: Option<&'a ContainerStatus>, source: Source, infeasible: bool) -> Option<&'a List> {
    let spec = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let allocated = status.and_then(|s| s.allocated_resources.as_ref());
    let actual = status.and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    let fallback = if infeasible { None } else { spec };
    match source {
        Source::Spec => spec,
        Source::Allocated => allocated.or(fallback),
        Source::Actuated => actual.or(allocated).or(fallback),
    }
}

fn aggregate(pod: &Pod, source: Source, infeasible: bool, defaults: Defaults) -> Resources {
    let mut sum = Resources::default();
    let Some(spec) = &pod.spec else { return sum };
    let status = |name: &str| {
        let status = pod.status.as_ref()?;
        status.container_statuses.iter().chain(&status.init_container_statuses).flatten().find(|s| s.name == name)
    };
    let ask = |container: &Container| {
        let status = if matches!(source, Source::Spec) { None } else { status(&container.name) };
        let list = container_list(container, status, source, infeasible);
        let mut ask = list.map(Resources::of).unwrap_or_default();
        let missing = |name: &str| list.is_none_or(|list| !list.contains_key(name));
        if defaults.cpu && missing("cpu") {
            ask.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if defaults.memory && missing("memory") {
            ask.memory = DEFAULT_MEMORY;
        }
        ask
    };
    for container in &spec.containers {
        sum.add(&ask(container), 1);
    }
    // Sidecars run on beside all that start after them; other init containers run one at a time.
    let (mut sidecars, mut highest) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut now = ask(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sum.add(&now, 1);
            sidecars.add(&now, 1);
            now = sidecars.clone();
        } else {
            now.add(&sidecars, 1);
        }
        highest.raise_to(&now);
    }
    sum.raise_to(&highest);
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asks(spec: Value) -> PodRequests {
        pod_requests(&serde_json::from_value(json!({"spec": spec})).unwrap(), true)
    }

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn containers_add_up_and_init_containers_count_where_they_are_higher() {
        let table = [
            (json!({"containers": [container("100m", "1Ki"), container("1", "1Ki")]}), (1100, 2048)),
            (json!({"containers": [container("1", "1Ki")], "initContainers": [container("2", "1")]}), (2000, 1024)),
            (json!({"containers": [container("1", "1")], "overhead": {"cpu": "250m"}}), (1250, 1)),
            (json!({"containers": [container("1", "8")], "resources": {"requests": {"cpu": "5"}}}), (5000, 8)),
        ];
        for (spec, expected) in table {
            let got = asks(spec.clone()).requests;
            assert_eq!((got.milli_cpu, got.memory), expected, "{spec}");
        }
    }

    #[test]
    fn a_sidecar_runs_beside_what_starts_after_it() {
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        let init = json!({"name": "i", "resources": {"requests": {"cpu": "3"}}});
        let containers = json!([container("1", "1")]);
        assert_eq!(asks(json!({"initContainers": [sidecar, init], "containers": containers})).requests.milli_cpu, 4000);
        assert_eq!(asks(json!({"initContainers": [init, sidecar], "containers": containers})).requests.milli_cpu, 3000);
    }

    #[test]
    fn scoring_assumes_something_of_containers_that_ask_for_nothing() {
        let got = asks(json!({"containers": [{"name": "a"}, container("1", "1")]}));
        assert_eq!((got.non_zero_cpu, got.non_zero_memory), (1100, DEFAULT_MEMORY + 1));
        assert_eq!((got.requests.milli_cpu, got.requests.memory), (1000, 1));
    }

    #[test]
    fn what_the_kubelet_has_allocated_counts_until_it_is_given_back() {
        let pod = json!({
            "spec": {"containers": [container("1", "1")]},
            "status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": "3"}, "resources": {"requests": {"cpu": "2"}}}]}
        });
        let pod = serde_json::from_value(pod).unwrap();
        assert_eq!(pod_requests(&pod, true).requests.milli_cpu, 3000);
        assert_eq!(pod_requests(&pod, false).requests.milli_cpu, 1000);
    }

    #[test]
    fn extended_resources_are_counted_by_name() {
        let list: List = [("example.com/gpu", "2"), ("hugepages-2Mi", "4Mi"), ("pods", "110"), ("custom", "1")]
            .map(|(n, q)| (n.to_owned(), Quantity(q.to_owned())))
            .into();
        let got = Resources::of(&list);
        assert_eq!(got.scalars.len(), 2);
        assert_eq!((got.scalar("example.com/gpu"), got.scalar("hugepages-2Mi")), (2, 4 << 20));
        assert_eq!(pod_limit(&list), 110);
        assert!(is_extended("example.com/gpu") && !is_extended("hugepages-2Mi") && !is_extended("node.kubernetes.io/x"));
    }
}
