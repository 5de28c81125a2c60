//! The attach/detach controller: asks CSI drivers, by VolumeAttachments, to attach the volumes of a node's pods and to detach those that
//! nobody needs, and tells the node what is attached.
//!
//! It attaches nothing itself. Nodes that do not say that they leave it to this controller are left alone.

mod plan;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::manager::Context;
use crate::{claims, metrics, node_state, pod_state, pods_by_node};
use plan::{Attachment, Wanted};

const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How long a kubelet that is not heard of may keep a volume.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(6 * 60);
/// A volume that is still in use is looked at again.
const RECHECK: Duration = Duration::from_secs(30);
const WORKERS: usize = 10;

struct Controller {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    attachments: Informer<VolumeAttachment>,
    drivers: Informer<CSIDriver>,
    force: bool,
    /// Since when attachments are not needed; only attachments that exist.
    unneeded: Mutex<HashMap<String, Instant>>,
}

const BY_NODE: &str = "node";

pub async fn run(context: Context) {
    let informers = &context.informers;
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        nodes: informers.of(),
        pods: informers.of(),
        claims: informers.of(),
        volumes: informers.of(),
        attachments: informers.of(),
        drivers: informers.of(),
        force: !context.config.disable_force_detach_on_timeout,
        unneeded: Mutex::default(),
    };
    let queue = Queue::named("pvcs");
    controller.watch(&queue);
    controller.nodes.synced().await;
    controller.pods.synced().await;
    controller.claims.synced().await;
    controller.volumes.synced().await;
    controller.attachments.synced().await;
    controller.drivers.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| controller.sync(key)).await;
}

fn is_out_of_service(node: &Node) -> bool {
    node_state::taints(node).iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Why a volume is detached that the kubelet says it uses, as the label has it; nothing if it does not say so.
fn forced_by(node: &Node, attachment: Option<&Attachment>) -> Option<&'static str> {
    let name = &attachment?.unique_name;
    node.status
        .as_ref()?
        .volumes_in_use
        .as_ref()?
        .contains(name)
        .then(|| if is_out_of_service(node) { "out-of-service" } else { "timeout" })
}

