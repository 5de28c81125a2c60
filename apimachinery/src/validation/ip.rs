//! IP addresses and CIDRs, in the strict form that new fields take and in the sloppy form (leading zeros, IPv4-mapped
//! IPv6) that old fields have always taken.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::field::{Error, ErrorList, Path, quote};

/// An address of either family; an IPv4-mapped IPv6 address is an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ip([u8; 16]);

impl Ip {
    /// Accepts decimal octets with leading zeros and IPv6 groups of more than four digits; no zones.
    pub fn parse_sloppy(text: &str) -> Option<Ip> {
        match text.bytes().find(|b| matches!(b, b'.' | b':'))? {
            b'.' => Some(Ip::from_v4(ipv4_sloppy(text)?)),
            _ => Some(Ip(ipv6_sloppy(text)?)),
        }
    }

    fn from_v4(octets: [u8; 4]) -> Ip {
        Ip(Ipv4Addr::from(octets).to_ipv6_mapped().octets())
    }

    /// The IPv4 address, also if it was written as an IPv4-mapped one.
    pub fn to_v4(self) -> Option<Ipv4Addr> {
        Ipv6Addr::from(self.0).to_ipv4_mapped()
    }

    /// Whether the address is not an IPv4 address.
    pub fn is_v6(self) -> bool {
        self.to_v4().is_none()
    }

    fn masked(self, ones: u32, bits: u32) -> Ip {
        let ones = if bits == 32 { ones + 96 } else { ones };
        let number = u128::from_be_bytes(self.0);
        let mask = u128::MAX.checked_shl(128 - ones).unwrap_or(0);
        Ip((number & mask).to_be_bytes())
    }
}

/// The canonical form: dotted decimals, or RFC 5952.
impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_v4() {
            Some(v4) => v4.fmt(f),
            None => Ipv6Addr::from(self.0).fmt(f),
        }
    }
}

/// An address with a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address as written.
    pub ip: Ip,
    /// The address with the bits beyond the prefix cleared.
    pub network: Ip,
    /// The prefix length as written.
    pub ones: u32,
    /// 32 for dotted notation, 128 for IPv6 notation.
    pub bits: u32,
}

impl Cidr {
    /// As [`Ip::parse_sloppy`], followed by `/` and a decimal prefix length.
    pub fn parse_sloppy(text: &str) -> Option<Cidr> {
        let (address, mask) = text.split_once('/')?;
        let (ip, bits) = match ipv4_sloppy(address) {
            Some(octets) => (Ip::from_v4(octets), 32),
            None => (Ip(ipv6_sloppy(address)?), 128),
        };
        let (ones, rest) = number(mask, 10)?;
        if !rest.is_empty() || ones > bits {
            return None;
        }
        Some(Cidr { ip, network: ip.masked(ones, bits), ones, bits })
    }

    /// Whether `ip` lies in the network.
    pub fn contains(&self, ip: Ip) -> bool {
        (self.bits == 32) != ip.is_v6() && ip.masked(self.ones, self.bits) == self.network
    }
}

/// The canonical form of the network.
impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An IPv4-mapped network shows as an IPv4 one.
        let ones = if self.bits == 128 && !self.network.is_v6() { self.ones.saturating_sub(96) } else { self.ones };
        write!(f, "{}/{ones}", self.network)
    }
}

/// A number at the start of `text` and what follows it; at most 24 bits.
fn number(text: &str, radix: u32) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_digit(radix)).unwrap_or(text.len());
    if end == 0 {
        return None;
    }
    let mut value: u32 = 0;
    for c in text[..end].chars() {
        value = value * radix + c.to_digit(radix)?;
        if value >= 0xff_ffff {
            return None;
        }
    }
    Some((value, &text[end..]))
}

fn ipv4_sloppy(text: &str) -> Option<[u8; 4]> {
    let mut octets = [0; 4];
    let mut rest = text;
    for (i, octet) in octets.iter_mut().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix('.')?;
        }
        let (value, after) = number(rest, 10)?;
        *octet = u8::try_from(value).ok()?;
        rest = after;
    }
    rest.is_empty().then_some(octets)
}

