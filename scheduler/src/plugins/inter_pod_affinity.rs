//! InterPodAffinity: pods that want to be near others or away from them, and what pods that are there already want.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, MAX_SCORE, NodeView, Overlay, Plugin, Point, PreFilter, Preparing, Refusal, Rejection, Verdict};
use crate::snapshot::NodeIndex;
use crate::snapshot::counters::{CounterId, HeldId, HeldKind, Matcher, NodeRule, Request};
use crate::snapshot::pod::PodInfo;
use crate::snapshot::terms::{Namespaces, Term};
use crate::snapshot::topology::NO_DOMAIN;
use crate::world::World;

pub struct InterPodAffinity;

pub const EXISTING_ANTI_AFFINITY: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
pub const AFFINITY: &str = "node(s) didn't match pod affinity rules";
pub const ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";

/// What must hold for the pod of this cycle.
#[derive(Clone, Debug, Default)]
pub struct Hard {
    /// One for each affinity term: the pods that fulfil all of them, by the term's topology.
    affinity: Vec<CounterId>,
    /// Whether the pod itself fulfils its affinity terms; then it may be the first.
    fulfils_itself: bool,
    /// One for each anti-affinity term: the pods that fulfil it.
    anti_affinity: Vec<CounterId>,
    /// Anti-affinity terms of pods that are there which this pod fulfils.
    held: Vec<HeldId>,
}

/// What makes nodes more or less liked.
#[derive(Clone, Debug, Default)]
pub struct Soft {
    counters: Vec<(CounterId, i64)>,
    held: Vec<(HeldId, i64)>,
}

fn near(terms: &[Arc<Term>], topology_key: &str) -> Request {
    let text = terms.iter().map(|term| term.text.as_str()).collect::<Vec<_>>().join("&");
    Request {
        text: format!("affinity|{topology_key}|{text}"),
        matcher: Matcher::Terms(terms.to_vec()),
        topology_key: topology_key.to_owned(),
        rule: NodeRule::default(),
    }
}

fn matches_all(terms: &[Arc<Term>], pod: &PodInfo, namespaces: &Namespaces) -> bool {
    !terms.is_empty() && terms.iter().all(|term| term.matches(pod.namespace(), pod.template.labels(), namespaces))
}

