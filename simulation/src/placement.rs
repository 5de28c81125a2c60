//! Where a pod may be, told from all that there is: an independent and slow reading of what pods ask of nodes, against which the word of
//! the scheduler is held. It knows what the workload uses: processors, memory and the number of pods, taints, node selectors, required
//! affinities between pods, and topology spread that must hold.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::object;

/// Nodes, and the pods on them that have not ended.
#[derive(Clone, Debug, Default)]
pub struct Scene<'a> {
    pub nodes: Vec<&'a Value>,
    pub pods: Vec<&'a Value>,
}

/// What keeps a pod from a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    Taint(String),
    Selector,
    /// Of a resource: how much there is, and how much would be asked for.
    Room {
        resource: &'static str,
        has: i64,
        asked: i64,
    },
    /// A pod that it must not be with, or that must not be with it.
    Apart(String),
    /// None of those is near that it must be with.
    Together,
    Spread {
        skew: i64,
        most: i64,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Taint(key) => write!(f, "the node has the taint {key}"),
            Obstacle::Selector => f.write_str("the node is not selected"),
            Obstacle::Room { resource, has, asked } => write!(f, "the node has {has} of {resource}, {asked} would be asked for"),
            Obstacle::Apart(other) => write!(f, "it must be apart from {other}"),
            Obstacle::Together => f.write_str("no pod is near that it must be with"),
            Obstacle::Spread { skew, most } => write!(f, "the skew would be {skew}, not {most}"),
        }
    }
}

/// Thousandths of a processor.
fn milli_cpus(quantity: &Value) -> i64 {
    let text = quantity.as_str().unwrap_or("0");
    match text.strip_suffix('m') {
        Some(milli) => milli.parse().unwrap_or(0),
        None => text.parse::<i64>().unwrap_or(0) * 1000,
    }
}

/// Mebibytes; nothing else is asked for here.
fn mebibytes(quantity: &Value) -> i64 {
    let text = quantity.as_str().unwrap_or("0");
    match (text.strip_suffix("Gi"), text.strip_suffix("Mi")) {
        (Some(number), _) => number.parse::<i64>().unwrap_or(0) * 1024,
        (_, Some(number)) => number.parse().unwrap_or(0),
        _ => 0,
    }
}

fn sum(pods: &[&Value], resource: &str, read: fn(&Value) -> i64) -> i64 {
    let containers = pods.iter().flat_map(|pod| object::list(pod, "/spec/containers"));
    containers.map(|container| read(&container["resources"]["requests"][resource])).sum()
}

/// Of which resource a node with these pods has too little.
pub fn lacking(node: &Value, pods: &[&Value]) -> Option<Obstacle> {
    let allocatable = &node["status"]["allocatable"];
    let pods_max = allocatable["pods"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    let count = i64::try_from(pods.len()).unwrap_or(i64::MAX);
    let resources = [
        ("cpu", milli_cpus(&allocatable["cpu"]), sum(pods, "cpu", milli_cpus)),
        ("memory", mebibytes(&allocatable["memory"]), sum(pods, "memory", mebibytes)),
        ("pods", pods_max, count),
    ];
    let short = resources.into_iter().find(|(_, has, asked)| asked > has)?;
    Some(Obstacle::Room { resource: short.0, has: short.1, asked: short.2 })
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    object::list(pod, "/spec/tolerations").iter().any(|toleration| {
        let (effect, key) = (object::text(toleration, "/effect"), object::text(toleration, "/key"));
        let is_of_effect = effect.is_empty() || effect == object::text(taint, "/effect");
        let is_of_value = match object::text(toleration, "/operator") {
            "Exists" => key.is_empty() || key == object::text(taint, "/key"),
            _ => key == object::text(taint, "/key") && object::text(toleration, "/value") == object::text(taint, "/value"),
        };
        is_of_effect && is_of_value
    })
}

fn tainted(pod: &Value, node: &Value) -> Option<Obstacle> {
    let unschedulable = serde_json::json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
    let cordon = object::is_true(node, "/spec/unschedulable").then_some(&unschedulable);
    let keeps_away = |taint: &&Value| matches!(object::text(taint, "/effect"), "NoSchedule" | "NoExecute");
    let taint = object::list(node, "/spec/taints").iter().filter(keeps_away).chain(cordon).find(|taint| !tolerates(pod, taint))?;
    Some(Obstacle::Taint(object::text(taint, "/key").to_owned()))
}

fn label<'a>(node: &'a Value, key: &str) -> Option<&'a str> {
    node["metadata"]["labels"].get(key)?.as_str()
}

fn meets(expression: &Value, found: Option<&str>) -> bool {
    let values = object::list(expression, "/values");
    let is_listed = found.is_some_and(|found| values.iter().any(|value| value == found));
    match object::text(expression, "/operator") {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        _ => false,
    }
}

