//! What went over the interfaces of a network namespace, as `/proc/<pid>/net` says.

use super::api::InterfaceStats;

/// All interfaces but the loopback, and the one of the default route.
pub fn parse(dev: &str, route: &str) -> (Option<InterfaceStats>, Vec<InterfaceStats>) {
    let interfaces: Vec<InterfaceStats> = dev.lines().skip(2).filter_map(interface).filter(|interface| interface.name != "lo").collect();
    let name = route.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        let name = columns.next()?;
        (columns.next()? == "00000000").then_some(name)
    });
    let default = interfaces.iter().find(|interface| Some(interface.name.as_str()) == name.or(Some("eth0"))).cloned();
    (default, interfaces)
}

fn interface(line: &str) -> Option<InterfaceStats> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
    Some(InterfaceStats {
        name: name.trim().to_owned(),
        rx_bytes: *numbers.first()?,
        rx_errors: *numbers.get(2)?,
        tx_bytes: *numbers.get(8)?,
        tx_errors: *numbers.get(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_of_the_default_route_is_found() {
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 1 2 0 0 0 0 0 30 1 4 0 0 0 0 0\n eth1:5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n";
        let route = "Iface\tDestination\neth1\t0000000A\neth0\t00000000\t0100000A\n";
        let (default, all) = parse(dev, route);
        let eth0 = InterfaceStats { name: "eth0".to_owned(), rx_bytes: 10, rx_errors: 2, tx_bytes: 30, tx_errors: 4 };
        assert_eq!(default, Some(eth0));
        assert_eq!(all.len(), 2);
    }
}
