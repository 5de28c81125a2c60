//! One attempt: a pod's way from its turn to its binding or its failure.
//!
//! Specified by upstream's `schedule_one.go` and `framework/preemption` (v1.37). Where extenders have a say the attempt is paused until
//! they have answered; to it nothing changes meanwhile, and no other pod is tried.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::diagnosis::Diagnosis;
use crate::extender::wire::{self, Chosen};
use crate::framework::{Cycle, Rejection};
use crate::plugins::EXTENDERS;
use crate::pod_status::UNSCHEDULABLE;
use crate::preemption::{self, Candidate, Outcome};
use crate::world::Preempting;

/// In one of so many attempts plugins are timed.
const TIMED: u64 = 10;

/// What is known of an attempt in all of its stages.
pub(super) struct Attempt {
    queued: Queued,
    profile: Arc<Profile>,
    profile_id: usize,
    state: State,
    diagnosis: Diagnosis,
    /// The only nodes that can be, if plugins have named some.
    only: Option<Vec<String>>,
    started: Instant,
    /// When it was found that room has to be made.
    making_room: Option<Instant>,
    clock: Timestamp,
}

/// Nodes on their way through the extenders' filters.
struct Narrowing {
    nodes: Vec<NodeIndex>,
    /// How many there were at first.
    before: usize,
    /// They are the node that the pod is nominated to; if that is none in the end, all others are looked at.
    nominated: bool,
}

/// What extenders were asked.
enum Stage {
    Narrow(Narrowing),
    Score { nodes: Vec<NodeIndex>, totals: Vec<i64> },
    MakeRoom { candidates: Vec<Arc<Candidate>> },
}

/// An attempt that waits for answers.
pub(super) struct Paused {
    attempt: Attempt,
    stage: Stage,
    /// Who was asked.
    asked: Vec<usize>,
}

impl Core {
    /// Tries the next pod. Whether there was one. `clock` is the time of day.
    pub fn schedule_one(&mut self, now: Duration, clock: Timestamp) -> bool {
        if self.paused.is_some() {
            return false;
        }
        let Some(queued) = self.queue.pop() else { return false };
        let started = Instant::now();
        let pod = queued.pod.clone();
        let Some(profile) = self.profiles.get(pod.scheduler_name()).cloned() else {
            self.queue.remove(&pod.uid);
            return true;
        };
        if pod.terminating {
            let note = format!("skip schedule deleting pod: {}/{}", pod.namespace(), pod.name());
            self.tell(&pod, Type::Warning, "FailedScheduling", "Scheduling", note);
            self.queue.remove(&pod.uid);
            return true;
        }
        self.world.devices.clock = clock;
        let profile_id = self.profile_ids.get(&profile.name).copied().unwrap_or(0);
        let (mut state, diagnosis) = (State::default(), Diagnosis::default());
        self.attempts += 1;
        state.tally.is_timed = self.attempts.is_multiple_of(TIMED);
        self.look(Attempt { queued, profile, profile_id, state, diagnosis, only: None, started, making_room: None, clock }, now);
        true
    }

    /// Looks for nodes, first at the one that the pod is nominated to.
    fn look(&mut self, mut attempt: Attempt, now: Duration) {
        let (pod, profile) = (attempt.queued.pod.clone(), attempt.profile.clone());
        match self.search.prepare(&mut self.world, &profile, &pod, &mut attempt.state, &mut attempt.diagnosis) {
            Ok(only) => attempt.only = only,
            Err(failure) => return self.conclude(attempt, Err(failure), now),
        }
        let nodes = self.search.nominated_node(&self.world, &profile, &pod, &attempt.state);
        if nodes.is_empty() {
            self.look_everywhere(attempt, now);
        } else {
            self.narrow(attempt, Narrowing { before: nodes.len(), nodes, nominated: true }, 0, now);
        }
    }

