//! The admission chain: what a write must be changed to, and whether it may happen at all.
//!
//! One file (or folder) a plugin; [`PLUGINS`] is the one list of them, in the order in which they run. A plugin sees one write
//! and may look at other objects. Most are pure; the few that wait for something, or write (quotas count), say so by being a
//! [`WaitingPlugin`].

mod always_admit;
mod always_deny;
mod always_pull_images;
mod amounts;
mod certificate_approval;
mod certificate_signing;
mod certificate_subject_restriction;
mod cluster_trust_bundle_attest;
mod configuration;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod deny_service_external_ips;
mod derived;
mod event_rate_limit;
mod extended_resource_toleration;
mod image_policy_webhook;
mod limit_pod_hard_anti_affinity_topology;
mod limit_ranger;
mod matching;
mod mutating_policy;
mod namespace_auto_provision;
mod namespace_exists;
pub mod namespace_lifecycle;
mod node_declared_feature_validator;
mod node_restriction;
mod owner_references_permission_enforcement;
mod persistent_volume_claim_resize;
mod pod_amounts;
mod pod_group_protection;
mod pod_node_selector;
mod pod_references;
mod pod_resize_validator;
pub mod pod_security;
mod pod_toleration_restriction;
mod pod_topology_labels;
mod policy;
mod priority;
mod resource_quota;
mod rounds;
mod runtime_class;
mod selection;
mod service_account;
mod shown;
mod signers;
mod static_manifests;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
#[cfg(test)]
pub mod testing;
mod validating_policy;
mod webhook;

use std::sync::Arc;
use std::time::Instant;

use apimachinery::status::Status;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;

use crate::catalog::Resource;
use crate::filters::authentication::User;
use crate::filters::authorization::{Authorizer, Decision};
use crate::filters::request_info::RequestInfo;
use crate::metrics;
use crate::metrics::admission::{Phase, PhaseTimes, PluginTimes};
use crate::storage::Stamp;
use crate::webhook_client::Connections;

use rounds::Rounds;
pub use selection::{Config, SelectionError};

/// What is being done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As messages name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }

    /// Whether an object is written, which is all that most plugins look at.
    pub fn writes(self) -> bool {
        matches!(self, Operation::Create | Operation::Update)
    }
}

/// A write on its way in.
pub struct Attributes<'a> {
    pub operation: Operation,
    pub resource: &'a Resource,
    /// Empty for the main resource.
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Empty when the name is to be generated.
    pub name: &'a str,
    pub user: &'a User,
    pub dry_run: bool,
    pub now: Timestamp,
    /// The options object of the request (CreateOptions, …), for those that look at it.
    pub options: &'a Value,
}

impl Attributes<'_> {
    pub fn group(&self) -> &str {
        &self.resource.gvk.group
    }

    pub fn plural(&self) -> &str {
        &self.resource.plural
    }

    /// Whether this is about a resource or one of its subresources.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group() == group && self.plural() == plural
    }

    /// Whether this is about a resource itself.
    pub fn is_main(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.is(group, plural)
    }

    /// The 403 of a plugin. An object whose name is still to be generated is named by its prefix.
    pub fn forbidden(&self, object: Option<&Value>, why: &str) -> Status {
        let named = |field: &str| {
            object.and_then(|o| o.get("metadata")).and_then(|m| m.get(field)).and_then(Value::as_str).filter(|name| !name.is_empty())
        };
        let name = match self.name {
            "" => named("name").or_else(|| named("generateName")).unwrap_or("Unknown"),
            name => name,
        };
        Status::forbidden(self.group(), self.plural(), name, why)
    }
}

/// Looks at other objects, as fresh as the last acknowledged write, and at what users may do.
pub trait Lookup: Send + Sync {
    /// An object in its storage version.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;
    /// All objects of a resource in a namespace (empty: in all), in key order, in their storage version.
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Value>>;
    /// Of which state the objects of a resource are; `None` where that is not known.
    fn stamp(&self, _group: &str, _resource: &str) -> Option<Stamp> {
        None
    }
    /// What says what users may do.
    fn authorizer(&self) -> Arc<dyn Authorizer>;
    /// Whether a user may do something.
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision;
    /// The resources of a kind, and whether each is namespaced. None if the kind is not served.
    fn resources_of_kind(&self, group: &str, version: &str, kind: &str) -> Vec<(String, bool)>;
    /// A served resource.
    fn resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>>;
    /// The served versions of what the resource stores, itself among them.
    fn versions_of(&self, resource: &Resource) -> Vec<Arc<Resource>>;
    /// The connections to webhooks that are kept.
    fn webhook_connections(&self) -> &Arc<Connections>;
}

