//! A cluster without machines: it holds objects, tells the core of them as informers would, and does what the core decides at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use scheduler::core::{Core, Delta, Effect, Input};
use scheduler::extender::Call;
use scheduler::pod_status::patch;
use scheduler::{Config, Metrics};
use serde_json::Value;

use crate::model::{Model, NodeSpec, PodSpec};

pub struct Cluster {
    pub core: Core,
    pub model: Model,
    pub metrics: Arc<Metrics>,
    pub waiting: BTreeMap<String, PodSpec>,
    pods: BTreeMap<String, Arc<Pod>>,
    nodes: BTreeMap<String, Arc<Node>>,
    pub now: Duration,
    revision: u64,
    /// What was told about pods, the newest last.
    pub told: Vec<String>,
    /// Bindings that fail before one succeeds.
    pub failures: u32,
    pub bound: usize,
    pub removed: Vec<String>,
    /// What extenders were asked last.
    pub asked: Option<(u64, Vec<Call>)>,
}

impl Cluster {
    pub fn new(seed: u64) -> Cluster {
        Cluster::with(&Config::default(), seed)
    }

    pub fn with(config: &Config, seed: u64) -> Cluster {
        let metrics: Arc<Metrics> = Arc::default();
        let core = Core::new(config, metrics.clone(), seed).expect("the configuration is valid");
        Cluster {
            core,
            metrics,
            model: Model::default(),
            waiting: BTreeMap::new(),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            now: Duration::from_secs(1),
            revision: 0,
            told: Vec::new(),
            failures: 0,
            bound: 0,
            removed: Vec::new(),
            asked: None,
        }
    }

    fn revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn apply(&mut self, input: Input) {
        self.core.apply(input, self.now);
    }

    pub fn set_node(&mut self, node: NodeSpec) {
        let object = Arc::new(node.object(self.revision()));
        let old = self.nodes.insert(node.name.clone(), object.clone());
        self.model.nodes.insert(node.name.clone(), node);
        self.apply(Input::Node(Delta { old, new: Some(object) }));
    }

    pub fn remove_node(&mut self, name: &str) {
        let old = self.nodes.remove(name);
        self.model.nodes.remove(name);
        self.apply(Input::Node(Delta { old, new: None }));
    }

    pub fn create(&mut self, pod: PodSpec) {
        let object = pod.object(self.revision());
        self.waiting.insert(pod.name.clone(), pod);
        self.put(object);
    }

    /// Writes a pod and tells of it.
    fn put(&mut self, mut pod: Pod) {
        pod.metadata.resource_version = Some(self.revision().to_string());
        let pod = Arc::new(pod);
        let old = self.pods.insert(pod.metadata.name.clone().unwrap_or_default(), pod.clone());
        self.apply(Input::Pod(Delta { old, new: Some(pod) }));
    }

