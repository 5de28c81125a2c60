//! What a pod wants and what a node offers, in plain numbers and words, and the slow and obvious answer to whether they fit. Shares no
//! code with the scheduler: objects are made from these, never read back.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

#[derive(Clone, Debug, Default)]
pub struct NodeSpec {
    pub name: String,
    pub zone: String,
    pub disk: String,
    pub cpu: i64,
    pub memory: i64,
    pub gpus: i64,
    pub pods: usize,
    pub taint: Option<String>,
    pub cordoned: bool,
}

impl NodeSpec {
    pub fn object(&self, revision: u64) -> Node {
        let taints: Vec<Value> = self.taint.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
        let labels = json!({"kubernetes.io/hostname": self.name, "topology.kubernetes.io/zone": self.zone, "disk": self.disk});
        let mut allocatable = json!({"cpu": format!("{}m", self.cpu), "memory": self.memory.to_string(), "pods": self.pods.to_string()});
        if self.gpus > 0 {
            allocatable["x.com/gpu"] = json!(self.gpus.to_string());
        }
        serde_json::from_value(json!({
            "metadata": {"name": self.name, "uid": self.name, "labels": labels, "resourceVersion": revision.to_string()},
            "spec": {"taints": taints, "unschedulable": self.cordoned},
            "status": {"allocatable": allocatable},
        }))
        .expect("a node")
    }

    fn domain(&self, key: &str) -> &str {
        if key == "zone" { &self.zone } else { &self.name }
    }
}

/// Near to or away from pods of an app, by zone or by host.
#[derive(Clone, Debug)]
pub struct Rule {
    pub app: String,
    pub by: &'static str,
}

#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    pub name: String,
    pub app: String,
    pub cpu: i64,
    pub memory: i64,
    /// Of a resource that Kubernetes does not know.
    pub gpus: i64,
    pub port: Option<i64>,
    pub tolerates: Option<String>,
    pub disk: Option<String>,
    pub priority: i64,
    pub near: Option<Rule>,
    pub away: Option<Rule>,
    /// Spread over zones or hosts, with this skew at most.
    pub spread: Option<(&'static str, i64)>,
    /// With fewer domains the least crowded counts as empty.
    pub min_domains: Option<i64>,
    pub gated: bool,
}

fn label(by: &str) -> &'static str {
    if by == "zone" { "topology.kubernetes.io/zone" } else { "kubernetes.io/hostname" }
}

impl PodSpec {
    pub fn object(&self, revision: u64) -> Pod {
        let selector = |app: &str| json!({"matchLabels": {"app": app}});
        let term = |rule: &Rule| json!({"labelSelector": selector(&rule.app), "topologyKey": label(rule.by)});
        let mut spec = json!({
            "schedulerName": "default-scheduler",
            "priority": self.priority,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": format!("{}m", self.cpu), "memory": self.memory.to_string()}}}],
        });
        if self.gpus > 0 {
            spec["containers"][0]["resources"]["requests"]["x.com/gpu"] = json!(self.gpus.to_string());
        }
        if let Some(port) = self.port {
            spec["containers"][0]["ports"] = json!([{"containerPort": port, "hostPort": port}]);
        }
        if let Some(key) = &self.tolerates {
            spec["tolerations"] = json!([{"key": key, "operator": "Exists"}]);
        }
        if let Some(disk) = &self.disk {
            spec["nodeSelector"] = json!({"disk": disk});
        }
        if let Some(rule) = &self.near {
            spec["affinity"]["podAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term(rule)]});
        }
        if let Some(rule) = &self.away {
            spec["affinity"]["podAntiAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term(rule)]});
        }
        if let Some((by, skew)) = self.spread {
            spec["topologySpreadConstraints"] = json!([{"maxSkew": skew, "topologyKey": label(by), "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": selector(&self.app), "minDomains": self.min_domains}]);
        }
        if self.gated {
            spec["schedulingGates"] = json!([{"name": "g"}]);
        }
        serde_json::from_value(json!({
            "metadata": {"name": self.name, "namespace": "d", "uid": self.name, "labels": {"app": self.app}, "resourceVersion": revision.to_string()},
            "spec": spec,
        }))
        .expect("a pod")
    }
}

/// Nodes, and who is where.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub nodes: BTreeMap<String, NodeSpec>,
    pub placed: BTreeMap<String, (PodSpec, String)>,
}

impl Model {
    fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a PodSpec> {
        self.placed.values().filter(move |(_, at)| at == node).map(|(pod, _)| pod)
    }