/// Why the status of an object was not written.
#[derive(Clone, Debug)]
pub enum WriteError {
    /// The object has changed since it was read, or is gone.
    Stale(Status),
    Refused(Status),
}

/// What plugins that wait may use.
pub trait Cluster: Lookup {
    /// Writes the status of a core object over the revision that `object` carries.
    fn update_status<'a>(&'a self, resource: &'a str, object: Value) -> BoxFuture<'a, Result<(), WriteError>>;
    /// Makes a namespace, unless it is there.
    fn create_namespace<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Status>>;
}

/// One admission plugin, named as `--enable-admission-plugins` names it.
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// Changes the object before it is validated. `old` is there for updates.
    fn admit(
        &self,
        _attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        _new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses, or lets pass. `new` is `None` for deletions.
    fn validate(
        &self,
        _attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        _new: Option<&Value>,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

/// A plugin that waits for something, or writes.
pub trait WaitingPlugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// As [`Plugin::admit`].
    fn admit<'a>(
        &'a self,
        _attributes: &'a Attributes<'a>,
        _cluster: &'a dyn Cluster,
        _new: &'a mut Value,
        _old: Option<&'a Value>,
        _warnings: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// As [`Plugin::validate`].
    fn validate<'a>(
        &'a self,
        _attributes: &'a Attributes<'a>,
        _cluster: &'a dyn Cluster,
        _new: Option<&'a Value>,
        _old: Option<&'a Value>,
        _warnings: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A plugin that lets others change what is written, after which everybody may have to look again.
pub trait MutatingPlugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// As [`Plugin::admit`].
    fn admit<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        cluster: &'a dyn Cluster,
        new: &'a mut Value,
        old: Option<&'a Value>,
        warnings: &'a mut Vec<String>,
        rounds: &'a mut Rounds,
    ) -> BoxFuture<'a, Result<(), Status>>;

    /// As [`Plugin::validate`].
    fn validate<'a>(
        &'a self,
        _attributes: &'a Attributes<'a>,
        _cluster: &'a dyn Cluster,
        _new: Option<&'a Value>,
        _old: Option<&'a Value>,
        _warnings: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A plugin of any sort.
pub enum Step {
    Pure(Box<dyn Plugin>),
    Waiting(Box<dyn WaitingPlugin>),
    /// After whose changes the chain is gone through again.
    Mutating(Box<dyn MutatingPlugin>),
}

impl Step {
    fn pure(plugin: impl Plugin + 'static) -> Step {
        Step::Pure(Box::new(plugin))
    }

    fn waiting(plugin: impl WaitingPlugin + 'static) -> Step {
        Step::Waiting(Box::new(plugin))
    }

    fn mutating(plugin: impl MutatingPlugin + 'static) -> Step {
        Step::Mutating(Box::new(plugin))
    }

    pub fn name(&self) -> &'static str {
        match self {
            Step::Pure(plugin) => plugin.name(),
            Step::Waiting(plugin) => plugin.name(),
            Step::Mutating(plugin) => plugin.name(),
        }
    }
}

/// What a plugin is made of.
pub struct Parts<'a> {
    config: &'a Config,
    /// What the configuration file says of the plugin.
    told: Option<&'a [u8]>,
    connections: &'a Arc<Connections>,
}

/// Why a plugin cannot be made of what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    Unreadable(String),
    /// It can be read and makes no sense.
    Senseless(String),
}

impl From<String> for Unfit {
    fn from(why: String) -> Unfit {
        Unfit::Unreadable(why)
    }
}

