//! The volumes of this node's pods: what is mounted where, and what is written into it.
//!
//! Owns `<root dir>/pods/<uid>/` and everything below it. Never starts or stops containers.

mod atomic_writer;
mod csi;
mod empty_dir;
mod host_path;
mod layout;
mod mount_table;
mod nested;
mod objects;
mod ownership;
mod payload;
mod persistent;
mod pod_certificates;
mod projected;
mod set_up;
mod sub_path;
mod tear_down;
mod tokens;
mod trust_bundles;

#[cfg(test)]
pub(crate) mod tests_with_mounts;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::events::Recorder;
use client::{Object, Shutdown};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

pub use csi::Usage;

use crate::container_config::mounts::SubPath;
use crate::instruments::Instruments;
use objects::{Handlers, Objects, Watched};
use pod_certificates::Certificates;
use tokens::Tokens;

/// A failed volume is tried again after this long at first, then after twice as long, and at most.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(122);
/// How often tokens are looked at that may have to be refreshed.
const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// Volumes of drivers are staged and unstaged one at a time; these locks stand for all volumes.
const CSI_LOCKS: usize = 64;

/// Where volumes are kept and who asks for them.
#[derive(Clone)]
pub struct Config {
    /// `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    pub node_name: String,
    pub client: Client,
    /// Who is told what becomes of volumes that pods have already.
    pub recorder: Recorder,
    /// Where calls to storage drivers are measured.
    pub metrics: Instruments,
    pub shutdown: Shutdown,
    /// Whether nothing sees the volumes: then everything lies on the disk and belongs to whoever runs this, which takes no root.
    pub simulated: bool,
}

/// The volumes of all pods. Clones are the same.
#[derive(Clone)]
pub struct Volumes {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    config_maps: Objects<ConfigMap>,
    secrets: Objects<Secret>,
    tokens: Tokens,
    certificates: Certificates,
    allocatable: RwLock<BTreeMap<String, Quantity>>,
    handlers: Arc<Handlers>,
    pods: Mutex<HashMap<String, Arc<PodEntry>>>,
    csi: csi::Registry,
    csi_locks: [tokio::sync::Mutex<()>; CSI_LOCKS],
    /// The devices that pods have, by uid and name, held open. Bounded by what pods name.
    csi_devices: Mutex<HashMap<(String, String), std::fs::File>>,
    /// What drivers last said of their volumes, by pod and by name in the pod.
    csi_usage: Mutex<HashMap<(String, String), csi::Usage>>,
}

#[derive(Default)]
struct PodEntry {
    /// Something that the pod refers to has changed: what failed before may work now.
    changed: AtomicBool,
    /// The names of attached volumes that the pod has or is about to have.
    in_use: Mutex<BTreeSet<String>>,
    /// One mount or unmount of a pod at a time.
    state: tokio::sync::Mutex<PodState>,
}

#[derive(Default)]
struct PodState {
    mounted: BTreeMap<String, Mounted>,
    failures: BTreeMap<String, Failures>,
}

#[derive(Clone)]
struct Mounted {
    volume: PodVolume,
    group: Option<i64>,
    /// Whether it is set up anew at every sync.
    republish: bool,
    /// Where a storage driver has put it.
    place: Option<csi::Place>,
    /// If it may become bigger.
    growth: Option<csi::Growth>,
}

impl Mounted {
    fn new(volume: PodVolume) -> Mounted {
        Mounted { volume, group: None, republish: false, place: None, growth: None }
    }
}

struct Failures {
    count: u32,
    next_try: Instant,
}

/// A volume as its pod's containers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodVolume {
    pub source: Source,
    /// Whether it can only be read, whatever a mount says.
    pub read_only: bool,
    /// Whether the runtime may label it, where there is SELinux.
    pub selinux_relabel: bool,
}

/// Where a volume's contents are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory (or file) of this host.
    Path(PathBuf),
    /// A device of this host.
    Device(PathBuf),
    /// An image, which the runtime mounts.
    Image,
}

/// A pod's volumes by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodVolumes {
    pub by_name: BTreeMap<String, PodVolume>,
    /// Groups that own some of the volumes (`pv.beta.kubernetes.io/gid`), which the pod's processes join.
    pub supplemental_groups: Vec<i64>,
    /// What to tell of volumes that are mounted and could not be brought up to date.
    pub warnings: Vec<Warning>,
}