    pub fn pod(&self, name: &str) -> &Pod {
        &self.pods[name]
    }

    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        let mut pod = Pod::clone(&self.pods[name]);
        change(&mut pod);
        self.put(pod);
    }

    pub fn delete(&mut self, name: &str) {
        let Some(old) = self.pods.remove(name) else { return };
        self.model.placed.remove(name);
        self.waiting.remove(name);
        self.apply(Input::Pod(Delta { old: Some(old), new: None }));
    }

    /// What extenders were asked, if they were.
    pub fn question(&self) -> Vec<(String, Value)> {
        let calls = self.asked.iter().flat_map(|(_, calls)| calls);
        calls.map(|call| (call.verb.clone(), serde_json::from_slice(&call.body).expect("it is JSON"))).collect()
    }

    /// Answers the last question to extenders, and lets the core go on.
    pub fn answer(&mut self, answers: Vec<Result<Value, String>>) {
        let (question, _) = self.asked.take().expect("there is a question");
        self.apply(Input::Answered { question, answers });
        self.settle();
    }

    /// Lets the core decide until it has nothing to do at this time.
    pub fn settle(&mut self) {
        while self.core.schedule_one(self.now, Timestamp::UNIX_EPOCH) {
            self.carry_out();
        }
        self.carry_out();
    }

    /// Lets time pass, deciding once a second.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.core.flush(self.now);
            self.settle();
        }
    }

    /// Nobody is removed for an equal, and only where the pod will fit then.
    fn check_preemption(&self, preemption: &scheduler::core::Preemption) {
        let name = preemption.preemptor.metadata.name.as_deref().unwrap_or("");
        let pod = &self.waiting[name];
        let mut after = self.model.clone();
        for victim in &preemption.victims {
            let victim = victim.metadata.name.as_deref().unwrap_or("");
            let (spec, node) = after.placed.remove(victim).expect("a victim is somewhere");
            assert!(spec.priority < pod.priority, "{victim} is as important as {name}");
            assert_eq!(node, *preemption.node, "{victim} is elsewhere");
        }
        assert_eq!(after.objection(pod, &preemption.node), None, "{name} will not fit on {}", preemption.node);
        // With wishes for company a pod more may be what makes it fit, and room may be kept for others: then nobody can be said to
        // be one too many.
        let others = self.core.world.nominator.on(&preemption.node).iter().any(|other| other.uid != preemption.uid);
        let alone = pod.near.is_none() && pod.spread.is_none() && !others;
        for victim in preemption.victims.iter().filter(|_| alone) {
            let victim = victim.metadata.name.clone().unwrap_or_default();
            after.placed.insert(victim.clone(), self.model.placed[&victim].clone());
            assert!(after.objection(pod, &preemption.node).is_some(), "{victim} need not go for {name}");
            after.placed.remove(&victim);
        }
    }

    fn carry_out(&mut self) {
        for effect in self.core.take_effects() {
            match effect {
                Effect::Bind(binding) => {
                    let name = binding.pod.metadata.name.clone().expect("pods have names");
                    if self.failures > 0 {
                        self.failures -= 1;
                        self.apply(Input::Bound { uid: binding.uid, result: Err("told to fail".into()) });
                        continue;
                    }
                    if !self.pods.contains_key(&name) {
                        self.apply(Input::Bound { uid: binding.uid, result: Err("not found".into()) });
                        continue;
                    }
                    let pod = self.waiting.remove(&name).expect("a pod is bound once");
                    if let Some(objection) = self.model.objection(&pod, &binding.node) {
                        panic!("{name} must not be on {}: {objection}", binding.node);
                    }
                    self.model.placed.insert(name.clone(), (pod, binding.node.to_string()));
                    self.bound += 1;
                    self.apply(Input::Bound { uid: binding.uid, result: Ok(()) });
                    self.change(&name, |pod| {
                        pod.spec.get_or_insert_default().node_name = Some(binding.node.to_string());
                        let status = pod.status.get_or_insert_default();
                        status.nominated_node_name = None;
                    });
                }
                Effect::Say { pod, saying } => {
                    let name = pod.metadata.name.clone().unwrap_or_default();
                    let Some(body) = patch(&pod, &saying, Timestamp::UNIX_EPOCH) else { continue };
                    if let Some(known) = self.pods.get(&name) {
                        let mut value = serde_json::to_value(&**known).expect("pods are JSON");
                        merge(&mut value, &body);
                        self.put(serde_json::from_value(value).expect("a pod"));
                    }
                }
                Effect::Tell(event) => {
                    self.told.push(format!("{} {}: {}", event.reason, event.about.name.as_deref().unwrap_or(""), event.message));
                }
                Effect::Deallocate(_) | Effect::Discard(_) => unreachable!("there are no claims"),
                Effect::Consult { question, calls } => self.asked = Some((question, calls)),
                Effect::Preempt(preemption) => {
                    self.check_preemption(&preemption);
                    for victim in &preemption.victims {
                        let name = victim.metadata.name.clone().unwrap_or_default();
                        if std::ptr::eq(victim, preemption.victims.last().expect("not empty")) {
                            let uid: Arc<str> = Arc::from(victim.metadata.uid.as_deref().unwrap_or(""));
                            self.apply(Input::LastVictim { preemptor: preemption.uid.clone(), victim: uid });
                        }
                        self.removed.push(name.clone());
                        self.delete(&name);
                    }
                    self.apply(Input::Preempted { preemptor: preemption.uid, failed: false });
                }
            }
        }
    }
}

/// A merge patch is enough here: there is one condition.
fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
    match (target, patch) {
        (serde_json::Value::Object(target), serde_json::Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(key);
                } else {
                    merge(target.entry(key.clone()).or_insert(serde_json::Value::Null), value);
                }
            }
        }
        (target, patch) => *target = strip_nulls(patch),
    }
}

fn strip_nulls(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), strip_nulls(v))).collect(),
        serde_json::Value::Array(all) => all.iter().map(strip_nulls).collect(),
        other => other.clone(),
    }
}
