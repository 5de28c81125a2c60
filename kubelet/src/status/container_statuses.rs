//! The statuses of a pod's containers.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ContainerUser,
    LinuxContainerUser, Pod, PodStatus as ApiStatus, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::Inputs;
use super::phase::RESTARTING_ALL;
use crate::container_config::as_container;
use crate::cri::v1;
use crate::pod;
use crate::runtime_status::{self, State};
use crate::sync_pod::{any_regular_created, restart};

/// The exit code of containers of which nobody knows how they ended.
const LOST_EXIT_CODE: i32 = 137;
const LOST_REASON: &str = "ContainerStatusUnknown";
const REMOVED_MESSAGE: &str = "The container is removed because RestartAllContainers in place";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Main,
    Init,
    Ephemeral,
}

/// Puts the statuses of all containers into `status`.
pub(super) fn fill(pod: &Pod, inputs: Inputs<'_>, restarting: bool, status: &mut ApiStatus) {
    let maker = Maker { pod, inputs, restarting };
    let ephemeral: Vec<Container> = pod::ephemeral_containers(pod).iter().map(as_container).collect();
    let told = inputs.told;
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    status.container_statuses = some(by_name(maker.all(pod::containers(pod), told.container_statuses.as_deref(), Kind::Main)));
    status.init_container_statuses = some(maker.all(pod::init_containers(pod), told.init_container_statuses.as_deref(), Kind::Init));
    let told_ephemeral = told.ephemeral_container_statuses.as_deref();
    status.ephemeral_container_statuses = some(by_name(maker.all(&ephemeral, told_ephemeral, Kind::Ephemeral)));
}

fn by_name(mut statuses: Vec<ContainerStatus>) -> Vec<ContainerStatus> {
    statuses.sort_by(|a, b| a.name.cmp(&b.name));
    statuses
}

struct Maker<'a> {
    pod: &'a Pod,
    inputs: Inputs<'a>,
    restarting: bool,
}

