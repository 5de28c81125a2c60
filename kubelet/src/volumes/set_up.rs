//! Making one volume: the shell that knows which kind is made how.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use client::Object;
use k8s_openapi::api::core::v1::{NFSVolumeSource, PersistentVolume, Pod, Volume};
use k8s_openapi::jiff::Timestamp;

use super::empty_dir::{self, Medium};
use super::layout::{self, Kind};
use super::ownership::Ownership;
use super::payload::{self, Defaults, Payload};
use super::projected::or_absent;
use super::{
    Failure, Mounted, PodVolume, Shared, Source, atomic_writer, blocking, csi, host_path, mount_table, nested, persistent, projected,
};
use crate::container_config::pod_resources::parse;

/// The volumes that containers of a pod use, as file systems and as devices. Others are not made at all.
#[derive(Default)]
pub struct Uses {
    pub mounted: BTreeSet<String>,
    pub devices: BTreeSet<String>,
}

pub fn uses(pod: &Pod) -> Uses {
    let mut uses = Uses::default();
    let Some(spec) = &pod.spec else { return uses };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(crate::container_config::as_container);
    let containers: Vec<_> = spec.init_containers.iter().flatten().chain(&spec.containers).cloned().chain(ephemeral).collect();
    for container in containers {
        uses.mounted.extend(container.volume_mounts.into_iter().flatten().map(|mount| mount.name));
        uses.devices.extend(container.volume_devices.into_iter().flatten().map(|device| device.name));
        let files = container.env.into_iter().flatten().filter_map(|variable| variable.value_from?.file_key_ref);
        uses.mounted.extend(files.map(|file| file.volume_name));
    }
    uses
}

/// Whether the volume's contents follow other objects, so that it is set up again at every sync.
pub fn changes(volume: &Volume) -> bool {
    volume.config_map.is_some() || volume.secret.is_some() || volume.projected.is_some() || volume.downward_api.is_some()
}

/// What is said of a volume of a kind that nothing here makes.
fn why_not(volume: &Volume) -> &'static str {
    if volume.git_repo.is_some() {
        "git-repo volume plugin has been disabled; if necessary, it may be re-enabled by enabling the feature-gate `GitRepoVolumeDriver`"
    } else {
        "no volume plugin matched"
    }
}

fn at(path: PathBuf, read_only: bool, selinux_relabel: bool) -> Mounted {
    Mounted::new(PodVolume { source: Source::Path(path), read_only, selinux_relabel })
}

impl Shared {
    /// Makes a volume, or brings it up to date. Idempotent, also after a restart.
    pub(super) async fn set_up(&self, pod: &Pod, volume: &Volume, uses: &Uses) -> Result<Mounted, Failure> {
        if persistent::claim_of(pod, volume).is_some() {
            return self.set_up_claim(pod, volume, uses).await;
        }
        if let Some(source) = &volume.csi {
            let published = self.publish_inline(pod, &volume.name, source).await?;
            return Ok(published.into_mounted(source.read_only == Some(true)));
        }
        self.set_up_inline(pod, volume).await.map_err(|error| Failure::set_up(&volume.name, error))
    }

    async fn set_up_inline(&self, pod: &Pod, volume: &Volume) -> Result<Mounted, String> {
        let items = |items: &Option<Vec<k8s_openapi::api::core::v1::KeyToPath>>| items.clone().unwrap_or_default();
        if let Some(source) = &volume.config_map {
            let optional = source.optional == Some(true);
            let object = or_absent(self.config_maps.get(pod.namespace(), &source.name).await, optional)?;
            let defaults = Defaults::new(source.default_mode, source.default_user);
            let files = payload::of_config_map(object.as_deref(), &items(&source.items), optional, defaults)?;
            return self.write(pod, volume, layout::CONFIG_MAP, Medium::Disk, files).await;
        }
        if let Some(source) = &volume.secret {
            let optional = source.optional == Some(true);
            let name = source.secret_name.as_deref().unwrap_or("");
            let object = or_absent(self.secrets.get(pod.namespace(), name).await, optional)?;
            let defaults = Defaults::new(source.default_mode, source.default_user);
            let files = payload::of_secret(object.as_deref(), &items(&source.items), optional, defaults)?;
            return self.write(pod, volume, layout::SECRET, self.in_memory(), files).await;
        }
        if let Some(source) = &volume.projected {
            let files = projected::collect(self, pod, &volume.name, source, Timestamp::now()).await?;
            return self.write(pod, volume, layout::PROJECTED, self.in_memory(), files).await;
        }
        if let Some(source) = &volume.downward_api {
            let allocatable = self.allocatable.read().clone();
            let defaults = Defaults::new(source.default_mode, source.default_user);
            let files = payload::of_downward_api(pod, source.items.as_deref().unwrap_or(&[]), &allocatable, defaults)?;
            return self.write(pod, volume, layout::DOWNWARD_API, self.in_memory(), files).await;
        }
        if let Some(source) = &volume.host_path {
            let (path, kind) = (PathBuf::from(&source.path), source.type_.clone().unwrap_or_default());
            return host_path_at(path, kind, false).await;
        }
        if let Some(source) = &volume.nfs {
            return self.set_up_nfs(pod, &volume.name, source, &[], source.read_only == Some(true)).await;
        }
        if volume.image.is_some() {
            return Ok(Mounted::new(PodVolume { source: Source::Image, read_only: true, selinux_relabel: false }));
        }
        // A volume that does not say what it is is an empty directory.
        if let Some(source) = volume.empty_dir.clone().or_else(|| is_unspecified(volume).then(Default::default)) {
            let medium = empty_dir::medium(pod, &source, self.allocatable_memory())?;
            let dir = self.directory(pod, layout::EMPTY_DIR, &volume.name);
            let (medium, ownership) = self.as_seen(medium, Ownership::of(pod));
            let at_dir = dir.clone();
            blocking(move || empty_dir::set_up(&at_dir, &medium, source.mode, ownership)).await.map_err(|error| error.to_string())?;
            return Ok(at(dir, false, true));
        }
        Err(why_not(volume).to_owned())
    }

