//! Counts of pods by topology domain, kept as pods come and go, so that a search over thousands of nodes asks a number and
//! never looks at the pods themselves.
//!
//! There are two kinds. A [`Counter`] counts the pods that something selects (a spread constraint, an affinity term of the pod to be
//! placed); it is made when first asked for and forgotten when long unused. A [`Held`] counts the pods that have a term themselves, by
//! the term: these decide about other pods.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use apimachinery::selector::label::Selector;
use k8s_openapi::api::core::v1::Toleration;

use super::node::NodeInfo;
use super::pod::{PodInfo, Template};
use super::terms::{Namespaces, Term};
use super::topology::{NO_DOMAIN, Topologies, TopologyId};
use crate::node_selector::Required;
use crate::taints::all_tolerated;

/// Counters that are kept; the one that was not asked for the longest goes first.
const MAX_COUNTERS: usize = 1024;
/// Labels that are followed. Beyond it everything is counted anew for those that are still asked for.
const MAX_TOPOLOGIES: usize = 512;

/// Which pods a counter counts.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// Pods that fulfil all of these terms.
    Terms(Vec<Arc<Term>>),
    /// Pods of one namespace that are not being deleted.
    Spread { namespace: Arc<str>, selector: Selector },
}

impl Matcher {
    pub fn matches(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        (!pod.terminating || matches!(self, Matcher::Terms(_))) && self.selects(&pod.template, namespaces)
    }

    fn selects(&self, template: &Template, namespaces: &Namespaces) -> bool {
        match self {
            Matcher::Terms(terms) => terms.iter().all(|term| term.matches(&template.namespace, template.labels(), namespaces)),
            Matcher::Spread { namespace, selector } => *template.namespace == **namespace && selector.matches(&template.labels()),
        }
    }

    fn asks_namespaces(&self) -> bool {
        matches!(self, Matcher::Terms(terms) if terms.iter().any(|term| term.asks_namespaces()))
    }
}

/// Which nodes a counter looks at.
#[derive(Clone, Debug, Default)]
pub struct NodeRule {
    /// Labels that a node must have.
    pub keys: Vec<String>,
    pub required: Option<Required>,
    pub tolerations: Option<Vec<Toleration>>,
}

impl NodeRule {
    fn allows(&self, info: &NodeInfo) -> bool {
        let Some(node) = &info.node else { return false };
        self.keys.iter().all(|key| info.label(key).is_some())
            && self.required.as_ref().is_none_or(|required| required.matches(node))
            && self.tolerations.as_ref().is_none_or(|tolerations| all_tolerated(tolerations, info.taints()))
    }
}

/// What a counter is to count.
#[derive(Clone, Debug)]
pub struct Request {
    /// Two requests with the same text are the same.
    pub text: String,
    pub matcher: Matcher,
    pub topology_key: String,
    pub rule: NodeRule,
}

/// One count by domain.
#[derive(Debug)]
pub struct Counter {
    request: Request,
    pub topology: TopologyId,
    eligible: Vec<bool>,
    counts: Vec<u32>,
    /// Nodes that count, by domain: a domain without any is none.
    nodes: Vec<u32>,
    /// How many domains have how many pods.
    histogram: BTreeMap<u32, u32>,
    pub domains: i64,
    pub total: i64,
    used: u64,
}

impl Counter {
    pub fn matcher(&self) -> &Matcher {
        &self.request.matcher
    }

    pub fn is_eligible(&self, node: u32) -> bool {
        self.eligible.get(node as usize).copied().unwrap_or(false)
    }

    /// Pods in a domain.
    pub fn count(&self, domain: u32) -> i64 {
        self.counts.get(domain as usize).copied().unwrap_or(0).into()
    }

    /// Whether the domain has nodes that count.
    pub fn is_in_play(&self, domain: u32) -> bool {
        self.nodes.get(domain as usize).is_some_and(|nodes| *nodes > 0)
    }

