//! One seed: a cluster is started, has its troubles, and must come to rest.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Once};
use std::time::Duration;

use client::{chance, clock};
use k8s_openapi::jiff::SignedDuration;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api::Api;
use crate::api::core::{Core, Deletion};
use crate::api::kinds;
use crate::api::state::{Author, Key, State};
use crate::api::trace::Trace;
use crate::components::{self, Process, Program};
use crate::faults::Faults;
use crate::invariants::Invariants;
use crate::nodes::{DEVICE_CLASS, DRIVER, Nodes};
use crate::object;
use crate::workload::{USER, Users};

/// Within this time after the troubles everything is as it is wanted.
const REST_WITHIN: Duration = Duration::from_secs(90 * 60);
/// Who has written nothing for so long may be at rest.
const QUIET: Duration = Duration::from_secs(60);
/// The scheduler tries a pod that no node takes again five minutes after the last time, and a backoff, whatever has happened, and may tell
/// other reasons then: nothing wakes the pod for a node that comes and that it does not want, though there is one more to be told of.
/// So where a pod waits everything has been told so long after the last change.
const TOLD: Duration = Duration::from_secs(6 * 60);
/// For so long nobody writes anything then.
const IDLE: Duration = Duration::from_secs(20 * 60);
/// How often it is looked whether the cluster is at rest.
const LOOK: Duration = Duration::from_secs(5);
/// A room that everything fits into when the troubles are over.
const LAST_NODE_CPUS: i64 = 200;
/// Lines of the trace that a failure shows.
const SHOWN: usize = 60;

/// What a seed came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Requests and what else was noted, and a number that says what and when.
    pub digest: (u64, u64),
    pub changes: u64,
    pub simulated: Duration,
    /// How long the cluster took to come to rest after its troubles.
    pub rested_after: Duration,
}

/// A seed under which something did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub seed: u64,
    pub what: String,
    pub at: Duration,
    pub trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} after {:.3} s: {}", self.seed, self.at.as_secs_f64(), self.what)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Counts the panics of each thread: reconciles that panic are tried again, and nobody would know.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            told(info);
        }));
    });
}

/// Runs a seed, on this thread alone.
pub fn simulate(seed: u64) -> Result<Outcome, Box<Broken>> {
    run(seed, Trace::default()).0
}

/// Everything that happens under a seed, line by line.
pub fn story(seed: u64) -> Vec<String> {
    let (_, api) = run(seed, Trace::whole());
    let core = api.core();
    core.trace.lines().cloned().collect()
}

