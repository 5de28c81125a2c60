//! The volume protection controller: a PersistentVolume that is bound is not deleted before its claim is.

use client::controller::Outcome;
use client::{Change, Object, ObjectKey, Queue};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Api;

use crate::finalizers;
use crate::manager::Context;

const FINALIZER: &str = "kubernetes.io/pv-protection";
const WORKERS: usize = 1;

pub async fn run(context: Context) {
    let volumes = context.informers.of::<PersistentVolume>();
    let queue = Queue::named("pvprotection");
    let sink = queue.clone();
    volumes.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) && wanted(change.object()).is_some() {
            sink.add(change.object().key());
        }
    });
    volumes.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let volume = volumes.get_key(&key);
        let api: Api<PersistentVolume> = Api::all(context.client.clone());
        async move {
            if let Some(volume) = volume
                && let Some(wanted) = wanted(&volume)
            {
                finalizers::set(&api, volume.as_ref(), FINALIZER, wanted).await?;
            }
            Ok::<_, kube::Error>(Outcome::Done)
        }
    })
    .await;
}

/// Whether the finalizer is to be put on, or taken off; nothing if it is as it should be.
fn wanted(volume: &PersistentVolume) -> Option<bool> {
    let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    match (volume.is_terminating(), finalizers::has(volume, FINALIZER)) {
        (false, false) => Some(true),
        (true, true) if !bound => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_volume_that_goes_and_is_not_bound_is_let_go() {
        let volume = |deleted: bool, phase: &str, finalizers: &[&str]| -> PersistentVolume {
            let deleted = deleted.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(
                json!({"metadata": {"deletionTimestamp": deleted, "finalizers": finalizers}, "status": {"phase": phase}}),
            )
            .unwrap()
        };
        assert_eq!(wanted(&volume(false, "Available", &[])), Some(true));
        assert_eq!(wanted(&volume(false, "Bound", &[FINALIZER])), None);
        assert_eq!(wanted(&volume(true, "Bound", &[FINALIZER])), None);
        assert_eq!(wanted(&volume(true, "Released", &[FINALIZER])), Some(false));
        assert_eq!(wanted(&volume(true, "Released", &[])), None);
    }
}
