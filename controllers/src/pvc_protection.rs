//! The claim protection controller: a PersistentVolumeClaim that a pod uses is not deleted before the pod is, and a bound claim tells
//! whether any pod uses it.

use std::sync::Arc;

use client::clock;
use client::controller::Outcome;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};

use crate::manager::Context;
use crate::{claims, finalizers, pod_state};

const FINALIZER: &str = "kubernetes.io/pvc-protection";
const UNUSED: &str = "Unused";
const WORKERS: usize = 30;

struct Controller {
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

pub async fn run(context: Context) {
    let controller = Controller { client: context.client.clone(), claims: context.informers.of(), pods: context.informers.of() };
    claims::index(&controller.pods);
    let queue = Queue::named("pvcprotection");
    let sink = queue.clone();
    controller.claims.on_change(move |change| {
        let claim = change.object();
        if !matches!(change, Change::Deleted(_))
            && (claim.is_terminating() || !finalizers::has(claim.as_ref(), FINALIZER) || unused(claim).is_none())
        {
            sink.add(claim.key());
        }
    });
    let sink = queue.clone();
    controller.pods.on_change(move |change| {
        // A pod's volumes do not change; where it is and whether it has ended does.
        let state = |pod: &Pod| (pod_state::node_name(pod).to_owned(), is_ended(pod), pod.uid().to_owned());
        match change {
            Change::Updated { old, new } if state(old) == state(new) => {}
            change => claims::of(change.object()).for_each(|key| sink.add(key)),
        }
    });
    controller.claims.synced().await;
    controller.pods.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| controller.sync(key)).await;
}

fn unused(claim: &PersistentVolumeClaim) -> Option<&PersistentVolumeClaimCondition> {
    claim.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == UNUSED)
}

/// All containers have ended, or nobody waits for them any more.
fn is_ended(pod: &Pod) -> bool {
    let running = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
        status.state.as_ref().is_none_or(|state| state.terminated.is_none() && state.waiting.is_none())
    };
    let statuses = || pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    pod_state::is_terminal(pod) || (pod.is_terminating() && !statuses().any(running))
}

/// Whether the pod keeps the claim from being deleted: it has a node, where somebody may have mounted it.
fn keeps(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let shut_down = pod.is_terminating() && pod.metadata.deletion_grace_period_seconds == Some(0);
    !pod_state::node_name(pod).is_empty()
        && claims::volumes(pod).any(|volume| {
            let named = claims::name(pod, volume).as_deref() == Some(claim.name());
            named && (volume.persistent_volume_claim.is_some() || (!shut_down && claims::is_for_pod(claim, pod)))
        })
}

/// Whether the pod counts as a user of the claim: it has not ended, whether it runs or not.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    !is_ended(pod)
        && claims::volumes(pod).any(|volume| {
            let named = claims::name(pod, volume).as_deref() == Some(claim.name());
            named && (volume.persistent_volume_claim.is_some() || claims::is_for_pod(claim, pod))
        })
}

/// The claim with a condition that tells whether it is used; nothing if it tells that already.
fn with_condition(claim: &PersistentVolumeClaim, used: bool, now: Timestamp) -> Option<PersistentVolumeClaim> {
    let (status, reason, message) = if used {
        ("False", "PodUsingPVC", "A pod is currently referencing this PVC")
    } else {
        ("True", "NoPodsUsingPVC", "No pods are currently referencing this PVC")
    };
    if unused(claim).is_some_and(|condition| (condition.status == "True") != used) {
        return None;
    }
    let mut claim = claim.clone();
    let conditions = claim.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != UNUSED);
    conditions.push(PersistentVolumeClaimCondition {
        type_: UNUSED.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        last_probe_time: None,
    });
    Some(claim)
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(claim) = self.claims.get_key(&key) else { return Ok(Outcome::Done) };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        if !claim.is_terminating() && bound {
            let used = self.is_used(&claim, uses).await?;
            if let Some(told) = with_condition(&claim, used, clock::now()) {
                answer::or_absent(api.replace_status(&key.name, &PostParams::default(), &told).await)?;
            }
        }
        let protected = finalizers::has(claim.as_ref(), FINALIZER);
        if claim.is_terminating() && protected {
            if !self.is_used(&claim, keeps).await? {
                finalizers::set(&api, claim.as_ref(), FINALIZER, false).await?;
            }
        } else if !claim.is_terminating() && !protected {
            finalizers::set(&api, claim.as_ref(), FINALIZER, true).await?;
        }
        Ok(Outcome::Done)
    }

    /// Asks the informer, and if it knows of nobody the API server: a pod may have come that is not shown yet.
    async fn is_used(&self, claim: &PersistentVolumeClaim, by: fn(&Pod, &PersistentVolumeClaim) -> bool) -> Result<bool, kube::Error> {
        let known: Vec<Arc<Pod>> = claims::pods_of(&self.pods, &claim.key());
        if known.iter().any(|pod| by(pod, claim)) {
            return Ok(true);
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), claim.namespace());
        Ok(pods.list(&ListParams::default()).await?.items.iter().any(|pod| by(pod, claim)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, volume: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"nodeName": node, "containers": [], "volumes": [volume]},
        }))
        .unwrap()
    }

    fn claim(name: &str, owner: &str) -> PersistentVolumeClaim {
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]);
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "ownerReferences": owner}})).unwrap()
    }

    #[test]
    fn a_pod_with_a_node_keeps_the_claims_that_it_names() {
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        assert!(keeps(&pod("node", named.clone()), &claim("c", "x")));
        assert!(!keeps(&pod("", named.clone()), &claim("c", "x")));
        assert!(uses(&pod("", named.clone()), &claim("c", "x")));
        assert!(!keeps(&pod("node", named), &claim("other", "x")));
    }

    #[test]
    fn an_ephemeral_volume_keeps_the_claim_that_was_made_for_it() {
        let ephemeral = json!({"name": "v", "ephemeral": {}});
        assert!(keeps(&pod("node", ephemeral.clone()), &claim("p-v", "u")));
        assert!(!keeps(&pod("node", ephemeral), &claim("p-v", "somebody else")));
    }

    #[test]
    fn use_is_told_when_it_changes() {
        let told = with_condition(&claim("c", "u"), true, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(unused(&told).map(|c| c.status.as_str()), Some("False"));
        assert_eq!(with_condition(&told, true, Timestamp::UNIX_EPOCH), None);
        assert_eq!(unused(&with_condition(&told, false, Timestamp::UNIX_EPOCH).unwrap()).map(|c| c.status.as_str()), Some("True"));
    }
}