/// Whether the pod's node selector and required node affinity want the node.
fn is_selected(pod: &Value, node: &Value) -> bool {
    let selector = pod["spec"]["nodeSelector"].as_object();
    if !selector.into_iter().flatten().all(|(key, value)| label(node, key) == value.as_str()) {
        return false;
    }
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    if pod.pointer(required).is_none() {
        return true;
    }
    object::list(pod, &format!("{required}/nodeSelectorTerms")).iter().any(|term| {
        let (labels, fields) = (object::list(term, "/matchExpressions"), object::list(term, "/matchFields"));
        !(labels.is_empty() && fields.is_empty())
            && labels.iter().all(|expression| meets(expression, label(node, object::text(expression, "/key"))))
            && fields.iter().all(|expression| meets(expression, Some(object::name(node))))
    })
}

/// The terms of a pod's required affinity or antiaffinity.
fn terms<'a>(pod: &'a Value, which: &str) -> &'a [Value] {
    object::list(pod, &format!("/spec/affinity/{which}/requiredDuringSchedulingIgnoredDuringExecution"))
}

/// Whether a term of `owner`'s means the other pod. Terms here are for the owner's namespace alone.
fn means(term: &Value, owner: &Value, other: &Value) -> bool {
    object::namespace(owner) == object::namespace(other) && object::matches(term.get("labelSelector"), other)
}

