//! Nodes that pretend: pods on them start, become ready, end and go after random times, as long as their node is up.
//!
//! A kubelet here writes without faults; what is late or lost on its way is no business of controllers. A node that is down does
//! nothing, and tells nothing; when it comes back it does what it has missed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::api::Api;
use crate::api::core::{Core, Deletion, Listener, Part};
use crate::api::kinds;
use crate::api::state::{Author, Change, Key, State};
use crate::object;

/// Says of a pod that it never becomes ready, or in how many of a hundred cases it fails.
pub const NEVER_READY: &str = "simulation/never-ready";
pub const FAILS_PERCENT: &str = "simulation/fails-percent";

pub const HOSTNAME: &str = "kubernetes.io/hostname";
pub const ZONE: &str = "topology.kubernetes.io/zone";
pub const ZONES: u32 = 3;

const LEASES: &str = "kube-node-lease";
/// Every node has so many devices of one kind.
pub const DEVICE_CLASS: &str = "device";
pub const DRIVER: &str = "simulation.example.com";
const DEVICES: usize = 2;

/// What containers that fail end with: the last says to some Jobs that an index, the one before that the whole Job is lost.
pub const EXIT_CODES: [i32; 5] = [1, 1, 1, FATAL_EXIT_CODE, LAST_EXIT_CODE];
pub const FATAL_EXIT_CODE: i32 = 42;
pub const LAST_EXIT_CODE: i32 = 3;

/// A kubelet that is up knows of a change after this time.
const KNOWS_WITHIN: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(10);
const KUBELET: &str = "kubelet";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Start,
    BecomeReady,
    End,
    /// Others have said that the pod has ended.
    LearnOfEnd,
    Stop,
    Beat,
}

/// Something that a kubelet has to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Task {
    step: Step,
    node: String,
    namespace: String,
    pod: String,
    uid: String,
}

struct Plans {
    due: BinaryHeap<Reverse<(Instant, u64, Task)>>,
    next: u64,
    rng: SmallRng,
    /// Nodes that are down, and what they would have done.
    down: BTreeMap<String, Vec<Task>>,
    cpus: BTreeMap<String, i64>,
    addresses: u32,
}

impl Plans {
    fn add(&mut self, delay: Duration, task: Task) {
        self.next += 1;
        self.due.push(Reverse((Instant::now() + delay, self.next, task)));
    }

    fn up_to(&mut self, seconds: f64) -> Duration {
        Duration::from_secs_f64(self.rng.random::<f64>() * seconds)
    }
}

/// All kubelets. Clones are the same.
#[derive(Clone)]
pub struct Nodes {
    api: Api,
    plans: Arc<Mutex<Plans>>,
    planned: Arc<Notify>,
}

impl Listener for Nodes {
    fn changed(&mut self, _: &State, change: &Change) {
        if change.key.kind != kinds::POD || change.object.pointer("/spec/nodeName").is_none() {
            return;
        }
        let (pod, old) = (&*change.object, change.old.as_deref());
        let was_bound = old.is_some_and(|old| old.pointer("/spec/nodeName").is_some());
        let mut plans = self.plans.lock();
        if !was_bound {
            let delay = plans.up_to(3.0);
            plans.add(delay, task(Step::Start, pod));
        }
        let lost_readiness = old.is_some_and(object::is_ready) && !object::is_ready(pod);
        if lost_readiness && object::is_active(pod) {
            let delay = plans.up_to(20.0);
            plans.add(delay, task(Step::BecomeReady, pod));
        }
        if object::is_ended(pod) && object::is_ready(pod) && !old.is_some_and(object::is_ended) {
            plans.add(KNOWS_WITHIN, task(Step::LearnOfEnd, pod));
        }
        if object::is_terminating(pod) && !old.is_some_and(object::is_terminating) {
            let grace = object::number(pod, "/metadata/deletionGracePeriodSeconds");
            let delay = plans.up_to(grace as f64);
            plans.add(delay, task(Step::Stop, pod));
        }
        self.planned.notify_one();
    }
}

fn task(step: Step, pod: &Value) -> Task {
    Task {
        step,
        node: object::text(pod, "/spec/nodeName").to_owned(),
        namespace: object::namespace(pod).to_owned(),
        pod: object::name(pod).to_owned(),
        uid: object::uid(pod).to_owned(),
    }
}