    /// The smallest count of any domain, if the count of `domain` were changed by `delta`. Very large if there is no domain.
    pub fn min_with(&self, domain: u32, delta: i64) -> i64 {
        let mut counts = self.histogram.iter();
        let lowest = counts.next().map_or(i64::from(i32::MAX), |(count, _)| i64::from(*count));
        if delta == 0 || !self.is_in_play(domain) {
            return lowest;
        }
        let own = self.count(domain);
        let others = match self.histogram.first_key_value() {
            Some((count, 1)) if i64::from(*count) == own => counts.next().map_or(i64::from(i32::MAX), |(count, _)| i64::from(*count)),
            _ => lowest,
        };
        others.min(own + delta)
    }

    fn move_domain(&mut self, from: Option<u32>, to: Option<u32>) {
        if let Some(from) = from
            && let Some(domains) = self.histogram.get_mut(&from)
        {
            *domains -= 1;
            if *domains == 0 {
                self.histogram.remove(&from);
            }
        }
        if let Some(to) = to {
            *self.histogram.entry(to).or_insert(0) += 1;
        }
    }

    fn grow(&mut self, domain: u32) {
        let len = domain as usize + 1;
        if self.counts.len() < len {
            self.counts.resize(len, 0);
            self.nodes.resize(len, 0);
        }
    }

    fn change(&mut self, node: u32, domain: u32, pods: i64) {
        if domain == NO_DOMAIN || !self.is_eligible(node) {
            return;
        }
        self.grow(domain);
        let old = self.counts[domain as usize];
        let new = u32::try_from(i64::from(old) + pods).unwrap_or(0);
        self.counts[domain as usize] = new;
        self.total += pods;
        if self.is_in_play(domain) {
            self.move_domain(Some(old), Some(new));
        }
    }

    /// A node without pods comes or goes.
    fn set_node(&mut self, node: u32, domain: u32, eligible: bool) {
        let place = node as usize;
        if self.eligible.len() <= place {
            self.eligible.resize(place + 1, false);
        }
        self.eligible[place] = eligible;
        if !eligible || domain == NO_DOMAIN {
            return;
        }
        self.grow(domain);
        self.nodes[domain as usize] += 1;
        if self.nodes[domain as usize] == 1 {
            let count = self.counts[domain as usize];
            self.move_domain(None, Some(count));
            self.domains += 1;
        }
    }

    fn unset_node(&mut self, node: u32, domain: u32) {
        if domain == NO_DOMAIN || !self.is_eligible(node) {
            return;
        }
        self.eligible[node as usize] = false;
        self.nodes[domain as usize] -= 1;
        if self.nodes[domain as usize] == 0 {
            let count = self.counts[domain as usize];
            self.move_domain(Some(count), None);
            self.domains -= 1;
        }
    }
}

/// A counter, good until the next [`Counters::begin_cycle`].
pub type CounterId = usize;

/// What a term that pods have means for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeldKind {
    /// They must stay away.
    AntiAffinity,
    /// They are liked, by the weight of the plugin's arguments.
    Affinity,
    /// They are liked or not, by this weight.
    Preferred(i64),
}

/// A term that some pods have.
#[derive(Debug)]
pub struct Held {
    pub kind: HeldKind,
    pub term: Arc<Term>,
    pub topology: TopologyId,
    counts: Vec<u32>,
    pods: u32,
}

impl Held {
    /// Pods with the term in a domain.
    pub fn count(&self, domain: u32) -> i64 {
        self.counts.get(domain as usize).copied().unwrap_or(0).into()
    }
}

pub type HeldId = usize;

/// An answer about a template, good for one state of the set of counters or terms.
struct Remembered {
    epoch: u64,
    ids: Arc<[usize]>,
}

/// All counts.
#[derive(Default)]
pub struct Counters {
    pub topologies: Topologies,
    counters: Vec<Option<Counter>>,
    free: Vec<CounterId>,
    by_text: HashMap<String, CounterId>,
    /// Changes with the set of counters.
    epoch: u64,
    selected: HashMap<u64, Remembered>,
    held: Vec<Option<Held>>,
    held_by_text: HashMap<String, HeldId>,
    free_held: Vec<HeldId>,
    /// Changes with the set of terms and with the labels of namespaces.
    held_epoch: u64,
    held_of: HashMap<u64, Arc<[HeldId]>>,
    held_matching: HashMap<u64, Remembered>,
    /// Pods on nodes, by template.
    templates: HashMap<u64, u32>,
    clock: u64,
}

