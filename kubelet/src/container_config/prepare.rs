//! The thin shell around container configuration: it fetches, reads and writes what a container needs on this node, then describes it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_cri::v1::Mount;
use k8s_openapi::api::core::v1::HostAlias;
use tokio::fs;

use super::env::Sources;
use super::mounts::{ETC_HOSTS, Planned};
use super::{Error, Inputs, Prepared, container, env, hostname, hosts_file, mounts, sandbox};
use crate::cri::extension;
use crate::volumes::{Source, Volumes};

/// A file of variables must not be larger.
const MAX_ENV_FILE: u64 = 1024 * 1024;

/// Prepares what a container needs on this node and says how it is made. Not to be called before the pod's volumes are mounted.
pub async fn prepare(volumes: &Volumes, inputs: Inputs<'_>) -> Result<Prepared, Error> {
    let sources = sources(volumes, &inputs).await;
    let env = env::environment(&inputs, &sources)?;
    let planned = mounts::plan(&inputs, &env)?;
    let uid = inputs.pod.metadata.uid.as_deref().unwrap_or("");
    let pod_dir = volumes.pod_dir(uid);
    let (mut ordinary, mut extended) = (Vec::new(), Vec::new());
    for planned in planned {
        let mount = resolved(volumes, uid, &inputs, &planned).await?;
        if planned.image_sub_path.is_empty() {
            ordinary.push(mount);
        } else {
            extended.push(with_image_sub_path(mount, planned.image_sub_path));
        }
    }
    if mounts::wants_hosts_file(&inputs) {
        ordinary.push(hosts_mount(&pod_dir, &inputs).await?);
    }
    ordinary.extend(termination_log(&pod_dir, &inputs).await?);
    let log_dir = sandbox::log_directory(inputs.pod, inputs.node).join(&inputs.container.name);
    fs::create_dir_all(&log_dir)
        .await
        .map_err(|error| Error::new(format!("create container log directory for container {} failed: {error}", inputs.container.name)))?;
    let extension = container::extension(&inputs, extended);
    let config = container::container_config(&inputs, env, ordinary)?;
    Ok(Prepared { config, extension, warnings: Vec::new() })
}

/// Everything that the container's variables refer to.
async fn sources(volumes: &Volumes, inputs: &Inputs<'_>) -> Sources {
    let namespace = inputs.pod.metadata.namespace.as_deref().unwrap_or("");
    let variables = || inputs.container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let mut config_maps: BTreeSet<&str> = variables().filter_map(|from| Some(from.config_map_key_ref.as_ref()?.name.as_str())).collect();
    let mut secrets: BTreeSet<&str> = variables().filter_map(|from| Some(from.secret_key_ref.as_ref()?.name.as_str())).collect();
    for from in inputs.container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.as_ref().map(|reference| reference.name.as_str()));
        secrets.extend(from.secret_ref.as_ref().map(|reference| reference.name.as_str()));
    }
    let mut sources = Sources::default();
    for name in config_maps {
        sources.config_maps.insert(name.to_owned(), volumes.config_map(namespace, name).await);
    }
    for name in secrets {
        sources.secrets.insert(name.to_owned(), volumes.secret(namespace, name).await);
    }
    for file in variables().filter_map(|from| from.file_key_ref.as_ref()) {
        if let Some(Source::Path(volume)) = inputs.volumes.by_name.get(&file.volume_name).map(|volume| &volume.source) {
            let text = env_file(volume, &file.path).await;
            sources.files.insert((file.volume_name.clone(), file.path.clone()), text);
        }
    }
    sources
}

/// Reads a file of a volume, never following a link out of it.
async fn env_file(volume: &Path, path: &str) -> Result<String, Error> {
    let failed = |what: String| Error::new(format!("failed to open environment variable file {path:?}: {what}"));
    let (root, file) = (fs::canonicalize(volume).await, fs::canonicalize(volume.join(path)).await);
    let (root, file) = (root.map_err(|error| failed(error.to_string()))?, file.map_err(|error| failed(error.to_string()))?);
    if !file.starts_with(&root) {
        return Err(failed("it is outside of its volume".to_owned()));
    }
    let size = fs::metadata(&file).await.map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_ENV_FILE {
        return Err(failed(format!("it is larger than {MAX_ENV_FILE} bytes")));
    }
    fs::read_to_string(&file).await.map_err(|error| failed(error.to_string()))
}

async fn resolved(volumes: &Volumes, uid: &str, inputs: &Inputs<'_>, planned: &Planned) -> Result<Mount, Error> {
    let mut mount = planned.mount.clone();
    if let Some(sub_path) = &planned.sub_path {
        let path = volumes.sub_path(uid, &inputs.container.name, sub_path).await.map_err(Error::new)?;
        mount.host_path = path.to_string_lossy().into_owned();
    }
    Ok(mount)
}

fn with_image_sub_path(mount: Mount, image_sub_path: String) -> extension::Mount {
    extension::Mount {
        container_path: mount.container_path,
        host_path: mount.host_path,
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: mount.propagation,
        uid_mappings: mount.uid_mappings,
        gid_mappings: mount.gid_mappings,
        recursive_read_only: mount.recursive_read_only,
        image: mount.image,
        image_sub_path,
    }
}

async fn hosts_mount(pod_dir: &Path, inputs: &Inputs<'_>) -> Result<Mount, Error> {
    let spec = inputs.pod.spec.as_ref();
    let aliases: &[HostAlias] = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or(&[]);
    let text = if spec.and_then(|spec| spec.host_network) == Some(true) {
        let host = fs::read_to_string(ETC_HOSTS).await.map_err(|error| Error::new(format!("open {ETC_HOSTS}: {error}")))?;
        hosts_file::of_host_network(&host, aliases)
    } else {
        let (name, domain) = hostname::hostname_and_domain(inputs.pod, &inputs.node.cluster_domain)?;
        hosts_file::of_pod(inputs.pod_ips, &name, &domain, aliases)
    };
    let path = pod_dir.join("etc-hosts");
    write(&path, text.as_bytes(), 0o644).await?;
    Ok(Mount {
        container_path: ETC_HOSTS.to_owned(),
        host_path: path.to_string_lossy().into_owned(),
        selinux_relabel: inputs.node.selinux,
        ..Default::default()
    })
}

/// The file that the container leaves its last words in; each attempt has its own.
async fn termination_log(pod_dir: &Path, inputs: &Inputs<'_>) -> Result<Option<Mount>, Error> {
    let Some(container_path) = inputs.container.termination_message_path.as_deref().filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let dir = pod_dir.join("containers").join(&inputs.container.name);
    fs::create_dir_all(&dir).await.map_err(|error| Error::new(format!("mkdir {}: {error}", dir.display())))?;
    let path: PathBuf = dir.join(format!("{:08x}", rand::random::<u32>()));
    write(&path, b"", 0o666).await?;
    let container_path = if container_path.starts_with('/') { container_path.to_owned() } else { format!("/{container_path}") };
    Ok(Some(Mount {
        container_path,
        host_path: path.to_string_lossy().into_owned(),
        selinux_relabel: inputs.node.selinux,
        ..Default::default()
    }))
}

/// Writes in place, since containers may have the file mounted already.
async fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::new(format!("open {}: {error}", path.display()));
    fs::write(path, contents).await.map_err(failed)?;
    // The mode at creation went through this process' umask.
    fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).await.map_err(failed)
}
