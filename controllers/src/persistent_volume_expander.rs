//! The volume expander: tells of claims that ask for more than they have that somebody else has to expand them.
//!
//! All volumes that can grow are CSI drivers', whose own resizers do it.

use apimachinery::quantity::Quantity;
use client::controller::Outcome;
use client::{Change, Object, ObjectKey, Queue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::manager::Context;

const WORKERS: usize = 10;

pub async fn run(context: Context) {
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    let queue = Queue::named("volume_expand");
    let sink = queue.clone();
    claims.on_change(move |change| {
        if let Change::Updated { old, new } = change
            && (requested(new) > requested(old) || capacity(new) > capacity(old))
        {
            sink.add(new.key());
        }
    });
    claims.synced().await;
    volumes.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let claim = claims.get_key(&key);
        let volume = claim.as_ref().and_then(|claim| volumes.get("", claim.spec.as_ref()?.volume_name.as_deref()?));
        if let Some((claim, volume)) = claim.zip(volume)
            && waits(&claim, &volume)
        {
            let message = "waiting for an external controller to expand this PVC";
            context.recorder.normal(&claim.reference(), "ExternalExpanding", message);
        }
        std::future::ready(Ok::<_, kube::Error>(Outcome::Done))
    })
    .await;
}

fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    requests.and_then(|list| Quantity::parse(&list.get("storage")?.0).ok()).unwrap_or_default()
}

fn capacity(claim: &PersistentVolumeClaim) -> Quantity {
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    capacity.and_then(|list| Quantity::parse(&list.get("storage")?.0).ok()).unwrap_or_default()
}

/// Whether the claim is bound to the volume and asks for more than it has.
fn waits(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    bound && reference.and_then(|reference| reference.uid.as_deref()) == Some(claim.uid()) && requested(claim) > capacity(claim)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bound_claim_that_asks_for_more_waits() {
        let claim = |asks: &str, phase: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({
                "metadata": {"uid": "u"}, "spec": {"resources": {"requests": {"storage": asks}}},
                "status": {"phase": phase, "capacity": {"storage": "1Gi"}},
            }))
            .unwrap()
        };
        let volume = |uid: &str| -> PersistentVolume { serde_json::from_value(json!({"spec": {"claimRef": {"uid": uid}}})).unwrap() };
        assert!(waits(&claim("2Gi", "Bound"), &volume("u")));
        assert!(!waits(&claim("1Gi", "Bound"), &volume("u")));
        assert!(!waits(&claim("2Gi", "Pending"), &volume("u")));
        assert!(!waits(&claim("2Gi", "Bound"), &volume("other")));
    }
}
