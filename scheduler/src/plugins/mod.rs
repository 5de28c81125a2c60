//! The plugins, one file each. [`ALL`] is the list that profiles choose from; a plugin's place in it is its id.

pub mod default_binder;
pub mod default_preemption;
pub mod dynamic_resources;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_declared_features;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_balanced;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod pod_topology_spread;
pub mod priority_sort;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

#[cfg(test)]
pub(crate) mod testing;

use crate::framework::{Plugin, PluginId};

/// Every plugin there is, in the order of the default profile, and last what stands for the extenders.
pub static ALL: [&dyn Plugin; 21] = [
    &scheduling_gates::SchedulingGates,
    &priority_sort::PrioritySort,
    &node_name::NodeName,
    &node_unschedulable::NodeUnschedulable,
    &taint_toleration::TaintToleration,
    &node_affinity::NodeAffinity,
    &node_ports::NodePorts,
    &node_resources_fit::NodeResourcesFit,
    &volume_restrictions::VolumeRestrictions,
    &node_volume_limits::NodeVolumeLimits,
    &volume_binding::VolumeBinding,
    &volume_zone::VolumeZone,
    &pod_topology_spread::PodTopologySpread,
    &inter_pod_affinity::InterPodAffinity,
    &dynamic_resources::DynamicResources,
    &default_preemption::DefaultPreemption,
    &node_resources_balanced::NodeResourcesBalancedAllocation,
    &image_locality::ImageLocality,
    &default_binder::DefaultBinder,
    &node_declared_features::NodeDeclaredFeatures,
    &crate::extender::Extenders,
];

/// The place of those that are no plugins: the extenders.
pub const EXTENDERS: PluginId = ALL.len() - 1;

/// The plugin of that name.
pub fn by_name(name: &str) -> Option<PluginId> {
    ALL.iter().position(|plugin| plugin.name() == name)
}