impl Maker<'_> {
    fn all(&self, containers: &[Container], told: Option<&[ContainerStatus]>, kind: Kind) -> Vec<ContainerStatus> {
        let told = told.unwrap_or(&[]);
        let old = |container: &Container| told.iter().find(|status| status.name == container.name);
        containers.iter().map(|container| self.one(container, old(container), kind)).collect()
    }

    fn one(&self, container: &Container, old: Option<&ContainerStatus>, kind: Kind) -> ContainerStatus {
        let mut known = self.inputs.observed.containers.iter().filter(|known| known.name == container.name);
        let (newest, previous) = (known.next(), known.next());
        let mut status = match newest {
            Some(newest) => {
                let mut status = self.of_known(container, newest, old);
                if let Some(previous) = previous {
                    status.last_state = Some(self.state_of(previous, old));
                }
                status
            }
            None => self.of_missing(container, old),
        };
        if kind == Kind::Init && newest.is_none_or(|newest| newest.state == State::Exited && newest.exit_code == 0) {
            let forgotten = newest.is_none()
                && !pod::is_sidecar(container)
                && any_regular_created(self.pod, self.inputs.observed)
                && status.state.as_ref().is_some_and(|state| state.waiting.is_some());
            if forgotten {
                status.state = Some(terminated(ContainerStateTerminated {
                    reason: Some("Completed".to_owned()),
                    message: Some(
                        "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally"
                            .to_owned(),
                    ),
                    ..ContainerStateTerminated::default()
                }));
                return status;
            }
            if newest.is_some() {
                return status;
            }
        }
        self.say_why_it_waits(container, &mut status);
        status
    }

    /// A container that should run, and does not for a reason that is known.
    fn say_why_it_waits(&self, container: &Container, status: &mut ContainerStatus) {
        let Some(why) = self.inputs.waiting.get(&container.name) else { return };
        if !restart::should_start(container, self.pod, self.inputs.observed) {
            return;
        }
        let state = status.state.take();
        if state.as_ref().is_some_and(|state| state.terminated.is_some()) {
            status.last_state = state;
        }
        status.state = Some(waiting(&why.reason, &why.message));
    }

    fn initial(&self, container: &Container) -> ContainerStatus {
        let reason = if pod::init_containers(self.pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
        ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            state: Some(waiting(reason, "")),
            last_state: Some(ContainerState::default()),
            volume_mounts: self.volume_mounts(container),
            ..ContainerStatus::default()
        }
    }

    fn volume_mounts(&self, container: &Container) -> Option<Vec<VolumeMountStatus>> {
        let mounts = container.volume_mounts.as_deref()?.iter().map(|mount| {
            let read_only = mount.read_only == Some(true);
            let recursive = read_only.then_some(match mount.recursive_read_only.as_deref() {
                Some("Enabled") => "Enabled",
                Some("IfPossible") if self.inputs.recursive_read_only => "Enabled",
                _ => "Disabled",
            });
            VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: read_only.then_some(true),
                recursive_read_only: recursive.map(str::to_owned),
                volume_status: None,
            }
        });
        Some(mounts.collect()).filter(|mounts: &Vec<_>| !mounts.is_empty())
    }

    /// The runtime has no container of this name (any more).
    fn of_missing(&self, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
        let mut status = self.initial(container);
        let Some(old) = old else { return status };
        let was = old.state.as_ref();
        let was_waiting = was.is_some_and(|state| state.waiting.is_some());
        let was_terminated = was.is_some_and(|state| state.terminated.is_some());
        if was_terminated {
            status = old.clone();
        } else {
            status.restart_count = old.restart_count;
            status.last_state.clone_from(&old.last_state);
        }
        if self.restarting && !was_waiting {
            status.state = Some(waiting(RESTARTING_ALL, REMOVED_MESSAGE));
            status.last_state = Some(terminated(lost(RESTARTING_ALL, REMOVED_MESSAGE)));
            status.restart_count = old.restart_count + 1;
            return status;
        }
        let last_known = status.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
        if was.is_some_and(|state| state.running.is_some()) && !last_known {
            let message = "The container could not be located when the pod was deleted.  The container used to be Running";
            status.last_state = Some(terminated(lost(LOST_REASON, message)));
            status.restart_count += i32::from(self.pod.metadata.deletion_timestamp.is_none());
        }
        status
    }

    fn of_known(&self, container: &Container, known: &runtime_status::Container, old: Option<&ContainerStatus>) -> ContainerStatus {
        let id = format!("{}://{}", self.inputs.runtime, known.id);
        let mut status = ContainerStatus {
            name: known.name.clone(),
            restart_count: i32::try_from(known.restart_count).unwrap_or(i32::MAX),
            image: known.image.clone(),
            image_id: known.image_ref.clone(),
            container_id: Some(id.clone()),
            last_state: Some(ContainerState::default()),
            volume_mounts: old.map_or_else(|| self.volume_mounts(container), |old| old.volume_mounts.clone()),
            ..ContainerStatus::default()
        };
        if let Some(old) = old {
            status.restart_count = status.restart_count.max(old.restart_count);
            let ended = |state: &Option<ContainerState>| state.as_ref().is_some_and(|state| state.terminated.is_some());
            if old.container_id.as_deref() != Some(id.as_str()) && ended(&old.state) {
                status.last_state.clone_from(&old.state);
            } else if ended(&old.last_state) {
                status.last_state.clone_from(&old.last_state);
            }
            let restarted = known.state == State::Running && ended(&old.state);
            let told = i32::try_from(known.restart_count).unwrap_or(i32::MAX);
            if restarted && old.restart_count >= told && old.container_id.as_deref() != Some(id.as_str()) {
                status.restart_count = old.restart_count + 1;
            }
            let was_running = old.state.as_ref().is_some_and(|state| state.running.is_some());
            if known.state == State::Unknown && was_running {
                status.restart_count = old.restart_count + 1;
            }
        }
        status.state = Some(self.state_of(known, old));
        let same = old.filter(|old| old.container_id.as_deref() == Some(id.as_str()));
        status.resources = resources(container, known, self.inputs.actuated.get(&container.name), same);
        status.allocated_resources = container.resources.as_ref().and_then(|resources| resources.requests.clone());
        status.user = known.user.as_ref().and_then(user);
        status
    }

    fn state_of(&self, known: &runtime_status::Container, old: Option<&ContainerStatus>) -> ContainerState {
        match known.state {
            State::Running => ContainerState {
                running: Some(ContainerStateRunning { started_at: known.started_at.map(seconds) }),
                ..ContainerState::default()
            },
            State::Exited => {
                let non_empty = |text: &str| (!text.is_empty()).then(|| text.to_owned());
                terminated(ContainerStateTerminated {
                    exit_code: known.exit_code,
                    reason: non_empty(&known.reason),
                    message: non_empty(&known.message),
                    started_at: known.started_at.map(seconds),
                    finished_at: known.finished_at.map(seconds),
                    container_id: Some(format!("{}://{}", self.inputs.runtime, known.id)),
                    signal: None,
                })
            }
            State::Unknown if old.and_then(|old| old.state.as_ref()).is_some_and(|state| state.running.is_some()) => {
                let reason = if self.restarting { RESTARTING_ALL } else { LOST_REASON };
                terminated(lost(reason, "The container could not be located when the pod was terminated"))
            }
            State::Created | State::Unknown => waiting("", ""),
        }
    }
}

