//! Changing the resources of a pod that runs: what it may have now, what it wants, and how far the containers are with it.
//!
//! A pod runs with what was allocated to it, whatever its spec has come to say; the difference is a resize, which waits until the
//! node has room. Pure, but for [`Tracker`], which remembers what the pod's conditions say of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodStatus as ApiStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;

use crate::container_config::{pod_resources, qos};
use crate::pod;
use crate::runtime_status::{PodStatus, State};

/// What was allocated: by the container's name, and to the pod as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    containers: BTreeMap<String, ResourceRequirements>,
    whole: Option<ResourceRequirements>,
}

/// What containers were made with or changed to, by name.
pub type Actuated = HashMap<String, ResourceRequirements>;

fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod::init_containers(pod).iter().filter(|container| pod::is_sidecar(container)).chain(pod::containers(pod))
}

fn own(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

impl Allocation {
    /// What the pod asks for.
    pub fn desired(pod: &Pod) -> Allocation {
        let containers = resizable(pod).map(|container| (container.name.clone(), own(container))).collect();
        Allocation { containers, whole: pod::spec(pod).resources.clone() }
    }

    /// What the pod was allocated before the kubelet started, as its status tells; what it asks for if that tells nothing.
    pub fn recalled(pod: &Pod) -> Allocation {
        let mut allocation = Allocation::desired(pod);
        let empty = ApiStatus::default();
        let status = pod.status.as_ref().unwrap_or(&empty);
        let told = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        for container in told {
            let (Some(known), Some(requests)) = (allocation.containers.get_mut(&container.name), &container.allocated_resources) else {
                continue;
            };
            known.requests = Some(requests.clone());
            if let Some(limits) = container.resources.as_ref().and_then(|resources| resources.limits.clone()) {
                known.limits = Some(limits);
            }
        }
        allocation
    }

    /// Whether the pod asks for just this.
    pub fn is_desired_by(&self, pod: &Pod) -> bool {
        let desired = Allocation::desired(pod);
        let same_whole = match (&self.whole, &desired.whole) {
            (Some(a), Some(b)) => amounts(a) == amounts(b),
            (a, b) => a.is_none() == b.is_none(),
        };
        same_whole
            && desired.containers.iter().all(|(name, wanted)| self.containers.get(name).is_none_or(|has| amounts(has) == amounts(wanted)))
    }

    /// Why the pod can never have what it asks for: CPUs or memory are given to guaranteed pods when they are let in, if so configured.
    pub fn refusal(&self, pod: &Pod, cpus_are_given: bool, memory_is_given: bool) -> Option<String> {
        if qos::class(pod) != qos::Class::Guaranteed {
            return None;
        }
        let desired = Allocation::desired(pod);
        let changes = |of: fn(Amounts) -> [i64; 2]| {
            let pairs = desired.containers.iter().filter_map(|(name, wanted)| Some((wanted, self.containers.get(name)?)));
            pairs.into_iter().any(|(wanted, has)| of(amounts(wanted)) != of(amounts(has)))
        };
        let refuse = |manager: &str, policy: &str| {
            Some(format!("Resize is infeasible for Guaranteed Pods alongside {manager} Manager policy \"{policy}\""))
        };
        if cpus_are_given && changes(|amounts| amounts.cpu) {
            return refuse("CPU", "static");
        }
        if memory_is_given && changes(|amounts| amounts.memory) { refuse("Memory", "Static") } else { None }
    }

    /// The pod with this instead of what it asks for.
    pub fn applied_to(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        let Some(spec) = &mut pod.spec else { return pod };
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(resources) = self.containers.get(&container.name) {
                container.resources = Some(resources.clone());
            }
        }
        spec.resources.clone_from(&self.whole);
        pod
    }
}

/// The amounts that can be changed: thousandths of CPU and bytes of memory, requested and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Amounts {
    cpu: [i64; 2],
    memory: [i64; 2],
}

fn amounts(resources: &ResourceRequirements) -> Amounts {
    let lists = [resources.requests.as_ref(), resources.limits.as_ref()];
    Amounts {
        cpu: lists.map(|list| pod_resources::amount(list, "cpu").milli_value()),
        memory: lists.map(|list| pod_resources::amount(list, "memory").value()),
    }
}

