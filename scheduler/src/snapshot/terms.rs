//! Affinity terms and spread constraints, made ready for matching many pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use apimachinery::selector::label::{Operator, Requirement, Selector, StructuredError};
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec, TopologySpreadConstraint, WeightedPodAffinityTerm};

/// Labels by namespace; what namespace selectors are asked about.
pub type Namespaces = HashMap<String, BTreeMap<String, String>>;

/// The label that tells nodes apart.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
pub const ZONE: &str = "topology.kubernetes.io/zone";
pub const REGION: &str = "topology.kubernetes.io/region";

/// Pods by namespace and labels, and the node label whose value makes them neighbours.
#[derive(Clone, Debug)]
pub struct Term {
    pub namespaces: BTreeSet<String>,
    pub namespace_selector: Selector,
    pub selector: Selector,
    pub topology_key: String,
    /// Two terms with the same text are the same term.
    pub text: String,
}

impl Term {
    /// `namespace` is that of the pod that has the term.
    pub fn new(namespace: &str, term: &PodAffinityTerm) -> Result<Term, StructuredError> {
        let selector = Selector::from_label_selector(term.label_selector.as_ref())?;
        let namespace_selector = Selector::from_label_selector(term.namespace_selector.as_ref())?;
        let named = term.namespaces.as_deref().unwrap_or_default();
        let namespaces: BTreeSet<String> = if named.is_empty() && term.namespace_selector.is_none() {
            BTreeSet::from([namespace.to_owned()])
        } else {
            named.iter().cloned().collect()
        };
        let text = format!("{}|{namespaces:?}|{namespace_selector:?}|{selector:?}", term.topology_key);
        Ok(Term { namespaces, namespace_selector, selector, topology_key: term.topology_key.clone(), text })
    }

    /// Whether the answer may change with the labels of namespaces.
    pub fn asks_namespaces(&self) -> bool {
        !self.namespace_selector.is_empty() && self.namespace_selector != Selector::Nothing
    }

    pub fn matches(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>, namespaces: &Namespaces) -> bool {
        let here = self.namespaces.contains(namespace)
            || (self.namespace_selector != Selector::Nothing && self.namespace_selector.matches(&namespaces.get(namespace)));
        here && self.selector.matches(&labels)
    }
}

/// The terms of a pod: what it wants to be near to and away from.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    pub affinity: Vec<Arc<Term>>,
    pub anti_affinity: Vec<Arc<Term>>,
    /// Weights are negative where the pod would rather stay away.
    pub preferred: Vec<(Arc<Term>, i64)>,
}

impl Terms {
    /// The terms of a pod, or why they cannot be read.
    pub fn of(pod: &Pod) -> Result<Terms, String> {
        let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return Ok(Terms::default()) };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let required = |terms: Option<&Vec<PodAffinityTerm>>, name: &str| -> Result<Vec<Arc<Term>>, String> {
            let terms = terms.into_iter().flatten().map(|term| Term::new(namespace, term).map(Arc::new));
            terms.collect::<Result<_, _>>().map_err(|error| format!("{name}: {error}"))
        };
        let weighted = |terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i64, name: &str| -> Result<Vec<(Arc<Term>, i64)>, String> {
            let term =
                |t: &WeightedPodAffinityTerm| Ok((Arc::new(Term::new(namespace, &t.pod_affinity_term)?), sign * i64::from(t.weight)));
            terms.into_iter().flatten().map(term).collect::<Result<_, StructuredError>>().map_err(|error| format!("{name}: {error}"))
        };
        let (near, away) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
        let mut preferred =
            weighted(near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()), 1, "preferredAffinityTerms")?;
        preferred.extend(weighted(
            away.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            -1,
            "preferredAntiAffinityTerms",
        )?);
        Ok(Terms {
            affinity: required(near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()), "requiredAffinityTerms")?,
            anti_affinity: required(
                away.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
                "requiredAntiAffinityTerms",
            )?,
            preferred,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred.is_empty()
    }
}

/// One rule about how evenly pods are spread.
#[derive(Clone, Debug)]
pub struct Constraint {
    pub max_skew: i64,
    pub topology_key: String,
    pub selector: Selector,
    pub min_domains: i64,
    /// Nodes that the pod's node affinity rules out do not count.
    pub honor_affinity: bool,
    /// Nodes with taints that the pod does not bear do not count.
    pub honor_taints: bool,
}

impl Constraint {
    pub fn new(constraint: &TopologySpreadConstraint, labels: Option<&BTreeMap<String, String>>) -> Result<Constraint, StructuredError> {
        let mut selector = Selector::from_label_selector(constraint.label_selector.as_ref())?;
        let keys = constraint.match_label_keys.iter().flatten();
        let pinned: Vec<Requirement> = keys
            .filter_map(|key| {
                let value = labels?.get(key)?;
                Requirement::new(key.clone(), Operator::In, vec![value.clone()]).ok()
            })
            .collect();
        if let (false, Selector::All(requirements)) = (pinned.is_empty(), &selector) {
            selector = Selector::of(requirements.iter().cloned().chain(pinned).collect());
        }
        Ok(Constraint {
            max_skew: constraint.max_skew.into(),
            topology_key: constraint.topology_key.clone(),
            selector,
            min_domains: constraint.min_domains.unwrap_or(1).into(),
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        })
    }
}

/// The constraints of a pod that must hold (`DoNotSchedule`), or that should (`ScheduleAnyway`).
pub fn constraints(spec: &PodSpec, labels: Option<&BTreeMap<String, String>>, must: bool) -> Result<Vec<Constraint>, String> {
    let wanted = if must { "DoNotSchedule" } else { "ScheduleAnyway" };
    let all = spec.topology_spread_constraints.iter().flatten().filter(|c| c.when_unsatisfiable == wanted);
    all.map(|c| Constraint::new(c, labels)).collect::<Result<_, _>>().map_err(|error| error.to_string())
}