/// Templates whose matching terms are remembered without any pod of theirs being placed yet.
const MAX_REMEMBERED: usize = 4096;

fn node_labels<'a>(nodes: &'a [NodeInfo], key: &'a str) -> impl Iterator<Item = (u32, Option<&'a str>)> {
    nodes.iter().enumerate().map(move |(i, info)| (u32::try_from(i).unwrap_or(u32::MAX), info.label(key)))
}

impl Counters {
    pub fn get(&self, id: CounterId) -> &Counter {
        self.counters[id].as_ref().expect("a counter stays for the cycle that has asked for it")
    }

    pub fn held(&self, id: HeldId) -> Option<&Held> {
        self.held.get(id)?.as_ref()
    }

    /// Makes room, so that nothing goes while a cycle is on.
    pub fn begin_cycle(&mut self, nodes: &[NodeInfo]) {
        if self.topologies.len() > MAX_TOPOLOGIES {
            self.reset(nodes);
        }
        while self.by_text.len() > MAX_COUNTERS
            && let Some(oldest) = self.each().min_by_key(|(_, counter)| counter.used).map(|(id, _)| id)
        {
            self.forget(oldest);
        }
        self.clock += 1;
    }

    fn each(&self) -> impl Iterator<Item = (CounterId, &Counter)> {
        self.counters.iter().enumerate().filter_map(|(id, counter)| Some((id, counter.as_ref()?)))
    }

    /// Makes sure that these are counted, and says where.
    pub fn ensure(&mut self, requests: &[Request], nodes: &[NodeInfo], namespaces: &Namespaces) -> Vec<CounterId> {
        requests.iter().map(|request| self.ensure_one(request, nodes, namespaces)).collect()
    }

    fn ensure_one(&mut self, request: &Request, nodes: &[NodeInfo], namespaces: &Namespaces) -> CounterId {
        if let Some(id) = self.by_text.get(&request.text).copied() {
            if let Some(counter) = &mut self.counters[id] {
                counter.used = self.clock;
            }
            return id;
        }
        let topology = self.topologies.ensure(&request.topology_key, node_labels(nodes, &request.topology_key));
        let counter = self.count(request.clone(), topology, nodes, namespaces);
        self.epoch += 1;
        let id = match self.free.pop() {
            Some(id) => {
                self.counters[id] = Some(counter);
                id
            }
            None => {
                self.counters.push(Some(counter));
                self.counters.len() - 1
            }
        };
        self.by_text.insert(request.text.clone(), id);
        id
    }

    fn count(&self, request: Request, topology: TopologyId, nodes: &[NodeInfo], namespaces: &Namespaces) -> Counter {
        let domains = self.topologies.get(topology);
        let (eligible, counts, sizes, histogram) = Default::default();
        let mut counter = Counter { request, topology, eligible, counts, nodes: sizes, histogram, domains: 0, total: 0, used: self.clock };
        let mut selected: HashMap<u64, bool> = HashMap::new();
        for (i, info) in nodes.iter().enumerate() {
            let node = u32::try_from(i).unwrap_or(u32::MAX);
            let domain = domains.domain(node);
            counter.set_node(node, domain, counter.request.rule.allows(info));
            if domain == NO_DOMAIN || !counter.is_eligible(node) {
                continue;
            }
            let mut pods = 0;
            for pod in &info.pods {
                let matcher = &counter.request.matcher;
                let selects = *selected.entry(pod.template.id).or_insert_with(|| matcher.selects(&pod.template, namespaces));
                pods += i64::from(selects && (!pod.terminating || matches!(matcher, Matcher::Terms(_))));
            }
            if pods > 0 {
                counter.change(node, domain, pods);
            }
        }
        counter
    }

    fn forget(&mut self, id: CounterId) {
        if let Some(counter) = self.counters[id].take() {
            self.by_text.remove(&counter.request.text);
            self.free.push(id);
            self.epoch += 1;
        }
    }