    fn look_everywhere(&mut self, mut attempt: Attempt, now: Duration) {
        let (pod, profile) = (attempt.queued.pod.clone(), attempt.profile.clone());
        let (only, diagnosis) = (attempt.only.as_deref(), &mut attempt.diagnosis);
        let all = self.extenders.iter().any(|extender| !extender.filter_verb.is_empty() || !extender.prioritize_verb.is_empty());
        let cycle = Cycle { world: &self.world, profile: &profile, pod: &pod, state: &attempt.state };
        match self.search.filter(cycle, attempt.profile_id, only, all, diagnosis) {
            Ok(nodes) => self.narrow(attempt, Narrowing { before: nodes.len(), nodes, nominated: false }, 0, now),
            Err((plugin, error)) => {
                if ALL[plugin].name() == "VolumeBinding" {
                    self.metrics.add(Id::VolumeErrors, &["predicate"], 1.0);
                }
                self.conclude(attempt, Err(Failure::Error(error)), now);
            }
        }
    }

    /// The first extender from this place on that does this and is interested in the pod.
    fn extender_from(&self, from: usize, pod: &Pod, verb: impl Fn(&Extender) -> &str) -> Option<(usize, &Extender)> {
        let rest = self.extenders.iter().enumerate().skip(from);
        rest.into_iter().find(|(_, extender)| !verb(extender).is_empty() && extender::is_interested(extender, pod))
    }

    fn asked_about(&self, nodes: &[NodeIndex]) -> Vec<wire::Candidate> {
        let one = |index: &NodeIndex| {
            let info = self.world.snapshot.node(*index);
            wire::Candidate { name: info.name.clone(), node: info.node.clone() }
        };
        nodes.iter().map(one).collect()
    }

    fn ask(&mut self, attempt: Attempt, stage: Stage, calls: Vec<Call>) {
        self.question += 1;
        if matches!(stage, Stage::Score { .. }) {
            self.metrics.add(Id::Goroutines, &["prioritizing_extender"], calls.len() as f64);
        }
        let asked = calls.iter().map(|call| call.extender).collect();
        self.paused = Some(Box::new(Paused { attempt, stage, asked }));
        self.effects.push(Effect::Consult { question: self.question, calls });
    }

    /// Extenders have answered: the attempt goes on, and when it has ended, what has come meanwhile is taken in.
    pub(super) fn resume(&mut self, answers: Vec<Result<Value, String>>, now: Duration) {
        let Some(paused) = self.paused.take() else { return };
        let Paused { attempt, stage, asked } = *paused;
        let mut answers = asked.into_iter().zip(answers);
        match stage {
            Stage::Narrow(narrowing) => {
                let Some((place, answer)) = answers.next() else { return };
                self.narrowed(attempt, narrowing, place, answer, now);
            }
            Stage::Score { nodes, totals } => {
                self.metrics.add(Id::Goroutines, &["prioritizing_extender"], -(answers.len() as f64));
                self.scored(attempt, nodes, totals, answers, now);
            }
            Stage::MakeRoom { candidates } => {
                let Some((place, answer)) = answers.next() else { return };
                self.room_reduced(attempt, candidates, place, answer, now);
            }
        }
        while self.paused.is_none()
            && let Some(input) = self.deferred.pop_front()
        {
            self.take_in(input, now);
        }
    }

    /// Goes on as if the extenders that are being asked had not answered in time. It is for when more
    /// changes have come meanwhile than can be kept.
    pub fn give_up_question(&mut self, now: Duration) {
        let Some(paused) = &self.paused else { return };
        let answers = paused.asked.iter().map(|_| Err("context deadline exceeded".to_owned())).collect();
        // The answer that may come yet is to another question.
        self.question += 1;
        self.resume(answers, now);
    }

