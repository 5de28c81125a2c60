//! Deletes bootstrap tokens when they have expired.

use std::time::Duration;

use client::clock;
use client::controller::Outcome;
use client::{Change, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};

use super::{Validity, is_token, validity};
use crate::manager::Context;

const WORKERS: usize = 1;

pub async fn run(context: Context) {
    let secrets = context.informers.of::<Secret>();
    let queue = Queue::named("token_cleaner");
    let sink = queue.clone();
    secrets.on_change(move |change| {
        if is_token(change.object()) && !matches!(change, Change::Deleted(_)) {
            sink.add(change.object().key());
        }
    });
    secrets.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let (client, secret) = (context.client.clone(), secrets.get_key(&key));
        async move {
            match secret.filter(|secret| is_token(secret)) {
                Some(secret) => clean(client, &secret).await,
                None => Ok(Outcome::Done),
            }
        }
    })
    .await;
}

async fn clean(client: Client, secret: &Secret) -> Result<Outcome, kube::Error> {
    match validity(secret, clock::now()) {
        Validity::Always => Ok(Outcome::Done),
        // A moment later than the time itself, when it has surely passed.
        Validity::For(time) => Ok(Outcome::After(Duration::try_from(time).unwrap_or_default() + Duration::from_millis(1))),
        Validity::Expired => {
            let api: Api<Secret> = Api::namespaced(client, Object::namespace(secret));
            let only = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            match answer::or_absent(api.delete(Object::name(secret), &params).await) {
                // Another secret of that name, which is a trigger of its own.
                Err(error) if answer::is_conflict(&error) => Ok(Outcome::Done),
                deleted => deleted.map(|_| Outcome::Done),
            }
        }
    }
}
