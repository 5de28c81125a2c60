//! How objects become those of another version: not at all, or by a webhook.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::is_dns1035_label;
use apimachinery::view::view;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::WebhookClientConfig;
use serde_json::{Value, json};

use super::internal::present;
use super::tolerance::Rules;
use crate::registry::admissionregistration::client_config::validate_client_config;
use crate::registry::certificates::pem;
use crate::registry::read::{list_at, str_at};

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const STRATEGIES: [&str; 2] = ["None", "Webhook"];
const NOT_A_WEBHOOK: &str = "should not be set when strategy is not set to Webhook";

/// A definition's conversion. Its webhook's parts are named as they once stood.
pub fn validate(conversion: &Value, rules: &Rules, path: &Path<'_>) -> ErrorList {
    let (config_path, versions_path) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    let strategy = str_at(conversion, "/strategy");
    let client = present(conversion, "webhook").and_then(|webhook| present(webhook, "clientConfig"));
    let versions = list_at(conversion, "/webhook/conversionReviewVersions");
    let mut errors: ErrorList = one_of(strategy, &STRATEGIES, &path.child("strategy")).into_iter().collect();
    if strategy != "Webhook" {
        if client.is_some() {
            errors.push(Error::forbidden(&config_path, NOT_A_WEBHOOK));
        }
        if !versions.is_empty() {
            errors.push(Error::forbidden(&versions_path, NOT_A_WEBHOOK));
        }
        return errors;
    }
    match client {
        None => errors.push(Error::required(&config_path, "required when strategy is set to Webhook")),
        Some(client) => {
            // The two groups have the same type under different names.
            errors.extend(validate_client_config(&view::<WebhookClientConfig>(client), &config_path));
            let bundle = str_at(client, "/caBundle");
            if rules.valid_ca_bundle
                && !bundle.is_empty()
                && let Err(problem) = is_ca_bundle(bundle)
            {
                errors.push(Error::invalid(&config_path.child("caBundle"), bundle, problem));
            }
        }
    }
    errors.extend(validate_review_versions(versions, rules.known_review_version, &versions_path));
    errors
}

/// One of the values that are known.
pub fn one_of(value: &str, known: &[&str], path: &Path<'_>) -> Option<Error> {
    match value {
        "" => Some(Error::required(path, "")),
        value if known.contains(&value) => None,
        value => Some(Error::not_supported(path, value, known)),
    }
}

/// Whether this server speaks one of the versions of reviews.
pub fn knows_a_review_version(versions: &[Value]) -> bool {
    versions.iter().any(|version| REVIEW_VERSIONS.contains(&str_at(version, "")))
}

fn validate_review_versions(versions: &[Value], require_known: bool, path: &Path<'_>) -> ErrorList {
    if versions.is_empty() {
        return vec![Error::required(path, "")];
    }
    let mut errors = ErrorList::new();
    for (i, version) in versions.iter().enumerate() {
        let (path, text) = (path.index(i), str_at(version, ""));
        if versions[..i].contains(version) {
            errors.push(Error::invalid(&path, text, "duplicate version"));
            continue;
        }
        errors.extend(is_dns1035_label(text).into_iter().map(|message| Error::invalid(&path, text, message)));
    }
    if require_known && !knows_a_review_version(versions) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(Error::invalid(path, json!(versions), detail));
    }
    errors
}

/// Whether a base64 text holds certificates to trust; the error is worded as clients see it.
pub fn is_ca_bundle(bundle: &str) -> Result<(), String> {
    let text = STANDARD.decode(bundle).unwrap_or_default();
    let mut blocks = pem::blocks(&text).peekable();
    let problem = if blocks.peek().is_none() {
        "unable to parse bytes as PEM block".to_owned()
    } else {
        let certificates = blocks.filter(|block| block.label == "CERTIFICATE" && !block.has_headers);
        let mut problem = "no valid certificate authority data seen".to_owned();
        for block in certificates {
            match x509_parser::parse_x509_certificate(&block.bytes) {
                Ok(_) => return Ok(()),
                Err(_) => problem = "failed to parse certificate: x509: malformed certificate".to_owned(),
            }
        }
        problem
    };
    Err(format!("unable to load root certificates: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(conversion: Value) -> Vec<String> {
        let mut rules = Rules::for_create();
        rules.valid_ca_bundle = true;
        validate(&conversion, &rules, &Path::new("c")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_webhook_is_reached_and_spoken_to() {
        assert!(check(json!({"strategy": "None"})).is_empty());
        assert_eq!(
            check(json!({"strategy": "Webhook"})),
            [
                "c.webhookClientConfig: Required value: required when strategy is set to Webhook",
                "c.conversionReviewVersions: Required value",
            ]
        );
        assert_eq!(
            check(
                json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://a", "caBundle": "YWJj"}, "conversionReviewVersions": ["v2"]}})
            ),
            [
                r#"c.webhookClientConfig.caBundle: Invalid value: "YWJj": unable to load root certificates: unable to parse bytes as PEM block"#,
                r#"c.conversionReviewVersions: Invalid value: ["v2"]: must include at least one of v1, v1beta1"#,
            ]
        );
        assert_eq!(
            check(json!({"strategy": "Nope", "webhook": {"clientConfig": {}}})),
            [
                r#"c.strategy: Unsupported value: "Nope": supported values: "None", "Webhook""#,
                "c.webhookClientConfig: Forbidden: should not be set when strategy is not set to Webhook",
            ]
        );
    }
}
