//! How many pods a second the core schedules on 5,000 nodes, for the workloads of upstream's scheduler_perf, with an API that is simulated
//! on a second thread: it creates pods, carries out bindings and removals, and tells of them as informers would.
//!
//! `cargo run --release -p scheduler --example perf [workload [percentage of nodes and pods]]`

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use scheduler::Config;
use scheduler::core::{Core, Delta, Effect, Input};
use serde_json::{Value, json};

const NODES: usize = 5000;
const CHANNEL: usize = 4096;

/// A workload: how nodes look, and which pods come first and which are measured.
struct Workload {
    name: &'static str,
    zones: usize,
    before: (usize, fn(usize) -> Value),
    /// Pods that fit nowhere, created before those measured.
    hopeless: usize,
    measured: (usize, fn(usize) -> Value),
    /// Pods a second that are aimed at.
    target: f64,
}

fn requests(cpu: &str) -> Value {
    json!({"priority": 0, "schedulerName": "default-scheduler", "containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10.1",
        "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": cpu, "memory": "500Mi"}, "requests": {"cpu": cpu, "memory": "500Mi"}}}]})
}

fn basic(_: usize) -> Value {
    json!({"metadata": {"labels": {"app": "basic"}}, "spec": requests("100m")})
}

fn node_affinity(_: usize) -> Value {
    let mut spec = requests("100m");
    let zone = json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-0", "zone-1"]});
    spec["affinity"] =
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [zone]}]}}});
    json!({"metadata": {"labels": {}}, "spec": spec})
}

fn spreading(_: usize) -> Value {
    let mut spec = requests("100m");
    spec["topologySpreadConstraints"] = json!([{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"color": "blue"}}}]);
    json!({"metadata": {"labels": {"color": "blue"}}, "spec": spec})
}

fn term(color: &str, key: &str) -> Value {
    json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key,
        "namespaces": ["sched-1", "sched-0", "d"]}]})
}

fn anti_affinity(_: usize) -> Value {
    let mut spec = requests("100m");
    spec["affinity"] = json!({"podAntiAffinity": term("green", "kubernetes.io/hostname")});
    json!({"metadata": {"labels": {"color": "green", "name": "test"}}, "spec": spec})
}

fn affinity(_: usize) -> Value {
    let mut spec = requests("100m");
    spec["affinity"] = json!({"podAffinity": term("blue", "topology.kubernetes.io/zone")});
    json!({"metadata": {"labels": {"color": "blue"}}, "spec": spec})
}

fn low(_: usize) -> Value {
    json!({"metadata": {"labels": {}}, "spec": requests("900m")})
}

fn high(_: usize) -> Value {
    let mut spec = requests("3000m");
    spec["priority"] = json!(10);
    json!({"metadata": {"labels": {}}, "spec": spec})
}

const WORKLOADS: [Workload; 7] = [
    Workload { name: "Basic", zones: 1, before: (1000, basic), hopeless: 0, measured: (10000, basic), target: 6800.0 },
    Workload { name: "NodeAffinity", zones: 2, before: (5000, basic), hopeless: 0, measured: (10000, node_affinity), target: 5400.0 },
    Workload { name: "TopologySpreading", zones: 3, before: (5000, basic), hopeless: 0, measured: (5000, spreading), target: 4600.0 },
    Workload {
        name: "PodAntiAffinity",
        zones: 1,
        before: (1000, anti_affinity),
        hopeless: 0,
        measured: (2000, anti_affinity),
        target: 1800.0,
    },
    Workload { name: "PodAffinity", zones: 1, before: (5000, affinity), hopeless: 0, measured: (5000, affinity), target: 700.0 },
    Workload { name: "Preemption", zones: 1, before: (20000, low), hopeless: 0, measured: (5000, high), target: 5700.0 },
    Workload { name: "Unschedulable", zones: 1, before: (0, basic), hopeless: 200, measured: (10000, basic), target: 5900.0 },
];

fn node(i: usize, zones: usize) -> Arc<Node> {
    let name = format!("node-{i}");
    let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", i % zones)});
    let allocatable = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
    Arc::new(of(json!({"metadata": {"name": name, "uid": name, "labels": labels}, "status": {"allocatable": allocatable}})))
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the workloads are well formed")
}

fn make(template: fn(usize) -> Value, name: &str, i: usize) -> Pod {
    let mut value = template(i);
    value["metadata"]["name"] = json!(format!("{name}-{i}"));
    value["metadata"]["namespace"] = json!("d");
    value["metadata"]["uid"] = json!(format!("00000000-0000-0000-{name}-{i:012}"));
    of(value)
}

/// Runs the core until told to stop; as [`scheduler::run`] does, without a runtime.
fn decide(mut core: Core, inputs: &Receiver<Option<Input>>, effects: &SyncSender<Vec<Effect>>) {
    let start = Instant::now();
    loop {
        let mut taken = 0;
        while taken < 512
            && let Ok(input) = inputs.try_recv()
        {
            let Some(input) = input else { return };
            core.apply(input, start.elapsed());
            taken += 1;
        }
        let now = start.elapsed();
        if core.next_flush().is_some_and(|at| at <= now) {
            core.flush(now);
        }
        let tried = core.schedule_one(now, Timestamp::UNIX_EPOCH);
        let decided = core.take_effects();
        if !decided.is_empty() && effects.send(decided).is_err() {
            return;
        }
        if tried || taken == 512 {
            continue;
        }
        match inputs.recv_timeout(Duration::from_millis(10)) {
            Ok(None) => return,
            Ok(Some(input)) => core.apply(input, start.elapsed()),
            Err(_) => {}
        }
    }
}

