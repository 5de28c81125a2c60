//! The scheduler without its I/O: it is told what has changed ([`Input`]), tries one waiting pod at a time, and says what is to be done
//! ([`Effect`]). One thread owns it, so nothing in it is shared or locked. The way of one pod from its turn to its end is in [`attempt`].

mod attempt;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::events::{self, Type};
use client::{Object, ObjectKey};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, DeviceTaintRule, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use serde_json::Value;

use crate::config::{self, Config, Extender};
use crate::devices::reservation::Reservation;
use crate::event::{self, Actions, Event, Resource, Subject, node_changes, pod_changes};
use crate::extender::{self, Call};
use crate::framework::{PluginSet, Preparing, State};
use crate::metrics::{Id, Metrics};
use crate::plugins::ALL;
use crate::pod_status::{Condition, SCHEDULER_ERROR, Saying};
use crate::profile::Profile;
use crate::queue::{Backoff, Profiles, Queue, Queued};
use crate::search::{Dice, Failure, Search, single};
use crate::snapshot::NodeIndex;
use crate::snapshot::pod::{PodInfo, Templates, Uid, uid_of};
use crate::volumes::Work;
use crate::world::World;
use attempt::Paused;

/// The longest note of an event.
const NOTE_LIMIT: usize = 1024;

/// An object before and after a change; one of them is missing if it came or went.
#[derive(Clone, Debug)]
pub struct Delta<K> {
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

impl<K> From<&client::Change<K>> for Delta<K> {
    fn from(change: &client::Change<K>) -> Delta<K> {
        match change {
            client::Change::Added(new) => Delta { old: None, new: Some(new.clone()) },
            client::Change::Updated { old, new } => Delta { old: Some(old.clone()), new: Some(new.clone()) },
            client::Change::Deleted(old) => Delta { old: Some(old.clone()), new: None },
        }
    }
}

/// What the core is told.
#[derive(Clone, Debug)]
pub enum Input {
    Pod(Delta<Pod>),
    Node(Delta<Node>),
    Namespace(Delta<Namespace>),
    Service(Delta<Service>),
    ReplicationController(Delta<ReplicationController>),
    ReplicaSet(Delta<ReplicaSet>),
    StatefulSet(Delta<StatefulSet>),
    PodDisruptionBudget(Delta<PodDisruptionBudget>),
    PersistentVolume(Delta<PersistentVolume>),
    PersistentVolumeClaim(Delta<PersistentVolumeClaim>),
    StorageClass(Delta<StorageClass>),
    CsiNode(Delta<CSINode>),
    CsiDriver(Delta<CSIDriver>),
    CsiStorageCapacity(Delta<CSIStorageCapacity>),
    VolumeAttachment(Delta<VolumeAttachment>),
    ResourceClaim(Delta<ResourceClaim>),
    DeviceClass(Delta<DeviceClass>),
    ResourceSlice(Delta<ResourceSlice>),
    DeviceTaintRule(Delta<DeviceTaintRule>),
    /// A claim as it was written for a pod, which is known before it is seen.
    ClaimWritten(Arc<ResourceClaim>),
    /// A binding was carried out, or why not.
    Bound {
        uid: Uid,
        result: Result<(), String>,
    },
    /// Of the pods that are removed for a pod, this is the last; its removal is about to be asked for.
    LastVictim {
        preemptor: Uid,
        victim: Uid,
    },
    /// All removals for a pod have been asked for, or one has failed.
    Preempted {
        preemptor: Uid,
        failed: bool,
    },
    /// What extenders have said, in the order of the calls.
    Answered {
        question: u64,
        answers: Vec<Result<Value, String>>,
    },
}

impl Input {
    /// The event that metrics call it; nothing for answers to what the core has decided.
    fn event(&self) -> Option<&'static str> {
        fn of<K>(resource: Resource, delta: &Delta<K>) -> Option<&'static str> {
            Some(event::label(resource, actions(delta)))
        }
        match self {
            Input::Pod(delta) => {
                let assigned =
                    |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref().is_some_and(|name| !name.is_empty()));
                let is_assigned = delta.new.as_ref().or(delta.old.as_ref()).is_some_and(|pod| assigned(pod));
                of(if is_assigned { Resource::AssignedPod } else { Resource::UnscheduledPod }, delta)
            }
            Input::Node(delta) => of(Resource::Node, delta),
            Input::PersistentVolume(delta) => of(Resource::PersistentVolume, delta),
            Input::PersistentVolumeClaim(delta) => of(Resource::PersistentVolumeClaim, delta),
            Input::StorageClass(delta) => of(Resource::StorageClass, delta),
            Input::CsiNode(delta) => of(Resource::CsiNode, delta),
            Input::CsiDriver(delta) => of(Resource::CsiDriver, delta),
            Input::CsiStorageCapacity(delta) => of(Resource::CsiStorageCapacity, delta),
            Input::VolumeAttachment(delta) => of(Resource::VolumeAttachment, delta),
            Input::ResourceClaim(delta) => of(Resource::ResourceClaim, delta),
            Input::DeviceClass(delta) => of(Resource::DeviceClass, delta),
            Input::ResourceSlice(delta) => of(Resource::ResourceSlice, delta),
            _ => None,
        }
    }
}

