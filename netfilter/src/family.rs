//! The two families of addresses: every rule set belongs to one of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use apimachinery::validation;

/// A family, under the name that Services give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// The addresses that never leave the host.
    pub const fn loopback(self) -> Cidr {
        match self {
            Family::V4 => Cidr { network: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 },
            Family::V6 => Cidr { network: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
        }
    }

    pub const fn everything(self) -> Cidr {
        match self {
            Family::V4 => Cidr { network: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 },
            Family::V6 => Cidr { network: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 0 },
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A network: an address without host bits and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    pub network: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    /// The network of this address alone.
    pub fn host(address: IpAddr) -> Cidr {
        Cidr { network: address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    pub fn family(&self) -> Family {
        Family::of(self.network)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                address.to_bits() & mask == network.to_bits()
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                address.to_bits() & mask == network.to_bits()
            }
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// An address as old API fields may spell it.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    // Almost all addresses are spelled well, and there may be a hundred thousand.
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    validation::Ip::parse_sloppy(text)?.to_string().parse().ok()
}

/// A network as old API fields may spell it, with blanks around it.
pub fn parse_cidr(text: &str) -> Option<Cidr> {
    let cidr = validation::Cidr::parse_sloppy(text.trim())?.to_string();
    let (network, prefix) = cidr.split_once('/')?;
    Some(Cidr { network: network.parse().ok()?, prefix: prefix.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sloppy_spellings_are_understood() {
        assert_eq!(parse_ip("010.0.0.1").unwrap().to_string(), "10.0.0.1");
        assert_eq!(parse_ip("::ffff:1.2.3.4").unwrap().to_string(), "1.2.3.4");
        assert_eq!(parse_cidr(" 10.1.2.3/8 ").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(parse_ip("a"), None);
    }

    #[test]
    fn networks_contain_their_addresses() {
        let contains = |cidr: &str, address: &str| parse_cidr(cidr).unwrap().contains(address.parse().unwrap());
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("fd00::/64", "fd00::1") && contains("::/0", "fd00::1"));
    }
}
