//! One webhook as its configuration has it.

use std::sync::Arc;

use serde_json::Value;

use crate::admission::Attributes;
use crate::admission::matching::Matcher;
use crate::expressions::Expression;
use crate::registry::read::{at, list_at, str_at};
use crate::webhook_client::Webhook;
use crate::webhook_client::credentials::Credentials;

const DEFAULT_TIMEOUT_SECONDS: u64 = 10;
/// The versions of AdmissionReview that can be sent.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// Configurations that no webhook has a say in.
const EXEMPT: [&str; 6] = [
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
];

/// Whether asking a webhook does something elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideEffects {
    /// Not for a dry run, at least.
    None,
    Some,
}

/// A webhook.
pub struct Hook {
    pub name: String,
    /// The configuration that it is part of.
    pub configuration: String,
    /// Distinct among all webhooks, and the same in both rounds.
    pub id: String,
    pub mutating: bool,
    pub client: Result<Webhook, String>,
    pub ignores_failures: bool,
    pub timeout_seconds: u64,
    pub side_effects: SideEffects,
    pub reinvoked: bool,
    /// All must hold for the webhook to be asked.
    pub match_conditions: Vec<Result<Arc<Expression>, String>>,
    pub matcher: Matcher,
    review_versions: Vec<String>,
}

/// The webhooks of a configuration, shown what the credentials have for them.
pub fn read(configuration: &Value, mutating: bool, credentials: &Credentials) -> Vec<Hook> {
    let within = str_at(configuration, "/metadata/name");
    let list = list_at(configuration, "/webhooks").iter().enumerate();
    list.map(|(index, webhook)| Hook::read(within, index, webhook, mutating, credentials)).collect()
}

/// Whether the write is about a configuration that no webhook has a say in.
pub fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.group() == "admissionregistration.k8s.io" && EXEMPT.contains(&attributes.plural())
}

fn strings(value: &Value, pointer: &str) -> Vec<String> {
    list_at(value, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Hook {
    fn read(within: &str, index: usize, webhook: &Value, mutating: bool, credentials: &Credentials) -> Hook {
        let name = str_at(webhook, "/name").to_owned();
        let compile = |condition: &Value| Expression::in_force(str_at(condition, "/expression").trim());
        Hook {
            id: format!("{within}/{name}/{index}"),
            configuration: within.to_owned(),
            mutating,
            client: Webhook::read(at(webhook, "/clientConfig")).map(|client| client.with_credentials(credentials)),
            ignores_failures: str_at(webhook, "/failurePolicy") == "Ignore",
            timeout_seconds: at(webhook, "/timeoutSeconds").as_u64().unwrap_or(DEFAULT_TIMEOUT_SECONDS),
            side_effects: match str_at(webhook, "/sideEffects") {
                "None" | "NoneOnDryRun" => SideEffects::None,
                _ => SideEffects::Some,
            },
            reinvoked: str_at(webhook, "/reinvocationPolicy") == "IfNeeded",
            match_conditions: list_at(webhook, "/matchConditions").iter().map(compile).collect(),
            matcher: Matcher::read(webhook),
            review_versions: strings(webhook, "/admissionReviewVersions"),
            name,
        }
    }

    /// The version of AdmissionReview to send: the first that both sides know.
    pub fn review_version(&self) -> Result<&'static str, &'static str> {
        let known = |version: &String| REVIEW_VERSIONS.into_iter().find(|known| known == version);
        self.review_versions.iter().find_map(known).ok_or("webhook does not accept known AdmissionReview versions (v1, v1beta1)")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_those_of_the_api() {
        let webhook = json!({ "name": "h", "admissionReviewVersions": ["v2", "v1beta1", "v1"], "sideEffects": "None" });
        let hook = read(&json!({ "metadata": { "name": "c" }, "webhooks": [webhook] }), true, &Credentials::default()).remove(0);
        assert_eq!((hook.timeout_seconds, hook.ignores_failures), (10, false));
        assert_eq!((hook.review_version(), hook.side_effects), (Ok("v1beta1"), SideEffects::None));
    }
}
