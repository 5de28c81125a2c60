//! The service account controller: every active namespace has a service account named `default`.
//!
//! It creates that account and never changes or deletes one.

use client::controller::Outcome;
use client::{Change, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Api;
use kube::api::PostParams;

use crate::manager::Context;

const NAME: &str = "default";
const WORKERS: usize = 1;

pub async fn run(context: Context) {
    let accounts = context.informers.of::<ServiceAccount>();
    let namespaces = context.informers.of::<Namespace>();
    let queue = Queue::named("serviceaccount");
    let sink = queue.clone();
    accounts.on_change(move |change| {
        if let Change::Deleted(account) = change {
            sink.add(ObjectKey::new("", account.namespace()));
        }
    });
    let sink = queue.clone();
    namespaces.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            sink.add(change.object().key());
        }
    });
    accounts.synced().await;
    namespaces.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let missing = namespaces.get_key(&key).is_some_and(|namespace| is_active(&namespace)) && accounts.get(&key.name, NAME).is_none();
        let api: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &key.name);
        async move {
            if !missing {
                return Ok(Outcome::Done);
            }
            let mut account = ServiceAccount::default();
            account.metadata.name = Some(NAME.to_owned());
            account.metadata.namespace = Some(key.name.clone());
            match api.create(&PostParams::default(), &account).await {
                Err(error) if !answer::is_already_exists(&error) && !answer::is_namespace_terminating(&error) => Err(error),
                _ => Ok(Outcome::Done),
            }
        }
    })
    .await;
}

/// Nothing can be created in a namespace that is on its way out.
fn is_active(namespace: &Namespace) -> bool {
    namespace.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Active")
}
