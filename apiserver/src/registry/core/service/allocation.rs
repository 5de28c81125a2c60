//! What writing a service takes from the cluster's pools of addresses and node ports, and what it gives back.
//!
//! Pure: [`allocations`] fills in what follows from the service alone and returns a [`Plan`]; an allocator carries it out, telling
//! the plan's requests what they were granted. Upstream does this before the strategy prepares and validates the object.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::Ip;
use apimachinery::view::view;
use k8s_openapi::api::core::v1::ServiceSpec;
use serde_json::{Map, Value, json};

use super::cluster_ips as rules;
use super::fields::{
    NONE, allocates_node_ports, cluster_ips, families, has_selector, kind, needs_cluster_ip, needs_health_check, node_ports, policy,
};
use crate::registry::read::{at, bool_at, int_at, list_at, str_at};

/// An address family of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// As `spec.ipFamilies` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    fn named(name: &str) -> Option<Family> {
        [Family::V4, Family::V6].into_iter().find(|family| family.name() == name)
    }

    const fn other(self) -> Family {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }

    fn of(address: &str) -> Option<Family> {
        Ip::parse_sloppy(address).map(|ip| if ip.is_v6() { Family::V6 } else { Family::V4 })
    }
}

/// What a write takes and gives back. Take everything first, in this order; give back once the write has succeeded, or give back
/// what was taken if it has not.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub addresses: Vec<AddressRequest>,
    pub ports: Vec<PortRequest>,
    pub released_addresses: Vec<String>,
    pub released_ports: Vec<i64>,
}

/// An address to take.
#[derive(Debug, PartialEq)]
pub struct AddressRequest {
    /// Its place in `spec.clusterIPs`.
    pub index: usize,
    pub family: Family,
    /// This one, or any.
    pub address: Option<String>,
}

/// A node port to take.
#[derive(Debug, PartialEq)]
pub struct PortRequest {
    pub place: PortPlace,
    /// This one, or any.
    pub number: Option<i64>,
}

/// Where a node port is written.
#[derive(Debug, PartialEq)]
pub enum PortPlace {
    /// The positions in `spec.ports` of the ports that share it: the same number in several protocols.
    Ports(Vec<usize>),
    HealthCheck,
}

/// Why a service cannot be written.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    /// Answered as Invalid.
    Invalid(ErrorList),
    /// Answered as an internal error.
    Internal(String),
    /// Answered as a failure without a reason.
    Unknown(String),
}

impl AddressRequest {
    /// Writes the address that was taken.
    pub fn grant(&self, service: &mut Value, address: &str) {
        let Some(spec) = spec_mut(service) else { return };
        if let Some(slot) = spec.get_mut("clusterIPs").and_then(|ips| ips.get_mut(self.index)) {
            *slot = address.into();
        }
        if self.index == 0 {
            spec.insert("clusterIP".to_owned(), address.into());
        }
    }

    /// The allocator would not give it, for the reason it tells.
    pub fn refused(&self, service: &Value, why: &str) -> Refusal {
        let path = Path::new("spec");
        let detail = match &self.address {
            Some(address) => format!("failed to allocate IP {address}: {why}"),
            None => format!("failed to allocate IP: {why}"),
        };
        Refusal::Invalid(vec![Error::invalid(&path.child("clusterIPs"), at(service, "/spec/clusterIPs").clone(), detail)])
    }
}

