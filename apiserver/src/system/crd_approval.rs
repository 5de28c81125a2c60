//! Definitions in the community's own groups (`*.k8s.io`, `*.kubernetes.io`) say whether their API was approved; a condition
//! tells whether they say it well.

use apimachinery::field::quote;
use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::Value;

use crate::registry::conditions::Condition;
use super::crd_names::{COLLECTION, GROUP, PLURAL};
use super::keyed::{self, Next, Reconciler, Source};
use crate::loopback::Loopback;
use crate::registry::read::str_at;

const KIND: &str = "KubernetesAPIApprovalPolicyConformant";
const ANNOTATION: &str = "api-approved.kubernetes.io";
const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// Starts the controller.
pub fn spawn(client: &Loopback) {
    if client.serves(GROUP, PLURAL) {
        keyed::spawn(client, "crd-approval", vec![Source::own(GROUP, PLURAL)], Approval { client: client.clone() });
    }
}

struct Approval {
    client: Loopback,
}

impl Reconciler for Approval {
    async fn reconcile(&mut self, name: &str) -> Result<Next, Status> {
        let group = name.split_once('.').map_or("", |(_, group)| group);
        if !is_protected(group) {
            return Ok(Next::default());
        }
        let Some(mut definition) = self.client.get(GROUP, PLURAL, "", name) else { return Ok(Next::default()) };
        let condition = decide(&definition);
        if !condition.holds(&definition) {
            condition.set(&mut definition, Timestamp::now());
            self.client.replace(&format!("{COLLECTION}/{name}/status"), definition).await?;
        }
        Ok(Next::default())
    }
}

/// Whether a group is the community's.
fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|own| group.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

fn decide(definition: &Value) -> Condition {
    let annotation = str_at(definition, "/metadata/annotations/api-approved.kubernetes.io");
    let key = quote(ANNOTATION);
    if annotation.is_empty() {
        return Condition::new(KIND, "False", "MissingAnnotation", format!("protected groups must have approval annotation {key}, {SEE}"));
    }
    if annotation.starts_with("unapproved") {
        return Condition::new(KIND, "False", "UnapprovedAnnotation", format!("not approved: {}", quote(annotation)));
    }
    if is_url(annotation) {
        return Condition::new(KIND, "True", "ApprovedAnnotation", format!("approved in {annotation}"));
    }
    let how = format!("{key} with either a URL or a reason starting with \"unapproved\"");
    Condition::new(KIND, "False", "InvalidAnnotation", format!("protected groups must have approval annotation {how}, {SEE}"))
}

/// An absolute URL with a host.
fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        && !host.is_empty()
        && !host.contains(char::is_whitespace)
        && !text.contains(|c: char| c.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn approval_is_a_url() {
        for (annotation, reason) in [
            ("", "MissingAnnotation"),
            ("unapproved, experimental", "UnapprovedAnnotation"),
            ("https://github.com/kubernetes/enhancements/pull/1", "ApprovedAnnotation"),
            ("later", "InvalidAnnotation"),
            ("https://", "InvalidAnnotation"),
        ] {
            let definition = json!({"metadata": {"annotations": {"api-approved.kubernetes.io": annotation}}});
            assert_eq!(decide(&definition).reason, reason, "{annotation}");
        }
        assert!(is_protected("k8s.io") && is_protected("a.kubernetes.io") && !is_protected("notk8s.io"));
    }
}
