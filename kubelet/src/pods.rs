//! The pods of this node: those that the API server binds to it and those that files say, each with the task that runs it.
//!
//! News are handed to the tasks; nothing here waits.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use client::{Change, Informer, Object, Shutdown};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use crate::admission::{self, Admitted};
use crate::app_armor;
use crate::core::Core;
use crate::eviction;
use crate::instruments;
use crate::pod;
use crate::pod_worker::{self, End, Inbox};
use crate::preemption;
use crate::resize::{self, Allocation};
use crate::sysctls;

/// How often it is looked whether pods that make room are gone.
const GONE_POLL: Duration = Duration::from_millis(100);

/// What ran here before the kubelet started has been let in once.
fn has_run(pod: &Pod) -> bool {
    pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).any(|status| status.container_id.is_some())
}

struct Entry {
    /// As its source has it.
    source: Arc<Pod>,
    /// With what was allocated to it.
    pod: Arc<Pod>,
    allocation: Allocation,
    inbox: Arc<Inbox>,
    /// Not let onto the node, so that it holds nothing of it.
    rejected: bool,
    /// Not let onto the node yet: it waits for devices and the like.
    pending: bool,
    /// Its source does not have it any more; what is left of it here is being taken away.
    gone: bool,
}

#[derive(Default)]
struct Known {
    /// By uid. Bounded by what the API server binds here and by the files of static pods.
    entries: HashMap<String, Entry>,
    /// The pictures of static pods in the API server, by namespace and name.
    mirrors: HashMap<(String, String), Arc<Pod>>,
}

/// All pods of this node. Clones are the same.
#[derive(Clone)]
pub struct Pods {
    known: Arc<Mutex<Known>>,
    core: Arc<Mutex<Weak<Core>>>,
    node: Informer<Node>,
    node_name: String,
    /// Whether the files of static pods have been read.
    statics: Arc<AtomicBool>,
    shutdown: Shutdown,
}

impl Pods {
    pub fn new(node_name: &str, node: Informer<Node>, shutdown: Shutdown) -> Pods {
        Pods { known: Arc::default(), core: Arc::default(), node, node_name: node_name.to_owned(), statics: Arc::default(), shutdown }
    }

    /// What tasks run with; to be set before the first pod comes.
    pub fn set_core(&self, core: &Arc<Core>) {
        *self.core.lock() = Arc::downgrade(core);
    }

    /// Takes what the API server says of a pod.
    pub fn api_change(&self, change: &Change<Pod>) {
        let pod = change.object();
        if pod::is_mirror(pod) {
            self.mirror_change(change);
            return;
        }
        match change {
            Change::Added(pod) | Change::Updated { new: pod, .. } => self.take(pod),
            Change::Deleted(pod) => self.drop(pod),
        }
    }

    fn mirror_change(&self, change: &Change<Pod>) {
        let mirror = change.object();
        let key = (mirror.namespace().to_owned(), mirror.name().to_owned());
        let mut known = self.known.lock();
        match change {
            Change::Deleted(_) => known.mirrors.remove(&key),
            Change::Added(_) | Change::Updated { .. } => known.mirrors.insert(key.clone(), mirror.clone()),
        };
        // The static pod's status may have to be told to it.
        let of = |entry: &&Entry| pod::is_static(&entry.pod) && entry.pod.namespace() == key.0 && entry.pod.name() == key.1;
        let uid = known.entries.values().find(of).map(|entry| entry.pod.uid().to_owned());
        drop(known);
        if let Some((uid, core)) = uid.zip(self.core.lock().upgrade()) {
            core.statuses.look_again(&uid);
        }
    }