impl Nodes {
    /// Nodes of so many processors each; they register themselves.
    pub fn start(api: &Api, cpus: &[i64], seed: u64) -> Nodes {
        let names = |(number, cpus): (usize, &i64)| (format!("node-{number}"), *cpus);
        let plans = Plans {
            due: BinaryHeap::new(),
            next: 0,
            rng: SmallRng::seed_from_u64(seed),
            down: BTreeMap::new(),
            cpus: cpus.iter().enumerate().map(names).collect(),
            addresses: 0,
        };
        let nodes = Nodes { api: api.clone(), plans: Arc::new(Mutex::new(plans)), planned: Arc::default() };
        let all = nodes.names();
        for node in all {
            nodes.plans.lock().add(Duration::ZERO, Task { step: Step::Beat, node, ..no_pod() });
        }
        api.core().listeners.push(Box::new(nodes.clone()));
        tokio::spawn(nodes.clone().run());
        nodes
    }

    pub fn names(&self) -> Vec<String> {
        self.plans.lock().cpus.keys().cloned().collect()
    }

    /// One more node.
    pub fn add(&self, name: &str, cpus: i64) {
        let mut plans = self.plans.lock();
        plans.cpus.insert(name.to_owned(), cpus);
        plans.add(Duration::ZERO, Task { step: Step::Beat, node: name.to_owned(), ..no_pod() });
        self.planned.notify_one();
    }

    pub fn go_down(&self, node: &str) {
        self.plans.lock().down.entry(node.to_owned()).or_default();
    }

    pub fn come_back(&self, node: &str) {
        let mut plans = self.plans.lock();
        for task in plans.down.remove(node).unwrap_or_default() {
            let delay = plans.up_to(2.0);
            plans.add(delay, task);
        }
        self.planned.notify_one();
    }

    pub fn are_all_up(&self) -> bool {
        self.plans.lock().down.is_empty()
    }

    async fn run(self) {
        loop {
            let next = self.plans.lock().due.peek().map(|Reverse((at, _, _))| *at);
            match next {
                Some(at) if at <= Instant::now() => self.work(),
                Some(at) => tokio::select! {
                    biased;
                    () = self.planned.notified() => {}
                    () = sleep_until(at) => {}
                },
                None => self.planned.notified().await,
            }
        }
    }

    /// Does the first thing that is due.
    fn work(&self) {
        let task = {
            let mut plans = self.plans.lock();
            let Some(Reverse((_, _, task))) = plans.due.pop() else { return };
            match plans.down.get_mut(&task.node) {
                Some(missed) => return missed.push(task),
                None => task,
            }
        };
        match task.step {
            Step::Beat => self.beat(&task.node),
            _ => self.step(task),
        }
    }

