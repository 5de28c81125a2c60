//! What a pod asks for in all, as its status tells it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::container_config::pod_resources::{self, ResourceList};
use crate::pod;

fn told(list: ResourceList) -> Option<BTreeMap<String, Quantity>> {
    let told: BTreeMap<String, Quantity> = list.into_iter().map(|(name, amount)| (name, Quantity(amount.canonical()))).collect();
    (!told.is_empty()).then_some(told)
}

/// What the pod requests in all; nothing if it requests nothing.
pub fn requests_of_pod(pod: &Pod) -> Option<BTreeMap<String, Quantity>> {
    told(pod_resources::requests(pod, true))
}

/// Requests and limits of the whole pod.
pub fn of_pod(pod: &Pod) -> Option<ResourceRequirements> {
    let mut limits = pod_resources::limits(pod, true);
    // Resources that some container has without a limit have none.
    limits.retain(|_, amount| !amount.is_zero());
    let claims = pod::spec(pod).resources.as_ref().and_then(|own| own.claims.clone());
    Some(ResourceRequirements { requests: requests_of_pod(pod), limits: told(limits), claims })
}