/// A pod to bind.
#[derive(Clone, Debug)]
pub struct Binding {
    pub pod: Arc<Pod>,
    pub uid: Uid,
    pub profile: Arc<Profile>,
    pub node: Arc<str>,
    /// What its volumes need first, and how long that may take.
    pub volumes: Option<(Work, Duration)>,
    /// What its claims need first.
    pub devices: Option<Box<Reservation>>,
    /// The extender that binds it.
    pub extender: Option<ByExtender>,
}

/// How an extender is told to bind a pod.
#[derive(Clone, Debug)]
pub struct ByExtender {
    pub call: Call,
    /// If it fails the pod is bound without it.
    pub ignorable: bool,
}

/// Pods to remove for another.
#[derive(Clone, Debug)]
pub struct Preemption {
    pub preemptor: Arc<Pod>,
    pub uid: Uid,
    pub node: Arc<str>,
    pub victims: Vec<Arc<Pod>>,
    /// Less important pods that were to come to the node; they have to look again.
    pub displaced: Vec<Arc<Pod>>,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Effect {
    Bind(Binding),
    Say {
        pod: Arc<Pod>,
        saying: Saying,
    },
    Tell(Box<events::Event>),
    Preempt(Preemption),
    /// A claim is to be without its devices.
    Deallocate(Arc<ResourceClaim>),
    /// A claim that was made for a pod's extended resources is to go.
    Discard(Arc<ResourceClaim>),
    /// Until it is answered nothing is decided.
    Consult {
        question: u64,
        calls: Vec<Call>,
    },
}

/// A pod whose binding is underway, or done and not seen yet.
struct Assumed {
    queued: Queued,
    profile: Arc<Profile>,
    started: Instant,
    requesting: bool,
    /// The API server shows it bound.
    seen: bool,
}

/// The scheduler's state.
pub struct Core {
    pub world: World,
    pub queue: Queue,
    profiles: Profiles,
    profile_ids: HashMap<String, usize>,
    templates: Templates,
    search: Search,
    assumed: HashMap<Uid, Assumed>,
    effects: Vec<Effect>,
    /// Attempts that were begun.
    attempts: u64,
    metrics: Arc<Metrics>,
    extenders: Vec<Extender>,
    /// The attempt that waits for extenders to answer.
    paused: Option<Box<Paused>>,
    /// The number of the last question to extenders.
    question: u64,
    /// What has come while an attempt was paused: to it the world stands still.
    deferred: VecDeque<Input>,
}

impl Core {
    /// `seed` decides between nodes that are equally good.
    pub fn new(config: &Config, metrics: Arc<Metrics>, seed: u64) -> Result<Core, config::Error> {
        let profiles = Profile::all(config)?;
        let seconds = |n: i64| Duration::from_secs(u64::try_from(n).unwrap_or(0));
        let times = Backoff { initial: seconds(config.pod_initial_backoff_seconds), max: seconds(config.pod_max_backoff_seconds) };
        let mut world = World::default();
        world.devices.dice = Dice::new(seed);
        Ok(Core {
            world,
            queue: Queue::new(times, metrics.clone()),
            profile_ids: profiles.iter().enumerate().map(|(i, profile)| (profile.name.clone(), i)).collect(),
            profiles: profiles.into_iter().map(|profile| (profile.name.clone(), Arc::new(profile))).collect(),
            templates: Templates::default(),
            search: Search::new(config.percentage_of_nodes_to_score, seed),
            assumed: HashMap::new(),
            effects: Vec::new(),
            attempts: 0,
            metrics,
            extenders: extender::ordered(config),
            paused: None,
            question: 0,
            deferred: VecDeque::new(),
        })
    }

