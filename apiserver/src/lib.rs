//! The Kubernetes API server: one engine for built-in and custom resources over a durable store.

pub mod discovery;
pub mod openapi;
pub mod registry;
