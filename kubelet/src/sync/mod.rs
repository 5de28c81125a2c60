//! One sync of a pod: what is there is read, told, and changed into what shall be.
//!
//! The shell around [`crate::sync_pod::plan`] and [`crate::status::generate`]; carries out, decides nothing.

mod sandbox;
mod start;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::events::Type;
use client::{Object, Shutdown};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus as ApiStatus, Secret};
use k8s_openapi::jiff::Timestamp;

use crate::container_config::{self, as_container};
use crate::core::Core;
use crate::cri::{or_gone, v1};
use crate::instruments;
use crate::kill;
use crate::pod;
use crate::resize::{self, Actuated, Tracker};
use crate::runtime_status::{self, PodStatus};
use crate::status::{self, Failure, Waiting};
use crate::sync_pod::{self, Action, Circumstances};
use crate::volumes::PodVolumes;

/// After a failure the pod is looked at again this soon, at least; and after one that passes by itself.
const RETRY: Duration = Duration::from_secs(10);
const RETRY_TRANSIENT: Duration = Duration::from_secs(1);
const RETRY_VOLUMES: Duration = Duration::from_secs(2);

/// What is remembered of a pod from one sync to the next.
#[derive(Default)]
pub struct Memory {
    /// Why containers wait that should run.
    pub waiting: HashMap<String, Waiting>,
    /// Evicted, or past its deadline.
    pub failure: Option<Failure>,
    /// What containers were made with or changed to.
    pub actuated: Actuated,
    /// What is told of a resize.
    pub resize: Tracker,
    /// The sandbox whose network has been found to be ready.
    pub networked: Option<String>,
    /// Whether the secrets that are missing have been told of.
    pub told_missing_secrets: bool,
}

/// How a sync ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Synced {
    /// All is as it shall be; containers whose end was the news of this sync may have been started.
    Done { changed: bool },
    /// To be looked at again after this time at the latest.
    Again(Duration),
    /// The pod has run its course.
    Over,
}

/// Observes a pod and tells its status.
pub async fn observe_and_tell(
    core: &Core,
    pod: &Arc<Pod>,
    memory: &Memory,
    terminal: bool,
    ips: Option<&[String]>,
) -> Result<Observed, String> {
    let mut observed = observe(core, pod).await?;
    if let Some(ips) = ips.filter(|_| observed.ips.is_empty()) {
        observed.ips = ips.to_vec();
    }
    let status = tell(core, pod, &observed, memory, terminal, true);
    Ok(Observed { observed, status })
}

pub struct Observed {
    pub observed: PodStatus,
    pub status: Arc<ApiStatus>,
}

pub async fn observe(core: &Core, pod: &Pod) -> Result<PodStatus, String> {
    runtime_status::observe(&*core.runtime, pod.uid()).await.map_err(|error| error.to_string())
}

/// Makes and tells the status of what was observed.
pub fn tell(core: &Core, pod: &Arc<Pod>, observed: &PodStatus, memory: &Memory, terminal: bool, could_run: bool) -> Arc<ApiStatus> {
    let told = core.told(pod);
    follow_resize(core, pod, observed, memory, terminal);
    let inputs = status::Inputs {
        observed,
        told: &told,
        runtime: &core.runtime_name,
        host_ips: &core.host_ips.read().clone(),
        waiting: &memory.waiting,
        verdicts: &core.verdicts,
        terminal,
        failure: memory.failure.as_ref(),
        recursive_read_only: core.mounts_read_only_recursively(pod),
        actuated: &memory.actuated,
        resize: &memory.resize.conditions(),
    };
    let mut generated = status::generate(pod, inputs);
    core.container_manager.add_to_status(pod, &mut generated);
    let (status, news) = core.statuses.set(pod, generated, could_run);
    if news {
        core.probes.poke(pod.uid());
        core.metrics.status_told(pod.uid(), &status);
    }
    status
}

/// Tells of a resize that is under way, or done.
fn follow_resize(core: &Core, pod: &Arc<Pod>, observed: &PodStatus, memory: &Memory, terminal: bool) {
    if !terminal && resize::is_in_progress(pod, observed, &memory.actuated) {
        memory.resize.go_on(pod.metadata.generation.unwrap_or(0));
    } else if let Some(generation) = memory.resize.complete() {
        let message = resize::summary("Pod resize completed", pod, generation, "");
        core.recorder.normal(&pod.reference(), "ResizeCompleted", message);
    }
}

