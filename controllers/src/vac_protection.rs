//! The class protection controller: a VolumeAttributesClass that a claim or a volume names is not deleted before these are.

use client::controller::Outcome;
use client::{Change, Informer, Object, ObjectKey, Queue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::Api;

use crate::finalizers;
use crate::manager::Context;

const FINALIZER: &str = "kubernetes.io/vac-protection";
const INDEX: &str = "volume attributes class";
const WORKERS: usize = 30;

fn of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let classes = [
        claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone()),
        status.and_then(|status| status.current_volume_attributes_class_name.clone()),
        status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone()),
    ];
    classes.into_iter().flatten().filter(|class| !class.is_empty()).collect()
}

fn of_volume(volume: &PersistentVolume) -> Vec<String> {
    volume.spec.iter().filter_map(|spec| spec.volume_attributes_class_name.clone()).filter(|class| !class.is_empty()).collect()
}

/// Queues the classes that an object no longer names.
fn watch<K: Object>(objects: &Informer<K>, queue: &Queue<ObjectKey>, classes: fn(&K) -> Vec<String>) {
    objects.add_index(INDEX, classes);
    let sink = queue.clone();
    objects.on_change(move |change| {
        let (before, now) = match change {
            Change::Added(_) => return,
            Change::Updated { old, new } => (classes(old), classes(new)),
            Change::Deleted(old) => (classes(old), Vec::new()),
        };
        before.iter().filter(|class| !now.contains(class)).for_each(|class| sink.add(ObjectKey::new("", class)));
    });
}

pub async fn run(context: Context) {
    let classes = context.informers.of::<VolumeAttributesClass>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    let queue = Queue::named("vacprotection");
    watch(&claims, &queue, of_claim);
    watch(&volumes, &queue, of_volume);
    let sink = queue.clone();
    classes.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            sink.add(change.object().key());
        }
    });
    classes.synced().await;
    claims.synced().await;
    volumes.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let class = classes.get_key(&key);
        let used = !claims.by_index(INDEX, &key.name).is_empty() || !volumes.by_index(INDEX, &key.name).is_empty();
        let api: Api<VolumeAttributesClass> = Api::all(context.client.clone());
        async move {
            if let Some(class) = class
                && let Some(wanted) = wanted(&class, used)
            {
                finalizers::set(&api, class.as_ref(), FINALIZER, wanted).await?;
            }
            Ok::<_, kube::Error>(Outcome::Done)
        }
    })
    .await;
}

/// Whether the finalizer is to be put on, or taken off; nothing if it is as it should be.
fn wanted(class: &VolumeAttributesClass, used: bool) -> Option<bool> {
    match (class.is_terminating(), finalizers::has(class, FINALIZER)) {
        (false, false) => Some(true),
        (true, true) if !used => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_names_the_class_that_it_has_and_the_one_that_it_wants() {
        let claim = serde_json::from_value(json!({
            "spec": {"volumeAttributesClassName": "new"},
            "status": {"currentVolumeAttributesClassName": "old", "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "new"}},
        }))
        .unwrap();
        assert_eq!(of_claim(&claim), ["new", "old", "new"]);
    }

    #[test]
    fn a_class_goes_when_nobody_names_it() {
        let class = |deleted: bool, finalizers: &[&str]| -> VolumeAttributesClass {
            let deleted = deleted.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(json!({"metadata": {"deletionTimestamp": deleted, "finalizers": finalizers}, "driverName": "d"}))
                .unwrap()
        };
        assert_eq!(wanted(&class(false, &[]), false), Some(true));
        assert_eq!(wanted(&class(true, &[FINALIZER]), true), None);
        assert_eq!(wanted(&class(true, &[FINALIZER]), false), Some(false));
    }
}
