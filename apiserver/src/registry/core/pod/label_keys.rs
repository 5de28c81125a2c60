//! Label keys beside selectors: at creation they become requirements with the values that the pod's labels have.

use serde_json::{Map, Value, json};

use crate::registry::read::at;

/// Merges `matchLabelKeys` and `mismatchLabelKeys` with the pod's labels into the selectors beside them.
pub(super) fn merge_label_keys(pod: &mut Value) {
    let labels = at(pod, "/metadata/labels").as_object().cloned().unwrap_or_default();
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (list, inner) in [
            ("preferredDuringSchedulingIgnoredDuringExecution", Some("podAffinityTerm")),
            ("requiredDuringSchedulingIgnoredDuringExecution", None),
        ] {
            let terms = pod.pointer_mut(&format!("/spec/affinity/{kind}/{list}")).and_then(Value::as_array_mut);
            for term in terms.into_iter().flatten() {
                let term = match inner {
                    Some(inner) => term.get_mut(inner),
                    None => Some(term),
                };
                if let Some(term) = term {
                    merge_keys(term, "matchLabelKeys", "In", &labels);
                    merge_keys(term, "mismatchLabelKeys", "NotIn", &labels);
                }
            }
        }
    }
    let constraints = pod.pointer_mut("/spec/topologySpreadConstraints").and_then(Value::as_array_mut);
    for constraint in constraints.into_iter().flatten() {
        merge_keys(constraint, "matchLabelKeys", "In", &labels);
    }
}

fn merge_keys(term: &mut Value, keys: &str, operator: &str, labels: &Map<String, Value>) {
    let known = term.get(keys).and_then(Value::as_array).into_iter().flatten().filter_map(|key| {
        let key = key.as_str()?;
        labels.get(key).map(|value| json!({"key": key, "operator": operator, "values": [value]}))
    });
    let added: Vec<Value> = known.collect();
    let Some(selector) = term.get_mut("labelSelector").and_then(Value::as_object_mut).filter(|_| !added.is_empty()) else { return };
    let expressions = selector.entry("matchExpressions").or_insert_with(|| Value::Array(Vec::new()));
    if expressions.is_null() {
        *expressions = Value::Array(Vec::new());
    }
    if let Some(expressions) = expressions.as_array_mut() {
        expressions.extend(added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_keys_are_merged_into_selectors() {
        let mut new = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {}, "matchLabelKeys": ["a", "none"]},
                {"matchLabelKeys": ["a"]},
            ]}},
            "topologySpreadConstraints": [{"labelSelector": {"matchExpressions": null}, "matchLabelKeys": ["a"]}],
        }});
        merge_label_keys(&mut new);
        let merged = json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]});
        let terms = &new["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        assert_eq!(terms[0]["labelSelector"], merged);
        assert_eq!(terms[1].get("labelSelector"), None);
        assert_eq!(new["spec"]["topologySpreadConstraints"][0]["labelSelector"], merged);
    }
}