fn run(seed: u64, trace: Trace) -> (Result<Outcome, Box<Broken>>, Api) {
    count_panics();
    PANICS.set(0);
    let _chance = chance::seeded(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without sockets and threads can always be had");
    // Within the runtime, so that time is its own.
    let (api, result) = runtime.block_on(async {
        let simulation = Simulation::new(seed, trace);
        (simulation.api.clone(), simulation.run().await)
    });
    // Some of those who hear of changes hold the server themselves.
    let listeners = std::mem::take(&mut api.core().listeners);
    drop(listeners);
    (result, api)
}

/// Whether nobody has anything to write, as far as that can be told from how long nobody has written.
fn is_quiet(core: &Core) -> bool {
    let has_passed = |time: Duration, since: Option<Instant>| since.is_none_or(|at| at.elapsed() >= time);
    let is_waiting = |pod: &Arc<Value>| object::is_active(pod) && object::text(pod, "/spec/nodeName").is_empty();
    has_passed(QUIET, core.last_write.as_ref().map(|(at, _)| *at))
        && (has_passed(TOLD, core.last_change) || !core.state.list(kinds::POD, "").any(is_waiting))
}

struct Simulation {
    seed: u64,
    rng: SmallRng,
    api: Api,
    invariants: Arc<Mutex<Invariants>>,
    until: Instant,
    users: Users,
}

impl Simulation {
    fn new(seed: u64, trace: Trace) -> Simulation {
        let mut rng = SmallRng::seed_from_u64(seed);
        let start = Instant::now();
        let until = start + Duration::from_secs(rng.random_range(60..600));
        let faults = Faults::choose(&mut rng, until);
        let core = Core {
            state: State::default(),
            rng: SmallRng::seed_from_u64(rng.random()),
            faults,
            trace,
            listeners: Vec::new(),
            changed: kinds::KINDS.iter().map(|_| Arc::default()).collect(),
            start,
            jumped: SignedDuration::ZERO,
            last_write: None,
            last_change: None,
        };
        let users = Users::new(SmallRng::seed_from_u64(rng.random()));
        Simulation { seed, rng, api: Api::new(core), invariants: Arc::default(), until, users }
    }

    async fn run(mut self) -> Result<Outcome, Box<Broken>> {
        let api = self.api.clone();
        let _clock = clock::stand_in(move || api.core().now());
        self.set_up();
        let cpus: Vec<i64> = (0..self.rng.random_range(2..6)).map(|_| self.rng.random_range(2..17)).collect();
        let nodes = Nodes::start(&self.api, &cpus, self.rng.random());
        let programs = [Program::ControllerManager, Program::ControllerManager, Program::Scheduler, Program::Scheduler];
        let processes: Vec<Process> =
            programs.into_iter().enumerate().map(|(number, program)| components::start(&self.api, program, number)).collect();
        self.trouble(&nodes, &processes).await?;
        let over = Instant::now();
        self.come_to_rest(&nodes).await?;
        let rested_after = over.elapsed();
        self.stay_at_rest().await?;
        let core = self.api.core();
        let (digest, changes, simulated) = (core.trace.digest(), core.state.revision(), core.start.elapsed());
        Ok(Outcome { digest, changes, simulated, rested_after })
    }

    fn set_up(&self) {
        let mut core = self.api.core();
        core.listeners.push(Box::new(self.invariants.clone()));
        for namespace in ["default", "kube-system", "kube-node-lease", "one", "two", "fleeting"] {
            core.create(&Author::new(USER), kinds::NAMESPACE, "", json!({"metadata": {"name": namespace}})).expect("the name is free");
        }
        let selector = json!({"cel": {"expression": format!("device.driver == {DRIVER:?}")}});
        let class = json!({"metadata": {"name": DEVICE_CLASS}, "spec": {"selectors": [selector]}});
        core.create(&Author::new(USER), kinds::DEVICE_CLASS, "", class).expect("the name is free");
    }

    fn broken(&self, what: &str) -> Box<Broken> {
        let core = self.api.core();
        // What stands in quotes are names: what has happened to these comes first.
        let names: Vec<&str> = what.split('"').skip(1).step_by(2).collect();
        let mut trace: Vec<String> = core.trace.last(SHOWN, &names).into_iter().map(str::to_owned).collect();
        if trace.is_empty() {
            trace = core.trace.last(SHOWN, &[]).into_iter().map(str::to_owned).collect();
        }
        Box::new(Broken { seed: self.seed, what: what.to_owned(), at: core.start.elapsed(), trace })
    }

    /// What has been seen to be wrong so far.
    fn look(&self) -> Result<(), Box<Broken>> {
        let broken = self.invariants.lock().broken();
        if let Some(what) = broken {
            return Err(self.broken(&what));
        }
        if PANICS.get() > 0 {
            return Err(self.broken("something has panicked"));
        }
        Ok(())
    }

    fn note(&self, what: &str) {
        let mut core = self.api.core();
        let at = core.start.elapsed();
        core.trace.note(at, what);
    }

    async fn trouble(&mut self, nodes: &Nodes, processes: &[Process]) -> Result<(), Box<Broken>> {
        let (business, violence) = (self.rng.random_range(1.0..15.0), self.rng.random_range(0.0..1.0));
        let mut returning: Vec<(Instant, String)> = Vec::new();
        while Instant::now() < self.until {
            sleep(Duration::from_secs_f64(self.rng.random::<f64>() * business)).await;
            self.look()?;
            self.users.act(&mut self.api.core());
            returning.retain(|(at, node)| {
                let is_down = *at > Instant::now();
                if !is_down {
                    nodes.come_back(node);
                }
                is_down
            });
            if self.rng.random::<f64>() > violence * 0.3 {
                continue;
            }
            let process = &processes[self.rng.random_range(0..processes.len())];
            match self.rng.random_range(0..10) {
                0..3 => {
                    self.note(&format!("{} crashes", process.life().name));
                    process.crash();
                }
                3..6 => {
                    let time = Duration::from_secs_f64(self.rng.random_range(0.5..25.0));
                    self.note(&format!("{} is cut off for {time:?}", process.life().name));
                    process.life().cut_off(Instant::now() + time);
                }
                6..8 => {
                    let names = nodes.names();
                    let node = names[self.rng.random_range(0..names.len())].clone();
                    let time = Duration::from_secs(self.rng.random_range(5..400));
                    self.note(&format!("{node} is down for {time:?}"));
                    nodes.go_down(&node);
                    if self.rng.random::<f64>() < 0.2 {
                        let key = Key::new(kinds::NODE, "", &node);
                        // It may be gone already.
                        let _ = self.api.core().delete(&Author::new(USER), &key, &Deletion::default());
                    }
                    returning.push((Instant::now() + time, node));
                }
                _ => {
                    let jump = SignedDuration::from_secs(self.rng.random_range(-120..120));
                    self.note(&format!("clocks jump by {jump:?}"));
                    let mut core = self.api.core();
                    core.jumped += jump;
                }
            }
        }
        self.note("the troubles are over");
        returning.iter().for_each(|(_, node)| nodes.come_back(node));
        nodes.add("node-last", LAST_NODE_CPUS);
        self.look()
    }

    async fn come_to_rest(&mut self, nodes: &Nodes) -> Result<(), Box<Broken>> {
        let end = Instant::now() + REST_WITHIN;
        loop {
            sleep(LOOK).await;
            self.look()?;
            let mut core = self.api.core();
            self.users.put_right(&mut core);
            let last_write = core.last_write.clone();
            let is_quiet = is_quiet(&core);
            let unrest = self.invariants.lock().at_rest(&core.state);
            drop(core);
            match unrest {
                Ok(()) if is_quiet && nodes.are_all_up() => return Ok(()),
                _ if Instant::now() < end => {}
                Ok(()) => {
                    let write = last_write.map_or_else(String::new, |(_, write)| write);
                    return Err(self.broken(&format!("the cluster is not quiet: the last was {write}")));
                }
                Err(what) => return Err(self.broken(&format!("the cluster did not come to rest: {what}"))),
            }
        }
    }

    async fn stay_at_rest(&self) -> Result<(), Box<Broken>> {
        let from = Instant::now();
        while from.elapsed() < IDLE {
            sleep(LOOK).await;
            self.look()?;
            let last = self.api.core().last_write.clone();
            if let Some((at, write)) = last.filter(|(at, _)| *at > from) {
                return Err(self.broken(&format!("a cluster at rest was written to after {:?}: {write}", at - from)));
            }
        }
        let unrest = self.invariants.lock().at_rest(&self.api.core().state);
        unrest.map_err(|what| self.broken(&format!("the cluster is not at rest any more: {what}")))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::api::core::Part;

    #[tokio::test(start_paused = true)]
    async fn where_a_pod_waits_the_scheduler_has_the_time_to_try_it_again() {
        let simulation = Simulation::new(0, Trace::default());
        simulation.set_up();
        let quiet = || is_quiet(&simulation.api.core());
        advance(TOLD).await;
        assert!(quiet());
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        simulation.api.core().create(&Author::new(USER), kinds::POD, "one", pod).expect("the name is free");
        advance(QUIET).await;
        assert!(!quiet(), "it may be tried yet");
        advance(TOLD - QUIET).await;
        assert!(quiet());
        let key = Key::new(kinds::POD, "one", "p");
        simulation.api.core().change(USER, &key, Part::Main, |pod| pod["spec"]["nodeName"] = "n".into()).expect("it is there");
        assert!(quiet(), "nobody waits");
        simulation.api.core().last_write = Some((Instant::now(), "a write".to_owned()));
        assert!(!quiet());
        advance(QUIET).await;
        assert!(quiet());
    }
}
