//! Mounting and unmounting a driver's volumes: attach is awaited, the volume is staged once for the node and published for each pod.
//!
//! What was published is written beside the mount, so that it can be undone by whoever comes after a restart.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use client::Object;
use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolumeSpec, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, VolumeAttachment};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use serde::{Deserialize, Serialize};

use super::super::ownership::Ownership;
use super::super::{Failure, Shared, blocking, layout, message};
use super::driver::Driver;
use super::messages::{
    AccessMode, MountVolume, Publish, SINGLE_NODE_MULTI_WRITER, STAGE_UNSTAGE_VOLUME, Stage, Undo, VOLUME_MOUNT_GROUP, VolumeCapability,
};

const DESCRIPTION: &str = "vol_data.json";

/// What is written beside a mount; the names are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    #[serde(default, rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    attachment_id: String,
    driver_name: String,
    #[serde(default)]
    node_name: String,
    #[serde(default, rename = "specVolID")]
    spec_volume_id: String,
    volume_handle: String,
    #[serde(default)]
    volume_lifecycle_mode: String,
}

/// A volume that is there.
pub struct Published {
    pub path: PathBuf,
    /// Whether the driver wants to be called at every sync.
    pub republish: bool,
}

/// The parts that volumes of claims and those in a pod's spec have in common.
struct Wanted<'a> {
    /// The name of the directory: the persistent volume's, or the volume's in the pod.
    name: &'a str,
    driver: &'a str,
    handle: String,
    ephemeral: bool,
    read_only: bool,
    fs_type: String,
    attributes: &'a Option<BTreeMap<String, String>>,
    /// The access modes of a persistent volume.
    modes: Vec<String>,
    mount_flags: Vec<String>,
    stage_secret: Option<(String, String)>,
    publish_secret: Option<(String, String)>,
}

/// What a node says of a volume that it uses: `kubernetes.io/csi/<driver>^<handle>`.
pub fn unique_name(source: &CSIPersistentVolumeSource) -> String {
    format!("kubernetes.io/csi/{}^{}", source.driver, source.volume_handle)
}

/// Whether volumes of a driver are attached before they are mounted.
fn is_attachable(driver: &CSIDriverSpec) -> bool {
    driver.attach_required != Some(false)
}

fn hashed(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hashed(&format!("{handle}{driver}{node}")))
}

/// Upstream's numbers for access modes; drivers that tell writers on one node apart get the finer ones.
fn access_mode(modes: &[String], driver: &Driver) -> i32 {
    let fine = driver.capabilities.contains(&SINGLE_NODE_MULTI_WRITER);
    match modes.first().map(String::as_str) {
        Some("ReadOnlyMany") => 3,
        Some("ReadWriteMany") => 5,
        Some("ReadWriteOncePod") if fine => 6,
        Some("ReadWriteOnce") if fine => 7,
        _ => 1,
    }
}

/// Whether the volume is given to the pod's group after it was mounted.
fn applies_group(policy: Option<&str>, wanted: &Wanted<'_>) -> bool {
    match policy {
        Some("None") => false,
        Some("File") => true,
        _ => !wanted.fs_type.is_empty() && (wanted.ephemeral || wanted.modes.iter().any(|mode| mode.starts_with("ReadWriteOnce"))),
    }
}

