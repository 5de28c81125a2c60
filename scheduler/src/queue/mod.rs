//! The pods that wait, in three places: those to be tried now (`active`), those that have failed lately (`backoff`), and those
//! that no node would take until something changes (`unschedulable`).
//!
//! Specified by upstream's `backend/queue` (v1.37). Upstream notes events that arrive while a pod is being tried; here nothing arrives
//! meanwhile, since changes and attempts take turns. Times are since the scheduler's start.

pub mod nominator;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::{Event, Interest};
use crate::framework::{PluginId, PluginSet};
use crate::metrics::{Id, Metrics};
use crate::plugins::ALL;
use crate::profile::Profile;
use crate::snapshot::pod::{PodInfo, Uid};
use crate::world::World;

/// Backoffs end at whole windows, so that pods that failed together are tried in order of priority.
const WINDOW: Duration = Duration::from_secs(1);
/// A pod is tried again after this long, whatever has happened.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(5 * 60);

/// What waits, as metrics call it: groups of pods do not.
const POD: &str = "pod";

/// The profiles by scheduler name.
pub type Profiles = HashMap<String, Arc<Profile>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    Backoff,
    /// As [`Place::Backoff`], after errors rather than refusals: never tried early.
    ErrorBackoff,
    Unschedulable,
    /// Being tried.
    InFlight,
}

/// A waiting pod.
#[derive(Clone, Debug)]
pub struct Queued {
    pub pod: Arc<PodInfo>,
    pub attempts: u32,
    /// When it was first tried.
    pub first_attempt: Option<Duration>,
    /// Whether only the long wait brought it back.
    pub was_flushed: bool,
    /// The plugins that refused it.
    rejectors: PluginSet,
    gate: Option<PluginId>,
    /// The refusals that metrics count.
    counted: PluginSet,
    timestamp: Duration,
    flushed_at: Duration,
    unschedulable: u32,
    errors: u32,
    backoff_until: Option<Duration>,
    place: Place,
    number: u64,
}

impl Queued {
    /// Its place among those that no node would take.
    fn waits_since(&self) -> (Duration, u64) {
        (self.timestamp.max(self.flushed_at), self.number)
    }
}

type Order = (Reverse<i32>, Duration, u64);

/// How long failed pods wait.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub initial: Duration,
    pub max: Duration,
}

impl Backoff {
    fn duration(&self, failures: u32) -> Duration {
        let Some(shift) = failures.checked_sub(1) else { return Duration::ZERO };
        let factor = 1u32.checked_shl(shift).unwrap_or(u32::MAX);
        self.initial.checked_mul(factor).map_or(self.max, |d| d.min(self.max))
    }
}

fn window(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() / WINDOW.as_secs() * WINDOW.as_secs())
}

/// All waiting pods. Bounded by the number of pods that there are.
pub struct Queue {
    pods: HashMap<Uid, Queued>,
    active: BTreeMap<Order, Uid>,
    backoff: BTreeMap<(Duration, Order), Uid>,
    error_backoff: BTreeMap<(Duration, Order), Uid>,
    /// By the time since which they wait, so that those who wait too long stand first.
    unschedulable: BTreeMap<(Duration, u64), Uid>,
    gated: usize,
    /// How many of these each plugin has refused, so that events that can help nobody cost nothing.
    refused: [usize; ALL.len()],
    times: Backoff,
    next: u64,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Strategy {
    Skip,
    AfterBackoff,
}

impl Queue {
    pub fn new(times: Backoff, metrics: Arc<Metrics>) -> Queue {
        Queue {
            pods: HashMap::new(),
            active: BTreeMap::new(),
            backoff: BTreeMap::new(),
            error_backoff: BTreeMap::new(),
            unschedulable: BTreeMap::new(),
            gated: 0,
            refused: [0; ALL.len()],
            times,
            next: 0,
            metrics,
        }
    }

    pub fn get(&self, uid: &str) -> Option<&Queued> {
        self.pods.get(uid)
    }

