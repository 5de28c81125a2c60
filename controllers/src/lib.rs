//! The controllers: each brings one kind of thing in the cluster to what is wanted of it.
//!
//! One file or folder a controller: a pure core that decides and a shell that watches and writes. [`manager`] runs them;
//! no controller knows of another, but for what its objects say.

mod attach_detach;
pub mod bootstrap;
mod certificates;
mod claims;
mod cluster_role_aggregation;
pub mod config;
mod device_taint_eviction;
mod discovery;
mod disruption;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod endpoints;
mod ephemeral_volume;
mod failure;
mod finalizers;
mod garbage_collector;
mod horizontal_pod_autoscaler;
mod label_selector_text;
mod legacy_token_cleaner;
pub mod local_path_provisioner;
pub mod manager;
pub mod metrics;
pub mod names;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod node_state;
mod persistent_volume_expander;
mod pod_disruption;
mod pod_gc;
mod pods_by_node;
mod prefix;
mod pv_protection;
mod pvc_protection;
mod resource_claim;
mod resource_quota;
mod root_ca;
mod service_account;
mod service_account_token;
mod service_cidr;
mod storage_version_migrator;
mod taint_eviction;
mod tolerations;
mod ttl;
mod vac_protection;
mod validating_admission_policy_status;
mod volume_binding;

mod adoption;
mod controller_history;
mod cron_job;
mod daemon_set;
mod deployment;
mod int_or_percent;
mod job;
mod own_writes;
mod owners;
mod pod_control;
mod pod_ranking;
mod pod_state;
mod replica_set;
mod replication_controller;
mod stateful_set;
mod template;
mod ttl_after_finished;

use manager::Controller;

