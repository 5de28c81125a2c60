//! PodTopologySpread: pods are spread evenly over zones, nodes or other domains: `DoNotSchedule` constraints must hold, others are liked.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::selector::label::Selector;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::config::Defaulting;
use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, MAX_SCORE, NodeView, Overlay, Plugin, Point, PreFilter, Preparing, Refusal, Rejection, Verdict};
use crate::profile::Profile;
use crate::snapshot::NodeIndex;
use crate::snapshot::counters::{CounterId, Matcher, NodeRule, Request};
use crate::snapshot::pod::PodInfo;
use crate::snapshot::terms::{Constraint, HOSTNAME, ZONE};
use crate::snapshot::topology::NO_DOMAIN;
use crate::world::{Objects, World};

pub struct PodTopologySpread;

pub const REASON: &str = "node(s) didn't match pod topology spread constraints";
pub const MISSING_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// A constraint that must hold, and where its pods are counted.
#[derive(Clone, Debug)]
struct Hold {
    counter: CounterId,
    max_skew: i64,
    min_domains: i64,
    /// Whether the pod itself will be one of those counted.
    counts_itself: bool,
}

/// The constraints that must hold for the pod of this cycle.
#[derive(Clone, Debug)]
pub struct Hard(Vec<Hold>);

#[derive(Clone, Debug)]
struct Like {
    counter: CounterId,
    max_skew: i64,
    weight: f64,
}

/// The constraints that are liked to hold.
#[derive(Clone, Debug)]
pub struct Soft {
    constraints: Vec<Like>,
    /// Nodes without all labels get nothing.
    needs_all: bool,
}

/// What upstream spreads by if neither the pod nor the profile says anything.
fn system_defaults() -> Vec<TopologySpreadConstraint> {
    let one = |key: &str, max_skew| TopologySpreadConstraint {
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        max_skew,
        ..TopologySpreadConstraint::default()
    };
    vec![one(HOSTNAME, 3), one(ZONE, 5)]
}

/// The constraints of a pod: its own, or the profile's for pods that have none.
fn constraints_of(objects: &Objects, profile: &Profile, pod: &PodInfo, must: bool) -> Result<Vec<Constraint>, String> {
    let own = if must { &pod.template.hard_spread } else { &pod.template.soft_spread };
    if pod.spec().topology_spread_constraints.as_ref().is_some_and(|c| !c.is_empty()) {
        let kind = if must { "hard" } else { "soft" };
        return own.clone().map_err(|error| format!("obtaining pod's {kind} topology spread constraints: {error}"));
    }
    let args = &profile.args.spread;
    let defaults = match args.defaulting_type {
        Defaulting::System if must => return Ok(Vec::new()),
        Defaulting::System => system_defaults(),
        Defaulting::List => args.default_constraints.clone(),
    };
    let wanted = if must { "DoNotSchedule" } else { "ScheduleAnyway" };
    let defaults: Vec<_> = defaults.into_iter().filter(|c| c.when_unsatisfiable == wanted).collect();
    if defaults.is_empty() {
        return Ok(Vec::new());
    }
    let selector = default_selector(objects, pod);
    if selector.is_empty() {
        return Ok(Vec::new());
    }
    let made = defaults.iter().map(|c| Constraint::new(c, pod.template.labels()).map(|c| Constraint { selector: selector.clone(), ..c }));
    made.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// The pods that belong together with this one: by its services and by what controls it.
fn default_selector(objects: &Objects, pod: &PodInfo) -> Selector {
    let labels = pod.template.labels();
    let mut set: BTreeMap<&str, &str> = BTreeMap::new();
    for service in objects.services.in_namespace(pod.namespace()) {
        let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()) else { continue };
        if selector.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value)) {
            set.extend(selector.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        }
    }
    let owner = pod.pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let mut more: Vec<_> = Vec::new();
    if let Some(owner) = owner {
        let key = client::ObjectKey::new(pod.namespace(), &owner.name);
        let controller = match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("v1", "ReplicationController") => {
                if let Some(selector) =
                    objects.replication_controllers.get(&key).and_then(|rc| rc.spec.as_ref()).and_then(|s| s.selector.as_ref())
                {
                    set.extend(selector.iter().map(|(k, v)| (k.as_str(), v.as_str())));
                }
                None
            }
            ("apps/v1", "ReplicaSet") => objects.replica_sets.get(&key).map(|o| &o.spec.selector),
            ("apps/v1", "StatefulSet") => objects.stateful_sets.get(&key).map(|o| &o.spec.selector),
            _ => None,
        };
        if let Some(Ok(Selector::All(requirements))) = controller.map(|s| Selector::from_label_selector(Some(s))) {
            more = requirements;
        }
    }
    match Selector::from_labels(set) {
        Selector::All(requirements) => Selector::of(requirements.into_iter().chain(more).collect()),
        Selector::Nothing => Selector::Nothing,
    }
}