/// Something to tell of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// `FailedMount` or `FailedMapVolume`.
    pub reason: &'static str,
    pub message: String,
}

impl Warning {
    fn of_mount(message: String) -> Warning {
        Warning { reason: "FailedMount", message }
    }
}

/// Not all of a pod's volumes are there.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What is wrong with the pod as a whole: `unmounted volumes=[a], unattached volumes=[], …`.
    pub message: String,
    /// What to tell about the pod now; none if nothing was tried now.
    pub events: Vec<Warning>,
    /// When trying again may help.
    pub retry_after: Duration,
}

/// An object that a pod refers to cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Other(String),
}

/// Why a single volume is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// What the volume is could not be found out.
    Processing(String),
    /// A step failed. `name` is the volume's as events have it: that of the persistent volume, if it is one.
    Operation { step: &'static str, name: String, error: String },
}

impl Failure {
    /// It could not be made.
    fn set_up(name: &str, error: String) -> Failure {
        Failure::Operation { step: "MountVolume.SetUp failed", name: name.to_owned(), error }
    }
}

impl Volumes {
    /// Lets somebody else take the plugins of a kind that register themselves beside CSI drivers.
    pub fn set_plugin_handler(&self, kind: &'static str, handler: Arc<dyn crate::plugin_watcher::Handler>) {
        self.shared.csi.set_handler(kind, handler);
    }

    pub fn new(config: Config) -> Volumes {
        let handlers: Arc<Handlers> = Arc::default();
        let shared = Arc::new(Shared {
            config_maps: Objects::new(config.client.clone(), config.shutdown.clone(), handlers.clone()),
            secrets: Objects::new(config.client.clone(), config.shutdown.clone(), handlers.clone()),
            tokens: Tokens::new(config.client.clone()),
            certificates: Certificates::new(config.client.clone(), &config.node_name, config.shutdown.clone(), handlers.clone()),
            allocatable: RwLock::default(),
            handlers: handlers.clone(),
            pods: Mutex::default(),
            csi: csi::Registry::new(&config.root_dir, &config.node_name, config.client.clone(), config.metrics.clone()),
            csi_locks: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            csi_devices: Mutex::default(),
            csi_usage: Mutex::default(),
            config,
        });
        let noting = Arc::downgrade(&shared);
        handlers.add(move |uid| {
            let entry = noting.upgrade().and_then(|shared| shared.pods.lock().get(uid).cloned());
            if let Some(entry) = entry {
                entry.changed.store(true, Ordering::Release);
            }
        });
        Volumes { shared }
    }

    /// Tells of pods whose tokens or certificates are to be refreshed, and lets storage drivers register themselves, until shutdown.
    pub async fn run(&self) {
        tokio::join!(self.refresh(), self.shared.csi.run(self.shared.config.shutdown.clone()), self.measure());
    }

