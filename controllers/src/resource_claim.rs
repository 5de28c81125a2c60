//! The resource claim controller: makes the ResourceClaims that pods ask for by template, reserves them for pods that were placed by
//! hand, and takes reservations and allocations back when pods are through.
//!
//! It allocates nothing; the scheduler does.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::failure;
use crate::manager::Context;
use crate::{finalizers, metrics, pod_state};

const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
const CLAIM_ANNOTATION: &str = "resource.kubernetes.io/pod-claim-name";
const EXTENDED_ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";
const FIELD_MANAGER: &str = "ResourceClaimController";
/// Consumers of one claim.
const RESERVED_MAX: usize = 256;
/// A name's length, without the five characters that are generated and the dash before them.
const NAME_BASE_MAX: usize = 57;
const BY_CLAIM: &str = "resource claim";
const BY_TEMPLATE: &str = "resource claim template";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("resource claim template {0:?}: not found")]
    NoTemplate(String),
    #[error("ResourceClaim was not created for pod {0} (pod is not owner)")]
    NotOurs(ObjectKey),
    #[error("{}", failure::message(.0))]
    Request(#[from] kube::Error),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Pod(ObjectKey),
    Claim(ObjectKey),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Pod(key) => write!(f, "pod {key}"),
            Work::Claim(key) => write!(f, "claim {key}"),
        }
    }
}

struct Controller {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
}

pub async fn run(context: Context) {
    let informers = &context.informers;
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        pods: informers.of(),
        claims: informers.of(),
        templates: informers.of(),
    };
    let claims = controller.claims.clone();
    let _told = metrics::DEVICE_CLAIMS.by(move || metrics::tally(claims.list().iter().map(|claim| told_as(claim))));
    let queue = Queue::named("resource_claim");
    controller.watch(&queue);
    controller.pods.synced().await;
    controller.claims.synced().await;
    controller.templates.synced().await;
    let workers = context.config.concurrent_resourceclaim_syncs;
    client::controller::run(context.name, queue, workers, context.shutdown, |work: Work| async {
        match work {
            Work::Pod(key) => controller.sync_pod(key).await,
            Work::Claim(key) => controller.sync_claim(key).await,
        }
    })
    .await;
}

/// Whether a request of the claim wants administrative access, as a label.
fn admin_access(claim: &ResourceClaim) -> &'static str {
    let requests = claim.spec.iter().flat_map(|spec| spec.devices.iter()).flat_map(|devices| devices.requests.iter().flatten());
    let mut exact = requests.filter_map(|request| request.exactly.as_ref());
    if exact.any(|exactly| exactly.admin_access == Some(true)) { "true" } else { "false" }
}

/// The labels that a claim is counted under: whether it is allocated, administrative access, and where it comes from.
fn told_as(claim: &ResourceClaim) -> Vec<String> {
    let source = match (claim.annotation(EXTENDED_ANNOTATION), claim.annotation(CLAIM_ANNOTATION)) {
        (Some("true"), _) => "extended_resource",
        (_, Some(name)) if !name.is_empty() => "resource_claim_template",
        _ => "",
    };
    let allocated = if is_allocated(claim) { "true" } else { "false" };
    Vec::from([allocated, admin_access(claim), source].map(str::to_owned))
}

fn requests(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default()
}

/// The claim behind a pod's request, and whether it was made from a template. Nothing before it has one.
fn claim_name(pod: &Pod, request: &PodResourceClaim) -> Option<(String, bool)> {
    if let Some(name) = &request.resource_claim_name {
        return Some((name.clone(), false));
    }
    let statuses = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    let status = statuses.into_iter().find(|status| status.name == request.name)?;
    Some((status.resource_claim_name.clone()?, true))
}

/// The claims that a pod uses, by name, and whether each was made for it alone.
pub fn claims_of(pod: &Pod) -> Vec<(String, bool)> {
    let extended = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    let extended = extended.map(|status| (status.resource_claim_name.clone(), true));
    requests(pod).iter().filter_map(|request| claim_name(pod, request)).chain(extended).collect()
}