    /// Has extenders filter nodes, one after the other.
    fn narrow(&mut self, mut attempt: Attempt, narrowing: Narrowing, from: usize, now: Duration) {
        let pod = attempt.queued.pod.pod.clone();
        let next = self.extender_from(from, &pod, |extender| &extender.filter_verb).filter(|_| !narrowing.nodes.is_empty());
        if let Some((place, extender)) = next {
            let body = wire::question(extender, &pod, &self.asked_about(&narrowing.nodes));
            let calls = vec![Call { extender: place, verb: extender.filter_verb.clone(), body }];
            return self.ask(attempt, Stage::Narrow(narrowing), calls);
        }
        if narrowing.nominated && narrowing.nodes.is_empty() {
            return self.look_everywhere(attempt, now);
        }
        if !narrowing.nominated && narrowing.nodes.len() != narrowing.before {
            attempt.diagnosis.plugins.insert(EXTENDERS);
        }
        self.choose(attempt, narrowing.nodes, now);
    }

    fn narrowed(&mut self, mut attempt: Attempt, mut narrowing: Narrowing, place: usize, answer: Result<Value, String>, now: Duration) {
        let extender = &self.extenders[place];
        let asked = self.asked_about(&narrowing.nodes);
        let filtered = match answer.and_then(|answer| wire::filtered(extender, &asked, &answer)) {
            Ok(filtered) => filtered,
            Err(error) if extender.ignorable => {
                tracing::info!(extender = extender.url_prefix, %error, "skipping an extender that has failed and can be done without");
                return self.narrow(attempt, narrowing, place + 1, now);
            }
            Err(error) if narrowing.nominated => {
                tracing::error!(extender = extender.url_prefix, %error, "the nominated node could not be looked at");
                return self.look_everywhere(attempt, now);
            }
            Err(error) => return self.conclude(attempt, Err(Failure::Error(error)), now),
        };
        if !narrowing.nominated {
            let refused = filtered.unresolvable.iter().map(|(node, why)| (node, why, false));
            let others = filtered.failed.iter().filter(|(node, _)| !filtered.unresolvable.contains_key(*node));
            for (node, why, resolvable) in refused.chain(others.map(|(node, why)| (node, why, true))) {
                let index = self.world.snapshot.find(node).filter(|index| narrowing.nodes.contains(index));
                if let Some(index) = index.filter(|_| !filtered.nodes.contains(node)) {
                    let kind = attempt.diagnosis.kind(EXTENDERS, &Rejection::saying(resolvable, why.clone()));
                    attempt.diagnosis.refuse(index, kind);
                }
            }
        }
        narrowing.nodes = filtered.nodes.iter().filter_map(|node| self.world.snapshot.find(node)).collect();
        self.narrow(attempt, narrowing, place + 1, now);
    }

    /// Chooses one of the nodes that will do.
    fn choose(&mut self, mut attempt: Attempt, nodes: Vec<NodeIndex>, now: Duration) {
        let (pod, profile) = (attempt.queued.pod.clone(), attempt.profile.clone());
        match nodes.as_slice() {
            [] => {
                let diagnosis = std::mem::take(&mut attempt.diagnosis);
                return self.conclude(attempt, Err(Failure::Unfit(diagnosis)), now);
            }
            [node] => {
                let node = *node;
                return self.conclude(attempt, Ok(node), now);
            }
            _ => {}
        }
        let totals = self.search.scores(&mut self.world, &profile, attempt.profile_id, &pod, &mut attempt.state, &nodes);
        let mut calls = Vec::new();
        let mut from = 0;
        while let Some((place, extender)) = self.extender_from(from, &pod.pod, |extender| &extender.prioritize_verb) {
            let body = wire::question(extender, &pod.pod, &self.asked_about(&nodes));
            calls.push(Call { extender: place, verb: extender.prioritize_verb.clone(), body });
            from = place + 1;
        }
        if calls.is_empty() {
            let node = self.search.pick(&nodes, &totals);
            self.conclude(attempt, Ok(node), now);
        } else {
            self.ask(attempt, Stage::Score { nodes, totals }, calls);
        }
    }

