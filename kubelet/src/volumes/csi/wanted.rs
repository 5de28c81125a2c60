//! What a driver is asked for: the parts that volumes of claims and those in a pod's spec have in common. Pure.

use std::collections::{BTreeMap, HashMap};

use client::Object;
use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolumeSpec, Pod, SecretReference};
use k8s_openapi::api::storage::v1::CSIDriverSpec;

use super::super::Failure;
use super::driver::Driver;
use super::messages::{AccessMode, Empty, MountVolume, SINGLE_NODE_MULTI_WRITER, VolumeCapability};

/// A volume that is to be had from a driver.
pub struct Wanted<'a> {
    /// The name of the directory: the persistent volume's, or the volume's in the pod.
    pub name: &'a str,
    pub driver: &'a str,
    pub handle: String,
    pub ephemeral: bool,
    /// Whether pods see it as a device.
    pub is_device: bool,
    pub read_only: bool,
    pub fs_type: String,
    pub attributes: &'a Option<BTreeMap<String, String>>,
    /// The access modes of a persistent volume.
    pub modes: Vec<String>,
    pub mount_flags: Vec<String>,
    /// Secrets by namespace and name.
    pub stage_secret: Option<(String, String)>,
    pub publish_secret: Option<(String, String)>,
    pub expand_secret: Option<(String, String)>,
}

pub fn hashed(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn secret(reference: Option<&SecretReference>) -> Option<(String, String)> {
    let reference = reference?;
    Some((reference.namespace.clone()?, reference.name.clone()?))
}

impl<'a> Wanted<'a> {
    /// A persistent volume.
    pub fn persistent(
        name: &'a str,
        spec: &PersistentVolumeSpec,
        source: &'a CSIPersistentVolumeSource,
        read_only: bool,
        is_device: bool,
    ) -> Wanted<'a> {
        Wanted {
            name,
            driver: &source.driver,
            handle: source.volume_handle.clone(),
            ephemeral: false,
            is_device,
            read_only: read_only || source.read_only == Some(true),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: &source.volume_attributes,
            modes: spec.access_modes.clone().unwrap_or_default(),
            mount_flags: spec.mount_options.clone().unwrap_or_default(),
            stage_secret: secret(source.node_stage_secret_ref.as_ref()),
            publish_secret: secret(source.node_publish_secret_ref.as_ref()),
            expand_secret: secret(source.node_expand_secret_ref.as_ref()),
        }
    }

    /// A volume that lives as long as its pod.
    pub fn inline(pod: &Pod, name: &'a str, source: &'a CSIVolumeSource) -> Wanted<'a> {
        let publish_secret = source.node_publish_secret_ref.as_ref().map(|reference| (pod.namespace().to_owned(), reference.name.clone()));
        Wanted {
            name,
            driver: &source.driver,
            handle: format!("csi-{}", hashed(&format!("{}{name}", pod.uid()))),
            ephemeral: true,
            is_device: false,
            read_only: source.read_only == Some(true),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: &source.volume_attributes,
            modes: Vec::new(),
            mount_flags: Vec::new(),
            stage_secret: None,
            publish_secret,
            expand_secret: None,
        }
    }

    /// How the volume is used: as a device, or mounted with these options for this group.
    pub fn capability(&self, driver: &Driver, group: Option<u32>) -> VolumeCapability {
        let mount = MountVolume {
            fs_type: self.fs_type.clone(),
            mount_flags: self.mount_flags.clone(),
            volume_mount_group: group.map_or_else(String::new, |group| group.to_string()),
        };
        VolumeCapability {
            block: self.is_device.then_some(Empty {}),
            mount: (!self.is_device).then_some(mount),
            access_mode: Some(AccessMode { mode: access_mode(&self.modes, driver) }),
        }
    }

    /// Whether the volume is given to the pod's group after it was mounted.
    pub fn applies_group(&self, policy: Option<&str>) -> bool {
        match policy {
            Some("None") => false,
            Some("File") => true,
            _ => !self.fs_type.is_empty() && (self.ephemeral || self.modes.iter().any(|mode| mode.starts_with("ReadWriteOnce"))),
        }
    }

    pub fn lifecycle(&self) -> &'static str {
        if self.ephemeral { "Ephemeral" } else { "Persistent" }
    }

    /// Whether the driver's volumes may live as long as this one. Drivers that the cluster has no object of have persistent ones alone.
    pub fn check_lifecycle(&self, driver: Option<&CSIDriverSpec>) -> Result<(), String> {
        let (mode, name) = (self.lifecycle(), self.driver);
        let Some(driver) = driver else {
            if self.ephemeral {
                return Err(format!("volume mode {mode:?} not supported by driver {name} (no CSIDriver object)"));
            }
            return Ok(());
        };
        let default = ["Persistent".to_owned()];
        let modes = driver.volume_lifecycle_modes.as_deref().filter(|modes| !modes.is_empty()).unwrap_or(&default);
        if modes.iter().any(|known| known == mode) {
            return Ok(());
        }
        let listed: Vec<String> = modes.iter().map(|mode| format!("{mode:?}")).collect();
        Err(format!("volume mode {mode:?} not supported by driver {name} (only supports [{}])", listed.join(" ")))
    }

    /// It could not be brought onto the node.
    pub fn staging_failed(&self, error: String) -> Failure {
        let step = if self.is_device { "MapVolume.SetUpDevice failed" } else { "MountVolume.MountDevice failed" };
        Failure::Operation { step, name: self.name.to_owned(), error }
    }

    /// It could not be given to the pod.
    pub fn publishing_failed(&self, error: String) -> Failure {
        let step = if self.is_device { "MapVolume.MapPodDevice failed" } else { "MountVolume.SetUp failed" };
        Failure::Operation { step, name: self.name.to_owned(), error }
    }
}