/// Whether the pod may use the claim.
pub fn is_reserved_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    reserved(claim)
        .iter()
        .any(|consumer| consumer.api_group.as_deref().unwrap_or("").is_empty() && consumer.resource == "pods" && consumer.uid == pod.uid())
}

fn claim_keys(pod: &Pod) -> Vec<ObjectKey> {
    requests(pod).iter().filter_map(|request| Some(ObjectKey::new(pod.namespace(), &claim_name(pod, request)?.0))).collect()
}

/// No container runs, and none ever will.
fn is_done(pod: &Pod) -> bool {
    pod_state::is_terminal(pod) || (pod.is_terminating() && pod_state::node_name(pod).is_empty())
}

/// The pod that a claim was made for.
fn owner(claim: &ResourceClaim) -> Option<&OwnerReference> {
    claim.controller().filter(|owner| owner.kind == "Pod" && owner.api_version == "v1")
}

fn reserved(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default()
}

fn is_allocated(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
}

/// The claim that a pod's request asks for by template. Long names are cut, each by its share.
fn new_claim(pod: &Pod, request: &PodResourceClaim, template: &ResourceClaimTemplate) -> ResourceClaim {
    let spec = template.spec.clone().unwrap_or_default();
    let given = spec.metadata.unwrap_or_default();
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(CLAIM_ANNOTATION.to_owned(), request.name.clone());
    let mut prefix = format!("{}-{}-", pod.name(), request.name);
    if prefix.len() > NAME_BASE_MAX {
        let cut = |text: &str| text.chars().take(text.len() * NAME_BASE_MAX / prefix.len()).collect::<String>();
        prefix = format!("{}-{}", cut(pod.name()), cut(&request.name));
    }
    let owner = OwnerReference { block_owner_deletion: None, ..pod.controller_reference() };
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: spec.spec,
        status: None,
    }
}

impl Controller {
    fn watch(&self, queue: &Queue<Work>) {
        self.pods.add_index(BY_CLAIM, |pod| claim_keys(pod).iter().map(ObjectKey::to_string).collect());
        self.pods.add_index(BY_TEMPLATE, |pod| {
            let templates = requests(pod).iter().filter_map(|request| request.resource_claim_template_name.as_ref());
            templates.map(|name| ObjectKey::new(pod.namespace(), name).to_string()).collect()
        });
        let sink = queue.clone();
        self.pods.on_change(move |change| {
            let pod = change.object();
            if requests(pod).is_empty() {
                return;
            }
            if matches!(change, Change::Deleted(_)) || is_done(pod) {
                claim_keys(pod).into_iter().for_each(|key| sink.add(Work::Claim(key)));
            } else {
                sink.add(Work::Pod(pod.key()));
            }
        });
        let (sink, pods) = (queue.clone(), self.pods.clone());
        self.claims.on_change(move |change| {
            let key = change.object().key();
            pods.by_index(BY_CLAIM, &key.to_string()).iter().for_each(|pod| sink.add(Work::Pod(pod.key())));
            if !matches!(change, Change::Deleted(_)) {
                sink.add(Work::Claim(key));
            }
        });
        let (sink, pods) = (queue.clone(), self.pods.clone());
        self.templates.on_change(move |change| {
            if matches!(change, Change::Added(_)) {
                let key = change.object().key().to_string();
                pods.by_index(BY_TEMPLATE, &key).iter().for_each(|pod| sink.add(Work::Pod(pod.key())));
            }
        });
    }