fn pod_info(pod: &Pod, ephemeral: bool) -> HashMap<String, String> {
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

impl Shared {
    /// Mounts a persistent volume.
    pub(in crate::volumes) async fn publish_persistent(
        &self,
        pod: &Pod,
        name: &str,
        spec: &PersistentVolumeSpec,
        source: &CSIPersistentVolumeSource,
        read_only: bool,
    ) -> Result<Published, Failure> {
        let secret = |reference: &Option<k8s_openapi::api::core::v1::SecretReference>| {
            let reference = reference.as_ref()?;
            Some((reference.namespace.clone()?, reference.name.clone()?))
        };
        self.publish(
            pod,
            Wanted {
                name,
                driver: &source.driver,
                handle: source.volume_handle.clone(),
                ephemeral: false,
                read_only: read_only || source.read_only == Some(true),
                fs_type: source.fs_type.clone().unwrap_or_default(),
                attributes: &source.volume_attributes,
                modes: spec.access_modes.clone().unwrap_or_default(),
                mount_flags: spec.mount_options.clone().unwrap_or_default(),
                stage_secret: secret(&source.node_stage_secret_ref),
                publish_secret: secret(&source.node_publish_secret_ref),
            },
        )
        .await
    }

    /// Mounts a volume that lives as long as its pod.
    pub(in crate::volumes) async fn publish_inline(&self, pod: &Pod, name: &str, source: &CSIVolumeSource) -> Result<Published, Failure> {
        let secret = source.node_publish_secret_ref.as_ref().map(|reference| (pod.namespace().to_owned(), reference.name.clone()));
        self.publish(
            pod,
            Wanted {
                name,
                driver: &source.driver,
                handle: format!("csi-{}", hashed(&format!("{}{name}", pod.uid()))),
                ephemeral: true,
                read_only: source.read_only == Some(true),
                fs_type: source.fs_type.clone().unwrap_or_default(),
                attributes: &source.volume_attributes,
                modes: Vec::new(),
                mount_flags: Vec::new(),
                stage_secret: None,
                publish_secret: secret,
            },
        )
        .await
    }

    async fn publish(&self, pod: &Pod, wanted: Wanted<'_>) -> Result<Published, Failure> {
        let set_up = |error: String| Failure::SetUp(error);
        let no_client = |error: String| Failure::SetUp(format!("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: {error}"));
        let driver = self.csi.driver(wanted.driver).map_err(no_client)?;
        let spec = self.csi_driver(wanted.driver).await.map_err(set_up)?;
        let attached = if wanted.ephemeral || !is_attachable(&spec) { None } else { Some(self.attachment(&wanted).await.map_err(set_up)?) };
        let (attachment_id, publish_context) = attached.unwrap_or_default();
        let group = Ownership::of(pod);
        let by_driver = driver.capabilities.contains(&VOLUME_MOUNT_GROUP);
        let capability = VolumeCapability {
            mount: Some(MountVolume {
                fs_type: wanted.fs_type.clone(),
                mount_flags: wanted.mount_flags.clone(),
                volume_mount_group: group.filter(|_| by_driver).map_or_else(String::new, |group| group.group.to_string()),
            }),
            access_mode: Some(AccessMode { mode: access_mode(&wanted.modes, &driver) }),
        };
        let staging = self.stage(&wanted, &driver, &capability, &publish_context).await?;
        let target = self.prepare_target(pod, &wanted, attachment_id).await.map_err(set_up)?;
        let mut volume_context: HashMap<String, String> = wanted.attributes.clone().unwrap_or_default().into_iter().collect();
        if spec.pod_info_on_mount == Some(true) {
            volume_context.extend(pod_info(pod, wanted.ephemeral));
        }
        let mut secrets = self.secret_data(wanted.publish_secret.as_ref()).await.map_err(set_up)?;
        if let Some(tokens) = self.tokens_for(pod, &spec).await.map_err(set_up)? {
            let place = if spec.service_account_token_in_secrets == Some(true) { &mut secrets } else { &mut volume_context };
            place.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), tokens);
        }
        let request = Publish {
            volume_id: wanted.handle.clone(),
            publish_context,
            staging_target_path: staging.map(|path| path.display().to_string()).unwrap_or_default(),
            target_path: target.display().to_string(),
            volume_capability: Some(capability),
            readonly: wanted.read_only,
            secrets,
            volume_context,
        };
        driver.socket.publish(request).await.map_err(set_up)?;
        let owned = group.filter(|_| !by_driver && !wanted.read_only && applies_group(spec.fs_group_policy.as_deref(), &wanted));
        if let Some(group) = owned {
            let path = target.clone();
            blocking(move || group.apply(&path, false)).await.map_err(|error| Failure::SetUp(error.to_string()))?;
        }
        Ok(Published { path: target, republish: spec.requires_republish == Some(true) })
    }

    /// What the cluster says of a driver; the defaults if it says nothing.
    async fn csi_driver(&self, name: &str) -> Result<CSIDriverSpec, String> {
        match Api::<CSIDriver>::all(self.config.client.clone()).get(name).await {
            Ok(driver) => Ok(driver.spec),
            Err(error) if client::answer::is_not_found(&error) => Ok(CSIDriverSpec::default()),
            Err(error) => Err(message(&error)),
        }
    }

    /// The name of the attachment and what the driver's controller says of it.
    async fn attachment(&self, wanted: &Wanted<'_>) -> Result<(String, HashMap<String, String>), String> {
        let name = attachment_name(&wanted.handle, wanted.driver, &self.config.node_name);
        let attachments: Api<VolumeAttachment> = Api::all(self.config.client.clone());
        let attachment = attachments.get(&name).await.map_err(|error| message(&error))?;
        let status = attachment.status.unwrap_or_default();
        match status.attached {
            true => Ok((name, status.attachment_metadata.unwrap_or_default().into_iter().collect())),
            false => Err(format!("volume {} has GET error for volume attachment {name}: it is not attached yet", wanted.handle)),
        }
    }

    /// Stages the volume if the driver does that; where it is then.
    async fn stage(
        &self,
        wanted: &Wanted<'_>,
        driver: &Driver,
        capability: &VolumeCapability,
        publish_context: &HashMap<String, String>,
    ) -> Result<Option<PathBuf>, Failure> {
        if wanted.ephemeral || !driver.capabilities.contains(&STAGE_UNSTAGE_VOLUME) {
            return Ok(None);
        }
        let device = |error: String| Failure::MountDevice(error);
        let path = layout::csi_staging(&self.config.root_dir, wanted.driver, &hashed(&wanted.handle));
        let description = Description {
            attachment_id: String::new(),
            driver_name: wanted.driver.to_owned(),
            node_name: String::new(),
            spec_volume_id: String::new(),
            volume_handle: wanted.handle.clone(),
            volume_lifecycle_mode: String::new(),
        };
        let made = path.clone();
        let describe = blocking(move || {
            std::fs::create_dir_all(&made)?;
            write_description(made.parent().unwrap_or(&made), &description)
        });
        describe.await.map_err(|error| device(error.to_string()))?;
        let _one_at_a_time = self.csi_locks[lock_of(&wanted.handle)].lock().await;
        let request = Stage {
            volume_id: wanted.handle.clone(),
            publish_context: publish_context.clone(),
            staging_target_path: path.display().to_string(),
            volume_capability: Some(capability.clone()),
            secrets: self.secret_data(wanted.stage_secret.as_ref()).await.map_err(device)?,
            volume_context: wanted.attributes.clone().unwrap_or_default().into_iter().collect(),
        };
        driver.socket.stage(request).await.map_err(device)?;
        Ok(Some(path))
    }

    async fn prepare_target(&self, pod: &Pod, wanted: &Wanted<'_>, attachment_id: String) -> Result<PathBuf, String> {
        let dir = layout::volume_dir(&self.config.root_dir, pod.uid(), layout::CSI, wanted.name);
        let description = Description {
            attachment_id,
            driver_name: wanted.driver.to_owned(),
            node_name: self.config.node_name.clone(),
            spec_volume_id: wanted.name.to_owned(),
            volume_handle: wanted.handle.clone(),
            volume_lifecycle_mode: if wanted.ephemeral { "Ephemeral" } else { "Persistent" }.to_owned(),
        };
        let target = dir.join("mount");
        blocking(move || {
            std::fs::create_dir_all(&dir)?;
            write_description(&dir, &description)
        })
        .await
        .map_err(|error| error.to_string())?;
        Ok(target)
    }

    async fn secret_data(&self, reference: Option<&(String, String)>) -> Result<HashMap<String, String>, String> {
        let Some((namespace, name)) = reference else { return Ok(HashMap::new()) };
        let secrets: Api<Secret> = Api::namespaced(self.config.client.clone(), namespace);
        let secret = secrets.get(name).await.map_err(|error| message(&error))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(secret.data.into_iter().flatten().map(|(key, value)| (key, text(&value.0))).collect())
    }

    /// Tokens of the pod's account for the audiences that the driver asks for, as JSON.
    async fn tokens_for(&self, pod: &Pod, spec: &CSIDriverSpec) -> Result<Option<String>, String> {
        let mut tokens = serde_json::Map::new();
        for request in spec.token_requests.iter().flatten() {
            let audience = &request.audience;
            let (token, expires) = self.tokens.get_with_end(pod, audience, request.expiration_seconds, Timestamp::now()).await?;
            let end = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            tokens.insert(audience.clone(), serde_json::json!({"token": token, "expirationTimestamp": end}));
        }
        Ok((!tokens.is_empty()).then(|| serde_json::Value::Object(tokens).to_string()))
    }

    /// Takes the volumes of drivers away from a pod, and off the node when no other pod has them.
    pub(in crate::volumes) async fn unpublish_all(&self, pod_uid: &str) -> std::io::Result<()> {
        let dir = layout::pod_dir(&self.config.root_dir, pod_uid).join("volumes").join(layout::CSI.directory);
        let found = blocking(move || descriptions_in(&dir)).await?;
        for (dir, description) in found {
            let driver = self.csi.driver(&description.driver_name).map_err(std::io::Error::other)?;
            let mount = dir.join("mount");
            let undo = Undo { volume_id: description.volume_handle.clone(), path: mount.display().to_string() };
            driver.socket.unpublish(undo).await.map_err(std::io::Error::other)?;
            blocking(move || remove_published(&dir)).await?;
            self.unstage(&driver, &description).await?;
        }
        Ok(())
    }

    async fn unstage(&self, driver: &Driver, description: &Description) -> std::io::Result<()> {
        let root = self.config.root_dir.clone();
        let staging = layout::csi_staging(&root, &description.driver_name, &hashed(&description.volume_handle));
        if !staging.exists() {
            return Ok(());
        }
        let _one_at_a_time = self.csi_locks[lock_of(&description.volume_handle)].lock().await;
        let wanted = description.clone();
        if blocking(move || is_used(&root, &wanted)).await? {
            return Ok(());
        }
        let undo = Undo { volume_id: description.volume_handle.clone(), path: staging.display().to_string() };
        driver.socket.unstage(undo).await.map_err(std::io::Error::other)?;
        blocking(move || {
            std::fs::remove_dir(&staging)?;
            remove_published(staging.parent().unwrap_or(&staging))
        })
        .await
    }
}

