//! Which volumes a node needs attached, and what is done about it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use client::Object;
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume};
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A volume that a pod of the node needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    pub volume: String,
    pub driver: String,
    pub handle: String,
    /// Only one node may have it.
    pub exclusive: bool,
}

/// The volume, if its driver has to attach it.
pub fn wanted(volume: &PersistentVolume, attaches: impl Fn(&str) -> bool) -> Option<Wanted> {
    let spec = volume.spec.as_ref()?;
    let csi = spec.csi.as_ref().filter(|csi| attaches(&csi.driver))?;
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let shared = |mode: &String| matches!(mode.as_str(), "ReadOnlyMany" | "ReadWriteMany");
    Some(Wanted {
        volume: volume.name().to_owned(),
        driver: csi.driver.clone(),
        handle: csi.volume_handle.clone(),
        exclusive: !modes.is_empty() && !modes.iter().any(shared),
    })
}

impl Wanted {
    /// What the attachment to a node is called.
    pub fn attachment(&self, node: &str) -> String {
        let text = format!("{}{}{node}", self.handle, self.driver);
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("csi-{hex}")
    }

    /// What the node's status calls the volume.
    fn unique_name(&self) -> String {
        unique_name(&self.driver, &self.handle)
    }

    pub fn new_attachment(&self, node: &str) -> VolumeAttachment {
        VolumeAttachment {
            metadata: ObjectMeta { name: Some(self.attachment(node)), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: self.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource { persistent_volume_name: Some(self.volume.clone()), inline_volume_spec: None },
            },
            status: None,
        }
    }
}

pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// An attachment that exists: its name, what it attaches, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub name: String,
    pub unique_name: String,
    pub attached: bool,
    pub terminating: bool,
    /// It may be detached although the kubelet says that it uses it.
    pub forced: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub attach: Vec<Wanted>,
    /// Volumes that another node has for itself.
    pub blocked: Vec<Wanted>,
    /// Attachments to delete, after the node was told.
    pub detach: Vec<String>,
    /// Attachments that nobody needs and the kubelet still uses.
    pub waiting: Vec<String>,
    /// What the node is told; nothing if it knows that.
    pub report: Option<Vec<AttachedVolume>>,
}

pub fn plan(node: &Node, wanted: &BTreeSet<Wanted>, existing: &[Attachment], elsewhere: impl Fn(&Wanted) -> bool) -> Plan {
    let mut plan = Plan::default();
    let status = node.status.as_ref();
    let in_use: BTreeSet<&str> = status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).map(String::as_str).collect();
    let needed: BTreeMap<String, &Wanted> = wanted.iter().map(|volume| (volume.attachment(node.name()), volume)).collect();
    for (name, volume) in &needed {
        if existing.iter().any(|attachment| attachment.name == *name) {
            continue;
        }
        let list = if volume.exclusive && elsewhere(volume) { &mut plan.blocked } else { &mut plan.attach };
        list.push((*volume).clone());
    }
    let mut attached = BTreeMap::new();
    for attachment in existing {
        let free = attachment.forced || !in_use.contains(attachment.unique_name.as_str());
        if needed.contains_key(&attachment.name) || attachment.terminating {
            if attachment.attached && !attachment.terminating {
                attached.insert(attachment.unique_name.clone(), String::new());
            }
        } else if free {
            plan.detach.push(attachment.name.clone());
        } else {
            plan.waiting.push(attachment.name.clone());
            attached.insert(attachment.unique_name.clone(), String::new());
        }
    }
    let told: Vec<AttachedVolume> = attached.into_iter().map(|(name, device_path)| AttachedVolume { device_path, name }).collect();
    let ours = |volume: &&AttachedVolume| volume.name.starts_with("kubernetes.io/csi/");
    let mut before: Vec<AttachedVolume> = status.iter().flat_map(|s| s.volumes_attached.iter().flatten()).filter(ours).cloned().collect();
    before.sort_by(|a, b| a.name.cmp(&b.name));
    plan.report = (told != before).then_some(told);
    plan
}

/// The volumes of a list of wanted ones by what nodes call them.
pub fn by_unique_name(wanted: &BTreeSet<Wanted>) -> BTreeMap<String, &Wanted> {
    wanted.iter().map(|volume| (volume.unique_name(), volume)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(exclusive: bool) -> Wanted {
        Wanted { volume: "pv".to_owned(), driver: "d".to_owned(), handle: "h".to_owned(), exclusive }
    }

    fn node(in_use: &[&str], attached: &[&str]) -> Node {
        let attached: Vec<_> = attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"volumesInUse": in_use, "volumesAttached": attached}})).unwrap()
    }

    fn attachment(attached: bool) -> Attachment {
        Attachment {
            name: volume(true).attachment("n"),
            unique_name: "kubernetes.io/csi/d^h".to_owned(),
            attached,
            terminating: false,
            forced: false,
        }
    }

    #[test]
    fn a_volume_is_attached_unless_another_node_has_it_for_itself() {
        let wanted = |exclusive| BTreeSet::from([volume(exclusive)]);
        assert_eq!(plan(&node(&[], &[]), &wanted(true), &[], |_| false).attach, [volume(true)]);
        assert_eq!(plan(&node(&[], &[]), &wanted(true), &[], |_| true).blocked, [volume(true)]);
        assert_eq!(plan(&node(&[], &[]), &wanted(false), &[], |_| true).attach, [volume(false)]);
    }

    #[test]
    fn the_node_is_told_what_is_attached() {
        let wanted = BTreeSet::from([volume(true)]);
        assert_eq!(plan(&node(&[], &[]), &wanted, &[attachment(false)], |_| false), Plan::default());
        let told = plan(&node(&[], &[]), &wanted, &[attachment(true)], |_| false).report.unwrap();
        assert_eq!(told[0].name, "kubernetes.io/csi/d^h");
        assert_eq!(plan(&node(&[], &["kubernetes.io/csi/d^h"]), &wanted, &[attachment(true)], |_| false), Plan::default());
    }

    #[test]
    fn a_volume_is_detached_when_the_kubelet_is_through_with_it() {
        let name = "kubernetes.io/csi/d^h";
        let used = plan(&node(&[name], &[name]), &BTreeSet::new(), &[attachment(true)], |_| false);
        assert_eq!((used.waiting.len(), used.detach.len(), used.report), (1, 0, None));
        let free = plan(&node(&[], &[name]), &BTreeSet::new(), &[attachment(true)], |_| false);
        assert_eq!((free.detach.len(), free.report), (1, Some(Vec::new())));
        let forced = Attachment { forced: true, ..attachment(true) };
        assert_eq!(plan(&node(&[name], &[name]), &BTreeSet::new(), &[forced], |_| false).detach.len(), 1);
    }

    #[test]
    fn only_volumes_of_drivers_that_attach_are_wanted() {
        let pv: PersistentVolume = serde_json::from_value(json!({
            "metadata": {"name": "pv"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}, "accessModes": ["ReadWriteOnce"]},
        }))
        .unwrap();
        assert_eq!(wanted(&pv, |_| true), Some(volume(true)));
        assert_eq!(wanted(&pv, |_| false), None);
    }
}