fn ipv6_sloppy(text: &str) -> Option<[u8; 16]> {
    let mut bytes: Vec<u8> = Vec::with_capacity(16);
    let mut ellipsis = None;
    let mut rest = text;
    if let Some(after) = rest.strip_prefix("::") {
        ellipsis = Some(0);
        rest = after;
        if rest.is_empty() {
            return Some([0; 16]);
        }
    }
    while bytes.len() < 16 {
        let (group, after) = number(rest, 16)?;
        let group = u16::try_from(group).ok()?;
        if after.starts_with('.') {
            // An IPv4 tail takes the last four bytes.
            if (ellipsis.is_none() && bytes.len() != 12) || bytes.len() > 12 {
                return None;
            }
            bytes.extend(ipv4_sloppy(rest)?);
            rest = "";
            break;
        }
        bytes.extend(group.to_be_bytes());
        rest = after;
        if rest.is_empty() {
            break;
        }
        rest = rest.strip_prefix(':').filter(|r| !r.is_empty())?;
        if let Some(after) = rest.strip_prefix(':') {
            if ellipsis.replace(bytes.len()).is_some() {
                return None;
            }
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }
    if !rest.is_empty() {
        return None;
    }
    match ellipsis {
        // An ellipsis stands for at least one group.
        Some(_) if bytes.len() == 16 => None,
        Some(at) => {
            let tail = bytes.split_off(at);
            bytes.resize(16 - tail.len(), 0);
            bytes.extend(tail);
            bytes.try_into().ok()
        }
        None => bytes.try_into().ok(),
    }
}

fn strict(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn parse_ip(path: &Path<'_>, value: &str, strict_form: bool) -> Result<Ip, ErrorList> {
    let Some(ip) = Ip::parse_sloppy(value) else {
        return Err(vec![Error::invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")]);
    };
    if strict_form {
        match strict(value) {
            // What only the sloppy form accepts has leading zeros.
            None => return Err(vec![Error::invalid(path, value, "must not have leading 0s")]),
            Some(address) if is_mapped(address) => {
                return Err(vec![Error::invalid(path, value, "must not be an IPv4-mapped IPv6 address")]);
            }
            Some(_) => {}
        }
    }
    Ok(ip)
}

/// An IP address in canonical form.
pub fn is_valid_ip(path: &Path<'_>, value: &str) -> ErrorList {
    match parse_ip(path, value, true) {
        Err(errors) => errors,
        Ok(ip) => not_canonical(path, value, &ip.to_string()),
    }
}

fn not_canonical(path: &Path<'_>, value: &str, canonical: &str) -> ErrorList {
    if value == canonical {
        return Vec::new();
    }
    vec![Error::invalid(path, value, format!("must be in canonical form ({})", quote(canonical)))]
}

/// An IP address in a field that is older than the strict form; values in `valid_old` pass.
pub fn is_valid_ip_for_legacy_field(path: &Path<'_>, value: &str, strict_form: bool, valid_old: &[&str]) -> ErrorList {
    if valid_old.contains(&value) {
        return Vec::new();
    }
    parse_ip(path, value, strict_form).err().unwrap_or_default()
}

/// Warnings for an address that a legacy field accepted.
pub fn get_warnings_for_ip(path: &Path<'_>, value: &str) -> Vec<String> {
    let Some(ip) = Ip::parse_sloppy(value) else { return Vec::new() };
    match strict(value) {
        Some(address) if !is_mapped(address) => {
            let canonical = ip.to_string();
            if ip.is_v6() && canonical != value {
                return vec![format!(
                    "{path}: IPv6 address {} should be in RFC 5952 canonical format ({})",
                    quote(value),
                    quote(&canonical)
                )];
            }
            Vec::new()
        }
        _ => vec![format!("{path}: non-standard IP address {} is invalid: use {}", quote(value), quote(&ip.to_string()))],
    }
}

/// The address of a CIDR in the strict form, whose prefix length has no leading zeros.
fn strict_prefix(value: &str) -> Option<IpAddr> {
    let (address, length) = value.split_once('/')?;
    if length.len() > 1 && length.starts_with('0') {
        return None;
    }
    strict(address)
}

fn parse_cidr(path: &Path<'_>, value: &str, strict_form: bool) -> Result<Cidr, ErrorList> {
    let Some(cidr) = Cidr::parse_sloppy(value) else {
        return Err(vec![Error::invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")]);
    };
    if strict_form {
        let fault = match strict_prefix(value) {
            None => "must not have leading 0s in IP or prefix length",
            Some(address) if is_mapped(address) => "must not have an IPv4-mapped IPv6 address",
            Some(_) if cidr.ip != cidr.network => "must not have bits set beyond the prefix length",
            Some(_) => return Ok(cidr),
        };
        return Err(vec![Error::invalid(path, value, fault)]);
    }
    Ok(cidr)
}

/// A CIDR in canonical form.
pub fn is_valid_cidr(path: &Path<'_>, value: &str) -> ErrorList {
    match parse_cidr(path, value, true) {
        Err(errors) => errors,
        Ok(cidr) => not_canonical(path, value, &cidr.to_string()),
    }
}

/// A CIDR in a field that is older than the strict form; values in `valid_old` pass.
pub fn is_valid_cidr_for_legacy_field(path: &Path<'_>, value: &str, strict_form: bool, valid_old: &[&str]) -> ErrorList {
    if valid_old.contains(&value) {
        return Vec::new();
    }
    parse_cidr(path, value, strict_form).err().unwrap_or_default()
}

/// Warnings for a CIDR that a legacy field accepted.
pub fn get_warnings_for_cidr(path: &Path<'_>, value: &str) -> Vec<String> {
    let Some(cidr) = Cidr::parse_sloppy(value) else { return Vec::new() };
    let mut warnings = Vec::new();
    let network = cidr.to_string();
    if cidr.ip != cidr.network {
        let single = format!("{}/{}", cidr.ip, cidr.bits);
        warnings.push(format!(
            "{path}: CIDR value {} is ambiguous in this context (should be {} or {}?)",
            quote(value),
            quote(&network),
            quote(&single)
        ));
    }
    let address = strict_prefix(value);
    if address.is_none_or(is_mapped) {
        warnings.push(format!("{path}: non-standard CIDR value {} is invalid: use {}", quote(value), quote(&network)));
    }
    if warnings.is_empty() && cidr.ip.is_v6() && network != value {
        warnings.push(format!("{path}: IPv6 CIDR value {} should be in RFC 5952 canonical format ({})", quote(value), quote(&network)));
    }
    warnings
}

/// An address with the prefix length of its network, in canonical form.
pub fn is_valid_interface_address(path: &Path<'_>, value: &str) -> ErrorList {
    let Some(cidr) = Cidr::parse_sloppy(value) else {
        return vec![Error::invalid(path, value, "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)")];
    };
    // Upstream subtracts without a look at the sign.
    let ones = if !cidr.ip.is_v6() && cidr.ones > 32 { i64::from(cidr.ones) - 96 } else { i64::from(cidr.ones) };
    not_canonical(path, value, &format!("{}/{ones}", cidr.ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sloppy_addresses_parse_and_print_canonically() {
        let table = [
            ("1.2.3.4", Some("1.2.3.4")),
            ("010.002.003.004", Some("10.2.3.4")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("::", Some("::")),
            ("::1", Some("::1")),
            ("2001:DB8:0:0::0001", Some("2001:db8::1")),
            ("1:2:3:4:5:6:7:8", Some("1:2:3:4:5:6:7:8")),
            ("1:2:3:4:5:6:7::", Some("1:2:3:4:5:6:7:0")),
            ("1:2:3:4:5:6:1.2.3.4", Some("1:2:3:4:5:6:102:304")),
            ("1:2:3:4:5:6:7::8", None),
            ("1::2::3", None),
            ("1:2", None),
            ("1:", None),
            ("12345::", None),
            ("1.2.3", None),
            ("1.2.3.256", None),
            ("1.2.3.4.5", None),
            ("fe80::1%eth0", None),
            ("1.2.3.99999999999999999999", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(Ip::parse_sloppy(text).map(|ip| ip.to_string()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn strict_fields_name_the_fault() {
        let path = Path::new("ip");
        let ip = |v: &str| is_valid_ip(&path, v).into_iter().map(|e| e.detail).collect::<Vec<_>>().join("|");
        assert_eq!(ip("1.2.3.4"), "");
        assert_eq!(ip("1.2.3.04"), "must not have leading 0s");
        assert_eq!(ip("::ffff:1.2.3.4"), "must not be an IPv4-mapped IPv6 address");
        assert_eq!(ip("2001:DB8::"), "must be in canonical form (\"2001:db8::\")");
        assert_eq!(ip("x"), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        let cidr = |v: &str| is_valid_cidr(&path, v).into_iter().map(|e| e.detail).collect::<Vec<_>>().join("|");
        assert_eq!(cidr("10.0.0.0/8"), "");
        assert_eq!(cidr("0.0.0.0/0"), "");
        assert_eq!(cidr("::/0"), "");
        assert_eq!(cidr("10.0.0.1/8"), "must not have bits set beyond the prefix length");
        assert_eq!(cidr("10.0.0.0/08"), "must not have leading 0s in IP or prefix length");
        assert_eq!(cidr("::ffff:10.0.0.0/104"), "must not have an IPv4-mapped IPv6 address");
        assert_eq!(cidr("10.0.0.0/33"), "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        assert_eq!(is_valid_interface_address(&path, "10.0.0.1/8"), vec![]);
    }

    #[test]
    fn legacy_fields_accept_and_warn() {
        let path = Path::new("ip");
        assert!(is_valid_ip_for_legacy_field(&path, "1.2.3.04", false, &[]).is_empty());
        assert!(is_valid_ip_for_legacy_field(&path, "garbage", true, &["garbage"]).is_empty());
        assert_eq!(get_warnings_for_ip(&path, "1.2.3.04"), ["ip: non-standard IP address \"1.2.3.04\" is invalid: use \"1.2.3.4\""]);
        assert_eq!(
            get_warnings_for_ip(&path, "2001:DB8::1"),
            ["ip: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"]
        );
        assert_eq!(
            get_warnings_for_cidr(&path, "10.0.0.1/8"),
            ["ip: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)"]
        );
    }
}
