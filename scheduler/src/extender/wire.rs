//! What extenders are sent, and what they answer (`k8s.io/kube-scheduler/extender/v1`). The fields of answers are found whatever their
//! case, as Go finds them.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::go_print::json_kind;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::config::Extender;

/// The highest score that an extender gives.
pub const MAX_SCORE: i64 = 10;

/// A node that is asked about.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub name: Arc<str>,
    pub node: Option<Arc<Node>>,
}

/// What removing pods from a node would take.
#[derive(Clone, Debug)]
pub struct Victims {
    pub pods: Vec<Arc<Pod>>,
    pub violations: usize,
}

/// What is left of the nodes that an extender was asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    pub nodes: Vec<String>,
    /// Nodes that will not do, and why.
    pub failed: BTreeMap<String, String>,
    /// As `failed`, where removing pods would not help; these come first.
    pub unresolvable: BTreeMap<String, String>,
}

/// The pods by uid that an extender would have removed from a node, and how many of them a budget protects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub node: String,
    pub uids: Vec<String>,
    pub violations: i64,
}

/// An object without its kind, as Go writes those that it has typed.
fn untyped<K: Serialize>(object: &K) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or(Value::Null);
    if let Some(fields) = value.as_object_mut() {
        fields.shift_remove("apiVersion");
        fields.shift_remove("kind");
    }
    value
}

/// The pod, and the nodes: their names for an extender that knows them.
pub fn question(extender: &Extender, pod: &Pod, nodes: &[Candidate]) -> Vec<u8> {
    let (objects, names) = if extender.node_cache_capable {
        (Value::Null, json!(nodes.iter().map(|node| &*node.name).collect::<Vec<_>>()))
    } else {
        let items: Vec<Value> = nodes.iter().filter_map(|node| node.node.as_deref()).map(untyped).collect();
        (json!({"metadata": {}, "items": items}), Value::Null)
    };
    json!({"Pod": untyped(pod), "Nodes": objects, "NodeNames": names}).to_string().into_bytes()
}

/// The pod, and whom it would have removed on which nodes.
pub fn preemption(extender: &Extender, pod: &Pod, victims: &BTreeMap<Arc<str>, Victims>) -> Vec<u8> {
    let by_node = |pods: &dyn Fn(&Pod) -> Value| -> Value {
        let of = |victims: &Victims| {
            let pods: Vec<Value> = victims.pods.iter().map(|pod| pods(pod)).collect();
            json!({"Pods": pods, "NumPDBViolations": victims.violations})
        };
        Value::Object(victims.iter().map(|(node, victims)| (node.to_string(), of(victims))).collect::<Map<_, _>>())
    };
    let (whole, names) = if extender.node_cache_capable {
        (Value::Null, by_node(&|pod| json!({"UID": pod.metadata.uid.as_deref().unwrap_or("")})))
    } else {
        (by_node(&|pod| untyped(pod)), Value::Null)
    };
    json!({"Pod": untyped(pod), "NodeNameToVictims": whole, "NodeNameToMetaVictims": names}).to_string().into_bytes()
}

/// Where the pod is to be bound.
pub fn binding(pod: &Pod, node: &str) -> Vec<u8> {
    let metadata = &pod.metadata;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    json!({"PodName": text(&metadata.name), "PodNamespace": text(&metadata.namespace), "PodUID": text(&metadata.uid), "Node": node})
        .to_string()
        .into_bytes()
}

fn field<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let Some(fields) = answer.as_object() else { return &Value::Null };
    let any_case = || fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    fields.get(name).or_else(any_case).unwrap_or(&Value::Null)
}

/// An answer of the wrong kind is an error, in Go's words; null is as if nothing were said.
fn is_object(answer: &Value, of: &str) -> Result<(), String> {
    match answer {
        Value::Object(_) | Value::Null => Ok(()),
        other => Err(format!("json: cannot unmarshal {} into Go value of type v1.{of}", json_kind(other))),
    }
}

fn said(answer: &Value) -> Result<(), String> {
    match field(answer, "Error").as_str() {
        Some(error) if !error.is_empty() => Err(error.to_owned()),
        _ => Ok(()),
    }
}

