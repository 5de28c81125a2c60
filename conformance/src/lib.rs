//! Black-box work against a Kubernetes API server: benchmarks, recorded exchanges and the conformance suite. Knows servers by address only and uses no crate
//! of ours, so that what it says of one server it says of any.

pub mod bench;
pub mod exchanges;
pub mod suite;