    /// Takes what is to be done since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// How many bindings are underway.
    pub fn bindings(&self) -> usize {
        self.assumed.values().filter(|assumed| assumed.requesting).count()
    }

    /// How many changes wait for an attempt that extenders are asked about.
    pub fn deferred(&self) -> usize {
        self.deferred.len()
    }

    /// Takes in a change, at once or as soon as extenders have answered. `now` is the time since the scheduler's start.
    pub fn apply(&mut self, input: Input, now: Duration) {
        match input {
            Input::Answered { question, answers } => {
                if question == self.question {
                    self.resume(answers, now);
                }
            }
            input if self.paused.is_some() => self.deferred.push_back(input),
            input => self.take_in(input, now),
        }
    }

    fn take_in(&mut self, input: Input, now: Duration) {
        let Some(event) = input.event() else { return self.take_in_untimed(input, now) };
        let began = Instant::now();
        self.take_in_untimed(input, now);
        self.metrics.observe(Id::EventHandling, &[event], began.elapsed().as_secs_f64());
    }

    fn take_in_untimed(&mut self, input: Input, now: Duration) {
        match input {
            Input::Answered { .. } => {}
            Input::Pod(delta) => self.pod_changed(delta, now),
            Input::Node(delta) => self.node_changed(delta, now),
            Input::Namespace(Delta { old, new }) => {
                let name = new.as_ref().or(old.as_ref()).map_or("", |n| n.name()).to_owned();
                self.world.snapshot.set_namespace(&name, new.map(|n| n.metadata.labels.clone().unwrap_or_default()));
            }
            Input::Service(delta) => keep(&mut self.world.objects.services, delta),
            Input::ReplicationController(delta) => keep(&mut self.world.objects.replication_controllers, delta),
            Input::ReplicaSet(delta) => keep(&mut self.world.objects.replica_sets, delta),
            Input::StatefulSet(delta) => keep(&mut self.world.objects.stateful_sets, delta),
            Input::PodDisruptionBudget(delta) => {
                keep(&mut self.world.objects.disruption_budgets, delta);
                self.world.budgets_epoch += 1;
            }
            Input::PersistentVolume(delta) => {
                if let Some(volume) = delta.new.as_ref().or(delta.old.as_ref()) {
                    self.world.volumes.volume_seen(volume.name());
                }
                let subject = Subject::PersistentVolume { old: delta.old.clone(), new: delta.new.clone() };
                let actions = actions(&delta);
                keep(&mut self.world.volumes.volumes, delta);
                self.happened(&Event::new(Resource::PersistentVolume, actions, subject), now);
            }
            Input::PersistentVolumeClaim(delta) => {
                if let Some(claim) = delta.new.as_ref().or(delta.old.as_ref()) {
                    self.world.volumes.claim_seen(&claim.key());
                }
                let subject = Subject::PersistentVolumeClaim { old: delta.old.clone(), new: delta.new.clone() };
                let actions = actions(&delta);
                keep(&mut self.world.volumes.claims, delta);
                self.happened(&Event::new(Resource::PersistentVolumeClaim, actions, subject), now);
            }
            Input::StorageClass(delta) => {
                let subject = Subject::StorageClass { old: delta.old.clone(), new: delta.new.clone() };
                let actions = actions(&delta);
                keep(&mut self.world.volumes.classes, delta);
                self.happened(&Event::new(Resource::StorageClass, actions, subject), now);
            }
            Input::CsiNode(delta) => {
                let subject = Subject::CsiNode { old: delta.old.clone(), new: delta.new.clone() };
                let actions = actions(&delta);
                keep(&mut self.world.volumes.csi_nodes, delta);
                self.happened(&Event::new(Resource::CsiNode, actions, subject), now);
            }
            Input::CsiDriver(delta) => {
                let subject = Subject::CsiDriver { old: delta.old.clone(), new: delta.new.clone() };
                let actions = actions(&delta);
                keep(&mut self.world.volumes.csi_drivers, delta);
                self.happened(&Event::new(Resource::CsiDriver, actions, subject), now);
            }
            Input::CsiStorageCapacity(delta) => {
                let subject = Subject::CsiStorageCapacity { old: delta.old.clone(), new: delta.new.clone() };
                let actions = actions(&delta);
                keep(&mut self.world.volumes.capacities, delta);
                self.happened(&Event::new(Resource::CsiStorageCapacity, actions, subject), now);
            }
            Input::VolumeAttachment(delta) => {
                let subject = Subject::VolumeAttachment { old: delta.old.clone(), new: delta.new.clone() };
                let actions = actions(&delta);
                keep(&mut self.world.volumes.attachments, delta);
                self.happened(&Event::new(Resource::VolumeAttachment, actions, subject), now);
            }
            Input::ResourceClaim(delta) => self.claim_changed(delta, now),
            Input::ClaimWritten(claim) => self.claim_changed(Delta { old: None, new: Some(claim) }, now),
            Input::DeviceClass(delta) => {
                let subject = Subject::DeviceClass { old: delta.old.clone(), new: delta.new.clone() };
                let actions = actions(&delta);
                keep(&mut self.world.devices.classes, delta);
                self.world.devices.classes_changed();
                self.happened(&Event::new(Resource::DeviceClass, actions, subject), now);
            }
            Input::ResourceSlice(delta) => {
                let actions = actions(&delta);
                match (&delta.new, &delta.old) {
                    (Some(new), _) => self.world.devices.set_slice(new),
                    (None, old) => old.iter().for_each(|old| self.world.devices.slice_gone(old.name())),
                }
                self.happened(&Event::new(Resource::ResourceSlice, actions, Subject::Nothing), now);
            }
            Input::DeviceTaintRule(delta) => {
                keep(&mut self.world.devices.rules, delta);
                self.world.devices.rules_changed();
                self.happened(&Event::new(Resource::ResourceSlice, Actions::UPDATE, Subject::Nothing), now);
            }
            Input::Bound { uid, result } => self.bound(&uid, result, now),
            Input::LastVictim { preemptor, victim } => {
                if let Some(preempting) = self.world.preempting.get_mut(&preemptor) {
                    preempting.last_victim = Some(victim);
                }
            }
            Input::Preempted { preemptor, failed } => {
                let result = if failed { "error" } else { "success" };
                if let Some(preempting) = self.world.preempting.remove(&preemptor) {
                    self.metrics.observe(Id::PreemptionDuration, &[result], preempting.since.elapsed().as_secs_f64());
                }
                self.metrics.add(Id::PreemptionGoroutines, &[result], 1.0);
                if failed {
                    self.queue.activate(&self.world, &self.profiles, &preemptor, now);
                }
            }
        }
    }