impl PortRequest {
    /// Writes the port that was taken.
    pub fn grant(&self, service: &mut Value, number: i64) {
        let Some(spec) = spec_mut(service) else { return };
        match &self.place {
            PortPlace::HealthCheck => {
                spec.insert("healthCheckNodePort".to_owned(), number.into());
            }
            PortPlace::Ports(places) => {
                let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return };
                for place in places {
                    if let Some(port) = ports.get_mut(*place).and_then(Value::as_object_mut) {
                        port.insert("nodePort".to_owned(), number.into());
                    }
                }
            }
        }
    }

    /// The allocator would not give it, for the reason it tells.
    pub fn refused(&self, why: &str) -> Refusal {
        match (&self.place, self.number) {
            (PortPlace::Ports(places), Some(number)) => {
                let path = Path::new("spec");
                let ports = path.child("ports");
                let port = ports.index(places.first().copied().unwrap_or(0));
                Refusal::Invalid(vec![Error::invalid(&port.child("nodePort"), number, why)])
            }
            (PortPlace::Ports(_), None) => Refusal::Internal(format!("failed to allocate a nodePort: {why}")),
            (PortPlace::HealthCheck, Some(number)) => {
                Refusal::Internal(format!("failed to allocate requested HealthCheck NodePort {number}: {why}"))
            }
            (PortPlace::HealthCheck, None) => Refusal::Internal(format!("failed to allocate a HealthCheck NodePort 0: {why}")),
        }
    }
}

fn spec_mut(service: &mut Value) -> Option<&mut Map<String, Value>> {
    service.get_mut("spec")?.as_object_mut()
}

fn set(service: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(spec) = spec_mut(service) {
        spec.insert(field.to_owned(), value.into());
    }
}

fn remove(service: &mut Value, field: &str) {
    if let Some(spec) = spec_mut(service) {
        spec.shift_remove(field);
    }
}

/// Fills in the address fields of `new`, which is to replace `old`, and plans its allocations.
///
/// `cluster` are the families of the cluster's service networks, the default one first; never empty.
pub fn allocations(new: &mut Value, old: Option<&Value>, cluster: &[Family]) -> Result<Plan, Refusal> {
    let mut plan = Plan::default();
    match old {
        None => {
            adopt_single_address(new);
            fill_families(new, None, cluster)?;
            plan.addresses = address_requests(new);
            if matches!(kind(new), "NodePort" | "LoadBalancer") {
                plan.ports = port_requests(new);
            }
            if needs_health_check(new) {
                plan.ports.push(health_check_request(new));
            }
        }
        Some(old) => {
            keep_allocated_values(new, old);
            adopt_changed_address(new, old);
            fill_families(new, Some(old), cluster)?;
            change_addresses(new, old, &mut plan);
            forget_foreign(&mut plan.released_addresses, cluster);
            change_ports(new, old, &mut plan)?;
        }
    }
    Ok(plan)
}

/// The cluster may have had a family once whose addresses nobody takes back.
fn forget_foreign(addresses: &mut Vec<String>, cluster: &[Family]) {
    addresses.retain(|address| Family::of(address).is_some_and(|family| cluster.contains(&family)));
}

/// What a deleted service gives back.
pub fn releases(service: &Value, cluster: &[Family]) -> Plan {
    let mut plan = Plan::default();
    let ips = cluster_ips(service);
    if needs_cluster_ip(service) && ips.first() != Some(&NONE) {
        plan.released_addresses = ips.into_iter().map(str::to_owned).collect();
        forget_foreign(&mut plan.released_addresses, cluster);
    }
    plan.released_ports = node_ports(service).into_iter().collect();
    let health = int_at(service, "/spec/healthCheckNodePort");
    if needs_health_check(service) && health > 0 {
        plan.released_ports.push(health);
    }
    plan
}

/// Old clients know one address only.
fn adopt_single_address(new: &mut Value) {
    let address = str_at(new, "/spec/clusterIP").to_owned();
    if !address.is_empty() && cluster_ips(new).is_empty() {
        set(new, "clusterIPs", json!([address]));
    }
}

/// A client that changed one of the two address fields meant both.
fn adopt_changed_address(new: &mut Value, old: &Value) {
    let (address, old_address) = (str_at(new, "/spec/clusterIP").to_owned(), str_at(old, "/spec/clusterIP"));
    if cluster_ips(new).is_empty() && !cluster_ips(old).is_empty() && address == old_address {
        set(new, "clusterIPs", at(old, "/spec/clusterIPs").clone());
    }
    if address == old_address || cluster_ips(new) != cluster_ips(old) {
        return;
    }
    if address.is_empty() {
        remove(new, "clusterIPs");
    } else {
        set(new, "clusterIPs", json!([address]));
    }
}

