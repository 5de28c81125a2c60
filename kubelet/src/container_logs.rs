//! Containers' log files: the links that collectors follow, and rotation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use apimachinery::quantity::Quantity;
use client::Shutdown;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;

use crate::configuration::KubeletConfiguration;
use crate::core::Core;
use crate::cri::{self, Runtime, v1};

/// The longest name that file systems take.
const NAME_BYTES: usize = 255;

/// The link to a container's log: `<pod>_<namespace>_<container>-<id>.log`.
pub fn link(directory: &Path, pod: &str, namespace: &str, container: &str, id: &str) -> PathBuf {
    let mut name = format!("{pod}_{namespace}_{container}-{id}");
    name.truncate(NAME_BYTES - ".log".len());
    directory.join(format!("{name}.log"))
}

/// How logs are kept.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// A file that has grown beyond this is moved away.
    pub max_bytes: u64,
    /// Files that are kept of each container, the current one among them.
    pub max_files: usize,
    pub workers: usize,
    pub period: Duration,
}

impl Policy {
    /// From `containerLogMaxSize` and its siblings.
    pub fn of(configuration: &KubeletConfiguration) -> Policy {
        let size = Quantity::parse(&configuration.container_log_max_size).map_or(10 << 20, |size| size.value());
        Policy {
            max_bytes: u64::try_from(size).unwrap_or(u64::MAX),
            max_files: usize::try_from(configuration.container_log_max_files).unwrap_or(5).max(2),
            workers: usize::try_from(configuration.container_log_max_workers).unwrap_or(1).max(1),
            period: configuration.container_log_monitor_interval,
        }
    }
}

/// Rotates logs that have grown too large, again and again until shutdown.
pub async fn rotate(core: &Core, policy: Policy, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(policy.period) => {}
            () = shutdown.cancelled() => return,
        }
        let state = Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() });
        let filter = v1::ContainerFilter { state, ..Default::default() };
        match core.runtime.list_containers(Some(filter)).await {
            Ok(containers) => {
                futures::stream::iter(containers)
                    .for_each_concurrent(policy.workers, |container| async move {
                        if let Err(error) = rotate_one(&*core.runtime, &container.id, policy).await {
                            tracing::warn!(container = %container.id, %error, "cannot rotate a container's log");
                        }
                    })
                    .await;
            }
            Err(error) => tracing::warn!(%error, "cannot list containers whose logs may have to be rotated"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Runtime(#[from] cri::Error),
    #[error(transparent)]
    File(#[from] std::io::Error),
}

async fn rotate_one(runtime: &dyn Runtime, id: &str, policy: Policy) -> Result<(), Error> {
    let status = match runtime.container_status(id.to_owned(), false).await {
        Ok(response) => response.status.unwrap_or_default(),
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let path = PathBuf::from(&status.log_path);
    let size = match tokio::fs::metadata(&path).await {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // The runtime lost its file, perhaps in a rotation that was cut short.
            return Ok(runtime.reopen_container_log(id.to_owned()).await?);
        }
        Err(error) => return Err(error.into()),
    };
    if size < policy.max_bytes {
        return Ok(());
    }
    let rotated = rotated_files(&path).await?;
    // Of those that were rotated before, one less than are kept beside the current and the one that follows.
    let surplus = rotated.len().saturating_sub(policy.max_files - 2);
    for old in &rotated[..surplus] {
        tokio::fs::remove_file(old).await?;
    }
    for plain in rotated[surplus..].iter().filter(|file| file.extension().is_none_or(|extension| extension != "gz")) {
        compress(plain.clone()).await?;
    }
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let aside = PathBuf::from(format!("{}.{stamp}", path.display()));
    tokio::fs::rename(&path, &aside).await?;
    if let Err(error) = runtime.reopen_container_log(id.to_owned()).await {
        // Without a new file the runtime goes on writing to the old one, which must stay findable.
        tokio::fs::rename(&aside, &path).await?;
        return Err(error.into());
    }
    Ok(())
}

/// The files that a log was rotated to, oldest first.
async fn rotated_files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let Some((directory, name)) = path.parent().zip(path.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut files = Vec::new();
    let mut entries = tokio::fs::read_dir(directory).await?;
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".tmp") {
            tokio::fs::remove_file(entry.path()).await?;
        } else if name.starts_with(&prefix) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

async fn compress(path: PathBuf) -> std::io::Result<()> {
    let work = move || {
        let temporary = PathBuf::from(format!("{}.tmp", path.display()));
        let mut reader = std::fs::File::open(&path)?;
        let mut writer = GzEncoder::new(std::fs::File::create(&temporary)?, Compression::default());
        std::io::copy(&mut reader, &mut writer)?;
        writer.finish()?;
        std::fs::rename(&temporary, format!("{}.gz", path.display()))?;
        std::fs::remove_file(&path)
    };
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::ContainerExtension;
    use crate::cri::fake::Fake;

    #[test]
    fn links_tell_pod_namespace_and_container_and_are_not_too_long() {
        let named = |pod: &str| link(Path::new("/l"), pod, "n", "c", "id").display().to_string();
        assert_eq!(named("p"), "/l/p_n_c-id.log");
        assert_eq!(named(&"p".repeat(300)).len(), "/l/".len() + 255);
    }

    #[tokio::test]
    async fn a_large_log_is_moved_away_and_old_ones_are_compressed_and_removed() {
        let dir = tempfile::tempdir().expect("there is a place");
        let log = dir.path().join("0.log");
        for (name, content) in [("0.log", "0123456789"), ("0.log.1", "a"), ("0.log.2", "b"), ("0.log.3.tmp", "c")] {
            std::fs::write(dir.path().join(name), content).expect("it can be written");
        }
        let fake = Fake::default();
        let sandbox = fake.run_pod_sandbox(v1::PodSandboxConfig::default(), String::new()).await.expect("it runs");
        let config = v1::ContainerConfig { log_path: log.display().to_string(), ..Default::default() };
        let created = fake.create_container(sandbox, config, v1::PodSandboxConfig::default(), ContainerExtension::default()).await;
        let id = created.expect("it is made");
        let policy = Policy { max_bytes: 10, max_files: 3, workers: 1, period: Duration::ZERO };
        rotate_one(&fake, &id, policy).await.expect("it can be rotated");
        let mut names: Vec<String> =
            std::fs::read_dir(dir.path()).expect("it is there").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!((names.len(), names[0].as_str()), (2, "0.log.2.gz"), "{names:?}");
        assert!(names[1].starts_with("0.log.20"), "{names:?}");
    }
}