    async fn refresh(&self) {
        let mut ticks = tokio::time::interval(REFRESH_EVERY);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.shared.config.shutdown.cancelled() => return,
            }
            let now = Timestamp::now();
            let due = self.shared.tokens.due(now).into_iter().chain(self.shared.certificates.due(now));
            due.for_each(|uid| self.shared.handlers.tell(&uid));
        }
    }

    /// What the downward API tells of limits that a container does not have; to be set before pods are mounted.
    pub fn set_allocatable(&self, allocatable: BTreeMap<String, Quantity>) {
        *self.shared.allocatable.write() = allocatable;
    }

    /// Mounts what is not mounted and brings files up to date. To be called whenever the pod is synced; does little when there is little to do.
    pub async fn mount(&self, pod: &Pod) -> Result<PodVolumes, Error> {
        let uid = pod.uid();
        let entry = self.shared.pods.lock().entry(uid.to_owned()).or_default().clone();
        let mut state = entry.state.lock().await;
        let references = objects::references(pod);
        let none = BTreeSet::new();
        self.shared.config_maps.refer(uid, pod.namespace(), references.get(ConfigMap::NAME).unwrap_or(&none));
        self.shared.secrets.refer(uid, pod.namespace(), references.get(Secret::NAME).unwrap_or(&none));
        if entry.changed.swap(false, Ordering::AcqRel) {
            state.failures.clear();
        }
        self.make_directories(uid).await.map_err(|error| Error {
            message: format!("error making pod data directories: {error}"),
            events: vec![Warning::of_mount(format!("error making pod data directories: {error}"))],
            retry_after: RETRY_MIN,
        })?;
        let uses = set_up::uses(pod);
        let used = |volume: &&Volume| uses.mounted.contains(&volume.name) || uses.devices.contains(&volume.name);
        let volumes: Vec<&Volume> = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter(used).collect();
        let now = Instant::now();
        let attempts = volumes.iter().map(|volume| {
            let known = state.mounted.get(&volume.name).cloned();
            let waits = state.failures.get(&volume.name).is_some_and(|failures| failures.next_try > now);
            let (shared, uses) = (&self.shared, &uses);
            async move {
                match known {
                    Some(mounted) if mounted.growth.as_ref().is_some_and(|growth| growth.is_due(now)) && !mounted.republish => {
                        Some(Ok(shared.grow(pod, volume, uses, mounted).await))
                    }
                    Some(mounted) if waits || !(mounted.republish || set_up::changes(volume)) => Some(Ok(mounted)),
                    None if waits => None,
                    _ => Some(shared.set_up(pod, volume, uses).await),
                }
            }
        });
        let attempts = futures::future::join_all(attempts).await;
        collect(&mut state, &volumes, attempts, now)
    }

    async fn make_directories(&self, uid: &str) -> std::io::Result<()> {
        let dir = self.pod_dir(uid);
        blocking(move || {
            use std::os::unix::fs::DirBuilderExt;
            ["volumes", "plugins"].iter().try_for_each(|name| std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir.join(name)))
        })
        .await
    }

    /// Unmounts and removes everything of a pod whose containers are gone, and forgets it.
    pub async fn unmount(&self, pod_uid: &str) -> Result<(), Error> {
        let entry = self.shared.pods.lock().entry(pod_uid.to_owned()).or_default().clone();
        let mut state = entry.state.lock().await;
        let (root, uid) = (self.shared.config.root_dir.clone(), pod_uid.to_owned());
        let undone = match self.shared.unpublish_all(pod_uid).await {
            Ok(()) => blocking(move || tear_down::pod(&root, &uid)).await,
            Err(error) => Err(error),
        };
        undone.map_err(|error| Error {
            message: format!("failed to clean up the volumes of pod {pod_uid}: {error}"),
            events: Vec::new(),
            retry_after: RETRY_MIN,
        })?;
        state.mounted.clear();
        state.failures.clear();
        let none = BTreeSet::new();
        self.shared.config_maps.refer(pod_uid, "", &none);
        self.shared.secrets.refer(pod_uid, "", &none);
        self.shared.tokens.forget(pod_uid);
        self.shared.certificates.forget(pod_uid);
        self.shared.pods.lock().remove(pod_uid);
        Ok(())
    }

    /// The attached volumes that pods have or are about to have: `status.volumesInUse` of the node, which keeps them attached.
    pub fn in_use(&self) -> Vec<String> {
        let pods: Vec<Arc<PodEntry>> = self.shared.pods.lock().values().cloned().collect();
        let names: BTreeSet<String> = pods.iter().flat_map(|entry| entry.in_use.lock().clone()).collect();
        names.into_iter().collect()
    }

    #[cfg(test)]
    fn retry_at_once(&self, pod_uid: &str) {
        if let Some(entry) = self.shared.pods.lock().get(pod_uid) {
            entry.changed.store(true, Ordering::Release);
        }
    }

    /// Calls `handler` with the uid of a pod when a config map or secret that it refers to has changed, or when it is time to refresh
    /// its tokens (see [`Volumes::run`]): the pod is to be mounted again then. Handlers must not wait.
    pub fn on_change(&self, handler: impl Fn(&str) + Send + Sync + 'static) {
        self.shared.handlers.add(handler);
    }

    /// Removes what is left of pods that are not among `known` and have no running container: those of an earlier run of this process.
    pub async fn clean_orphans(&self, known: &BTreeSet<String>) -> Vec<Error> {
        let root = self.shared.config.root_dir.clone();
        let found = match blocking(move || tear_down::pods_on_disk(&root)).await {
            Ok(found) => found,
            Err(error) => {
                let message = format!("cannot read the directories of pods: {error}");
                return vec![Error { message, events: Vec::new(), retry_after: RETRY_MAX }];
            }
        };
        let mut errors = Vec::new();
        for uid in found.iter().filter(|uid| !known.contains(*uid)) {
            // A pod that is being started meanwhile is not an orphan.
            if !self.shared.pods.lock().contains_key(uid)
                && let Err(error) = self.unmount(uid).await
            {
                errors.push(error);
            }
        }
        errors
    }

    /// A config map of a namespace, from the cache if a pod of this node refers to it. The error is upstream's message.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>, ObjectError> {
        self.shared.config_maps.get(namespace, name).await
    }

    /// A secret of a namespace, likewise.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>, ObjectError> {
        self.shared.secrets.get(namespace, name).await
    }

    /// A token of the pod's service account for an audience.
    pub async fn token(&self, pod: &Pod, audience: &str) -> Result<String, String> {
        self.shared.tokens.get(pod, audience, None, Timestamp::now()).await
    }

    /// Mounts a path below a volume where nothing that the pod does can lead out of the volume; the path to give to the runtime.
    pub(crate) async fn sub_path(&self, uid: &str, container: &str, sub_path: &SubPath) -> Result<PathBuf, String> {
        let target = layout::sub_path_target(&self.shared.config.root_dir, uid, &sub_path.volume, container, sub_path.index);
        let (volume, path, at) = (sub_path.volume_path.clone(), sub_path.path.clone(), target.clone());
        blocking(move || sub_path::mount(&volume, &path, &at)).await.map_err(|error| {
            // The pod is not told more: that would tell it of the host's files.
            tracing::warn!(uid, container, volume = sub_path.volume, %error, "cannot prepare a sub path");
            format!("failed to prepare subPath for volumeMount {:?} of container {container:?}", sub_path.volume)
        })?;
        Ok(target)
    }

    /// `<root dir>/pods/<uid>`.
    pub fn pod_dir(&self, pod_uid: &str) -> PathBuf {
        layout::pod_dir(&self.shared.config.root_dir, pod_uid)
    }
}

