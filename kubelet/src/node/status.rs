//! What the API server is told of this node.
//!
//! Pure: from the machine, the runtime, the configuration, and what was told before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use apimachinery::quantity::{Format, Quantity as Amount};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::machine::Machine;
use crate::configuration::KubeletConfiguration;
use crate::cpus::set::CpuSet;
use crate::cri::v1;
use crate::devices;
use crate::eviction::{self, Pressure};

/// The version that this kubelet is compatible with.
pub const KUBELET_VERSION: &str = "v1.37.2";
/// What not every kubelet of a cluster may be able to, so that the scheduler looks for it.
const DECLARED_FEATURES: [&str; 2] = ["InPlacePodLevelResourcesVerticalScaling", "RestartAllContainersOnContainerExits"];
/// Names that are told of each image.
const NAMES_PER_IMAGE: usize = 5;

#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub machine: &'a Machine,
    pub configuration: &'a KubeletConfiguration,
    pub addresses: &'a [IpAddr],
    pub hostname: &'a str,
    pub version: &'a v1::VersionResponse,
    pub runtime: &'a v1::StatusResponse,
    pub images: &'a [v1::Image],
    /// Why pods cannot be run, if they cannot.
    pub problems: &'a [String],
    pub pressure: Pressure,
    pub volumes_in_use: &'a [String],
    /// What plugins give.
    pub devices: &'a devices::Amounts,
    pub before: &'a NodeStatus,
    pub now: Timestamp,
}

pub(crate) fn whole(value: i64) -> Quantity {
    Quantity(Amount::new(value, Format::DecimalSi).canonical())
}

fn bytes(value: i64) -> Quantity {
    Quantity(Amount::new(value, Format::BinarySi).canonical())
}

/// What the node has.
pub fn capacity(machine: &Machine, configuration: &KubeletConfiguration) -> BTreeMap<String, Quantity> {
    let pods = match i64::from(configuration.pods_per_core) {
        0 => i64::from(configuration.max_pods),
        per_core => (per_core * machine.cpus).min(i64::from(configuration.max_pods)),
    };
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), whole(machine.cpus)),
        ("memory".to_owned(), bytes(machine.memory_bytes)),
        ("pods".to_owned(), whole(pods)),
    ]);
    if configuration.local_storage_capacity_isolation {
        capacity.insert("ephemeral-storage".to_owned(), bytes(machine.storage_bytes));
    }
    capacity.extend(machine.huge_pages.iter().map(|(name, size)| (name.clone(), bytes(*size))));
    capacity
}

/// What of it pods can have: not what is reserved, nor what eviction keeps free.
pub fn allocatable(machine: &Machine, configuration: &KubeletConfiguration) -> BTreeMap<String, Quantity> {
    let capacity = capacity(machine, configuration);
    let huge: i64 = machine.huge_pages.iter().map(|(_, size)| size).sum();
    capacity
        .iter()
        .map(|(name, quantity)| {
            let mut left = Amount::parse(&quantity.0).unwrap_or_default().minus(&reserved(machine, configuration, name));
            if name == "memory" {
                left = left.minus(&Amount::new(huge, Format::BinarySi));
            }
            let text = if left.sign() < 0 { "0".to_owned() } else { left.canonical() };
            (name.clone(), Quantity(text))
        })
        .collect()
}

/// What of a resource pods cannot have: reserved, or kept free by eviction.
fn reserved(machine: &Machine, configuration: &KubeletConfiguration, name: &str) -> Amount {
    if name == "cpu"
        && let Some(cpus) = named_cpus(configuration)
    {
        return Amount::new(cpus, Format::DecimalSi);
    }
    let of = |list: &BTreeMap<String, String>| list.get(name).and_then(|text| Amount::parse(text).ok()).unwrap_or_default();
    let sum = of(&configuration.kube_reserved).plus(&of(&configuration.system_reserved));
    let (signal, total) = match name {
        "memory" => ("memory.available", machine.memory_bytes),
        "ephemeral-storage" => ("nodefs.available", machine.storage_bytes),
        _ => return sum,
    };
    sum.plus(&Amount::new(threshold(configuration, signal, total), Format::BinarySi))
}

/// How many CPUs are reserved by their numbers, which prevails over amounts.
fn named_cpus(configuration: &KubeletConfiguration) -> Option<i64> {
    let named = CpuSet::parse(&configuration.reserved_system_cpus).ok().filter(|cpus| !cpus.is_empty())?;
    i64::try_from(named.len()).ok()
}

