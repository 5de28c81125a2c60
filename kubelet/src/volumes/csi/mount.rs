//! Bringing a driver's volume to a pod and taking it away: attach is awaited, the volume is staged once for the node and published for
//! each pod, as a mount or (`block`) as a device.

use std::collections::HashMap;
use std::path::PathBuf;

use client::Object;
use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, VolumeAttachment};
use k8s_openapi::jiff::Timestamp;
use kube::Api;

use super::super::ownership::Ownership;
use super::super::{Failure, Shared, Source, blocking, layout, message};
use super::block;
use super::description::{self, Description};
use super::driver::Driver;
use super::messages::{Publish, STAGE_UNSTAGE_VOLUME, Stage, Undo, VOLUME_MOUNT_GROUP, VolumeCapability};
use super::volume_stats::Place;
use super::wanted::{Wanted, hashed, pod_info};

/// A volume that is there.
pub struct Published {
    pub source: Source,
    /// Whether the driver wants to be called at every sync.
    pub republish: bool,
    /// Where the driver has put it.
    pub place: Place,
}

/// What a node says of a volume that it uses: `kubernetes.io/csi/<driver>^<handle>`.
pub fn unique_name(source: &CSIPersistentVolumeSource) -> String {
    format!("kubernetes.io/csi/{}^{}", source.driver, source.volume_handle)
}

/// Whether volumes of a driver are attached before they are mounted.
fn is_attachable(driver: Option<&CSIDriverSpec>) -> bool {
    driver.is_none_or(|driver| driver.attach_required != Some(false))
}

fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hashed(&format!("{handle}{driver}{node}")))
}

impl Shared {
    /// Mounts a volume that lives as long as its pod.
    pub(in crate::volumes) async fn publish_inline(&self, pod: &Pod, name: &str, source: &CSIVolumeSource) -> Result<Published, Failure> {
        self.publish(pod, &Wanted::inline(pod, name, source)).await
    }

