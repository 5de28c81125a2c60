//! The namespace controller: empties a namespace that is being deleted, then lets it go.
//!
//! Pods go first; other contents follow when none are left. It finds what there is by discovery, so that custom resources are
//! deleted too. It never touches a namespace that nobody has asked to delete.

mod conditions;

use std::collections::BTreeMap;
use std::time::Duration;

use client::clock;
use client::controller::Outcome;
use client::{Object, ObjectKey, Queue, answer};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};

use crate::discovery::{self, Metadata, Resource};
use crate::failure;
use crate::manager::Context;
use crate::pod_state;
use conditions::Findings;

/// Other API servers may take a moment to learn of the deletion, and may let in a last object until then.
const DELETION_GRACE: Duration = Duration::from_secs(5);
/// Retries of a namespace wait no longer than this.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long finalizers are thought to take when nothing better is known.
const FINALIZER_ESTIMATE_SECONDS: i64 = 15;
/// Resources of one namespace that are emptied at the same time.
const AT_ONCE: usize = 8;
/// Objects listed by one request.
const PAGE: u32 = 500;
/// What the namespace's `spec.finalizers` calls this controller.
const FINALIZER: &str = "kubernetes";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot read or write the namespace: {0}")]
    Namespace(#[source] kube::Error),
    #[error("the namespace was replaced by another of its name")]
    Replaced,
    #[error("contents could not be deleted: {0}")]
    Contents(String),
}

pub async fn run(context: Context) {
    let namespaces = context.informers.of::<Namespace>();
    let queue = Queue::named("namespace");
    let sink = queue.clone();
    namespaces.on_change(move |change| {
        if change.object().is_terminating() {
            sink.add_after(change.object().key(), DELETION_GRACE);
        }
    });
    namespaces.synced().await;
    let retries = queue.clone();
    let workers = context.config.concurrent_namespace_syncs;
    client::controller::run(context.name, queue, workers, context.shutdown, move |key: ObjectKey| {
        let (client, retries) = (context.client.clone(), retries.clone());
        async move {
            match sync(&client, &key.name).await {
                // The queue's own waits grow far longer than a namespace should be left alone.
                Err(error) if backoff(retries.failures(&key)) >= RETRY_MAX => {
                    tracing::warn!(namespace = key.name, %error, "deletion of a namespace failed");
                    Ok(Outcome::After(RETRY_MAX))
                }
                other => other,
            }
        }
    })
    .await;
}

fn backoff(failures: u32) -> Duration {
    Duration::from_millis(5).saturating_mul(1u32.checked_shl(failures.min(30)).unwrap_or(u32::MAX))
}

async fn sync(client: &Client, name: &str) -> Result<Outcome, Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    let Some(namespace) = api.get_opt(name).await.map_err(Error::Namespace)? else { return Ok(Outcome::Done) };
    let Some(deleted_at) = namespace.metadata.deletion_timestamp.clone() else { return Ok(Outcome::Done) };
    let Some(namespace) = write(&api, namespace, mark_terminating, "status").await? else { return Ok(Outcome::Done) };
    if spec_finalizers(&namespace).is_empty() {
        return Ok(Outcome::Done);
    }
    let (estimate, findings) = delete_contents(client, name, deleted_at.0).await;
    tell(&api, &namespace, &findings).await;
    let failed = findings.errors.into_iter().chain(findings.discovery_failure.map(|(_, message)| message)).collect::<Vec<_>>();
    if !failed.is_empty() {
        return Err(Error::Contents(failed.join(", ")));
    }
    if estimate > 0 {
        return Ok(Outcome::After(Duration::from_secs(u64::try_from(estimate / 2 + 1).unwrap_or(1))));
    }
    write(&api, namespace, release, "finalize").await?;
    Ok(Outcome::Done)
}

fn spec_finalizers(namespace: &Namespace) -> &[String] {
    namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default()
}

/// Whether the namespace changed.
fn mark_terminating(namespace: &mut Namespace) -> bool {
    let status = namespace.status.get_or_insert_default();
    if status.phase.as_deref() == Some("Terminating") {
        return false;
    }
    status.phase = Some("Terminating".to_owned());
    true
}

fn release(namespace: &mut Namespace) -> bool {
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    true
}

