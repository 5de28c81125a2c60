//! The provisioner of the cluster's default storage class: a volume is a directory on the node where the claim's first pod runs.
//!
//! One runs on each node and cares for that node alone, since only there the directories can be made and removed. It keeps the
//! contract of external provisioners: it acts on claims that the volume controller has handed to it, and deletes volumes that
//! the volume controller has released. It never binds anything and never touches a path outside its own directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Informers, Object, ObjectKey, Queue, Shutdown, answer};
use k8s_openapi::api::core::v1::{
    LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::failure;
use crate::volume_binding::{PROVISIONED_BY, SELECTED_NODE, STORAGE_PROVISIONER};

/// What storage classes of this provisioner name.
pub const NAME: &str = "ferrokube.io/local-path";

const NAME_OF_TASKS: &str = "local-path-provisioner";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Anybody may write into a volume, as with every other provisioner of directories: a pod's user is not known here.
const DIRECTORY_MODE: u32 = 0o777;
/// Claims and volumes that are worked on at once; each is a few requests and a directory.
const WORKERS: usize = 2;

/// Which node this is and where it keeps its volumes.
pub struct Config {
    pub node_name: String,
    /// Each volume is a directory in this one.
    pub directory: PathBuf,
    pub shutdown: Shutdown,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to provision volume with StorageClass \"{class}\": {why}")]
    Refused { class: String, why: &'static str },
    #[error("{path}: {source}")]
    Directory { path: String, source: io::Error },
    #[error("{}", failure::message(.0))]
    Request(#[from] kube::Error),
}

struct Provisioner {
    client: Client,
    recorder: Recorder,
    node_name: String,
    directory: PathBuf,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
}

/// Provides and removes this node's volumes until shutdown.
pub async fn run(client: Client, config: Config) {
    let informers = Informers::new(client.clone(), config.shutdown.clone());
    let recorder = Recorder::new(client.clone(), NAME, &config.node_name, config.shutdown.clone());
    let provisioner = Provisioner {
        client,
        recorder,
        node_name: config.node_name,
        directory: config.directory,
        claims: informers.of(),
        volumes: informers.of(),
        classes: informers.of(),
    };
    let (to_provide, to_remove) = (Queue::default(), Queue::default());
    let (sink, node) = (to_provide.clone(), provisioner.node_name.clone());
    provisioner.claims.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) && is_asked(change.object(), &node) {
            sink.add(change.object().key());
        }
    });
    let (sink, node) = (to_remove.clone(), provisioner.node_name.clone());
    provisioner.volumes.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) && is_released(change.object(), &node) {
            sink.add(change.object().key());
        }
    });
    provisioner.claims.synced().await;
    provisioner.volumes.synced().await;
    provisioner.classes.synced().await;
    let stop = config.shutdown;
    let provide = client::controller::run(NAME_OF_TASKS, to_provide, WORKERS, stop.clone(), |key: ObjectKey| provisioner.provide(key));
    let remove = client::controller::run(NAME_OF_TASKS, to_remove, WORKERS, stop, |key: ObjectKey| provisioner.remove(key));
    tokio::join!(provide, remove);
}

/// Whether a volume for the claim is to be made on this node, by us.
fn is_asked(claim: &PersistentVolumeClaim, node: &str) -> bool {
    let bound = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.as_deref().is_some_and(|name| !name.is_empty()));
    !bound
        && !claim.is_terminating()
        && claim.annotation(STORAGE_PROVISIONER) == Some(NAME)
        && claim.annotation(SELECTED_NODE) == Some(node)
}

/// Whether the volume is a directory of this node that nobody claims any more, and that nobody wants to keep.
fn is_released(volume: &PersistentVolume, node: &str) -> bool {
    let status = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    status == Some("Released")
        && policy == Some("Delete")
        && !volume.is_terminating()
        && volume.annotation(PROVISIONED_BY) == Some(NAME)
        && node_of(volume) == Some(node)
}

/// The node that has the volume's directory.
fn node_of(volume: &PersistentVolume) -> Option<&str> {
    let terms = &volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?.node_selector_terms;
    let rule = terms.first()?.match_expressions.as_ref()?.iter().find(|rule| rule.key == HOSTNAME)?;
    rule.values.as_ref()?.first().map(String::as_str)
}

/// Why a claim cannot be served by a directory, if it cannot.
fn obstacle(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("block volumes are not supported");
    }
    if spec.selector.is_some() {
        return Some("claim.Spec.Selector is not supported");
    }
    let single = |mode: &String| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
    if !spec.access_modes.iter().flatten().all(single) {
        return Some("only ReadWriteOnce and ReadWriteOncePod access modes are supported");
    }
    None
}

/// The name that upstream's provisioners give: one claim never gets two volumes.
fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid())
}