/// The API: what it holds, and how it tells of changes.
struct Api {
    inputs: SyncSender<Option<Input>>,
    effects: Receiver<Vec<Effect>>,
    pods: HashMap<String, Arc<Pod>>,
    /// What waits to be told, so that neither side ever waits for the other to read.
    pending: std::collections::VecDeque<Input>,
    bound: usize,
    counted: &'static str,
}

impl Api {
    fn uid(pod: &Pod) -> String {
        pod.metadata.uid.clone().unwrap_or_default()
    }

    fn put(&mut self, pod: Pod) {
        let pod = Arc::new(pod);
        let old = self.pods.insert(Api::uid(&pod), pod.clone());
        self.pending.push_back(Input::Pod(Delta { old, new: Some(pod) }));
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Bind(binding) => {
                let Some(known) = self.pods.get(&*binding.uid) else { return };
                let mut pod = Pod::clone(known);
                pod.spec.get_or_insert_default().node_name = Some(binding.node.to_string());
                self.bound += usize::from(pod.metadata.name.as_deref().is_some_and(|name| name.starts_with(self.counted)));
                self.pending.push_back(Input::Bound { uid: binding.uid, result: Ok(()) });
                self.put(pod);
            }
            Effect::Say { pod, saying } => {
                let Some(known) = self.pods.get(&Api::uid(&pod)) else { return };
                let mut pod = Pod::clone(known);
                let status = pod.status.get_or_insert_default();
                if let Some(node) = saying.nominated {
                    status.nominated_node_name = Some(node).filter(|node| !node.is_empty());
                }
                if let Some(said) = saying.condition {
                    let (type_, status_) = (said.kind.to_owned(), said.status.to_owned());
                    let condition = PodCondition { type_, status: status_, message: Some(said.message), ..PodCondition::default() };
                    status.conditions = Some(vec![condition]);
                }
                self.put(pod);
            }
            Effect::Tell(_) => {}
            Effect::Deallocate(_) => unreachable!("there are no claims"),
            Effect::Consult { .. } => unreachable!("there are no extenders"),
            Effect::Preempt(preemption) => {
                for (i, victim) in preemption.victims.iter().enumerate() {
                    let old = self.pods.remove(&Api::uid(victim));
                    if i + 1 == preemption.victims.len() {
                        let victim = Arc::from(Api::uid(victim));
                        self.pending.push_back(Input::LastVictim { preemptor: preemption.uid.clone(), victim });
                    }
                    self.pending.push_back(Input::Pod(Delta { old, new: None }));
                }
                self.pending.push_back(Input::Preempted { preemptor: preemption.uid, failed: false });
            }
        }
    }

    /// Passes messages both ways until as many pods of this name are bound; fails if nothing happens for long.
    fn until_bound(&mut self, count: usize) {
        let mut last = Instant::now();
        while self.bound < count {
            let mut idle = true;
            while let Some(input) = self.pending.pop_front() {
                match self.inputs.try_send(Some(input)) {
                    Ok(()) => idle = false,
                    Err(std::sync::mpsc::TrySendError::Full(input) | std::sync::mpsc::TrySendError::Disconnected(input)) => {
                        self.pending.extend(input);
                        self.pending.rotate_right(1);
                        break;
                    }
                }
            }
            while let Ok(effects) = self.effects.try_recv() {
                idle = false;
                effects.into_iter().for_each(|effect| self.carry_out(effect));
            }
            if idle {
                assert!(last.elapsed() < Duration::from_secs(60), "stuck: {} of {count} are bound", self.bound);
                std::thread::sleep(Duration::from_micros(50));
            } else {
                last = Instant::now();
            }
        }
    }
}

fn run(workload: &Workload, percentage: usize) -> f64 {
    let share = |n: usize| n * percentage / 100;
    let (inputs, from_api) = sync_channel(CHANNEL);
    let (to_api, effects) = sync_channel(CHANNEL);
    let core = Core::new(&Config::default(), Arc::default(), 1).expect("the defaults are valid");
    let thread = std::thread::spawn(move || decide(core, &from_api, &to_api));
    let mut api = Api { inputs, effects, pods: HashMap::new(), pending: Default::default(), bound: 0, counted: "before" };
    for i in 0..share(NODES) {
        api.pending.push_back(Input::Node(Delta { old: None, new: Some(node(i, workload.zones)) }));
    }
    let (before, template) = (share(workload.before.0), workload.before.1);
    (0..before).for_each(|i| api.put(make(template, "before", i)));
    api.until_bound(before);
    (0..share(workload.hopeless))
        .for_each(|i| api.put(make(|_| json!({"metadata": {"labels": {}}, "spec": requests("9")}), "hopeless", i)));
    let (measured, template) = (share(workload.measured.0), workload.measured.1);
    let pods: Vec<Pod> = (0..measured).map(|i| make(template, "measured", i)).collect();
    (api.counted, api.bound) = ("measured", 0);
    let start = Instant::now();
    pods.into_iter().for_each(|pod| api.put(pod));
    api.until_bound(measured);
    let took = start.elapsed();
    api.inputs.send(None).expect("the core still runs");
    drop(api.effects);
    thread.join().expect("the core does not panic");
    measured as f64 / took.as_secs_f64()
}

fn main() {
    let only = std::env::args().nth(1);
    let percentage = std::env::args().nth(2).and_then(|text| text.parse().ok()).unwrap_or(100);
    let mut out = std::io::stdout();
    for workload in WORKLOADS.iter().filter(|w| only.as_deref().is_none_or(|only| only == w.name)) {
        let rate = run(workload, percentage);
        writeln!(out, "{:<18} {rate:>9.0} pods/s (target {:.0})", workload.name, workload.target).expect("stdout is open");
    }
}
