//! Ranges of addresses and of ports, and what remains of some without others. Pure.

use std::fmt;
use std::net::IpAddr;

use netfilter::family::{Cidr, Family};

/// Addresses of one family from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    pub first: IpAddr,
    pub last: IpAddr,
}

/// Ports of one protocol, by its number, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    pub protocol: u8,
    pub first: u16,
    pub last: u16,
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(u32::try_from(bits).unwrap_or(u32::MAX).into()),
        Family::V6 => IpAddr::V6(bits.into()),
    }
}

impl Range {
    pub fn of(cidr: Cidr) -> Range {
        let (family, first) = (cidr.family(), bits(cidr.network));
        let length: u32 = if family == Family::V4 { 32 } else { 128 };
        let host_bits = length.saturating_sub(cidr.prefix.into());
        let hosts = 1u128.checked_shl(host_bits).map_or(u128::MAX, |count| count - 1);
        Range { first: cidr.network, last: address(family, first | hosts) }
    }

    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && self.first <= address && address <= self.last
    }
}

/// The same addresses in as few ranges as possible, in their order.
pub fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(before) if before.family() == range.family() && bits(range.first) <= bits(before.last).saturating_add(1) => {
                before.last = before.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// What remains of a range without others.
pub fn without(range: Range, others: Vec<Range>) -> Vec<Range> {
    let family = range.family();
    let (mut next, last) = (Some(bits(range.first)), bits(range.last));
    let mut left = Vec::new();
    for other in merged(others).into_iter().filter(|other| other.family() == family) {
        let Some(from) = next.filter(|from| *from <= last) else { break };
        let (first, end) = (bits(other.first), bits(other.last));
        if end < from || first > last {
            continue;
        }
        if first > from {
            left.push(Range { first: address(family, from), last: address(family, first - 1) });
        }
        next = end.checked_add(1);
    }
    if let Some(from) = next.filter(|from| *from <= last) {
        left.push(Range { first: address(family, from), last: range.last });
    }
    left
}

/// The same ports in as few ranges as possible, in their order.
pub fn merged_ports(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(before) if before.protocol == range.protocol && range.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.protocol, self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use netfilter::family::parse_cidr;

    use super::*;

    fn range(text: &str) -> Range {
        Range::of(parse_cidr(text).unwrap())
    }

    fn text(ranges: &[Range]) -> Vec<String> {
        ranges.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_network_is_the_range_of_its_addresses() {
        assert_eq!(range("10.0.0.0/8").to_string(), "10.0.0.0-10.255.255.255");
        assert_eq!(range("10.0.0.1/32").to_string(), "10.0.0.1-10.0.0.1");
        assert_eq!(range("0.0.0.0/0").to_string(), "0.0.0.0-255.255.255.255");
        assert_eq!(range("::/0").last, IpAddr::V6(u128::MAX.into()));
        assert!(!range("0.0.0.0/0").contains("::1".parse().unwrap()));
    }

    #[test]
    fn exceptions_are_cut_out() {
        let cut = |from: &str, others: &[&str]| text(&without(range(from), others.iter().map(|other| range(other)).collect()));
        assert_eq!(cut("10.0.0.0/24", &[]), ["10.0.0.0-10.0.0.255"]);
        assert_eq!(cut("10.0.0.0/24", &["10.0.0.0/25"]), ["10.0.0.128-10.0.0.255"]);
        assert_eq!(cut("10.0.0.0/24", &["10.0.0.64/32", "10.0.0.65/32"]), ["10.0.0.0-10.0.0.63", "10.0.0.66-10.0.0.255"]);
        assert!(cut("10.0.0.0/24", &["10.0.0.0/8"]).is_empty());
        assert_eq!(cut("10.0.0.0/24", &["11.0.0.0/8", "::/0"]), ["10.0.0.0-10.0.0.255"]);
        assert_eq!(cut("0.0.0.0/0", &["128.0.0.0/1"]), ["0.0.0.0-127.255.255.255"]);
        assert!(cut("::/0", &["::/0"]).is_empty());
    }

    #[test]
    fn what_touches_is_one_range() {
        let one = merged(vec![range("10.0.1.0/24"), range("10.0.0.0/24"), range("10.0.0.7/32"), range("::/1"), range("255.0.0.0/8")]);
        assert_eq!(text(&one), ["10.0.0.0-10.0.1.255", "255.0.0.0-255.255.255.255", "::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
        let port = |protocol, first, last| PortRange { protocol, first, last };
        let ports = merged_ports(vec![port(6, 80, 80), port(6, 81, 90), port(17, 85, 85), port(6, 92, 65535), port(6, 65535, 65535)]);
        assert_eq!(ports, [port(6, 80, 90), port(6, 92, 65535), port(17, 85, 85)]);
    }
}