impl<'a> Scene<'a> {
    fn node_of(&self, pod: &Value) -> Option<&'a Value> {
        let name = object::text(pod, "/spec/nodeName");
        self.nodes.iter().copied().find(|node| object::name(node) == name)
    }

    /// Whether the pod is where a term's topology is the same as the node's.
    fn is_near(&self, term: &Value, pod: &Value, node: &Value) -> bool {
        let key = object::text(term, "/topologyKey");
        let here = label(node, key);
        here.is_some() && self.node_of(pod).and_then(|there| label(there, key)) == here
    }

    fn apart(&self, pod: &Value, node: &Value) -> Option<Obstacle> {
        let refuses = |owner: &Value, meant: &Value, there: &Value| {
            terms(owner, "podAntiAffinity").iter().any(|term| means(term, owner, meant) && self.is_near(term, there, node))
        };
        let other = self.pods.iter().find(|other| refuses(pod, other, other) || refuses(other, pod, other))?;
        Some(Obstacle::Apart(object::name(other).to_owned()))
    }

    /// The first of a group that must be together may be anywhere: nobody is there yet whom it could be with.
    fn together(&self, pod: &Value, node: &Value) -> Option<Obstacle> {
        let terms = terms(pod, "podAffinity");
        let means_all = |other: &Value| terms.iter().all(|term| means(term, pod, other));
        let has_topology = terms.iter().all(|term| label(node, object::text(term, "/topologyKey")).is_some());
        let near = |term: &Value| self.pods.iter().any(|other| means_all(other) && self.is_near(term, other, node));
        if terms.is_empty() || has_topology && terms.iter().all(near) {
            return None;
        }
        let is_first = means_all(pod) && !self.pods.iter().any(|other| means_all(other) && self.node_of(other).is_some());
        (!is_first || !has_topology).then_some(Obstacle::Together)
    }

    fn spread(&self, pod: &Value, node: &Value) -> Option<Obstacle> {
        let all = object::list(pod, "/spec/topologySpreadConstraints").iter();
        let hard: Vec<&Value> = all.filter(|constraint| object::text(constraint, "/whenUnsatisfiable") == "DoNotSchedule").collect();
        let has_all = |node: &Value| hard.iter().all(|constraint| label(node, object::text(constraint, "/topologyKey")).is_some());
        for constraint in &hard {
            let key = object::text(constraint, "/topologyKey");
            let most = object::number(constraint, "/maxSkew");
            let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
            for candidate in self.nodes.iter().filter(|node| is_selected(pod, node) && has_all(node)) {
                let here = self.pods.iter().filter(|other| object::text(other, "/spec/nodeName") == object::name(candidate));
                let counted = here.filter(|other| !object::is_terminating(other) && means(constraint, pod, other)).count();
                *counts.entry(label(candidate, key).unwrap_or("")).or_default() += i64::try_from(counted).unwrap_or(i64::MAX);
            }
            let itself = i64::from(means(constraint, pod, pod));
            let there = label(node, key).and_then(|domain| counts.get(domain)).copied();
            let least = counts.values().min().copied().unwrap_or(0);
            match there {
                None => return Some(Obstacle::Selector),
                Some(there) if there + itself - least > most => return Some(Obstacle::Spread { skew: there + itself - least, most }),
                Some(_) => {}
            }
        }
        None
    }

    /// Everything that keeps the pod, which is on no node, from this one.
    pub fn obstacles(&self, pod: &Value, node: &Value) -> Vec<Obstacle> {
        let mut with: Vec<&Value> =
            self.pods.iter().copied().filter(|other| object::text(other, "/spec/nodeName") == object::name(node)).collect();
        with.push(pod);
        let selector = (!is_selected(pod, node)).then_some(Obstacle::Selector);
        let all =
            [tainted(pod, node), selector, lacking(node, &with), self.apart(pod, node), self.together(pod, node), self.spread(pod, node)];
        all.into_iter().flatten().collect()
    }

    /// What of a node itself keeps the pod away, whoever is there.
    pub fn of_node(pod: &Value, node: &Value) -> Option<Obstacle> {
        tainted(pod, node).or_else(|| (!is_selected(pod, node)).then_some(Obstacle::Selector))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, zone: &str) -> Value {
        json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": zone}},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
        })
    }

    fn pod(name: &str, node: &str, spec: Value) -> Value {
        let mut pod = json!({"metadata": {"name": name, "namespace": "d", "labels": {"app": "a"}}, "spec": spec});
        pod["spec"]["nodeName"] = node.into();
        pod
    }

    fn asking(cpu: &str, memory: &str) -> Value {
        json!({"containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
    }

    fn term(key: &str) -> Value {
        json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key, "labelSelector": {"matchLabels": {"app": "a"}}}]})
    }

    /// What keeps the pod from each of the nodes `n0` and `n1`, which are in zones of their own, and `n2`, which is in the second's.
    fn kept_from(there: &[Value], spec: Value) -> Vec<Vec<Obstacle>> {
        let nodes = [node("n0", "z0"), node("n1", "z1"), node("n2", "z1")];
        let scene = Scene { nodes: nodes.iter().collect(), pods: there.iter().collect() };
        let pod = pod("p", "", spec);
        nodes.iter().map(|node| scene.obstacles(&pod, node)).collect()
    }

    #[test]
    fn a_node_has_room_for_what_is_asked_and_not_for_more() {
        let there = [pod("o", "n0", asking("1500m", "1Gi"))];
        assert_eq!(kept_from(&there, asking("500m", "3072Mi")), [vec![], vec![], vec![]]);
        let room = |resource, has, asked| vec![Obstacle::Room { resource, has, asked }];
        assert_eq!(kept_from(&there, asking("501m", "0"))[0], room("cpu", 2000, 2001));
        assert_eq!(kept_from(&there, asking("1m", "3073Mi"))[0], room("memory", 4096, 4097));
        let many: Vec<Value> = (0..3).map(|i| pod(&format!("o{i}"), "n0", json!({}))).collect();
        assert_eq!(kept_from(&many, json!({}))[0], room("pods", 3, 4));
    }

    #[test]
    fn taints_keep_away_those_who_do_not_tolerate_them() {
        let mut tainted = node("n", "z");
        tainted["spec"] = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        let kept = |node: &Value, toleration: Value| Scene::of_node(&json!({"spec": {"tolerations": [toleration]}}), node).is_some();
        assert!(kept(&tainted, json!({"key": "other", "operator": "Exists"})) && kept(&tainted, json!({"key": "k", "value": "w"})));
        assert!(kept(&tainted, json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})));
        assert!(!kept(&tainted, json!({"key": "k", "value": "v"})) && !kept(&tainted, json!({"operator": "Exists"})));
        tainted["spec"] = json!({"unschedulable": true});
        assert!(kept(&tainted, json!({"key": "k", "operator": "Exists"})));
        assert!(!kept(&tainted, json!({"operator": "Exists", "effect": "NoSchedule"})));
    }

    #[test]
    fn selectors_and_affinities_name_nodes() {
        let selected = |spec: Value| kept_from(&[], spec).iter().map(Vec::is_empty).collect::<Vec<_>>();
        assert_eq!(selected(json!({"nodeSelector": {"zone": "z1"}})), [false, true, true]);
        let affinity = |term: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}});
        let expression = json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["z1"]}]});
        assert_eq!(selected(affinity(expression)), [true, false, false]);
        let field = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]});
        assert_eq!(selected(affinity(field)), [false, false, true]);
        assert_eq!(selected(affinity(json!({}))), [false, false, false]);
    }

    #[test]
    fn pods_are_apart_or_together_as_they_want() {
        let there = [pod("o", "n1", json!({}))];
        let apart = kept_from(&there, json!({"affinity": {"podAntiAffinity": term("zone")}}));
        assert_eq!(apart, [vec![], vec![Obstacle::Apart("o".to_owned())], vec![Obstacle::Apart("o".to_owned())]]);
        let other = [pod("o", "n1", json!({"affinity": {"podAntiAffinity": term("kubernetes.io/hostname")}}))];
        assert_eq!(kept_from(&other, json!({})), [vec![], vec![Obstacle::Apart("o".to_owned())], vec![]]);
        let together = json!({"affinity": {"podAffinity": term("zone")}});
        assert_eq!(kept_from(&there, together.clone()), [vec![Obstacle::Together], vec![], vec![]]);
        assert_eq!(kept_from(&[], together), [vec![], vec![], vec![]]);
    }

    #[test]
    fn pods_are_spread_over_zones() {
        let constraint = json!({"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "a"}}});
        let there = [pod("o", "n2", json!({}))];
        let spec = json!({"topologySpreadConstraints": [constraint]});
        let skew = vec![Obstacle::Spread { skew: 2, most: 1 }];
        assert_eq!(kept_from(&there, spec.clone()), [vec![], skew.clone(), skew]);
        // A zone that the pod must not be in does not count.
        let mut selecting = spec;
        selecting["nodeSelector"] = json!({"zone": "z1"});
        assert_eq!(kept_from(&there, selecting), [vec![Obstacle::Selector, Obstacle::Selector], vec![], vec![]]);
    }
}
