//! The persistent volume controller: binds claims to volumes, asks provisioners for volumes, and reclaims volumes whose claims are gone.
//!
//! Claims of a class that waits for its first consumer are bound by the scheduler. Storage is made and deleted by CSI drivers'
//! provisioners; here are only directories under /tmp of this host.

mod decide;
mod matching;

use std::time::Duration;

use client::controller::Outcome;
use client::events::{Event, Recorder, Type};
use client::metrics::Looking;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::manager::Context;
use crate::{claims, failure, metrics, pod_state};
use apimachinery::selector::label::StructuredError;
use decide::{BIND_COMPLETED, BOUND_BY_CONTROLLER, ClaimStep, Deleter, Told, VolumeStep};
pub use decide::{PROVISIONED_BY, SELECTED_NODE};

/// Says which provisioner is to make a claim's volume.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONER: [&str; 2] = ["volume.beta.kubernetes.io/storage-provisioner", STORAGE_PROVISIONER];
const DEFAULT_CLASS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("error finding PV for claim: {0}")]
    Selector(#[from] StructuredError),
    #[error("{0}")]
    Contradiction(String),
    #[error("PersistentVolume {0:?} is without a storage capacity")]
    NoCapacity(String),
    #[error("storageclass.storage.k8s.io {0:?} not found")]
    NoClass(String),
    #[error("no volume plugin matched name: {0}")]
    NoProvisioner(String),
    #[error("{}", failure::message(.0))]
    Request(#[from] kube::Error),
}

struct Controller {
    client: Client,
    recorder: Recorder,
    volumes: Informer<PersistentVolume>,
    claims: Informer<PersistentVolumeClaim>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    claim_queue: Queue<ObjectKey>,
    volume_queue: Queue<ObjectKey>,
    provisioning: bool,
}

pub async fn run(context: Context) {
    let informers = &context.informers;
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        volumes: informers.of(),
        claims: informers.of(),
        classes: informers.of(),
        pods: informers.of(),
        claim_queue: Queue::named("claims"),
        volume_queue: Queue::named("volumes"),
        provisioning: context.config.enable_dynamic_provisioning,
    };
    claims::index(&controller.pods);
    let _told = controller.tell_numbers();
    controller.watch();
    controller.volumes.synced().await;
    controller.claims.synced().await;
    controller.classes.synced().await;
    controller.pods.synced().await;
    let resync = async {
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => {}
            () = controller.resync(context.config.pvclaimbinder_sync_period) => {}
        }
    };
    // One worker each: two claims would choose the same volume.
    let (claims, volumes, stop) = (controller.claim_queue.clone(), controller.volume_queue.clone(), &context.shutdown);
    let claims = client::controller::run(context.name, claims, 1, stop.clone(), |key: ObjectKey| controller.sync_claim(key));
    let volumes = client::controller::run(context.name, volumes, 1, stop.clone(), |key: ObjectKey| controller.sync_volume(key));
    tokio::join!(claims, volumes, resync);
}

fn claim_key(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("")
}

fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

fn waits(claim: &PersistentVolumeClaim) -> bool {
    claim.annotation(BIND_COMPLETED).is_none()
}

