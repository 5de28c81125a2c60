//! How many pods a second the core schedules, for nine workloads of upstream's `scheduler_perf` in the sizes that upstream has floors for,
//! with an API that is simulated on a second thread: it creates pods, carries out bindings and removals, and tells of them as informers would.
//!
//! `cargo run --release -p scheduler --example perf [workload [percentage of nodes and pods]]`
//!
//! Churn goes by the clock, as upstream's does: who is faster sees less of it. Rows with even churn see as much a pod as whoever is
//! as fast as the floor. The last column is by the processor time of the core's thread alone, which other work on the machine does not change.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Service};
use k8s_openapi::jiff::Timestamp;
use scheduler::Config;
use scheduler::core::{Core, Delta, Effect, Input};
use serde_json::{Value, json};

const CHANNEL: usize = 4096;
/// The core takes in so many changes between two decisions, as its shell does.
const BATCH: usize = 512;
/// How long nothing may happen.
const STUCK: Duration = Duration::from_secs(120);

/// Pods that are made one after the other in one namespace.
#[derive(Clone, Copy)]
struct Pods {
    count: usize,
    namespace: &'static str,
    template: fn() -> Value,
}

/// What comes and goes beside the pods that are measured.
#[derive(Clone, Copy)]
struct Churn {
    kind: Kind,
    every: Duration,
}

#[derive(Clone, Copy)]
enum Kind {
    /// A pod is made each time and stays.
    Pods(fn() -> Value),
    /// A node without room, a pod that fits nowhere and a service are made, and the next time removed.
    Mixed,
}

/// A workload of upstream's `test/integration/scheduler_perf` (v1.37), in the size that upstream has a floor for.
struct Workload {
    name: &'static str,
    nodes: usize,
    /// The values of the nodes' zone label, in turns; none for no label.
    zones: &'static [&'static str],
    /// One more node, called `scheduler-perf-node`, with room for 90,000 pods.
    roomy: bool,
    before: Pods,
    churn: Option<Churn>,
    measured: Pods,
    /// Pods a second that upstream does not fall below.
    floor: f64,
}

fn container(image: &str, resources: &Value) -> Value {
    json!({"containers": [{"name": "pause", "image": image, "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": resources}],
        "priority": 0, "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30,
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]})
}

fn spec(cpu: &str) -> Value {
    let amounts = json!({"cpu": cpu, "memory": "500Mi"});
    container("registry.k8s.io/pause:3.10.2", &json!({"limits": amounts, "requests": amounts}))
}

fn basic() -> Value {
    json!({"metadata": {}, "spec": spec("100m")})
}

fn node_affinity() -> Value {
    let mut spec = spec("100m");
    let zone = json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone1", "zone2"]});
    spec["affinity"] =
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [zone]}]}}});
    json!({"metadata": {}, "spec": spec})
}

fn spreading() -> Value {
    let mut spec = spec("100m");
    spec["topologySpreadConstraints"] = json!([{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"color": "blue"}}}]);
    json!({"metadata": {"labels": {"color": "blue"}}, "spec": spec})
}

fn term(color: &str, key: &str) -> Value {
    json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key,
        "namespaces": ["sched-1", "sched-0"]}]})
}

fn anti_affinity() -> Value {
    let mut spec = spec("100m");
    spec["affinity"] = json!({"podAntiAffinity": term("green", "kubernetes.io/hostname")});
    json!({"metadata": {"labels": {"color": "green"}}, "spec": spec})
}

fn affinity() -> Value {
    let mut spec = spec("100m");
    spec["affinity"] = json!({"podAffinity": term("blue", "topology.kubernetes.io/zone")});
    json!({"metadata": {"labels": {"color": "blue"}}, "spec": spec})
}

fn low_priority() -> Value {
    let mut spec = spec("900m");
    spec["terminationGracePeriodSeconds"] = json!(0);
    json!({"metadata": {}, "spec": spec})
}

fn high_priority() -> Value {
    let mut spec = spec("3000m");
    spec["priority"] = json!(10);
    json!({"metadata": {}, "spec": spec})
}

/// Important, and larger than any node.
fn too_large() -> Value {
    let mut spec = container("registry.k8s.io/pause:3.10.1", &json!({"requests": {"cpu": "9", "memory": "500Mi"}}));
    spec["priority"] = json!(10);
    json!({"metadata": {}, "spec": spec})
}