/// What to count for a constraint. Nodes must have the labels of all constraints, unless these are the system's defaults.
fn request(pod: &PodInfo, constraint: &Constraint, keys: &[String]) -> Request {
    // An empty selector counts nothing, as upstream has it.
    let selector = if constraint.selector.is_empty() { Selector::Nothing } else { constraint.selector.clone() };
    let required = (constraint.honor_affinity && !pod.template.required.is_empty()).then(|| pod.template.required.clone());
    let tolerations = constraint.honor_taints.then(|| pod.template.tolerations().to_vec());
    let affinity = required.as_ref().map(|_| {
        let spec = pod.spec();
        (&spec.node_selector, spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()))
    });
    let text = format!("spread|{}|{}|{selector:?}|{keys:?}|{affinity:?}|{tolerations:?}", constraint.topology_key, pod.namespace());
    Request {
        text,
        matcher: Matcher::Spread { namespace: pod.template.namespace.clone(), selector },
        topology_key: constraint.topology_key.clone(),
        rule: NodeRule { keys: keys.to_vec(), required, tolerations },
    }
}

fn keys(constraints: &[Constraint]) -> Vec<String> {
    constraints.iter().map(|c| c.topology_key.clone()).collect()
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn interests(&self) -> &'static [Interest] {
        const {
            &[
                Interest::hinted(Resource::AssignedPod, Actions::ADD.or(Actions::POD_LABEL).or(Actions::DELETE), pod_counts),
                Interest::hinted(Resource::TargetPod, Actions::POD_TOLERATION.or(Actions::POD_LABEL), target_changed),
                Interest::hinted(
                    Resource::Node,
                    Actions::ADD.or(Actions::DELETE).or(Actions::NODE_LABEL).or(Actions::NODE_TAINT),
                    node_counts,
                ),
            ]
        }
    }

    fn pre_filter(&self, cycle: &mut Preparing<'_>) -> PreFilter {
        let constraints = match constraints_of(&cycle.world.objects, cycle.profile, cycle.pod, true) {
            Err(error) => return PreFilter::Refuse(Refusal::Failed(format!("get constraints from pod: {error}"))),
            Ok(constraints) if constraints.is_empty() => return PreFilter::Skip,
            Ok(constraints) => constraints,
        };
        let keys = keys(&constraints);
        let requests: Vec<Request> = constraints.iter().map(|c| request(cycle.pod, c, &keys)).collect();
        let counters = cycle.world.snapshot.ensure_counters(&requests);
        let hold = |(constraint, counter): (&Constraint, CounterId)| Hold {
            counter,
            max_skew: constraint.max_skew,
            min_domains: constraint.min_domains,
            counts_itself: constraint.selector.matches(&cycle.pod.template.labels()),
        };
        cycle.state.hard_spread = Some(Hard(constraints.iter().zip(counters).map(hold).collect()));
        PreFilter::Ask
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        let Some(Hard(constraints)) = &cycle.state.hard_spread else { return Ok(()) };
        let counters = cycle.world.snapshot.counters();
        for (i, constraint) in constraints.iter().enumerate() {
            let counter = counters.get(constraint.counter);
            let domain = counters.topologies.get(counter.topology).domain(node.index);
            if domain == NO_DOMAIN {
                return Err(Rejection::unresolvable(MISSING_LABEL).into());
            }
            let delta = node.overlay.and_then(|o| o.spread.get(i)).copied().unwrap_or(0);
            let lowest = if counter.domains < constraint.min_domains { 0 } else { counter.min_with(domain, delta) };
            let here = if counter.is_in_play(domain) { counter.count(domain) + delta } else { 0 };
            if here + i64::from(constraint.counts_itself) - lowest > constraint.max_skew {
                return Err(Rejection::resolvable(REASON).into());
            }
        }
        Ok(())
    }

    fn adjust(&self, cycle: &Cycle<'_>, overlay: &mut Overlay, other: &PodInfo, node: NodeIndex, sign: i64) {
        let Some(Hard(constraints)) = &cycle.state.hard_spread else { return };
        overlay.spread.resize(constraints.len(), 0);
        for (delta, constraint) in overlay.spread.iter_mut().zip(constraints) {
            let counter = cycle.world.snapshot.counters().get(constraint.counter);
            if counter.is_eligible(node) && counter.matcher().matches(other, cycle.world.snapshot.namespaces()) {
                *delta += sign;
            }
        }
    }

    fn pre_score(&self, cycle: &mut Preparing<'_>, nodes: &[NodeIndex]) -> bool {
        let Ok(constraints) = constraints_of(&cycle.world.objects, cycle.profile, cycle.pod, false) else { return false };
        if constraints.is_empty() {
            return false;
        }
        let own = cycle.pod.spec().topology_spread_constraints.as_ref().is_some_and(|c| !c.is_empty());
        let needs_all = own || cycle.profile.args.spread.defaulting_type == Defaulting::List;
        let keys = if needs_all { keys(&constraints) } else { Vec::new() };
        let requests: Vec<Request> = constraints.iter().map(|c| request(cycle.pod, c, &keys)).collect();
        let ids = cycle.world.snapshot.ensure_counters(&requests);
        let counters = cycle.world.snapshot.counters();
        let domain = |id: CounterId, node: NodeIndex| counters.topologies.get(counters.get(id).topology).domain(node);
        let counted: Vec<NodeIndex> =
            nodes.iter().copied().filter(|node| !needs_all || ids.iter().all(|id| domain(*id, *node) != NO_DOMAIN)).collect();
        let like = |(constraint, id): (&Constraint, &CounterId)| {
            let size = if constraint.topology_key == HOSTNAME {
                counted.len()
            } else {
                let mut domains: Vec<u32> = counted.iter().map(|node| domain(*id, *node)).collect();
                domains.sort_unstable();
                domains.dedup();
                domains.len()
            };
            Like { counter: *id, max_skew: constraint.max_skew, weight: ((size + 2) as f64).ln() }
        };
        let constraints = constraints.iter().zip(&ids).map(like).collect();
        cycle.state.soft_spread = Some(Soft { constraints, needs_all });
        true
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> i64 {
        let Some(soft) = &cycle.state.soft_spread else { return 0 };
        let counters = cycle.world.snapshot.counters();
        let mut score = 0.0;
        for like in &soft.constraints {
            let counter = counters.get(like.counter);
            let domain = counters.topologies.get(counter.topology).domain(node.index);
            if domain == NO_DOMAIN {
                if soft.needs_all {
                    return IGNORED;
                }
                continue;
            }
            score += counter.count(domain) as f64 * like.weight + (like.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize(&self, _cycle: &Cycle<'_>, _nodes: &[NodeIndex], scores: &mut [i64]) {
        let counted = || scores.iter().copied().filter(|score| *score != IGNORED);
        let (lowest, highest) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0).max(0));
        for score in scores {
            *score = match *score {
                IGNORED => 0,
                _ if highest == 0 => MAX_SCORE,
                score => MAX_SCORE * (highest + lowest - score) / highest,
            };
        }
    }
}

/// The score of a node that lacks a label, until scores are normalized.
const IGNORED: i64 = -1;

fn hard_constraints(world: &World, pod: &PodInfo) -> Vec<Constraint> {
    // Hints have no profile; the default one has no constraints that must hold.
    let _ = world;
    pod.template.hard_spread.clone().unwrap_or_default()
}

fn is_involved(other: &PodInfo, pod: &PodInfo) -> bool {
    (!other.node_name().is_empty() || !other.nominated_node().is_empty()) && other.namespace() == pod.namespace()
}

fn selection_differs(constraints: &[Constraint], old: &PodInfo, new: &PodInfo) -> bool {
    constraints.iter().any(|c| c.selector.matches(&old.template.labels()) != c.selector.matches(&new.template.labels()))
}

fn pod_counts(world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Pod { old, new } = subject else { return true };
    let involved = |other: &Option<Arc<PodInfo>>| other.as_ref().is_none_or(|other| is_involved(other, pod));
    if !involved(old) || !involved(new) {
        return false;
    }
    let constraints = hard_constraints(world, pod);
    match (old, new) {
        (Some(old), Some(new)) => selection_differs(&constraints, old, new),
        (Some(one), None) | (None, Some(one)) => constraints.iter().any(|c| c.selector.matches(&one.template.labels())),
        (None, None) => true,
    }
}

fn target_changed(world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Pod { old: Some(old), new: Some(new) } = subject else { return true };
    let constraints = hard_constraints(world, pod);
    (old.template.tolerations() != new.template.tolerations() && constraints.iter().any(|c| c.honor_taints))
        || selection_differs(&constraints, old, new)
}

fn node_counts(world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Node { old, new } = subject else { return true };
    let constraints = hard_constraints(world, pod);
    let label = |node: &k8s_openapi::api::core::v1::Node, key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key).cloned());
    let has_all = |node: &k8s_openapi::api::core::v1::Node| constraints.iter().all(|c| label(node, &c.topology_key).is_some());
    match (old, new) {
        (Some(old), Some(new)) => {
            let taints = |node: &k8s_openapi::api::core::v1::Node| node.spec.as_ref().and_then(|s| s.taints.clone());
            let moved = || constraints.iter().any(|c| label(old, &c.topology_key) != label(new, &c.topology_key));
            has_all(old) != has_all(new) || (has_all(new) && (moved() || taints(old) != taints(new)))
        }
        (Some(one), None) | (None, Some(one)) => has_all(one),
        (None, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Bench, of};

    fn zones() -> Bench {
        let node = |name: &'static str, zone: &str| (name, json!({"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name}));
        Bench::new(&[node("a1", "a"), node("a2", "a"), node("b1", "b"), ("x", json!({}))])
    }

    fn web(name: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"app": "web"}}})
    }

    fn spread(constraint: Value) -> Value {
        let mut constraint = constraint;
        constraint["labelSelector"] = json!({"matchLabels": {"app": "web"}});
        if constraint["topologyKey"].is_null() {
            constraint["topologyKey"] = json!(ZONE);
        }
        if constraint["whenUnsatisfiable"].is_null() {
            constraint["whenUnsatisfiable"] = json!("DoNotSchedule");
        }
        let mut pod = web("p");
        pod["spec"]["topologySpreadConstraints"] = json!([constraint]);
        pod
    }

    #[test]
    fn no_domain_gets_ahead_of_the_least_by_more_than_the_skew() {
        let mut bench = zones();
        for (node, name) in [("a1", "1"), ("a2", "2")] {
            bench.place(node, web(name));
        }
        bench.place("a1", json!({"metadata": {"name": "other", "labels": {"app": "db"}}}));
        bench.place("b1", json!({"metadata": {"name": "foreign", "namespace": "e", "labels": {"app": "web"}}}));
        let missing = format!("never: {MISSING_LABEL}");
        let (no, yes) = (REASON.to_owned(), String::new());
        let table = [
            (json!({"maxSkew": 1}), [&no, &no, &yes, &missing]),
            (json!({"maxSkew": 2}), [&no, &no, &yes, &missing]),
            (json!({"maxSkew": 3}), [&yes, &yes, &yes, &missing]),
            (json!({"maxSkew": 1, "topologyKey": HOSTNAME}), [&no, &no, &yes, &missing]),
            (json!({"maxSkew": 1, "minDomains": 3}), [&no, &no, &yes, &missing]),
        ];
        for (constraint, expected) in table {
            let got = bench.verdicts(&PodTopologySpread, spread(constraint.clone()));
            assert_eq!(got.iter().collect::<Vec<_>>(), expected, "{constraint}");
        }
        // With one pod in each domain and too few domains, the least counts as none.
        bench.place("b1", web("3"));
        assert_eq!(bench.verdicts(&PodTopologySpread, spread(json!({"maxSkew": 1, "minDomains": 3})))[2], REASON);
        assert_eq!(bench.verdicts(&PodTopologySpread, spread(json!({"maxSkew": 1})))[2], "");
    }

    /// A constraint: the skew, the label of nodes, that of pods (`-` for no selector), and what else it says.
    fn constraint(text: &str) -> Value {
        let words: Vec<&str> = text.split(' ').collect();
        let mut constraint =
            json!({"maxSkew": words[0].parse::<i64>().unwrap(), "topologyKey": words[1], "whenUnsatisfiable": "DoNotSchedule"});
        if words[2] != "-" {
            constraint["labelSelector"] = json!({"matchExpressions": [{"key": words[2], "operator": "Exists"}]});
        }
        for word in &words[3..] {
            let (key, value) = word.split_once('=').unwrap();
            constraint[key] = value.parse::<i64>().map_or_else(|_| json!(value), |number| json!(number));
        }
        constraint
    }

    /// Four nodes by their labels (with `!` for a taint) and by the pods on them (`f` has the label foo, `b` bar, `fb` both), the pod by its labels and
    /// the labels that its node must have, its constraints, and what is said of each node: `.` for nothing, `n` for too many, `m` for no label.
    #[test]
    fn constraints_hold_together_and_count_by_their_own_selectors() {
        const FOUR: [&str; 4] = ["zone=1 node=a", "zone=1 node=b", "zone=2 node=x", "zone=2 node=y"];
        const WITHOUT: [&str; 4] = ["zone=1 node=a", "node=b", "zone=2 node=x", "zone=2 node=y"];
        const MARKED: [&str; 4] = ["zone=1 node=a foo=", "zone=1 node=b foo=", "zone=2 node=x foo=", "zone=2 node=y"];
        const TAINTED: [&str; 4] = ["zone=1 node=a foo=", "zone=1 node=b foo=", "zone=2 node=x foo=", "zone=2 node=y !"];
        const BOTH: [&str; 4] = ["zone=1 node=a foo=", "zone=1 node=b", "zone=2 node=x foo=", "zone=2 node=y foo= !"];
        let (zone, node) = ("1 zone foo", "1 node foo");
        type Row<'a> = ([&'a str; 4], &'a str, &'a str, &'a [&'a str], &'a str);
        let table: [Row<'_>; 27] = [
            (FOUR, "|||", "foo", &[zone], "...."),
            (FOUR, "|||", "foo", &["1 zone bar"], "...."),
            (FOUR, "||f|f", "foo", &[zone], "..nn"),
            (FOUR, "||f|f", "foo", &["1 zone -"], "...."),
            (FOUR, "f f|f||f f f", "foo", &[zone], "...."),
            (WITHOUT, "f|f|f|f", "foo", &[zone], ".mnn"),
            (FOUR, "|||", "foo", &["1 rack foo"], "mmmm"),
            (FOUR, "f f|f||f f f", "foo", &[node], "nn.n"),
            (FOUR, "f f|f||f f f", "foo", &["2 node foo"], "n..n"),
            (FOUR, "f f|f||f f f", "bar", &[node], "n..n"),
            (FOUR, "f|f||f", "foo", &["2 zone foo minDomains=3"], "nn.."),
            (FOUR, "f|f||f", "foo", &["2 zone foo minDomains=1"], "...."),
            (FOUR, "f f|f f|f|f f", "foo", &["2 node foo minDomains=5"], "nn.n"),
            (FOUR, "f f|f f|f|f f", "foo", &["2 node foo minDomains=2"], "...."),
            (MARKED, "f|f||f", "foo ?foo", &[node], "nn.."),
            (MARKED, "f|f||f", "foo ?foo", &["1 node foo nodeAffinityPolicy=Ignore"], "nn.n"),
            (TAINTED, "f|f||f", "foo", &["1 node foo nodeTaintsPolicy=Honor"], "nn.."),
            (TAINTED, "f|f||f", "foo", &[node], "nn.n"),
            (FOUR, "f f|f||f f f", "foo", &[zone, node], "nn.n"),
            (FOUR, "f f|f||f f f f", "foo", &[zone, node], "nnnn"),
            (FOUR, "f|||b", "foo bar", &[zone, "1 node bar"], "nn.n"),
            (FOUR, "f||b|b", "foo bar", &[zone, "1 node bar"], "nnnn"),
            (FOUR, "f fb|||f fb f", "foo bar", &[zone, "1 node bar"], "n.nn"),
            (FOUR, "f||b|b", "bar", &[zone, "1 node bar"], "..nn"),
            (["zone=1 node=a", "zone=1 node=b", "zone=2", "zone=2 node=y"], "f|||f", "foo", &[zone, node], "n.mn"),
            (BOTH, "f|f||f", "foo ?foo", &["1 zone foo nodeTaintsPolicy=Honor", "1 node foo nodeAffinityPolicy=Ignore"], "nn.n"),
            (FOUR, "fb f|fb||f fb f f", "foo bar", &["1 zone bar", zone], "nnnn"),
        ];
        for (nodes, there, pod, constraints, expected) in table {
            let mut bench = Bench::new(&[]);
            for (i, (labels, pods)) in nodes.iter().zip(there.split('|')).enumerate() {
                let (mut all, mut taints) = (json!({}), json!([]));
                for label in labels.split(' ') {
                    match label.split_once('=') {
                        Some((key, value)) => all[key] = json!(value),
                        None => taints = json!([{"key": "t", "effect": "NoSchedule"}]),
                    }
                }
                bench.node(json!({"metadata": {"name": format!("n{i}"), "labels": all}, "spec": {"taints": taints}}));
                for (j, kind) in pods.split_whitespace().enumerate() {
                    let mut labels = json!({});
                    kind.chars().for_each(|c| labels[if c == 'f' { "foo" } else { "bar" }] = json!(""));
                    bench.place(&format!("n{i}"), json!({"metadata": {"name": format!("p{i}-{j}"), "labels": labels}}));
                }
            }
            let mut asking = json!({"metadata": {"name": "p", "labels": {}}});
            for word in pod.split(' ') {
                match word.strip_prefix('?') {
                    Some(label) => asking["spec"]["nodeSelector"] = json!({label: ""}),
                    None => asking["metadata"]["labels"][word] = json!(""),
                }
            }
            asking["spec"]["topologySpreadConstraints"] = constraints.iter().map(|text| constraint(text)).collect();
            let missing = format!("never: {MISSING_LABEL}");
            let told = |said: &String| {
                if said.is_empty() {
                    '.'
                } else if *said == missing {
                    'm'
                } else {
                    'n'
                }
            };
            let got: String = bench.verdicts(&PodTopologySpread, asking).iter().map(told).collect();
            assert_eq!(got, expected, "{nodes:?} {there} {pod} {constraints:?}");
        }
    }

    #[test]
    fn nodes_that_the_pod_may_not_use_do_not_count_unless_the_policy_says_so() {
        let mut bench = zones();
        bench.place("a1", web("1"));
        let mut pod = spread(json!({"maxSkew": 1}));
        pod["spec"]["nodeSelector"] = json!({ZONE: "a"});
        assert_eq!(bench.verdicts(&PodTopologySpread, pod.clone())[1], "", "zone b is not the pod's, so a is the least itself");
        pod["spec"]["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = json!("Ignore");
        assert_eq!(bench.verdicts(&PodTopologySpread, pod)[1], REASON);
    }

    #[test]
    fn pods_that_are_being_deleted_do_not_count() {
        let mut bench = zones();
        let mut leaving = web("1");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        bench.place("a1", leaving);
        assert_eq!(bench.verdicts(&PodTopologySpread, spread(json!({"maxSkew": 1})))[..3], ["", "", ""]);
    }

    #[test]
    fn pods_that_only_like_to_be_spread_go_where_fewer_are() {
        let mut bench = zones();
        for (node, name) in [("a1", "1"), ("a2", "2"), ("b1", "3")] {
            bench.place(node, web(name));
        }
        let scores = bench.scores(&PodTopologySpread, spread(json!({"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}))).unwrap();
        // Two and one pods times ln 4, rounded: 3 and 1.
        assert_eq!(scores, [33, 33, 100, 0], "a node without the label gets nothing");
        assert_eq!(bench.scores(&PodTopologySpread, web("p")), None, "nothing makes it belong to others");
    }

    #[test]
    fn pods_of_a_service_or_a_replica_set_are_spread_by_default() {
        let mut bench = zones();
        bench.place("a1", web("1"));
        bench.world.objects.services.insert(of(json!({"metadata": {"name": "s", "namespace": "d"}, "spec": {"selector": {"app": "web"}}})));
        let scores = bench.scores(&PodTopologySpread, web("p")).unwrap();
        assert!(scores[2] > scores[1] && scores[1] > scores[0], "{scores:?}");
        let mut bench = zones();
        bench.place("a1", web("1"));
        let set = json!({"metadata": {"name": "r", "namespace": "d"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}});
        bench.world.objects.replica_sets.insert(of(set));
        let mut pod = web("p");
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
        let scores = bench.scores(&PodTopologySpread, pod).unwrap();
        assert!(scores[2] > scores[1] && scores[1] > scores[0], "{scores:?}");
    }

    #[test]
    fn a_pod_is_tried_again_when_the_counts_may_have_changed() {
        let mut bench = zones();
        let pod = bench.pod(spread(json!({"maxSkew": 1})));
        let mut gone = web("1");
        gone["spec"]["nodeName"] = json!("a1");
        let gone = Arc::new(bench.pod(gone));
        let left = Subject::Pod { old: Some(gone.clone()), new: None };
        assert!(pod_counts(&bench.world, &pod, &left));
        let stranger = Arc::new(bench.pod(json!({"metadata": {"name": "s"}, "spec": {"nodeName": "a1"}})));
        assert!(!pod_counts(&bench.world, &pod, &Subject::Pod { old: Some(stranger), new: None }));
        let labelled = |zone: Value| of::<k8s_openapi::api::core::v1::Node>(json!({"metadata": {"name": "n", "labels": zone}}));
        let (with, without) = (labelled(json!({ZONE: "c"})), labelled(json!({})));
        assert!(node_counts(&bench.world, &pod, &Subject::Node { old: None, new: Some(with.clone()) }));
        assert!(!node_counts(&bench.world, &pod, &Subject::Node { old: None, new: Some(without.clone()) }));
        assert!(node_counts(&bench.world, &pod, &Subject::Node { old: Some(without), new: Some(with) }));
    }
}
