//! Taints and tolerations: which taints a pod does not bear.

use k8s_openapi::api::core::v1::{Taint, Toleration};

pub const NO_SCHEDULE: &str = "NoSchedule";
pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
pub const NO_EXECUTE: &str = "NoExecute";

/// Whether the toleration covers the taint.
fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let said = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
    if said(&toleration.effect) && toleration.effect.as_deref() != Some(&taint.effect) {
        return false;
    }
    if said(&toleration.key) && toleration.key.as_deref() != Some(&taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        Some("Exists") => true,
        Some(_) => false,
    }
}

/// Whether any of the tolerations covers the taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| covers(toleration, taint))
}

/// Whether the taint keeps pods away, rather than only making the node less liked.
pub fn forbids(taint: &Taint) -> bool {
    taint.effect == NO_SCHEDULE || taint.effect == NO_EXECUTE
}

/// Whether every taint that keeps pods away is tolerated.
pub fn all_tolerated(tolerations: &[Toleration], taints: &[Taint]) -> bool {
    taints.iter().filter(|taint| forbids(taint)).all(|taint| tolerates(tolerations, taint))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_cover_taints_by_key_value_and_effect() {
        let taint = Taint { key: "k".into(), value: Some("v".into()), effect: "NoSchedule".into(), time_added: None };
        let table = [
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), true),
        ];
        for (toleration, expected) in table {
            let tolerations = [serde_json::from_value(toleration.clone()).unwrap()];
            assert_eq!(tolerates(&tolerations, &taint), expected, "{toleration}");
        }
        let prefer = Taint { effect: "PreferNoSchedule".into(), ..taint.clone() };
        assert!(all_tolerated(&[], &[prefer]));
        assert!(!all_tolerated(&[], &[taint]));
    }
}
