//! The servers that a `resolv.conf` names.

use std::net::{IpAddr, SocketAddr};

/// The C library uses no more.
const SERVERS: usize = 3;

const PORT: u16 = 53;

/// The addresses of `nameserver` lines, in their order.
pub fn servers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        // A zone after the address names an interface, which only a link-local address needs.
        words.next()?.split('%').next()?.parse::<IpAddr>().ok()
    };
    text.lines().filter_map(address).take(SERVERS).map(|ip| SocketAddr::new(ip, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_name_servers_are_read() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 8.8.8.8\n nameserver fd00::1\nnameserver x\noptions ndots:5\n";
        let found: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["8.8.8.8:53", "[fd00::1]:53"]);
    }
}
