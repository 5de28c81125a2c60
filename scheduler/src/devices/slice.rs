//! ResourceSlices made ready: what each device is to selectors, counters, capacities and taints.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::quantity::Quantity;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::{Device, DeviceTaint, DeviceTaintRule, ResourceSlice, ResourceSliceSpec};

use super::capacity::Capacity;
use super::selector::DeviceValue;
use crate::node_selector::Terms;

/// Amounts by name; those that cannot be read are zero.
pub type Amounts = BTreeMap<String, Quantity>;

pub fn quantity(text: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Quantity {
    Quantity::parse(&text.0).unwrap_or_default()
}

/// Which nodes something is for.
#[derive(Clone, Debug)]
pub enum Nodes {
    Named(String),
    All,
    Selected(Terms),
    None,
}

impl Nodes {
    fn new(name: Option<&String>, all: Option<bool>, selector: Option<&k8s_openapi::api::core::v1::NodeSelector>) -> Nodes {
        match (name.filter(|name| !name.is_empty()), all, selector) {
            (Some(name), _, _) => Nodes::Named(name.clone()),
            (None, Some(true), _) => Nodes::All,
            (None, _, Some(selector)) => Nodes::Selected(Terms::new(selector)),
            (None, _, None) => Nodes::None,
        }
    }

    pub fn matches(&self, node: &Node) -> bool {
        match self {
            Nodes::Named(name) => node.metadata.name.as_deref() == Some(name),
            Nodes::All => true,
            Nodes::Selected(terms) => terms.matches(node),
            Nodes::None => false,
        }
    }
}

/// A device of a slice.
pub struct DeviceInfo {
    /// `driver/pool/device`.
    pub id: Arc<str>,
    /// Its place in the slice.
    pub index: usize,
    /// Its own taints and those of rules.
    pub taints: Vec<DeviceTaint>,
    pub capacity: BTreeMap<String, Capacity>,
    /// By counter set.
    pub consumes: Vec<(String, Amounts)>,
    /// Where it is, if the slice leaves that to devices.
    pub nodes: Nodes,
    pub value: DeviceValue,
}

impl DeviceInfo {
    fn new(spec: &ResourceSliceSpec, index: usize, device: &Device, rules: &[Arc<DeviceTaintRule>]) -> DeviceInfo {
        let capacity = device.capacity.iter().flatten().map(|(name, capacity)| (name.clone(), Capacity::new(capacity)));
        let amounts = |counters: &BTreeMap<String, k8s_openapi::api::resource::v1::Counter>| {
            counters.iter().map(|(name, counter)| (name.clone(), quantity(&counter.value))).collect()
        };
        let consumes = device.consumes_counters.iter().flatten().map(|c| (c.counter_set.clone(), amounts(&c.counters)));
        let mut taints: Vec<DeviceTaint> = device.taints.clone().unwrap_or_default();
        taints.extend(rules.iter().filter(|rule| applies(rule, spec, device)).map(|rule| rule.spec.taint.clone()));
        DeviceInfo {
            id: Arc::from(device_id(&spec.driver, &spec.pool.name, &device.name)),
            index,
            taints,
            capacity: capacity.collect(),
            consumes: consumes.collect(),
            nodes: Nodes::new(device.node_name.as_ref(), device.all_nodes, device.node_selector.as_ref()),
            value: DeviceValue::new(&spec.driver, device),
        }
    }
}

/// How devices are told apart: names of drivers and devices have no slashes.
pub fn device_id(driver: &str, pool: &str, device: &str) -> String {
    format!("{driver}/{pool}/{device}")
}

fn applies(rule: &DeviceTaintRule, spec: &ResourceSliceSpec, device: &Device) -> bool {
    let Some(selector) = &rule.spec.device_selector else { return false };
    let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
    is(&selector.driver, &spec.driver) && is(&selector.pool, &spec.pool.name) && is(&selector.device, &device.name)
}

/// A slice, ready.
pub struct SliceInfo {
    pub slice: Arc<ResourceSlice>,
    pub devices: Vec<DeviceInfo>,
    nodes: Nodes,
    /// It says for each device where that is.
    per_device: bool,
    /// Counter sets, by name.
    pub shared: Vec<(String, Amounts)>,
    /// It needs what is off by default: compatibility groups. As if it were not there.
    pub ignored: bool,
}

impl SliceInfo {
    pub fn new(slice: &Arc<ResourceSlice>, rules: &[Arc<DeviceTaintRule>]) -> SliceInfo {
        let spec = &slice.spec;
        let devices = spec.devices.iter().flatten();
        let shared = spec.shared_counters.iter().flatten().map(|set| {
            let counters = set.counters.iter().map(|(name, counter)| (name.clone(), quantity(&counter.value)));
            (set.name.clone(), counters.collect())
        });
        let consumed = devices.clone().flat_map(|device| device.consumes_counters.iter().flatten());
        let grouped =
            |c: &k8s_openapi::api::resource::v1::DeviceCounterConsumption| c.compatibility_groups.as_ref().is_some_and(|g| !g.is_empty());
        SliceInfo {
            ignored: consumed.into_iter().any(grouped),
            nodes: Nodes::new(spec.node_name.as_ref(), spec.all_nodes, spec.node_selector.as_ref()),
            per_device: spec.per_device_node_selection == Some(true),
            shared: shared.collect(),
            devices: devices.enumerate().map(|(index, device)| DeviceInfo::new(spec, index, device, rules)).collect(),
            slice: slice.clone(),
        }
    }

    pub fn name(&self) -> &str {
        self.slice.metadata.name.as_deref().unwrap_or("")
    }

    pub fn device(&self, info: &DeviceInfo) -> &Device {
        &self.slice.spec.devices.as_deref().unwrap_or_default()[info.index]
    }

    /// The node that all of its devices are on, if it names one.
    pub fn node_name(&self) -> Option<&str> {
        self.slice.spec.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether any of its devices can be reached from the node.
    pub fn is_for(&self, node: &Node) -> bool {
        match &self.nodes {
            Nodes::None if self.per_device => self.devices.iter().any(|device| device.nodes.matches(node)),
            nodes => nodes.matches(node),
        }
    }

    /// Whether a device can be reached from the node, which the slice is for.
    pub fn has_on(&self, device: &DeviceInfo, node: &Node) -> bool {
        !self.per_device || device.nodes.matches(node)
    }

    pub fn leaves_nodes_to_devices(&self) -> bool {
        self.per_device
    }
}