fn reasons(answer: &Value) -> BTreeMap<String, String> {
    let all = answer.as_object().into_iter().flatten();
    all.map(|(node, reason)| (node.clone(), reason.as_str().unwrap_or("").to_owned())).collect()
}

/// Reads which nodes will do; those that were not asked about are an error.
pub fn filtered(extender: &Extender, asked: &[Candidate], answer: &Value) -> Result<Filtered, String> {
    is_object(answer, "ExtenderFilterResult")?;
    said(answer)?;
    let names = field(answer, "NodeNames").as_array().filter(|_| extender.node_cache_capable);
    let nodes: Vec<String> = match names {
        Some(names) => names.iter().map(|name| name.as_str().unwrap_or("").to_owned()).collect(),
        None => {
            let items = field(field(answer, "Nodes"), "items").as_array();
            items.into_iter().flatten().map(|node| node["metadata"]["name"].as_str().unwrap_or("").to_owned()).collect()
        }
    };
    if let Some(strange) = nodes.iter().find(|name| asked.iter().all(|node| *node.name != ***name)) {
        let url = &extender.url_prefix;
        return Err(format!("extender {url:?} claims a filtered node {strange:?} which is not found in the input node list"));
    }
    let (failed, unresolvable) = (field(answer, "FailedNodes"), field(answer, "FailedAndUnresolvableNodes"));
    Ok(Filtered { nodes, failed: reasons(failed), unresolvable: reasons(unresolvable) })
}

/// Reads how good each node is, in the scheduler's scale and with the extender's weight.
pub fn scores(extender: &Extender, answer: &Value) -> Result<Vec<(String, i64)>, String> {
    let all = match answer {
        Value::Array(all) => all.as_slice(),
        Value::Null => &[],
        other => return Err(format!("json: cannot unmarshal {} into Go value of type v1.HostPriorityList", json_kind(other))),
    };
    let factor = extender.weight * (crate::framework::MAX_SCORE / MAX_SCORE);
    let one = |entry: &Value| {
        let score = field(entry, "Score").as_i64().unwrap_or(0);
        (field(entry, "Host").as_str().unwrap_or("").to_owned(), score.saturating_mul(factor))
    };
    Ok(all.iter().map(one).collect())
}

/// Reads whom the extender would have removed where.
pub fn chosen(answer: &Value) -> Result<Vec<Chosen>, String> {
    is_object(answer, "ExtenderPreemptionResult")?;
    let all = field(answer, "NodeNameToMetaVictims").as_object();
    let one = |(node, victims): (&String, &Value)| {
        let pods = field(victims, "Pods").as_array();
        let uids = pods.into_iter().flatten().map(|pod| field(pod, "UID").as_str().unwrap_or("").to_owned());
        Chosen { node: node.clone(), uids: uids.collect(), violations: field(victims, "NumPDBViolations").as_i64().unwrap_or(0) }
    };
    Ok(all.into_iter().flatten().map(one).collect())
}