    fn scored(
        &mut self,
        attempt: Attempt,
        nodes: Vec<NodeIndex>,
        mut totals: Vec<i64>,
        answers: impl Iterator<Item = (usize, Result<Value, String>)>,
        now: Duration,
    ) {
        for (place, answer) in answers {
            let extender = &self.extenders[place];
            match answer.and_then(|answer| wire::scores(extender, &answer)) {
                Ok(scores) => {
                    for (name, score) in scores {
                        let found = self.world.snapshot.find(&name).and_then(|index| nodes.iter().position(|node| *node == index));
                        if let Some(place) = found {
                            totals[place] = totals[place].saturating_add(score);
                        }
                    }
                }
                // The other scores decide.
                Err(error) => tracing::debug!(extender = extender.url_prefix, %error, "an extender has given no scores"),
            }
        }
        let node = self.search.pick(&nodes, &totals);
        self.conclude(attempt, Ok(node), now);
    }

    /// A node is chosen, or there is none.
    fn conclude(&mut self, mut attempt: Attempt, found: Result<NodeIndex, Failure>, now: Duration) {
        let (pod, profile) = (attempt.queued.pod.clone(), attempt.profile.clone());
        self.metrics.observe(Id::AlgorithmDuration, &[], attempt.started.elapsed().as_secs_f64());
        self.count_points(&profile.name, found.is_ok());
        self.search.tally(attempt.profile_id, &attempt.state);
        for ((id, point, status), times) in attempt.state.tally.take_times() {
            self.metrics.observe_all(Id::PluginDuration, &[ALL[id].name(), point.name(), status], &times);
        }
        match found.and_then(|node| self.reserve(&profile, &pod, &mut attempt.state, node)) {
            Ok(node) => self.assume(attempt.queued, profile, attempt.state, node, attempt.started),
            Err(failure) => self.failed(attempt, failure, now),
        }
    }

    fn failed(&mut self, mut attempt: Attempt, failure: Failure, now: Duration) {
        let void = Some(String::new());
        match failure {
            Failure::NoNodes => {
                let message = "no nodes available to schedule pods".to_owned();
                self.end(attempt, UNSCHEDULABLE, message, PluginSet::EMPTY, void, now);
            }
            Failure::Error(error) => {
                let pod = &attempt.queued.pod;
                tracing::error!(pod = %format!("{}/{}", pod.namespace(), pod.name()), %error, "the pod could not be scheduled, trying again");
                self.end(attempt, SCHEDULER_ERROR, error, PluginSet::EMPTY, void, now);
            }
            Failure::Refused(diagnosis) => {
                self.end(attempt, UNSCHEDULABLE, diagnosis.message(1), diagnosis.plugins, void, now);
            }
            Failure::Unfit(diagnosis) => {
                attempt.diagnosis = diagnosis;
                self.make_room(attempt, now);
            }
        }
    }

    /// Has other pods removed for one that fits nowhere, if that helps.
    fn make_room(&mut self, mut attempt: Attempt, now: Duration) {
        attempt.making_room = Some(Instant::now());
        let runs = |name: &str| attempt.profile.post_filter.iter().any(|id| ALL[*id].name() == name);
        let (deallocates, preempts) = (runs("DynamicResources"), runs("DefaultPreemption"));
        if let Some(claims) = attempt.state.devices.as_ref().filter(|_| deallocates) {
            if let Some(claim) = claims.to_deallocate(&attempt.queued.pod, |idle| self.search.dice.below(idle)) {
                attempt.diagnosis.post_filter_message = "deallocation of ResourceClaim completed".to_owned();
                self.effects.push(Effect::Deallocate(Arc::new(claim)));
            } else if let Some(claim) = claims.to_discard() {
                attempt.diagnosis.post_filter_message = "deletion of ResourceClaim completed".to_owned();
                self.effects.push(Effect::Discard(claim.clone()));
            }
        }
        if !preempts {
            return self.unfit(attempt, if deallocates { None } else { Some(String::new()) }, now);
        }
        self.metrics.add(Id::PreemptionAttempts, &[], 1.0);
        let Attempt { queued, profile, profile_id, state, diagnosis, clock, .. } = &attempt;
        let cycle = Cycle { world: &self.world, profile, pod: &queued.pod, state };
        match self.search.make_room(&cycle, *profile_id, diagnosis, *clock) {
            Ok(candidates) => self.reduce_room(attempt, candidates, 0, now),
            Err(outcome) => self.room_decided(attempt, outcome, now),
        }
    }

