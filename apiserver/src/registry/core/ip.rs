//! Addresses in the older fields of core/v1: endpoint addresses and the warnings about unusual spellings.
//!
//! These fields accept what Go's old parser accepted (leading zeros, IPv4-mapped IPv6); newer fields use
//! `apimachinery::validation::is_valid_ip` instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use apimachinery::field::{Error, ErrorList, Path, quote};

/// Parses an address as Go's old parser did: decimal octets with leading zeros, mapped addresses as IPv4.
pub fn parse_sloppy(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        let (head, tail) = text.rsplit_once(':')?;
        let v6: Ipv6Addr = if tail.contains('.') {
            let v4 = parse_v4_sloppy(tail)?;
            format!("{head}:{v4}").parse().ok()?
        } else {
            text.parse().ok()?
        };
        return Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4));
    }
    parse_v4_sloppy(text).map(IpAddr::V4)
}

fn parse_v4_sloppy(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// Parses `address/length` sloppily: the address as written, and the length.
pub fn parse_cidr_sloppy(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: u32 = length.trim_start_matches('0').parse().or_else(|_| if length.bytes().all(|b| b == b'0') { Ok(0) } else { Err(()) }).ok()?;
    let is_v6 = address.contains(':');
    let ip = parse_sloppy(address)?;
    let length = match (ip, is_v6) {
        // A mapped address keeps its IPv6 length in text; Go prints the IPv4 network.
        (IpAddr::V4(_), true) if (96..=128).contains(&length) => length - 96,
        (IpAddr::V4(_), false) if length <= 32 => length,
        (IpAddr::V6(_), _) if length <= 128 => length,
        _ => return None,
    };
    u8::try_from(length).ok().map(|length| (ip, length))
}

/// Whether the text is an IPv6 address.
pub fn is_v6(text: &str) -> bool {
    matches!(parse_sloppy(text), Some(IpAddr::V6(_)))
}

/// Whether the text is an IPv4 address.
pub fn is_v4(text: &str) -> bool {
    matches!(parse_sloppy(text), Some(IpAddr::V4(_)))
}

/// The address with every bit beyond `length` cleared.
fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

/// An address that traffic can be sent to: not unspecified, loopback or link-local.
pub fn validate_endpoint_ip(text: &str, path: &Path<'_>) -> ErrorList {
    let Some(ip) = parse_sloppy(text) else {
        return vec![Error::invalid(path, text, "must be a valid IP address")];
    };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let mut errors = ErrorList::new();
    let mut refuse = |bad: bool, why: String| {
        if bad {
            errors.push(Error::invalid(path, text, why));
        }
    };
    refuse(ip.is_unspecified(), format!("may not be unspecified ({text})"));
    refuse(ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    refuse(link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    refuse(link_local_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
    errors
}

/// Warns about an accepted address that is not spelled canonically.
pub fn warnings_for_ip(path: &Path<'_>, text: &str) -> Vec<String> {
    let Some(ip) = parse_sloppy(text) else { return Vec::new() };
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => Vec::new(),
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            let canonical = v6.to_string();
            if canonical == text {
                return Vec::new();
            }
            vec![format!("{path}: IPv6 address {} should be in RFC 5952 canonical format ({})", quote(text), quote(&canonical))]
        }
        _ => vec![format!("{path}: non-standard IP address {} is invalid: use {}", quote(text), quote(&ip.to_string()))],
    }
}

/// Warns about an accepted CIDR that is ambiguous or not spelled canonically.
pub fn warnings_for_cidr(path: &Path<'_>, text: &str) -> Vec<String> {
    let Some((ip, length)) = parse_cidr_sloppy(text) else { return Vec::new() };
    let network = masked(ip, length);
    let net_text = format!("{network}/{length}");
    let mut warnings = Vec::new();
    if network != ip {
        let full = if ip.is_ipv4() { 32 } else { 128 };
        let single = format!("{ip}/{full}");
        warnings.push(format!(
            "{path}: CIDR value {} is ambiguous in this context (should be {} or {}?)",
            quote(text),
            quote(&net_text),
            quote(&single)
        ));
    }
    let strict = strict_prefix(text);
    match strict {
        None => warnings.push(format!("{path}: non-standard CIDR value {} is invalid: use {}", quote(text), quote(&net_text))),
        Some(canonical) if warnings.is_empty() && ip.is_ipv6() && canonical != text => warnings.push(format!(
            "{path}: IPv6 CIDR value {} should be in RFC 5952 canonical format ({})",
            quote(text),
            quote(&canonical)
        )),
        Some(_) => {}
    }
    warnings
}

/// The canonical text of a CIDR without leading zeros and mapped addresses.
fn strict_prefix(text: &str) -> Option<String> {
    let (address, length) = text.split_once('/')?;
    if length.len() > 1 && length.starts_with('0') {
        return None;
    }
    let address: IpAddr = address.parse().ok()?;
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    (!mapped).then(|| format!("{address}/{length}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_parser_is_lenient() {
        for (text, want) in [
            ("1.2.3.4", Some("1.2.3.4")),
            ("010.01.1.1", Some("10.1.1.1")),
            ("::ffff:1.2.3.04", Some("1.2.3.4")),
            ("FE80::0", Some("fe80::")),
            ("1.2.3", None),
            ("1.2.3.4.5", None),
            ("1.2.3.256", None),
            ("", None),
            ("::1%eth0", None),
        ] {
            assert_eq!(parse_sloppy(text).map(|ip| ip.to_string()).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn endpoint_addresses_must_be_reachable() {
        let path = Path::new("ip");
        for (text, errors) in [("1.2.3.4", 0), ("127.0.0.1", 1), ("169.254.1.1", 1), ("224.0.0.9", 1), ("0.0.0.0", 1), ("ff02::1", 1), ("x", 1)] {
            assert_eq!(validate_endpoint_ip(text, &path).len(), errors, "{text}");
        }
    }

    #[test]
    fn unusual_spellings_are_warned_about() {
        let path = Path::new("f");
        assert_eq!(warnings_for_ip(&path, "010.1.1.1"), [r#"f: non-standard IP address "010.1.1.1" is invalid: use "10.1.1.1""#]);
        assert_eq!(warnings_for_ip(&path, "FD00::1"), [r#"f: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")"#]);
        assert!(warnings_for_ip(&path, "10.1.1.1").is_empty());
        assert_eq!(
            warnings_for_cidr(&path, "10.1.1.1/8"),
            [r#"f: CIDR value "10.1.1.1/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.1.1.1/32"?)"#]
        );
        assert_eq!(warnings_for_cidr(&path, "10.0.0.0/08"), [r#"f: non-standard CIDR value "10.0.0.0/08" is invalid: use "10.0.0.0/8""#]);
        assert!(warnings_for_cidr(&path, "fd00::/8").is_empty());
    }
}