    pub fn len(&self) -> usize {
        self.pods.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Pods in `active`, in either backoff, and in `unschedulable`; gated pods are among the last.
    pub fn sizes(&self) -> [usize; 3] {
        [self.active.len(), self.backoff.len() + self.error_backoff.len(), self.unschedulable.len()]
    }

    /// A new pod.
    pub fn add(&mut self, world: &World, profiles: &Profiles, pod: Arc<PodInfo>, now: Duration) {
        self.next += 1;
        let uid = pod.uid.clone();
        let queued = Queued {
            pod,
            attempts: 0,
            first_attempt: None,
            was_flushed: false,
            rejectors: PluginSet::EMPTY,
            gate: None,
            counted: PluginSet::EMPTY,
            timestamp: now,
            flushed_at: Duration::ZERO,
            unschedulable: 0,
            errors: 0,
            backoff_until: None,
            place: Place::InFlight,
            number: self.next,
        };
        self.remove(&uid);
        self.pods.insert(uid.clone(), queued);
        self.make_active(world, profiles, &uid, "UnscheduledPodAdd", false, now);
    }

    fn order(queued: &Queued) -> Order {
        (Reverse(queued.pod.priority()), queued.timestamp, queued.number)
    }

    /// Takes the pod out of where it is, leaving it in flight.
    fn detach(&mut self, uid: &str) {
        let Some(queued) = self.pods.get_mut(uid) else { return };
        let order = Queue::order(queued);
        let until = queued.backoff_until.unwrap_or_default();
        match queued.place {
            Place::Active => drop(self.active.remove(&order)),
            Place::Backoff => drop(self.backoff.remove(&(until, order))),
            Place::ErrorBackoff => drop(self.error_backoff.remove(&(until, order))),
            Place::Unschedulable => {
                self.unschedulable.remove(&queued.waits_since());
                self.gated -= usize::from(queued.gate.is_some());
                queued.rejectors.iter().for_each(|id| self.refused[id] -= 1);
            }
            Place::InFlight => {}
        }
        queued.place = Place::InFlight;
    }

    /// Puts a pod in flight somewhere, because of an event.
    fn attach(&mut self, uid: &str, place: Place, event: &str) {
        let name = match place {
            Place::Active => "active",
            Place::Backoff | Place::ErrorBackoff => "backoff",
            Place::Unschedulable | Place::InFlight => "unschedulable",
        };
        self.metrics.add(Id::IncomingPods, &[name, event], 1.0);
        self.metrics.add(Id::IncomingEntities, &[name, event, POD], 1.0);
        self.put(uid, place);
    }

    fn put(&mut self, uid: &str, place: Place) {
        let Some(queued) = self.pods.get_mut(uid) else { return };
        queued.place = place;
        let order = Queue::order(queued);
        let until = queued.backoff_until.unwrap_or_default();
        let uid = queued.pod.uid.clone();
        match place {
            Place::Active => drop(self.active.insert(order, uid)),
            Place::Backoff => drop(self.backoff.insert((until, order), uid)),
            Place::ErrorBackoff => drop(self.error_backoff.insert((until, order), uid)),
            Place::Unschedulable => {
                queued.rejectors.iter().for_each(|id| self.refused[id] += 1);
                self.gated += usize::from(queued.gate.is_some());
                self.unschedulable.insert(queued.waits_since(), uid);
            }
            Place::InFlight => {}
        }
    }

    /// Counts a pod as refused by these plugins and no others.
    fn count_refusals(&mut self, uid: &str, by: PluginSet) {
        let Some(queued) = self.pods.get_mut(uid) else { return };
        if queued.counted == by {
            return;
        }
        let before = std::mem::replace(&mut queued.counted, by);
        let profile = queued.pod.scheduler_name();
        for (change, ids) in [(-1.0, before), (1.0, by)] {
            ids.iter().for_each(|id| self.metrics.add(Id::UnschedulablePods, &[ALL[id].name(), profile], change));
        }
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) -> Option<Queued> {
        self.count_refusals(uid, PluginSet::EMPTY);
        self.detach(uid);
        self.pods.remove(uid)
    }

    /// Whether the pod may be tried; if not it is put where it waits for its gate to open.
    fn passes_gates(&mut self, world: &World, profiles: &Profiles, uid: &str, event: &str) -> bool {
        let Some(queued) = self.pods.get_mut(uid) else { return false };
        let Some(profile) = profiles.get(queued.pod.scheduler_name()) else { return false };
        let closed = profile.pre_enqueue.iter().copied().find(|id| ALL[*id].pre_enqueue(world, &queued.pod).is_err());
        queued.gate = closed;
        let Some(gate) = closed else { return true };
        queued.rejectors.insert(gate);
        queued.was_flushed = false;
        let rejectors = queued.rejectors;
        self.count_refusals(uid, rejectors);
        self.attach(uid, Place::Unschedulable, event);
        false
    }

    fn make_active(&mut self, world: &World, profiles: &Profiles, uid: &str, event: &str, from_backoff: bool, now: Duration) -> bool {
        self.detach(uid);
        if !from_backoff && !self.passes_gates(world, profiles, uid, event) {
            return false;
        }
        if let Some(queued) = self.pods.get_mut(uid) {
            queued.first_attempt.get_or_insert(now);
        }
        self.attach(uid, Place::Active, event);
        true
    }

    fn back_off(&mut self, world: &World, profiles: &Profiles, uid: &str, event: &str) -> bool {
        self.detach(uid);
        if !self.passes_gates(world, profiles, uid, event) {
            return false;
        }
        let errors = self.pods.get(uid).is_some_and(|queued| queued.rejectors.is_empty());
        self.attach(uid, if errors { Place::ErrorBackoff } else { Place::Backoff }, event);
        true
    }

    fn backoff_until(&mut self, uid: &str) -> Duration {
        let times = self.times;
        let Some(queued) = self.pods.get_mut(uid) else { return Duration::ZERO };
        let failures = if queued.errors > 0 { queued.errors } else { queued.unschedulable };
        if failures == 0 {
            return Duration::ZERO;
        }
        *queued.backoff_until.get_or_insert_with(|| window(queued.timestamp + times.duration(failures)))
    }

    fn is_backing_off(&mut self, uid: &str, now: Duration) -> bool {
        let until = self.backoff_until(uid);
        until > Duration::ZERO && until >= window(now)
    }

    fn requeue(&mut self, world: &World, profiles: &Profiles, uid: &str, strategy: Strategy, event: &str, now: Duration) {
        match strategy {
            Strategy::Skip => {
                self.detach(uid);
                self.attach(uid, Place::Unschedulable, event);
            }
            Strategy::AfterBackoff => {
                if self.is_backing_off(uid, now) {
                    self.back_off(world, profiles, uid, event);
                } else {
                    self.make_active(world, profiles, uid, event, false, now);
                }
            }
        }
    }

    /// The next pod to try: of those to be tried now, or else of those whose backoff is not over.
    pub fn pop(&mut self) -> Option<Queued> {
        let uid = match self.active.first_key_value() {
            Some((_, uid)) => uid.clone(),
            None => self.backoff.first_key_value()?.1.clone(),
        };
        self.count_refusals(&uid, PluginSet::EMPTY);
        self.detach(&uid);
        let queued = self.pods.get_mut(&uid)?;
        queued.attempts += 1;
        Some(queued.clone())
    }

    /// The pod that was tried has found no node. With no `rejectors` there was an error. `pod` is what the pod is now.
    pub fn failed(&mut self, world: &World, profiles: &Profiles, uid: &str, rejectors: PluginSet, now: Duration) {
        self.detach(uid);
        let Some(queued) = self.pods.get_mut(uid) else { return };
        if rejectors.is_empty() {
            queued.errors += 1;
        } else {
            queued.unschedulable += 1;
            queued.errors = 0;
        }
        queued.rejectors = rejectors;
        queued.gate = None;
        queued.timestamp = now;
        queued.backoff_until = None;
        queued.was_flushed = false;
        queued.flushed_at = Duration::ZERO;
        self.count_refusals(uid, rejectors);
        let strategy = if rejectors.is_empty() { Strategy::AfterBackoff } else { Strategy::Skip };
        self.requeue(world, profiles, uid, strategy, "ScheduleAttemptFailure", now);
    }

    /// Puts back a pod that had left the queue for good, such as one whose binding has failed.
    pub fn put_back(&mut self, mut queued: Queued, pod: Arc<PodInfo>) {
        queued.pod = pod;
        queued.place = Place::InFlight;
        self.pods.insert(queued.pod.uid.clone(), queued);
    }

    /// Takes in what a waiting pod is now; `events` are what has changed of it. Whether it is known.
    pub fn update(&mut self, world: &World, profiles: &Profiles, pod: &Arc<PodInfo>, events: &[Event], now: Duration) -> bool {
        let uid = pod.uid.clone();
        let Some(queued) = self.pods.get(&uid) else { return false };
        let place = queued.place;
        // Its priority may have changed, and with it its place.
        self.detach(&uid);
        if let Some(queued) = self.pods.get_mut(&uid) {
            queued.pod = pod.clone();
        }
        match place {
            Place::InFlight => {}
            Place::Unschedulable => {
                let strategy = events.iter().map(|event| self.strategy(world, profiles, &uid, event)).max().unwrap_or(Strategy::Skip);
                let label = events.first().map_or("", Event::label);
                if strategy == Strategy::Skip {
                    self.put(&uid, Place::Unschedulable);
                } else {
                    self.requeue(world, profiles, &uid, strategy, label, now);
                }
            }
            other => self.put(&uid, other),
        }
        true
    }

    fn strategy(&self, world: &World, profiles: &Profiles, uid: &str, event: &Event) -> Strategy {
        let Some(queued) = self.pods.get(uid) else { return Strategy::Skip };
        if queued.rejectors.is_empty() || event.is_wildcard() {
            return Strategy::AfterBackoff;
        }
        if !profiles.contains_key(queued.pod.scheduler_name()) {
            return Strategy::AfterBackoff;
        }
        let helps = |id: PluginId, interest: &Interest| {
            let Some(hint) = interest.hint else { return true };
            let began = Instant::now();
            let helps = hint(world, &queued.pod, &event.subject);
            let told = if helps { "Queue" } else { "QueueSkip" };
            self.metrics.observe(Id::HintDuration, &[ALL[id].name(), event.label(), told], began.elapsed().as_secs_f64());
            helps
        };
        let asks = |id: PluginId| ALL[id].interests().iter().filter(|interest| interest.covers(event)).any(|interest| helps(id, interest));
        let any = queued.rejectors.iter().any(asks);
        if any { Strategy::AfterBackoff } else { Strategy::Skip }
    }

    /// Something has happened: pods that it may help are tried again. `only` leaves out others.
    pub fn happened(&mut self, world: &World, profiles: &Profiles, event: &Event, now: Duration, only: impl Fn(&PodInfo) -> bool) {
        let interested = |id: &PluginId| ALL[*id].interests().iter().any(|interest| interest.covers(event));
        let wakes = event.is_wildcard() || (0..ALL.len()).any(|id| self.refused[id] > 0 && interested(&id));
        if !wakes {
            return;
        }
        let mut interested_set = PluginSet::EMPTY;
        (0..ALL.len()).filter(interested).for_each(|id| interested_set.insert(id));
        let candidates = self.unschedulable.values().filter(|uid| {
            self.pods.get(&***uid).is_some_and(|queued| {
                let may = event.is_wildcard() || queued.rejectors.meets(interested_set);
                // A gated pod is only asked about what its gate waits for.
                let gate = queued.gate.is_none_or(|gate| event.is_wildcard() || interested_set.contains(gate));
                may && gate && only(&queued.pod)
            })
        });
        let woken: Vec<Uid> =
            candidates.filter(|uid| self.strategy(world, profiles, uid, event) == Strategy::AfterBackoff).cloned().collect();
        if woken.is_empty() {
            return;
        }
        let label = event.label();
        for uid in woken {
            self.requeue(world, profiles, &uid, Strategy::AfterBackoff, label, now);
        }
    }

    /// Tries a pod again at once, if it waits for anything.
    pub fn activate(&mut self, world: &World, profiles: &Profiles, uid: &str, now: Duration) {
        if let Some(Place::Unschedulable | Place::Backoff | Place::ErrorBackoff) = self.pods.get(uid).map(|queued| queued.place) {
            self.make_active(world, profiles, uid, "ForceActivate", false, now);
        }
    }

    /// Moves on the pods whose time has come.
    pub fn flush(&mut self, world: &World, profiles: &Profiles, now: Duration) {
        for errors in [false, true] {
            loop {
                let queue = if errors { &self.error_backoff } else { &self.backoff };
                let Some(((until, _), uid)) = queue.first_key_value() else { break };
                if *until >= window(now) {
                    break;
                }
                let uid = uid.clone();
                self.make_active(world, profiles, &uid, "BackoffComplete", true, now);
            }
        }
        let late = self.unschedulable.iter().take_while(|((since, _), _)| now.saturating_sub(*since) > MAX_UNSCHEDULABLE);
        let late: Vec<Uid> = late.map(|(_, uid)| uid.clone()).collect();
        for uid in late {
            self.detach(&uid);
            if let Some(queued) = self.pods.get_mut(&uid) {
                queued.was_flushed = true;
                queued.flushed_at = now;
            }
            self.requeue(world, profiles, &uid, Strategy::AfterBackoff, "UnschedulableTimeout", now);
        }
    }

    /// When [`Queue::flush`] may have something to do next, if nothing happens before.
    pub fn next_flush(&self) -> Option<Duration> {
        let backoffs = [&self.backoff, &self.error_backoff];
        let backoff = backoffs.into_iter().filter_map(|q| q.first_key_value()).map(|((until, _), _)| *until + WINDOW).min();
        let late = self.unschedulable.first_key_value().map(|((since, _), _)| *since + MAX_UNSCHEDULABLE + Duration::from_millis(1));
        backoff.into_iter().chain(late).min()
    }

    /// Tells the sizes of the queues.
    pub fn report(&self) {
        let sizes = [
            ("active", self.active.len()),
            ("backoff", self.backoff.len() + self.error_backoff.len()),
            ("unschedulable", self.unschedulable.len() - self.gated),
            ("gated", self.gated),
        ];
        for (queue, size) in sizes {
            self.metrics.set(Id::PendingPods, &[queue], size as f64);
            self.metrics.set(Id::QueuedEntities, &[queue, POD], size as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::{Actions, Resource, Subject};
    use crate::plugins::by_name;
    use crate::snapshot::pod::Templates;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    struct Bench {
        queue: Queue,
        world: World,
        profiles: Profiles,
        templates: Templates,
    }

    impl Bench {
        fn new() -> Bench {
            let times = Backoff { initial: seconds(1), max: seconds(10) };
            let profiles = HashMap::from([("default-scheduler".to_owned(), Arc::new(Profile::standard()))]);
            Bench { queue: Queue::new(times, Arc::default()), world: World::default(), profiles, templates: Templates::default() }
        }

        fn pod(&mut self, name: &str, priority: i32, gates: &[&str]) -> Arc<PodInfo> {
            let gates: Vec<_> = gates.iter().map(|name| json!({"name": name})).collect();
            let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name},
                "spec": {"containers": [], "priority": priority, "schedulingGates": gates}});
            Arc::new(self.templates.info(&Arc::new(serde_json::from_value(pod).unwrap()), None))
        }

        fn add(&mut self, name: &str, priority: i32, now: u64) {
            let pod = self.pod(name, priority, &[]);
            self.queue.add(&self.world, &self.profiles, pod, seconds(now));
        }

        fn pop(&mut self) -> Option<String> {
            self.queue.pop().map(|queued| queued.pod.name().to_owned())
        }

        fn fail(&mut self, name: &str, plugin: &str, now: u64) {
            let rejectors = by_name(plugin).map_or(PluginSet::EMPTY, PluginSet::of);
            self.queue.failed(&self.world, &self.profiles, name, rejectors, seconds(now));
        }

        fn event(&mut self, resource: Resource, actions: Actions, now: u64) {
            let event = Event::new(resource, actions, Subject::Nothing);
            self.queue.happened(&self.world, &self.profiles, &event, seconds(now), |_| true);
        }

        fn flush(&mut self, now: u64) {
            self.queue.flush(&self.world, &self.profiles, seconds(now));
        }
    }

    #[test]
    fn the_most_important_is_first_and_of_equals_the_oldest() {
        let mut bench = Bench::new();
        bench.add("a", 0, 1);
        bench.add("b", 5, 2);
        bench.add("c", 0, 0);
        assert_eq!([bench.pop(), bench.pop(), bench.pop(), bench.pop()], [Some("b".into()), Some("c".into()), Some("a".into()), None]);
    }

    #[test]
    fn a_refused_pod_waits_for_an_event_that_its_refuser_wants() {
        let mut bench = Bench::new();
        bench.add("a", 0, 0);
        bench.pop();
        bench.fail("a", "NodePorts", 1);
        bench.event(Resource::Node, Actions::NODE_TAINT, 20);
        assert_eq!(bench.queue.sizes(), [0, 0, 1]);
        bench.event(Resource::Node, Actions::ADD, 20);
        assert_eq!(bench.queue.sizes(), [1, 0, 0]);
    }

    #[test]
    fn a_pod_that_failed_lately_backs_off_but_is_tried_if_there_is_nothing_else() {
        let mut bench = Bench::new();
        bench.add("a", 0, 0);
        bench.pop();
        bench.fail("a", "NodePorts", 1);
        bench.event(Resource::Node, Actions::ADD, 1);
        assert_eq!(bench.queue.sizes(), [0, 1, 0]);
        bench.add("b", 0, 1);
        assert_eq!([bench.pop(), bench.pop()], [Some("b".into()), Some("a".into())]);
    }

    #[test]
    fn after_errors_a_pod_waits_longer_each_time_and_is_never_early() {
        let mut bench = Bench::new();
        bench.add("a", 0, 0);
        bench.pop();
        bench.fail("a", "", 10);
        assert_eq!((bench.queue.sizes(), bench.pop()), ([0, 1, 0], None));
        bench.flush(11);
        assert_eq!(bench.queue.sizes(), [0, 1, 0]);
        bench.flush(12);
        assert_eq!(bench.pop(), Some("a".into()));
        bench.fail("a", "", 20);
        bench.flush(22);
        assert_eq!(bench.pop(), None);
        bench.flush(23);
        assert_eq!(bench.pop(), Some("a".into()));
    }

    #[test]
    fn the_longest_backoff_has_a_bound() {
        let times = Backoff { initial: seconds(1), max: seconds(10) };
        assert_eq!([0, 1, 2, 4, 5, 40].map(|failures| times.duration(failures).as_secs()), [0, 1, 2, 8, 10, 10]);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut bench = Bench::new();
        bench.add("a", 0, 0);
        bench.pop();
        bench.fail("a", "NodePorts", 1);
        bench.flush(301);
        assert_eq!(bench.pop(), None);
        bench.flush(302);
        let queued = bench.queue.pop().unwrap();
        assert!(queued.was_flushed);
    }

    #[test]
    fn a_gated_pod_is_not_tried_until_its_gates_are_gone() {
        let mut bench = Bench::new();
        let gated = bench.pod("a", 0, &["g"]);
        bench.queue.add(&bench.world, &bench.profiles, gated.clone(), seconds(0));
        bench.event(Resource::Node, Actions::ADD, 1);
        assert_eq!(bench.queue.sizes(), [0, 0, 1]);
        let open = bench.pod("a", 0, &[]);
        let subject = Subject::Pod { old: Some(gated), new: Some(open.clone()) };
        let event = Event::new(Resource::TargetPod, Actions::POD_GATES_ELIMINATED, subject);
        assert!(bench.queue.update(&bench.world, &bench.profiles, &open, &[event], seconds(2)));
        assert_eq!(bench.pop(), Some("a".into()));
    }

    #[test]
    fn a_removed_pod_is_gone_from_everywhere() {
        let mut bench = Bench::new();
        for name in ["a", "b", "c", "e"] {
            bench.add(name, 0, 0);
        }
        bench.pop();
        bench.fail("a", "NodePorts", 0);
        bench.pop();
        bench.fail("b", "", 0);
        for name in ["a", "b", "c", "e"] {
            assert!(bench.queue.remove(name).is_some());
        }
        assert_eq!((bench.queue.sizes(), bench.queue.len()), ([0, 0, 0], 0));
    }
}