impl Controller {
    fn watch(&self) {
        let (sink, volumes) = (self.claim_queue.clone(), self.volume_queue.clone());
        self.claims.on_change(move |change| match change {
            Change::Deleted(claim) if volume_name(claim).is_empty() => {}
            Change::Deleted(claim) => volumes.add(ObjectKey::new("", volume_name(claim))),
            change => {
                sink.add(change.object().key());
                if !volume_name(change.object()).is_empty() {
                    volumes.add(ObjectKey::new("", volume_name(change.object())));
                }
            }
        });
        let (sink, volumes, claims) = (self.claim_queue.clone(), self.volume_queue.clone(), self.claims.clone());
        self.volumes.on_change(move |change| {
            let volume = change.object();
            claim_key(volume).into_iter().for_each(|key| sink.add(key));
            if !matches!(change, Change::Deleted(_)) {
                volumes.add(volume.key());
            }
            let became_free = volume_phase(volume) == "Available" && change.old().is_none_or(|old| volume_phase(old) != "Available");
            if became_free {
                claims.list().iter().filter(|claim| waits(claim)).for_each(|claim| sink.add(claim.key()));
            }
        });
        let (sink, claims) = (self.claim_queue.clone(), self.claims.clone());
        self.classes.on_change(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                claims.list().iter().filter(|claim| waits(claim)).for_each(|claim| sink.add(claim.key()));
            }
        });
    }

    /// Looks at what waits now and then, as upstream does: others may have missed their turn.
    async fn resync(&self, period: Duration) {
        loop {
            tokio::time::sleep(period.max(Duration::from_secs(1))).await;
            self.claims.list().iter().filter(|claim| waits(claim)).for_each(|claim| self.claim_queue.add(claim.key()));
            let unsettled = |volume: &PersistentVolume| !matches!(volume_phase(volume), "Available" | "Bound");
            self.volumes.list().iter().filter(|volume| unsettled(volume)).for_each(|volume| self.volume_queue.add(volume.key()));
        }
    }

    fn claim_api(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), claim.namespace())
    }

    fn volume_api(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    fn tell<K: Object>(&self, about: &K, (kind, reason, message): Told) {
        self.recorder.tell(Event::new(&about.reference(), kind, reason, message));
    }

    async fn sync_claim(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(claim) = self.claims.get_key(&key) else { return Ok(Outcome::Done) };
        let step = if waits(&claim) && volume_name(&claim).is_empty() {
            let delayed = self.is_delayed(&claim);
            matching::best(&claim, &self.volumes.list(), delayed)?.map_or(ClaimStep::Provide, ClaimStep::Bind)
        } else {
            decide::named_claim(&claim, self.volumes.get("", volume_name(&claim)))
        };
        match step {
            ClaimStep::Bind(volume) => self.bind(&volume, &claim).await?,
            ClaimStep::Provide => self.provide(&claim).await?,
            ClaimStep::Wait(told) => {
                told.into_iter().for_each(|told| self.tell(claim.as_ref(), told));
                self.set_claim_status(&claim, "Pending", None).await?;
            }
            ClaimStep::Lose(reason, message) => {
                if claim_phase(&claim) != "Lost" {
                    let lost = self.set_claim_status(&claim, "Lost", None).await?;
                    self.tell(&lost, (Type::Warning, reason, message.to_owned()));
                }
            }
            ClaimStep::Contradiction(told) => {
                let message = told.2.clone();
                self.tell(claim.as_ref(), told);
                return Err(Error::Contradiction(message));
            }
        }
        Ok(Outcome::Done)
    }

    /// Whether the claim is bound by whoever places its first pod.
    fn is_delayed(&self, claim: &PersistentVolumeClaim) -> bool {
        let class = self.classes.get("", matching::claim_class(claim));
        class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
    }

    /// What is looked up when somebody asks, for as long as it is kept.
    fn tell_numbers(&self) -> [Looking; 5] {
        let of_volumes = |look: fn(&PersistentVolume) -> Option<Vec<String>>| {
            let volumes = self.volumes.clone();
            move || metrics::tally(volumes.list().iter().filter_map(|volume| look(volume)))
        };
        let of_claims = |look: fn(&PersistentVolumeClaim) -> Option<Vec<String>>| {
            let claims = self.claims.clone();
            move || metrics::tally(claims.list().iter().filter_map(|claim| look(claim)))
        };
        fn is_bound(volume: &PersistentVolume) -> bool {
            volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
        }
        fn class(volume: &PersistentVolume) -> Vec<String> {
            vec![volume.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default()]
        }
        fn is_claim_bound(claim: &PersistentVolumeClaim) -> bool {
            claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
        }
        fn classes(claim: &PersistentVolumeClaim) -> Vec<String> {
            let attributes = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone()).unwrap_or_default();
            vec![claim.namespace().to_owned(), matching::claim_class(claim).to_owned(), attributes]
        }
        [
            metrics::VOLUMES.by(of_volumes(|volume| {
                let mode = volume.spec.as_ref().and_then(|spec| spec.volume_mode.clone());
                Some(vec![plugin_name(volume), mode.unwrap_or_default()])
            })),
            metrics::BOUND_VOLUMES.by(of_volumes(|volume| is_bound(volume).then(|| class(volume)))),
            metrics::UNBOUND_VOLUMES.by(of_volumes(|volume| (!is_bound(volume)).then(|| class(volume)))),
            metrics::BOUND_CLAIMS.by(of_claims(|claim| is_claim_bound(claim).then(|| classes(claim)))),
            metrics::UNBOUND_CLAIMS.by(of_claims(|claim| (!is_claim_bound(claim)).then(|| classes(claim)))),
        ]
    }

    async fn provide(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        if !matching::has_class(claim)
            && let Some(class) = default_class(&self.classes.list())
        {
            let mut claim = claim.clone();
            claim.spec.get_or_insert_default().storage_class_name = Some(class);
            let assigned = self.claim_api(&claim).replace(claim.name(), &PostParams::default(), &claim).await;
            metrics::RETROACTIVE_CLASSES.only().inc();
            if assigned.is_err() {
                metrics::RETROACTIVE_CLASS_ERRORS.only().inc();
            }
            answer::or_absent(assigned)?;
            return Ok(());
        }
        let class = matching::claim_class(claim);
        if self.is_delayed(claim) && claim.annotation(SELECTED_NODE).is_none() {
            self.tell(claim, self.waits_for(claim));
        } else if !class.is_empty() {
            return self.provision(claim, class).await;
        } else {
            let message = "no persistent volumes available for this claim and no storage class is set";
            self.tell(claim, (Type::Normal, "FailedBinding", message.to_owned()));
        }
        self.set_claim_status(claim, "Pending", None).await?;
        Ok(())
    }

    fn waits_for(&self, claim: &PersistentVolumeClaim) -> Told {
        let pods = claims::pods_of(&self.pods, &claim.key());
        let names: Vec<&str> =
            pods.iter().filter(|pod| !pod_state::is_terminal(pod) && pod_state::node_name(pod).is_empty()).map(|pod| pod.name()).collect();
        match names.as_slice() {
            [] => (Type::Normal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
            [one] => (Type::Normal, "WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
            many => (Type::Normal, "WaitForPodScheduled", format!("waiting for pods {} to be scheduled", many.join(","))),
        }
    }

    /// Asks the class's provisioner for a volume, by an annotation that it waits for.
    async fn provision(&self, claim: &PersistentVolumeClaim, name: &str) -> Result<(), Error> {
        if !self.provisioning {
            return Ok(());
        }
        let failed = |error: Error| {
            self.tell(claim, (Type::Warning, "ProvisioningFailed", error.to_string()));
            error
        };
        let class = self.classes.get("", name).ok_or_else(|| failed(Error::NoClass(name.to_owned())))?;
        let provisioner = &class.provisioner;
        if provisioner.starts_with("kubernetes.io/") {
            return Err(failed(Error::NoProvisioner(provisioner.clone())));
        }
        if PROVISIONER.iter().any(|key| claim.annotation(key) != Some(provisioner)) {
            let mut claim = claim.clone();
            let annotations = claim.metadata.annotations.get_or_insert_default();
            PROVISIONER.iter().for_each(|key| {
                annotations.insert((*key).to_owned(), provisioner.clone());
            });
            self.claim_api(&claim).replace(claim.name(), &PostParams::default(), &claim).await?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.tell(claim, (Type::Normal, "ExternalProvisioning", message));
        Ok(())
    }

    /// Writes both sides, the volume first: whoever comes in between finishes it.
    async fn bind(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let volume = match bound_volume(volume, claim) {
            None => volume.clone(),
            Some(changed) => self.volume_api().replace(changed.name(), &PostParams::default(), &changed).await?,
        };
        let volume = self.set_volume_phase(&volume, "Bound", "").await?;
        let claim = match bound_claim(claim, &volume) {
            None => claim.clone(),
            Some(changed) => self.claim_api(claim).replace(changed.name(), &PostParams::default(), &changed).await?,
        };
        self.set_claim_status(&claim, "Bound", Some(&volume)).await?;
        Ok(())
    }

    async fn set_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<PersistentVolumeClaim, Error> {
        let Some(changed) = claim_in_phase(claim, phase, volume)? else { return Ok(claim.clone()) };
        Ok(self.claim_api(claim).replace_status(claim.name(), &PostParams::default(), &changed).await?)
    }

    async fn set_volume_phase(&self, volume: &PersistentVolume, phase: &str, message: &str) -> Result<PersistentVolume, Error> {
        if volume_phase(volume) == phase {
            return Ok(volume.clone());
        }
        let mut changed = volume.clone();
        let status = changed.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = Some(message.to_owned()).filter(|message| !message.is_empty());
        Ok(self.volume_api().replace_status(volume.name(), &PostParams::default(), &changed).await?)
    }

    async fn sync_volume(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(volume) = self.volumes.get_key(&key) else { return Ok(Outcome::Done) };
        let claim = self.claim_of(&volume).await?;
        match decide::volume(&volume, claim.as_ref()) {
            VolumeStep::Available => {
                self.set_volume_phase(&volume, "Available", "").await?;
            }
            VolumeStep::Bound => {
                self.set_volume_phase(&volume, "Bound", "").await?;
            }
            VolumeStep::LookAtClaim => claim_key(&volume).into_iter().for_each(|key| self.claim_queue.add(key)),
            VolumeStep::ModeMismatch => {
                if let Some(claim) = &claim {
                    let of_volume = format!(
                        "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
                        claim.name()
                    );
                    let of_claim = format!(
                        "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim due to incompatible volumeMode.",
                        volume.name()
                    );
                    self.tell(volume.as_ref(), (Type::Warning, "VolumeMismatch", of_volume));
                    self.tell(claim, (Type::Warning, "VolumeMismatch", of_claim));
                }
            }
            VolumeStep::Reclaim => {
                let released = if matches!(volume_phase(&volume), "Released" | "Failed") {
                    volume.as_ref().clone()
                } else {
                    self.set_volume_phase(&volume, "Released", "").await?
                };
                self.reclaim(&released).await?;
            }
            VolumeStep::Unbind => {
                let unbound = self.volume_api().replace(volume.name(), &PostParams::default(), &unbound(&volume)).await?;
                self.set_volume_phase(&unbound, "Available", "").await?;
            }
        }
        Ok(Outcome::Done)
    }

    /// The volume's claim. The API server is asked before a volume is thought to be released.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<PersistentVolumeClaim>, kube::Error> {
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let (Some(key), Some(uid)) = (claim_key(volume), reference.and_then(|reference| reference.uid.as_deref())) else { return Ok(None) };
        let known = self.claims.get_key(&key);
        if uid.is_empty() || known.as_ref().is_some_and(|claim| claim.uid() == uid) {
            return Ok(known.map(|claim| claim.as_ref().clone()));
        }
        if matches!(volume_phase(volume), "Released" | "Failed") {
            return Ok(None);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        Ok(api.get_opt(&key.name).await?.filter(|claim| claim.uid() == uid))
    }

    async fn reclaim(&self, volume: &PersistentVolume) -> Result<(), Error> {
        match volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) {
            Some("Retain") => Ok(()),
            Some("Delete") => self.delete(volume).await,
            Some("Recycle") => self.fail(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!").await,
            _ => self.fail(volume, "VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy").await,
        }
    }

    async fn delete(&self, volume: &PersistentVolume) -> Result<(), Error> {
        match decide::deleter(volume) {
            Deleter::External => Ok(()),
            Deleter::Nobody(why) => self.fail(volume, "VolumeFailedDelete", &why).await,
            Deleter::HostPath(path) => match tokio::fs::remove_dir_all(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    self.fail(volume, "VolumeFailedDelete", &error.to_string()).await
                }
                _ => {
                    answer::or_absent(self.volume_api().delete(volume.name(), &DeleteParams::default()).await)?;
                    Ok(())
                }
            },
        }
    }

    async fn fail(&self, volume: &PersistentVolume, reason: &'static str, message: &str) -> Result<(), Error> {
        if volume_phase(volume) != "Failed" {
            let failed = self.set_volume_phase(volume, "Failed", message).await?;
            self.tell(&failed, (Type::Warning, reason, message.to_owned()));
        }
        Ok(())
    }
}

/// The class for claims that name none: of several defaults the newest.
/// The plugin that a volume is of, as metrics name it; `N/A` for one that is not known here.
fn plugin_name(volume: &PersistentVolume) -> String {
    let Some(spec) = &volume.spec else { return "N/A".to_owned() };
    if let Some(csi) = &spec.csi {
        return format!("kubernetes.io/csi:{}", csi.driver);
    }
    let plugins = [
        (spec.host_path.is_some(), "kubernetes.io/host-path"),
        (spec.local.is_some(), "kubernetes.io/local-volume"),
        (spec.nfs.is_some(), "kubernetes.io/nfs"),
        (spec.iscsi.is_some(), "kubernetes.io/iscsi"),
        (spec.fc.is_some(), "kubernetes.io/fc"),
        (spec.flex_volume.is_some(), "kubernetes.io/flexvolume"),
    ];
    plugins.iter().find(|(is_it, _)| *is_it).map_or("N/A", |(_, name)| name).to_owned()
}

fn default_class(classes: &[std::sync::Arc<StorageClass>]) -> Option<String> {
    let is_default = |class: &&std::sync::Arc<StorageClass>| DEFAULT_CLASS.iter().any(|key| class.annotation(key) == Some("true"));
    let newest = classes.iter().filter(is_default).max_by(|a, b| {
        let created = |class: &StorageClass| class.metadata.creation_timestamp.clone();
        created(a).cmp(&created(b)).then_with(|| b.name().cmp(a.name()))
    });
    newest.map(|class| class.name().to_owned())
}

/// The volume with a reference to its claim; nothing if it has it.
fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let old = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let same = old.is_some_and(|old| {
        old.name.as_deref() == Some(claim.name())
            && old.namespace.as_deref() == Some(claim.namespace())
            && old.uid.as_deref() == Some(claim.uid())
    });
    let chosen_here = !matching::is_bound_to(volume, claim) && volume.annotation(BOUND_BY_CONTROLLER).is_none();
    if same && !chosen_here {
        return None;
    }
    let mut volume = volume.clone();
    let reference = ObjectReference { field_path: None, ..claim.reference().0 };
    volume.spec.get_or_insert_default().claim_ref = Some(reference);
    if chosen_here {
        volume.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    Some(volume)
}

/// The claim with its volume's name; nothing if it has it.
fn bound_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let named = volume_name(claim) == volume.name();
    if named && !waits(claim) {
        return None;
    }
    let mut claim = claim.clone();
    let annotations = claim.metadata.annotations.get_or_insert_default();
    annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
    if !named {
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
        claim.spec.get_or_insert_default().volume_name = volume.metadata.name.clone();
    }
    Some(claim)
}

