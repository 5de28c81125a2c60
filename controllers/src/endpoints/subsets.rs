//! The subsets of an Endpoints object: addresses that share ports, each in one subset. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, ObjectReference};

type PortKey = (Option<String>, i32, Option<String>, Option<String>);
/// Addresses are told apart by IP and by the uid of what is behind them.
type AddressKey = (String, Option<String>);

fn port_key(port: &EndpointPort) -> PortKey {
    (port.name.clone(), port.port, port.protocol.clone(), port.app_protocol.clone())
}

fn address_key(address: &EndpointAddress) -> AddressKey {
    (address.ip.clone(), address.target_ref.as_ref().and_then(|target| target.uid.clone()))
}

/// Brings subsets into their canonical form: no two with the same addresses, all in a fixed order.
pub fn repack(subsets: &[EndpointSubset]) -> Vec<EndpointSubset> {
    let mut addresses = BTreeMap::<AddressKey, EndpointAddress>::new();
    // Nothing stands for the port of subsets that have none.
    let mut ports = BTreeMap::<Option<PortKey>, (Option<EndpointPort>, BTreeMap<AddressKey, bool>)>::new();
    for subset in subsets {
        let listed = subset.ports.as_deref().unwrap_or_default();
        let each: Vec<Option<&EndpointPort>> = if listed.is_empty() { vec![None] } else { listed.iter().map(Some).collect() };
        for port in each {
            let (_, members) = ports.entry(port.map(port_key)).or_insert_with(|| (port.cloned(), BTreeMap::new()));
            let told = [(&subset.addresses, true), (&subset.not_ready_addresses, false)];
            for (address, ready) in told.iter().flat_map(|(list, ready)| list.iter().flatten().map(|address| (address, *ready))) {
                let key = address_key(address);
                addresses.entry(key.clone()).or_insert_with(|| address.clone());
                // Who is said not to be ready is not ready.
                *members.entry(key).or_insert(ready) &= ready;
            }
        }
    }
    let mut groups = BTreeMap::<BTreeMap<AddressKey, bool>, Vec<EndpointPort>>::new();
    for (_, (port, members)) in ports {
        groups.entry(members).or_default().extend(port);
    }
    let subset = |(members, ports): (BTreeMap<AddressKey, bool>, Vec<EndpointPort>)| {
        let of = |wanted: bool| -> Option<Vec<EndpointAddress>> {
            let keys = members.iter().filter(|(_, ready)| **ready == wanted).map(|(key, _)| key);
            let list: Vec<EndpointAddress> = keys.filter_map(|key| addresses.get(key).cloned()).collect();
            (!list.is_empty()).then_some(list)
        };
        EndpointSubset { addresses: of(true), not_ready_addresses: of(false), ports: (!ports.is_empty()).then_some(ports) }
    };
    groups.into_iter().filter(|(members, _)| !members.is_empty()).map(subset).collect()
}

/// Whether two lists say the same; which revision of a pod is meant does not matter.
pub fn is_same(a: &[EndpointSubset], b: &[EndpointSubset]) -> bool {
    let plain = |subsets: &[EndpointSubset]| -> Vec<EndpointSubset> {
        let mut subsets = repack(subsets);
        let lists = subsets.iter_mut().flat_map(|subset| [&mut subset.addresses, &mut subset.not_ready_addresses]);
        for address in lists.flat_map(|list| list.iter_mut().flatten()) {
            address.target_ref = address.target_ref.take().map(|target| ObjectReference { resource_version: None, ..target });
        }
        subsets
    };
    plain(a) == plain(b)
}

fn len(list: &Option<Vec<EndpointAddress>>) -> usize {
    list.as_ref().map_or(0, Vec::len)
}

pub fn count(subsets: &[EndpointSubset]) -> usize {
    subsets.iter().map(|subset| len(&subset.addresses) + len(&subset.not_ready_addresses)).sum()
}

/// Cuts the addresses down to `max`: each subset keeps its share, and ready addresses go before others. Whether any was cut.
pub fn truncate(subsets: &mut [EndpointSubset], max: usize) -> bool {
    let ready: usize = subsets.iter().map(|subset| len(&subset.addresses)).sum();
    if count(subsets) <= max {
        return false;
    }
    let cut_ready = ready > max;
    let total = if cut_ready { ready } else { count(subsets) - ready };
    let room = if cut_ready { max } else { max - ready };
    let mut left = room;
    for subset in subsets {
        if cut_ready {
            subset.not_ready_addresses = None;
        }
        let list = if cut_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let share = (len(list) * room).div_ceil(total).min(left);
        if let Some(addresses) = list {
            addresses.truncate(share);
        }
        left -= len(list);
        list.take_if(|addresses| addresses.is_empty());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subset(ready: &[&str], not_ready: &[&str], ports: &[i32]) -> EndpointSubset {
        let list = |ips: &[&str]| -> Option<Vec<EndpointAddress>> {
            let list: Vec<_> = ips.iter().map(|&ip| EndpointAddress { ip: ip.to_owned(), ..EndpointAddress::default() }).collect();
            (!list.is_empty()).then_some(list)
        };
        let ports: Vec<_> = ports.iter().map(|&port| EndpointPort { port, ..EndpointPort::default() }).collect();
        EndpointSubset { addresses: list(ready), not_ready_addresses: list(not_ready), ports: (!ports.is_empty()).then_some(ports) }
    }

    #[test]
    fn addresses_with_the_same_ports_are_one_subset() {
        let packed = repack(&[
            subset(&["10.0.0.2"], &[], &[80]),
            subset(&["10.0.0.1"], &[], &[80]),
            subset(&["10.0.0.1"], &[], &[81]),
            subset(&["10.0.0.2"], &[], &[81]),
        ]);
        assert_eq!(packed, [subset(&["10.0.0.1", "10.0.0.2"], &[], &[80, 81])]);
    }

    #[test]
    fn addresses_with_other_ports_or_another_state_are_other_subsets() {
        let packed = repack(&[subset(&["a"], &["b"], &[80]), subset(&["a"], &[], &[81]), subset(&["c"], &[], &[])]);
        assert_eq!(packed, [subset(&["a"], &[], &[81]), subset(&["a"], &["b"], &[80]), subset(&["c"], &[], &[])]);
        assert_eq!(repack(&[subset(&["a"], &[], &[1]), subset(&[], &["a"], &[1])]), [subset(&[], &["a"], &[1])]);
    }

    #[test]
    fn the_order_does_not_matter() {
        assert!(is_same(&[subset(&["a", "b"], &[], &[1, 2])], &[subset(&["b", "a"], &[], &[2, 1])]));
        assert!(!is_same(&[subset(&["a"], &[], &[1])], &[subset(&[], &["a"], &[1])]));
    }

    #[test]
    fn too_many_addresses_are_cut_by_share_and_those_not_ready_first() {
        let cut = |mut subsets: Vec<EndpointSubset>, max| {
            let cut = truncate(&mut subsets, max);
            (cut, subsets.iter().map(|s| (len(&s.addresses), len(&s.not_ready_addresses))).collect::<Vec<_>>())
        };
        assert_eq!(cut(vec![subset(&["a", "b"], &["c"], &[1])], 3), (false, vec![(2, 1)]));
        assert_eq!(cut(vec![subset(&["a", "b"], &["c"], &[1])], 2), (true, vec![(2, 0)]));
        assert_eq!(cut(vec![subset(&["a", "b", "c", "d"], &["e"], &[1]), subset(&["f", "g"], &[], &[2])], 3), (true, vec![(2, 0), (1, 0)]));
    }
}