/// The uids of the pods that have directories below the root directory. Blocking.
pub fn pods_on_disk(root_dir: &std::path::Path) -> std::io::Result<Vec<String>> {
    tear_down::pods_on_disk(root_dir)
}

/// The name of the claim that a pod's volume stands for.
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    persistent::claim_of(pod, volume).map(|(name, _)| name)
}

/// What came of the attempts; `None` is a volume that waits for its next one.
fn collect(
    state: &mut PodState,
    volumes: &[&Volume],
    attempts: Vec<Option<Result<Mounted, Failure>>>,
    now: Instant,
) -> Result<PodVolumes, Error> {
    let (mut mounted, mut missing, mut unprocessed, mut events) = (PodVolumes::default(), Vec::new(), Vec::new(), Vec::new());
    let mut reason = None;
    for (volume, attempt) in volumes.iter().zip(attempts) {
        let name = &volume.name;
        match attempt {
            Some(Ok(done)) => {
                if state.failures.get(name).is_none_or(|failures| failures.next_try <= now) {
                    state.failures.remove(name);
                }
                state.mounted.insert(name.clone(), done);
            }
            Some(Err(failure)) => {
                let failures = state.failures.entry(name.clone()).or_insert(Failures { count: 0, next_try: now });
                failures.next_try = now + backoff(failures.count);
                failures.count = failures.count.saturating_add(1);
                match failure {
                    Failure::Processing(error) => {
                        unprocessed.push(name.clone());
                        reason = Some(error);
                    }
                    Failure::Operation { step, name, error } => {
                        let reason = if step.starts_with("MapVolume") { "FailedMapVolume" } else { "FailedMount" };
                        events.push(Warning { reason, message: format!("{step} for volume {name:?} : {error}") });
                    }
                }
            }
            None => {}
        }
        match state.mounted.get(name) {
            Some(done) => {
                mounted.by_name.insert(name.clone(), done.volume.clone());
                mounted.supplemental_groups.extend(done.group);
            }
            None => missing.push(name.clone()),
        }
    }
    if missing.is_empty() {
        return Ok(PodVolumes { warnings: events, ..mounted });
    }
    let list = |names: &[String]| format!("[{}]", names.join(" "));
    let processing_failed = reason.is_some();
    missing.sort();
    let message = format!(
        "unmounted volumes={}, unattached volumes=[], failed to process volumes={}: {}",
        list(&missing),
        list(&unprocessed),
        reason.unwrap_or_else(|| "context deadline exceeded".to_owned())
    );
    if processing_failed {
        events.push(Warning::of_mount(format!("Unable to attach or mount volumes: {message}")));
    }
    let waits = missing.iter().filter_map(|name| state.failures.get(name)).map(|failures| failures.next_try.saturating_duration_since(now));
    Err(Error { message, events, retry_after: waits.min().unwrap_or(RETRY_MIN) })
}