/// Whoever writes a service again without what was allocated for it keeps it.
fn keep_allocated_values(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        let address = str_at(old, "/spec/clusterIP");
        if str_at(new, "/spec/clusterIP").is_empty() && !address.is_empty() {
            set(new, "clusterIP", address);
        }
        if cluster_ips(new).is_empty() && !cluster_ips(old).is_empty() {
            set(new, "clusterIPs", at(old, "/spec/clusterIPs").clone());
        }
    }
    let has_node_ports = |service: &Value| match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            at(service, "/spec/allocateLoadBalancerNodePorts").is_null() || bool_at(service, "/spec/allocateLoadBalancerNodePorts")
        }
        _ => false,
    };
    if has_node_ports(old) && has_node_ports(new) {
        keep_node_ports(new, old);
    }
    let health = int_at(old, "/spec/healthCheckNodePort");
    if needs_health_check(old) && needs_health_check(new) && int_at(new, "/spec/healthCheckNodePort") == 0 && health != 0 {
        set(new, "healthCheckNodePort", health);
    }
}

/// Ports keep their node ports by name, unless another port has taken them over.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let taken: BTreeSet<i64> = node_ports(old).intersection(&node_ports(new)).copied().collect();
    let Some(ports) = spec_mut(new).and_then(|spec| spec.get_mut("ports")?.as_array_mut()) else { return };
    for port in ports.iter_mut().filter(|port| int_at(port, "/nodePort") == 0) {
        let named = list_at(old, "/spec/ports").iter().rfind(|old| str_at(old, "/name") == str_at(port, "/name"));
        let number = named.map_or(0, |old| int_at(old, "/nodePort"));
        if number != 0
            && !taken.contains(&number)
            && let Some(port) = port.as_object_mut()
        {
            port.insert("nodePort".to_owned(), number.into());
        }
    }
}

/// Whether both prefer two families and nothing about their addresses has changed: then they stay as they are, however the
/// cluster's networks may have changed meanwhile.
fn stays_as_it_is(new: &Value, old: &Value) -> bool {
    const PREFER: &str = "PreferDualStack";
    kind(old) == kind(new)
        && matches!(kind(new), "ClusterIP" | "NodePort" | "LoadBalancer")
        && policy(new) == Some(PREFER)
        && policy(old).is_none_or(|policy| policy == PREFER)
        && cluster_ips(new) == cluster_ips(old)
        && families(new) == families(old)
}

/// Fills in the family policy and the families.
fn fill_families(new: &mut Value, old: Option<&Value>, cluster: &[Family]) -> Result<(), Refusal> {
    if !needs_cluster_ip(new) || old.is_some_and(|old| stays_as_it_is(new, old)) {
        return Ok(());
    }
    let headless_without_selector = str_at(new, "/spec/clusterIP") == NONE && !has_selector(new);
    if policy(new).is_none() {
        let chosen = match old.and_then(policy) {
            Some(kept) => kept,
            None if headless_without_selector => "RequireDualStack",
            None => "SingleStack",
        };
        set(new, "ipFamilyPolicy", chosen);
    }
    let old_spec = old.map(|old| view::<ServiceSpec>(at(old, "/spec")));
    refuse_any(rules::validate(&view(at(new, "/spec")), old_spec.as_ref()))?;
    let mut errors = reconcile_count(new, old);
    errors.extend(infer_families(new, cluster));
    refuse_any(errors)?;
    let default = cluster.first().copied().unwrap_or(Family::V4);
    let single = policy(new) == Some("SingleStack");
    let mut chosen: Vec<String> = families(new).into_iter().map(str::to_owned).collect();
    if headless_without_selector {
        // Such a service may claim families that the cluster lacks: its endpoints come from elsewhere.
        if chosen.is_empty() {
            chosen.push(default.name().to_owned());
        }
        complete(&mut chosen, !single);
        set(new, "ipFamilies", chosen);
        return Ok(());
    }
    refuse_any(validate_against_cluster(new, cluster))?;
    if chosen.is_empty() {
        chosen.push(default.name().to_owned());
    }
    complete(&mut chosen, !single && cluster.len() == 2);
    set(new, "ipFamilies", chosen);
    Ok(())
}

