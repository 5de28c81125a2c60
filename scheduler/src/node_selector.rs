//! Node selectors and node affinity, made ready for matching many nodes.
//!
//! Specified by upstream's component-helpers `scheduling/corev1/nodeaffinity` (v1.37): terms are alternatives, an empty term matches
//! nothing, and so does one that cannot be read.

use apimachinery::selector::label::{Operator, Requirement, Selector};
use k8s_openapi::api::core::v1::{Affinity, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// The one field of nodes that terms can name.
const NAME_FIELD: &str = "metadata.name";

/// One alternative: all of it must hold.
#[derive(Clone, Debug)]
pub struct Term {
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
    readable: bool,
}

#[derive(Clone, Debug)]
struct FieldTerm {
    key: String,
    value: String,
    equal: bool,
}

impl Term {
    /// Nothing for an empty term, which matches no node.
    pub fn new(term: &NodeSelectorTerm) -> Option<Term> {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        if expressions.is_empty() && fields.is_empty() {
            return None;
        }
        let mut made = Term { labels: Vec::new(), fields: Vec::new(), readable: true };
        for expression in expressions {
            match requirement(expression) {
                Some(requirement) => made.labels.push(requirement),
                None => made.readable = false,
            }
        }
        for field in fields {
            let equal = match field.operator.as_str() {
                "In" => true,
                "NotIn" => false,
                _ => {
                    made.readable = false;
                    continue;
                }
            };
            match field.values.as_deref() {
                Some([value]) => made.fields.push(FieldTerm { key: field.key.clone(), value: value.clone(), equal }),
                _ => made.readable = false,
            }
        }
        Some(made)
    }

    pub fn matches(&self, node: &Node) -> bool {
        let name = node.metadata.name.as_deref().unwrap_or("");
        let field = |term: &FieldTerm| {
            let value = if term.key == NAME_FIELD { name } else { "" };
            (value == term.value) == term.equal
        };
        self.readable && self.labels.iter().all(|r| r.matches(&node.metadata.labels)) && self.fields.iter().all(field)
    }
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

/// Alternatives, of which one must hold.
#[derive(Clone, Debug)]
pub struct Terms(Vec<Term>);

impl Terms {
    pub fn new(selector: &NodeSelector) -> Terms {
        Terms(selector.node_selector_terms.iter().filter_map(Term::new).collect())
    }

    pub fn matches(&self, node: &Node) -> bool {
        self.0.iter().any(|term| term.matches(node))
    }
}

/// What a pod requires of its node by `nodeSelector` and required node affinity.
#[derive(Clone, Debug, Default)]
pub struct Required {
    labels: Option<Selector>,
    terms: Option<Terms>,
}

fn required_of(affinity: Option<&Affinity>) -> Option<&NodeSelector> {
    affinity?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
}

impl Required {
    pub fn new(spec: &PodSpec) -> Required {
        let labels = spec.node_selector.as_ref().filter(|labels| !labels.is_empty());
        let labels = labels.map(|labels| Selector::from_labels(labels.iter().map(|(k, v)| (k.as_str(), v.as_str()))));
        Required { labels, terms: required_of(spec.affinity.as_ref()).map(Terms::new) }
    }

    /// Every node will do.
    pub fn is_empty(&self) -> bool {
        self.labels.is_none() && self.terms.is_none()
    }

    pub fn matches(&self, node: &Node) -> bool {
        self.labels.as_ref().is_none_or(|s| s.matches(&node.metadata.labels)) && self.terms.as_ref().is_none_or(|t| t.matches(node))
    }
}

/// The only nodes that can match, if every alternative names some: DaemonSet pods do. Empty if the names contradict each other.
pub fn named_nodes(spec: &PodSpec) -> Option<Vec<String>> {
    let terms = &required_of(spec.affinity.as_ref())?.node_selector_terms;
    if terms.is_empty() {
        return None;
    }
    let mut all: Vec<String> = Vec::new();
    for term in terms {
        let mut names: Option<Vec<String>> = None;
        for field in term.match_fields.iter().flatten().filter(|f| f.key == NAME_FIELD && f.operator == "In") {
            let values = field.values.clone().unwrap_or_default();
            names = Some(match names {
                None => values,
                Some(names) => names.into_iter().filter(|name| values.contains(name)).collect(),
            });
        }
        all.extend(names?);
    }
    all.sort();
    all.dedup();
    Some(all)
}

/// Preferences with their weights; unreadable and empty ones do not count.
pub fn preferred(affinity: Option<&Affinity>) -> Vec<(Term, i64)> {
    let terms =
        affinity.and_then(|a| a.node_affinity.as_ref()).and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let weighted = terms.into_iter().flatten().filter(|term| term.weight != 0);
    weighted.filter_map(|term| Some((Term::new(&term.preference)?, term.weight.into()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn affinity(terms: Value) -> PodSpec {
        spec(
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}),
        )
    }

    #[test]
    fn terms_are_alternatives() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a", "cores": "8"}}})).unwrap();
        let table = [
            (json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]), true),
            (json!([{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}]), false),
            (json!([{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}]), true),
            (json!([{"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["4"]}]}]), false),
            (json!([{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]), true),
            (
                json!([{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]),
                true,
            ),
            (json!([{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n"]}]}]), false),
            (json!([{}]), false),
            (json!([{"matchExpressions": [{"key": "zone", "operator": "Perhaps"}]}]), false),
        ];
        for (terms, expected) in table {
            assert_eq!(Required::new(&affinity(terms.clone())).matches(&node), expected, "{terms}");
        }
        assert!(Required::new(&spec(json!({"containers": [], "nodeSelector": {"zone": "a"}}))).matches(&node));
        assert!(!Required::new(&spec(json!({"containers": [], "nodeSelector": {"zone": "b"}}))).matches(&node));
    }

    #[test]
    fn names_narrow_the_search_only_if_every_alternative_has_them() {
        let name = |n: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [n]}]});
        let both = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}, {"key": "metadata.name", "operator": "In", "values": ["b"]}]});
        assert_eq!(named_nodes(&affinity(json!([name("b"), name("a")]))), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(named_nodes(&affinity(json!([name("b"), {"matchExpressions": [{"key": "x", "operator": "Exists"}]}]))), None);
        assert_eq!(named_nodes(&affinity(json!([both]))), Some(vec![]));
        assert_eq!(named_nodes(&spec(json!({"containers": []}))), None);
    }
}
