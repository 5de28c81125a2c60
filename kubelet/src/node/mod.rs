//! This node in the API server: registered at the start, its status told when it changes, and every five minutes if it does not.

pub mod lease;
pub mod machine;
pub mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::events::{Event, Type};
use client::{Informer, Object, Reference, Shutdown, answer};
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, ObjectReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::core::Core;
use crate::cri::v1;
use machine::Machine;
use status::Inputs;

const REGISTER_RETRY_MIN: Duration = Duration::from_millis(100);
const REGISTER_RETRY_MAX: Duration = Duration::from_secs(7);
/// How often the runtime is asked how it is.
const RUNTIME_PERIOD: Duration = Duration::from_secs(5);
/// Until the node is ready it is looked this often whether it has become so.
const UNREADY_PERIOD: Duration = Duration::from_millis(100);
const FAST_START: Duration = Duration::from_secs(30);
const LABEL_HOSTNAME: &str = "kubernetes.io/hostname";
const LABELS_OS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];
const LABELS_ARCH: [&str; 2] = ["kubernetes.io/arch", "beta.kubernetes.io/arch"];
const CONTROLLER_ATTACHES: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

pub struct NodeTask {
    pub core: Arc<Core>,
    pub client: Client,
    pub machine: Machine,
    pub informer: Informer<Node>,
    /// The pod CIDR that the runtime was told last.
    pub told_pod_cidr: Mutex<String>,
    pub pleg: crate::pleg::Health,
}

/// What events about the node are about.
pub fn reference(name: &str, uid: &str) -> Reference {
    Reference(ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    })
}

impl NodeTask {
    fn name(&self) -> &str {
        &self.core.config.node_name
    }