    pub(in crate::volumes) async fn publish(&self, pod: &Pod, wanted: &Wanted<'_>) -> Result<Published, Failure> {
        let failed = |error: String| wanted.publishing_failed(error);
        let caller = if wanted.is_device { "blockMapper.SetUpDevice" } else { "mounter.SetUpAt" };
        let no_client = |error: String| format!("kubernetes.io/csi: {caller} failed to get CSI client: {error}");
        let driver = self.csi.driver(wanted.driver).map_err(|error| failed(no_client(error)))?;
        let known = self.csi_driver(wanted.driver).await.map_err(failed)?;
        let wrong_life =
            |error: String| failed(format!("kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: {error}"));
        wanted.check_lifecycle(known.as_ref()).map_err(wrong_life)?;
        let attaches = !wanted.ephemeral && is_attachable(known.as_ref());
        let attached = if attaches { Some(self.attachment(wanted).await.map_err(failed)?) } else { None };
        let spec = known.unwrap_or_default();
        let (attachment_id, publish_context) = attached.unwrap_or_default();
        let group = Ownership::of(pod).filter(|_| !wanted.is_device);
        let by_driver = driver.capabilities.contains(&VOLUME_MOUNT_GROUP);
        let capability = wanted.capability(&driver, group.filter(|_| by_driver).map(|group| group.group));
        let (target, staging) = {
            let _one_at_a_time = self.csi_locks[lock_of(&wanted.handle)].lock().await;
            // Written before it is staged: whoever unstages it for another pod sees that it is wanted.
            let target = self.prepare_target(pod, wanted, attachment_id).await.map_err(failed)?;
            (target, self.stage(wanted, &driver, &capability, &publish_context).await?)
        };
        let mut volume_context: HashMap<String, String> = wanted.attributes.clone().unwrap_or_default().into_iter().collect();
        if spec.pod_info_on_mount == Some(true) {
            volume_context.extend(pod_info(pod, wanted.ephemeral));
        }
        let mut secrets = self.secret_data(wanted.publish_secret.as_ref()).await.map_err(failed)?;
        if let Some(tokens) = self.tokens_for(pod, &spec).await.map_err(failed)?.filter(|_| !wanted.is_device) {
            let place = if spec.service_account_token_in_secrets == Some(true) { &mut secrets } else { &mut volume_context };
            place.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), tokens);
        }
        let place =
            Place { driver: wanted.driver.to_owned(), handle: wanted.handle.clone(), path: target.clone(), staging: staging.clone() };
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
        driver.socket.publish(request).await.map_err(|error| failed(error.to_string()))?;
        let republish = spec.requires_republish == Some(true) && !wanted.is_device;
        if wanted.is_device {
            let source = Source::Device(self.map_device(pod, wanted).await?);
            return Ok(Published { source, republish, place });
        }
        let owned = group.filter(|_| !by_driver && !wanted.read_only && wanted.applies_group(spec.fs_group_policy.as_deref()));
        if let Some(group) = owned {
            let path = target.clone();
            blocking(move || group.apply(&path, false)).await.map_err(|error| failed(error.to_string()))?;
        }
        Ok(Published { source: Source::Path(target), republish, place })
    }

    /// What the cluster says of a driver, if it has an object of it.
    async fn csi_driver(&self, name: &str) -> Result<Option<CSIDriverSpec>, String> {
        match Api::<CSIDriver>::all(self.config.client.clone()).get(name).await {
            Ok(driver) => Ok(Some(driver.spec)),
            Err(error) if client::answer::is_not_found(&error) => Ok(None),
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

    /// Stages the volume if the driver does that; where it is then. To be called with the volume's lock.
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
        let failed = |error: String| wanted.staging_failed(error);
        let root = &self.config.root_dir;
        let path = match wanted.is_device {
            true => layout::csi_device_staging(root, wanted.name),
            false => layout::csi_staging(root, wanted.driver, &hashed(&wanted.handle)),
        };
        let description =
            Description { driver_name: wanted.driver.to_owned(), volume_handle: wanted.handle.clone(), ..Description::default() };
        let (made, is_device) = (path.clone(), wanted.is_device);
        let describe = blocking(move || {
            std::fs::create_dir_all(&made)?;
            // A device is described beside the places of all pods.
            if is_device { Ok(()) } else { description.write(made.parent().unwrap_or(&made)) }
        });
        describe.await.map_err(|error| failed(error.to_string()))?;
        let request = Stage {
            volume_id: wanted.handle.clone(),
            publish_context: publish_context.clone(),
            staging_target_path: path.display().to_string(),
            volume_capability: Some(capability.clone()),
            secrets: self.secret_data(wanted.stage_secret.as_ref()).await.map_err(failed)?,
            volume_context: wanted.attributes.clone().unwrap_or_default().into_iter().collect(),
        };
        driver.socket.stage(request).await.map_err(|error| failed(error.to_string()))?;
        Ok(Some(path))
    }

    /// Where the driver is to publish the volume, with what it takes to undo it written down.
    async fn prepare_target(&self, pod: &Pod, wanted: &Wanted<'_>, attachment_id: String) -> Result<PathBuf, String> {
        let description = Description {
            attachment_id,
            driver_name: wanted.driver.to_owned(),
            node_name: self.config.node_name.clone(),
            spec_volume_id: wanted.name.to_owned(),
            volume_handle: wanted.handle.clone(),
            volume_lifecycle_mode: wanted.lifecycle().to_owned(),
        };
        let root = self.config.root_dir.clone();
        if wanted.is_device {
            let (name, uid) = (wanted.name.to_owned(), pod.uid().to_owned());
            let prepared = blocking(move || block::prepare(&root, &name, &uid, &description)).await;
            return prepared.map_err(|error| error.to_string());
        }
        let dir = layout::volume_dir(&root, pod.uid(), layout::CSI, wanted.name);
        let target = dir.join("mount");
        blocking(move || description.write(&dir)).await.map_err(|error| error.to_string())?;
        Ok(target)
    }

    pub(super) async fn secret_data(&self, reference: Option<&(String, String)>) -> Result<HashMap<String, String>, String> {
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
        self.unmap_devices(pod_uid).await?;
        let dir = layout::pod_dir(&self.config.root_dir, pod_uid).join("volumes").join(layout::CSI.directory);
        let found = blocking(move || description::below(&dir)).await?;
        for (dir, description) in found {
            let driver = self.csi.driver(&description.driver_name).map_err(std::io::Error::other)?;
            let mount = dir.join("mount");
            let undo = Undo { volume_id: description.volume_handle.clone(), path: mount.display().to_string() };
            driver.socket.unpublish(undo).await.map_err(std::io::Error::other)?;
            blocking(move || description::remove_published(&dir)).await?;
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
        if blocking(move || wanted.is_mounted_anywhere(&root)).await? {
            return Ok(());
        }
        let undo = Undo { volume_id: description.volume_handle.clone(), path: staging.display().to_string() };
        driver.socket.unstage(undo).await.map_err(std::io::Error::other)?;
        blocking(move || {
            std::fs::remove_dir(&staging)?;
            description::remove_published(staging.parent().unwrap_or(&staging))
        })
        .await
    }
}

/// One of a fixed number of locks.
pub(super) fn lock_of(handle: &str) -> usize {
    handle.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte))) % super::super::CSI_LOCKS
}