    fn happened(&mut self, event: &Event, now: Duration) {
        self.queue.happened(&self.world, &self.profiles, event, now, |_| true);
    }

    /// A claim has changed, as far as that is not known already.
    fn claim_changed(&mut self, delta: Delta<ResourceClaim>, now: Duration) {
        let Some(key) = delta.new.as_ref().or(delta.old.as_ref()).map(|claim| claim.key()) else { return };
        let known = self.world.devices.claims.get(&key).cloned();
        let actions = match (&delta.new, &known) {
            (Some(new), Some(known)) if known.metadata.resource_version.is_some() && known.metadata == new.metadata => return,
            (Some(new), known) => {
                if !self.world.devices.claim_is(new.clone()) {
                    return;
                }
                if known.is_some() { Actions::UPDATE } else { Actions::ADD }
            }
            (None, _) => {
                self.world.devices.claim_gone(&key);
                Actions::DELETE
            }
        };
        let subject = Subject::ResourceClaim { old: known.or(delta.old), new: delta.new };
        self.happened(&Event::new(Resource::ResourceClaim, actions, subject), now);
    }

    fn node_changed(&mut self, delta: Delta<Node>, now: Duration) {
        let subject = Subject::Node { old: delta.old.clone(), new: delta.new.clone() };
        match (delta.old, delta.new) {
            (old, Some(new)) => {
                let is_new = self.world.snapshot.find(new.name()).is_none();
                self.world.snapshot.set_node(&new);
                if is_new {
                    self.world.nominations_changed(new.name());
                }
                let changes = match old.filter(|old| old.uid() == new.uid()) {
                    None => vec![Actions::ADD],
                    Some(old) => node_changes(&old, &new),
                };
                for actions in changes {
                    self.happened(&Event::new(Resource::Node, actions, subject.clone()), now);
                }
            }
            (Some(old), None) => {
                self.happened(&Event::new(Resource::Node, Actions::DELETE, subject), now);
                self.world.snapshot.remove_node(old.name());
            }
            (None, None) => {}
        }
    }