fn refuse_any(errors: ErrorList) -> Result<(), Refusal> {
    if errors.is_empty() { Ok(()) } else { Err(Refusal::Invalid(errors)) }
}

/// Adds the family that is missing.
fn complete(families: &mut Vec<String>, wanted: bool) {
    if let [only] = families.as_slice()
        && wanted
        && let Some(family) = Family::named(only)
    {
        families.push(family.other().name().to_owned());
    }
}

/// One policy, one number of addresses and families: a second one leaves with the policy, not on its own.
fn reconcile_count(new: &mut Value, old: Option<&Value>) -> ErrorList {
    let spec = Path::new("spec");
    let place = spec.child("ipFamilyPolicy");
    let said = policy(new).unwrap_or("").to_owned();
    let refuse = |why: &str| Error::invalid(&place, said.as_str(), why);
    let mut errors = ErrorList::new();
    let single = said == "SingleStack";
    if let Some(old) = old {
        for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
            let pointer = format!("/spec/{field}");
            let (after, before) = (list_at(new, &pointer), list_at(old, &pointer));
            if single && after == before && after.len() > 1 {
                let first = after[..1].to_vec();
                set(new, field, first);
            } else if !single && !after.is_empty() && after.len() < before.len() {
                errors.push(refuse(&format!("must be 'SingleStack' to release the secondary {what}")));
            }
        }
    }
    for (pointer, what) in [("/spec/clusterIPs", "cluster IPs"), ("/spec/ipFamilies", "IP families")] {
        if single && list_at(new, pointer).len() == 2 {
            errors.push(refuse(&format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified")));
        }
    }
    errors
}

/// Addresses that are given tell their families.
fn infer_families(new: &mut Value, cluster: &[Family]) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut known: Vec<String> = families(new).into_iter().map(str::to_owned).collect();
    let given = known.len();
    for (i, ip) in cluster_ips(new).into_iter().enumerate() {
        if ip == NONE {
            break;
        }
        if i < known.len() {
            continue;
        }
        match Family::of(ip) {
            Some(family) if cluster.contains(&family) => known.push(family.name().to_owned()),
            family => {
                let spec = Path::new("spec");
                let why = format!("{} is not configured on this cluster", family.map_or("unknown", Family::name));
                errors.push(Error::invalid(&spec.child("clusterIPs").index(i), at(new, "/spec/clusterIPs").clone(), why));
            }
        }
    }
    if known.len() > given {
        set(new, "ipFamilies", known);
    }
    errors
}

/// What a service with addresses asks for must be there.
fn validate_against_cluster(new: &Value, cluster: &[Family]) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = Path::new("spec");
    if policy(new) == Some("RequireDualStack") && cluster.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(Error::invalid(&spec.child("ipFamilyPolicy"), "RequireDualStack", why));
    }
    let place = spec.child("ipFamilies");
    for (i, family) in families(new).into_iter().enumerate() {
        if !Family::named(family).is_some_and(|family| cluster.contains(&family)) {
            errors.push(Error::invalid(&place.index(i), family, "not configured on this cluster"));
        }
    }
    errors
}