    fn neighbours<'a>(&'a self, node: &'a NodeSpec, by: &'a str) -> impl Iterator<Item = &'a PodSpec> {
        let here = node.domain(by).to_owned();
        self.placed.values().filter(move |(_, at)| self.nodes.get(at).is_some_and(|n| n.domain(by) == here)).map(|(pod, _)| pod)
    }

    /// Why the pod must not be on the node; nothing if it may.
    pub fn objection(&self, pod: &PodSpec, node: &str) -> Option<String> {
        let Some(node) = self.nodes.get(node) else { return Some("no such node".into()) };
        let there: Vec<&PodSpec> = self.on(&node.name).collect();
        let sum = |of: fn(&PodSpec) -> i64| there.iter().map(|p| of(p)).sum::<i64>();
        if there.len() + 1 > node.pods {
            return Some("too many pods".into());
        }
        // A node may have shrunk below what is there; whoever asks for nothing may still come.
        if pod.cpu > 0 && sum(|p| p.cpu) + pod.cpu > node.cpu {
            return Some("cpu".into());
        }
        if pod.memory > 0 && sum(|p| p.memory) + pod.memory > node.memory {
            return Some("memory".into());
        }
        if pod.gpus > 0 && sum(|p| p.gpus) + pod.gpus > node.gpus {
            return Some("gpus".into());
        }
        if pod.port.is_some() && there.iter().any(|p| p.port == pod.port) {
            return Some("port".into());
        }
        if node.cordoned {
            return Some("cordoned".into());
        }
        if node.taint.is_some() && node.taint != pod.tolerates {
            return Some("taint".into());
        }
        if pod.disk.as_ref().is_some_and(|disk| *disk != node.disk) {
            return Some("disk".into());
        }
        if let Some(rule) = &pod.near {
            let first = rule.app == pod.app && !self.placed.values().any(|(other, _)| other.app == rule.app);
            if !first && !self.neighbours(node, rule.by).any(|other| other.app == rule.app) {
                return Some("affinity".into());
            }
        }
        if let Some(rule) = &pod.away
            && self.neighbours(node, rule.by).any(|other| other.app == rule.app)
        {
            return Some("anti-affinity".into());
        }
        let avoided = |other: &(PodSpec, String)| {
            let (other, at) = other;
            other
                .away
                .as_ref()
                .is_some_and(|rule| rule.app == pod.app && self.nodes.get(at).is_some_and(|n| n.domain(rule.by) == node.domain(rule.by)))
        };
        if self.placed.values().any(avoided) {
            return Some("anti-affinity of another".into());
        }
        if let Some((by, skew)) = pod.spread {
            let allowed = |n: &&NodeSpec| pod.disk.as_ref().is_none_or(|disk| *disk == n.disk);
            let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
            for n in self.nodes.values().filter(allowed) {
                let pods = self.on(&n.name).filter(|p| p.app == pod.app).count() as i64;
                *counts.entry(n.domain(by)).or_default() += pods;
            }
            let few = pod.min_domains.is_some_and(|least| (counts.len() as i64) < least);
            let least = if few { 0 } else { counts.values().min().copied().unwrap_or(0) };
            if counts.get(node.domain(by)).copied().unwrap_or(0) + 1 - least > skew {
                return Some("spread".into());
            }
        }
        None
    }

    /// A node that would take the pod.
    pub fn fits_somewhere(&self, pod: &PodSpec) -> Option<&str> {
        self.nodes.keys().find(|node| self.objection(pod, node).is_none()).map(String::as_str)
    }
}