    fn pod_changed(&mut self, delta: Delta<Pod>, now: Duration) {
        // A pod that has ended takes nothing any more; and one of the same name with another uid is another pod.
        let alive = |pod: &Arc<Pod>| !matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        let new = delta.new.filter(alive);
        if let Some(old) = delta.old
            && new.as_ref().is_none_or(|new| new.metadata.uid != old.metadata.uid)
        {
            self.pod_gone(&uid_of(&old), now);
        }
        if let Some(new) = new {
            self.pod_is(&new, now);
        }
    }

    /// What is known of a pod, wherever it is.
    fn known(&self, uid: &str) -> Option<Arc<PodInfo>> {
        self.world.snapshot.pod(uid).or_else(|| self.queue.get(uid).map(|queued| &queued.pod)).cloned()
    }

    fn pod_is(&mut self, pod: &Arc<Pod>, now: Duration) {
        let uid = uid_of(pod);
        let before = self.known(&uid);
        let info = self.templates.info(pod, before.as_deref());
        if info.node_name().is_empty() {
            if let Some(assumed) = self.assumed.get_mut(&uid) {
                let begins_to_end = info.terminating && !assumed.queued.pod.terminating;
                assumed.queued.pod = Arc::new(info);
                if begins_to_end {
                    self.give_up(&uid, now);
                }
                return;
            }
            self.waiting_pod_is(Arc::new(info), before, now);
            return;
        }
        let info = Arc::new(info);
        let subject = |old: Option<Arc<PodInfo>>| Subject::Pod { old, new: Some(info.clone()) };
        match self.assumed.get_mut(&uid) {
            Some(assumed) if !assumed.seen => {
                assumed.seen = true;
                if !assumed.requesting {
                    self.assumed.remove(&uid);
                }
                if before.as_ref().is_some_and(|before| before.node_name() == info.node_name()) {
                    self.world.snapshot.update_pod(info.clone());
                } else {
                    self.world.snapshot.remove_pod(&uid);
                    self.world.snapshot.add_pod(info.clone(), info.node_name());
                }
                self.happened(&Event::new(Resource::AssignedPod, Actions::ADD, subject(None)), now);
            }
            _ if self.world.snapshot.placed(&uid).is_some() => {
                let Some(before) = before else { return };
                self.world.snapshot.update_pod(info.clone());
                for actions in pod_changes(&before, &info) {
                    self.happened(&Event::new(Resource::AssignedPod, actions, subject(Some(before.clone()))), now);
                }
            }
            _ => {
                self.queue.remove(&uid);
                self.world.end_nomination(&uid);
                self.world.snapshot.add_pod(info.clone(), info.node_name());
                self.happened(&Event::new(Resource::AssignedPod, Actions::ADD, subject(None)), now);
            }
        }
    }