/// The addresses that a service without allocations takes: one of each of its families.
fn address_requests(new: &mut Value) -> Vec<AddressRequest> {
    if !needs_cluster_ip(new) || cluster_ips(new).first() == Some(&NONE) {
        return Vec::new();
    }
    let mut ips: Vec<String> = cluster_ips(new).into_iter().map(str::to_owned).collect();
    let wanted: Vec<Family> = families(new).into_iter().filter_map(Family::named).collect();
    // An empty address marks the place of one that is yet to be taken, and shows in refusals.
    ips.resize(ips.len().max(wanted.len()), String::new());
    let requests = wanted.into_iter().zip(&ips).enumerate();
    let requests =
        requests.map(|(index, (family, ip))| AddressRequest { index, family, address: (!ip.is_empty()).then(|| ip.clone()) }).collect();
    set(new, "clusterIPs", ips);
    requests
}

/// The addresses that a change takes and gives back.
fn change_addresses(new: &mut Value, old: &Value, plan: &mut Plan) {
    if stays_as_it_is(new, old) {
        return;
    }
    let old_ips = cluster_ips(old);
    match (needs_cluster_ip(old), needs_cluster_ip(new)) {
        (false, true) => plan.addresses = address_requests(new),
        (true, false) if old_ips.first() != Some(&NONE) => {
            let of_a_family = old_ips.into_iter().zip(families(old)).map(|(ip, _)| ip.to_owned());
            plan.released_addresses = of_a_family.collect();
        }
        (true, true) if old_ips.first() != Some(&NONE) => match (families(old).len(), families(new).len()) {
            (1, 2) => plan.addresses.extend(address_requests(new).into_iter().nth(1)),
            (2, 1) => plan.released_addresses.extend(old_ips.get(1).map(|ip| (*ip).to_owned())),
            _ => {}
        },
        _ => {}
    }
}

fn health_check_request(new: &Value) -> PortRequest {
    let number = int_at(new, "/spec/healthCheckNodePort");
    PortRequest { place: PortPlace::HealthCheck, number: (number != 0).then_some(number) }
}

/// The node ports that a new service takes. Ports of one number share a node port, whichever of them names it.
fn port_requests(new: &Value) -> Vec<PortRequest> {
    let ports = list_at(new, "/spec/ports");
    let named = |number: i64| {
        let same = ports.iter().filter(|port| int_at(port, "/port") == number);
        same.map(|port| int_at(port, "/nodePort")).find(|node_port| *node_port != 0)
    };
    let mut requests: Vec<PortRequest> = Vec::new();
    let mut shared: BTreeMap<i64, usize> = BTreeMap::new();
    for (i, port) in ports.iter().enumerate() {
        let (number, node_port) = (int_at(port, "/port"), int_at(port, "/nodePort"));
        if node_port == 0 && !allocates_node_ports(new) {
            continue;
        }
        let Some(request) = shared.get(&number).and_then(|at| requests.get_mut(*at)) else {
            shared.insert(number, requests.len());
            requests.push(PortRequest { place: PortPlace::Ports(vec![i]), number: named(number) });
            continue;
        };
        if node_port != 0 && request.number != Some(node_port) {
            requests.push(PortRequest { place: PortPlace::Ports(vec![i]), number: Some(node_port) });
        } else if let PortPlace::Ports(places) = &mut request.place {
            places.push(i);
        }
    }
    requests
}

/// The node ports that a change takes and gives back.
fn change_ports(new: &Value, old: &Value, plan: &mut Plan) -> Result<(), Refusal> {
    let before = node_ports(old);
    let exposed = |service: &Value| matches!(kind(service), "NodePort" | "LoadBalancer");
    if exposed(new) {
        take_missing_ports(new, &before, plan)?;
        let after = node_ports(new);
        plan.released_ports.extend(before.difference(&after));
    } else if exposed(old) && matches!(kind(new), "ExternalName" | "ClusterIP") {
        plan.released_ports.extend(&before);
    }
    match (needs_health_check(old), needs_health_check(new)) {
        (false, true) => plan.ports.push(health_check_request(new)),
        (true, false) => plan.released_ports.push(int_at(old, "/spec/healthCheckNodePort")),
        _ => {}
    }
    Ok(())
}