/// What a running container needs to have what was allocated to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    Update,
    Restart,
}

/// `container` as it was allocated; `actuated` as it runs.
pub fn step(container: &Container, actuated: Option<&ResourceRequirements>) -> Step {
    let Some(actuated) = actuated else { return Step::Nothing };
    let (wanted, has) = (amounts(&own(container)), amounts(actuated));
    if wanted == has {
        return Step::Nothing;
    }
    let restarts = |name: &str| {
        let policy = container.resize_policy.iter().flatten().find(|policy| policy.resource_name == name);
        policy.is_some_and(|policy| policy.restart_policy == "RestartContainer")
    };
    if (wanted.cpu != has.cpu && restarts("cpu")) || (wanted.memory != has.memory && restarts("memory")) {
        return Step::Restart;
    }
    Step::Update
}

/// Whether the new amounts are less than those there are, so that it is done before others grow.
pub fn shrinks(container: &Container, actuated: Option<&ResourceRequirements>) -> bool {
    let (wanted, has) = (amounts(&own(container)), actuated.map(amounts));
    has.is_some_and(|has| wanted.memory < has.memory || (wanted.memory == has.memory && wanted.cpu < has.cpu))
}

/// Whether a running container has something else than was allocated to it.
pub fn is_in_progress(pod: &Pod, observed: &PodStatus, actuated: &Actuated) -> bool {
    resizable(pod).any(|container| {
        let running = observed.container(&container.name).is_some_and(|known| known.state == State::Running);
        running && step(container, actuated.get(&container.name)) != Step::Nothing
    })
}

/// What an event says of a pod's resources.
pub fn summary(what: &str, pod: &Pod, generation: i64, error: &str) -> String {
    let list = |containers: &[Container]| -> Vec<serde_json::Value> {
        containers.iter().map(|container| json!({"name": container.name, "resources": own(container)})).collect()
    };
    let mut summary = serde_json::Map::new();
    for (name, containers) in [("initContainers", pod::init_containers(pod)), ("containers", pod::containers(pod))] {
        if !containers.is_empty() {
            summary.insert(name.to_owned(), list(containers).into());
        }
    }
    summary.insert("generation".to_owned(), generation.into());
    if !error.is_empty() {
        summary.insert("error".to_owned(), error.into());
    }
    format!("{what}: {}", serde_json::Value::Object(summary))
}

#[derive(Default)]
struct Told {
    pending: Option<PodCondition>,
    in_progress: Option<PodCondition>,
}

/// What a pod's conditions say of its resize. Clones are the same.
#[derive(Clone, Default)]
pub struct Tracker {
    told: Arc<Mutex<Told>>,
}

fn condition(kind: &str, old: Option<&PodCondition>, reason: &str, message: &str, generation: i64) -> PodCondition {
    let now = Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
    let non_empty = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let same = old.filter(|old| old.reason.as_deref().unwrap_or("") == reason);
    PodCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: non_empty(reason),
        message: non_empty(message),
        observed_generation: Some(generation),
        last_transition_time: same.and_then(|old| old.last_transition_time.clone()).or_else(|| Some(now.clone())),
        last_probe_time: same.and_then(|old| old.last_probe_time.clone()).or(Some(now)),
    }
}

impl Tracker {
    /// There is no room yet; whether that is news.
    pub fn defer(&self, message: &str, generation: i64) -> bool {
        self.pend("Deferred", message, generation)
    }

    /// There will never be room; whether that is news.
    pub fn refuse(&self, message: &str, generation: i64) -> bool {
        self.pend("Infeasible", message, generation)
    }

    fn pend(&self, reason: &str, message: &str, generation: i64) -> bool {
        let mut told = self.told.lock();
        let new = condition("PodResizePending", told.pending.as_ref(), reason, message, generation);
        let news = told.pending.as_ref().is_none_or(|old| old.reason != new.reason || old.observed_generation != new.observed_generation);
        told.pending = Some(new);
        news
    }

    /// Nothing waits for room any more.
    pub fn settle(&self) {
        self.told.lock().pending = None;
    }

    /// Room was found; containers follow.
    pub fn begin(&self, generation: i64) {
        let mut told = self.told.lock();
        told.pending = None;
        told.in_progress = Some(condition("PodResizeInProgress", None, "", "", generation));
    }

