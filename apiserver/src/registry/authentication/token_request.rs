//! TokenRequests, which the token endpoint of service accounts takes.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::is_dns1123_subdomain;
use serde_json::{Map, Value, json};

use crate::registry::read::{at, int_at, list_at, str_at};

const MIN_SECONDS: i64 = 10 * 60;
const MAX_SECONDS: i64 = 1 << 32;
/// The one attestation there is.
const ADMISSION_REVIEW_GROUPS: &str = "admissionReviewAPIGroups";

/// A request for a token: how long it lasts, and what a webhook's token attests.
pub fn validate(request: &Value) -> ErrorList {
    let path = Path::new("spec");
    let seconds = int_at(request, "/spec/expirationSeconds");
    let seconds_path = path.child("expirationSeconds");
    let mut errors = ErrorList::new();
    if seconds < MIN_SECONDS {
        errors.push(Error::invalid(&seconds_path, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > MAX_SECONDS {
        errors.push(Error::invalid(&seconds_path, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    let none = Map::new();
    let attestations = at(request, "/spec/attestations").as_object().unwrap_or(&none);
    let attestations_path = path.child("attestations");
    if !is_bound_to_a_webhook(at(request, "/spec/boundObjectRef")) {
        if !attestations.is_empty() {
            let detail = "attestations may only be specified with a webhook bound object reference";
            return vec![Error::invalid(&attestations_path, json!(attestations), detail)];
        }
        return errors;
    }
    let audiences = list_at(request, "/spec/audiences");
    if audiences.len() != 1 {
        let shown = if audiences.is_empty() { Value::Null } else { json!(audiences) };
        errors.push(Error::invalid(&path.child("audiences"), shown, "must be length 1 when bound to a webhook config"));
    }
    errors.extend(validate_attestations(attestations, &attestations_path));
    errors
}

fn is_bound_to_a_webhook(reference: &Value) -> bool {
    matches!(str_at(reference, "/kind"), "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration")
        && str_at(reference, "/apiVersion") == "admissionregistration.k8s.io/v1"
}

fn validate_attestations(attestations: &Map<String, Value>, path: &Path<'_>) -> ErrorList {
    let mut entries = attestations.iter();
    let (Some((key, values)), None) = (entries.next(), entries.next()) else {
        let shown = if attestations.is_empty() { Value::Null } else { json!(attestations) };
        let detail = "webhook bound requests require exactly one admissionReviewAPIGroups attestation";
        return vec![Error::invalid(path, shown, detail)];
    };
    let path = path.key(key);
    if key != ADMISSION_REVIEW_GROUPS {
        return vec![Error::not_supported(&path, key.as_str(), &[ADMISSION_REVIEW_GROUPS])];
    }
    let [group] = list_at(values, "") else {
        return vec![Error::invalid(&path, values.clone(), "must specify a single value")];
    };
    let (group, path) = (str_at(group, ""), path.index(0));
    match group {
        // The empty string would mean the core group to some and every group to others.
        "" => vec![Error::invalid(&path, "", "may not be an empty string")],
        "*" => ErrorList::new(),
        _ => {
            let problems = is_dns1123_subdomain(group);
            problems.into_iter().map(|problem| Error::invalid(&path, group, format!("must specify a valid API Group: {problem}"))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: Value) -> Vec<String> {
        validate(&json!({ "spec": spec })).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_token_lasts_ten_minutes_at_least() {
        assert!(check(json!({"expirationSeconds": 600})).is_empty());
        assert_eq!(
            check(json!({"expirationSeconds": 599})),
            ["spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"]
        );
        assert_eq!(
            check(json!({"expirationSeconds": 4_294_967_297_i64})),
            ["spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds"]
        );
    }

    #[test]
    fn only_webhooks_tokens_attest_something() {
        let webhook = json!({"kind": "MutatingWebhookConfiguration", "apiVersion": "admissionregistration.k8s.io/v1"});
        let with = |reference: &Value, attestations: Value| {
            check(json!({"expirationSeconds": 600, "boundObjectRef": reference, "audiences": ["a"], "attestations": attestations}))
        };
        assert!(with(&webhook, json!({"admissionReviewAPIGroups": ["*"]})).is_empty());
        assert_eq!(
            with(&webhook, json!({"admissionReviewAPIGroups": [""]})),
            [r#"spec.attestations[admissionReviewAPIGroups][0]: Invalid value: "": may not be an empty string"#]
        );
        assert_eq!(
            with(&json!({"kind": "Pod"}), json!({"a": ["b"]})),
            [r#"spec.attestations: Invalid value: {"a":["b"]}: attestations may only be specified with a webhook bound object reference"#]
        );
    }
}
