//! The ValidatingAdmissionPolicy status controller: tells the author of a policy where its expressions do not fit the types that it is
//! about.
//!
//! What a policy does is not changed by that: [`check`] finds what to say, [`schemas`] what is known of the types.

mod check;
mod schemas;

use client::controller::Outcome;
use client::{Object, ObjectKey, Queue, answer};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::discovery;
use crate::manager::Context;

const FIELD_MANAGER: &str = "validatingadmissionpolicy-status";
const WORKERS: usize = 5;

pub async fn run(context: Context) {
    let policies = context.informers.of::<ValidatingAdmissionPolicy>();
    let queue = Queue::default();
    let sink = queue.clone();
    policies.on_change(move |change| sink.add(change.object().key()));
    policies.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let policy = policies.get_key(&key).filter(|policy| !is_checked(policy));
        let client = context.client.clone();
        async move {
            let Some(policy) = policy else { return Ok(Outcome::Done) };
            let served = discovery::discover(&client).await?;
            let subject = check::Subject::of(&policy, &served.every);
            let types = schemas::read(&client, subject.kinds()).await?;
            let warnings: Vec<_> = check::warnings(&policy, &subject, &types)
                .into_iter()
                .map(|warning| json!({ "fieldRef": warning.field, "warning": warning.text }))
                .collect();
            let mut type_checking = json!({});
            if !warnings.is_empty() {
                type_checking["expressionWarnings"] = warnings.into();
            }
            let status = json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicy",
                "metadata": { "name": policy.name() },
                "status": { "observedGeneration": policy.metadata.generation, "typeChecking": type_checking },
            });
            let api: Api<ValidatingAdmissionPolicy> = Api::all(client);
            let parameters = PatchParams::apply(FIELD_MANAGER).force();
            answer::or_absent(api.patch_status(policy.name(), &parameters, &Patch::Apply(status)).await)?;
            Ok::<_, kube::Error>(Outcome::Done)
        }
    })
    .await;
}

/// Whether this generation of the policy has been looked at.
fn is_checked(policy: &ValidatingAdmissionPolicy) -> bool {
    let seen = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    policy.metadata.generation.unwrap_or(0) <= seen
}
