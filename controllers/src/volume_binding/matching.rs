//! Which volume fits a claim: its size, modes, class and labels. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::quantity::Quantity;
use apimachinery::selector::label::{Selector, StructuredError};
use client::Object;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The class that a claim asks for; empty for none.
pub fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    claim.annotation(CLASS_ANNOTATION).or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref()).unwrap_or("")
}

/// Whether the claim says anything of classes, be it that it wants none.
pub fn has_class(claim: &PersistentVolumeClaim) -> bool {
    claim.annotation(CLASS_ANNOTATION).is_some() || claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_some())
}

pub fn volume_class(volume: &PersistentVolume) -> &str {
    volume.annotation(CLASS_ANNOTATION).or_else(|| volume.spec.as_ref()?.storage_class_name.as_deref()).unwrap_or("")
}

fn amount(list: Option<&BTreeMap<String, Text>>) -> Quantity {
    list.and_then(|list| Quantity::parse(&list.get("storage")?.0).ok()).unwrap_or_default()
}

pub fn capacity(volume: &PersistentVolume) -> Quantity {
    amount(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    amount(claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()))
}

/// Whether the volume is this claim's, or reserved for it.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).is_some_and(|reference| {
        let uid = reference.uid.as_deref().unwrap_or("");
        reference.name.as_deref() == Some(claim.name())
            && reference.namespace.as_deref() == Some(claim.namespace())
            && (uid.is_empty() || uid == claim.uid())
    })
}

/// Whether one is a file system and the other a raw device.
pub fn modes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    mode(claim.spec.as_ref().and_then(|s| s.volume_mode.as_ref())) != mode(volume.spec.as_ref().and_then(|s| s.volume_mode.as_ref()))
}

fn attributes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let class = |class: Option<&String>| class.map_or("", String::as_str).to_owned();
    let of_claim = class(claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_ref()));
    of_claim != class(volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_ref()))
}

fn access(volume: &PersistentVolume) -> Vec<String> {
    let mut modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
    modes.sort();
    modes.dedup();
    modes
}

fn has_access(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let modes = access(volume);
    claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten()).all(|mode| modes.contains(mode))
}

/// Why the volume that a claim names cannot be its.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    Some(if volume.is_terminating() {
        format!("the volume is marked for deletion {:?}", volume.name())
    } else if capacity(volume).value() < requested(claim).value() {
        "requested PV is too small".to_owned()
    } else if volume_class(volume) != claim_class(claim) {
        "storageClassName does not match".to_owned()
    } else if attributes_differ(claim, volume) {
        "volumeAttributesClassName does not match".to_owned()
    } else if modes_differ(claim, volume) {
        "incompatible volumeMode".to_owned()
    } else if !has_access(claim, volume) {
        "incompatible accessMode".to_owned()
    } else {
        return None;
    })
}