/// The claim in a phase, with what its volume gives it; nothing if it says that already.
fn claim_in_phase(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Result<Option<PersistentVolumeClaim>, Error> {
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    let before = status.clone();
    let was = before.phase.clone().unwrap_or_default();
    status.phase = Some(phase.to_owned());
    match volume.and_then(|volume| volume.spec.as_ref().map(|spec| (volume, spec))) {
        None => {
            status.access_modes = None;
            status.capacity = None;
            status.current_volume_attributes_class_name = None;
        }
        Some((volume, spec)) => {
            status.access_modes = spec.access_modes.clone();
            // A bound claim's capacity is the file system's, which may be smaller than the volume for good reason.
            if was != phase {
                let capacity = spec.capacity.clone().filter(|capacity| capacity.contains_key("storage"));
                let mut capacity = capacity.ok_or_else(|| Error::NoCapacity(volume.name().to_owned()))?;
                if let Some(before) = volume.annotation(PRE_RESIZE_CAPACITY) {
                    let before = k8s_openapi::apimachinery::pkg::api::resource::Quantity(before.to_owned());
                    capacity.insert("storage".to_owned(), before);
                }
                status.capacity = Some(capacity);
            }
            if was == "Pending" && phase == "Bound" {
                status.current_volume_attributes_class_name = spec.volume_attributes_class_name.clone();
            }
        }
    }
    Ok((*status != before).then_some(changed))
}

/// The volume without its claim, or without the claim's uid if somebody reserved it by hand.
fn unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut volume = volume.clone();
    let by_us = volume.annotation(BOUND_BY_CONTROLLER).is_some();
    let spec = volume.spec.get_or_insert_default();
    if by_us {
        spec.claim_ref = None;
        if let Some(annotations) = &mut volume.metadata.annotations {
            annotations.remove(BOUND_BY_CONTROLLER);
        }
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
        reference.resource_version = None;
    }
    volume
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn volume() -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]},
        }))
        .unwrap()
    }

    fn claim() -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "status": {"phase": "Pending"}})).unwrap()
    }

    #[test]
    fn binding_writes_each_side_once() {
        let bound = bound_volume(&volume(), &claim()).unwrap();
        assert_eq!(bound.annotation(BOUND_BY_CONTROLLER), Some("yes"));
        assert!(matching::is_bound_to(&bound, &claim()));
        assert_eq!(bound_volume(&bound, &claim()), None);
        let taken = bound_claim(&claim(), &bound).unwrap();
        assert_eq!((volume_name(&taken), taken.annotation(BIND_COMPLETED)), ("v", Some("yes")));
        assert_eq!(bound_claim(&taken, &bound), None);
        let told = claim_in_phase(&taken, "Bound", Some(&bound)).unwrap().unwrap();
        assert_eq!(told.status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0, "1Gi");
        assert_eq!(claim_in_phase(&told, "Bound", Some(&bound)).unwrap(), None);
    }

    #[test]
    fn a_volume_that_somebody_reserved_stays_reserved_when_it_is_unbound() {
        let bound = bound_volume(&volume(), &claim()).unwrap();
        assert_eq!(unbound(&bound).spec.unwrap().claim_ref, None);
        let mut reserved = bound;
        reserved.metadata.annotations = None;
        let reference = unbound(&reserved).spec.unwrap().claim_ref.unwrap();
        assert_eq!((reference.name.as_deref(), reference.uid), (Some("c"), None));
    }

    #[test]
    fn the_newest_default_class_counts() {
        let class = |name: &str, created: &str, default: &str| -> Arc<StorageClass> {
            let annotations = json!({DEFAULT_CLASS[0]: default});
            let metadata = json!({"name": name, "creationTimestamp": created, "annotations": annotations});
            Arc::new(serde_json::from_value(json!({"metadata": metadata, "provisioner": "p"})).unwrap())
        };
        let classes = [
            class("a", "2026-01-01T00:00:00Z", "true"),
            class("b", "2026-01-02T00:00:00Z", "true"),
            class("c", "2026-01-03T00:00:00Z", "false"),
        ];
        assert_eq!(default_class(&classes).as_deref(), Some("b"));
        assert_eq!(default_class(&[]), None);
    }
}
