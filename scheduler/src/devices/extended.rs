//! Extended resources that device classes stand for: a pod that asks for one gets devices of the class, by a claim that is made for it.
//!
//! Specified by upstream's `extendeddynamicresources.go` and `dynamic-resource-allocation/deviceclass` (v1.37). Pure; the plugins
//! NodeResourcesFit and DynamicResources ask, and [`super::reservation`] writes the claim.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::Object;
use k8s_openapi::api::core::v1::{Container, ContainerExtendedResourceRequest, Pod};
use k8s_openapi::api::resource::v1::{DeviceClass, DeviceRequest, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::Devices;
use super::selector::Selectors;
use crate::resources::{is_extended, value};
use crate::snapshot::node::NodeInfo;
use crate::snapshot::pod::spec;

/// The resource that stands for a class without further ado ends in the class's name.
pub const PREFIX: &str = "deviceclass.resource.kubernetes.io/";
/// On claims that were made for extended resources.
pub const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";

/// Whether a resource of this name may be one that a class stands for.
pub fn may_be(name: &str) -> bool {
    is_extended(name) || name.starts_with(PREFIX)
}

/// Classes by the resources that they stand for.
#[derive(Default)]
pub struct Classes {
    by_resource: HashMap<String, Arc<DeviceClass>>,
    /// Changes with every class.
    pub epoch: u64,
}

impl Classes {
    /// Takes in what classes there are. Of several that stand for one resource the newest counts, of those the first by name.
    pub fn set<'a>(&mut self, classes: impl Iterator<Item = &'a Arc<DeviceClass>>) {
        self.epoch += 1;
        self.by_resource.clear();
        let rank = |class: &DeviceClass| {
            let made = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (made, Reverse(class.name().to_owned()))
        };
        for class in classes {
            self.by_resource.insert(format!("{PREFIX}{}", class.name()), class.clone());
            let Some(name) = class.spec.as_ref().and_then(|spec| spec.extended_resource_name.clone()) else { continue };
            let known = self.by_resource.get(&name);
            if known.is_none_or(|known| rank(known) < rank(class)) {
                self.by_resource.insert(name, class.clone());
            }
        }
    }

    /// The class that stands for the resource.
    pub fn get(&self, resource: &str) -> Option<&DeviceClass> {
        self.by_resource.get(resource).map(|class| &**class)
    }

    /// Whether a pod gets the resource by a class and not of the node, which has none of it itself.
    pub fn gives(&self, resource: &str, node: &NodeInfo) -> bool {
        node.scalars.scalar(resource) == 0 && self.get(resource).is_some()
    }
}

/// Extended resources that a pod asks for, if any of them may come from a class.
pub fn asked_of<'a>(classes: &Classes, scalars: &'a [(Arc<str>, i64)]) -> Option<Vec<&'a (Arc<str>, i64)>> {
    let asked: Vec<_> = scalars.iter().filter(|(name, amount)| *amount != 0 && may_be(name)).collect();
    asked.iter().any(|(name, _)| classes.get(name).is_some()).then_some(asked)
}

/// The claim that was made for the pod's extended resources, when it was tried before.
pub fn made_for(devices: &Devices, pod: &Pod) -> Option<Arc<ResourceClaim>> {
    devices.claims.iter().find(|claim| is_made(claim) && claim.namespace() == pod.namespace() && claim.is_controlled_by(pod.uid())).cloned()
}

/// Whether the claim is one that was made for extended resources.
pub fn is_made(claim: &ResourceClaim) -> bool {
    claim.annotation(ANNOTATION) == Some("true")
}

