//! Volumes of CSI drivers: drivers that register themselves on this node, and what is asked of them to mount, map, grow and unmount.
//!
//! Upstream: pkg/volume/csi, pkg/kubelet/pluginmanager.

mod block;
mod description;
mod driver;
mod expansion;
mod grow;
mod messages;
mod mount;
mod node_info;
mod registry;
#[cfg(test)]
mod tests;
mod volume_stats;
mod wanted;

pub use grow::Growth;
pub use mount::{Published, unique_name};
pub use registry::Registry;
pub use volume_stats::{Place, Usage};
pub use wanted::Wanted;