    fn waiting_pod_is(&mut self, info: Arc<PodInfo>, before: Option<Arc<PodInfo>>, now: Duration) {
        if !self.profiles.contains_key(info.scheduler_name()) {
            return;
        }
        let Some(before) = before else {
            let node = info.nominated_node().to_owned();
            self.world.nominate(info.clone(), &node);
            self.queue.add(&self.world, &self.profiles, info, now);
            return;
        };
        if before.pod.metadata.resource_version.is_some() && before.pod.metadata.resource_version == info.pod.metadata.resource_version {
            return;
        }
        if !before.nominated_node().is_empty() && before.nominated_node() != info.nominated_node() {
            self.room_given_up(&before, now);
        }
        self.world.nominated_pod_changed(&before, info.clone());
        let subject = Subject::Pod { old: Some(before.clone()), new: Some(info.clone()) };
        let changes = pod_changes(&before, &info);
        let events: Vec<Event> = changes.into_iter().map(|actions| Event::new(Resource::TargetPod, actions, subject.clone())).collect();
        self.queue.update(&self.world, &self.profiles, &info, &events, now);
    }

    /// A pod that had a node kept for it does not come: those that came after it may fit.
    fn room_given_up(&mut self, pod: &Arc<PodInfo>, now: Duration) {
        let event = Event::new(Resource::AssignedPod, Actions::DELETE, Subject::Pod { old: Some(pod.clone()), new: None });
        let priority = pod.priority();
        self.queue.happened(&self.world, &self.profiles, &event, now, |other| other.priority() <= priority);
    }

    fn pod_gone(&mut self, uid: &Uid, now: Duration) {
        self.world.preempting.remove(uid);
        if self.assumed.contains_key(uid) {
            self.give_up(uid, now);
            self.assumed.remove(uid);
        } else if let Some(pod) = self.world.snapshot.remove_pod(uid) {
            self.happened(&Event::new(Resource::AssignedPod, Actions::DELETE, Subject::Pod { old: Some(pod), new: None }), now);
        } else if let Some(queued) = self.queue.remove(uid) {
            self.world.end_nomination(uid);
            if !queued.pod.nominated_node().is_empty() {
                self.room_given_up(&queued.pod, now);
            }
        }
    }

    /// A pod on its way to a node will not get there.
    fn give_up(&mut self, uid: &Uid, now: Duration) {
        let Some(pod) = self.world.snapshot.remove_pod(uid) else { return };
        if let Some(profile) = self.assumed.get(uid).map(|assumed| assumed.profile.clone()) {
            profile.reserve.iter().for_each(|id| ALL[*id].unreserve(&mut self.world, &pod));
        }
        self.happened(&Event::new(Resource::AssignedPod, Actions::DELETE, Subject::Pod { old: Some(pod), new: None }), now);
    }

    /// Moves on what has waited long enough. Call it when [`Core::next_flush`] has come.
    pub fn flush(&mut self, now: Duration) {
        self.queue.flush(&self.world, &self.profiles, now);
    }

    pub fn next_flush(&self) -> Option<Duration> {
        self.queue.next_flush()
    }

    fn reserve(&mut self, profile: &Profile, pod: &PodInfo, state: &mut State, node: NodeIndex) -> Result<NodeIndex, Failure> {
        let began = Instant::now();
        let reserved = self.try_reserve(profile, pod, state, node);
        let status = if reserved.is_ok() { "Success" } else { "Error" };
        self.metrics.observe(Id::ExtensionPointDuration, &["Reserve", status, &profile.name], began.elapsed().as_secs_f64());
        reserved
    }