/// Makes the pod's cgroup, or brings it up to date.
async fn ensure_cgroup(core: &Core, pod: &Arc<Pod>) -> Result<(), String> {
    let Some(cgroups) = core.cgroups.clone() else { return Ok(()) };
    let ours = pod.clone();
    let limits = !core.container_manager.has_exclusive_cpus(pod);
    let ensured = tokio::task::spawn_blocking(move || cgroups.ensure_pod_limited(&ours, limits)).await;
    ensured.map_err(|error| error.to_string()).and_then(|made| made.map_err(|error| error.to_string()))
}

/// Syncs a pod once. `stopping` turns when the pod is to be stopped, which ends what can take long.
pub async fn sync(core: &Core, pod: &Arc<Pod>, memory: &mut Memory, stopping: &Shutdown) -> Result<Synced, String> {
    let Observed { observed, status, .. } = observe_and_tell(core, pod, memory, false, None).await?;
    if status.phase.as_deref().is_some_and(pod::is_terminal_phase) {
        return Ok(Synced::Over);
    }
    if let Some(problem) = core.runtime_state.network_problem().filter(|_| !pod::is_host_network(pod)) {
        let problem = format!("network is not ready: {problem}");
        core.recorder.warning(&pod.reference(), "NetworkNotReady", problem);
        return Ok(Synced::Again(RETRY_TRANSIENT));
    }
    // What containers have was given to them before the kubelet started, as far as it is not known.
    for known in observed.running() {
        if let Some(container) = pod::find_container(pod, &known.name) {
            memory.actuated.entry(known.name.clone()).or_insert_with(|| container.resources.unwrap_or_default());
        }
    }
    // While containers shrink their pod's cgroup may not: it follows when they are done.
    let shrinking = resize::is_in_progress(pod, &observed, &memory.actuated);
    if let Err(problem) = ensure_cgroup(core, pod).await
        && !shrinking
    {
        let message = format!("unable to ensure pod container exists: {problem}");
        core.recorder.warning(&pod.reference(), "FailedCreatePodContainer", message);
        return Err(format!("failed to ensure that the pod: {} cgroups exist and are correctly applied: {problem}", pod.uid()));
    }
    let volumes = tokio::select! {
        mounted = core.volumes.mount(pod) => mounted,
        () = stopping.cancelled() => return Ok(Synced::Again(Duration::ZERO)),
    };
    let volumes = match volumes {
        Ok(volumes) => volumes,
        Err(error) => {
            for warning in &error.events {
                core.recorder.warning(&pod.reference(), warning.reason, warning.message.clone());
            }
            tracing::debug!(pod = %pod::describe(pod), %error, "volumes are not there yet");
            return Ok(Synced::Again(error.retry_after.max(Duration::from_millis(100)).min(RETRY_VOLUMES * 60)));
        }
    };
    for warning in &volumes.warnings {
        core.recorder.warning(&pod.reference(), warning.reason, warning.message.clone());
    }
    core.probes.add(pod);
    let restart_all = status.conditions.iter().flatten().any(|c| c.type_ == "AllContainersRestarting" && c.status == "True");
    let circumstances = Circumstances { verdicts: Some(&core.verdicts), restart_all, actuated: Some(&memory.actuated) };
    let plan = sync_pod::plan(pod, &observed, circumstances);
    if plan.is_empty() {
        return Ok(Synced::Done { changed: false });
    }
    let mut carrying = Carrying {
        core,
        pod,
        memory,
        stopping,
        sandbox_id: sync_pod::sandbox::check(pod, &observed).id,
        attempt: sync_pod::sandbox::check(pod, &observed).attempt,
        ips: observed.ips.clone(),
        observed,
        volumes,
        sandbox_config: None,
        image_volumes: None,
        secrets: None,
        retry_at: None,
        failed: Vec::new(),
    };
    let result = carrying.carry_out(&plan).await;
    let (retry_at, failed) = (carrying.retry_at, std::mem::take(&mut carrying.failed));
    if shrinking && let Err(problem) = ensure_cgroup(core, pod).await {
        tell_failed_resize(core, pod, memory, &problem);
    }
    // What was done is told at once, without waiting for the next look at the runtime.
    let after = observe_and_tell(core, pod, memory, false, None).await?;
    result?;
    if let Some(at) = retry_at {
        let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
        return Ok(Synced::Again(wait));
    }
    if !failed.is_empty() {
        return Err(kill::join(failed));
    }
    if after.status.phase.as_deref().is_some_and(pod::is_terminal_phase) {
        return Ok(Synced::Over);
    }
    Ok(Synced::Done { changed: true })
}