/// What pods cannot have of each resource that anything is reserved of.
pub fn reservations(machine: &Machine, configuration: &KubeletConfiguration) -> BTreeMap<String, Amount> {
    let named = configuration.kube_reserved.keys().chain(configuration.system_reserved.keys()).map(String::as_str);
    let names: std::collections::BTreeSet<&str> = named.chain(["cpu", "memory"]).collect();
    names.into_iter().map(|name| (name.to_owned(), reserved(machine, configuration, name))).collect()
}

/// What a hard eviction threshold keeps free of `total` bytes.
fn threshold(configuration: &KubeletConfiguration, signal: &str, total: i64) -> i64 {
    let hard = eviction::effective_hard(&configuration.eviction_hard, configuration.merge_default_eviction_settings);
    let text = hard.get(signal).map(String::as_str);
    let Some(text) = text else { return 0 };
    match text.strip_suffix('%') {
        Some(percent) => {
            let share = percent.parse::<f64>().unwrap_or(0.0) / 100.0;
            // A share of the machine's bytes fits.
            (total as f64 * share) as i64
        }
        None => Amount::parse(text).map(|amount| amount.value()).unwrap_or(0),
    }
}

/// The whole status.
pub fn generate(inputs: Inputs<'_>) -> NodeStatus {
    let Inputs { machine, configuration, before, .. } = inputs;
    let mut capacity = capacity(machine, configuration);
    let mut allocatable = allocatable(machine, configuration);
    // Resources that others have put there stay.
    for (list, old) in [(&mut capacity, &before.capacity), (&mut allocatable, &before.allocatable)] {
        for (name, quantity) in old.iter().flatten().filter(|(name, _)| name.contains('/')) {
            list.entry(name.clone()).or_insert_with(|| quantity.clone());
        }
    }
    add_devices(inputs.devices, &mut capacity, &mut allocatable);
    NodeStatus {
        addresses: Some(addresses(inputs.addresses, inputs.hostname)),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions(inputs)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(configuration.port) }) }),
        node_info: Some(system_info(machine, inputs.version)),
        images: Some(images(inputs.images, configuration.node_status_max_images)),
        runtime_handlers: runtime_handlers(inputs.runtime),
        features: inputs
            .runtime
            .features
            .as_ref()
            .map(|features| NodeFeatures { supplemental_groups_policy: Some(features.supplemental_groups_policy) }),
        volumes_in_use: (!inputs.volumes_in_use.is_empty()).then(|| inputs.volumes_in_use.to_vec()),
        volumes_attached: before.volumes_attached.clone(),
        config: before.config.clone(),
        declared_features: Some(DECLARED_FEATURES.map(str::to_owned).to_vec()),
        phase: before.phase.clone(),
    }
}

/// What plugins give prevails over what was told before; what they gave and do not give any more is told to be none.
fn add_devices(devices: &devices::Amounts, capacity: &mut BTreeMap<String, Quantity>, allocatable: &mut BTreeMap<String, Quantity>) {
    let count = |number: usize| whole(i64::try_from(number).unwrap_or(i64::MAX));
    if devices.reset {
        let extended = capacity.iter_mut().chain(allocatable.iter_mut()).filter(|(name, _)| name.contains('/'));
        extended.for_each(|(_, quantity)| *quantity = whole(0));
    }
    for resource in &devices.removed {
        capacity.insert(resource.clone(), whole(0));
        allocatable.insert(resource.clone(), whole(0));
    }
    for (resource, (all, usable)) in &devices.by_resource {
        capacity.insert(resource.clone(), count(*all));
        allocatable.insert(resource.clone(), count(*usable));
    }
}

/// What the node is reached by.
pub fn addresses(ips: &[IpAddr], hostname: &str) -> Vec<NodeAddress> {
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let mut addresses: Vec<NodeAddress> = ips.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    addresses.push(address("Hostname", hostname.to_owned()));
    addresses
}

fn system_info(machine: &Machine, version: &v1::VersionResponse) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: format!("{}://{}", version.runtime_name, version.runtime_version),
        kernel_version: machine.kernel_version.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.to_owned(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        swap: (machine.swap_bytes > 0).then_some(NodeSwapStatus { capacity: Some(machine.swap_bytes) }),
        system_uuid: machine.system_uuid.clone(),
        running_in_user_namespace: None,
    }
}