    fn api(&self, namespace: &str) -> Api<ResourceClaim> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn sync_pod(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(pod) = self.pods.get_key(&key).filter(|pod| !pod.is_terminating() && !is_done(pod)) else { return Ok(Outcome::Done) };
        let mut made = BTreeMap::new();
        for request in requests(&pod) {
            match self.provide(&pod, request).await {
                Ok(name) => made.extend(name.map(|name| (request.name.clone(), name))),
                Err(error) => {
                    let message = format!("PodResourceClaim {}: {error}", request.name);
                    self.recorder.warning(&pod.reference(), "FailedResourceClaimCreation", message);
                    return Err(error);
                }
            }
        }
        if !made.is_empty() {
            self.note(&pod, made).await?;
        }
        if pod_state::node_name(&pod).is_empty() {
            return Ok(Outcome::Done);
        }
        for request in requests(&pod) {
            let Some((name, from_template)) = claim_name(&pod, request) else { continue };
            let Some(claim) = self.claims.get(&key.namespace, &name) else { continue };
            if from_template && !claim.is_controlled_by(pod.uid()) {
                return Err(Error::NotOurs(key));
            }
            self.reserve(&pod, &claim).await?;
        }
        Ok(Outcome::Done)
    }

    /// Makes the claim that a request needs. Its name, if the pod does not say it yet.
    async fn provide(&self, pod: &Pod, request: &PodResourceClaim) -> Result<Option<String>, Error> {
        let Some(template) = &request.resource_claim_template_name else { return Ok(None) };
        let api = self.api(pod.namespace());
        if let Some((name, _)) = claim_name(pod, request) {
            let known = match self.claims.get(pod.namespace(), &name) {
                Some(claim) => Some(claim.as_ref().clone()),
                None => api.get_opt(&name).await?,
            };
            if known.is_some_and(|claim| claim.is_controlled_by(pod.uid())) {
                return Ok(None);
            }
        }
        let ours = |claim: &&Arc<ResourceClaim>| {
            owner(claim).is_some_and(|owner| owner.uid == pod.uid()) && claim.annotation(CLAIM_ANNOTATION) == Some(&request.name)
        };
        if let Some(claim) = self.claims.list_namespace(pod.namespace()).iter().find(ours) {
            return Ok(Some(claim.name().to_owned()));
        }
        let template = self.templates.get(pod.namespace(), template).ok_or_else(|| Error::NoTemplate(template.clone()))?;
        let wanted = new_claim(pod, request, &template);
        let created = api.create(&PostParams::default(), &wanted).await;
        let status = if created.is_ok() { "success" } else { "failure" };
        metrics::DEVICE_CLAIM_CREATES.with(&[status, admin_access(&wanted), "", "Pod"]).inc();
        let claim = created?;
        // Known at once: the same work may come again before the watch tells.
        let name = claim.name().to_owned();
        self.claims.apply(claim);
        Ok(Some(name))
    }