/// Changes the namespace, again if somebody else changed it meanwhile. Nothing if it is gone.
async fn write(
    api: &Api<Namespace>,
    mut namespace: Namespace,
    change: fn(&mut Namespace) -> bool,
    subresource: &str,
) -> Result<Option<Namespace>, Error> {
    let name = namespace.name().to_owned();
    loop {
        let uid = namespace.metadata.uid.clone();
        if !change(&mut namespace) {
            return Ok(Some(namespace));
        }
        match api.replace_subresource(subresource, &name, &PostParams::default(), &namespace).await {
            Ok(written) => return Ok(Some(written)),
            Err(error) if answer::is_not_found(&error) => return Ok(None),
            Err(error) if answer::is_conflict(&error) => {}
            Err(error) => return Err(Error::Namespace(error)),
        }
        match api.get_opt(&name).await.map_err(Error::Namespace)? {
            None => return Ok(None),
            Some(current) if current.metadata.uid != uid => return Err(Error::Replaced),
            Some(current) => namespace = current,
        }
    }
}

/// Writes the conditions. A failure is no reason to give up what follows: the next pass writes them again.
async fn tell(api: &Api<Namespace>, namespace: &Namespace, findings: &Findings) {
    let mut told = namespace.clone();
    if !conditions::update(told.status.get_or_insert_default(), findings, clock::now()) {
        return;
    }
    if let Err(error) = api.replace_status(told.name(), &PostParams::default(), &told).await
        && !answer::is_not_found(&error)
    {
        tracing::debug!(namespace = told.name(), %error, "conditions of the namespace could not be written");
    }
}

/// What is left of one resource, and how long it will take to go.
#[derive(Debug, Default, PartialEq)]
struct Left {
    estimate_seconds: i64,
    objects: usize,
    finalizers: BTreeMap<String, usize>,
}

async fn delete_contents(client: &Client, namespace: &str, deleted_at: Timestamp) -> (i64, Findings) {
    let mut findings = Findings::default();
    let mut estimate = 0;
    let resources = match discovery::discover(client).await {
        Ok(discovered) => {
            findings.discovery_failure = discovered.failure().map(|message| (discovered.failed.len(), message));
            discovered.resources
        }
        Err(error) => {
            findings.discovery_failure = Some((0, failure::message(&error)));
            Vec::new()
        }
    };
    let deletable = resources.into_iter().filter(|resource| resource.namespaced && resource.supports("delete"));
    let (pods, others): (Vec<Resource>, Vec<Resource>) =
        deletable.partition(|resource| resource.group.is_empty() && resource.plural == "pods");
    for resource in &pods {
        let left = match estimate_pods(client, namespace, deleted_at).await {
            Ok(seconds) => delete_all(client, resource, namespace, seconds).await,
            Err(error) => Err((0, failure::message(&error))),
        };
        let left = left.map_err(|(seconds, why)| (seconds, format!("failed to delete pods for namespace: {namespace}, err: {why}")));
        note(resource, left, &mut estimate, &mut findings);
    }
    if !findings.remaining.is_empty() {
        // Upstream tells of what remains only when it has been through all resources.
        findings.remaining.clear();
        findings.finalizers.clear();
        return (estimate, findings);
    }
    let mut answers = futures::stream::iter(others)
        .map(|resource| async move {
            let left = delete_all(client, &resource, namespace, 0).await;
            (resource, left)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((resource, left)) = answers.next().await {
        note(&resource, left, &mut estimate, &mut findings);
    }
    (estimate, findings)
}

fn note(resource: &Resource, left: Result<Left, (i64, String)>, estimate: &mut i64, findings: &mut Findings) {
    let left = match left {
        Ok(left) => left,
        Err((seconds, why)) => {
            findings.errors.push(why);
            Left { estimate_seconds: seconds, ..Left::default() }
        }
    };
    *estimate = (*estimate).max(left.estimate_seconds);
    if left.objects > 0 {
        findings.remaining.insert(format!("{}.{}", resource.plural, resource.group), left.objects);
        for (finalizer, objects) in left.finalizers {
            *findings.finalizers.entry(finalizer).or_default() += objects;
        }
    }
}

/// How long the namespace's running pods may take to end; zero once that time has passed since the deletion.
async fn estimate_pods(client: &Client, namespace: &str, deleted_at: Timestamp) -> Result<i64, kube::Error> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default()).await?;
    let longest = pods.items.iter().filter(|pod| !pod_state::is_terminal(pod)).filter_map(grace_seconds).max().unwrap_or(0);
    let passed = clock::now().duration_since(deleted_at).as_secs();
    Ok(if passed >= longest { 0 } else { longest })
}

fn grace_seconds(pod: &Pod) -> Option<i64> {
    pod.spec.as_ref()?.termination_grace_period_seconds
}