    /// Counts anew only what pods on nodes need.
    fn reset(&mut self, nodes: &[NodeInfo]) {
        let (clock, epoch, held_epoch) = (self.clock, self.epoch, self.held_epoch);
        *self = Counters { clock, epoch: epoch + 1, held_epoch: held_epoch + 1, ..Counters::default() };
        for (i, info) in nodes.iter().enumerate() {
            let node = u32::try_from(i).unwrap_or(u32::MAX);
            for pod in &info.pods {
                self.hold(node, pod, nodes);
            }
        }
    }

    /// A pod comes to a node.
    pub fn add_pod(&mut self, node: u32, pod: &PodInfo, nodes: &[NodeInfo], namespaces: &Namespaces) {
        self.select(node, pod, 1, namespaces);
        self.hold(node, pod, nodes);
    }

    /// A pod leaves a node.
    pub fn remove_pod(&mut self, node: u32, pod: &PodInfo, namespaces: &Namespaces) {
        self.select(node, pod, -1, namespaces);
        self.release(node, pod);
    }

    fn select(&mut self, node: u32, pod: &PodInfo, sign: i64, namespaces: &Namespaces) {
        if self.by_text.is_empty() {
            return;
        }
        for id in self.selecting(&pod.template, namespaces).iter() {
            let Some(counter) = &mut self.counters[*id] else { continue };
            if pod.terminating && matches!(counter.request.matcher, Matcher::Spread { .. }) {
                continue;
            }
            counter.change(node, self.topologies.get(counter.topology).domain(node), sign);
        }
    }

    /// The counters that count pods of the template.
    fn selecting(&mut self, template: &Template, namespaces: &Namespaces) -> Arc<[CounterId]> {
        if let Some(known) = self.selected.get(&template.id).filter(|known| known.epoch == self.epoch) {
            return known.ids.clone();
        }
        let ids: Arc<[CounterId]> =
            self.each().filter(|(_, c)| c.request.matcher.selects(template, namespaces)).map(|(id, _)| id).collect();
        if self.selected.len() >= MAX_REMEMBERED {
            self.selected.clear();
        }
        self.selected.insert(template.id, Remembered { epoch: self.epoch, ids: ids.clone() });
        ids
    }

    fn hold(&mut self, node: u32, pod: &PodInfo, nodes: &[NodeInfo]) {
        *self.templates.entry(pod.template.id).or_insert(0) += 1;
        if pod.template.terms().is_empty() {
            return;
        }
        let ids = match self.held_of.get(&pod.template.id) {
            Some(ids) => ids.clone(),
            None => {
                let ids: Arc<[HeldId]> = held_terms(&pod.template).map(|(kind, term)| self.hold_term(kind, term, nodes)).collect();
                self.held_of.insert(pod.template.id, ids.clone());
                ids
            }
        };
        for id in ids.iter() {
            let Some(held) = &mut self.held[*id] else { continue };
            held.pods += 1;
            let domain = self.topologies.get(held.topology).domain(node);
            if domain != NO_DOMAIN {
                let place = domain as usize;
                if held.counts.len() <= place {
                    held.counts.resize(place + 1, 0);
                }
                held.counts[place] += 1;
            }
        }
    }

    fn hold_term(&mut self, kind: HeldKind, term: &Arc<Term>, nodes: &[NodeInfo]) -> HeldId {
        let text = format!("{kind:?}|{}", term.text);
        if let Some(id) = self.held_by_text.get(&text) {
            return *id;
        }
        let topology = self.topologies.ensure(&term.topology_key, node_labels(nodes, &term.topology_key));
        let held = Held { kind, term: term.clone(), topology, counts: Vec::new(), pods: 0 };
        let id = match self.free_held.pop() {
            Some(id) => {
                self.held[id] = Some(held);
                id
            }
            None => {
                self.held.push(Some(held));
                self.held.len() - 1
            }
        };
        self.held_by_text.insert(text, id);
        self.held_epoch += 1;
        id
    }