impl Controller {
    fn watch(&self, queue: &Queue<ObjectKey>) {
        pods_by_node::index(&self.pods);
        claims::index(&self.pods);
        self.attachments.add_index(BY_NODE, |attachment| vec![attachment.spec.node_name.clone()]);
        let sink = queue.clone();
        self.nodes.on_change(move |change| {
            let relevant = |node: &Node| {
                let status = node.status.as_ref();
                let volumes = status.map(|status| (status.volumes_in_use.clone(), status.volumes_attached.clone()));
                (volumes, node.annotation(MANAGED).map(str::to_owned), node_state::taints(node).to_vec())
            };
            if change.old().is_none_or(|old| relevant(old) != relevant(change.object())) {
                sink.add(change.object().key());
            }
        });
        let sink = queue.clone();
        self.pods.on_change(move |change| {
            let state = |pod: &Pod| (pod_state::node_name(pod).to_owned(), pod_state::is_terminal(pod));
            let pod = change.object();
            if claims::of(pod).next().is_some() && change.old().is_none_or(|old| state(old) != state(pod)) {
                sink.add(ObjectKey::new("", pod_state::node_name(pod)));
            }
        });
        let (sink, pods) = (queue.clone(), self.pods.clone());
        self.claims.on_change(move |change| {
            let volume = |claim: &PersistentVolumeClaim| claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
            if change.old().is_none_or(|old| volume(old) != volume(change.object())) {
                let pods = claims::pods_of(&pods, &change.object().key());
                pods.iter().for_each(|pod| sink.add(ObjectKey::new("", pod_state::node_name(pod))));
            }
        });
        let sink = queue.clone();
        self.attachments.on_change(move |change| sink.add(ObjectKey::new("", &change.object().spec.node_name)));
        let (sink, nodes) = (queue.clone(), self.nodes.clone());
        self.drivers.on_change(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                nodes.list().iter().for_each(|node| sink.add(node.key()));
            }
        });
    }

    /// The volumes that the node's pods need, and these pods.
    fn wanted(&self, node: &str) -> (BTreeSet<Wanted>, Vec<(String, Arc<Pod>)>) {
        let (mut wanted, mut users) = (BTreeSet::new(), Vec::new());
        let attaches = |driver: &str| {
            let driver = self.drivers.get("", driver);
            driver.is_none_or(|driver| driver.spec.attach_required != Some(false))
        };
        for pod in pods_by_node::of(&self.pods, node).into_iter().filter(|pod| !pod_state::is_terminal(pod)) {
            for key in claims::of(&pod) {
                let Some(claim) = self.claims.get_key(&key) else { continue };
                let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
                let Some(volume) = self.volumes.get("", name) else { continue };
                let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
                if reference.and_then(|reference| reference.uid.as_deref()) != Some(claim.uid()) {
                    continue;
                }
                if let Some(volume) = plan::wanted(&volume, attaches) {
                    users.push((volume.volume.clone(), pod.clone()));
                    wanted.insert(volume);
                }
            }
        }
        (wanted, users)
    }

    /// The node's attachments that are this controller's: by the name that it gives them.
    fn existing(&self, node: &Node) -> Vec<Attachment> {
        let now = Instant::now();
        let out_of_service = is_out_of_service(node);
        let unneeded = self.unneeded.lock();
        let describe = |attachment: Arc<VolumeAttachment>| {
            let volume = self.volumes.get("", attachment.spec.source.persistent_volume_name.as_deref()?)?;
            let wanted = plan::wanted(&volume, |_| true)?;
            if wanted.attachment(node.name()) != attachment.name() {
                return None;
            }
            let expired = unneeded.get(attachment.name()).is_some_and(|since| now.duration_since(*since) > UNMOUNT_TIMEOUT);
            Some(Attachment {
                name: attachment.name().to_owned(),
                unique_name: plan::unique_name(&wanted.driver, &wanted.handle),
                attached: attachment.status.as_ref().is_some_and(|status| status.attached),
                terminating: attachment.is_terminating(),
                forced: out_of_service || (expired && self.force && !node_state::is_ready(node)),
            })
        };
        self.attachments.by_index(BY_NODE, node.name()).into_iter().filter_map(describe).collect()
    }

    async fn sync(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(node) = self.nodes.get_key(&key) else { return self.abandon(&key.name).await };
        if node.annotation(MANAGED) != Some("true") {
            return Ok(Outcome::Done);
        }
        let (wanted, users) = self.wanted(&key.name);
        let existing = self.existing(&node);
        let elsewhere = |volume: &Wanted| {
            let same = |attachment: &Arc<VolumeAttachment>| {
                attachment.spec.node_name != key.name && attachment.spec.source.persistent_volume_name.as_ref() == Some(&volume.volume)
            };
            self.attachments.list().iter().any(same)
        };
        let plan = plan::plan(&node, &wanted, &existing, elsewhere);
        self.tell_blocked(&plan.blocked, &users);
        self.tell_attached(&plan, &wanted, &users);
        self.note_unneeded(&existing, &plan);
        // The node must know before the volume goes.
        if let Some(report) = &plan.report {
            let patch = Patch::Merge(json!({"status": {"volumesAttached": report}}));
            let nodes: Api<Node> = Api::all(self.client.clone());
            answer::or_absent(nodes.patch_status(&key.name, &PatchParams::default(), &patch).await)?;
        }
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        for name in &plan.detach {
            answer::or_absent(api.delete(name, &DeleteParams::default()).await)?;
            if let Some(reason) = forced_by(&node, existing.iter().find(|attachment| attachment.name == *name)) {
                metrics::FORCED_DETACHES.with(&[reason]).inc();
            }
        }
        for volume in &plan.attach {
            match api.create(&PostParams::default(), &volume.new_attachment(&key.name)).await {
                Err(error) if !answer::is_already_exists(&error) => return Err(error),
                _ => {}
            }
        }
        let again = !plan.waiting.is_empty() || !plan.blocked.is_empty();
        Ok(if again { Outcome::After(RECHECK) } else { Outcome::Done })
    }

    /// The node is gone: nobody can use what it had.
    async fn abandon(&self, node: &str) -> Result<Outcome, kube::Error> {
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        for attachment in self.attachments.by_index(BY_NODE, node) {
            if !attachment.is_terminating() && attachment.name().starts_with("csi-") {
                answer::or_absent(api.delete(attachment.name(), &DeleteParams::default()).await)?;
            }
        }
        Ok(Outcome::Done)
    }

    fn note_unneeded(&self, existing: &[Attachment], plan: &plan::Plan) {
        let now = Instant::now();
        let mut unneeded = self.unneeded.lock();
        for attachment in existing {
            if plan.waiting.contains(&attachment.name) {
                unneeded.entry(attachment.name.clone()).or_insert(now);
            } else {
                unneeded.remove(&attachment.name);
            }
        }
    }

    fn tell_blocked(&self, blocked: &[Wanted], users: &[(String, Arc<Pod>)]) {
        for volume in blocked {
            let message = format!(
                "Multi-Attach error for volume {:?} Volume is already exclusively attached to one node and can't be attached to another",
                volume.volume
            );
            for (_, pod) in users.iter().filter(|(name, _)| *name == volume.volume) {
                self.recorder.warning(&pod.reference(), "FailedAttachVolume", message.clone());
            }
        }
    }

    /// Pods are told when their volume is attached: when the node is told so for the first time.
    fn tell_attached(&self, plan: &plan::Plan, wanted: &BTreeSet<Wanted>, users: &[(String, Arc<Pod>)]) {
        let names = plan::by_unique_name(wanted);
        for volume in plan.report.iter().flatten().filter_map(|attached| names.get(&attached.name)) {
            for (_, pod) in users.iter().filter(|(name, _)| *name == volume.volume) {
                let message = format!("AttachVolume.Attach succeeded for volume {:?} ", volume.volume);
                self.recorder.normal(&pod.reference(), "SuccessfulAttachVolume", message);
            }
        }
    }
}
