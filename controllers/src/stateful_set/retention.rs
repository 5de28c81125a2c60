//! Who owns a claim of a StatefulSet, as `persistentVolumeClaimRetentionPolicy` wants it: the set, the pod that is scaled away, or
//! nobody. What they own goes with them. Pure.

use client::Object;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::identity;

struct Policy {
    /// Claims go when the set does.
    delete_with_set: bool,
    /// Claims go when their pod is scaled away.
    delete_when_scaled: bool,
}

fn policy(set: &StatefulSet) -> Policy {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let is_delete = |text: Option<&String>| text.is_some_and(|text| text == "Delete");
    Policy {
        delete_with_set: is_delete(policy.and_then(|policy| policy.when_deleted.as_ref())),
        delete_when_scaled: is_delete(policy.and_then(|policy| policy.when_scaled.as_ref())),
    }
}

/// Claims of an earlier pod of the same name are not to be used: they go with it.
pub fn may_be_stale(set: &StatefulSet) -> bool {
    policy(set).delete_when_scaled
}

fn references(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &OwnerReference> {
    claim.metadata.owner_references.iter().flatten()
}

/// The reference means an object of this kind and name, perhaps one that is gone.
fn names<O: Object>(reference: &OwnerReference, object: &O) -> bool {
    reference.api_version == <O as k8s_openapi::Resource>::API_VERSION
        && reference.kind == <O as k8s_openapi::Resource>::KIND
        && reference.name == object.name()
}

fn is_owned_by(claim: &PersistentVolumeClaim, object: &impl Object) -> bool {
    references(claim).any(|reference| reference.uid == object.uid())
}

/// An object of the same name that is gone owns the claim.
pub fn has_stale_owner(claim: &PersistentVolumeClaim, object: &impl Object) -> bool {
    references(claim).find(|reference| names(reference, object)).is_some_and(|reference| reference.uid != object.uid())
}

/// Somebody else manages the claim, so that the policy does not apply to it.
pub fn has_other_manager(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> bool {
    let policy = policy(set);
    if !policy.delete_with_set && !policy.delete_when_scaled {
        return false;
    }
    references(claim).any(|reference| {
        if names(reference, set) {
            reference.uid != set.uid()
        } else if names(reference, pod) {
            reference.uid != pod.uid()
        } else {
            reference.controller == Some(true)
        }
    })
}

/// Whether set and pod are to own the claim.
fn wanted_owners(set: &StatefulSet, pod: &Pod) -> (bool, bool) {
    let policy = policy(set);
    let scaled_away = identity::ordinal(pod).is_none_or(|ordinal| !identity::is_in_range(set, ordinal));
    let by_pod = policy.delete_when_scaled && scaled_away;
    (policy.delete_with_set && !by_pod, by_pod)
}

/// Whether the claim's owners are as wanted, or are none of our business.
pub fn is_up_to_date(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> bool {
    if has_stale_owner(claim, set) || has_stale_owner(claim, pod) {
        // The garbage collector is about to take it.
        return true;
    }
    let owned = (is_owned_by(claim, set), is_owned_by(claim, pod));
    if has_other_manager(claim, set, pod) {
        return owned == (false, false);
    }
    let is_ours = |reference: &&OwnerReference| reference.uid == set.uid() || reference.uid == pod.uid();
    if references(claim).filter(is_ours).any(|reference| reference.controller != Some(true)) {
        return false;
    }
    owned == wanted_owners(set, pod)
}

/// The claim with owners as wanted.
pub fn updated(claim: &PersistentVolumeClaim, set: &StatefulSet, pod: &Pod) -> PersistentVolumeClaim {
    let mut owners: Vec<OwnerReference> =
        references(claim).filter(|reference| !names(reference, set) && !names(reference, pod)).cloned().collect();
    if !has_other_manager(claim, set, pod) {
        let (by_set, by_pod) = wanted_owners(set, pod);
        owners.extend(by_set.then(|| set.controller_reference()));
        owners.extend(by_pod.then(|| pod.controller_reference()));
    }
    let mut claim = claim.clone();
    claim.metadata.owner_references = Some(owners);
    claim
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSetPersistentVolumeClaimRetentionPolicy;

    use super::super::identity::tests::set;
    use super::*;

    fn with_policy(when_deleted: &str, when_scaled: &str) -> StatefulSet {
        let mut set = set(1);
        set.spec.persistent_volume_claim_retention_policy = Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
            when_deleted: Some(when_deleted.to_owned()),
            when_scaled: Some(when_scaled.to_owned()),
        });
        set
    }

    fn pod(ordinal: i32) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(format!("web-{ordinal}"));
        pod.metadata.uid = Some("pod-uid".to_owned());
        pod
    }

    fn owners(claim: &PersistentVolumeClaim) -> Vec<String> {
        references(claim).map(|reference| reference.uid.clone()).collect()
    }

    #[test]
    fn owners_follow_the_policy() {
        let cases: [(&str, &str, i32, &[&str]); 8] = [
            ("Retain", "Retain", 0, &[]),
            ("Retain", "Retain", 1, &[]),
            ("Delete", "Retain", 0, &["web-uid"]),
            ("Delete", "Retain", 1, &["web-uid"]),
            ("Retain", "Delete", 0, &[]),
            ("Retain", "Delete", 1, &["pod-uid"]),
            ("Delete", "Delete", 0, &["web-uid"]),
            ("Delete", "Delete", 1, &["pod-uid"]),
        ];
        for (when_deleted, when_scaled, ordinal, want) in cases {
            let (set, pod) = (with_policy(when_deleted, when_scaled), pod(ordinal));
            let claim = updated(&PersistentVolumeClaim::default(), &set, &pod);
            assert_eq!(owners(&claim), want, "{when_deleted} {when_scaled} {ordinal}");
            assert!(is_up_to_date(&claim, &set, &pod));
            let other = with_policy("Retain", "Retain");
            assert_eq!(is_up_to_date(&claim, &other, &pod), want.is_empty());
        }
    }

    #[test]
    fn claims_of_other_managers_are_let_alone() {
        let (set, pod) = (with_policy("Delete", "Delete"), pod(0));
        let mut claim = PersistentVolumeClaim::default();
        let manager = OwnerReference { uid: "x".to_owned(), controller: Some(true), ..OwnerReference::default() };
        claim.metadata.owner_references = Some(vec![manager.clone()]);
        assert!(is_up_to_date(&claim, &set, &pod));
        claim.metadata.owner_references = Some(vec![manager, set.controller_reference()]);
        assert!(!is_up_to_date(&claim, &set, &pod));
        assert_eq!(owners(&updated(&claim, &set, &pod)), ["x"]);
    }

    #[test]
    fn an_owner_that_is_gone_makes_the_claim_stale() {
        let (set, mut old) = (with_policy("Retain", "Delete"), pod(0));
        old.metadata.uid = Some("old".to_owned());
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.owner_references = Some(vec![old.controller_reference()]);
        assert!(has_stale_owner(&claim, &pod(0)));
        assert!(is_up_to_date(&claim, &set, &pod(0)));
    }
}
