//! Volumes of CSI drivers: drivers that register themselves on this node, and what is asked of them to mount and unmount.
//!
//! Upstream: pkg/volume/csi, pkg/kubelet/pluginmanager. Volumes that are mounted as block devices are not supported yet.

mod driver;
mod messages;
mod mount;
mod node_info;
mod registry;
#[cfg(test)]
mod tests;

pub use mount::{Published, unique_name};
pub use registry::Registry;