/// The best volume for a claim: one reserved for it, or the smallest of those with the fewest access modes. While its binding waits
/// for a pod, only a reserved one is given.
pub fn best(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    delayed: bool,
) -> Result<Option<Arc<PersistentVolume>>, StructuredError> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.map(|selector| Selector::from_label_selector(Some(selector))).transpose()?;
    let wanted = requested(claim);
    let mut groups = BTreeMap::<(usize, Vec<String>), Vec<&Arc<PersistentVolume>>>::new();
    for volume in volumes.iter().filter(|volume| has_access(claim, volume)) {
        let modes = access(volume);
        groups.entry((modes.len(), modes)).or_default().push(volume);
    }
    for group in groups.values() {
        let fits = |volume: &&&Arc<PersistentVolume>| {
            let free = volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none()) || is_bound_to(volume, claim);
            let same = !modes_differ(claim, volume) && !attributes_differ(claim, volume);
            free && same && !volume.is_terminating() && capacity(volume) >= wanted
        };
        let fitting: Vec<&&Arc<PersistentVolume>> = group.iter().filter(fits).collect();
        if let Some(reserved) = fitting.iter().find(|volume| is_bound_to(volume, claim)) {
            return Ok(Some(Arc::clone(reserved)));
        }
        if delayed {
            continue;
        }
        let available = fitting.into_iter().filter(|volume| {
            let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
            let selected = selector.as_ref().is_none_or(|s| s.matches(&volume.metadata.labels.clone().unwrap_or_default()));
            phase == Some("Available") && selected && volume_class(volume) == claim_class(claim)
        });
        if let Some(smallest) = available.min_by(|a, b| capacity(a).cmp(&capacity(b)).then_with(|| a.name().cmp(b.name()))) {
            return Ok(Some(Arc::clone(smallest)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(name: &str, size: &str, modes: &[&str]) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"name": name}},
            "spec": {"capacity": {"storage": size}, "accessModes": modes, "storageClassName": "s"},
            "status": {"phase": "Available"},
        }))
        .unwrap()
    }

    fn claim(size: &str, modes: &[&str]) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"resources": {"requests": {"storage": size}}, "accessModes": modes, "storageClassName": "s"},
        }))
        .unwrap()
    }

    fn found(claim: &PersistentVolumeClaim, volumes: &[PersistentVolume], delayed: bool) -> Option<String> {
        let volumes: Vec<_> = volumes.iter().cloned().map(Arc::new).collect();
        best(claim, &volumes, delayed).unwrap().map(|volume| volume.name().to_owned())
    }

    #[test]
    fn the_smallest_volume_that_is_large_enough_is_taken() {
        let rwo = ["ReadWriteOnce"];
        let volumes = [volume("big", "10Gi", &rwo), volume("fits", "2Gi", &rwo), volume("small", "1Gi", &rwo)];
        assert_eq!(found(&claim("1500Mi", &rwo), &volumes, false).as_deref(), Some("fits"));
        assert_eq!(found(&claim("20Gi", &rwo), &volumes, false), None);
        assert_eq!(found(&claim("1Gi", &["ReadWriteMany"]), &volumes, false), None);
        assert_eq!(found(&claim("1500Mi", &rwo), &volumes, true), None);
    }

    #[test]
    fn fewer_modes_go_before_a_smaller_size() {
        let volumes = [volume("many", "1Gi", &["ReadWriteOnce", "ReadWriteMany"]), volume("one", "5Gi", &["ReadWriteOnce"])];
        assert_eq!(found(&claim("1Gi", &["ReadWriteOnce"]), &volumes, false).as_deref(), Some("one"));
    }

    #[test]
    fn a_reserved_volume_goes_before_all_others_of_its_modes() {
        let rwo = ["ReadWriteOnce"];
        let mut reserved = volume("reserved", "50Gi", &rwo);
        reserved.spec.as_mut().unwrap().claim_ref = serde_json::from_value(json!({"name": "c", "namespace": "n"})).unwrap();
        let mut taken = volume("taken", "1Gi", &rwo);
        taken.spec.as_mut().unwrap().claim_ref = serde_json::from_value(json!({"name": "other", "namespace": "n"})).unwrap();
        let volumes = [taken, volume("free", "1Gi", &rwo), reserved];
        assert_eq!(found(&claim("1Gi", &rwo), &volumes, false).as_deref(), Some("reserved"));
        assert_eq!(found(&claim("1Gi", &rwo), &volumes, true).as_deref(), Some("reserved"));
    }

    #[test]
    fn a_selector_and_a_phase_rule_volumes_out() {
        let rwo = ["ReadWriteOnce"];
        let mut selecting = claim("1Gi", &rwo);
        selecting.spec.as_mut().unwrap().selector = serde_json::from_value(json!({"matchLabels": {"name": "b"}})).unwrap();
        let volumes = [volume("a", "1Gi", &rwo), volume("b", "9Gi", &rwo)];
        assert_eq!(found(&selecting, &volumes, false).as_deref(), Some("b"));
        let mut released = volume("r", "1Gi", &rwo);
        released.status.as_mut().unwrap().phase = Some("Released".to_owned());
        assert_eq!(found(&claim("1Gi", &rwo), &[released], false), None);
    }

    #[test]
    fn a_named_volume_that_does_not_fit_is_refused_with_a_reason() {
        let rwo = ["ReadWriteOnce"];
        assert_eq!(mismatch(&volume("v", "1Gi", &rwo), &claim("1Gi", &rwo)), None);
        assert_eq!(mismatch(&volume("v", "1Gi", &rwo), &claim("2Gi", &rwo)).as_deref(), Some("requested PV is too small"));
        assert_eq!(mismatch(&volume("v", "1Gi", &rwo), &claim("1Gi", &["ReadWriteMany"])).as_deref(), Some("incompatible accessMode"));
        let mut block = claim("1Gi", &rwo);
        block.spec.as_mut().unwrap().volume_mode = Some("Block".to_owned());
        assert_eq!(mismatch(&volume("v", "1Gi", &rwo), &block).as_deref(), Some("incompatible volumeMode"));
    }
}
