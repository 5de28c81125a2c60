//! Black-box work against a Kubernetes API server: benchmarks. Knows servers by URL and token only and uses no crate of ours, so
//! that what it measures of one server it measures of any.

pub mod bench;