/// The API knows times to the second.
fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let non_empty = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let waiting = ContainerStateWaiting { reason: non_empty(reason), message: non_empty(message) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(terminated: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn lost(reason: &str, message: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: LOST_EXIT_CODE,
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..ContainerStateTerminated::default()
    }
}

fn user(user: &v1::ContainerUser) -> Option<ContainerUser> {
    let linux = user.linux.as_ref()?;
    Some(ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: linux.uid,
            gid: linux.gid,
            supplemental_groups: (!linux.supplemental_groups.is_empty()).then(|| linux.supplemental_groups.clone()),
        }),
    })
}

/// Below these the kernel cannot tell one amount from another.
const MIN_MILLI_CPU_LIMIT: i64 = 10;
const MIN_SHARES: i64 = 2;

/// What the container has now: as its spec says, corrected by what the runtime tells of a running one.
fn resources(
    container: &Container,
    known: &runtime_status::Container,
    actuated: Option<&ResourceRequirements>,
    old: Option<&ContainerStatus>,
) -> Option<ResourceRequirements> {
    let mut resources = container.resources.clone().unwrap_or_default();
    if known.state != State::Running {
        return Some(resources);
    }
    let linux = known.resources.as_ref().and_then(|resources| resources.linux.as_ref());
    // A runtime that does not tell has what it was told.
    if let Some(actuated) = actuated.filter(|_| linux.is_none()) {
        for (list, has) in [(&mut resources.limits, &actuated.limits), (&mut resources.requests, &actuated.requests)] {
            let Some(list) = list else { continue };
            let has = has.iter().flatten().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory"));
            list.extend(has.map(|(name, quantity)| (name.clone(), quantity.clone())));
        }
        return Some(resources);
    }
    let old = old.and_then(|old| old.resources.as_ref());
    let milli = |list: &BTreeMap<String, Quantity>| list.get("cpu").and_then(|q| Amount::parse(&q.0).ok()).map_or(0, |q| q.milli_value());
    let keep = |list: &mut BTreeMap<String, Quantity>, before: Option<&BTreeMap<String, Quantity>>, name: &str| {
        if let Some(quantity) = before.and_then(|before| before.get(name)) {
            list.insert(name.to_owned(), quantity.clone());
        }
    };
    if let Some(limits) = &mut resources.limits {
        let before = old.and_then(|old| old.limits.as_ref());
        match linux.filter(|linux| linux.cpu_quota > 0 && linux.cpu_period > 0) {
            Some(linux) => {
                let actual = linux.cpu_quota * 1000 / linux.cpu_period;
                if actual > MIN_MILLI_CPU_LIMIT || milli(limits) > MIN_MILLI_CPU_LIMIT {
                    limits.insert("cpu".to_owned(), cpu(actual));
                }
            }
            None => keep(limits, before, "cpu"),
        }
        match linux.filter(|linux| linux.memory_limit_in_bytes > 0) {
            Some(linux) => {
                limits.insert("memory".to_owned(), memory(linux.memory_limit_in_bytes));
            }
            None => keep(limits, before, "memory"),
        }
    }
    if let Some(requests) = &mut resources.requests {
        let before = old.and_then(|old| old.requests.as_ref());
        match linux.filter(|linux| linux.cpu_shares > 0) {
            Some(linux) => {
                // Shares are 1024 for a CPU, rounded down when they were made from thousandths.
                let actual = (linux.cpu_shares * 1000 + 1023) / 1024;
                if actual > MIN_SHARES || milli(requests) > MIN_SHARES {
                    requests.insert("cpu".to_owned(), cpu(actual));
                }
            }
            None => keep(requests, before, "cpu"),
        }
        // The kernel does not know how much memory was asked for.
        if let Some(quantity) = actuated.and_then(|actuated| actuated.requests.as_ref()?.get("memory")) {
            requests.insert("memory".to_owned(), quantity.clone());
        }
    }
    Some(resources)
}