    /// Containers are still to follow.
    pub fn go_on(&self, generation: i64) {
        let mut told = self.told.lock();
        if told.in_progress.is_none() {
            told.in_progress = Some(condition("PodResizeInProgress", None, "", "", generation));
        }
    }

    /// A container could not follow; whether that is news.
    pub fn fail(&self, message: &str, generation: i64) -> bool {
        let mut told = self.told.lock();
        let generation = told.in_progress.as_ref().and_then(|old| old.observed_generation).unwrap_or(generation);
        let new = condition("PodResizeInProgress", told.in_progress.as_ref(), "Error", message, generation);
        let news = told.in_progress.as_ref().is_none_or(|old| old.reason != new.reason || old.message != new.message);
        told.in_progress = Some(new);
        news
    }

    /// All containers have followed: the generation that they followed, if they were on their way.
    pub fn complete(&self) -> Option<i64> {
        self.told.lock().in_progress.take().and_then(|condition| condition.observed_generation)
    }

    pub fn conditions(&self) -> Vec<PodCondition> {
        let told = self.told.lock();
        [&told.pending, &told.in_progress].into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str, policy: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a",
            "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}, "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}]}}))
        .expect("it is a pod")
    }

    #[test]
    fn a_pod_runs_with_what_was_allocated() {
        let (old, new) = (pod("1", "NotRequired"), pod("2", "NotRequired"));
        let allocation = Allocation::desired(&old);
        assert!(allocation.is_desired_by(&pod("1000m", "NotRequired")) && !allocation.is_desired_by(&new));
        assert_eq!(allocation.applied_to(&new).spec, old.spec);
    }

    #[test]
    fn the_policy_says_whether_a_container_is_restarted() {
        for (policy, expected) in [("NotRequired", Step::Update), ("RestartContainer", Step::Restart)] {
            let (old, new) = (pod("1", policy), pod("2", policy));
            let actuated = own(&pod::containers(&old)[0]);
            assert_eq!(step(&pod::containers(&new)[0], Some(&actuated)), expected);
            assert_eq!(step(&pod::containers(&old)[0], Some(&actuated)), Step::Nothing);
            assert!(shrinks(&pod::containers(&old)[0], Some(&own(&pod::containers(&new)[0]))));
        }
    }

    #[test]
    fn what_was_given_for_good_is_not_changed() {
        let pod = |cpu: &str, memory: &str| -> Pod {
            let all = json!({"cpu": cpu, "memory": memory});
            serde_json::from_value(json!({"spec": {"containers": [{"name": "a", "resources": {"requests": all, "limits": all}}]}}))
                .expect("it is a pod")
        };
        let has = Allocation::desired(&pod("1", "1Mi"));
        let cpu = "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"";
        let memory = "Resize is infeasible for Guaranteed Pods alongside Memory Manager policy \"Static\"";
        assert_eq!(has.refusal(&pod("2", "2Mi"), true, true).as_deref(), Some(cpu));
        assert_eq!(has.refusal(&pod("2", "2Mi"), false, true).as_deref(), Some(memory));
        assert_eq!(has.refusal(&pod("2", "1Mi"), false, true), None);
        assert_eq!(Allocation::desired(&super::tests::pod("1", "")).refusal(&super::tests::pod("2", ""), true, true), None);
    }

    #[test]
    fn conditions_tell_where_a_resize_is() {
        let tracker = Tracker::default();
        assert!(tracker.defer("no room", 2) && !tracker.defer("no room", 2) && tracker.defer("no room", 3));
        tracker.begin(3);
        let conditions = tracker.conditions();
        assert_eq!(conditions.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), ["PodResizeInProgress"]);
        assert!(tracker.fail("x", 4));
        assert_eq!(tracker.complete(), Some(3));
        assert_eq!((tracker.complete(), tracker.conditions()), (None, vec![]));
    }

    #[test]
    fn events_show_all_resources() {
        let text = summary("Pod resize started", &pod("1", "NotRequired"), 2, "");
        let expected =
            r#"Pod resize started: {"containers":[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1Mi"}}}],"generation":2}"#;
        assert_eq!(text, expected);
    }
}
