//! What is next for a claim and for a volume, by what each says of the other. Pure.

use std::sync::Arc;

use client::Object;
use client::events::Type;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::matching;

pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// An event: its type, reason and message.
pub type Told = (Type, &'static str, String);

/// What is done for a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimStep {
    Bind(Arc<PersistentVolume>),
    /// No volume is the claim's yet.
    Wait(Option<Told>),
    /// No volume fits: it gets the default class, or waits for a pod, or is provisioned.
    Provide,
    /// Its data are out of reach, for good.
    Lose(&'static str, &'static str),
    /// Two claims say that one volume is theirs.
    Contradiction(Told),
}

/// For a claim that names a volume, or was bound before. `volume` is the one that it names, if that exists.
pub fn named_claim(claim: &PersistentVolumeClaim, volume: Option<Arc<PersistentVolume>>) -> ClaimStep {
    let bound_before = claim.annotation(BIND_COMPLETED).is_some();
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|name| !name.is_empty());
    let reference = volume.as_ref().and_then(|volume| volume.spec.as_ref()?.claim_ref.clone());
    match (bound_before, volume) {
        (true, _) if !named => {
            ClaimStep::Lose("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
        }
        (true, None) => ClaimStep::Lose("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
        (true, Some(volume)) => match reference {
            Some(reference) if reference.uid.as_deref().unwrap_or("") != claim.uid() => {
                ClaimStep::Lose("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
            }
            _ => ClaimStep::Bind(volume),
        },
        (false, None) => ClaimStep::Wait(None),
        (false, Some(volume)) if reference.is_none() => match matching::mismatch(&volume, claim) {
            None => ClaimStep::Bind(volume),
            Some(why) => {
                let message = format!("Cannot bind to requested volume {:?}: {why}", volume.name());
                ClaimStep::Wait(Some((Type::Warning, "VolumeMismatch", message)))
            }
        },
        (false, Some(volume)) if matching::is_bound_to(&volume, claim) => ClaimStep::Bind(volume),
        (false, Some(volume)) => {
            let told = (Type::Warning, "FailedBinding", format!("volume {:?} already bound to a different claim.", volume.name()));
            if claim.annotation(BOUND_BY_CONTROLLER).is_some() { ClaimStep::Contradiction(told) } else { ClaimStep::Wait(Some(told)) }
        }
    }
}

/// What is done for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeStep {
    /// Nobody has it.
    Available,
    Bound,
    /// Its claim is gone, or has another volume: what its reclaim policy says is done.
    Reclaim,
    /// The claim has yet to take it.
    LookAtClaim,
    /// The claim cannot take it, since only one of them is a raw device.
    ModeMismatch,
    /// The claim took another volume.
    Unbind,
}

/// `claim` is the one that the volume says it is bound to, if there is one of that uid.
pub fn volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeStep {
    let spec = volume.spec.as_ref();
    let uid = spec.and_then(|spec| spec.claim_ref.as_ref()).and_then(|reference| reference.uid.as_deref()).unwrap_or("");
    if uid.is_empty() {
        return VolumeStep::Available;
    }
    let Some(claim) = claim.filter(|claim| claim.uid() == uid) else { return VolumeStep::Reclaim };
    match claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("") {
        "" if matching::modes_differ(claim, volume) => VolumeStep::ModeMismatch,
        "" => VolumeStep::LookAtClaim,
        name if name == volume.name() => VolumeStep::Bound,
        _ => {
            let deletes = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
            if deletes && volume.annotation(PROVISIONED_BY).is_some() { VolumeStep::Reclaim } else { VolumeStep::Unbind }
        }
    }
}

/// Who deletes the storage behind a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleter {
    /// Somebody outside, such as a CSI driver's provisioner.
    External,
    /// A directory on this host.
    HostPath(String),
    /// Nobody, for this reason.
    Nobody(String),
}