fn daemon() -> Value {
    let mut spec = container("registry.k8s.io/pause:3.10.1", &json!({}));
    let name = json!({"key": "metadata.name", "operator": "In", "values": ["scheduler-perf-node"]});
    spec["affinity"] =
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [name]}]}}});
    json!({"metadata": {}, "spec": spec})
}

const fn pods(count: usize, namespace: &'static str, template: fn() -> Value) -> Pods {
    Pods { count, namespace, template }
}

const fn workload(name: &'static str, zones: &'static [&'static str], before: Pods, measured: Pods, floor: f64) -> Workload {
    Workload { name, nodes: 5000, zones, roomy: false, before, churn: None, measured, floor }
}

const fn with(workload: Workload, kind: Kind, every_ms: u64) -> Workload {
    Workload { churn: Some(Churn { kind, every: Duration::from_millis(every_ms) }), ..workload }
}

static WORKLOADS: [Workload; 9] = [
    workload("Basic", &[], pods(1000, "a", basic), pods(10_000, "b", basic), 680.0),
    workload("NodeAffinity", &["zone1"], pods(5000, "a", node_affinity), pods(10_000, "b", node_affinity), 540.0),
    workload("TopologySpreading", &["moon-1", "moon-2", "moon-3"], pods(5000, "a", basic), pods(5000, "b", spreading), 460.0),
    workload("PodAntiAffinity", &[], pods(1000, "sched-0", anti_affinity), pods(2000, "sched-1", anti_affinity), 180.0),
    workload("PodAffinity", &["zone1"], pods(5000, "sched-0", affinity), pods(5000, "sched-1", affinity), 70.0),
    with(workload("PreemptionAsync", &[], pods(20_000, "a", low_priority), pods(5000, "b", basic), 570.0), Kind::Pods(high_priority), 200),
    with(workload("MixedChurn", &[], pods(0, "a", basic), pods(10_000, "b", basic), 710.0), Kind::Mixed, 1000),
    Workload { nodes: 15_000, roomy: true, ..workload("Daemonset", &[], pods(0, "a", daemon), pods(30_000, "b", daemon), 1100.0) },
    with(workload("Unschedulable", &[], pods(100, "a", basic), pods(10_000, "b", basic), 590.0), Kind::Pods(too_large), 200),
];

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the workloads are well formed")
}

fn node(name: &str, zone: Option<&&str>, pods: &str) -> Arc<Node> {
    let mut labels = json!({"kubernetes.io/hostname": name});
    if let Some(zone) = zone {
        labels["topology.kubernetes.io/zone"] = json!(zone);
    }
    let has = json!({"cpu": "4", "memory": "32Gi", "pods": pods});
    let status = json!({"capacity": has, "allocatable": has, "conditions": [{"type": "Ready", "status": "True"}]});
    Arc::new(of(json!({"metadata": {"name": name, "uid": name, "labels": labels}, "spec": {}, "status": status})))
}

fn make(pods: Pods, name: &str, i: usize) -> Pod {
    let mut value = (pods.template)();
    value["metadata"]["name"] = json!(format!("{name}-{i}"));
    value["metadata"]["namespace"] = json!(pods.namespace);
    value["metadata"]["uid"] = json!(format!("00000000-0000-0000-{name}-{i:012}"));
    of(value)
}

