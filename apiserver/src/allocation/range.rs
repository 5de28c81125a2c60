//! The addresses of a service network, and the order in which free ones are looked for.
//!
//! The network is cut in two: addresses that nobody asked for come from the upper band first, so that those who ask for a
//! certain address in the lower band find it free (KEP-3070). Pure: randomness is an argument.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::registry::core::service::allocation::Family;

/// The lower band has a sixteenth of the network, within these bounds.
const BAND_STEP: u128 = 16;
const BAND_MIN: u128 = 16;
const BAND_MAX: u128 = 256;
/// Networks of IPv6 are no larger than this.
const MIN_PREFIX_V6: u32 = 64;

/// The usable addresses of a CIDR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub family: Family,
    network: u128,
    /// Usable addresses follow the network's own.
    size: u128,
    /// Addresses of the lower band.
    lower: u128,
    text: String,
}

impl Range {
    /// `None` for what is no CIDR, and for networks that are too large.
    pub fn parse(cidr: &str) -> Option<Range> {
        let (address, prefix) = cidr.split_once('/')?;
        let (address, prefix): (IpAddr, u32) = (address.parse().ok()?, prefix.parse().ok()?);
        let (family, bits, number) = match address {
            IpAddr::V4(v4) => (Family::V4, 32, u128::from(u32::from(v4))),
            IpAddr::V6(v6) => (Family::V6, 128, u128::from(v6)),
        };
        let host_bits = (bits as u32).checked_sub(prefix)?;
        if family == Family::V6 && prefix < MIN_PREFIX_V6 {
            return None;
        }
        let all = 1u128 << host_bits;
        let network = number & !(all - 1);
        // Neither the network's own address is used nor, in IPv4, its broadcast address.
        let reserved = if family == Family::V4 { 2 } else { 1 };
        let lower = if all <= BAND_MIN { 0 } else { (all / BAND_STEP).clamp(BAND_MIN, BAND_MAX) };
        let size = all.saturating_sub(reserved);
        let lower = lower.min(size);
        Some(Range { family, network, size, lower, text: cidr.to_owned() })
    }

    /// As the network was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the address is one of those that can be used.
    pub fn contains(&self, address: IpAddr) -> bool {
        let number = match (self.family, address) {
            (Family::V4, IpAddr::V4(v4)) => u128::from(u32::from(v4)),
            (Family::V6, IpAddr::V6(v6)) => u128::from(v6),
            _ => return false,
        };
        number > self.network && number - self.network <= self.size
    }

    /// The network's own address, which dry runs show.
    pub fn network(&self) -> IpAddr {
        self.address(self.network)
    }

    /// All usable addresses: the upper band from a random place on, then the lower one. `random(n)` gives a number below `n`.
    pub fn candidates(&self, mut random: impl FnMut(u128) -> u128) -> impl Iterator<Item = IpAddr> {
        let upper = self.size - self.lower;
        let mut start = |n: u128| if n == 0 { 0 } else { random(n) };
        let (from_upper, from_lower) = (start(upper), start(self.lower));
        let first = self.network + 1;
        let high = (0..upper).map(move |i| first + self.lower + (from_upper + i) % upper);
        // A network with no more than the lower band is not allocated from.
        let lower = if upper == 0 { 0 } else { self.lower };
        let low = (0..lower).map(move |i| first + (from_lower + i) % self.lower);
        high.chain(low).map(|number| self.address(number))
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX))),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(cidr: &str, start: u128) -> Vec<String> {
        Range::parse(cidr).unwrap().candidates(|n| start % n).map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn the_upper_band_is_used_up_first() {
        let all = texts("10.0.0.0/24", 237);
        assert_eq!(all.len(), 254);
        assert_eq!((&*all[0], &*all[1], &*all[238]), ("10.0.0.254", "10.0.0.17", "10.0.0.14"));
        assert!(all.iter().position(|ip| ip == "10.0.0.16") > all.iter().position(|ip| ip == "10.0.0.100"));
        assert_eq!(texts("10.96.0.0/12", 0)[0], "10.96.1.1");
        assert_eq!(
            texts("fd00::/124", 14),
            [
                "fd00::f", "fd00::1", "fd00::2", "fd00::3", "fd00::4", "fd00::5", "fd00::6", "fd00::7", "fd00::8", "fd00::9", "fd00::a",
                "fd00::b", "fd00::c", "fd00::d", "fd00::e"
            ]
        );
    }

    #[test]
    fn small_networks_have_no_bands_and_tiny_ones_no_addresses() {
        assert_eq!(texts("10.0.0.0/30", 0), ["10.0.0.1", "10.0.0.2"]);
        assert!(texts("10.0.0.1/32", 0).is_empty());
        assert!(texts("10.0.0.0/31", 0).is_empty());
        assert!(Range::parse("fd00::/48").is_none());
        assert!(Range::parse("10.0.0.0/33").is_none());
    }

    #[test]
    fn the_ends_of_a_network_are_not_in_its_range() {
        let range = Range::parse("10.0.0.0/24").unwrap();
        let contains = |ip: &str| range.contains(ip.parse().unwrap());
        assert!(contains("10.0.0.1") && contains("10.0.0.254"));
        assert!(!contains("10.0.0.0") && !contains("10.0.0.255") && !contains("10.0.1.1") && !contains("fd00::1"));
        assert_eq!(Range::parse("10.0.0.77/24").unwrap().network().to_string(), "10.0.0.0");
    }
}