    /// Registers the node and keeps its status, until shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = self.keep() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn keep(self) {
        self.ask_runtime().await;
        if self.core.config.configuration.register_node {
            self.register().await;
        }
        let configuration = &self.core.config.configuration;
        let began = Instant::now();
        let mut reported: Option<Instant> = None;
        let mut asked = Instant::now();
        loop {
            let known = self.informer.get("", self.name());
            let ready = known.as_ref().is_some_and(|node| is_ready(node));
            let period = if !ready && began.elapsed() < FAST_START { UNREADY_PERIOD } else { configuration.node_status_update_frequency };
            if asked.elapsed() >= RUNTIME_PERIOD || !ready {
                self.ask_runtime().await;
                asked = Instant::now();
            }
            if let Some(node) = known {
                let due = reported.is_none_or(|at| at.elapsed() >= configuration.node_status_report_frequency);
                match self.report(&node, due).await {
                    Ok(true) => reported = Some(Instant::now()),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(node = self.name(), %error, "cannot update the node's status"),
                }
                self.tell_pod_cidr(&node).await;
            }
            let until = Instant::now() + period;
            while Instant::now() < until {
                tokio::select! {
                    () = tokio::time::sleep((until - Instant::now()).min(RUNTIME_PERIOD)) => {}
                    () = self.core.node_shutdown.changed() => break,
                }
                if period > RUNTIME_PERIOD {
                    self.ask_runtime().await;
                    asked = Instant::now();
                }
            }
        }
    }

    /// Asks the runtime how it is, for all who want to know.
    async fn ask_runtime(&self) -> Option<v1::StatusResponse> {
        match self.core.runtime.status(false).await {
            Ok(response) => {
                if let Some(status) = &response.status {
                    self.core.runtime_state.heard(status);
                }
                self.core.runtime_state.heard_of_handlers(&response.runtime_handlers);
                Some(response)
            }
            Err(error) => {
                tracing::warn!(%error, "the container runtime does not tell its status");
                None
            }
        }
    }

    async fn register(&self) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let mut wait = REGISTER_RETRY_MIN;
        loop {
            let node = self.initial().await;
            match nodes.create(&PostParams::default(), &node).await {
                Ok(created) => {
                    self.tell_transitions(&created, &NodeStatus::default(), &node.status.unwrap_or_default());
                    tracing::info!(node = self.name(), "node is registered");
                    return;
                }
                Err(error) if answer::is_already_exists(&error) => match self.reconcile(&nodes, &node).await {
                    Ok(()) => {
                        tracing::info!(node = self.name(), "node was registered before");
                        return;
                    }
                    Err(error) => tracing::warn!(node = self.name(), %error, "cannot bring the registered node up to date"),
                },
                Err(error) => tracing::warn!(node = self.name(), %error, "cannot register the node"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(REGISTER_RETRY_MAX);
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let config = &self.core.config;
        let mut labels = BTreeMap::from([(LABEL_HOSTNAME.to_owned(), config.hostname.clone())]);
        labels.extend(LABELS_OS.map(|label| (label.to_owned(), "linux".to_owned())));
        labels.extend(LABELS_ARCH.map(|label| (label.to_owned(), status::architecture().to_owned())));
        labels.extend(config.node_labels.clone());
        labels
    }

    async fn initial(&self) -> Node {
        let configuration = &self.core.config.configuration;
        let mut node = Node::default();
        node.metadata.name = Some(self.name().to_owned());
        node.metadata.labels = Some(self.labels());
        if configuration.enable_controller_attach_detach {
            node.metadata.annotations = Some(BTreeMap::from([(CONTROLLER_ATTACHES.to_owned(), "true".to_owned())]));
        }
        let taints = configuration.register_with_taints.clone();
        let non_empty = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        node.spec = Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            provider_id: non_empty(&configuration.provider_id),
            ..NodeSpec::default()
        });
        node.status = Some(self.status(&NodeStatus::default()).await);
        node
    }

    /// A node of this name is there: the labels that say what it is are made right.
    async fn reconcile(&self, nodes: &Api<Node>, initial: &Node) -> Result<(), kube::Error> {
        let existing = nodes.get(self.name()).await?;
        let wanted = initial.metadata.labels.clone().unwrap_or_default();
        let ours = [LABEL_HOSTNAME].into_iter().chain(LABELS_OS).chain(LABELS_ARCH);
        let changed: BTreeMap<&str, &String> = ours
            .filter_map(|label| Some((label, wanted.get(label)?)))
            .filter(|(label, value)| existing.label(label) != Some(value))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let patch = json!({"metadata": {"labels": changed}});
        nodes.patch(self.name(), &PatchParams::default(), &Patch::Strategic(patch)).await.map(|_| ())
    }

    async fn status(&self, before: &NodeStatus) -> NodeStatus {
        let core = &self.core;
        let runtime = self.ask_runtime().await.unwrap_or_default();
        let version = core.runtime.version().await.unwrap_or_default();
        let images = core.runtime.list_images(None).await.unwrap_or_default();
        let problems =
            [core.runtime_state.runtime_problem(), core.runtime_state.network_problem(), self.pleg.problem(), core.node_shutdown.problem()];
        let problems: Vec<String> = problems.into_iter().flatten().collect();
        let addresses = core.host_ips.read().clone();
        let pressure = core.eviction.pressure();
        let volumes_in_use = core.volumes.in_use();
        let devices = core.container_manager.devices.amounts().await;
        status::generate(Inputs {
            machine: &self.machine,
            configuration: &core.config.configuration,
            addresses: &addresses,
            hostname: &core.config.hostname,
            version: &version,
            runtime: &runtime,
            images: &images,
            problems: &problems,
            pressure,
            volumes_in_use: &volumes_in_use,
            devices: &devices,
            before,
            now: Timestamp::now(),
        })
    }

    /// Tells the status if it has changed, or if it is due; whether it was told.
    async fn report(&self, node: &Node, due: bool) -> Result<bool, kube::Error> {
        let before = node.status.clone().unwrap_or_default();
        let after = self.status(&before).await;
        if !due && !status::has_changed(&before, &after) {
            return Ok(false);
        }
        self.tell_transitions(node, &before, &after);
        let patch = status_patch(&before, &after).map_err(kube::Error::SerdeError)?;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let answered = nodes.patch_status(self.name(), &PatchParams::default(), &Patch::Strategic(patch)).await?;
        self.core.container_manager.devices.amounts_are_told();
        // The watch may be behind; what was answered is newer.
        self.informer.apply(answered);
        Ok(true)
    }

    fn tell_transitions(&self, node: &Node, before: &NodeStatus, after: &NodeStatus) {
        for event in status::transitions(before, after) {
            let message = format!("Node {} status is now: {event}", self.name());
            self.core.recorder.tell(Event::new(&reference(self.name(), node.uid()), Type::Normal, event, message));
        }
    }

    /// Network plugins that ask the runtime for the node's pod CIDR hear it from here.
    async fn tell_pod_cidr(&self, node: &Node) {
        let spec = node.spec.as_ref();
        let cidrs = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default().join(",");
        if cidrs.is_empty() || *self.told_pod_cidr.lock() == cidrs {
            return;
        }
        let network_config = Some(v1::NetworkConfig { pod_cidr: cidrs.clone() });
        match self.core.runtime.update_runtime_config(v1::RuntimeConfig { network_config }).await {
            Ok(()) => *self.told_pod_cidr.lock() = cidrs,
            Err(error) => tracing::warn!(%error, "cannot tell the runtime the pod CIDR"),
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What of the status is another, as a strategic merge patch.
fn status_patch(before: &NodeStatus, after: &NodeStatus) -> Result<Value, serde_json::Error> {
    let (before, after) = (serde_json::to_value(before)?, serde_json::to_value(after)?);
    let mut patch = serde_json::Map::new();
    let names: std::collections::BTreeSet<&String> =
        [&before, &after].into_iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys).collect();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old == new {
            continue;
        }
        let value = match new {
            None => Value::Null,
            // Of two addresses of one type a merge would keep one.
            Some(Value::Array(addresses)) if name == "addresses" => {
                std::iter::once(json!({"$patch": "replace"})).chain(addresses.iter().cloned()).collect()
            }
            Some(value) => value.clone(),
        };
        patch.insert(name.clone(), value);
    }
    Ok(json!({"status": patch}))
}