    /// Has extenders reduce the nodes where room can be made, one after the other.
    fn reduce_room(&mut self, attempt: Attempt, candidates: Vec<Arc<Candidate>>, from: usize, now: Duration) {
        let pod = attempt.queued.pod.pod.clone();
        let next = self.extender_from(from, &pod, |extender| &extender.preempt_verb).filter(|_| !candidates.is_empty());
        let Some((place, extender)) = next else {
            let outcome = preemption::choose(candidates, attempt.clock);
            return self.room_decided(attempt, outcome, now);
        };
        let victims = |candidate: &Arc<Candidate>| {
            let pods = candidate.victims.iter().map(|victim| victim.pod.clone()).collect();
            let name = self.world.snapshot.node(candidate.node).name.clone();
            (name, wire::Victims { pods, violations: candidate.violations })
        };
        let victims: BTreeMap<Arc<str>, wire::Victims> = candidates.iter().map(victims).collect();
        let body = wire::preemption(extender, &pod, &victims);
        let calls = vec![Call { extender: place, verb: extender.preempt_verb.clone(), body }];
        self.ask(attempt, Stage::MakeRoom { candidates }, calls);
    }

    fn room_reduced(
        &mut self,
        attempt: Attempt,
        candidates: Vec<Arc<Candidate>>,
        place: usize,
        answer: Result<Value, String>,
        now: Duration,
    ) {
        let extender = &self.extenders[place];
        let chosen = answer.and_then(|answer| wire::chosen(&answer)).and_then(|chosen| self.chosen_victims(extender, &chosen));
        let reduced = match chosen {
            Ok(reduced) => reduced,
            Err(error) if extender.ignorable => {
                tracing::info!(extender = extender.url_prefix, %error, "skipping an extender that has failed and can be done without");
                return self.reduce_room(attempt, candidates, place + 1, now);
            }
            Err(error) => return self.room_decided(attempt, Outcome::Failed(error), now),
        };
        let empty = reduced.iter().find(|candidate| candidate.victims.is_empty()).map(|candidate| candidate.node);
        if let Some(node) = empty.filter(|_| !extender.ignorable) {
            let name = &self.world.snapshot.node(node).name;
            let outcome = Outcome::Failed(format!("expected at least one victim pod on node {name:?}"));
            return self.room_decided(attempt, outcome, now);
        }
        let reduced = reduced.into_iter().filter(|candidate| !candidate.victims.is_empty()).collect();
        self.reduce_room(attempt, reduced, place + 1, now);
    }

    /// The victims that an extender has chosen, as they are on their nodes.
    fn chosen_victims(&self, extender: &Extender, chosen: &[Chosen]) -> Result<Vec<Arc<Candidate>>, String> {
        let mut candidates = Vec::new();
        for one in chosen {
            let index = self.world.snapshot.find(&one.node);
            let index = index.ok_or_else(|| format!("nodeinfo not found for node name {:?}", one.node))?;
            let info = self.world.snapshot.node(index);
            let mut victims = Vec::new();
            for uid in &one.uids {
                let victim = info.pods.iter().find(|pod| *pod.uid == **uid).cloned().ok_or_else(|| {
                    let (url, node) = (&extender.url_prefix, &one.node);
                    format!(
                        "extender: {url} claims to preempt pod (UID: &{{{uid}}}) on node: {node}, but the pod is not found on that node"
                    )
                })?;
                victims.push(victim);
            }
            candidates.push(Arc::new(Candidate::new(index, victims, usize::try_from(one.violations).unwrap_or(0))));
        }
        Ok(candidates)
    }

