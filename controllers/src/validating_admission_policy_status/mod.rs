//! The status controller of ValidatingAdmissionPolicies: tells in a policy's status which of its expressions cannot be right for the
//! kinds that the policy is about. What it tells changes nothing of what the policy does.
//!
//! A policy is looked at once a generation, with what the server serves at that moment.

mod schemas;
mod type_check;

use std::collections::BTreeMap;

use client::controller::Outcome;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::admissionregistration::v1::{ExpressionWarning, ValidatingAdmissionPolicy};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use self::type_check::{GroupVersionKind, Types};
use crate::discovery;
use crate::manager::Context;

/// Upstream's field manager is not called as its controller is.
const FIELD_MANAGER: &str = "validatingadmissionpolicy-status";
const WORKERS: usize = 5;

struct Controller {
    client: Client,
    policies: Informer<ValidatingAdmissionPolicy>,
}

pub async fn run(context: Context) {
    let controller = Controller { client: context.client.clone(), policies: context.informers.of() };
    let queue = Queue::named("validatingadmissionpolicy-status");
    let sink = queue.clone();
    controller.policies.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            sink.add(change.object().key());
        }
    });
    controller.policies.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| controller.sync(key)).await;
}

/// Whether this generation has not been looked at.
fn is_new(policy: &ValidatingAdmissionPolicy) -> bool {
    let observed = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    policy.metadata.generation.unwrap_or(0) > observed
}

/// What is applied to a policy that was looked at.
fn status(policy: &ValidatingAdmissionPolicy, warnings: &[ExpressionWarning]) -> Value {
    let checked = if warnings.is_empty() { json!({}) } else { json!({ "expressionWarnings": warnings }) };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": policy.name()},
        "status": {"observedGeneration": policy.metadata.generation, "typeChecking": checked},
    })
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(policy) = self.policies.get_key(&key).filter(|policy| is_new(policy)) else { return Ok(Outcome::Done) };
        let types = self.types(&policy).await?;
        let apply = Patch::Apply(status(&policy, &type_check::check(&policy, &types)));
        let api: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        answer::or_absent(api.patch_status(&key.name, &PatchParams::apply(FIELD_MANAGER).force(), &apply).await)?;
        Ok(Outcome::Done)
    }

    /// The types of what the policy is about, and of its parameters. One that the server cannot tell of is left out.
    async fn types(&self, policy: &ValidatingAdmissionPolicy) -> Result<Types, kube::Error> {
        let mut documents = BTreeMap::new();
        let mut types = Types::default();
        if type_check::names_resources(policy) {
            let served = discovery::discover(&self.client).await?.every;
            for kind in type_check::kinds(policy, &served) {
                if let Some(schema) = self.schema(&mut documents, &kind).await? {
                    types.objects.push((kind, schema));
                }
            }
        }
        // Without an object's type nothing is checked.
        if let (Some(kind), false) = (type_check::param_kind(policy), types.objects.is_empty()) {
            types.params = self.schema(&mut documents, &kind).await?.map(|schema| (kind, schema));
        }
        Ok(types)
    }

    /// A kind's schema with all that it refers to; `documents` are those of the group versions that were asked for before.
    async fn schema(&self, documents: &mut BTreeMap<String, Value>, kind: &GroupVersionKind) -> Result<Option<Value>, kube::Error> {
        let path = schemas::document_path(&kind.group, &kind.version);
        if !documents.contains_key(&path) {
            let request = http::Request::get(&path).body(Vec::new()).map_err(kube::Error::HttpError)?;
            let document = match self.client.request(request).await {
                Ok(document) => document,
                Err(error @ kube::Error::Api(_)) => {
                    tracing::debug!(%path, %error, "types cannot be resolved, skipped");
                    Value::Null
                }
                Err(error) => return Err(error),
            };
            documents.insert(path.clone(), document);
        }
        Ok(documents.get(&path).and_then(|document| schemas::resolve(document, kind)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_looked_at_once_a_generation() {
        let policy = |generation: i64, status: Value| -> ValidatingAdmissionPolicy {
            serde_json::from_value(json!({"metadata": {"name": "p", "generation": generation}, "status": status})).unwrap()
        };
        assert!(is_new(&policy(1, json!({}))));
        assert!(is_new(&policy(2, json!({"observedGeneration": 1}))));
        assert!(!is_new(&policy(2, json!({"observedGeneration": 2}))));
    }

    #[test]
    fn a_policy_without_warnings_has_been_checked_all_the_same() {
        let policy: ValidatingAdmissionPolicy = serde_json::from_value(json!({"metadata": {"name": "p", "generation": 3}})).unwrap();
        assert_eq!(status(&policy, &[])["status"], json!({"observedGeneration": 3, "typeChecking": {}}));
        let warning = ExpressionWarning { field_ref: "spec.validations[0].expression".to_owned(), warning: "w".to_owned() };
        let expected = json!([{"fieldRef": "spec.validations[0].expression", "warning": "w"}]);
        assert_eq!(status(&policy, &[warning])["status"]["typeChecking"]["expressionWarnings"], expected);
    }
}
