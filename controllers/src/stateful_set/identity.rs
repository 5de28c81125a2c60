//! What makes a pod a StatefulSet's own: its name with the ordinal, its labels, its hostname and its volumes. Pure.

use std::collections::BTreeMap;

use client::Object;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};

use crate::controller_history::REVISION_LABEL;
use crate::pod_control::pod_from_template;

pub const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
pub const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

pub fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// The first ordinal.
pub fn start(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// Whether a pod of this ordinal is wanted.
pub fn is_in_range(set: &StatefulSet, ordinal: i32) -> bool {
    ordinal >= start(set) && ordinal - start(set) < replicas(set)
}

/// The set's name and the ordinal in a pod's name.
fn split(name: &str) -> Option<(&str, i32)> {
    let (set, ordinal) = name.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| ordinal.parse().ok()).flatten().map(|ordinal| (set, ordinal))
}

/// Whether the pod's name is one that the set gives.
pub fn is_member(set: &StatefulSet, pod: &Pod) -> bool {
    let parent = pod.name().rsplit_once('-').filter(|(_, ordinal)| !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit()));
    parent.is_some_and(|(parent, _)| parent == set.name())
}

/// Nothing if the name has none.
pub fn ordinal(pod: &Pod) -> Option<i32> {
    split(pod.name()).map(|(_, ordinal)| ordinal)
}

pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name())
}

pub fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.name(), set.name())
}

pub fn claim_templates(set: &StatefulSet) -> impl Iterator<Item = &PersistentVolumeClaim> {
    set.spec.volume_claim_templates.iter().flatten()
}

/// The claims of a pod with that ordinal, as they are to be created.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let claim = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace = set.metadata.namespace.clone();
        let selected = set.spec.selector.match_labels.clone().unwrap_or_default();
        claim.metadata.labels.get_or_insert_default().extend(selected);
        claim.status = None;
        claim
    };
    claim_templates(set).map(claim).collect()
}

/// The name and the label are those of the ordinal.
pub fn identity_matches(set: &StatefulSet, pod: &Pod) -> bool {
    split(pod.name()).is_some_and(|(parent, ordinal)| {
        parent == set.name() && pod.name() == pod_name(set, ordinal) && pod.label(POD_NAME_LABEL) == Some(pod.name())
    })
}

/// The pod mounts its own claims.
pub fn storage_matches(set: &StatefulSet, pod: &Pod) -> bool {
    let Some(ordinal) = ordinal(pod) else { return false };
    let volumes: Vec<&Volume> = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).collect();
    claim_templates(set).all(|template| {
        let volume = volumes.iter().find(|volume| volume.name == template.name());
        let source = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
        source.is_some_and(|source| source.claim_name == claim_name(set, template, ordinal))
    })
}

/// Puts right what [`identity_matches`] asks for.
pub fn set_identity(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let name = pod_name(set, ordinal);
    let labels: &mut BTreeMap<_, _> = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME_LABEL.to_owned(), name.clone());
    labels.insert(POD_INDEX_LABEL.to_owned(), ordinal.to_string());
    pod.metadata.name = Some(name);
    pod.metadata.namespace = set.metadata.namespace.clone();
}

/// Puts right what [`storage_matches`] asks for.
pub fn set_storage(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let spec = pod.spec.get_or_insert_default();
    let others = spec.volumes.take().unwrap_or_default();
    let mut volumes: Vec<Volume> = claim_templates(set)
        .map(|template| Volume {
            name: template.name().to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, template, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    let is_claimed = |name: &str| claim_templates(set).any(|template| template.name() == name);
    volumes.extend(others.into_iter().filter(|volume| !is_claimed(&volume.name)));
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
}

/// A pod of that ordinal, from the template of a revision.
pub fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pod_from_template(template, set);
    set_identity(set, &mut pod, ordinal);
    // Upstream leaves the prefix in, and the server keeps it.
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = pod.metadata.name.clone();
    spec.subdomain = set.spec.service_name.clone().filter(|name| !name.is_empty());
    set_storage(set, &mut pod, ordinal);
    pod.metadata.labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), revision.to_owned());
    pod
}

/// The revision that a pod was made from; empty if it does not say.
pub fn revision(pod: &Pod) -> &str {
    pod.label(REVISION_LABEL).unwrap_or("")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// `d/web` with so many replicas and one claim `data`.
    pub fn set(replicas: i32) -> StatefulSet {
        let mut set = StatefulSet::default();
        set.metadata.name = Some("web".to_owned());
        set.metadata.namespace = Some("d".to_owned());
        set.metadata.uid = Some("web-uid".to_owned());
        set.spec.replicas = Some(replicas);
        set.spec.service_name = Some("svc".to_owned());
        set.spec.selector.match_labels = Some([("app".to_owned(), "web".to_owned())].into());
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.name = Some("data".to_owned());
        set.spec.volume_claim_templates = Some(vec![claim]);
        set
    }

    fn named(name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod
    }

    #[test]
    fn names_tell_the_set_and_the_ordinal() {
        for (name, member, want) in [
            ("web-0", true, Some(0)),
            ("web-12", true, Some(12)),
            ("web-a-1", false, Some(1)),
            ("web-", false, None),
            ("web", false, None),
            ("web-+1", false, None),
            ("web-99999999999", true, None),
        ] {
            assert_eq!((is_member(&set(1), &named(name)), ordinal(&named(name))), (member, want), "{name}");
        }
    }

    #[test]
    fn a_new_pod_matches_in_identity_and_storage() {
        let set = set(3);
        let mut template = PodTemplateSpec::default();
        template.spec.get_or_insert_default().volumes =
            Some(["data", "other"].map(|name| Volume { name: name.to_owned(), ..Volume::default() }).to_vec());
        let pod = new_pod(&set, &template, "web-abc", 2);
        assert!(identity_matches(&set, &pod) && storage_matches(&set, &pod));
        assert_eq!((pod.name(), revision(&pod), pod.label(POD_INDEX_LABEL)), ("web-2", "web-abc", Some("2")));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-2"), Some("svc")));
        let volumes: Vec<&str> = spec.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
        assert_eq!(volumes, ["data", "other"]);
        let mut other = pod.clone();
        other.spec.as_mut().unwrap().volumes = None;
        assert!(identity_matches(&set, &other) && !storage_matches(&set, &other));
    }

    #[test]
    fn ordinals_may_start_anywhere() {
        let mut set = set(2);
        set.spec.ordinals.get_or_insert_default().start = Some(5);
        assert_eq!([4, 5, 6, 7].map(|ordinal| is_in_range(&set, ordinal)), [false, true, true, false]);
        assert_eq!(claims(&set, 5)[0].name(), "data-web-5");
        assert_eq!(claims(&set, 5)[0].label("app"), Some("web"));
    }
}