    fn try_reserve(&mut self, profile: &Profile, pod: &PodInfo, state: &mut State, node: NodeIndex) -> Result<NodeIndex, Failure> {
        for id in profile.reserve.iter().copied() {
            let mut cycle = Preparing { world: &mut self.world, profile, pod, state };
            if let Err(refusal) = ALL[id].reserve(&mut cycle, node) {
                if ALL[id].name() == "VolumeBinding" {
                    self.metrics.add(Id::VolumeErrors, &["assume"], 1.0);
                }
                profile.reserve.iter().for_each(|id| ALL[*id].unreserve(&mut self.world, pod));
                return Err(single(id, node, refusal));
            }
        }
        Ok(node)
    }

    /// Takes the pod to be on the node from now on, and has it bound.
    fn assume(&mut self, queued: Queued, profile: Arc<Profile>, mut state: State, node: NodeIndex, started: Instant) {
        let name = self.world.snapshot.node(node).name.clone();
        let pod = &queued.pod;
        self.queue.remove(&pod.uid);
        self.world.end_nomination(&pod.uid);
        let placed = PodInfo { assumed: Some(name.clone()), ..PodInfo::clone(pod) };
        self.world.snapshot.add_pod(Arc::new(placed), &name);
        let timeout = Duration::from_secs(u64::try_from(profile.args.volume_binding.bind_timeout_seconds).unwrap_or(0));
        let volumes = state.volumes.take().and_then(|claims| claims.work).map(|work| (work, timeout));
        let devices = state.devices.take().and_then(|claims| claims.reservation).map(Box::new);
        let extender = self.binder_of(&pod.pod, &name);
        let binding =
            Binding { pod: pod.pod.clone(), uid: pod.uid.clone(), profile: profile.clone(), node: name, volumes, devices, extender };
        self.effects.push(Effect::Bind(binding));
        self.metrics.add(Id::Goroutines, &["binding"], 1.0);
        let uid = pod.uid.clone();
        self.assumed.insert(uid, Assumed { queued, profile, started, requesting: true, seen: false });
    }

    fn bound(&mut self, uid: &Uid, result: Result<(), String>, now: Duration) {
        let Some(assumed) = self.assumed.get_mut(uid) else { return };
        assumed.requesting = false;
        self.metrics.add(Id::Goroutines, &["binding"], -1.0);
        let took = assumed.started.elapsed().as_secs_f64();
        let profile = assumed.profile.clone();
        match result {
            Ok(()) => {
                let queued = assumed.queued.clone();
                if assumed.seen || self.world.snapshot.placed(uid).is_none() {
                    self.assumed.remove(uid);
                }
                self.world.devices.take_back(uid);
                self.count_attempt("scheduled", &profile.name, took);
                self.metrics.observe(Id::PodSchedulingAttempts, &[], queued.attempts.into());
                let attempts = if queued.attempts >= 15 { "15+".to_owned() } else { queued.attempts.to_string() };
                let since = queued.first_attempt.map_or(0.0, |first| now.saturating_sub(first).as_secs_f64());
                self.metrics.observe(Id::PodSchedulingSli, &[&attempts], since);
                if queued.was_flushed {
                    self.metrics.add(Id::ScheduledAfterFlush, &[], 1.0);
                }
                if let Some(pod) = self.world.snapshot.pod(uid).cloned() {
                    let note = format!("Successfully assigned {}/{} to {}", pod.namespace(), pod.name(), pod.node_name());
                    self.tell(&pod, Type::Normal, "Scheduled", "Binding", note);
                }
            }
            Err(error) => {
                let Some(assumed) = self.assumed.remove(uid) else { return };
                // The answer was lost, the binding was not.
                if assumed.seen {
                    return;
                }
                let was_placed = self.world.snapshot.placed(uid).is_some();
                let Some(pod) = self.world.snapshot.remove_pod(uid).filter(|_| was_placed) else { return };
                profile.reserve.iter().for_each(|id| ALL[*id].unreserve(&mut self.world, &pod));
                self.happened(&Event::new(Resource::AssignedPod, Actions::DELETE, Subject::Pod { old: Some(pod), new: None }), now);
                tracing::error!(pod = %uid, %error, "the pod could not be bound, trying again");
                let waiting = assumed.queued.pod.clone();
                self.queue.put_back(assumed.queued, waiting.clone());
                self.queue.failed(&self.world, &self.profiles, uid, PluginSet::EMPTY, now);
                self.count_attempt("error", &profile.name, took);
                self.say_failed(&waiting, SCHEDULER_ERROR, error, Some(String::new()));
            }
        }
    }