fn matches_any(terms: &[Arc<Term>], pod: &PodInfo, namespaces: &Namespaces) -> bool {
    terms.iter().any(|term| term.matches(pod.namespace(), pod.template.labels(), namespaces))
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn interests(&self) -> &'static [Interest] {
        const {
            &[
                Interest::hinted(Resource::AssignedPod, Actions::ADD.or(Actions::POD_LABEL).or(Actions::DELETE), pod_matters),
                Interest::any(Resource::TargetPod, Actions::POD_LABEL),
                Interest::hinted(Resource::Node, Actions::ADD.or(Actions::NODE_LABEL), node_matters),
            ]
        }
    }

    fn pre_filter(&self, cycle: &mut Preparing<'_>) -> PreFilter {
        let terms = match &cycle.pod.template.terms {
            Err(error) => return PreFilter::Refuse(Refusal::Rejected(Rejection::saying(false, format!("parsing pod: {error}")))),
            Ok(terms) => terms,
        };
        let snapshot = &mut cycle.world.snapshot;
        let about = snapshot.held_for(cycle.pod);
        let held: Vec<HeldId> = {
            let counters = snapshot.counters();
            about.iter().copied().filter(|id| counters.held(*id).is_some_and(|held| held.kind == HeldKind::AntiAffinity)).collect()
        };
        if terms.affinity.is_empty() && terms.anti_affinity.is_empty() && held.is_empty() {
            return PreFilter::Skip;
        }
        let affinity: Vec<Request> = terms.affinity.iter().map(|term| near(&terms.affinity, &term.topology_key)).collect();
        let anti: Vec<Request> = terms.anti_affinity.iter().map(|term| near(std::slice::from_ref(term), &term.topology_key)).collect();
        cycle.state.affinity = Some(Hard {
            affinity: snapshot.ensure_counters(&affinity),
            fulfils_itself: matches_all(&terms.affinity, cycle.pod, snapshot.namespaces()),
            anti_affinity: snapshot.ensure_counters(&anti),
            held,
        });
        PreFilter::Ask
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        let Some(hard) = &cycle.state.affinity else { return Ok(()) };
        let counters = cycle.world.snapshot.counters();
        let none = Overlay::default();
        let overlay = node.overlay.unwrap_or(&none);
        let (mut all_near, mut any_anywhere) = (true, false);
        for id in &hard.affinity {
            let counter = counters.get(*id);
            let domain = counters.topologies.get(counter.topology).domain(node.index);
            if domain == NO_DOMAIN {
                return Err(Rejection::unresolvable(AFFINITY).into());
            }
            all_near &= counter.count(domain) + overlay.affinity > 0;
            any_anywhere |= counter.total + overlay.affinity > 0;
        }
        if !all_near && (any_anywhere || !hard.fulfils_itself) {
            return Err(Rejection::unresolvable(AFFINITY).into());
        }
        for (i, id) in hard.anti_affinity.iter().enumerate() {
            let counter = counters.get(*id);
            let domain = counters.topologies.get(counter.topology).domain(node.index);
            if domain != NO_DOMAIN && counter.count(domain) + overlay.anti_affinity.get(i).copied().unwrap_or(0) > 0 {
                return Err(Rejection::resolvable(ANTI_AFFINITY).into());
            }
        }
        for (i, id) in hard.held.iter().enumerate() {
            let Some(held) = counters.held(*id) else { continue };
            let domain = counters.topologies.get(held.topology).domain(node.index);
            if domain != NO_DOMAIN && held.count(domain) + overlay.held.get(i).copied().unwrap_or(0) > 0 {
                return Err(Rejection::resolvable(EXISTING_ANTI_AFFINITY).into());
            }
        }
        // A pod looked at as if it were there may have terms that no pod on a node has yet.
        if let Some(more) = node.overlay
            && !more.held.is_empty()
            && more.held.len() > hard.held.len()
            && more.held[hard.held.len()..].iter().any(|pods| *pods > 0)
        {
            return Err(Rejection::resolvable(EXISTING_ANTI_AFFINITY).into());
        }
        Ok(())
    }

    fn adjust(&self, cycle: &Cycle<'_>, overlay: &mut Overlay, other: &PodInfo, node: NodeIndex, sign: i64) {
        let snapshot = &cycle.world.snapshot;
        let (counters, namespaces) = (snapshot.counters(), snapshot.namespaces());
        let nothing = Hard::default();
        let hard = cycle.state.affinity.as_ref().unwrap_or(&nothing);
        let terms = cycle.pod.template.terms();
        if matches_all(&terms.affinity, other, namespaces) {
            overlay.affinity += sign;
        }
        overlay.anti_affinity.resize(hard.anti_affinity.len(), 0);
        for (delta, term) in overlay.anti_affinity.iter_mut().zip(&terms.anti_affinity) {
            if term.matches(other.namespace(), other.template.labels(), namespaces) {
                *delta += sign;
            }
        }
        overlay.held.resize(hard.held.len().max(overlay.held.len()), 0);
        for (delta, id) in overlay.held.iter_mut().zip(&hard.held) {
            *delta += sign * counters.holds(other, *id);
        }
        // Terms that are counted nowhere yet: those of nominated pods.
        let known = |term: &Arc<Term>| hard.held.iter().filter_map(|id| counters.held(*id)).any(|held| held.term.text == term.text);
        let label = |term: &Arc<Term>| snapshot.node(node).label(&term.topology_key).is_some();
        let new = other
            .template
            .terms()
            .anti_affinity
            .iter()
            .filter(|term| !known(term) && label(term) && term.matches(cycle.pod.namespace(), cycle.pod.template.labels(), namespaces));
        let new = new.count() as i64;
        if new > 0 {
            overlay.held.push(sign * new);
        }
    }

    fn pre_score(&self, cycle: &mut Preparing<'_>, _nodes: &[NodeIndex]) -> bool {
        let args = &cycle.profile.args.inter_pod_affinity;
        let terms = cycle.pod.template.terms();
        let snapshot = &mut cycle.world.snapshot;
        let about = snapshot.held_for(cycle.pod);
        let mut held: Vec<(HeldId, i64)> = Vec::new();
        if !(args.ignore_preferred_terms_of_existing_pods && terms.preferred.is_empty()) {
            for id in about.iter() {
                match snapshot.counters().held(*id).map(|held| held.kind) {
                    Some(HeldKind::Preferred(weight)) => held.push((*id, weight)),
                    Some(HeldKind::Affinity) if args.hard_pod_affinity_weight > 0 => {
                        held.push((*id, args.hard_pod_affinity_weight.into()));
                    }
                    _ => {}
                }
            }
        }
        let wanted: Vec<Request> = terms.preferred.iter().map(|(term, _)| near(std::slice::from_ref(term), &term.topology_key)).collect();
        let ids = snapshot.ensure_counters(&wanted);
        let weighted = ids.into_iter().zip(terms.preferred.iter().map(|(_, weight)| *weight));
        let soft = Soft { counters: weighted.filter(|(id, _)| snapshot.counters().get(*id).total > 0).collect(), held };
        if soft.counters.is_empty() && soft.held.is_empty() {
            return false;
        }
        cycle.state.liking = Some(soft);
        true
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> i64 {
        let Some(soft) = &cycle.state.liking else { return 0 };
        let counters = cycle.world.snapshot.counters();
        let counted = soft.counters.iter().map(|(id, weight)| {
            let counter = counters.get(*id);
            weight * counter.count(counters.topologies.get(counter.topology).domain(node.index))
        });
        let held = soft.held.iter().filter_map(|(id, weight)| {
            let held = counters.held(*id)?;
            Some(weight * held.count(counters.topologies.get(held.topology).domain(node.index)))
        });
        counted.chain(held).sum()
    }

    fn normalize(&self, _cycle: &Cycle<'_>, _nodes: &[NodeIndex], scores: &mut [i64]) {
        let (lowest, highest) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        let span = highest - lowest;
        for score in scores {
            *score = if span > 0 { (MAX_SCORE as f64 * ((*score - lowest) as f64 / span as f64)) as i64 } else { 0 };
        }
    }
}

