//! Finalizers on objects: put on and taken off by updates, so that a change by somebody else is noticed.

use client::{Object, answer};
use kube::Api;
use kube::api::PostParams;

pub fn has<K: Object>(object: &K, finalizer: &str) -> bool {
    object.metadata().finalizers.iter().flatten().any(|f| f == finalizer)
}

/// The object with the finalizer, or without it.
fn with<K: Object>(object: &K, finalizer: &str, wanted: bool) -> K {
    let mut object = object.clone();
    let finalizers = k8s_openapi::Metadata::metadata_mut(&mut object).finalizers.get_or_insert_default();
    finalizers.retain(|f| f != finalizer);
    if wanted {
        finalizers.push(finalizer.to_owned());
    }
    object
}

/// Writes the object with or without the finalizer. An object that is gone needs none.
pub async fn set<K: Object>(api: &Api<K>, object: &K, finalizer: &str, wanted: bool) -> Result<(), kube::Error> {
    answer::or_absent(api.replace(object.name(), &PostParams::default(), &with(object, finalizer, wanted)).await).map(|_| ())
}