pub fn deleter(volume: &PersistentVolume) -> Deleter {
    const HOST_PATH: &str = "kubernetes.io/host-path";
    let spec = volume.spec.as_ref();
    let host_path = spec.and_then(|spec| spec.host_path.as_ref()).map(|host| host.path.clone());
    match volume.annotation(PROVISIONED_BY).filter(|name| !name.is_empty()) {
        Some(name) if !name.starts_with("kubernetes.io/") => return Deleter::External,
        Some(name) if name != HOST_PATH => return Deleter::Nobody(format!("no volume plugin matched name: {name}")),
        _ => {}
    }
    if spec.is_some_and(|spec| spec.csi.is_some()) {
        return Deleter::External;
    }
    match host_path {
        Some(path) if path.strip_prefix("/tmp/").is_some_and(|rest| !rest.is_empty()) && !path.contains("..") => Deleter::HostPath(path),
        Some(path) => Deleter::Nobody(format!("host_path deleter only supports /tmp/.+ but received provided {path}")),
        None => Deleter::Nobody(format!(
            "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
            volume.name()
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(volume: &str, annotations: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u", "annotations": annotations}, "spec": {"volumeName": volume},
        }))
        .unwrap()
    }

    fn pv(reference: Value, policy: &str, annotations: Value) -> PersistentVolume {
        let spec = json!({"claimRef": reference, "persistentVolumeReclaimPolicy": policy});
        serde_json::from_value(json!({"metadata": {"name": "v", "annotations": annotations}, "spec": spec})).unwrap()
    }

    fn of(uid: &str) -> Value {
        json!({"name": "c", "namespace": "n", "uid": uid})
    }

    #[test]
    fn a_claim_takes_the_volume_that_it_names() {
        let step = |volume: Option<PersistentVolume>| named_claim(&claim("v", json!({})), volume.map(Arc::new));
        assert_eq!(step(None), ClaimStep::Wait(None));
        assert!(matches!(step(Some(pv(Value::Null, "", json!({})))), ClaimStep::Bind(_)));
        assert!(matches!(step(Some(pv(of(""), "", json!({})))), ClaimStep::Bind(_)));
        assert!(matches!(step(Some(pv(of("other"), "", json!({})))), ClaimStep::Wait(Some((_, "FailedBinding", _)))));
    }

    #[test]
    fn a_bound_claim_without_its_volume_is_lost() {
        let bound = json!({BIND_COMPLETED: "yes"});
        assert!(matches!(named_claim(&claim("", bound.clone()), None), ClaimStep::Lose("ClaimLost", _)));
        assert!(matches!(named_claim(&claim("v", bound.clone()), None), ClaimStep::Lose("ClaimLost", _)));
        let other = Arc::new(pv(of("other"), "", json!({})));
        assert!(matches!(named_claim(&claim("v", bound.clone()), Some(other)), ClaimStep::Lose("ClaimMisbound", _)));
        assert!(matches!(named_claim(&claim("v", bound), Some(Arc::new(pv(of("u"), "", json!({}))))), ClaimStep::Bind(_)));
    }

    #[test]
    fn a_volume_follows_its_claim() {
        let bound = pv(of("u"), "Retain", json!({}));
        assert_eq!(volume(&pv(Value::Null, "", json!({})), None), VolumeStep::Available);
        assert_eq!(volume(&pv(of(""), "", json!({})), None), VolumeStep::Available);
        assert_eq!(volume(&bound, None), VolumeStep::Reclaim);
        assert_eq!(volume(&bound, Some(&claim("", json!({})))), VolumeStep::LookAtClaim);
        assert_eq!(volume(&bound, Some(&claim("v", json!({})))), VolumeStep::Bound);
        assert_eq!(volume(&bound, Some(&claim("w", json!({})))), VolumeStep::Unbind);
        let provisioned = pv(of("u"), "Delete", json!({PROVISIONED_BY: "x"}));
        assert_eq!(volume(&provisioned, Some(&claim("w", json!({})))), VolumeStep::Reclaim);
    }

    #[test]
    fn storage_is_deleted_by_whoever_made_it() {
        let with = |source: Value, annotations: Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v", "annotations": annotations}, "spec": source})).unwrap()
        };
        assert_eq!(deleter(&with(json!({}), json!({PROVISIONED_BY: "csi.example.com"}))), Deleter::External);
        assert_eq!(deleter(&with(json!({"csi": {"driver": "d", "volumeHandle": "h"}}), json!({}))), Deleter::External);
        assert_eq!(deleter(&with(json!({"hostPath": {"path": "/tmp/x"}}), json!({}))), Deleter::HostPath("/tmp/x".to_owned()));
        assert!(matches!(deleter(&with(json!({"hostPath": {"path": "/etc"}}), json!({}))), Deleter::Nobody(_)));
        assert!(matches!(deleter(&with(json!({"hostPath": {"path": "/tmp/../etc"}}), json!({}))), Deleter::Nobody(_)));
        assert!(matches!(deleter(&with(json!({"nfs": {"server": "s", "path": "/"}}), json!({}))), Deleter::Nobody(_)));
    }
}
