//! The legacy token cleaner: tokens that were once made for every service account, and that nobody has used for a year, are first
//! marked invalid and a year later deleted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::clock;
use client::{Informer, Object, answer};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use k8s_openapi::jiff::civil::Date;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::manager::Context;
use crate::service_account_token::{NAME_ANNOTATION, TYPE, UID_ANNOTATION};

const PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Since when the API servers note which tokens are used.
const TRACKING: (&str, &str, &str) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking", "since");

pub async fn run(context: Context) {
    let informers = &context.informers;
    let (secrets, accounts, pods) = (informers.of::<Secret>(), informers.of::<ServiceAccount>(), informers.of::<Pod>());
    secrets.synced().await;
    accounts.synced().await;
    pods.synced().await;
    let unused_for = SignedDuration::try_from(context.config.legacy_service_account_token_clean_up_period).unwrap_or(SignedDuration::MAX);
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = clean(&context.client, &secrets, &accounts, &pods, unused_for).await {
            tracing::warn!(controller = context.name, %error, "tokens could not be looked at");
        }
    }
}

fn date(text: &str) -> Option<Date> {
    text.parse().ok()
}

fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

async fn clean(
    client: &Client,
    secrets: &Informer<Secret>,
    accounts: &Informer<ServiceAccount>,
    pods: &Informer<Pod>,
    unused_for: SignedDuration,
) -> Result<(), kube::Error> {
    let now = clock::now();
    let Ok(limit) = now.checked_sub(unused_for) else { return Ok(()) };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), TRACKING.0);
    let tracking = maps.get_opt(TRACKING.1).await?.and_then(|map| map.data?.remove(TRACKING.2));
    // Use counts up to the end of the day on which it was first noted.
    if tracking.and_then(|text| date(&text)).is_none_or(|since| since >= day(limit)) {
        return Ok(());
    }
    for secret in secrets.list() {
        let account = secret.annotation(NAME_ANNOTATION).and_then(|name| accounts.get(secret.namespace(), name));
        let Some(account) = account else { continue };
        let mounted = || mounted_secrets(&pods.list_namespace(secret.namespace())).contains(secret.name());
        let api: Api<Secret> = Api::namespaced(client.clone(), secret.namespace());
        match decide(&secret, &account, mounted, limit) {
            Step::Keep => {}
            Step::Invalidate => {
                let labels = json!({INVALID_SINCE: day(now).to_string()});
                let patch = Patch::Merge(json!({"metadata": {"uid": secret.metadata.uid, "labels": labels}}));
                answer::or_absent(api.patch(secret.name(), &PatchParams::default(), &patch).await)?;
            }
            Step::Delete => {
                let preconditions = Some(Preconditions { uid: None, resource_version: secret.metadata.resource_version.clone() });
                match api.delete(secret.name(), &DeleteParams { preconditions, ..DeleteParams::default() }).await {
                    Err(error) if !answer::is_not_found(&error) && !answer::is_conflict(&error) => return Err(error),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Keep,
    Invalidate,
    Delete,
}

/// What becomes of a token that nobody has used since `limit`, if it is one that was made for the account by itself.
fn decide(secret: &Secret, account: &ServiceAccount, mounted: impl Fn() -> bool, limit: Timestamp) -> Step {
    let uid = secret.annotation(UID_ANNOTATION).unwrap_or("");
    let listed = account.secrets.iter().flatten().any(|listed| listed.name.as_deref() == Some(secret.name()));
    let new = secret.metadata.creation_timestamp.as_ref().is_none_or(|created| created.0 >= limit);
    let used = secret.label(LAST_USED).is_some_and(|text| date(text).is_none_or(|used| used >= day(limit)));
    let theirs = secret.type_.as_deref() == Some(TYPE) && listed && (uid.is_empty() || uid == account.uid());
    if !theirs || new || used || secret.is_terminating() || mounted() {
        return Step::Keep;
    }
    match secret.label(INVALID_SINCE).and_then(date) {
        None => Step::Invalidate,
        Some(since) if since >= day(limit) => Step::Keep,
        Some(_) => Step::Delete,
    }
}

/// The Secrets that pods name, in whatever way.
fn mounted_secrets(pods: &[Arc<Pod>]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for spec in pods.iter().filter_map(|pod| pod.spec.as_ref()) {
        names.extend(spec.image_pull_secrets.iter().flatten().map(|reference| reference.name.clone()));
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        for container in containers {
            names.extend(container.env_from.iter().flatten().filter_map(|from| Some(from.secret_ref.as_ref()?.name.clone())));
            let keys = container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()?.secret_key_ref.as_ref());
            names.extend(keys.map(|key| key.name.clone()));
        }
        for volume in spec.volumes.iter().flatten() {
            names.extend(volume.secret.as_ref().and_then(|secret| secret.secret_name.clone()));
            names.extend(volume.csi.as_ref().and_then(|csi| Some(csi.node_publish_secret_ref.as_ref()?.name.clone())));
            let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
            names.extend(sources.filter_map(|source| Some(source.secret.as_ref()?.name.clone())));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_marked_first_and_deleted_later() {
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "a"}, "secrets": [{"name": "s"}]})).unwrap();
        let secret = |labels: serde_json::Value| -> Secret {
            let metadata = json!({"name": "s", "creationTimestamp": "2020-01-01T00:00:00Z", "labels": labels});
            serde_json::from_value(json!({"metadata": metadata, "type": TYPE})).unwrap()
        };
        let limit: Timestamp = "2024-06-01T12:00:00Z".parse().unwrap();
        let step = |labels, mounted: bool| decide(&secret(labels), &account, || mounted, limit);
        assert_eq!(step(json!({}), false), Step::Invalidate);
        assert_eq!(step(json!({}), true), Step::Keep);
        assert_eq!(step(json!({LAST_USED: "2024-06-01"}), false), Step::Keep);
        assert_eq!(step(json!({LAST_USED: "2024-05-01"}), false), Step::Invalidate);
        assert_eq!(step(json!({INVALID_SINCE: "2024-07-01"}), false), Step::Keep);
        assert_eq!(step(json!({INVALID_SINCE: "2024-01-01"}), false), Step::Delete);
        let other = ServiceAccount::default();
        assert_eq!(decide(&secret(json!({})), &other, || false, limit), Step::Keep);
    }

    #[test]
    fn pods_name_secrets_in_many_ways() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "all"}}], "env": [{"name": "e", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "volume"}}, {"name": "p", "projected": {"sources": [{"secret": {"name": "projected"}}]}}],
        }}))
        .unwrap();
        assert_eq!(mounted_secrets(&[Arc::new(pod)]).into_iter().collect::<Vec<_>>(), ["all", "key", "projected", "pull", "volume"]);
    }
}