fn cpu(milli: i64) -> Quantity {
    Quantity(Amount::from_milli(milli, apimachinery::quantity::Format::DecimalSi).canonical())
}

fn memory(bytes: i64) -> Quantity {
    Quantity(Amount::new(bytes, apimachinery::quantity::Format::BinarySi).canonical())
}

/// Says of each container whether it has started and whether it is ready, as its probes say.
pub(super) fn apply_verdicts(pod: &Pod, inputs: Inputs<'_>, status: &mut ApiStatus) {
    let told = inputs.told;
    for status in status.container_statuses.iter_mut().flatten() {
        let container = pod::containers(pod).iter().find(|container| container.name == status.name);
        judge(container, told.container_statuses.as_deref(), inputs, status);
    }
    for status in status.init_container_statuses.iter_mut().flatten() {
        let container = pod::init_containers(pod).iter().find(|container| container.name == status.name);
        judge(container, told.init_container_statuses.as_deref(), inputs, status);
        if !container.is_some_and(pod::is_sidecar) {
            let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
            status.ready = ended.is_some_and(|ended| ended.exit_code == 0);
        }
    }
}

fn judge(container: Option<&Container>, told: Option<&[ContainerStatus]>, inputs: Inputs<'_>, status: &mut ContainerStatus) {
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let id = status.container_id.as_deref().and_then(|id| id.rsplit("://").next()).unwrap_or("");
    // What an earlier run of the kubelet has told of this very container holds until its probes have run again.
    let before = told.unwrap_or(&[]).iter().find(|old| old.container_id.is_some() && old.container_id == status.container_id);
    let has = |probe: fn(&Container) -> bool| container.is_some_and(probe);
    let started = running
        && (!has(|c| c.startup_probe.is_some())
            || match inputs.verdicts.startup(id) {
                Some(verdict) => verdict,
                None => !inputs.verdicts.knows(id) && before.is_some_and(|old| old.started == Some(true)),
            });
    let ready = started
        && (!has(|c| c.readiness_probe.is_some())
            || match inputs.verdicts.readiness(id) {
                Some(verdict) => verdict,
                None => !inputs.verdicts.knows(id) && before.is_some_and(|old| old.ready),
            });
    status.started = Some(started);
    status.ready = ready;
}