    fn count_points(&self, profile: &str, found: bool) {
        let timings = &self.search.timings;
        let refused = if found { "Success" } else { "Unschedulable" };
        let points = [
            ("PreFilter", timings.pre_filter, "Success"),
            ("Filter", timings.filter, refused),
            ("PreScore", timings.pre_score, "Success"),
            ("Score", timings.score, "Success"),
        ];
        for (point, took, status) in points {
            if let Some(took) = took {
                self.metrics.observe(Id::ExtensionPointDuration, &[point, status, profile], took.as_secs_f64());
            }
        }
    }

    fn count_attempt(&self, result: &str, profile: &str, took: f64) {
        self.metrics.add(Id::ScheduleAttempts, &[result, profile], 1.0);
        self.metrics.observe(Id::AttemptDuration, &[result, profile], took);
    }

    fn say_failed(&mut self, pod: &Arc<PodInfo>, reason: &'static str, message: String, nominated: Option<String>) {
        self.tell(pod, Type::Warning, "FailedScheduling", "Scheduling", truncated(&message));
        let condition = Condition { kind: "PodScheduled", status: "False", reason, message };
        let saying = Saying { condition: Some(condition), nominated };
        self.effects.push(Effect::Say { pod: pod.pod.clone(), saying });
    }

    fn tell(&mut self, pod: &PodInfo, kind: Type, reason: &str, action: &str, note: String) {
        let mut event = events::Event::new(&pod.pod.reference(), kind, reason, note);
        event.action = action.to_owned();
        self.effects.push(Effect::Tell(Box::new(event)));
    }

    /// Tells sizes; call it now and then.
    pub fn report(&mut self) {
        self.queue.report();
        self.metrics.set(Id::CacheSize, &["nodes"], self.world.snapshot.order().len() as f64);
        self.metrics.set(Id::CacheSize, &["pods"], self.world.snapshot.pods() as f64);
        self.metrics.set(Id::CacheSize, &["assumed_pods"], self.assumed.len() as f64);
        let underway = self.bindings() + usize::from(self.paused.is_some());
        self.metrics.set(Id::InFlightEvents, &["PodPopped"], underway as f64);
        for (profile_id, plugin, point, count) in self.search.take_asked() {
            let profile = self.profile_ids.iter().find(|(_, id)| **id == profile_id).map_or("", |(name, _)| name);
            self.metrics.add(Id::PluginEvaluations, &[ALL[plugin].name(), point.name(), profile], count as f64);
        }
    }
}

fn truncated(message: &str) -> String {
    if message.len() <= NOTE_LIMIT {
        return message.to_owned();
    }
    const SUFFIX: &str = " ...";
    let mut end = NOTE_LIMIT - SUFFIX.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{SUFFIX}", &message[..end])
}

fn actions<K>(delta: &Delta<K>) -> Actions {
    match (&delta.old, &delta.new) {
        (None, _) => Actions::ADD,
        (Some(_), Some(_)) => Actions::UPDATE,
        (Some(_), None) => Actions::DELETE,
    }
}

fn keep<K: Object>(store: &mut client::store::Store<K>, delta: Delta<K>) {
    match (delta.new, delta.old) {
        (Some(new), _) => {
            store.insert(new);
        }
        (None, Some(old)) => {
            let key: ObjectKey = old.key();
            store.remove(&key);
        }
        (None, None) => {}
    }
}
