//! Static pods: those that files in a directory say, whether or not an API server is there.
//!
//! Reads the directory when it changes and every so often; hands the pods to [`Pods`]. Their pictures in the API server are made
//! by [`crate::mirror_pods`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::{Object, Shutdown};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};
use k8s_openapi::jiff::Timestamp;
use notify::{RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::images::reference;
use crate::pod;
use crate::pods::Pods;

/// The largest file that is read.
const FILE_BYTES: u64 = 10 << 20;
/// Of a pod that changed the old one has to end first; so often it is looked.
const SUCCESSION: Duration = Duration::from_millis(200);

/// A file that says no pod.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    File(#[from] std::io::Error),
    #[error("larger than {FILE_BYTES} bytes")]
    Size,
    #[error("{0}")]
    Yaml(String),
    #[error("{0}")]
    Pod(#[from] serde_json::Error),
    #[error("invalid pod: {0}")]
    Invalid(&'static str),
}

pub struct Source {
    pub directory: PathBuf,
    pub period: Duration,
    pub node_name: String,
    pub pods: Pods,
    /// Told after each change, so that mirrors follow.
    pub changed: Arc<Notify>,
}

impl Source {
    /// Follows the directory until shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let touched = Arc::new(Notify::new());
        let wake = touched.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Looking into the directory is an event too, and must not be a reason to look again.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                wake.notify_one();
            }
        });
        let _watcher = watcher
            .and_then(|mut watcher| watcher.watch(&self.directory, RecursiveMode::NonRecursive).map(|()| watcher))
            .inspect_err(
                |error| tracing::warn!(directory = %self.directory.display(), %error, "static pods are looked for from time to time only"),
            )
            .ok();
        loop {
            let waiting = self.reconcile().await;
            self.pods.statics_are_read();
            let period = if waiting { SUCCESSION } else { self.period };
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = touched.notified() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Whether a pod waits for its predecessor to end.
    async fn reconcile(&self) -> bool {
        let wanted = read_all(&self.directory, &self.node_name).await;
        let known: Vec<Arc<Pod>> = self.pods.all().into_iter().filter(|pod| pod::is_static(pod)).collect();
        let mut changed = false;
        for old in known.iter().filter(|old| !wanted.contains_key(old.uid())) {
            self.pods.drop(old);
            changed = true;
        }
        let mut waiting = false;
        for (uid, pod) in wanted {
            if self.pods.knows(&uid) {
                continue;
            }
            if known.iter().any(|old| old.namespace() == pod.namespace() && old.name() == pod.name()) {
                waiting = true;
                continue;
            }
            self.pods.take(&Arc::new(pod));
            changed = true;
        }
        if changed {
            self.changed.notify_one();
        }
        waiting
    }
}

/// The pods of all files, by uid. Files that say none are told of and left out.
async fn read_all(directory: &Path, node_name: &str) -> BTreeMap<String, Pod> {
    let mut pods = BTreeMap::new();
    let Ok(mut entries) = tokio::fs::read_dir(directory).await else { return pods };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || !path.is_file() {
            continue;
        }
        match read(&path, node_name).await {
            Ok(pod) => {
                pods.insert(pod.uid().to_owned(), pod);
            }
            Err(error) => tracing::warn!(file = %path.display(), %error, "cannot read a static pod"),
        }
    }
    pods
}

async fn read(path: &Path, node_name: &str) -> Result<Pod, Error> {
    if tokio::fs::metadata(path).await?.len() > FILE_BYTES {
        return Err(Error::Size);
    }
    let text = tokio::fs::read(path).await?;
    parse(&text, &path.display().to_string(), node_name)
}

