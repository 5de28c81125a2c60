//! Nodes on this machine: each is a network-namespaced host with its own mounts, container runtime, kubelet and kube-proxy.
//!
//! This file is the pure part: what everything is called and which address it has. A cluster has a slot, which makes its names
//! and addresses its own, so that several clusters live side by side. [`network`] and [`cgroup`] make and unmake what is shared
//! with the machine, [`agent`] is the process of one node. [`simulated`] nodes are none of this: they run in the cluster's process.

pub mod agent;
pub mod cgroup;
pub mod cni;
pub mod command;
pub mod containerd;
pub mod images;
pub mod masquerade;
pub mod mounts;
pub mod network;
pub mod pause;
pub mod routes;
pub mod simulated;
pub mod site;
pub mod supervise;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Clusters with nodes that one machine can hold.
pub const SLOTS: u8 = 16;
/// Nodes of one cluster on this machine; their addresses start at .11.
pub const MAX_NODES: u32 = 200;

/// Where a cluster's nodes are.
#[derive(Clone, Debug)]
pub struct Layout {
    pub data_dir: PathBuf,
    pub slot: u8,
}

/// What one node is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub address: Ipv4Addr,
    /// The name of its network namespace.
    pub netns: String,
    /// The end of its cable that is plugged into the bridge.
    pub port: String,
    /// Everything that it keeps.
    pub directory: PathBuf,
    /// Its cgroup below the root of each hierarchy, such as `/ferrokube/fk0/node-1`.
    pub cgroup: String,
}

impl Layout {
    /// The bridge between the nodes, which is also what the cluster's parts are named after.
    pub fn bridge(&self) -> String {
        format!("fk{}", self.slot)
    }

    /// The control plane's address on the bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.slot, 1)
    }

    /// The network of the nodes.
    pub fn subnet(&self) -> String {
        format!("172.30.{}.0/24", self.slot)
    }

    /// Where pods get their addresses from.
    pub fn pod_cidr(&self) -> String {
        format!("10.{}.0.0/16", 244 - self.slot)
    }

    /// The cluster's cgroup below the root of each hierarchy.
    pub fn cgroup(&self) -> String {
        format!("/ferrokube/{}", self.bridge())
    }

    /// The nth node, counted from 1.
    pub fn host(&self, n: u32) -> Host {
        let name = format!("node-{n}");
        Host {
            address: Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 30, self.slot, 10)) + n),
            netns: format!("{}-{name}", self.bridge()),
            port: format!("{}-{n}", self.bridge()),
            directory: self.data_dir.join("nodes").join(&name),
            cgroup: format!("{}/{name}", self.cgroup()),
            name,
        }
    }

    /// Image archives put here are imported by every node.
    pub fn images(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// `hosts.toml` files of registries, as containerd reads them.
    pub fn registries(&self) -> PathBuf {
        self.data_dir.join("certs.d")
    }
}

/// Where the slot that a cluster has taken is written down.
pub fn slot_file(data_dir: &Path) -> PathBuf {
    data_dir.join("nodes").join("slot")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_and_nodes_share_no_name_and_no_address() {
        let layout = |slot| Layout { data_dir: "/d".into(), slot };
        let host = layout(3).host(2);
        assert_eq!((host.name.as_str(), host.address.to_string().as_str()), ("node-2", "172.30.3.12"));
        assert_eq!((host.netns.as_str(), host.port.as_str()), ("fk3-node-2", "fk3-2"));
        assert_eq!(host.directory, PathBuf::from("/d/nodes/node-2"));
        assert_eq!(layout(0).pod_cidr(), "10.244.0.0/16");
        assert_eq!(layout(15).pod_cidr(), "10.229.0.0/16");
        assert_eq!(layout(0).host(MAX_NODES).address.to_string(), "172.30.0.210");
        // A network interface's name has at most 15 characters.
        assert!(layout(SLOTS - 1).host(MAX_NODES).port.len() <= 15);
    }
}
