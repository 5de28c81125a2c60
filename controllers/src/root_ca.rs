//! The root CA publisher: every namespace has a ConfigMap `kube-root-ca.crt` with the certificates that pods trust the API server by.
//!
//! It restores what somebody changes or deletes, and knows no other ConfigMap.

use std::collections::BTreeMap;

use client::controller::Outcome;
use client::{Change, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

use crate::manager::Context;
use crate::metrics;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const ANNOTATION: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
const WORKERS: usize = 1;

pub async fn run(context: Context) {
    let Some(path) = &context.config.root_ca_file else {
        tracing::warn!(controller = context.name, "no root CA file is given, nothing is published");
        return;
    };
    let bundle = match tokio::fs::read_to_string(path).await {
        Ok(bundle) => bundle,
        Err(error) => {
            tracing::error!(controller = context.name, path = %path.display(), %error, "the root CA file cannot be read");
            return;
        }
    };
    let maps = context.informers.of::<ConfigMap>();
    let namespaces = context.informers.of::<Namespace>();
    let queue = Queue::named("root_ca_cert_publisher");
    let sink = queue.clone();
    maps.on_change(move |change| {
        if change.object().name() == NAME && !matches!(change, Change::Added(_)) {
            sink.add(ObjectKey::new("", change.object().namespace()));
        }
    });
    let sink = queue.clone();
    namespaces.on_change(move |change| {
        let active = change.object().status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Active");
        if matches!(change, Change::Added(_)) || (matches!(change, Change::Updated { .. }) && active) {
            sink.add(change.object().key());
        }
    });
    maps.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let wanted = decide(maps.get(&key.name, NAME).as_deref(), &key.name, &bundle);
        let client = context.client.clone();
        async move {
            let started = Instant::now();
            let result = write(client, &key.name, wanted).await;
            metrics::synced(&metrics::ROOT_CA_SYNCS, &metrics::ROOT_CA_DURATION, &result, started.elapsed());
            result
        }
    })
    .await;
}

/// The ConfigMap to write; nothing if the one that is there will do.
fn decide(current: Option<&ConfigMap>, namespace: &str, bundle: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([(KEY.to_owned(), bundle.to_owned())]);
    if let Some(map) = current
        && map.data.as_ref() == Some(&data)
        && map.annotation(ANNOTATION).is_some_and(|text| !text.is_empty())
    {
        return None;
    }
    let mut map = current.cloned().unwrap_or_default();
    map.metadata.name = Some(NAME.to_owned());
    map.metadata.namespace = Some(namespace.to_owned());
    map.metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), DESCRIPTION.to_owned());
    map.data = Some(data);
    Some(map)
}

async fn write(client: Client, namespace: &str, wanted: Option<ConfigMap>) -> Result<Outcome, kube::Error> {
    let Some(map) = wanted else { return Ok(Outcome::Done) };
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    if map.metadata.uid.is_some() {
        return api.replace(NAME, &PostParams::default(), &map).await.map(|_| Outcome::Done);
    }
    match api.create(&PostParams::default(), &map).await {
        Err(error) if !answer::is_not_found(&error) && !answer::is_namespace_terminating(&error) => Err(error),
        _ => Ok(Outcome::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_changed_bundle_is_written() {
        let new = decide(None, "n", "CA").unwrap();
        assert_eq!((new.namespace(), new.name()), ("n", NAME));
        assert_eq!(decide(Some(&new), "n", "CA"), None);
        assert!(decide(Some(&new), "n", "other").is_some());
        let mut changed = new.clone();
        changed.data.get_or_insert_default().insert("more".to_owned(), String::new());
        assert_eq!(decide(Some(&changed), "n", "CA").unwrap().data, new.data);
    }

    #[test]
    fn the_description_is_restored_but_others_words_are_kept() {
        let mut map = decide(None, "n", "CA").unwrap();
        map.metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), "mine".to_owned());
        assert_eq!(decide(Some(&map), "n", "CA"), None);
        map.metadata.annotations = None;
        assert_eq!(decide(Some(&map), "n", "CA").unwrap().annotation(ANNOTATION), Some(DESCRIPTION));
    }
}
