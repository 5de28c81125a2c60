//! Ranges of addresses: `10.0.0.0/16`. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range, by its first address and how many bits of that all have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    first: IpAddr,
    bits: u8,
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address as a number.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number & u128::from(u32::MAX)).unwrap_or(0))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

impl Prefix {
    /// The range that the address is in. Nothing if it has fewer bits.
    pub fn new(member: IpAddr, bits: u8) -> Option<Prefix> {
        let host = width(member).checked_sub(bits)?;
        let first = number(member) & u128::MAX.checked_shl(u32::from(host)).unwrap_or(0);
        Some(Prefix { first: address(first, member), bits })
    }

    pub fn parse(text: &str) -> Option<Prefix> {
        let (address, bits) = text.split_once('/')?;
        Prefix::new(address.parse().ok()?, bits.parse().ok()?)
    }

    pub fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }

    pub fn bits(&self) -> u8 {
        self.bits
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        Prefix::new(address, self.bits).is_some_and(|other| other == *self)
    }

    /// Whether all of `inner` is in this range.
    pub fn holds(&self, inner: &Prefix) -> bool {
        self.bits <= inner.bits && self.contains(inner.first)
    }

    pub fn overlaps(&self, other: &Prefix) -> bool {
        self.holds(other) || other.holds(self)
    }

    /// How many ranges of so many bits this one has.
    pub fn count(&self, bits: u8) -> u128 {
        bits.checked_sub(self.bits).map_or(0, |more| 1u128.checked_shl(u32::from(more)).unwrap_or(u128::MAX))
    }

    /// The `index`th of them.
    pub fn part(&self, bits: u8, index: u128) -> Option<Prefix> {
        if index >= self.count(bits) || bits > width(self.first) {
            return None;
        }
        let host = width(self.first) - bits;
        let offset = index.checked_shl(u32::from(host))?;
        Some(Prefix { first: address(number(self.first) | offset, self.first), bits })
    }

    /// Which of the parts of its size `inner` is.
    pub fn index_of(&self, inner: &Prefix) -> Option<u128> {
        let host = width(self.first).checked_sub(inner.bits)?;
        self.holds(inner).then(|| (number(inner.first) - number(self.first)).checked_shr(u32::from(host)).unwrap_or(0))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text).unwrap()
    }

    #[test]
    fn a_range_knows_its_addresses() {
        assert_eq!(prefix("10.1.2.3/16").to_string(), "10.1.0.0/16");
        assert!(prefix("10.1.0.0/16").contains("10.1.9.9".parse().unwrap()));
        assert!(!prefix("10.1.0.0/16").contains("10.2.0.0".parse().unwrap()));
        assert!(!prefix("0.0.0.0/0").contains("fd00::1".parse().unwrap()));
        assert!(prefix("fd00::/8").contains("fd12::1".parse().unwrap()));
        assert_eq!(Prefix::parse("10.0.0.0/33"), None);
    }

    #[test]
    fn ranges_hold_and_overlap_each_other() {
        assert!(prefix("10.0.0.0/8").holds(&prefix("10.1.0.0/16")));
        assert!(!prefix("10.1.0.0/16").holds(&prefix("10.0.0.0/8")));
        assert!(prefix("10.1.0.0/16").overlaps(&prefix("10.0.0.0/8")));
        assert!(!prefix("10.1.0.0/16").overlaps(&prefix("10.2.0.0/16")));
    }

    #[test]
    fn a_range_is_cut_into_parts() {
        let whole = prefix("10.0.0.0/16");
        assert_eq!(whole.count(24), 256);
        assert_eq!(whole.part(24, 5).map(|p| p.to_string()).as_deref(), Some("10.0.5.0/24"));
        assert_eq!(whole.part(24, 256), None);
        assert_eq!(whole.index_of(&prefix("10.0.5.0/24")), Some(5));
        assert_eq!(whole.index_of(&prefix("10.1.5.0/24")), None);
        let six = prefix("fd00::/56");
        assert_eq!(six.part(64, 3).map(|p| p.to_string()).as_deref(), Some("fd00:0:0:3::/64"));
        assert_eq!(prefix("0.0.0.0/0").count(32), 1 << 32);
    }
}
