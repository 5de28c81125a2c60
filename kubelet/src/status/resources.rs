//! What a pod asks for in all, as its status tells it.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod;

pub type List = BTreeMap<String, Quantity>;

fn parse(quantity: &Quantity) -> Option<Amount> {
    Amount::parse(&quantity.0).ok()
}

fn add(sum: &mut List, more: &List) {
    for (name, quantity) in more {
        let added = match sum.get(name).and_then(parse).zip(parse(quantity)) {
            Some((a, b)) => Quantity(a.plus(&b).canonical()),
            None => quantity.clone(),
        };
        sum.insert(name.clone(), added);
    }
}

fn raise(most: &mut List, other: &List) {
    for (name, quantity) in other {
        let known = most.get(name).and_then(parse);
        let larger = match (known, parse(quantity)) {
            (Some(a), Some(b)) => b.minus(&a).sign() > 0,
            _ => true,
        };
        if larger {
            most.insert(name.clone(), quantity.clone());
        }
    }
}

type Pick = fn(&ResourceRequirements) -> Option<&List>;

fn of_container(container: &Container, pick: Pick) -> List {
    container.resources.as_ref().and_then(pick).cloned().unwrap_or_default()
}

/// The main containers together, or what initialization takes at its worst moment, whichever is more; and the overhead.
fn in_all(pod: &Pod, pick: Pick, with_overhead: impl Fn(&List, &str) -> bool) -> List {
    let mut sum = List::new();
    pod::containers(pod).iter().for_each(|container| add(&mut sum, &of_container(container, pick)));
    let (mut sidecars, mut worst) = (List::new(), List::new());
    for container in pod::init_containers(pod) {
        let own = of_container(container, pick);
        if pod::is_sidecar(container) {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            raise(&mut worst, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &own);
            raise(&mut worst, &moment);
        }
    }
    raise(&mut sum, &worst);
    // What the pod says as a whole goes before what its containers add up to.
    for (name, quantity) in pod::spec(pod).resources.as_ref().and_then(pick).into_iter().flatten() {
        sum.insert(name.clone(), quantity.clone());
    }
    for (name, quantity) in pod::spec(pod).overhead.iter().flatten() {
        if with_overhead(&sum, name) {
            add(&mut sum, &List::from([(name.clone(), quantity.clone())]));
        }
    }
    sum
}

fn requests(resources: &ResourceRequirements) -> Option<&List> {
    resources.requests.as_ref()
}

fn limits(resources: &ResourceRequirements) -> Option<&List> {
    resources.limits.as_ref()
}

/// What the pod requests in all; nothing if it requests nothing.
pub fn requests_of_pod(pod: &Pod) -> Option<List> {
    Some(in_all(pod, requests, |_, _| true)).filter(|list| !list.is_empty())
}

/// Requests and limits of the whole pod.
pub fn of_pod(pod: &Pod) -> Option<ResourceRequirements> {
    let own = pod::spec(pod).resources.clone();
    let limits = Some(in_all(pod, limits, |sum, name| sum.contains_key(name))).filter(|list| !list.is_empty());
    let claims = own.and_then(|own| own.claims);
    Some(ResourceRequirements { requests: requests_of_pod(pod), limits, claims })
}