/// The processor time that this thread has had.
fn processor_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(told.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// What the core's thread is sent.
enum Message {
    Input(Input),
    /// Tell how much processor time the thread has had.
    Mark,
    End,
}

/// Runs the core until told to stop; as [`scheduler::run`] does, without a runtime.
fn decide(mut core: Core, inputs: &Receiver<Message>, effects: &SyncSender<Vec<Effect>>, marks: &SyncSender<Duration>) {
    let start = Instant::now();
    let take = |core: &mut Core, message: Message| match message {
        Message::Input(input) => {
            core.apply(input, start.elapsed());
            true
        }
        Message::Mark => marks.send(processor_time()).is_ok(),
        Message::End => false,
    };
    loop {
        let mut taken = 0;
        while taken < BATCH
            && let Ok(message) = inputs.try_recv()
        {
            if !take(&mut core, message) {
                return;
            }
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
        if tried || taken == BATCH {
            continue;
        }
        match inputs.recv_timeout(Duration::from_millis(10)) {
            Ok(message) => {
                if !take(&mut core, message) {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The API: what it holds, and how it tells of changes.
struct Api {
    inputs: SyncSender<Message>,
    effects: Receiver<Vec<Effect>>,
    pods: HashMap<String, Arc<Pod>>,
    /// What waits to be told, so that neither side ever waits for the other to read.
    pending: VecDeque<Message>,
    bound: usize,
    counted: &'static str,
    churned: usize,
    /// What was made last time and goes the next.
    passing: Option<(Arc<Node>, Arc<Pod>, Arc<Service>)>,
}

impl Api {
    fn uid(pod: &Pod) -> String {
        pod.metadata.uid.clone().unwrap_or_default()
    }

    fn tell(&mut self, input: Input) {
        self.pending.push_back(Message::Input(input));
    }

    fn put(&mut self, pod: Pod) -> Arc<Pod> {
        let pod = Arc::new(pod);
        let old = self.pods.insert(Api::uid(&pod), pod.clone());
        self.tell(Input::Pod(Delta { old, new: Some(pod.clone()) }));
        pod
    }

    fn remove(&mut self, pod: &Pod) {
        let old = self.pods.remove(&Api::uid(pod));
        self.tell(Input::Pod(Delta { old, new: None }));
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Bind(binding) => {
                let Some(known) = self.pods.get(&*binding.uid) else { return };
                let mut pod = Pod::clone(known);
                pod.spec.get_or_insert_default().node_name = Some(binding.node.to_string());
                self.bound += usize::from(pod.metadata.name.as_deref().is_some_and(|name| name.starts_with(self.counted)));
                self.tell(Input::Bound { uid: binding.uid, result: Ok(()) });
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
            Effect::Preempt(preemption) => {
                for (i, victim) in preemption.victims.iter().enumerate() {
                    if i + 1 == preemption.victims.len() {
                        let victim = Arc::from(Api::uid(victim));
                        self.tell(Input::LastVictim { preemptor: preemption.uid.clone(), victim });
                    }
                    self.remove(victim);
                }
                self.tell(Input::Preempted { preemptor: preemption.uid, failed: false });
            }
            other => unreachable!("there are neither claims nor extenders: {other:?}"),
        }
    }

    fn churn(&mut self, kind: Kind) {
        self.churned += 1;
        match kind {
            Kind::Pods(template) => {
                self.put(make(pods(0, "churn", template), "churn", self.churned));
            }
            Kind::Mixed => match self.passing.take() {
                Some((node, pod, service)) => {
                    self.tell(Input::Node(Delta { old: Some(node), new: None }));
                    self.remove(&pod);
                    self.tell(Input::Service(Delta { old: Some(service), new: None }));
                }
                None => {
                    let name = format!("churn-{}", self.churned);
                    let node = Arc::new(of::<Node>(
                        json!({"metadata": {"name": name, "uid": name}, "status": {"capacity": {"pods": "0"}, "allocatable": {"pods": "0"}}}),
                    ));
                    let service = Arc::new(of::<Service>(
                        json!({"metadata": {"name": name, "namespace": "churn"}, "spec": {"selector": {"app": "foo"}}}),
                    ));
                    self.tell(Input::Node(Delta { old: None, new: Some(node.clone()) }));
                    let pod = self.put(make(pods(0, "churn", too_large), "churn", self.churned));
                    self.tell(Input::Service(Delta { old: None, new: Some(service.clone()) }));
                    self.passing = Some((node, pod, service));
                }
            },
        }
    }

    /// Passes on what there is, both ways. Whether there was anything.
    fn pass_on(&mut self) -> bool {
        let mut any = false;
        while let Some(message) = self.pending.pop_front() {
            match self.inputs.try_send(message) {
                Ok(()) => any = true,
                Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                    self.pending.push_front(message);
                    break;
                }
            }
        }
        while let Ok(effects) = self.effects.try_recv() {
            any = true;
            effects.into_iter().for_each(|effect| self.carry_out(effect));
        }
        any
    }

    /// Passes messages both ways until as many pods of this name are bound; fails if nothing happens for long. `each` is how many
    /// pods are bound between two times of churn, where churn does not go by the clock.
    fn until_bound(&mut self, count: usize, churn: Option<Churn>, each: Option<f64>) {
        let start = Instant::now();
        let (mut last, mut times) = (start, 0);
        while self.bound < count {
            if let Some(churn) = churn {
                let due = match each {
                    Some(each) => self.bound as f64 / each,
                    None => start.elapsed().as_secs_f64() / churn.every.as_secs_f64(),
                };
                if due as usize > times {
                    times += 1;
                    self.churn(churn.kind);
                }
            }
            let idle = !self.pass_on();
            if idle {
                assert!(last.elapsed() < STUCK, "stuck: {} of {count} are bound", self.bound);
                std::thread::sleep(Duration::from_micros(20));
            } else {
                last = Instant::now();
            }
        }
    }
}

/// Pods a second, by the clock and by the processor time of the core's thread.
struct Rates {
    clock: f64,
    processor: f64,
}

fn run(workload: &Workload, percentage: usize, even: bool) -> Rates {
    let share = |pods: Pods| Pods { count: pods.count * percentage / 100, ..pods };
    let (inputs, from_api) = sync_channel(CHANNEL);
    let (to_api, effects) = sync_channel(CHANNEL);
    let (mark, marks) = sync_channel(2);
    let core = Core::new(&Config::default(), Arc::default(), 1).expect("the defaults are valid");
    let thread = std::thread::spawn(move || decide(core, &from_api, &to_api, &mark));
    let (pods, pending) = Default::default();
    let mut api = Api { inputs, effects, pods, pending, bound: 0, counted: "before", churned: 0, passing: None };
    for i in 0..workload.nodes * percentage / 100 {
        let zone = workload.zones.get(i % workload.zones.len().max(1));
        api.tell(Input::Node(Delta { old: None, new: Some(node(&format!("scheduler-perf-{i}"), zone, "110")) }));
    }
    if workload.roomy {
        api.tell(Input::Node(Delta { old: None, new: Some(node("scheduler-perf-node", None, "90000")) }));
    }
    let before = share(workload.before);
    for i in 0..before.count {
        api.put(make(before, "before", i));
    }
    api.until_bound(before.count, None, None);
    let measured = share(workload.measured);
    let pods: Vec<Pod> = (0..measured.count).map(|i| make(measured, "measured", i)).collect();
    (api.counted, api.bound) = ("measured", 0);
    api.pending.push_back(Message::Mark);
    let start = Instant::now();
    pods.into_iter().for_each(|pod| drop(api.put(pod)));
    let each = workload.churn.filter(|_| even).map(|churn| workload.floor * churn.every.as_secs_f64());
    api.until_bound(measured.count, workload.churn, each);
    let took = start.elapsed();
    api.pending.push_back(Message::Mark);
    let begun = marks.recv().expect("the core still runs");
    let used = loop {
        api.pass_on();
        match marks.try_recv() {
            Ok(ended) => break ended.saturating_sub(begun).as_secs_f64(),
            Err(_) => std::thread::sleep(Duration::from_micros(20)),
        }
    };
    drop(api.effects);
    api.inputs.send(Message::End).expect("the core still runs");
    thread.join().expect("the core does not panic");
    Rates { clock: measured.count as f64 / took.as_secs_f64(), processor: measured.count as f64 / used }
}

fn main() {
    let only = std::env::args().nth(1).filter(|name| name != "all");
    let percentage = std::env::args().nth(2).and_then(|text| text.parse().ok()).unwrap_or(100);
    let mut out = std::io::stdout();
    writeln!(out, "{:<30} {:>8} {:>8} {:>7} {:>14}", "workload", "pods/s", "floor", "ratio", "pods/s of core").expect("stdout is open");
    for workload in WORKLOADS.iter().filter(|w| only.as_deref().is_none_or(|only| only == w.name)) {
        for even in [false, true].into_iter().filter(|even| !even || workload.churn.is_some()) {
            let rates = run(workload, percentage, even);
            let name = if even { format!("{}, even churn", workload.name) } else { workload.name.to_owned() };
            let (clock, floor) = (rates.clock, workload.floor);
            writeln!(out, "{name:<30} {clock:>8.0} {floor:>8.0} {:>7.1} {:>14.0}", clock / floor, rates.processor).expect("stdout is open");
        }
    }
}