/// One of a fixed number of locks.
fn lock_of(handle: &str) -> usize {
    handle.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte))) % super::super::CSI_LOCKS
}

fn write_description(dir: &Path, description: &Description) -> std::io::Result<()> {
    let text = serde_json::to_vec(description)?;
    std::fs::write(dir.join(DESCRIPTION), text)
}

/// The volumes of drivers in a pod's directory.
fn descriptions_in(dir: &Path) -> std::io::Result<Vec<(PathBuf, Description)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let text = match std::fs::read(path.join(DESCRIPTION)) {
            // It was interrupted before anything was published.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            text => text?,
        };
        found.push((path, serde_json::from_slice(&text)?));
    }
    Ok(found)
}

/// Whether any pod on this node still has the volume.
fn is_used(root: &Path, wanted: &Description) -> std::io::Result<bool> {
    for pod in super::super::tear_down::pods_on_disk(root)? {
        let dir = layout::pod_dir(root, &pod).join("volumes").join(layout::CSI.directory);
        let same = |other: &Description| (&other.driver_name, &other.volume_handle) == (&wanted.driver_name, &wanted.volume_handle);
        if descriptions_in(&dir)?.iter().any(|(_, other)| same(other)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the directory of a mount that is undone; the driver may have removed the mount point itself.
fn remove_published(dir: &Path) -> std::io::Result<()> {
    let mount = dir.join("mount");
    if mount.exists() {
        std::fs::remove_dir(&mount)?;
    }
    std::fs::remove_file(dir.join(DESCRIPTION))?;
    std::fs::remove_dir(dir)
}

#[cfg(test)]
pub(super) mod tests {
    pub fn hashed_for_tests(text: &str) -> String {
        super::hashed(text)
    }
}