    /// Room is made, or not.
    fn room_decided(&mut self, mut attempt: Attempt, outcome: Outcome, now: Duration) {
        if let Some(began) = attempt.making_room.take() {
            let labels = ["PostFilter", outcome.status(), &attempt.profile.name];
            self.metrics.observe(Id::ExtensionPointDuration, &labels, began.elapsed().as_secs_f64());
        }
        let said = std::mem::take(&mut attempt.diagnosis.post_filter_message);
        let joined = |why: String| if said.is_empty() { format!("preemption: {why}") } else { format!("{said}, preemption: {why}") };
        let nominated = match outcome {
            // What goes wrong is told alone, and so is what succeeds.
            Outcome::Failed(why) => {
                attempt.diagnosis.post_filter_message = format!("preemption: {why}");
                None
            }
            Outcome::NotEligible(why) => {
                attempt.diagnosis.post_filter_message = joined(why);
                None
            }
            Outcome::Nothing(why) => {
                attempt.diagnosis.post_filter_message = joined(why);
                Some(String::new())
            }
            Outcome::Found(candidate) => {
                let node = self.world.snapshot.node(candidate.node).name.clone();
                let count = candidate.victims.len();
                attempt.diagnosis.post_filter_message =
                    format!("preemption: found a potential placement for pod on node {node}, preempting {count} victims");
                self.metrics.observe(Id::PreemptionVictims, &[], count as f64);
                self.preempt(&attempt.queued.pod, &node, &candidate);
                Some(node.to_string())
            }
        };
        self.unfit(attempt, nominated, now);
    }

    fn unfit(&mut self, attempt: Attempt, nominated: Option<String>, now: Duration) {
        let nodes = self.world.snapshot.order().len();
        let (message, plugins) = (attempt.diagnosis.message(nodes), attempt.diagnosis.plugins);
        self.end(attempt, UNSCHEDULABLE, message, plugins, nominated, now);
    }

    /// The attempt has failed. `nominated` is the node to nominate the pod to: empty for none, nothing to leave the nomination as it is.
    fn end(
        &mut self,
        attempt: Attempt,
        reason: &'static str,
        message: String,
        rejectors: PluginSet,
        nominated: Option<String>,
        now: Duration,
    ) {
        let pod = &attempt.queued.pod;
        let result = if reason == UNSCHEDULABLE { "unschedulable" } else { "error" };
        self.count_attempt(result, &attempt.profile.name, attempt.started.elapsed().as_secs_f64());
        self.queue.failed(&self.world, &self.profiles, &pod.uid, rejectors, now);
        // What was decided counts at once, before the API server has it.
        let node = nominated.clone().unwrap_or_else(|| pod.nominated_node().to_owned());
        self.world.nominate(pod.clone(), &node);
        self.say_failed(pod, reason, message, nominated);
    }

    /// How an extender binds the pod, if one does.
    pub(super) fn binder_of(&self, pod: &Pod, node: &str) -> Option<ByExtender> {
        let (place, extender) = self.extender_from(0, pod, |extender| &extender.bind_verb)?;
        let call = Call { extender: place, verb: extender.bind_verb.clone(), body: wire::binding(pod, node) };
        Some(ByExtender { call, ignorable: extender.ignorable })
    }

    fn preempt(&mut self, pod: &Arc<PodInfo>, node: &Arc<str>, candidate: &preemption::Candidate) {
        // Those that are leaving anyway are only waited for.
        let victims: Vec<Arc<Pod>> = candidate.victims.iter().filter(|v| !v.terminating).map(|v| v.pod.clone()).collect();
        if victims.is_empty() {
            return;
        }
        let lower = self.world.nominator.on(node).iter().filter(|other| other.priority() < pod.priority());
        let displaced = lower.map(|other| other.pod.clone()).collect();
        self.world.preempting.insert(pod.uid.clone(), Preempting { since: Instant::now(), last_victim: None });
        let (preemptor, uid) = (pod.pod.clone(), pod.uid.clone());
        self.effects.push(Effect::Preempt(Preemption { preemptor, uid, node: node.clone(), victims, displaced }));
    }
}
