//! The controllers: each brings one kind of thing in the cluster to what is wanted of it.
//!
//! One file or folder a controller: a pure core that decides and a shell that watches and writes. [`manager`] runs them;
//! no controller knows of another, but for what its objects say.

pub mod config;
mod discovery;
mod endpoint_slice;
mod failure;
mod garbage_collector;
pub mod manager;
pub mod names;
mod namespace;
mod root_ca;
mod service_account;

mod adoption;
mod deployment;
mod int_or_percent;
mod owners;
mod pod_control;
mod pod_ranking;
mod pod_state;
mod replica_set;
mod replication_controller;
mod template;

use manager::Controller;

/// Every controller of this manager. The first are started first: others need the tokens that they make.
pub const CONTROLLERS: &[Controller] = &[
    // One line each: Controller { name: "deployment-controller", on_by_default: true, run: |context| Box::pin(deployment::run(context)) },
    Controller { name: "namespace-controller", on_by_default: true, run: |context| Box::pin(namespace::run(context)) },
    Controller { name: "serviceaccount-controller", on_by_default: true, run: |context| Box::pin(service_account::run(context)) },
    Controller { name: "root-ca-certificate-publisher-controller", on_by_default: true, run: |context| Box::pin(root_ca::run(context)) },
    Controller {
        name: "replicationcontroller-controller",
        on_by_default: true,
        run: |context| Box::pin(replication_controller::run(context)),
    },
    Controller { name: "deployment-controller", on_by_default: true, run: |context| Box::pin(deployment::run(context)) },
    Controller { name: "replicaset-controller", on_by_default: true, run: |context| Box::pin(replica_set::run(context)) },
    Controller { name: "endpointslice-controller", on_by_default: true, run: |context| Box::pin(endpoint_slice::run(context)) },
    Controller { name: "garbage-collector-controller", on_by_default: true, run: |context| Box::pin(garbage_collector::run(context)) },
];