    /// Takes a pod that is new or has changed.
    pub fn take(&self, pod: &Arc<Pod>) {
        let Some(core) = self.core.lock().upgrade() else { return };
        let mut known = self.known.lock();
        if let Some(entry) = known.entries.get_mut(pod.uid()) {
            entry.source = pod.clone();
            if entry.pending {
                entry.pod = pod.clone();
                return;
            }
            if !entry.rejected {
                self.allocate(&core, &mut known, pod.uid());
                return;
            }
            entry.pod = pod.clone();
            if !pod.is_terminating() {
                return;
            }
            // A rejected pod has nothing here, but somebody has to let it go.
            entry.rejected = false;
            let inbox = entry.inbox.clone();
            drop(known);
            self.start(core, pod.clone(), inbox);
            return;
        }
        let allocation = Allocation::recalled(pod);
        let source = pod.clone();
        let pod = &if allocation.is_desired_by(pod) { pod.clone() } else { Arc::new(allocation.applied_to(pod)) };
        let begins = !pod.is_terminating() && !pod::is_terminal_phase(pod::phase(pod));
        let is_new = begins && !has_run(pod);
        let first = if is_new { Pods::admit_first(&core, pod) } else { Ok(()) };
        let pending = first.is_ok() && begins && core.container_manager.concerns(pod);
        let verdict = match first {
            Ok(()) if is_new && !pending => self.admit_last(&core, &known, pod),
            first => first.map(|()| Admitted::default()),
        };
        let inbox = Arc::new(Inbox::default());
        let entry = Entry { source, pod: pod.clone(), allocation, inbox: inbox.clone(), rejected: verdict.is_err(), pending, gone: false };
        known.entries.insert(pod.uid().to_owned(), entry);
        drop(known);
        match verdict {
            Ok(admitted) => {
                if is_new && !pod::is_static(pod) {
                    let created = pod.metadata.creation_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
                    core.metrics.pod_seen(pod.uid(), created, pod::containers(pod).len());
                }
                if pending {
                    self.allocate_and_start(core, pod.clone(), inbox);
                } else {
                    self.let_in(core, pod.clone(), inbox, admitted);
                }
            }
            Err(rejection) => core.reject(pod, &rejection.reason, &rejection.message),
        }
    }

    /// What is looked at before anything is given to the pod.
    fn admit_first(core: &Core, pod: &Pod) -> Result<(), admission::Rejection> {
        core.node_shutdown.admit()?;
        core.eviction.admit(pod).map_err(|message| admission::Rejection { reason: eviction::REASON.to_owned(), message })?;
        sysctls::admit(pod, &core.config.configuration.allowed_unsafe_sysctls)?;
        app_armor::admit(pod, app_armor::is_enabled)
    }

    /// What is looked at when the pod has been given what it asks for; who has to make room for it then.
    fn admit_last(&self, core: &Core, known: &Known, pod: &Pod) -> Result<Admitted, admission::Rejection> {
        let node = self.node.get("", &self.node_name);
        let node = node.as_deref().map(|node| core.container_manager.node_for(pod.uid(), node));
        admission::admit(pod, node.as_deref(), &Pods::others(core, known, pod.uid()))
    }

    /// Gives a pod what it asks for, which those who give may take their time for, and then lets it in.
    fn allocate_and_start(&self, core: Arc<Core>, pod: Arc<Pod>, inbox: Arc<Inbox>) {
        let pods = self.clone();
        tokio::spawn(async move {
            let given = tokio::select! {
                given = core.container_manager.admit(&pod) => given,
                () = pods.shutdown.cancelled() => return,
            };
            let mut known = pods.known.lock();
            let verdict = given.and_then(|()| if has_run(&pod) { Ok(Admitted::default()) } else { pods.admit_last(&core, &known, &pod) });
            // It may have been deleted meanwhile, and changed.
            let Some(entry) = known.entries.get_mut(pod.uid()).filter(|entry| Arc::ptr_eq(&entry.inbox, &inbox)) else { return };
            entry.pending = false;
            let newest = entry.pod.clone();
            let ends = newest.is_terminating();
            entry.rejected = verdict.is_err() && !ends;
            drop(known);
            match verdict {
                Err(rejection) if !ends => core.reject(&newest, &rejection.reason, &rejection.message),
                Err(_) => pods.start(core, newest, inbox),
                Ok(admitted) => pods.let_in(core, newest, inbox, admitted),
            }
        });
    }

    /// The pods beside this one that hold something of the node.
    fn others(core: &Core, known: &Known, uid: &str) -> Vec<Arc<Pod>> {
        let holds = |entry: &&Entry| {
            let told = core.statuses.get(entry.pod.uid());
            let phase = told.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_else(|| pod::phase(&entry.pod));
            let over = pod::is_terminal_phase(phase) && pod::is_terminal_phase(pod::phase(&entry.pod));
            !entry.rejected && !entry.pending && !over && entry.pod.uid() != uid
        };
        known.entries.values().filter(holds).map(|entry| entry.pod.clone()).collect()
    }