/// Upstream's numbers for access modes; drivers that tell writers on one node apart get the finer ones.
pub fn access_mode(modes: &[String], driver: &Driver) -> i32 {
    let fine = driver.capabilities.contains(&SINGLE_NODE_MULTI_WRITER);
    match modes.first().map(String::as_str) {
        Some("ReadOnlyMany") => 3,
        Some("ReadWriteMany") => 5,
        Some("ReadWriteOncePod") if fine => 6,
        Some("ReadWriteOnce") if fine => 7,
        _ => 1,
    }
}

/// What drivers are told of the pod if they want to know.
pub fn pod_info(pod: &Pod, ephemeral: bool) -> HashMap<String, String> {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default();
    let entries = [
        ("csi.storage.k8s.io/pod.name", pod.name().to_owned()),
        ("csi.storage.k8s.io/pod.namespace", pod.namespace().to_owned()),
        ("csi.storage.k8s.io/pod.uid", pod.uid().to_owned()),
        ("csi.storage.k8s.io/serviceAccount.name", account),
        ("csi.storage.k8s.io/ephemeral", ephemeral.to_string()),
    ];
    entries.map(|(key, value)| (key.to_owned(), value)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(ephemeral: bool, fs_type: &str, mode: &str) -> Wanted<'a> {
        Wanted {
            name: "pv",
            driver: "d",
            handle: "h".to_owned(),
            ephemeral,
            is_device: false,
            read_only: false,
            fs_type: fs_type.to_owned(),
            attributes: &None,
            modes: vec![mode.to_owned()],
            mount_flags: Vec::new(),
            stage_secret: None,
            publish_secret: None,
            expand_secret: None,
        }
    }

    #[test]
    fn a_group_gets_what_it_can_own() {
        for (policy, ephemeral, fs_type, mode, expect) in [
            (Some("None"), false, "ext4", "ReadWriteOnce", false),
            (Some("File"), false, "", "ReadWriteMany", true),
            (None, false, "ext4", "ReadWriteOnce", true),
            (Some("ReadWriteOnceWithFSType"), false, "ext4", "ReadWriteOncePod", true),
            (None, false, "", "ReadWriteOnce", false),
            (None, false, "ext4", "ReadWriteMany", false),
            (None, true, "ext4", "", true),
        ] {
            assert_eq!(wanted(ephemeral, fs_type, mode).applies_group(policy), expect, "{policy:?} {fs_type} {mode}");
        }
    }

    #[test]
    fn a_driver_says_how_long_its_volumes_live() {
        let spec = |modes: &[&str]| {
            let modes = modes.iter().map(|mode| (*mode).to_owned()).collect();
            CSIDriverSpec { volume_lifecycle_modes: Some(modes), ..CSIDriverSpec::default() }
        };
        let check = |ephemeral, driver: Option<&CSIDriverSpec>| wanted(ephemeral, "", "").check_lifecycle(driver).err();
        assert_eq!(check(false, None), None);
        assert_eq!(check(true, None).as_deref(), Some("volume mode \"Ephemeral\" not supported by driver d (no CSIDriver object)"));
        assert_eq!(check(true, Some(&spec(&["Persistent", "Ephemeral"]))), None);
        let refused = "volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])";
        assert_eq!(check(true, Some(&spec(&["Persistent"]))).as_deref(), Some(refused));
        assert_eq!(check(true, Some(&spec(&[]))).as_deref(), Some(refused));
        assert!(check(false, Some(&spec(&["Ephemeral"]))).is_some());
    }
}