/// Every controller of this manager. The first are started first: others need the tokens that they make.
pub const CONTROLLERS: &[Controller] = &[
    Controller {
        name: "serviceaccount-token-controller",
        on_by_default: true,
        run: |context| Box::pin(service_account_token::run(context)),
    },
    // One line each: Controller { name: "deployment-controller", on_by_default: true, run: |context| Box::pin(deployment::run(context)) },
    Controller { name: "namespace-controller", on_by_default: true, run: |context| Box::pin(namespace::run(context)) },
    Controller { name: "serviceaccount-controller", on_by_default: true, run: |context| Box::pin(service_account::run(context)) },
    Controller { name: "root-ca-certificate-publisher-controller", on_by_default: true, run: |context| Box::pin(root_ca::run(context)) },
    Controller {
        name: "replicationcontroller-controller",
        on_by_default: true,
        run: |context| Box::pin(replication_controller::run(context)),
    },
    Controller { name: "job-controller", on_by_default: true, run: |context| Box::pin(job::run(context)) },
    Controller { name: "cronjob-controller", on_by_default: true, run: |context| Box::pin(cron_job::run(context)) },
    Controller { name: "ttl-after-finished-controller", on_by_default: true, run: |context| Box::pin(ttl_after_finished::run(context)) },
    Controller { name: "daemonset-controller", on_by_default: true, run: |context| Box::pin(daemon_set::run(context)) },
    Controller { name: "deployment-controller", on_by_default: true, run: |context| Box::pin(deployment::run(context)) },
    Controller { name: "statefulset-controller", on_by_default: true, run: |context| Box::pin(stateful_set::run(context)) },
    Controller { name: "replicaset-controller", on_by_default: true, run: |context| Box::pin(replica_set::run(context)) },
    Controller { name: "endpointslice-controller", on_by_default: true, run: |context| Box::pin(endpoint_slice::run(context)) },
    Controller { name: "garbage-collector-controller", on_by_default: true, run: |context| Box::pin(garbage_collector::run(context)) },
    Controller { name: "endpoints-controller", on_by_default: true, run: |context| Box::pin(endpoints::run(context)) },
    Controller {
        name: "endpointslice-mirroring-controller",
        on_by_default: true,
        run: |context| Box::pin(endpoint_slice_mirroring::run(context)),
    },
    Controller { name: "pod-garbage-collector-controller", on_by_default: true, run: |context| Box::pin(pod_gc::run(context)) },
    Controller { name: "node-lifecycle-controller", on_by_default: true, run: |context| Box::pin(node_lifecycle::run(context)) },
    Controller { name: "taint-eviction-controller", on_by_default: true, run: |context| Box::pin(taint_eviction::run(context)) },
    Controller { name: "ttl-controller", on_by_default: true, run: |context| Box::pin(ttl::run(context)) },
    Controller { name: "disruption-controller", on_by_default: true, run: |context| Box::pin(disruption::run(context)) },
    Controller {
        name: "persistentvolumeclaim-protection-controller",
        on_by_default: true,
        run: |context| Box::pin(pvc_protection::run(context)),
    },
    Controller {
        name: "persistentvolume-protection-controller",
        on_by_default: true,
        run: |context| Box::pin(pv_protection::run(context)),
    },
    Controller { name: "ephemeral-volume-controller", on_by_default: true, run: |context| Box::pin(ephemeral_volume::run(context)) },
    Controller { name: "service-cidr-controller", on_by_default: true, run: |context| Box::pin(service_cidr::run(context)) },
    Controller { name: "node-ipam-controller", on_by_default: true, run: |context| Box::pin(node_ipam::run(context)) },
    Controller { name: "resourcequota-controller", on_by_default: true, run: |context| Box::pin(resource_quota::run(context)) },
    Controller { name: "persistentvolume-binder-controller", on_by_default: true, run: |context| Box::pin(volume_binding::run(context)) },
    Controller {
        name: "legacy-serviceaccount-token-cleaner-controller",
        on_by_default: true,
        run: |context| Box::pin(legacy_token_cleaner::run(context)),
    },
    Controller {
        name: "horizontal-pod-autoscaler-controller",
        on_by_default: true,
        run: |context| Box::pin(horizontal_pod_autoscaler::run(context)),
    },
    Controller {
        name: "persistentvolume-attach-detach-controller",
        on_by_default: true,
        run: |context| Box::pin(attach_detach::run(context)),
    },
    Controller {
        name: "persistentvolume-expander-controller",
        on_by_default: true,
        run: |context| Box::pin(persistent_volume_expander::run(context)),
    },
    Controller {
        name: "volumeattributesclass-protection-controller",
        on_by_default: true,
        run: |context| Box::pin(vac_protection::run(context)),
    },
    Controller {
        name: "device-taint-eviction-controller",
        on_by_default: true,
        run: |context| Box::pin(device_taint_eviction::run(context)),
    },
    Controller { name: "resourceclaim-controller", on_by_default: true, run: |context| Box::pin(resource_claim::run(context)) },
    Controller {
        name: "certificatesigningrequest-signing-controller",
        on_by_default: true,
        run: |context| Box::pin(certificates::signing::run(context)),
    },
    Controller {
        name: "certificatesigningrequest-approving-controller",
        on_by_default: true,
        run: |context| Box::pin(certificates::approving::run(context)),
    },
    Controller {
        name: "certificatesigningrequest-cleaner-controller",
        on_by_default: true,
        run: |context| Box::pin(certificates::cleaner::run(context)),
    },
    Controller {
        name: "podcertificaterequest-cleaner-controller",
        on_by_default: true,
        run: |context| Box::pin(certificates::pod_request_cleaner::run(context)),
    },
    Controller {
        name: "kube-apiserver-serving-clustertrustbundle-publisher-controller",
        on_by_default: true,
        run: |context| Box::pin(certificates::trust_bundle_publisher::run(context)),
    },
    Controller {
        name: "clusterrole-aggregation-controller",
        on_by_default: true,
        run: |context| Box::pin(cluster_role_aggregation::run(context)),
    },
    Controller { name: "bootstrap-signer-controller", on_by_default: false, run: |context| Box::pin(bootstrap::signer::run(context)) },
    Controller { name: "token-cleaner-controller", on_by_default: false, run: |context| Box::pin(bootstrap::token_cleaner::run(context)) },
    Controller {
        name: "storage-version-migrator-controller",
        on_by_default: true,
        run: |context| Box::pin(storage_version_migrator::run(context)),
    },
    Controller {
        name: "validatingadmissionpolicy-status-controller",
        on_by_default: true,
        run: |context| Box::pin(validating_admission_policy_status::run(context)),
    },
];