    /// Gives a pod what it asks for, if the node has it, and tells its task.
    fn allocate(&self, core: &Core, known: &mut Known, uid: &str) {
        let Some(entry) = known.entries.get(uid) else { return };
        let (source, inbox) = (entry.source.clone(), entry.inbox.clone());
        let generation = source.metadata.generation.unwrap_or(0);
        let mut allocation = entry.allocation.clone();
        let settings = &core.config.configuration;
        let (cpus, memory) = (settings.cpu_manager_policy == "static", settings.memory_manager_policy == "Static");
        if allocation.is_desired_by(&source) {
            inbox.resize.settle();
        } else if let Some(refusal) = allocation.refusal(&source, cpus, memory) {
            if inbox.resize.refuse(&refusal, generation) {
                let message = resize::summary("Pod resize Infeasible", &source, generation, &refusal);
                core.recorder.warning(&source.reference(), "ResizeInfeasible", message);
            }
        } else {
            let node = self.node.get("", &self.node_name);
            let fits = node.map_or(Ok(()), |node| admission::resources(&source, &node, &Pods::others(core, known, uid)));
            match fits {
                Ok(()) => {
                    allocation = Allocation::desired(&source);
                    inbox.resize.begin(generation);
                    let message = resize::summary("Pod resize started", &source, generation, "");
                    core.recorder.normal(&source.reference(), "ResizeStarted", message);
                }
                Err(rejection) => {
                    if inbox.resize.defer(&rejection.message, generation) {
                        let message = resize::summary("Pod resize Deferred", &source, generation, &rejection.message);
                        core.recorder.warning(&source.reference(), "ResizeDeferred", message);
                    }
                }
            }
        }
        let pod = if allocation.is_desired_by(&source) { source } else { Arc::new(allocation.applied_to(&source)) };
        if let Some(entry) = known.entries.get_mut(uid) {
            entry.pod = pod.clone();
            entry.allocation = allocation;
        }
        inbox.update(pod);
    }

    /// Something of the node has become free: pods that wait for more may have it.
    fn retry_resizes(&self, core: &Core) {
        let mut known = self.known.lock();
        let waiting: Vec<String> = known
            .entries
            .iter()
            .filter(|(_, entry)| !entry.rejected && !entry.pending && !entry.allocation.is_desired_by(&entry.source))
            .map(|(uid, _)| uid.clone())
            .collect();
        waiting.iter().for_each(|uid| self.allocate(core, &mut known, uid));
    }

    /// Starts a pod that is let in, when others have made room for it.
    fn let_in(&self, core: Arc<Core>, pod: Arc<Pod>, inbox: Arc<Inbox>, admitted: Admitted) {
        let Admitted { victims, signal } = admitted;
        victims.iter().for_each(|victim| self.preempt(&core, victim, &pod, &signal));
        self.start_after(core, pod, inbox, victims);
    }

    /// Ends a pod that a critical one needs the room of.
    fn preempt(&self, core: &Core, victim: &Pod, critical: &Pod, signal: &str) {
        tracing::info!(pod = %pod::describe(victim), critical = %pod::describe(critical), "preempting a pod to free up resources");
        core.metrics.count(&instruments::PREEMPTIONS, &[signal]);
        core.recorder.warning(&victim.reference(), preemption::REASON, preemption::MESSAGE);
        self.end(victim.uid(), End { failure: Some(preemption::failure()), grace_seconds: None });
    }

    fn start(&self, core: Arc<Core>, pod: Arc<Pod>, inbox: Arc<Inbox>) {
        self.start_after(core, pod, inbox, Vec::new());
    }