/// Deletes all objects of a resource in the namespace. An error comes with the estimate that still holds.
async fn delete_all(client: &Client, resource: &Resource, namespace: &str, estimate: i64) -> Result<Left, (i64, String)> {
    let api = resource.within(client, namespace);
    let failed = |error: kube::Error| (estimate, failure::message(&error));
    let lists = resource.supports("list");
    // Most resources have nothing in most namespaces, and then one request is enough.
    let found = if lists { list(&api).await.map_err(failed)? } else { Some(Vec::new()) };
    if lists && found.as_ref().is_none_or(Vec::is_empty) {
        return Ok(Left::default());
    }
    let mut whole = resource.supports("deletecollection");
    if whole {
        match api.delete_collection(&DeleteParams::background(), &ListParams::default()).await {
            Ok(_) => {}
            Err(error) if is_unsupported(&error) => whole = false,
            Err(error) => return Err(failed(error)),
        }
    }
    if !whole {
        for object in found.iter().flatten() {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            match api.delete(name, &DeleteParams::background()).await {
                Ok(_) => {}
                Err(error) if is_unsupported(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
    if !lists {
        return Ok(Left { estimate_seconds: estimate, ..Left::default() });
    }
    match list(&api).await.map_err(failed)? {
        None => Ok(Left { estimate_seconds: estimate, ..Left::default() }),
        Some(objects) => judge(&objects, estimate).ok_or_else(|| {
            let (group, version, plural) = (&resource.group, &resource.version, &resource.plural);
            let shown = format!("{group}/{version}, Resource={plural}");
            (estimate, format!("unexpected items still remain in namespace: {namespace} for gvr: {shown}"))
        }),
    }
}

/// What the objects that are still there mean. Nothing if they should be gone.
fn judge(objects: &[Metadata], estimate: i64) -> Option<Left> {
    if objects.is_empty() {
        return Some(Left::default());
    }
    let mut finalizers = BTreeMap::<String, usize>::new();
    for finalizer in objects.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
        *finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    let estimate_seconds = match estimate {
        0 if finalizers.is_empty() => return None,
        0 => FINALIZER_ESTIMATE_SECONDS,
        seconds => seconds,
    };
    Some(Left { estimate_seconds, objects: objects.len(), finalizers })
}

fn is_unsupported(error: &kube::Error) -> bool {
    answer::is_not_found(error) || failure::is_method_not_supported(error)
}

/// All objects; nothing if the resource cannot be listed after all.
async fn list(api: &Api<Metadata>) -> Result<Option<Vec<Metadata>>, kube::Error> {
    let mut objects = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = match api.list(&page).await {
            Ok(list) => list,
            Err(error) if is_unsupported(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        objects.extend(list.items);
        match list.metadata.continue_ {
            Some(token) if !token.is_empty() => page = page.continue_token(&token),
            _ => return Ok(Some(objects)),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use kube::core::PartialObjectMetaExt;

    use super::*;

    fn object(finalizers: &[&str]) -> Metadata {
        let finalizers = Some(finalizers.iter().map(|&f| f.to_owned()).collect());
        ObjectMeta { finalizers, ..ObjectMeta::default() }.into_response_partial()
    }

    #[test]
    fn what_remains_is_judged_by_estimates_and_finalizers() {
        let finalizers = || [("x".to_owned(), 2)].into();
        let held = [object(&["x"]), object(&["x"])];
        let free = [object(&[])];
        assert_eq!(judge(&[], 30), Some(Left::default()));
        assert_eq!(judge(&held, 0), Some(Left { estimate_seconds: 15, objects: 2, finalizers: finalizers() }));
        assert_eq!(judge(&held, 30), Some(Left { estimate_seconds: 30, objects: 2, finalizers: finalizers() }));
        assert_eq!(judge(&free, 30), Some(Left { estimate_seconds: 30, objects: 1, finalizers: BTreeMap::new() }));
        assert_eq!(judge(&free, 0), None);
    }

    #[test]
    fn only_our_own_finalizer_is_taken_off() {
        let mut namespace = Namespace::default();
        namespace.spec.get_or_insert_default().finalizers = Some(vec!["kubernetes".to_owned(), "other".to_owned()]);
        release(&mut namespace);
        assert_eq!(spec_finalizers(&namespace), ["other"]);
    }

    #[test]
    fn the_phase_is_written_once() {
        let mut namespace = Namespace::default();
        assert!(mark_terminating(&mut namespace));
        assert!(!mark_terminating(&mut namespace));
    }
}