fn backoff(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.min(16)).min(RETRY_MAX)
}

impl Shared {
    fn note_in_use(&self, pod: &Pod, name: String) {
        if let Some(entry) = self.pods.lock().get(pod.uid()) {
            entry.in_use.lock().insert(name);
        }
    }
}

/// Runs what may wait for a disk where that holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// What a failed request says, as clients of the API print it.
fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> Volume {
        Volume { name: name.to_owned(), ..Volume::default() }
    }

    fn done(path: &str) -> Result<Mounted, Failure> {
        let volume = PodVolume { source: Source::Path(path.into()), read_only: false, selinux_relabel: true };
        Ok(Mounted::new(volume))
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_told_and_waits_longer_each_time() {
        let (mut state, a, b) = (PodState::default(), volume("a"), volume("b"));
        let volumes = [&a, &b];
        let failed = || Some(Err(Failure::set_up("a", "configmap \"x\" not found".to_owned())));
        let now = Instant::now();
        let error = collect(&mut state, &volumes, vec![failed(), Some(done("/b"))], now).expect_err("one is missing");
        assert_eq!(error.message, "unmounted volumes=[a], unattached volumes=[], failed to process volumes=[]: context deadline exceeded");
        assert_eq!(error.events, [Warning::of_mount("MountVolume.SetUp failed for volume \"a\" : configmap \"x\" not found".to_owned())]);
        assert_eq!(error.retry_after, RETRY_MIN);
        let error = collect(&mut state, &volumes, vec![None, Some(done("/b"))], now).expect_err("one is missing");
        assert_eq!((error.events.len(), error.retry_after), (0, RETRY_MIN));
        let error = collect(&mut state, &volumes, vec![failed(), Some(done("/b"))], now).expect_err("one is missing");
        assert_eq!(error.retry_after, RETRY_MIN * 2);
        let later = now + RETRY_MAX;
        let mounted = collect(&mut state, &volumes, vec![Some(done("/a")), Some(done("/b"))], later).expect("all are there");
        assert_eq!(mounted.by_name.len(), 2);
        assert!(state.failures.is_empty());
        let mounted = collect(&mut state, &volumes, vec![failed(), Some(done("/b"))], later).expect("it stays as it is");
        assert_eq!((mounted.by_name.len(), mounted.warnings.len()), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_not_bound_is_told_of_the_pod() {
        let (mut state, a) = (PodState::default(), volume("a"));
        let failed = Some(Err(Failure::Processing("error processing PVC d/x: PVC is not bound".to_owned())));
        let error = collect(&mut state, &[&a], vec![failed], Instant::now()).expect_err("it is missing");
        let text =
            "unmounted volumes=[a], unattached volumes=[], failed to process volumes=[a]: error processing PVC d/x: PVC is not bound";
        let told = vec![Warning::of_mount(format!("Unable to attach or mount volumes: {text}"))];
        assert_eq!((error.message.as_str(), error.events), (text, told));
    }

    #[test]
    fn waits_double_up_to_two_minutes() {
        assert_eq!([0, 1, 2, 20].map(backoff), [RETRY_MIN, RETRY_MIN * 2, RETRY_MIN * 4, RETRY_MAX]);
    }
}