    fn directory(&self, pod: &Pod, kind: Kind, name: &str) -> PathBuf {
        layout::volume_dir(&self.config.root_dir, pod.uid(), kind, name)
    }

    fn allocatable_memory(&self) -> i64 {
        self.allocatable.read().get("memory").map_or(0, |memory| parse(memory).value())
    }

    /// What a directory lies on and whose it is, if anybody sees it.
    fn as_seen(&self, medium: Medium, ownership: Option<Ownership>) -> (Medium, Option<Ownership>) {
        if self.config.simulated { (Medium::Disk, None) } else { (medium, ownership) }
    }

    /// What secrets lie on: never on a disk.
    fn in_memory(&self) -> Medium {
        Medium::Memory(Some(self.allocatable_memory()).filter(|bytes| *bytes > 0))
    }

    async fn write(&self, pod: &Pod, volume: &Volume, kind: Kind, medium: Medium, files: Payload) -> Result<Mounted, String> {
        let dir = self.directory(pod, kind, &volume.name);
        let (medium, ownership) = self.as_seen(medium, Ownership::of(pod).map(Ownership::always));
        let nested = nested::directories(pod, &volume.name);
        let at_dir = dir.clone();
        blocking(move || {
            empty_dir::set_up(&at_dir, &medium, None, ownership)?;
            for place in nested {
                std::fs::create_dir_all(at_dir.join(place))?;
            }
            let publish = || ownership.map_or(Ok(()), |ownership| ownership.apply(&at_dir, true));
            atomic_writer::write(&at_dir, &files, Timestamp::now(), publish)
        })
        .await
        .map_err(|error| error.to_string())?;
        Ok(at(dir, true, true))
    }

    async fn set_up_claim(&self, pod: &Pod, volume: &Volume, uses: &Uses) -> Result<Mounted, Failure> {
        let (is_mounted, is_device) = (uses.mounted.contains(&volume.name), uses.devices.contains(&volume.name));
        let bound = persistent::resolve(&self.config.client, pod, volume, is_mounted, is_device).await.map_err(Failure::Processing)?;
        let spec = bound.volume.spec.as_ref();
        let mounted = match spec.and_then(|spec| Some((spec, spec.csi.as_ref()?))) {
            Some((spec, source)) => {
                self.note_in_use(pod, csi::unique_name(source));
                let wanted = csi::Wanted::persistent(bound.volume.name(), spec, source, bound.read_only, is_device);
                let published = self.publish(pod, &wanted).await?;
                let growth = self.grow_at_mount(pod, &bound, &wanted, &published.place).await?;
                Mounted { growth: Some(growth), ..published.into_mounted(wanted.read_only) }
            }
            None => {
                let made = self.set_up_persistent(pod, &bound.volume, bound.read_only, is_device).await;
                made.map_err(|error| Failure::set_up(bound.volume.name(), error))?
            }
        };
        Ok(Mounted { group: bound.group, ..mounted })
    }