/// Makes a plugin.
type Make = fn(&Parts<'_>) -> Result<Step, Unfit>;

/// A plugin that can be run.
pub struct Entry {
    name: &'static str,
    /// Whether it is on unless flags say otherwise.
    on: bool,
    make: Make,
}

const fn on(name: &'static str, make: Make) -> Entry {
    Entry { name, on: true, make }
}

const fn off(name: &'static str, make: Make) -> Entry {
    Entry { name, on: false, make }
}

/// Every plugin in upstream's order.
static PLUGINS: &[Entry] = &[
    off("AlwaysAdmit", |_| Ok(Step::pure(always_admit::AlwaysAdmit))),
    off("NamespaceAutoProvision", |_| Ok(Step::waiting(namespace_auto_provision::NamespaceAutoProvision))),
    on("NamespaceLifecycle", |_| Ok(Step::pure(namespace_lifecycle::NamespaceLifecycle))),
    off("NamespaceExists", |_| Ok(Step::pure(namespace_exists::NamespaceExists))),
    off("LimitPodHardAntiAffinityTopology", |_| Ok(Step::pure(limit_pod_hard_anti_affinity_topology::LimitPodHardAntiAffinityTopology))),
    on("LimitRanger", |_| Ok(Step::pure(limit_ranger::LimitRanger))),
    on("ServiceAccount", |_| Ok(Step::waiting(service_account::ServiceAccount))),
    off("NodeRestriction", |_| Ok(Step::pure(node_restriction::NodeRestriction))),
    on("TaintNodesByCondition", |_| Ok(Step::pure(taint_nodes_by_condition::TaintNodesByCondition))),
    off("AlwaysPullImages", |_| Ok(Step::pure(always_pull_images::AlwaysPullImages))),
    off("ImagePolicyWebhook", |parts| Ok(Step::waiting(image_policy_webhook::ImagePolicyWebhook::new(parts.told, parts.connections)?))),
    on("PodSecurity", |parts| Ok(Step::pure(pod_security::PodSecurity::new(parts.told)?))),
    off("PodNodeSelector", |parts| Ok(Step::pure(pod_node_selector::PodNodeSelector::new(parts.told)))),
    on("Priority", |_| Ok(Step::pure(priority::Priority))),
    on("DefaultTolerationSeconds", |parts| Ok(Step::pure(default_toleration_seconds::DefaultTolerationSeconds::new(parts.config)))),
    off("PodTolerationRestriction", |parts| Ok(Step::pure(pod_toleration_restriction::PodTolerationRestriction::new(parts.told)?))),
    off("EventRateLimit", |parts| Ok(Step::pure(event_rate_limit::EventRateLimit::new(parts.told)?))),
    off("ExtendedResourceToleration", |_| Ok(Step::pure(extended_resource_toleration::ExtendedResourceToleration))),
    on("DefaultStorageClass", |_| Ok(Step::pure(default_storage_class::DefaultStorageClass))),
    on("StorageObjectInUseProtection", |_| Ok(Step::pure(storage_object_in_use_protection::StorageObjectInUseProtection))),
    on("PodGroupProtection", |_| Ok(Step::pure(pod_group_protection::PodGroupProtection::default()))),
    off("OwnerReferencesPermissionEnforcement", |_| {
        Ok(Step::pure(owner_references_permission_enforcement::OwnerReferencesPermissionEnforcement))
    }),
    on("PersistentVolumeClaimResize", |_| Ok(Step::pure(persistent_volume_claim_resize::PersistentVolumeClaimResize))),
    on("RuntimeClass", |_| Ok(Step::pure(runtime_class::RuntimeClass))),
    on("CertificateApproval", |_| Ok(Step::pure(certificate_approval::CertificateApproval))),
    on("CertificateSigning", |_| Ok(Step::pure(certificate_signing::CertificateSigning))),
    on("ClusterTrustBundleAttest", |_| Ok(Step::pure(cluster_trust_bundle_attest::ClusterTrustBundleAttest))),
    on("CertificateSubjectRestriction", |_| Ok(Step::pure(certificate_subject_restriction::CertificateSubjectRestriction))),
    on("DefaultIngressClass", |_| Ok(Step::pure(default_ingress_class::DefaultIngressClass))),
    off("DenyServiceExternalIPs", |_| Ok(Step::pure(deny_service_external_ips::DenyServiceExternalIps))),
    on("PodTopologyLabels", |_| Ok(Step::pure(pod_topology_labels::PodTopologyLabels))),
    on("NodeDeclaredFeatureValidator", |_| Ok(Step::pure(node_declared_feature_validator::NodeDeclaredFeatureValidator))),
    on("PodResizeValidator", |_| Ok(Step::pure(pod_resize_validator::PodResizeValidator))),
    on("MutatingAdmissionPolicy", |parts| Ok(Step::mutating(mutating_policy::MutatingPolicies::new(parts.told)?))),
    on("MutatingAdmissionWebhook", |parts| Ok(Step::mutating(webhook::MutatingWebhooks::new(parts.told)?))),
    on("ValidatingAdmissionPolicy", |parts| Ok(Step::waiting(validating_policy::ValidatingPolicies::new(parts.told)?))),
    on("ValidatingAdmissionWebhook", |parts| Ok(Step::waiting(webhook::ValidatingWebhooks::new(parts.told)?))),
    // Quotas count last, when nothing else refuses.
    on("ResourceQuota", |parts| Ok(Step::waiting(resource_quota::ResourceQuota::new(parts.told)?))),
    off("AlwaysDeny", |_| Ok(Step::pure(always_deny::AlwaysDeny))),
];

/// The plugins that are on, in upstream's order.
pub struct Chain {
    steps: Vec<(Step, PluginTimes)>,
    times: PhaseTimes,
}

impl Chain {
    pub fn new(steps: Vec<Step>) -> Chain {
        Chain { steps: steps.into_iter().map(timed).collect(), times: PhaseTimes::default() }
    }

    /// The plugins that a server runs which is told nothing else.
    pub fn default_chain() -> Result<Chain, SelectionError> {
        Config::default().chain(&Arc::default())
    }

    /// This chain and one more at its end, which no flag turns off.
    pub fn and(mut self, plugin: impl Plugin + 'static) -> Chain {
        self.steps.push(timed(Step::pure(plugin)));
        self
    }

    /// The names of the plugins that are on.
    pub fn names(&self) -> Vec<&'static str> {
        self.steps.iter().map(|(step, _)| step.name()).collect()
    }

    pub async fn admit(
        &self,
        attributes: &Attributes<'_>,
        cluster: &dyn Cluster,
        new: &mut Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let since = Instant::now();
        let admitted = self.admit_all(attributes, cluster, new, old, warnings).await;
        self.times.took(Phase::Admit, attributes.operation, admitted.is_err(), since.elapsed());
        admitted
    }

    async fn admit_all(
        &self,
        attributes: &Attributes<'_>,
        cluster: &dyn Cluster,
        new: &mut Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let mut rounds = Rounds::default();
        loop {
            for (step, times) in &self.steps {
                let begun = times.begin(Phase::Admit, attributes.operation);
                let admitted = match step {
                    Step::Pure(plugin) => plugin.admit(attributes, cluster, new, old, warnings),
                    Step::Waiting(plugin) => plugin.admit(attributes, cluster, new, old, warnings).await,
                    Step::Mutating(plugin) => plugin.admit(attributes, cluster, new, old, warnings, &mut rounds).await,
                };
                times.end(begun, Phase::Admit, attributes.operation, admitted.is_err());
                admitted?;
            }
            if !rounds.start_again() {
                return Ok(());
            }
        }
    }

    pub async fn validate(
        &self,
        attributes: &Attributes<'_>,
        cluster: &dyn Cluster,
        new: Option<&Value>,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let since = Instant::now();
        let validated = self.validate_all(attributes, cluster, new, old, warnings).await;
        self.times.took(Phase::Validate, attributes.operation, validated.is_err(), since.elapsed());
        validated
    }

    async fn validate_all(
        &self,
        attributes: &Attributes<'_>,
        cluster: &dyn Cluster,
        new: Option<&Value>,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        for (step, times) in &self.steps {
            let begun = times.begin(Phase::Validate, attributes.operation);
            let validated = match step {
                Step::Pure(plugin) => plugin.validate(attributes, cluster, new, old, warnings),
                Step::Waiting(plugin) => plugin.validate(attributes, cluster, new, old, warnings).await,
                Step::Mutating(plugin) => plugin.validate(attributes, cluster, new, old, warnings).await,
            };
            times.end(begun, Phase::Validate, attributes.operation, validated.is_err());
            validated?;
        }
        Ok(())
    }

    /// Writes how long plugins took (Prometheus text format).
    pub fn render(&self, out: &mut String) {
        metrics::admission::write(out, &self.times, self.steps.iter().map(|(_, times)| times));
    }
}

fn timed(step: Step) -> (Step, PluginTimes) {
    let times = PluginTimes::of(step.name());
    (step, times)
}