/// Reads whether the extender has bound the pod.
pub fn bound(answer: &Value) -> Result<(), String> {
    is_object(answer, "ExtenderBindingResult")?;
    said(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::of;

    /// Whether the extender knows the nodes, what it answers, and the nodes that are left.
    type Row<'a> = (bool, Value, Result<Vec<&'a str>, &'a str>);

    fn extender(cached: bool) -> Extender {
        serde_json::from_value(json!({"urlPrefix": "http://e", "nodeCacheCapable": cached, "weight": 3})).unwrap()
    }

    fn candidates() -> Vec<Candidate> {
        ["a", "b"].map(|name| Candidate { name: name.into(), node: Some(of(json!({"metadata": {"name": name}}))) }).into()
    }

    fn read(body: &[u8]) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn nodes_are_sent_whole_or_by_name() {
        let pod: Arc<Pod> = of(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": []}}));
        let whole = read(&question(&extender(false), &pod, &candidates()));
        assert_eq!(whole["Pod"]["metadata"]["name"], "p");
        assert_eq!(whole["Pod"]["kind"], Value::Null);
        assert_eq!(whole["Nodes"]["items"][1]["metadata"]["name"], "b");
        assert_eq!(whole["NodeNames"], Value::Null);
        let names = read(&question(&extender(true), &pod, &candidates()));
        assert_eq!((&names["Nodes"], &names["NodeNames"]), (&Value::Null, &json!(["a", "b"])));
        let expected = json!({"PodName": "p", "PodNamespace": "d", "PodUID": "u", "Node": "n"});
        assert_eq!(read(&binding(&pod, "n")), expected);
    }

    #[test]
    fn victims_are_sent_whole_or_by_uid() {
        let pod: Arc<Pod> = of(json!({"metadata": {"name": "v", "uid": "u"}, "spec": {"containers": []}}));
        let victims = BTreeMap::from([(Arc::from("n"), Victims { pods: vec![pod.clone()], violations: 1 })]);
        let whole = read(&preemption(&extender(false), &pod, &victims));
        assert_eq!(whole["NodeNameToVictims"]["n"]["Pods"][0]["metadata"]["name"], "v");
        assert_eq!(whole["NodeNameToMetaVictims"], Value::Null);
        let names = read(&preemption(&extender(true), &pod, &victims));
        assert_eq!(names["NodeNameToVictims"], Value::Null);
        assert_eq!(names["NodeNameToMetaVictims"], json!({"n": {"Pods": [{"UID": "u"}], "NumPDBViolations": 1}}));
    }

    #[test]
    fn what_an_extender_leaves_is_read_in_any_case() {
        let failed = json!({"b": "no"});
        let table: [Row<'_>; 7] = [
            (true, json!({"NodeNames": ["a"], "FailedNodes": failed}), Ok(vec!["a"])),
            (true, json!({"nodenames": ["a"], "failedNodes": failed}), Ok(vec!["a"])),
            (false, json!({"nodes": {"items": [{"metadata": {"name": "a"}}]}, "FailedNodes": failed}), Ok(vec!["a"])),
            (false, json!({"NodeNames": ["a"], "FailedNodes": failed}), Ok(vec![])),
            (true, json!({"NodeNames": ["a"], "Error": "broken"}), Err("broken")),
            (
                true,
                json!({"NodeNames": ["c"]}),
                Err("extender \"http://e\" claims a filtered node \"c\" which is not found in the input node list"),
            ),
            (true, json!("yes"), Err("json: cannot unmarshal string into Go value of type v1.ExtenderFilterResult")),
        ];
        for (cached, answer, expected) in table {
            let got = filtered(&extender(cached), &candidates(), &answer);
            let expected = expected.map(|nodes| nodes.into_iter().map(str::to_owned).collect::<Vec<_>>()).map_err(str::to_owned);
            assert_eq!(got.clone().map(|f| f.nodes), expected, "{answer}");
            if let Ok(got) = got {
                assert_eq!(got.failed, BTreeMap::from([("b".to_owned(), "no".to_owned())]));
            }
        }
    }

    #[test]
    fn scores_are_scaled_and_weighed() {
        let answer = json!([{"Host": "a", "Score": 10}, {"host": "b", "score": 1}]);
        assert_eq!(scores(&extender(true), &answer).unwrap(), [("a".to_owned(), 300), ("b".to_owned(), 30)]);
        assert!(scores(&extender(true), &json!({})).unwrap_err().contains("v1.HostPriorityList"));
    }

    #[test]
    fn chosen_victims_are_read_by_node() {
        let answer = json!({"NodeNameToMetaVictims": {"n": {"Pods": [{"UID": "u"}], "NumPDBViolations": 2}, "m": {"Pods": null}}});
        let got = chosen(&answer).unwrap();
        assert_eq!(got[0], Chosen { node: "n".into(), uids: vec!["u".into()], violations: 2 });
        assert_eq!((got[1].node.as_str(), got[1].uids.len()), ("m", 0));
        assert_eq!(bound(&json!({"Error": "no"})), Err("no".to_owned()));
        assert_eq!(bound(&json!({})), Ok(()));
    }
}