/// A file's pod, as it runs on this node.
fn parse(text: &[u8], source: &str, node_name: &str) -> Result<Pod, Error> {
    let value = apimachinery::yaml::parse(text).map_err(|error| Error::Yaml(error.to_string()))?.value;
    let (version, kind) = (value.get("apiVersion").and_then(|v| v.as_str()), value.get("kind").and_then(|v| v.as_str()));
    if (version, kind) != (Some("v1"), Some("Pod")) {
        return Err(Error::Invalid("the file is of another kind"));
    }
    let hash = fnv128a(format!("{value}host:{node_name}file:{source}").as_bytes());
    let mut pod: Pod = serde_json::from_value(value)?;
    let metadata = &mut pod.metadata;
    let name = metadata.name.clone().filter(|name| !name.is_empty()).ok_or(Error::Invalid("name is needed for the pod"))?;
    metadata.name = Some(format!("{name}-{}", node_name.to_lowercase()));
    metadata.namespace.get_or_insert_with(|| "default".to_owned());
    let uid = metadata.uid.clone().filter(|uid| !uid.is_empty()).unwrap_or_else(|| format!("{hash:032x}"));
    metadata.uid = Some(uid.clone());
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(pod::HASH_ANNOTATION.to_owned(), uid);
    annotations.insert(pod::SOURCE_ANNOTATION.to_owned(), "file".to_owned());
    annotations.insert(pod::SEEN_ANNOTATION.to_owned(), Timestamp::UNIX_EPOCH.to_string());
    let spec = pod.spec.as_mut().ok_or(Error::Invalid("it has no spec"))?;
    spec.node_name = Some(node_name.to_owned());
    let everything = Toleration { operator: Some("Exists".to_owned()), effect: Some("NoExecute".to_owned()), ..Toleration::default() };
    spec.tolerations.get_or_insert_default().push(everything);
    with_defaults(spec);
    pod.status = None;
    Ok(pod)
}

/// What the API server would fill in, as far as it matters for running the pod.
fn with_defaults(spec: &mut PodSpec) {
    let word = |text: &str| text.to_owned();
    spec.restart_policy.get_or_insert_with(|| word("Always"));
    spec.dns_policy.get_or_insert_with(|| word("ClusterFirst"));
    spec.scheduler_name.get_or_insert_with(|| word("default-scheduler"));
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_default();
    let host_network = spec.host_network == Some(true);
    let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    containers.for_each(|container| container_defaults(container, host_network));
}

fn container_defaults(container: &mut Container, host_network: bool) {
    let latest = reference::parse(container.image.as_deref().unwrap_or(""))
        .is_ok_and(|image| image.digest.is_none() && image.tag.is_none_or(|tag| tag == "latest"));
    let policy = if latest { "Always" } else { "IfNotPresent" };
    container.image_pull_policy.get_or_insert_with(|| policy.to_owned());
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".to_owned());
    container.termination_message_policy.get_or_insert_with(|| "File".to_owned());
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        if host_network {
            port.host_port.get_or_insert(port.container_port);
        }
    }
    if let Some(resources) = &mut container.resources {
        for (name, limit) in resources.limits.clone().into_iter().flatten() {
            resources.requests.get_or_insert_default().entry(name).or_insert(limit);
        }
    }
}

fn fnv128a(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: a, image: nginx}\n";

    #[test]
    fn a_file_is_a_pod_of_this_node() {
        let pod = parse(FILE.as_bytes(), "/etc/a.yaml", "Node1").expect("it is a pod");
        assert_eq!((pod.name(), pod.namespace()), ("web-node1", "default"));
        assert!(pod::is_static(&pod) && !pod::is_mirror(&pod));
        assert_eq!(pod.annotation(pod::HASH_ANNOTATION), Some(pod.uid()));
        let spec = pod::spec(&pod);
        assert_eq!((spec.node_name.as_deref(), spec.containers[0].image_pull_policy.as_deref()), (Some("Node1"), Some("Always")));
    }

    #[test]
    fn another_content_is_another_pod() {
        let uid = |text: &str, source: &str| parse(text.as_bytes(), source, "n").expect("it is a pod").uid().to_owned();
        assert_eq!(uid(FILE, "a"), uid(FILE, "a"));
        assert_ne!(uid(FILE, "a"), uid(FILE, "b"));
        assert_ne!(uid(FILE, "a"), uid(&FILE.replace("nginx", "busybox"), "a"));
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        for text in ["", "kind: Pod", "apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {containers: []}", "apiVersion: v1\nkind: Node"] {
            assert!(parse(text.as_bytes(), "a", "n").is_err(), "{text}");
        }
    }
}
