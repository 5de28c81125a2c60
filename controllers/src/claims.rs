//! Which PersistentVolumeClaims a pod names, by itself or as ephemeral volumes. Pure, but for the index that several controllers share.

use std::sync::Arc;

use client::{Informer, Object, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};

const INDEX: &str = "claim";

/// The name of the claim that an ephemeral volume stands for.
pub fn ephemeral_name(pod: &Pod, volume: &Volume) -> String {
    format!("{}-{}", pod.name(), volume.name)
}

/// The claim behind a volume, if it has one.
pub fn name(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(ephemeral_name(pod, volume)),
        (None, None) => None,
    }
}

pub fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// The keys of all claims that the pod names.
pub fn of(pod: &Pod) -> impl Iterator<Item = ObjectKey> {
    volumes(pod).filter_map(|volume| Some(ObjectKey::new(pod.namespace(), &name(pod, volume)?)))
}

/// Whether a claim of an ephemeral volume's name was made for this pod, and not by somebody who took the name.
pub fn is_for_pod(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    claim.namespace() == pod.namespace() && claim.is_controlled_by(pod.uid())
}

/// Makes [`pods_of`] work.
pub fn index(pods: &Informer<Pod>) {
    pods.add_index(INDEX, |pod| of(pod).map(|key| key.to_string()).collect());
}

/// The pods that name a claim.
pub fn pods_of(pods: &Informer<Pod>, claim: &ObjectKey) -> Vec<Arc<Pod>> {
    pods.by_index(INDEX, &claim.to_string())
}
