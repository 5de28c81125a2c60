//! Volumes that pods see as devices. The driver publishes one for each pod below `plugins/kubernetes.io/csi/volumeDevices/publish`; a
//! mount of it in the volume's `dev` and a link in the pod's directory lead there.
//!
//! The link is made before the driver is asked, so that whoever ends the pod knows what to undo. While a pod has the device a
//! descriptor is kept open, so that the kernel does not give its number to another one; upstream keeps a loop device for that.
//!
//! Upstream: pkg/volume/csi/csi_block.go, pkg/volume/util/volumepathhandler.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};

use client::Object;
use k8s_openapi::api::core::v1::Pod;

use super::super::{Failure, Shared, blocking, layout, mount_table, tear_down};
use super::description::Description;
use super::messages::{STAGE_UNSTAGE_VOLUME, Undo};
use super::mount::lock_of;
use super::wanted::Wanted;

/// Writes down that a pod is to have a device; where the driver is to put it.
pub fn prepare(root: &Path, name: &str, uid: &str, description: &Description) -> io::Result<PathBuf> {
    description.write(&layout::csi_device(root, name).join("data"))?;
    let publish = layout::csi_device_publish(root, name);
    std::fs::create_dir_all(&publish)?;
    let links = layout::pod_devices(root, uid);
    std::fs::create_dir_all(&links)?;
    let (link, target) = (links.join(name), publish.join(uid));
    if std::fs::read_link(&link).ok().as_ref() != Some(&target) {
        remove_if_there(&link)?;
        symlink(&target, &link)?;
    }
    Ok(target)
}

/// Mounts a published device into the volume's `dev` and opens it.
fn map(root: &Path, name: &str, uid: &str) -> io::Result<File> {
    let published = layout::csi_device_publish(root, name).join(uid);
    let dev = layout::csi_device(root, name).join("dev");
    std::fs::create_dir_all(&dev)?;
    let mapped = dev.join(uid);
    let is_device = |path: &Path| std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    if !is_device(&mapped) {
        File::options().create(true).truncate(false).write(true).open(&mapped)?;
        mount_table::bind(&std::fs::canonicalize(&published)?, &mapped, false)?;
    }
    if !is_device(&mapped) {
        return Err(io::Error::other(format!("{} is not a block device", published.display())));
    }
    File::open(&mapped)
}

