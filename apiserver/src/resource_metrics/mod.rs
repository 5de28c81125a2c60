//! metrics.k8s.io, for clusters that bring nothing of their own to serve it: what nodes and pods use, as their kubelets tell it.
//!
//! Kubelets are asked when somebody asks here, and not otherwise: a cluster that nobody looks at does nothing. It gives way to any
//! APIService for the version that names a service ([`crate::aggregation`]), and comes back when that is gone.

pub mod gather;
pub mod register;
pub mod sample;
pub mod serve;

pub use gather::ResourceMetrics;

use crate::discovery::priority::Priority;
use crate::discovery::{GroupVersion, Kind, Resource};

pub const GROUP: &str = "metrics.k8s.io";
pub const VERSION: &str = "v1beta1";
/// As the usual server of these metrics registers itself.
pub const PRIORITY: Priority = Priority { group: 100, version: 100 };

/// What discovery says of it.
pub fn group_version() -> GroupVersion {
    let resource = |plural: &str, kind: &str, namespaced| Resource {
        plural: plural.to_owned(),
        singular: String::new(),
        namespaced,
        kind: Kind::own(kind),
        verbs: vec!["get".to_owned(), "list".to_owned()],
        short_names: Vec::new(),
        categories: Vec::new(),
        storage_version_hash: String::new(),
        subresources: Vec::new(),
    };
    GroupVersion {
        group: GROUP.to_owned(),
        version: VERSION.to_owned(),
        priority: PRIORITY,
        resources: vec![resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
        explicit_kinds: false,
        stale: false,
    }
}