    /// Registers the node if it is not, renews its lease and says that it is ready.
    fn beat(&self, node: &str) {
        let cpus = self.plans.lock().cpus.get(node).copied().unwrap_or(1);
        let mut core = self.api.core();
        let by = Author::new(KUBELET);
        if core.state.get(kinds::NODE, "", node).is_none() {
            let resources = json!({"cpu": cpus.to_string(), "memory": "64Gi", "pods": "110"});
            let object = json!({"metadata": {"name": node, "labels": {(HOSTNAME): node, (ZONE): zone(node)}}, "spec": {},
                "status": {"capacity": resources, "allocatable": resources}});
            // The name was free a moment ago.
            let _ = core.create(&by, kinds::NODE, "", object);
        }
        self.show_devices(&mut core, node);
        let time = core.time();
        let key = Key::new(kinds::NODE, "", node);
        if core.state.get(kinds::NODE, "", node).is_some_and(|node| !object::is_ready(node)) {
            core.change(KUBELET, &key, Part::Status, |object| {
                for (condition, status) in
                    [("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False")]
                {
                    crate::api::set_condition(object, condition, status, time.clone());
                }
                for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
                    condition["lastHeartbeatTime"] = time.clone();
                }
            });
        }
        let renewed = core.now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        let spec = json!({"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": renewed});
        let lease = Key::new(kinds::LEASE, LEASES, node);
        if core.change(KUBELET, &lease, Part::Main, |lease| lease["spec"] = spec.clone()).is_none() {
            let _ = core.create(&by, kinds::LEASE, LEASES, json!({"metadata": {"name": node}, "spec": spec}));
        }
        drop(core);
        self.plans.lock().add(HEARTBEAT, Task { step: Step::Beat, node: node.to_owned(), ..no_pod() });
    }

    /// Says which devices the node has.
    fn show_devices(&self, core: &mut Core, node: &str) {
        let Some(owner) = core.state.get(kinds::NODE, "", node) else { return };
        if core.state.get(kinds::RESOURCE_SLICE, "", node).is_some() {
            return;
        }
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": object::uid(owner), "controller": true});
        let devices: Vec<Value> = (0..DEVICES).map(|number| json!({"name": format!("device-{number}")})).collect();
        let slice = json!({
            "metadata": {"name": node, "ownerReferences": [owner]},
            "spec": {"driver": DRIVER, "nodeName": node, "devices": devices,
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}},
        });
        // The name was free a moment ago.
        let _ = core.create(&Author::new(KUBELET), kinds::RESOURCE_SLICE, "", slice);
    }

    fn step(&self, task: Task) {
        let mut core = self.api.core();
        let Some(pod) = core.state.get(kinds::POD, &task.namespace, &task.pod).cloned() else { return };
        let key = Key::new(kinds::POD, &task.namespace, &task.pod);
        if object::uid(&pod) != task.uid {
            return;
        }
        if task.step == Step::Stop {
            let fails = self.plans.lock().rng.random();
            return stop(&mut core, &key, &pod, fails);
        }
        // As `generateAPIPodStatus` has it: what has ended is not ready, whoever ended it. The pod garbage collector says so of pods whose
        // node is gone, and when it then fails to delete them, the node may come back first.
        if task.step == Step::LearnOfEnd {
            return set_ready(&mut core, &key, false);
        }
        if !object::is_active(&pod) {
            return;
        }
        let time = core.time();
        match task.step {
            Step::Start => {
                let address = {
                    let mut plans = self.plans.lock();
                    plans.addresses += 1;
                    format!("10.{}.{}.{}", plans.addresses >> 16, plans.addresses >> 8 & 255, plans.addresses & 255)
                };
                core.change(KUBELET, &key, Part::Status, |pod| {
                    let status = &mut pod["status"];
                    status["phase"] = "Running".into();
                    status["podIP"] = address.clone().into();
                    status["podIPs"] = json!([{"ip": address}]);
                    status["startTime"] = time.clone();
                    for (condition, is) in [("Initialized", "True"), ("Ready", "False"), ("ContainersReady", "False")] {
                        crate::api::set_condition(pod, condition, is, time.clone());
                    }
                });
                let mut plans = self.plans.lock();
                let ready = plans.up_to(5.0);
                let annotations = &pod["metadata"]["annotations"];
                if annotations[NEVER_READY].is_null() {
                    plans.add(ready, Task { step: Step::BecomeReady, ..task.clone() });
                }
                if object::text(&pod, "/spec/restartPolicy") != "Always" {
                    let end = ready + plans.up_to(30.0);
                    plans.add(end, Task { step: Step::End, ..task });
                }
            }
            Step::BecomeReady => {
                core.change(KUBELET, &key, Part::Status, |pod| {
                    for condition in ["Ready", "ContainersReady"] {
                        crate::api::set_condition(pod, condition, "True", time.clone());
                    }
                });
            }
            Step::End => {
                let percent: f64 = pod["metadata"]["annotations"][FAILS_PERCENT].as_str().and_then(|text| text.parse().ok()).unwrap_or(0.0);
                let exit_code = {
                    let rng = &mut self.plans.lock().rng;
                    let fails = rng.random::<f64>() * 100.0 < percent;
                    if fails { EXIT_CODES[rng.random_range(0..EXIT_CODES.len())] } else { 0 }
                };
                end(&mut core, &key, exit_code);
            }
            Step::LearnOfEnd | Step::Stop | Step::Beat => {}
        }
    }
}

/// The zone that a node is in, by its name.
fn zone(node: &str) -> String {
    let number = node.bytes().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(byte)));
    format!("zone-{}", number % ZONES)
}

fn no_pod() -> Task {
    Task { step: Step::Beat, node: String::new(), namespace: String::new(), pod: String::new(), uid: String::new() }
}

/// Writes that a pod has ended, with this exit code.
pub fn end(core: &mut Core, key: &Key, exit_code: i32) {
    let time = core.time();
    let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
    core.change(KUBELET, key, Part::Status, |pod| {
        pod["status"]["phase"] = phase.into();
        for condition in ["Ready", "ContainersReady"] {
            crate::api::set_condition(pod, condition, "False", time.clone());
        }
        pod["status"]["containerStatuses"] = json!([{
            "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": exit_code, "finishedAt": time, "startedAt": time}},
        }]);
    });
}

/// Makes a pod ready or not.
pub fn set_ready(core: &mut Core, key: &Key, is_ready: bool) {
    let time = core.time();
    core.change(KUBELET, key, Part::Status, |pod| {
        for condition in ["Ready", "ContainersReady"] {
            crate::api::set_condition(pod, condition, if is_ready { "True" } else { "False" }, time.clone());
        }
    });
}

/// A pod that is deleted ends first, and then goes.
fn stop(core: &mut Core, key: &Key, pod: &Value, fails: bool) {
    if !object::is_ended(pod) {
        end(core, key, i32::from(fails));
    }
    let how = Deletion { grace_seconds: Some(0), uid: Some(object::uid(pod).to_owned()), ..Deletion::default() };
    // Nobody else can have deleted it: this thread holds the server.
    let _ = core.delete(&Author::new(KUBELET), key, &how);
}