/// Undoes [`map`]; what is not there is no error.
fn unmap(root: &Path, name: &str, uid: &str) -> io::Result<()> {
    let mapped = layout::csi_device(root, name).join("dev").join(uid);
    mount_table::unmount(&mapped, false)?;
    remove_if_there(&mapped)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The names of the volumes that a pod has, or was about to have, as devices.
fn names_of(root: &Path, uid: &str) -> io::Result<Vec<String>> {
    match std::fs::read_dir(layout::pod_devices(root, uid)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
    }
}

/// Whether any pod on this node has the volume as a device.
fn is_mapped_anywhere(root: &Path, name: &str) -> io::Result<bool> {
    let pods = tear_down::pods_on_disk(root)?;
    Ok(pods.iter().any(|uid| layout::pod_devices(root, uid).join(name).is_symlink()))
}

/// Removes the places of a volume that no pod has any more. Nothing is removed that is not empty, but for what was written here.
fn remove_places(root: &Path, name: &str) -> io::Result<()> {
    let volume = layout::csi_device(root, name);
    Description::remove(&volume.join("data"))?;
    for dir in [layout::csi_device_publish(root, name), volume.join("dev"), volume.join("data"), volume] {
        match std::fs::remove_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the directory that a volume was staged in, with the files that are left in it.
fn remove_staging(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        std::fs::remove_file(entry?.path())?;
    }
    std::fs::remove_dir(dir)
}

impl Shared {
    /// Gives a published device to the pod; the path for the runtime.
    pub(super) async fn map_device(&self, pod: &Pod, wanted: &Wanted<'_>) -> Result<PathBuf, Failure> {
        let (root, name, uid) = (self.config.root_dir.clone(), wanted.name.to_owned(), pod.uid().to_owned());
        let link = layout::pod_devices(&root, &uid).join(&name);
        let key = (uid.clone(), name.clone());
        let held = blocking(move || map(&root, &name, &uid)).await.map_err(|error| Failure::Operation {
            step: "MapVolume.MapBlockVolume failed",
            name: wanted.name.to_owned(),
            error: error.to_string(),
        })?;
        self.csi_devices.lock().insert(key, held);
        Ok(link)
    }

    /// Takes a pod's devices away, and off the node when no other pod has them.
    pub(super) async fn unmap_devices(&self, pod_uid: &str) -> io::Result<()> {
        let (root, uid) = (self.config.root_dir.clone(), pod_uid.to_owned());
        for name in blocking(move || names_of(&root, &uid)).await? {
            self.unmap_device(pod_uid, &name).await?;
        }
        Ok(())
    }

    async fn unmap_device(&self, uid: &str, name: &str) -> io::Result<()> {
        let root = self.config.root_dir.clone();
        let link = layout::pod_devices(&root, uid).join(name);
        let data = layout::csi_device(&root, name).join("data");
        let Some(description) = blocking(move || Description::read(&data)).await? else {
            // Without a description no driver has been asked for it.
            return blocking(move || remove_if_there(&link)).await;
        };
        let driver = self.csi.driver(&description.driver_name).map_err(io::Error::other)?;
        self.csi_devices.lock().remove(&(uid.to_owned(), name.to_owned()));
        let (at, volume, pod) = (root.clone(), name.to_owned(), uid.to_owned());
        blocking(move || unmap(&at, &volume, &pod)).await?;
        let target = layout::csi_device_publish(&root, name).join(uid);
        let undo = Undo { volume_id: description.volume_handle.clone(), path: target.display().to_string() };
        driver.socket.unpublish(undo).await.map_err(io::Error::other)?;
        let _one_at_a_time = self.csi_locks[lock_of(&description.volume_handle)].lock().await;
        let (at, volume) = (root.clone(), name.to_owned());
        let is_last = blocking(move || {
            // Drivers are to remove what they have put there.
            remove_if_there(&target)?;
            remove_if_there(&link)?;
            Ok(!is_mapped_anywhere(&at, &volume)?)
        });
        if !is_last.await? {
            return Ok(());
        }
        let staging = layout::csi_device_staging(&root, name);
        if staging.exists() && driver.capabilities.contains(&STAGE_UNSTAGE_VOLUME) {
            let undo = Undo { volume_id: description.volume_handle.clone(), path: staging.display().to_string() };
            if let Err(error) = driver.socket.unstage(undo).await {
                // The link says that there is something left to undo.
                let (at, volume, pod) = (root, name.to_owned(), uid.to_owned());
                blocking(move || prepare(&at, &volume, &pod, &description)).await?;
                return Err(io::Error::other(error));
            }
            blocking(move || remove_staging(&staging)).await?;
        }
        let volume = name.to_owned();
        blocking(move || remove_places(&root, &volume)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_link_leads_to_what_is_published_for_it() {
        let root = tempfile::tempdir().expect("there is a directory for temporary files");
        let at = root.path();
        let description = Description { driver_name: "d".to_owned(), volume_handle: "h".to_owned(), ..Description::default() };
        for uid in ["u", "w"] {
            let target = prepare(at, "pv", uid, &description).expect("it is writable");
            assert_eq!(target, at.join("plugins/kubernetes.io/csi/volumeDevices/publish/pv").join(uid));
            let link = at.join("pods").join(uid).join("volumeDevices/kubernetes.io~csi/pv");
            assert_eq!(std::fs::read_link(link).expect("it is a link"), target);
            prepare(at, "pv", uid, &description).expect("twice is once");
        }
        assert_eq!(names_of(at, "u").expect("it is readable"), ["pv"]);
        assert!(names_of(at, "x").expect("there is nothing").is_empty());
        let data = at.join("plugins/kubernetes.io/csi/volumeDevices/pv/data");
        assert_eq!(Description::read(&data).expect("it is readable"), Some(description));
        std::fs::remove_file(layout::pod_devices(at, "u").join("pv")).expect("it is there");
        assert!(is_mapped_anywhere(at, "pv").expect("it is readable"));
        std::fs::remove_file(layout::pod_devices(at, "w").join("pv")).expect("it is there");
        assert!(!is_mapped_anywhere(at, "pv").expect("it is readable"));
        remove_places(at, "pv").expect("they are empty");
        assert!(!layout::csi_device(at, "pv").exists());
        remove_places(at, "pv").expect("there is nothing");
    }
}