fn take_missing_ports(new: &Value, before: &BTreeSet<i64>, plan: &mut Plan) -> Result<(), Refusal> {
    let mut taken = BTreeSet::new();
    let mut used = BTreeSet::new();
    for (i, port) in list_at(new, "/spec/ports").iter().enumerate() {
        let (number, protocol) = (int_at(port, "/nodePort"), str_at(port, "/protocol"));
        if number == 0 {
            if allocates_node_ports(new) {
                plan.ports.push(PortRequest { place: PortPlace::Ports(vec![i]), number: None });
            }
            continue;
        }
        if !before.contains(&number) && taken.insert(number) {
            plan.ports.push(PortRequest { place: PortPlace::Ports(vec![i]), number: Some(number) });
        }
        if !used.insert((protocol, number)) {
            return Err(Refusal::Unknown(format!("duplicate nodePort: {{{protocol} {number}}}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &[Family] = &[Family::V4];

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "s"}, "spec": spec})
    }

    fn refusal(mut new: Value, old: Option<&Value>) -> String {
        match allocations(&mut new, old, CLUSTER) {
            Err(Refusal::Invalid(errors)) => errors[0].to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// A service as an allocator with the given address leaves it.
    fn written(spec: Value, address: &str) -> Value {
        let mut new = service(spec);
        let plan = allocations(&mut new, None, CLUSTER).unwrap();
        for request in &plan.addresses {
            request.grant(&mut new, address);
        }
        for (request, number) in plan.ports.iter().zip(30_000..) {
            request.grant(&mut new, request.number.unwrap_or(number));
        }
        new
    }

    #[test]
    fn a_new_service_takes_an_address_of_the_default_family() {
        let mut new = service(json!({"type": "ClusterIP", "ports": [{"port": 80}]}));
        let plan = allocations(&mut new, None, CLUSTER).unwrap();
        assert_eq!(plan.addresses, [AddressRequest { index: 0, family: Family::V4, address: None }]);
        assert_eq!(new["spec"]["clusterIPs"], json!([""]));
        assert_eq!((&new["spec"]["ipFamilies"], &new["spec"]["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
        let Refusal::Invalid(errors) = plan.addresses[0].refused(&new, "full") else { panic!() };
        assert_eq!(errors[0].to_string(), "spec.clusterIPs: Invalid value: [\"\"]: failed to allocate IP: full");
        plan.addresses[0].grant(&mut new, "10.96.0.5");
        assert_eq!((&new["spec"]["clusterIP"], &new["spec"]["clusterIPs"]), (&json!("10.96.0.5"), &json!(["10.96.0.5"])));
    }

    #[test]
    fn families_follow_the_policy_and_the_cluster() {
        let cases = [
            (json!({"type": "ClusterIP", "clusterIP": "None", "selector": {"a": "b"}}), json!(["IPv4"]), json!("SingleStack")),
            (json!({"type": "ClusterIP", "clusterIP": "None"}), json!(["IPv4", "IPv6"]), json!("RequireDualStack")),
            (json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}), json!(["IPv4"]), json!("PreferDualStack")),
            (json!({"type": "ExternalName"}), Value::Null, Value::Null),
        ];
        for (spec, families, policy) in cases {
            let mut new = service(spec);
            allocations(&mut new, None, CLUSTER).unwrap();
            assert_eq!((&new["spec"]["ipFamilies"], &new["spec"]["ipFamilyPolicy"]), (&families, &policy));
        }
        assert_eq!(
            refusal(service(json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"})), None),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        );
        assert_eq!(
            refusal(service(json!({"type": "ClusterIP", "ipFamilies": ["IPv6"]})), None),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"
        );
        assert_eq!(
            refusal(service(json!({"type": "ClusterIP", "clusterIP": "fd00::1"})), None),
            "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster"
        );
    }

    #[test]
    fn two_families_take_two_addresses() {
        let both = [Family::V4, Family::V6];
        let mut old = service(json!({"type": "ClusterIP"}));
        allocations(&mut old, None, &both).unwrap().addresses[0].grant(&mut old, "10.96.0.5");
        let mut new = old.clone();
        new["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
        let plan = allocations(&mut new, Some(&old), &both).unwrap();
        assert_eq!(plan.addresses, [AddressRequest { index: 1, family: Family::V6, address: None }]);
        plan.addresses[0].grant(&mut new, "fd00::1");
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.5", "fd00::1"]));
        let mut back = new.clone();
        back["spec"]["ipFamilyPolicy"] = "SingleStack".into();
        let plan = allocations(&mut back, Some(&new), &both).unwrap();
        assert_eq!(plan.released_addresses, ["fd00::1"]);
        assert_eq!(back["spec"]["clusterIPs"], json!(["10.96.0.5"]));
    }

    #[test]
    fn ports_of_one_number_share_a_node_port() {
        let ports =
            json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 80, "protocol": "TCP", "nodePort": 30080}]);
        let mut new = service(json!({"type": "NodePort", "ports": ports}));
        let plan = allocations(&mut new, None, CLUSTER).unwrap();
        let request = |places: &[usize], number| PortRequest { place: PortPlace::Ports(places.to_vec()), number };
        assert_eq!(plan.ports, [request(&[0, 1], None), request(&[2], Some(30080))]);
        plan.ports[0].grant(&mut new, 31000);
        assert_eq!((&new["spec"]["ports"][0]["nodePort"], &new["spec"]["ports"][1]["nodePort"]), (&json!(31000), &json!(31000)));
        let Refusal::Invalid(errors) = plan.ports[1].refused("provided port is already allocated") else { panic!() };
        assert_eq!(errors[0].to_string(), "spec.ports[2].nodePort: Invalid value: 30080: provided port is already allocated");
    }

    #[test]
    fn a_balancer_may_do_without_node_ports_and_may_need_a_health_check() {
        let spec = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
        let plan = allocations(&mut service(spec), None, CLUSTER).unwrap();
        assert_eq!(plan.ports, [PortRequest { place: PortPlace::HealthCheck, number: None }]);
    }

    #[test]
    fn a_rewritten_service_keeps_what_it_has() {
        let spec = json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "protocol": "TCP"}]});
        let old = written(spec.clone(), "10.96.0.5");
        let mut new = service(spec);
        assert_eq!(allocations(&mut new, Some(&old), CLUSTER), Ok(Plan::default()));
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.5"]));
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30000);
    }

    #[test]
    fn a_change_of_type_gives_back_and_takes() {
        let old = written(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}), "10.96.0.5");
        let mut new = old.clone();
        new["spec"]["type"] = "ExternalName".into();
        let plan = allocations(&mut new, Some(&old), CLUSTER).unwrap();
        assert_eq!((plan.released_addresses, plan.released_ports), (vec!["10.96.0.5".to_owned()], vec![30000]));
        let mut back = service(json!({"type": "ClusterIP", "ports": [{"port": 80}]}));
        let plan = allocations(&mut back, Some(&service(json!({"type": "ExternalName"}))), CLUSTER).unwrap();
        assert_eq!(plan.addresses.len(), 1);
        assert_eq!(
            releases(&old, CLUSTER),
            Plan { released_addresses: vec!["10.96.0.5".to_owned()], released_ports: vec![30000], ..Plan::default() }
        );
    }

    #[test]
    fn a_changed_address_is_changed_in_both_fields() {
        let old = written(json!({"type": "ClusterIP"}), "10.96.0.5");
        let mut new = old.clone();
        new["spec"]["clusterIP"] = "10.96.0.6".into();
        assert_eq!(allocations(&mut new, Some(&old), CLUSTER), Ok(Plan::default()));
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.6"]));
    }
}
