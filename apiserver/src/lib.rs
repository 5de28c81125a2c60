//! The Kubernetes API server: one engine for built-in and custom resources over a durable store.

pub mod admission;
pub mod allocation;
pub mod api;
pub mod backend;
pub mod bootstrap;
pub mod catalog;
pub mod crd;
pub mod discovery;
pub mod endpoints;
pub mod filters;
pub mod flow_control;
pub mod loopback;
pub mod metrics;
pub mod node_authorizer;
pub mod openapi;
pub mod pki;
pub mod rbac;
pub mod registry;
pub mod run;
pub mod server;
pub mod storage;
pub mod stored_form;
pub mod system;
pub mod tls;
pub mod tokens;
pub mod version;