/// The architecture by Go's name.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn images(images: &[v1::Image], most: i32) -> Vec<ContainerImage> {
    let mut images: Vec<&v1::Image> = images.iter().collect();
    images.sort_by_key(|image| (std::cmp::Reverse(image.size), image.id.clone()));
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let told = images.into_iter().take(most).map(|image| {
        let names: Vec<String> = image.repo_digests.iter().chain(&image.repo_tags).take(NAMES_PER_IMAGE).cloned().collect();
        ContainerImage { names: (!names.is_empty()).then_some(names), size_bytes: i64::try_from(image.size).ok() }
    });
    told.collect()
}

fn runtime_handlers(status: &v1::StatusResponse) -> Option<Vec<NodeRuntimeHandler>> {
    let mut handlers: Vec<NodeRuntimeHandler> = status
        .runtime_handlers
        .iter()
        .map(|handler| NodeRuntimeHandler {
            name: (!handler.name.is_empty()).then(|| handler.name.clone()),
            features: handler.features.as_ref().map(|features| NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
                user_namespaces: Some(features.user_namespaces),
            }),
        })
        .collect();
    handlers.sort_by(|a, b| a.name.cmp(&b.name));
    (!handlers.is_empty()).then_some(handlers)
}

struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

fn verdicts(inputs: Inputs<'_>) -> [Verdict; 4] {
    let pressure = |kind, under: bool, reasons: [&'static str; 2], messages: [&str; 2]| {
        let at = usize::from(under);
        Verdict { kind, holds: under, reason: reasons[at], message: messages[at].to_owned() }
    };
    let Pressure { memory, disk, pid } = inputs.pressure;
    let ready = inputs.problems.is_empty();
    let message = match inputs.problems {
        [] => "kubelet is posting ready status".to_owned(),
        [problem] => problem.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    [
        pressure(
            "MemoryPressure",
            memory,
            ["KubeletHasSufficientMemory", "KubeletHasInsufficientMemory"],
            ["kubelet has sufficient memory available", "kubelet has insufficient memory available"],
        ),
        pressure(
            "DiskPressure",
            disk,
            ["KubeletHasNoDiskPressure", "KubeletHasDiskPressure"],
            ["kubelet has no disk pressure", "kubelet has disk pressure"],
        ),
        pressure(
            "PIDPressure",
            pid,
            ["KubeletHasSufficientPID", "KubeletHasInsufficientPID"],
            ["kubelet has sufficient PID available", "kubelet has insufficient PID available"],
        ),
        Verdict { kind: "Ready", holds: ready, reason: if ready { "KubeletReady" } else { "KubeletNotReady" }, message },
    ]
}

fn conditions(inputs: Inputs<'_>) -> Vec<NodeCondition> {
    let now = Time(Timestamp::from_second(inputs.now.as_second()).unwrap_or(inputs.now));
    let old: Vec<NodeCondition> = inputs.before.conditions.clone().unwrap_or_default();
    let ours = verdicts(inputs);
    let others = old.iter().filter(|condition| !ours.iter().any(|verdict| verdict.kind == condition.type_)).cloned();
    let mut conditions: Vec<NodeCondition> = others.collect();
    for Verdict { kind, holds, reason, message } in &ours {
        let status = if *holds { "True" } else { "False" };
        let before = old.iter().find(|condition| condition.type_ == *kind && condition.status == status);
        conditions.push(NodeCondition {
            type_: (*kind).to_owned(),
            status: status.to_owned(),
            reason: Some((*reason).to_owned()),
            message: Some(message.clone()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: before.and_then(|condition| condition.last_transition_time.clone()).or_else(|| Some(now.clone())),
        });
    }
    conditions
}

/// Whether there is anything to tell but that the node still lives.
pub fn has_changed(before: &NodeStatus, after: &NodeStatus) -> bool {
    let without_heartbeats = |status: &NodeStatus| {
        let mut status = status.clone();
        let conditions = status.conditions.get_or_insert_default();
        conditions.iter_mut().for_each(|condition| condition.last_heartbeat_time = None);
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        status
    };
    without_heartbeats(before) != without_heartbeats(after)
}

/// The conditions that are another than before, as events name them.
pub fn transitions(before: &NodeStatus, after: &NodeStatus) -> Vec<&'static str> {
    let status = |of: &NodeStatus, kind: &str| {
        of.conditions.iter().flatten().find(|condition| condition.type_ == kind).map(|condition| condition.status == "True")
    };
    let names: [(&str, [&'static str; 2]); 4] = [
        ("MemoryPressure", ["NodeHasSufficientMemory", "NodeHasInsufficientMemory"]),
        ("DiskPressure", ["NodeHasNoDiskPressure", "NodeHasDiskPressure"]),
        ("PIDPressure", ["NodeHasSufficientPID", "NodeHasInsufficientPID"]),
        ("Ready", ["NodeNotReady", "NodeReady"]),
    ];
    let changed = names.into_iter().filter_map(|(kind, events)| {
        let (old, new) = (status(before, kind), status(after, kind)?);
        // That a node begins ready is told by nobody, that it begins without pressure is.
        let news = old.map_or(kind != "Ready", |old| old != new);
        news.then_some(events[usize::from(new)])
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { cpus: 2, memory_bytes: 4 << 30, storage_bytes: 100 << 30, ..Machine::default() }
    }

    #[test]
    fn pods_get_what_is_neither_reserved_nor_kept_free() {
        let configuration =
            KubeletConfiguration { kube_reserved: BTreeMap::from([("cpu".to_owned(), "500m".to_owned())]), ..Default::default() };
        let allocatable = allocatable(&machine(), &configuration);
        let of = |name: &str| allocatable[name].0.as_str();
        assert_eq!((of("cpu"), of("memory"), of("pods")), ("1500m", "3996Mi", "110"));
        assert_eq!(of("ephemeral-storage"), "90Gi");
    }

    #[test]
    fn plugins_say_how_many_devices_there_are() {
        let told = |pairs: &[(&str, i64)]| -> BTreeMap<String, Quantity> {
            pairs.iter().map(|(name, count)| ((*name).to_owned(), whole(*count))).collect()
        };
        let before = [("cpu", 2), ("a.com/old", 3), ("a.com/others", 1)];
        let amounts = devices::Amounts {
            by_resource: BTreeMap::from([("a.com/new".to_owned(), (4, 2))]),
            removed: std::iter::once("a.com/old".to_owned()).collect(),
            reset: false,
        };
        let (mut capacity, mut allocatable) = (told(&before), told(&before));
        add_devices(&amounts, &mut capacity, &mut allocatable);
        assert_eq!(capacity, told(&[("cpu", 2), ("a.com/old", 0), ("a.com/others", 1), ("a.com/new", 4)]));
        assert_eq!(allocatable, told(&[("cpu", 2), ("a.com/old", 0), ("a.com/others", 1), ("a.com/new", 2)]));
        // A node that has no memory of its own was made anew.
        add_devices(&devices::Amounts { reset: true, ..Default::default() }, &mut capacity, &mut allocatable);
        assert_eq!(capacity, told(&[("cpu", 2), ("a.com/old", 0), ("a.com/others", 0), ("a.com/new", 0)]));
    }

    #[test]
    fn heartbeats_are_no_news_and_transitions_are_told() {
        let inputs = |problems: &'static [String], before: &'static NodeStatus, seconds| {
            let configuration: &'static KubeletConfiguration = Box::leak(Box::default());
            let machine: &'static Machine = Box::leak(Box::new(machine()));
            let version: &'static v1::VersionResponse = Box::leak(Box::default());
            let runtime: &'static v1::StatusResponse = Box::leak(Box::default());
            let now = Timestamp::from_second(seconds).expect("it is a time");
            let pressure = Pressure::default();
            Inputs {
                machine,
                configuration,
                addresses: &[],
                hostname: "a",
                version,
                runtime,
                images: &[],
                problems,
                pressure,
                volumes_in_use: &[],
                devices: Box::leak(Box::default()),
                before,
                now,
            }
        };
        let empty: &'static NodeStatus = Box::leak(Box::default());
        let first: &'static NodeStatus = Box::leak(Box::new(generate(inputs(&[], empty, 1))));
        assert_eq!(transitions(empty, first), ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]);
        let second: &'static NodeStatus = Box::leak(Box::new(generate(inputs(&[], first, 9))));
        assert!(!has_changed(first, second));
        let problems: &'static [String] = Box::leak(Box::new(["x".to_owned()]));
        let third = generate(inputs(problems, second, 20));
        assert!(has_changed(second, &third));
        assert_eq!(transitions(second, &third), ["NodeNotReady"]);
        let ready = third.conditions.expect("there are some").pop().expect("it is the last");
        assert_eq!((ready.reason.as_deref(), ready.message.as_deref()), (Some("KubeletNotReady"), Some("x")));
    }
}