fn tell_failed_resize(core: &Core, pod: &Arc<Pod>, memory: &Memory, problem: &str) {
    let generation = pod.metadata.generation.unwrap_or(0);
    if memory.resize.fail(problem, generation) {
        core.recorder.warning(&pod.reference(), "ResizeError", resize::summary("Pod resize error", pod, generation, problem));
    }
}

/// A plan being carried out.
struct Carrying<'a> {
    core: &'a Core,
    pod: &'a Arc<Pod>,
    memory: &'a mut Memory,
    stopping: &'a Shutdown,
    sandbox_id: String,
    attempt: u32,
    ips: Vec<String>,
    observed: PodStatus,
    volumes: PodVolumes,
    sandbox_config: Option<v1::PodSandboxConfig>,
    image_volumes: Option<BTreeMap<String, Result<v1::ImageSpec, Waiting>>>,
    secrets: Option<Vec<Arc<Secret>>>,
    /// When the first container that has to wait may be started.
    retry_at: Option<Timestamp>,
    failed: Vec<String>,
}

impl Carrying<'_> {
    async fn carry_out(&mut self, plan: &[Action]) -> Result<(), String> {
        // Containers that are about to be started wait for no reason that was known before.
        let mut started = HashSet::new();
        for action in plan {
            if self.stopping.is_cancelled() {
                return Ok(());
            }
            match action {
                Action::StopPod => kill::kill_pod(self.core, Some(self.pod), &self.observed, None).await?,
                Action::Kill { id, name: _, message, reason } => {
                    let Some(known) = self.observed.containers.iter().find(|known| known.id == *id) else { continue };
                    kill::kill_container(self.core, Some(self.pod), known, &self.ips, message, *reason, None, None).await?;
                }
                Action::Reset { id, name, kill } => {
                    let known = self.observed.containers.iter().find(|known| known.id == *id);
                    if let Some(known) = known.filter(|_| *kill) {
                        let reason = sync_pod::KillReason::Other;
                        kill::kill_container(self.core, Some(self.pod), known, &self.ips, "killing", reason, Some(0), None).await?;
                    }
                    or_gone(self.core.runtime.remove_container(id.clone()).await)
                        .map_err(|error| format!("failed to \"RemoveContainer\" for {name:?} with RemoveContainerError: {error}"))?;
                    self.failed.clear();
                    self.retry_at = Some(Timestamp::now());
                }
                Action::Remove { id } => {
                    if let Err(error) = or_gone(self.core.runtime.remove_container(id.clone()).await) {
                        tracing::warn!(pod = %pod::describe(self.pod), container = %id, %error, "cannot remove an init container of before");
                    }
                }
                Action::CreateSandbox { attempt, changed } => {
                    self.prepare_claims().await?;
                    self.create_sandbox(*attempt, *changed).await?;
                }
                Action::Resize { id, name } => self.resize(id, name).await,
                Action::StartEphemeral(index) => {
                    let Some(ephemeral) = pod::ephemeral_containers(self.pod).get(*index) else { continue };
                    let target = ephemeral.target_container_name.as_deref().filter(|name| !name.is_empty());
                    self.start(&as_container(ephemeral), target, &mut started).await?;
                }
                Action::StartInit(index) => {
                    let pod = self.pod.clone();
                    let Some(container) = pod::init_containers(&pod).get(*index) else { continue };
                    let ok = self.start(container, None, &mut started).await?;
                    if !ok && !pod::is_sidecar(container) {
                        return Ok(());
                    }
                }
                Action::Start(index) => {
                    let pod = self.pod.clone();
                    let Some(container) = pod::containers(&pod).get(*index) else { continue };
                    self.start(container, None, &mut started).await?;
                }
            }
        }
        Ok(())
    }

    /// Has drivers prepare what the pod claims, as long as nothing uses it yet.
    async fn prepare_claims(&self) -> Result<(), String> {
        let prepared = self.core.container_manager.prepare_claims(self.pod).await;
        prepared.inspect_err(|problem| {
            let message = format!("Failed to prepare dynamic resources: {problem}");
            self.core.recorder.warning(&self.pod.reference(), "FailedPrepareDynamicResources", message);
        })
    }

    /// Starts a container unless it has to wait; whether it was started. An error ends the sync.
    async fn start(&mut self, container: &Container, target: Option<&str>, started: &mut HashSet<String>) -> Result<bool, String> {
        if !started.insert(container.name.clone()) {
            return Ok(true);
        }
        if let Some(waiting) = self.has_to_wait(container) {
            self.memory.waiting.insert(container.name.clone(), waiting);
            return Ok(false);
        }
        self.await_network().await?;
        self.prepare_to_start().await?;
        let kind = self.kind_of(container);
        self.core.metrics.count(&instruments::CONTAINERS_STARTED, &[kind]);
        let result = self.start_container(container, target).await;
        if let Err(waiting) = &result {
            self.core.metrics.count(&instruments::CONTAINER_START_ERRORS, &[kind, &waiting.reason]);
        }
        self.memory.actuated.insert(container.name.clone(), container.resources.clone().unwrap_or_default());
        match result {
            Ok(()) => {
                self.memory.waiting.remove(&container.name);
                Ok(true)
            }
            Err(waiting) => {
                let name = &container.name;
                self.failed.push(format!("failed to \"StartContainer\" for {name:?} with {}: {:?}", waiting.reason, waiting.message));
                self.memory.waiting.insert(name.clone(), waiting);
                Ok(false)
            }
        }
    }

    /// A container's kind, as metrics have it.
    fn kind_of(&self, container: &Container) -> &'static str {
        if pod::init_containers(self.pod).iter().any(|known| known.name == container.name) {
            "init_container"
        } else if pod::ephemeral_containers(self.pod).iter().any(|known| known.name == container.name) {
            "ephemeral_container"
        } else {
            "container"
        }
    }

    /// Asks whoever has a word in it whether the pod's network is ready, once for each sandbox.
    async fn await_network(&mut self) -> Result<(), String> {
        let Some(gate) = self.core.config.network_gate.clone().filter(|_| !pod::is_host_network(self.pod)) else { return Ok(()) };
        if self.memory.networked.as_ref() == Some(&self.sandbox_id) {
            return Ok(());
        }
        let passed = gate(self.pod.clone(), self.ips.clone()).await;
        // The machine's own pods do not wait for the cluster, which they may be the beginning of.
        if let Err(problem) = passed
            && !pod::is_static(self.pod)
        {
            let problem = format!("network is not ready: {problem}");
            self.core.recorder.warning(&self.pod.reference(), "NetworkNotReady", problem.clone());
            return Err(problem);
        }
        self.memory.networked = Some(self.sandbox_id.clone());
        Ok(())
    }

    /// Gives a running container what was allocated to it.
    async fn resize(&mut self, id: &str, name: &str) {
        let Some(container) = pod::find_container(self.pod, name) else { return };
        let node = self.core.node_for(self.pod);
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(container_config::resources::container(self.pod, &container, &node)),
            ..Default::default()
        };
        match self.core.runtime.update_container_resources(request).await {
            Ok(()) => {
                self.memory.actuated.insert(name.to_owned(), container.resources.unwrap_or_default());
            }
            Err(error) => {
                tell_failed_resize(self.core, self.pod, self.memory, &error.to_string());
                self.failed.push(format!("failed to \"ResizePodInPlace\" for {name:?}: {error}"));
            }
        }
    }

    /// A container that has failed waits longer each time.
    fn has_to_wait(&mut self, container: &Container) -> Option<Waiting> {
        let exited = |known: &&runtime_status::Container| known.name == container.name && known.state == runtime_status::State::Exited;
        let finished = self.observed.containers.iter().find(exited)?.finished_at.unwrap_or_default();
        let key = (self.pod.uid().to_owned(), container.name.clone());
        let now = Timestamp::now();
        let mut restarts = self.core.restarts.lock();
        let Some(until) = restarts.waits_until(&key, finished, now) else {
            restarts.failed(&key, finished, now);
            return None;
        };
        let pod = pod::describe(self.pod);
        let delay = i64::try_from(restarts.delay(&key).as_nanos()).unwrap_or(i64::MAX);
        drop(restarts);
        let message = format!("Back-off restarting failed container {} in pod {pod}", container.name);
        self.core.tell_container(self.pod, &container.name, "", Type::Warning, "BackOff", &message);
        self.retry_at = Some(self.retry_at.map_or(until, |at| at.min(until)));
        let delay = apimachinery::time::format_duration(delay);
        let message = format!("back-off {delay} restarting failed container={} pod={pod}", container.name);
        Some(Waiting { reason: "CrashLoopBackOff".to_owned(), message })
    }
}

/// How soon a failed sync is tried again.
pub fn retry() -> Duration {
    RETRY.mul_f64(rand::random_range(1.0..1.5))
}