    fn release(&mut self, node: u32, pod: &PodInfo) {
        let ids = self.held_of.get(&pod.template.id).cloned();
        for id in ids.iter().flat_map(|ids| ids.iter()) {
            let Some(held) = &mut self.held[*id] else { continue };
            held.pods -= 1;
            let domain = self.topologies.get(held.topology).domain(node);
            if let Some(count) = held.counts.get_mut(domain as usize) {
                *count -= 1;
            }
        }
        if let Some(pods) = self.templates.get_mut(&pod.template.id) {
            *pods -= 1;
            if *pods == 0 {
                self.templates.remove(&pod.template.id);
                self.selected.remove(&pod.template.id);
                self.held_of.remove(&pod.template.id);
                ids.iter().flat_map(|ids| ids.iter()).for_each(|id| self.drop_held_if_unused(*id));
            }
        }
    }

    /// A term goes when no template on a node has it; each template holds it as long as it has pods.
    fn drop_held_if_unused(&mut self, id: HeldId) {
        let Some(held) = &self.held[id] else { return };
        if held.pods > 0 {
            return;
        }
        self.held_by_text.remove(&format!("{:?}|{}", held.kind, held.term.text));
        self.held[id] = None;
        self.free_held.push(id);
        self.held_epoch += 1;
    }

    /// The terms of pods on nodes that speak of pods of this template.
    pub fn held_for(&mut self, template: &Template, namespaces: &Namespaces) -> Arc<[HeldId]> {
        if self.held_by_text.is_empty() {
            return Arc::from([]);
        }
        if let Some(known) = self.held_matching.get(&template.id).filter(|known| known.epoch == self.held_epoch) {
            return known.ids.clone();
        }
        let held = self.held.iter().enumerate().filter_map(|(id, held)| Some((id, held.as_ref()?)));
        let matching = held.filter(|(_, held)| held.term.matches(&template.namespace, template.labels(), namespaces));
        let ids: Arc<[HeldId]> = matching.map(|(id, _)| id).collect();
        if self.held_matching.len() >= MAX_REMEMBERED {
            self.held_matching.clear();
        }
        self.held_matching.insert(template.id, Remembered { epoch: self.held_epoch, ids: ids.clone() });
        ids
    }

    /// Whether `pod` holds the term; for looking at what a node would be without it.
    pub fn holds(&self, pod: &PodInfo, id: HeldId) -> i64 {
        let Some(held) = self.held(id) else { return 0 };
        held_terms(&pod.template).filter(|(kind, term)| *kind == held.kind && term.text == held.term.text).count() as i64
    }

    /// A node without pods becomes known, or its labels or taints are these now. All its pods have been taken out before.
    pub fn set_node(&mut self, node: u32, info: &NodeInfo) {
        for topology in self.topologies.iter_mut() {
            let value = info.node.as_ref().and_then(|n| n.metadata.labels.as_ref()?.get(&topology.key)).map(String::as_str);
            topology.set(node, value);
        }
        for counter in self.counters.iter_mut().flatten() {
            let eligible = counter.request.rule.allows(info);
            counter.set_node(node, self.topologies.get(counter.topology).domain(node), eligible);
        }
    }

    /// The opposite of [`Counters::set_node`].
    pub fn unset_node(&mut self, node: u32) {
        for counter in self.counters.iter_mut().flatten() {
            counter.unset_node(node, self.topologies.get(counter.topology).domain(node));
        }
        self.topologies.iter_mut().for_each(|topology| topology.set(node, None));
    }

    /// The labels of a namespace have changed: what was selected by them is counted anew.
    pub fn namespaces_changed(&mut self) {
        let asking: Vec<CounterId> = self.each().filter(|(_, c)| c.request.matcher.asks_namespaces()).map(|(id, _)| id).collect();
        asking.into_iter().for_each(|id| self.forget(id));
        self.held_epoch += 1;
    }
}

/// The terms by which a pod has a say about others.
fn held_terms(template: &Template) -> impl Iterator<Item = (HeldKind, &Arc<Term>)> {
    let terms = template.terms();
    let anti = terms.anti_affinity.iter().map(|term| (HeldKind::AntiAffinity, term));
    let affinity = terms.affinity.iter().map(|term| (HeldKind::Affinity, term));
    anti.chain(affinity).chain(terms.preferred.iter().map(|(term, weight)| (HeldKind::Preferred(*weight), term)))
}
