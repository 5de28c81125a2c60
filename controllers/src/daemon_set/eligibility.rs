//! On which nodes a DaemonSet's pods belong, going by its template's node name, node selector, affinity and tolerations. Pure.
//!
//! Resources and ports do not count: the scheduler decides about those, and a pod waits until it fits.

use apimachinery::selector::label::{Operator, Requirement};
use client::Object;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

use crate::node_state;
use crate::tolerations::tolerates;

/// What a node is to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Wanted,
    /// A pod that is there may stay, but none is started.
    Tolerated,
    Unfit,
}

impl Verdict {
    pub fn should_run(self) -> bool {
        self == Verdict::Wanted
    }

    pub fn may_stay(self) -> bool {
        self != Verdict::Unfit
    }
}

/// A template made ready for judging many nodes.
pub struct Requirements {
    node_name: Option<String>,
    selector: Vec<(String, String)>,
    /// Nothing if there are no terms to fulfil; each term is an alternative.
    terms: Option<Vec<Term>>,
    tolerations: Vec<Toleration>,
}

/// Nothing for a term that matches no node: it is empty or cannot be read.
type Term = Option<(Vec<Requirement>, Vec<NodeSelectorRequirement>)>;

impl Requirements {
    /// `spec` is that of the pods, with all tolerations that they are to have.
    pub fn of(spec: &PodSpec) -> Requirements {
        let required = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
        Requirements {
            node_name: spec.node_name.clone().filter(|name| !name.is_empty()),
            selector: spec.node_selector.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect(),
            terms: required.map(|required| required.node_selector_terms.iter().map(term).collect()),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
        }
    }

    pub fn judge(&self, node: &Node) -> Verdict {
        if self.node_name.as_deref().is_some_and(|name| name != node.name()) || !self.selects(node) {
            return Verdict::Unfit;
        }
        let is_tolerated = |taint: &Taint| self.tolerations.iter().any(|toleration| tolerates(toleration, taint));
        let untolerated = |effect: &str| node_state::taints(node).iter().any(|taint| taint.effect == effect && !is_tolerated(taint));
        match (untolerated("NoExecute"), untolerated("NoSchedule")) {
            (true, _) => Verdict::Unfit,
            (false, true) => Verdict::Tolerated,
            (false, false) => Verdict::Wanted,
        }
    }

    fn selects(&self, node: &Node) -> bool {
        self.selector.iter().all(|(key, value)| node.label(key) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| fulfils(node, term)))
    }
}

fn term(term: &NodeSelectorTerm) -> Term {
    let expressions = term.match_expressions.iter().flatten();
    let requirements = expressions.map(requirement).collect::<Option<Vec<_>>>()?;
    let fields = term.match_fields.clone().unwrap_or_default();
    (!requirements.is_empty() || !fields.is_empty()).then_some((requirements, fields))
}

fn requirement(expression: &NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match expression.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    Requirement::new(expression.key.clone(), operator, expression.values.clone().unwrap_or_default()).ok()
}

fn fulfils(node: &Node, term: &Term) -> bool {
    let Some((requirements, fields)) = term else { return false };
    let field = |field: &NodeSelectorRequirement| {
        let listed = field.values.iter().flatten().any(|value| value == node.name());
        match (field.key.as_str(), field.operator.as_str()) {
            ("metadata.name", "In") => listed,
            ("metadata.name", "NotIn") => !listed,
            _ => false,
        }
    };
    requirements.iter().all(|requirement| requirement.matches(&node.metadata.labels)) && fields.iter().all(field)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, NodeSelector};

    use super::*;

    fn node(name: &str, labels: &[(&str, &str)], taints: &[(&str, &str)]) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.to_owned());
        node.metadata.labels = Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
        let taint = |(key, effect): &(&str, &str)| Taint { key: (*key).to_owned(), effect: (*effect).to_owned(), ..Taint::default() };
        node.spec.get_or_insert_default().taints = Some(taints.iter().map(taint).collect());
        node
    }

    fn judge(spec: &PodSpec, node: &Node) -> Verdict {
        Requirements::of(spec).judge(node)
    }

    #[test]
    fn names_and_labels_select_nodes() {
        let mut spec = PodSpec::default();
        assert_eq!(judge(&spec, &node("a", &[], &[])), Verdict::Wanted);
        spec.node_selector = Some([("color".to_owned(), "blue".to_owned())].into());
        assert_eq!(judge(&spec, &node("a", &[("color", "blue")], &[])), Verdict::Wanted);
        assert_eq!(judge(&spec, &node("a", &[("color", "red")], &[])), Verdict::Unfit);
        spec.node_name = Some("b".to_owned());
        assert_eq!(judge(&spec, &node("a", &[("color", "blue")], &[])), Verdict::Unfit);
    }

    #[test]
    fn one_fulfilled_term_is_enough() {
        let requirement = |key: &str, operator: &str, values: &[&str]| NodeSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        };
        let terms = |terms: Vec<NodeSelectorTerm>| PodSpec {
            affinity: Some(Affinity {
                node_affinity: Some(NodeAffinity {
                    required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: terms }),
                    ..NodeAffinity::default()
                }),
                ..Affinity::default()
            }),
            ..PodSpec::default()
        };
        let labels = NodeSelectorTerm { match_expressions: Some(vec![requirement("size", "Gt", &["3"])]), match_fields: None };
        let fields = NodeSelectorTerm { match_expressions: None, match_fields: Some(vec![requirement("metadata.name", "In", &["b"])]) };
        let either = terms(vec![labels, fields]);
        assert_eq!(judge(&either, &node("a", &[("size", "4")], &[])), Verdict::Wanted);
        assert_eq!(judge(&either, &node("b", &[], &[])), Verdict::Wanted);
        assert_eq!(judge(&either, &node("a", &[("size", "3")], &[])), Verdict::Unfit);
        assert_eq!(judge(&terms(vec![NodeSelectorTerm::default()]), &node("a", &[], &[])), Verdict::Unfit);
    }

    #[test]
    fn taints_keep_pods_off_or_drive_them_out() {
        let spec = PodSpec::default();
        assert_eq!(judge(&spec, &node("a", &[], &[("k", "PreferNoSchedule")])), Verdict::Wanted);
        assert_eq!(judge(&spec, &node("a", &[], &[("k", "NoSchedule")])), Verdict::Tolerated);
        assert_eq!(judge(&spec, &node("a", &[], &[("k", "NoSchedule"), ("l", "NoExecute")])), Verdict::Unfit);
        let toleration = Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() };
        let spec = PodSpec { tolerations: Some(vec![toleration]), ..PodSpec::default() };
        assert_eq!(judge(&spec, &node("a", &[], &[("k", "NoSchedule"), ("l", "NoExecute")])), Verdict::Wanted);
    }
}