    /// Tells the pod which claims are its.
    async fn note(&self, pod: &Pod, made: BTreeMap<String, String>) -> Result<(), kube::Error> {
        let known = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
        let mut names: BTreeMap<String, String> =
            known.into_iter().filter_map(|status| Some((status.name.clone(), status.resource_claim_name.clone()?))).collect();
        names.extend(made);
        let statuses: Vec<_> = names.iter().map(|(name, claim)| json!({"name": name, "resourceClaimName": claim})).collect();
        let apply = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod.name(), "namespace": pod.namespace()},
            "status": {"resourceClaimStatuses": statuses},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        answer::or_absent(api.patch_status(pod.name(), &params, &Patch::Apply(apply)).await).map(|_| ())
    }

    /// A pod that nobody scheduled takes its place among the consumers here.
    async fn reserve(&self, pod: &Pod, claim: &ResourceClaim) -> Result<(), kube::Error> {
        let is_reserved = reserved(claim).iter().any(|consumer| consumer.uid == pod.uid());
        if !is_allocated(claim) || is_reserved || reserved(claim).len() >= RESERVED_MAX {
            return Ok(());
        }
        let mut claim = claim.clone();
        let consumer = ResourceClaimConsumerReference {
            api_group: None,
            name: pod.name().to_owned(),
            resource: "pods".to_owned(),
            uid: pod.uid().to_owned(),
        };
        claim.status.get_or_insert_default().reserved_for.get_or_insert_default().push(consumer);
        self.api(claim.namespace()).replace_status(claim.name(), &PostParams::default(), &claim).await.map(|_| ())
    }

    /// Whether a consumer may still use the claim. The API server is asked about pods that the informer does not know.
    async fn is_in_use(&self, namespace: &str, consumer: &ResourceClaimConsumerReference) -> Result<bool, kube::Error> {
        if consumer.resource != "pods" || consumer.api_group.as_deref().is_some_and(|group| !group.is_empty()) {
            return Ok(true);
        }
        if let Some(pod) = self.pods.get(namespace, &consumer.name) {
            return Ok(pod.uid() == consumer.uid && !is_done(&pod));
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        Ok(api.get_opt(&consumer.name).await?.is_some_and(|pod| pod.uid() == consumer.uid))
    }

    async fn sync_claim(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(known) = self.claims.get_key(&key) else { return Ok(Outcome::Done) };
        let mut remaining = Vec::new();
        for consumer in reserved(&known) {
            if self.is_in_use(&key.namespace, consumer).await? {
                remaining.push(consumer.clone());
            }
        }
        let api = self.api(&key.namespace);
        let unused = remaining.is_empty();
        let changed = remaining.len() < reserved(&known).len();
        let protected = finalizers::has(known.as_ref(), FINALIZER);
        let mut claim = known.as_ref().clone();
        let frees = unused && protected && is_allocated(&claim) && (changed || claim.is_terminating());
        if changed || frees {
            let status = claim.status.get_or_insert_default();
            status.reserved_for = Some(remaining).filter(|consumers| !consumers.is_empty());
            if frees {
                status.allocation = None;
            }
            let Some(written) = answer::or_absent(api.replace_status(&key.name, &PostParams::default(), &claim).await)? else {
                return Ok(Outcome::Done);
            };
            claim = written;
        }
        if unused && protected && !is_allocated(&claim) && (changed || claim.is_terminating()) {
            finalizers::set(&api, &claim, FINALIZER, false).await?;
        }
        if unused
            && let Some(owner) = owner(&claim)
            && let Some(pod) = self.pods.get(&key.namespace, &owner.name)
            && (pod.uid() != owner.uid || is_done(&pod))
        {
            answer::or_absent(api.delete(&key.name, &DeleteParams::default()).await)?;
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "resourceClaims": [
                {"name": "own", "resourceClaimName": "c"}, {"name": "made", "resourceClaimTemplateName": "t"}, {"name": "new", "resourceClaimTemplateName": "t"},
            ]},
            "status": {"resourceClaimStatuses": [{"name": "made", "resourceClaimName": "made-x"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_request_names_its_claim_or_the_status_does() {
        let pod = pod("p");
        let names: Vec<_> = requests(&pod).iter().map(|request| claim_name(&pod, request)).collect();
        assert_eq!(names, [Some(("c".to_owned(), false)), Some(("made-x".to_owned(), true)), None]);
    }

    #[test]
    fn a_claim_from_a_template_is_the_pods() {
        let template =
            serde_json::from_value(json!({"metadata": {"name": "t"}, "spec": {"metadata": {"labels": {"a": "b"}}, "spec": {}}})).unwrap();
        let claim = new_claim(&pod("p"), &requests(&pod("p"))[2], &template);
        assert_eq!(claim.metadata.generate_name.as_deref(), Some("p-new-"));
        assert_eq!((claim.label("a"), claim.annotation(CLAIM_ANNOTATION)), (Some("b"), Some("new")));
        assert_eq!(owner(&claim).map(|owner| owner.uid.as_str()), Some("u"));
        let long = "x".repeat(100);
        let claim = new_claim(&pod(&long), &requests(&pod(&long))[2], &template);
        assert!(claim.metadata.generate_name.unwrap().len() <= NAME_BASE_MAX);
    }

    #[test]
    fn a_pod_that_was_never_placed_and_is_deleted_is_done() {
        let mut pod = pod("p");
        assert!(!is_done(&pod));
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        assert!(is_done(&pod));
        pod.spec.get_or_insert_default().node_name = Some("node".to_owned());
        assert!(!is_done(&pod));
    }
}
