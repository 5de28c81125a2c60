//! From a claim to what is behind it. Reads the API server, decides; mounts nothing.
//!
//! Upstream: pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{Api, Client};

use client::Object;

const PROTECTION: &str = "kubernetes.io/pvc-protection";
const GID_ANNOTATION: &str = "pv.beta.kubernetes.io/gid";

/// The volume behind a pod's claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    pub volume: PersistentVolume,
    pub claim: PersistentVolumeClaim,
    pub read_only: bool,
    /// A group that the pod's processes join.
    pub group: Option<i64>,
}

/// The claim that a pod's volume names: its own, or one that was made for it.
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some((source.claim_name.clone(), source.read_only == Some(true)));
    }
    volume.ephemeral.as_ref().map(|_| (format!("{}-{}", pod.name(), volume.name), false))
}

/// Reads the claim and its volume and checks that they belong together. The error is that of processing the volume, not of mounting it.
pub async fn resolve(client: &Client, pod: &Pod, volume: &Volume, is_mounted: bool, is_device: bool) -> Result<Bound, String> {
    let (claim_name, read_only) = claim_of(pod, volume).ok_or_else(|| format!("volume {} has no claim", volume.name))?;
    let namespace = pod.namespace();
    let failed = |error: String| format!("error processing PVC {namespace}/{claim_name}: {error}");
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims
        .get(&claim_name)
        .await
        .map_err(|error| failed(format!("failed to fetch PVC from API server: {}", super::message(&error))))?;
    let name = check_claim(&claim).map_err(failed)?;
    if volume.ephemeral.is_some() && !claim.is_controlled_by(pod.uid()) {
        return Err(format!("PVC {namespace}/{claim_name} was not created for pod {namespace}/{} (pod is not owner)", pod.name()));
    }
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let found = volumes.get(&name).await;
    let found = found.map_err(|error| failed(format!("failed to fetch PV {name} from API server: {}", super::message(&error))))?;
    check_volume(&found, claim.uid()).map_err(failed)?;
    let mode = found.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem");
    if is_mounted && mode != "Filesystem" {
        return Err(format!("volume {} has volumeMode {mode}, but is specified in volumeMounts", volume.name));
    }
    if is_device && mode != "Block" {
        return Err(format!("volume {} has volumeMode {mode}, but is specified in volumeDevices", volume.name));
    }
    let group = found.annotation(GID_ANNOTATION).and_then(|gid| gid.parse().ok());
    Ok(Bound { volume: found, claim, read_only, group })
}

/// The name of the volume that the claim is bound to.
fn check_claim(claim: &PersistentVolumeClaim) -> Result<String, String> {
    let protected = claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == PROTECTION);
    if claim.is_terminating() && !protected {
        return Err("PVC is being deleted".to_owned());
    }
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound".to_owned());
    }
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
    name.ok_or_else(|| "PVC has empty pvc.Spec.VolumeName".to_owned())
}

fn check_volume(volume: &PersistentVolume, claim_uid: &str) -> Result<(), String> {
    let name = volume.name();
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return Err(format!("found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"));
    };
    let uid = reference.uid.as_deref().unwrap_or("");
    match uid == claim_uid {
        true => Ok(()),
        false => Err(format!("found PV object {name} but its pv.Spec.ClaimRef.UID {uid} does not point to claim.UID {claim_uid}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_used_only_when_it_is_bound_both_ways() {
        let claim = |value| serde_json::from_value::<PersistentVolumeClaim>(value).expect("it is a claim");
        let cases = [
            (json!({"spec": {"volumeName": "v"}, "status": {"phase": "Bound"}}), Ok("v")),
            (json!({"spec": {"volumeName": "v"}, "status": {"phase": "Pending"}}), Err("PVC is not bound")),
            (json!({"spec": {}, "status": {"phase": "Bound"}}), Err("PVC has empty pvc.Spec.VolumeName")),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}}),
                Err("PVC is being deleted"),
            ),
        ];
        for (value, expect) in cases {
            assert_eq!(check_claim(&claim(value.clone())).as_deref().map_err(String::as_str), expect, "{value}");
        }
        let volume: PersistentVolume =
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"uid": "1"}}})).expect("it is a volume");
        assert_eq!(check_volume(&volume, "1"), Ok(()));
        let other = "found PV object v but its pv.Spec.ClaimRef.UID 1 does not point to claim.UID 2";
        assert_eq!(check_volume(&volume, "2"), Err(other.to_owned()));
    }
}
