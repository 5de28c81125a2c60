//! The Kubernetes API server: one engine for built-in and custom resources over a durable store.

pub mod admission;
pub mod api;
pub mod catalog;
pub mod endpoints;
pub mod filters;
pub mod flow_control;
pub mod openapi;
pub mod pki;
pub mod registry;
pub mod server;
pub mod storage;
pub mod tls;