/// The volume at `path` on `node`, reserved for its claim.
fn new_volume(claim: &PersistentVolumeClaim, class: &StorageClass, node: &str, path: &Path) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let here = NodeSelectorRequirement { key: HOSTNAME.to_owned(), operator: "In".to_owned(), values: Some(vec![node.to_owned()]) };
    let term = NodeSelectorTerm { match_expressions: Some(vec![here]), match_fields: None };
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume_name(claim)),
            annotations: Some(BTreeMap::from([(PROVISIONED_BY.to_owned(), NAME.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(requests.into_iter().filter(|(name, _)| name == "storage").collect()),
            claim_ref: Some(ObjectReference { field_path: None, ..claim.reference().0 }),
            local: Some(LocalVolumeSource { path: path.display().to_string(), fs_type: None }),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }),
            persistent_volume_reclaim_policy: Some(class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Not by the mode of creation, from which the process's mask is taken.
    fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY_MODE))
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Does something with a directory, which may take long, away from the tasks.
async fn with_directory(path: PathBuf, act: fn(&Path) -> io::Result<()>) -> Result<(), Error> {
    let shown = path.display().to_string();
    let done = tokio::task::spawn_blocking(move || act(&path)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| Error::Directory { path: shown, source })
}

impl Provisioner {
    async fn provide(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(claim) = self.claims.get_key(&key).filter(|claim| is_asked(claim, &self.node_name)) else { return Ok(Outcome::Done) };
        if self.volumes.get("", &volume_name(&claim)).is_some() {
            return Ok(Outcome::Done);
        }
        let name = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or("");
        // A class that is gone tells nobody how its volumes are to be; the volume controller complains of it.
        let Some(class) = self.classes.get("", name) else { return Ok(Outcome::Done) };
        self.recorder.normal(
            &claim.reference(),
            "Provisioning",
            format!("External provisioner is provisioning volume for claim \"{key}\""),
        );
        match self.make(&claim, &class).await {
            Ok(()) => {
                let message = format!("Successfully provisioned volume {}", volume_name(&claim));
                self.recorder.normal(&claim.reference(), "ProvisioningSucceeded", message);
                Ok(Outcome::Done)
            }
            Err(error) => {
                self.recorder.warning(&claim.reference(), "ProvisioningFailed", error.to_string());
                Err(error)
            }
        }
    }

    async fn make(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<(), Error> {
        if let Some(why) = obstacle(claim) {
            return Err(Error::Refused { class: class.name().to_owned(), why });
        }
        let path = self.directory.join(volume_name(claim));
        with_directory(path.clone(), make_directory).await?;
        let volume = new_volume(claim, class, &self.node_name, &path);
        match Api::all(self.client.clone()).create(&PostParams::default(), &volume).await {
            Err(error) if !answer::is_already_exists(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn remove(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(volume) = self.volumes.get_key(&key).filter(|volume| is_released(volume, &self.node_name)) else {
            return Ok(Outcome::Done);
        };
        // By its name, whatever path the object says: anybody who may write volumes could have changed that.
        let removed = with_directory(self.directory.join(volume.name()), remove_directory).await;
        if let Err(error) = removed {
            self.recorder.warning(&volume.reference(), "VolumeFailedDelete", error.to_string());
            return Err(error);
        }
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        answer::or_absent(api.delete(volume.name(), &DeleteParams::default()).await)?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let annotations = json!({ STORAGE_PROVISIONER: NAME, SELECTED_NODE: "a" });
        let metadata = json!({ "name": "c", "namespace": "n", "uid": "1", "annotations": annotations });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
    }

    fn class() -> StorageClass {
        serde_json::from_value(json!({ "metadata": { "name": "standard" }, "provisioner": NAME })).unwrap()
    }

    #[test]
    fn a_claim_is_served_by_the_node_that_was_chosen_for_it() {
        let asked = claim(json!({}));
        assert!(is_asked(&asked, "a"));
        assert!(!is_asked(&asked, "b"));
        assert!(!is_asked(&claim(json!({ "volumeName": "v" })), "a"));
        let mut others = asked;
        others.metadata.annotations.get_or_insert_default().insert(STORAGE_PROVISIONER.to_owned(), "x".to_owned());
        assert!(!is_asked(&others, "a"));
    }

    #[test]
    fn a_volume_belongs_to_its_claim_and_its_node() {
        let spec = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
        let mut volume = new_volume(&claim(spec), &class(), "a", Path::new("/v/pvc-1"));
        let expected = json!({
            "accessModes": ["ReadWriteOnce"],
            "capacity": { "storage": "1Gi" },
            "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "c", "namespace": "n", "uid": "1" },
            "local": { "path": "/v/pvc-1" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": ["a"] }] },
            ] } },
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": "standard",
            "volumeMode": "Filesystem",
        });
        assert_eq!(serde_json::to_value(&volume.spec).unwrap(), expected);
        assert!(!is_released(&volume, "a"));
        volume.status.get_or_insert_default().phase = Some("Released".to_owned());
        assert!(is_released(&volume, "a"));
        assert!(!is_released(&volume, "b"));
        volume.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Retain".to_owned());
        assert!(!is_released(&volume, "a"));
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        for (spec, expected) in [
            (json!({ "accessModes": ["ReadWriteOnce", "ReadWriteOncePod"] }), None),
            (json!({ "volumeMode": "Block" }), Some("block volumes are not supported")),
            (json!({ "selector": {} }), Some("claim.Spec.Selector is not supported")),
            (json!({ "accessModes": ["ReadWriteMany"] }), Some("only ReadWriteOnce and ReadWriteOncePod access modes are supported")),
        ] {
            assert_eq!(obstacle(&claim(spec.clone())), expected, "{spec}");
        }
    }
}