    /// Starts a pod when nothing is left of others, or when they have had their time.
    fn start_after(&self, core: Arc<Core>, pod: Arc<Pod>, inbox: Arc<Inbox>, others: Vec<Arc<Pod>>) {
        let (pods, uid) = (self.clone(), pod.uid().to_owned());
        let (shutdown, seen) = (self.shutdown.clone(), Instant::now());
        tokio::spawn(async move {
            let gone = async {
                while !others.iter().all(|other| pods.is_over(other.uid())) {
                    tokio::time::sleep(GONE_POLL).await;
                }
            };
            tokio::select! {
                waited = tokio::time::timeout(preemption::patience(&others), gone) => if waited.is_err() {
                    tracing::warn!(pod = %pod::describe(&pod), "pods that were to make room have not ended in time");
                },
                () = shutdown.cancelled() => return,
            }
            core.metrics.took(&instruments::POD_WORKER_START_DURATION, &[], seen.elapsed());
            pod_worker::run(core.clone(), pod, inbox.clone(), shutdown.clone()).await;
            if shutdown.is_cancelled() {
                return;
            }
            {
                let mut known = pods.known.lock();
                if known.entries.get(&uid).is_some_and(|entry| Arc::ptr_eq(&entry.inbox, &inbox)) {
                    known.entries.remove(&uid);
                }
            }
            pods.retry_resizes(&core);
        });
    }

    /// The source does not have the pod any more.
    pub fn drop(&self, pod: &Pod) {
        let mut known = self.known.lock();
        let Some(entry) = known.entries.get_mut(pod.uid()) else { return };
        if entry.rejected || entry.pending {
            known.entries.remove(pod.uid());
            drop(known);
            if let Some(core) = self.core.lock().upgrade() {
                core.statuses.forget(pod.uid());
            }
            return;
        }
        entry.gone = true;
        entry.inbox.gone();
    }

    /// Something of this pod has changed on the node.
    pub fn sync(&self, uid: &str) {
        if let Some(entry) = self.known.lock().entries.get(uid) {
            entry.inbox.sync();
        }
    }

    /// Ends a pod from here.
    pub fn end(&self, uid: &str, end: End) {
        if let Some(entry) = self.known.lock().entries.get(uid) {
            entry.inbox.end(end);
        }
    }

    /// The uids of all pods that this kubelet runs or stops.
    pub fn uids(&self) -> BTreeSet<String> {
        self.known.lock().entries.keys().cloned().collect()
    }

    /// Whether nothing of the pod is left on the node.
    pub fn is_over(&self, uid: &str) -> bool {
        self.known.lock().entries.get(uid).is_none_or(|entry| entry.rejected || entry.inbox.is_over())
    }

    /// The pods that hold something of the node: not those that are not let in, nor those of which nothing is left.
    pub fn active(&self) -> Vec<Arc<Pod>> {
        let known = self.known.lock();
        known.entries.values().filter(|entry| !entry.rejected && !entry.inbox.is_over()).map(|entry| entry.pod.clone()).collect()
    }

    /// The files of static pods have been read once.
    pub fn statics_are_read(&self) {
        self.statics.store(true, Ordering::Relaxed);
    }

    pub fn statics_are_known(&self) -> bool {
        self.statics.load(Ordering::Relaxed)
    }

    pub fn knows(&self, uid: &str) -> bool {
        self.known.lock().entries.contains_key(uid)
    }

    /// The pods that their sources have. No two have one name, as two of [`Pods::all`] may: one that is ending, and its successor.
    pub fn wanted(&self) -> Vec<Arc<Pod>> {
        self.known.lock().entries.values().filter(|entry| !entry.gone).map(|entry| entry.source.clone()).collect()
    }

    /// All pods, as their sources have or had them.
    pub fn all(&self) -> Vec<Arc<Pod>> {
        self.known.lock().entries.values().map(|entry| entry.source.clone()).collect()
    }

    /// The pod that the API server has for the one with this uid: itself, or the mirror of a static one.
    pub fn api_pod(&self, uid: &str) -> Option<Arc<Pod>> {
        let known = self.known.lock();
        let pod = &known.entries.get(uid)?.source;
        if pod::is_static(pod) {
            known.mirrors.get(&(pod.namespace().to_owned(), pod.name().to_owned())).cloned()
        } else {
            Some(pod.clone())
        }
    }

    pub fn mirror(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.known.lock().mirrors.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub fn mirrors(&self) -> Vec<Arc<Pod>> {
        self.known.lock().mirrors.values().cloned().collect()
    }
}