fn pod_matters(world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Pod { old, new } = subject else { return true };
    let placed = |other: &Option<Arc<PodInfo>>| {
        other.as_ref().is_none_or(|other| !other.node_name().is_empty() || !other.nominated_node().is_empty())
    };
    if !placed(old) || !placed(new) {
        return false;
    }
    let namespaces = world.snapshot.namespaces();
    let terms = pod.template.terms();
    match (old, new) {
        (Some(old), Some(new)) => {
            let all = |other: &PodInfo| matches_all(&terms.affinity, other, namespaces);
            let any = |other: &PodInfo| matches_any(&terms.anti_affinity, other, namespaces);
            (!all(old) && all(new)) || (any(old) && !any(new))
        }
        (None, Some(new)) => matches_all(&terms.affinity, new, namespaces),
        (Some(old), None) => {
            matches_any(&terms.anti_affinity, old, namespaces) || matches_any(&old.template.terms().anti_affinity, pod, namespaces)
        }
        (None, None) => true,
    }
}

fn node_matters(_world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Node { old, new: Some(new) } = subject else { return true };
    let label = |labels: &Option<BTreeMap<String, String>>, key: &str| labels.as_ref().and_then(|l| l.get(key).cloned());
    let terms = pod.template.terms();
    let Some(old) = old else {
        return !terms.anti_affinity.is_empty() || terms.affinity.iter().any(|t| label(&new.metadata.labels, &t.topology_key).is_some());
    };
    let moved = |key: &str| {
        let (before, now) = (label(&old.metadata.labels, key), label(&new.metadata.labels, key));
        (before != now).then_some((before, now))
    };
    terms.affinity.iter().any(|t| moved(&t.topology_key).is_some_and(|(_, now)| now.is_some()))
        || terms.anti_affinity.iter().any(|t| moved(&t.topology_key).is_some_and(|(before, _)| before.is_some()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Bench, of};
    use crate::snapshot::terms::{HOSTNAME, ZONE};

    fn zones() -> Bench {
        let node = |name: &'static str, zone: &str| (name, json!({"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name}));
        Bench::new(&[node("a1", "a"), node("a2", "a"), node("b1", "b")])
    }

    fn app(name: &str, app: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"app": app}}})
    }

    fn term(app: &str, key: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
    }

    fn with(mut pod: Value, kind: &str, terms: Value) -> Value {
        let field = if terms[0]["weight"].is_null() { "required" } else { "preferred" };
        pod["spec"]["affinity"][kind][format!("{field}DuringSchedulingIgnoredDuringExecution")] = terms;
        pod
    }

    #[test]
    fn pods_go_near_those_that_they_want_and_away_from_those_that_they_do_not() {
        let mut bench = zones();
        bench.place("a1", app("db", "db"));
        let (near, away) = (format!("never: {AFFINITY}"), ANTI_AFFINITY.to_owned());
        let yes = String::new();
        let table = [
            (with(app("p", "web"), "podAffinity", json!([term("db", ZONE)])), [&yes, &yes, &near]),
            (with(app("p", "web"), "podAffinity", json!([term("db", HOSTNAME)])), [&yes, &near, &near]),
            (with(app("p", "web"), "podAntiAffinity", json!([term("db", ZONE)])), [&away, &away, &yes]),
            (with(app("p", "web"), "podAntiAffinity", json!([term("db", HOSTNAME)])), [&away, &yes, &yes]),
            (with(app("p", "web"), "podAffinity", json!([term("none", ZONE)])), [&near, &near, &near]),
            // The first of its kind may go anywhere.
            (with(app("p", "web"), "podAffinity", json!([term("web", ZONE)])), [&yes, &yes, &yes]),
            // Terms count together: no pod fulfils both.
            (with(app("p", "web"), "podAffinity", json!([term("db", ZONE), term("web", ZONE)])), [&near, &near, &near]),
        ];
        for (pod, expected) in table {
            let got = bench.verdicts(&InterPodAffinity, pod.clone());
            assert_eq!(got.iter().collect::<Vec<_>>(), expected, "{pod}");
        }
        assert_eq!(bench.verdicts(&InterPodAffinity, app("p", "web")), ["skip"]);
    }

    /// A pod by its labels and by the labels that others near it must have (`+label@key`) or must not have (`-label@key`).
    fn brief(name: &str, text: &str) -> Value {
        let mut pod = json!({"metadata": {"name": name, "labels": {}}});
        let (mut near, mut away) = (Vec::new(), Vec::new());
        for word in text.split_whitespace() {
            let term = |text: &str| {
                let (label, key) = text.split_once('@').unwrap();
                json!({"labelSelector": {"matchExpressions": [{"key": label, "operator": "Exists"}]}, "topologyKey": key})
            };
            match word.split_at(1) {
                ("+", text) => near.push(term(text)),
                ("-", text) => away.push(term(text)),
                _ => pod["metadata"]["labels"][word] = json!(""),
            }
        }
        for (kind, terms) in [("podAffinity", near), ("podAntiAffinity", away)] {
            if !terms.is_empty() {
                pod["spec"]["affinity"][kind]["requiredDuringSchedulingIgnoredDuringExecution"] = json!(terms);
            }
        }
        pod
    }

    /// Nodes by their labels, who is there, the pod, and what is said of each node: `.` for nothing, `n` for not near those that it wants, `a` for
    /// near those that it does not want, and `e` for not wanted by those that are there.
    #[test]
    fn terms_of_both_sides_hold_by_the_domains_that_they_name() {
        let zones = ["region=r1 zone=z1", "region=r1 zone=z2"];
        type Row<'a> = (&'a [&'a str], &'a [(usize, &'a str)], &'a str, &'a str);
        let table: [Row<'_>; 26] = [
            (&zones[..1], &[(0, "service")], "security +service@region -security@zone", "."),
            (&zones[..1], &[(0, "service -security@zone")], "security +service@region", "e"),
            (&zones[..1], &[(0, "service -security@zone")], "other +service@region -security@zone", "."),
            (&zones[..1], &[(0, "service")], "x +service@region -service@zone", "a"),
            (&zones[..1], &[(0, "service")], "service +service@region", "."),
            (&zones[..1], &[(0, "security -service@zone")], "service", "e"),
            (&zones[..1], &[(0, "security -other@zone")], "service", "s"),
            (&zones[..1], &[(0, "security -security@zone")], "service -service@region -security@region", "a"),
            // Either side may have the term that is not fulfilled; one's own is told first.
            (&zones[..1], &[(0, "security -security@zone")], "service -service@zone -security@zone", "a"),
            (&zones[..1], &[(0, "service -service@zone -security@zone")], "security -security@zone", "e"),
            (&zones[..1], &[(0, "def xyz -abc@zone -def@zone")], "abc xyz -abc@zone -def@zone", "a"),
            (&zones[..1], &[(0, "abc xyz -abc@zone -def@zone")], "def xyz -abc@zone -def@zone", "a"),
            // The first of its kind may go anywhere that has the label; a pod that fulfils half of the terms is nobody.
            (&zones, &[(0, "foo")], "foo service +foo@zone +service@zone", ".."),
            (&["zoneLabel=1", "zoneLabel=2"], &[(0, "foo")], "foo service +foo@zone +service@zone", "nn"),
            (&zones, &[(0, "foo")], "x -foo@region", "aa"),
            (&zones, &[(0, "foo service")], "x -foo@region -service@zone", "aa"),
            (&["region=c", "region=c", "region=i"], &[(0, "foo")], "x -foo@region", "aa."),
            // A term on a label that nodes do not have is about nobody.
            (&zones, &[(0, "x -foo@nowhere")], "foo", ".."),
            (&zones, &[(0, "foo")], "x -foo@nowhere", ".."),
            (&zones, &[(0, "x -foo@zone"), (0, "x -bar@region")], "foo bar", "ee"),
            (&zones, &[(0, "foo"), (1, "bar")], "x -foo@zone -bar@region", "aa"),
            (&zones, &[(0, "x -foo@nowhere -bar@zone")], "foo bar", "e."),
            (&zones, &[(0, "foo bar")], "x -foo@nowhere -bar@zone", "a."),
            (
                &["region=r1 zone=z1", "region=r1 zone=z2", "region=r1 zone=z3"],
                &[(0, "x -foo@zone -p@zone"), (1, "x -bar@zone -q@zone")],
                "foo bar",
                "ee.",
            ),
            // All terms have to be fulfilled by one and the same pod.
            (&["region=r1 zone=z1", "region=r1 zone=z1"], &[(0, "foo bar")], "x +foo@region +bar@zone", ".."),
            (&zones, &[(0, "foo"), (1, "bar")], "x +foo@region +bar@zone", "nn"),
        ];
        for (nodes, there, pod, expected) in table {
            let mut bench = Bench::new(&[]);
            for (i, labels) in nodes.iter().enumerate() {
                let labels: serde_json::Map<String, Value> = labels
                    .split(' ')
                    .map(|label| label.split_once('=').map(|(key, value)| (key.to_owned(), json!(value))).unwrap())
                    .collect();
                bench.node(json!({"metadata": {"name": format!("n{i}"), "labels": labels}}));
            }
            for (i, (node, text)) in there.iter().enumerate() {
                bench.place(&format!("n{node}"), brief(&format!("there{i}"), text));
            }
            let (near, away) = (format!("never: {AFFINITY}"), ANTI_AFFINITY);
            let expected: Vec<&str> = expected
                .chars()
                .map(|c| match c {
                    '.' => "",
                    'n' => &near,
                    'a' => away,
                    'e' => EXISTING_ANTI_AFFINITY,
                    _ => "skip",
                })
                .collect();
            assert_eq!(bench.verdicts(&InterPodAffinity, brief("p", pod)), expected, "{nodes:?} {there:?} {pod}");
        }
    }

    #[test]
    fn requirements_of_a_selector_hold_together_and_have_to_be_valid() {
        let mut bench = zones();
        bench.place("a1", json!({"metadata": {"name": "db", "labels": {"service": "scan", "tier": "x"}}}));
        let near = format!("never: {AFFINITY}");
        // The pod is like the one that is there: with a term that it fulfils itself it would be the first of its kind.
        let selecting = |expressions: Value| {
            let pod = json!({"metadata": {"name": "p", "labels": {"service": "scan", "tier": "x"}}});
            with(pod, "podAffinity", json!([{"labelSelector": {"matchExpressions": expressions}, "topologyKey": HOSTNAME}]))
        };
        for (expressions, expected) in [
            (json!([{"key": "service", "operator": "NotIn", "values": ["other"]}]), ""),
            (json!([{"key": "service", "operator": "NotIn", "values": ["scan"]}]), &near),
            (json!([{"key": "service", "operator": "Exists"}, {"key": "wrong", "operator": "DoesNotExist"}]), ""),
            (json!([{"key": "service", "operator": "Exists"}, {"key": "tier", "operator": "NotIn", "values": ["x", "y"]}]), &near),
        ] {
            assert_eq!(bench.verdicts(&InterPodAffinity, selecting(expressions.clone()))[0], expected, "{expressions}");
        }
        let bad =
            bench.verdicts(&InterPodAffinity, selecting(json!([{"key": "service", "operator": "In", "values": ["{{.bad-value.}}"]}])));
        assert_eq!(
            bad,
            [
                "never: parsing pod: requiredAffinityTerms: values[0][service]: Invalid value: \"{{.bad-value.}}\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ]
        );
    }

    #[test]
    fn pods_that_are_there_keep_others_away() {
        let mut bench = zones();
        bench.place("a1", with(app("db", "db"), "podAntiAffinity", json!([term("web", ZONE)])));
        assert_eq!(bench.verdicts(&InterPodAffinity, app("p", "web")), [EXISTING_ANTI_AFFINITY, EXISTING_ANTI_AFFINITY, ""]);
        assert_eq!(bench.verdicts(&InterPodAffinity, app("p", "log")), ["skip"]);
        bench.world.snapshot.remove_pod("db");
        assert_eq!(bench.verdicts(&InterPodAffinity, app("p", "web")), ["skip"]);
    }

    #[test]
    fn namespaces_are_named_or_selected() {
        let mut bench = zones();
        bench.place("a1", json!({"metadata": {"name": "db", "namespace": "e", "labels": {"app": "db"}}}));
        let never = format!("never: {AFFINITY}");
        let pod = |field: &str, value: Value| {
            let mut term = term("db", HOSTNAME);
            if !field.is_empty() {
                term[field] = value;
            }
            with(app("p", "web"), "podAffinity", json!([term]))
        };
        assert_eq!(bench.verdicts(&InterPodAffinity, pod("", json!(null)))[0], never);
        assert_eq!(bench.verdicts(&InterPodAffinity, pod("namespaces", json!(["e"])))[0], "");
        assert_eq!(bench.verdicts(&InterPodAffinity, pod("namespaceSelector", json!({})))[0], "");
        let selected = pod("namespaceSelector", json!({"matchLabels": {"team": "x"}}));
        assert_eq!(bench.verdicts(&InterPodAffinity, selected.clone())[0], never);
        bench.world.snapshot.set_namespace("e", Some([("team".to_owned(), "x".to_owned())].into()));
        assert_eq!(bench.verdicts(&InterPodAffinity, selected)[0], "");
    }

    #[test]
    fn preferences_of_both_sides_are_weighed() {
        let mut bench = zones();
        bench.place("a1", app("db", "db"));
        bench.place("b1", app("log", "log"));
        let near = with(app("p", "web"), "podAffinity", json!([{"weight": 8, "podAffinityTerm": term("db", ZONE)}]));
        assert_eq!(bench.scores(&InterPodAffinity, near.clone()), Some(vec![100, 100, 0]));
        let both = with(near, "podAntiAffinity", json!([{"weight": 8, "podAffinityTerm": term("db", HOSTNAME)}]));
        assert_eq!(bench.scores(&InterPodAffinity, both), Some(vec![0, 100, 0]));
        assert_eq!(bench.scores(&InterPodAffinity, app("p", "web")), None);
        bench.place("b1", with(app("fan", "fan"), "podAffinity", json!([{"weight": 1, "podAffinityTerm": term("web", HOSTNAME)}])));
        assert_eq!(bench.scores(&InterPodAffinity, app("p", "web")), Some(vec![0, 0, 100]));
        // Who requires to be near such pods likes them too.
        bench.place("a2", with(app("web", "web"), "podAffinity", json!([term("web", HOSTNAME)])));
        assert_eq!(bench.scores(&InterPodAffinity, app("p", "web")), Some(vec![0, 100, 100]));
    }

    #[test]
    fn a_pod_is_tried_again_when_what_it_wants_may_have_come() {
        let mut bench = zones();
        let pod = bench.pod(with(app("p", "web"), "podAffinity", json!([term("db", ZONE)])));
        let placed = |bench: &mut Bench, kind: &str| {
            let mut value = app(kind, kind);
            value["spec"]["nodeName"] = json!("a1");
            Arc::new(bench.pod(value))
        };
        let (db, log) = (placed(&mut bench, "db"), placed(&mut bench, "log"));
        assert!(pod_matters(&bench.world, &pod, &Subject::Pod { old: None, new: Some(db.clone()) }));
        assert!(!pod_matters(&bench.world, &pod, &Subject::Pod { old: None, new: Some(log) }));
        assert!(!pod_matters(&bench.world, &pod, &Subject::Pod { old: Some(db), new: None }));
        let node = |labels: Value| of(json!({"metadata": {"name": "n", "labels": labels}}));
        assert!(node_matters(&bench.world, &pod, &Subject::Node { old: None, new: Some(node(json!({ZONE: "c"}))) }));
        assert!(!node_matters(&bench.world, &pod, &Subject::Node { old: None, new: Some(node(json!({}))) }));
    }
}
