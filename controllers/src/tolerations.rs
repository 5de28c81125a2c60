//! Which taints a pod tolerates, and for how long. Pure.

use k8s_openapi::api::core::v1::{Taint, Toleration};

pub const NO_EXECUTE: &str = "NoExecute";

/// Whether one toleration covers one taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let (wanted, value) = (toleration.value.as_deref().unwrap_or(""), taint.value.as_deref().unwrap_or(""));
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => wanted == value,
        "Exists" => true,
        _ => false,
    }
}

/// The tolerations that cover these taints; nothing if a taint is not covered.
pub fn covering<'a>(tolerations: &'a [Toleration], taints: &[Taint]) -> Option<Vec<&'a Toleration>> {
    if taints.is_empty() {
        return Some(Vec::new());
    }
    taints.iter().map(|taint| tolerations.iter().find(|toleration| tolerates(toleration, taint))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Toleration { key: text(key), operator: text(operator), value: text(value), effect: text(effect), toleration_seconds: None }
    }

    #[test]
    fn keys_values_and_effects_are_compared_as_the_operator_says() {
        let taint = Taint { key: "k".into(), value: Some("v".into()), effect: NO_EXECUTE.into(), time_added: None };
        for (key, operator, value, effect, expected) in [
            ("k", "", "v", "NoExecute", true),
            ("k", "Equal", "v", "", true),
            ("k", "Equal", "w", "", false),
            ("k", "Exists", "", "", true),
            ("", "Exists", "", "", true),
            ("k", "Exists", "", "NoSchedule", false),
            ("other", "Exists", "", "", false),
        ] {
            assert_eq!(tolerates(&toleration(key, operator, value, effect), &taint), expected, "{key} {operator} {value} {effect}");
        }
    }

    #[test]
    fn every_taint_must_be_covered() {
        let taint = |key: &str| Taint { key: key.into(), effect: NO_EXECUTE.into(), ..Taint::default() };
        let tolerations = [toleration("a", "Exists", "", "")];
        assert_eq!(covering(&tolerations, &[]).map(|t| t.len()), Some(0));
        assert_eq!(covering(&tolerations, &[taint("a")]).map(|t| t.len()), Some(1));
        assert_eq!(covering(&tolerations, &[taint("a"), taint("b")]), None);
    }
}