    async fn set_up_persistent(&self, pod: &Pod, volume: &PersistentVolume, read_only: bool, is_device: bool) -> Result<Mounted, String> {
        let Some(spec) = &volume.spec else { return Err("no volume plugin matched".to_owned()) };
        if let Some(source) = &spec.host_path {
            let (path, kind) = (PathBuf::from(&source.path), source.type_.clone().unwrap_or_default());
            return host_path_at(path, kind, read_only).await;
        }
        if let Some(source) = &spec.local {
            let path = PathBuf::from(&source.path);
            if is_device {
                return device_at(path, read_only).await;
            }
            return self.set_up_local(pod, volume.name(), path, read_only).await;
        }
        if let Some(source) = &spec.nfs {
            let read_only = read_only || source.read_only == Some(true);
            let inline = NFSVolumeSource { path: source.path.clone(), read_only: Some(read_only), server: source.server.clone() };
            let options = spec.mount_options.clone().unwrap_or_default();
            return self.set_up_nfs(pod, volume.name(), &inline, &options, read_only).await;
        }
        Err("no volume plugin matched".to_owned())
    }

    /// A local volume is a mount of its directory in the pod's, so that its contents are never taken for the pod's own.
    async fn set_up_local(&self, pod: &Pod, name: &str, path: PathBuf, read_only: bool) -> Result<Mounted, String> {
        let dir = self.directory(pod, layout::LOCAL, name);
        let (ownership, target) = (Ownership::of(pod), dir.clone());
        blocking(move || {
            if mount_table::is_mount_point(&target)? {
                return Ok(());
            }
            let source = std::fs::canonicalize(&path)?;
            std::fs::create_dir_all(&target)?;
            mount_table::bind(&source, &target, read_only)?;
            ownership.filter(|_| !read_only).map_or(Ok(()), |ownership| ownership.apply(&target, false))
        })
        .await
        .map_err(|error| error.to_string())?;
        Ok(at(dir, read_only, true))
    }

    async fn set_up_nfs(
        &self,
        pod: &Pod,
        name: &str,
        source: &NFSVolumeSource,
        options: &[String],
        read_only: bool,
    ) -> Result<Mounted, String> {
        let dir = self.directory(pod, layout::NFS, name);
        let target = dir.clone();
        let mounted = blocking(move || {
            std::fs::create_dir_all(&target)?;
            mount_table::is_mount_point(&target)
        });
        if !mounted.await.map_err(|error| error.to_string())? {
            mount_nfs(&dir, source, options, read_only).await?;
        }
        Ok(at(dir, read_only, false))
    }
}

impl csi::Published {
    fn into_mounted(self, read_only: bool) -> Mounted {
        let volume = PodVolume { source: self.source, read_only, selinux_relabel: false };
        Mounted { republish: self.republish, place: Some(self.place), ..Mounted::new(volume) }
    }
}

/// Whether the volume names no source at all.
fn is_unspecified(volume: &Volume) -> bool {
    *volume == Volume { name: volume.name.clone(), ..Volume::default() }
}

async fn host_path_at(path: PathBuf, kind: String, read_only: bool) -> Result<Mounted, String> {
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(format!("invalid HostPath `{}`: must not contain '..'", path.display()));
    }
    let checked = path.clone();
    blocking(move || host_path::check(&checked, &kind).map_err(std::io::Error::other)).await.map_err(|error| error.to_string())?;
    Ok(at(path, read_only, false))
}

async fn device_at(path: PathBuf, read_only: bool) -> Result<Mounted, String> {
    let checked = path.clone();
    blocking(move || host_path::check(&checked, "BlockDevice").map_err(std::io::Error::other)).await.map_err(|error| error.to_string())?;
    Ok(Mounted::new(PodVolume { source: Source::Device(path), read_only, selinux_relabel: false }))
}

/// The kernel needs a helper (mount.nfs) to find the server, so the system's mount does it.
async fn mount_nfs(target: &Path, source: &NFSVolumeSource, options: &[String], read_only: bool) -> Result<(), String> {
    let mut all: Vec<&str> = options.iter().map(String::as_str).collect();
    if read_only {
        all.push("ro");
    }
    let server = if source.server.contains(':') { format!("[{}]", source.server) } else { source.server.clone() };
    let mut command = tokio::process::Command::new("mount");
    command.args(["-t", "nfs"]);
    if !all.is_empty() {
        command.arg("-o").arg(all.join(","));
    }
    command.arg(format!("{server}:{}", source.path)).arg(target).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| format!("mount failed: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("mount failed: {}\nOutput: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_upstream_has_switched_off_has_words_of_its_own() {
        for (source, words) in [
            (json!({"name": "v", "gitRepo": {"repository": "r"}}), "git-repo volume plugin has been disabled; "),
            (json!({"name": "v", "flexVolume": {"driver": "d"}}), "no volume plugin matched"),
        ] {
            let volume: Volume = serde_json::from_value(source).unwrap();
            assert!(why_not(&volume).starts_with(words), "{volume:?}");
        }
    }
}