/// The claim to be made for a pod: it has no name yet.
pub fn claim_for(pod: &Pod, requests: Vec<DeviceRequest>) -> ResourceClaim {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let metadata = ObjectMeta {
        namespace: Some(pod.namespace().to_owned()),
        generate_name: Some(format!("{}-extended-resources-", pod.name())),
        owner_references: Some(vec![owner]),
        annotations: Some([(ANNOTATION.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    };
    let devices = k8s_openapi::api::resource::v1::DeviceClaim { requests: Some(requests), ..Default::default() };
    ResourceClaim { metadata, spec: Some(ResourceClaimSpec { devices: Some(devices) }), status: None }
}

/// Which requests of the claim a container's resources mean.
pub type Mappings = Vec<ContainerExtendedResourceRequest>;

/// A request for a resource, and how many devices it is for.
#[derive(Clone)]
struct Request {
    name: String,
    count: i64,
}

/// The container's request for a resource, and what stands for it. `others` are requests whose devices it may use, since their
/// containers do not run yet.
fn request(place: usize, container: &Container, resource: &str, others: &[Option<Request>]) -> (Option<Request>, Mappings) {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let Some((wanted, all)) = requests.and_then(|requests| Some((value(requests.get(resource)?), requests))).filter(|(n, _)| *n != 0)
    else {
        return (None, Vec::new());
    };
    let mapping = |request: &str| ContainerExtendedResourceRequest {
        container_name: container.name.clone(),
        resource_name: resource.to_owned(),
        request_name: request.to_owned(),
    };
    let (mut had, mut mappings) = (0, Vec::new());
    for other in others.iter().flatten() {
        had += other.count;
        mappings.push(mapping(&other.name));
        if had >= wanted {
            return (None, mappings);
        }
    }
    let index = all.keys().position(|name| name == resource).unwrap_or(0);
    let name = format!("container-{place}-request-{index}");
    mappings.push(mapping(&name));
    (Some(Request { name, count: wanted - had }), mappings)
}

/// What a pod's claim asks for if it is to give these resources, each with its class; and which containers mean what of it.
///
/// Init containers that end share devices with each other and with containers that run after them.
pub fn requests(pod: &Pod, resources: &BTreeMap<&str, &str>) -> (Vec<DeviceRequest>, Mappings) {
    let spec = spec(pod);
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let containers: Vec<&Container> = inits.iter().chain(&spec.containers).collect();
    let ends = |place: &usize| *place < inits.len() && containers[*place].restart_policy.as_deref() != Some("Always");
    let (mut all, mut mappings) = (Vec::new(), Vec::new());
    for (resource, class) in resources {
        let mut lasting: Vec<Option<Request>> = vec![None; containers.len()];
        for place in (0..containers.len()).filter(|place| !ends(place)) {
            let (own, mapped) = request(place, containers[place], resource, &[]);
            lasting[place] = own;
            mappings.extend(mapped);
        }
        let mut largest: Option<Request> = None;
        let mut passing: Vec<String> = Vec::new();
        let mut passing_mappings = Vec::new();
        for place in (0..containers.len()).filter(ends) {
            let (own, mapped) = request(place, containers[place], resource, &lasting[place..]);
            passing_mappings.extend(mapped);
            let Some(own) = own else { continue };
            passing.push(own.name.clone());
            if largest.as_ref().is_none_or(|largest| largest.count < own.count) {
                largest = Some(own);
            }
        }
        if let Some(largest) = &largest {
            let smaller = |name: &String| passing.contains(name) && *name != largest.name;
            let rewritten = passing_mappings.iter_mut().filter(|mapping| smaller(&mapping.request_name));
            rewritten.for_each(|mapping| mapping.request_name.clone_from(&largest.name));
        }
        mappings.extend(passing_mappings);
        all.extend(largest.into_iter().chain(lasting.into_iter().flatten()).map(|request| {
            let (allocation_mode, count) = (Some("ExactCount".to_owned()), Some(request.count));
            let exactly = ExactDeviceRequest { device_class_name: (*class).to_owned(), allocation_mode, count, ..Default::default() };
            DeviceRequest { name: request.name, exactly: Some(exactly), first_available: None }
        }));
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    (all, mappings)
}

/// How many devices of the class there are for a node, and how many of those are given. Nothing if a selector cannot be evaluated.
pub fn totals(devices: &Devices, allocated: &super::allocated::Allocated, class: &DeviceClass, node: &NodeInfo) -> Option<(i64, i64)> {
    let object = node.node.as_deref()?;
    let (mut there, mut given) = (0, 0);
    let selectors: &mut Selectors = &mut devices.selectors.lock();
    let by_class = class.spec.as_ref().and_then(|spec| spec.selectors.as_deref()).unwrap_or_default();
    for slice in devices.slices.for_node(&node.name).filter(|slice| slice.is_for(object)) {
        for device in slice.devices.iter().filter(|device| slice.has_on(device, object)) {
            let mut is_of_class = true;
            for selector in by_class.iter().filter_map(|selector| selector.cel.as_ref()) {
                is_of_class = is_of_class && selectors.select(&selector.expression, &device.value).ok()?;
            }
            if is_of_class {
                there += 1;
                given += i64::from(allocated.has(&device.id) || allocated.is_shared(&device.id));
            }
        }
    }
    Some((there, given))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::of;

    #[test]
    fn of_classes_that_stand_for_one_resource_the_newest_counts() {
        let class = |name: &str, resource: &str, made: &str| -> Arc<DeviceClass> {
            of(json!({"metadata": {"name": name, "creationTimestamp": made}, "spec": {"extendedResourceName": resource}}))
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        for (all, expected) in [
            (vec![class("a", "x.com/gpu", old), class("b", "x.com/gpu", new)], "b"),
            (vec![class("a", "x.com/gpu", new), class("b", "x.com/gpu", old)], "a"),
            (vec![class("b", "x.com/gpu", old), class("a", "x.com/gpu", old)], "a"),
        ] {
            let mut classes = Classes::default();
            classes.set(all.iter());
            assert_eq!(classes.get("x.com/gpu").map(|class| class.name()), Some(expected));
            assert_eq!(classes.get("deviceclass.resource.kubernetes.io/a").map(|class| class.name()), Some("a"));
            assert!(classes.get("x.com/other").is_none());
        }
    }

    /// Containers as `name=amount`, `~` before those that end and `^` before sidecars.
    fn pod(containers: &[&str]) -> Pod {
        let (mut inits, mut others) = (Vec::new(), Vec::new());
        for text in containers {
            let (name, amount) = text.trim_start_matches(['~', '^']).split_once('=').unwrap();
            let requests = if amount == "0" { json!({"cpu": "1"}) } else { json!({"cpu": "1", "x.com/gpu": amount}) };
            let container = json!({"name": name, "resources": {"requests": requests}});
            match &text[..1] {
                "~" => inits.push(container),
                "^" => {
                    let mut sidecar = container;
                    sidecar["restartPolicy"] = json!("Always");
                    inits.push(sidecar);
                }
                _ => others.push(container),
            }
        }
        let pod: Value =
            json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"initContainers": inits, "containers": others}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn containers_share_devices_with_those_that_ran_before_them() {
        // Containers, the requests with their counts, and which container means which.
        let table: [(&[&str], &[&str], &[&str]); 9] = [
            (&["a=2"], &["container-0-request-1=2"], &["a:container-0-request-1"]),
            (
                &["a=2", "b=1"],
                &["container-0-request-1=2", "container-1-request-1=1"],
                &["a:container-0-request-1", "b:container-1-request-1"],
            ),
            (&["a=0", "b=1"], &["container-1-request-1=1"], &["b:container-1-request-1"]),
            // What the container has later is enough for the one that ends before.
            (&["~i=1", "a=2"], &["container-1-request-1=2"], &["a:container-1-request-1", "i:container-1-request-1"]),
            // And if it is not, more is asked for.
            (
                &["~i=3", "a=2"],
                &["container-0-request-1=1", "container-1-request-1=2"],
                &["a:container-1-request-1", "i:container-1-request-1", "i:container-0-request-1"],
            ),
            // Those that end take turns: the largest request is for all of them.
            (&["~i=1", "~j=2", "a=0"], &["container-1-request-1=2"], &["i:container-1-request-1", "j:container-1-request-1"]),
            (&["~i=2", "~j=2", "a=0"], &["container-0-request-1=2"], &["i:container-0-request-1", "j:container-0-request-1"]),
            // A sidecar that runs already keeps what it has.
            (
                &["^s=1", "~i=1", "a=0"],
                &["container-0-request-1=1", "container-1-request-1=1"],
                &["s:container-0-request-1", "i:container-1-request-1"],
            ),
            (&["~i=1", "^s=1", "a=0"], &["container-1-request-1=1"], &["s:container-1-request-1", "i:container-1-request-1"]),
        ];
        for (containers, expected, mapped) in table {
            let (requests, mappings) = requests(&pod(containers), &BTreeMap::from([("x.com/gpu", "gpu")]));
            let told: Vec<String> = requests
                .iter()
                .map(|request| {
                    let exactly = request.exactly.as_ref().unwrap();
                    assert_eq!((exactly.device_class_name.as_str(), exactly.allocation_mode.as_deref()), ("gpu", Some("ExactCount")));
                    format!("{}={}", request.name, exactly.count.unwrap())
                })
                .collect();
            assert_eq!(told, expected, "{containers:?}");
            let told: Vec<String> = mappings.iter().map(|m| format!("{}:{}", m.container_name, m.request_name)).collect();
            assert_eq!(told, mapped, "{containers:?}");
        }
    }

    #[test]
    fn the_claim_belongs_to_the_pod() {
        let claim = serde_json::to_value(claim_for(&pod(&["a=1"]), Vec::new())).unwrap();
        assert_eq!(
            claim["metadata"],
            json!({"namespace": "d", "generateName": "p-extended-resources-", "annotations": {ANNOTATION: "true"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]})
        );
    }
}
