//! The ephemeral volume controller: makes the claims that pods' ephemeral volumes stand for. The garbage collector deletes them.

use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::failure;
use crate::manager::Context;
use crate::{claims, metrics, pod_state};

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("PVC {0} was not created for pod {1} (pod is not owner)")]
    NotOurs(ObjectKey, ObjectKey),
    #[error("create PVC {0}: {message}", message = failure::message(.1))]
    Create(ObjectKey, #[source] kube::Error),
}

struct Controller {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        pods: context.informers.of(),
        claims: context.informers.of(),
    };
    claims::index(&controller.pods);
    let queue = Queue::named("ephemeral_volume");
    let sink = queue.clone();
    controller.pods.on_change(move |change| {
        let pod = change.object();
        if matches!(change, Change::Added(_)) && !pod.is_terminating() && claims::volumes(pod).any(|volume| volume.ephemeral.is_some()) {
            sink.add(pod.key());
        }
    });
    let (sink, pods) = (queue.clone(), controller.pods.clone());
    controller.claims.on_change(move |change| {
        if let Change::Deleted(claim) = change {
            claims::pods_of(&pods, &claim.key()).iter().for_each(|pod| sink.add(pod.key()));
        }
    });
    controller.pods.synced().await;
    controller.claims.synced().await;
    let workers = context.config.concurrent_ephemeralvolume_syncs;
    client::controller::run(context.name, queue, workers, context.shutdown, |key: ObjectKey| controller.sync(key)).await;
}

/// The claim that an ephemeral volume asks for.
fn new_claim(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let given = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claims::ephemeral_name(pod, volume)),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![pod.controller_reference()]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(pod) = self.pods.get_key(&key) else { return Ok(Outcome::Done) };
        if pod.is_terminating() || pod_state::is_terminal(&pod) {
            return Ok(Outcome::Done);
        }
        for volume in claims::volumes(&pod) {
            let Some(claim) = new_claim(&pod, volume) else { continue };
            if let Some(known) = self.claims.get_key(&claim.key()) {
                if claims::is_for_pod(&known, &pod) {
                    continue;
                }
                return Err(Error::NotOurs(claim.key(), key));
            }
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
            metrics::EPHEMERAL_CREATES.only().inc();
            if let Err(error) = api.create(&PostParams::default(), &claim).await {
                metrics::EPHEMERAL_CREATE_FAILURES.only().inc();
                let error = Error::Create(claim.key(), error);
                let message = format!("ephemeral volume {}: {error}", volume.name);
                self.recorder.warning(&pod.reference(), "EphemeralVolumeProvisioningFailed", message);
                return Err(error);
            }
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_claim_is_the_pods() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "volumes": [
                {"name": "v", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"storageClassName": "s"}}}},
                {"name": "w", "emptyDir": {}},
            ]},
        }))
        .unwrap();
        let claims: Vec<_> = claims::volumes(&pod).filter_map(|volume| new_claim(&pod, volume)).collect();
        assert_eq!(claims.len(), 1);
        assert_eq!((claims[0].name(), claims[0].label("a")), ("p-v", Some("b")));
        assert!(claims::is_for_pod(&claims[0], &pod));
    }
}
