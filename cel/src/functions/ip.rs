//! IP addresses.

use std::net::{IpAddr, Ipv4Addr};

use super::Row;
use crate::value::{EvalError, Evaluated, Value};

pub(super) const ROWS: &[Row] = &[
    ("ip", "string_to_ip", "(string) -> net.IP", to_ip),
    ("family", "ip_family", "net.IP.() -> int", family),
    ("ip.isCanonical", "ip_is_canonical", "(string) -> bool", is_canonical),
    ("isUnspecified", "ip_is_unspecified", "net.IP.() -> bool", is_unspecified),
    ("isLoopback", "ip_is_loopback", "net.IP.() -> bool", is_loopback),
    ("isLinkLocalMulticast", "ip_is_link_local_multicast", "net.IP.() -> bool", is_link_local_multicast),
    ("isLinkLocalUnicast", "ip_is_link_local_unicast", "net.IP.() -> bool", is_link_local_unicast),
    ("isGlobalUnicast", "ip_is_global_unicast", "net.IP.() -> bool", is_global_unicast),
    ("isIP", "is_ip", "(string) -> bool", is_ip),
    ("string", "ip_to_string", "(net.IP) -> string", to_string),
];

/// An address without a zone that is not IPv4 within IPv6. The error is upstream's.
pub(super) fn parse(text: &str) -> Result<IpAddr, EvalError> {
    let failed = |why: String| EvalError::new(format!("IP Address {text:?} parse error during conversion from string: {why}"));
    if let Some((address, zone)) = text.split_once('%')
        && !zone.is_empty()
        && address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6())
    {
        return Err(EvalError::new(format!("IP address {text:?} with zone value is not allowed")));
    }
    let ip: IpAddr = text.parse().map_err(|_| failed(format!("ParseAddr({text:?}): {}", unparsed(text))))?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))),
        ip => Ok(ip),
    }
}

/// Why Go finds that a text is no address, for the common cases.
pub(super) fn unparsed(text: &str) -> String {
    match text.find(['.', ':', '%']) {
        None => "unable to parse IP".to_owned(),
        Some(at) if text.as_bytes()[at] == b'.' => {
            let fields: Vec<&str> = text.split('.').collect();
            let bad = fields.iter().find_map(|field| {
                if let Some(c) = field.chars().find(|c| !c.is_ascii_digit()) {
                    let from = text.find(c).unwrap_or(0);
                    return Some(format!("unexpected character (at {:?})", &text[from..]));
                }
                match field.parse::<u32>() {
                    Ok(value) if value > 255 => Some("IPv4 field has value >255".to_owned()),
                    Ok(_) if field.len() > 1 && field.starts_with('0') => Some("IPv4 field has octet with leading zero".to_owned()),
                    Ok(_) => None,
                    Err(_) if field.is_empty() => Some(format!(
                        "IPv4 field must have at least one digit (at {:?})",
                        &text[text.find("..").map_or(text.len(), |at| at + 1)..]
                    )),
                    Err(_) => Some("IPv4 field has value >255".to_owned()),
                }
            });
            bad.unwrap_or_else(|| if fields.len() > 4 { "IPv4 address too long" } else { "IPv4 address too short" }.to_owned())
        }
        Some(_) => "unable to parse IP".to_owned(),
    }
}

fn ip(value: &Value<'_>) -> Result<IpAddr, EvalError> {
    match value {
        Value::Ip(ip) => Ok(*ip),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn text<'v>(value: &'v Value<'_>) -> Result<&'v str, EvalError> {
    value.as_str().ok_or_else(EvalError::no_such_overload)
}

fn to_ip<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    parse(text(&args[0])?).map(Value::Ip)
}

fn family<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    ip(&args[0]).map(|ip| Value::Int(if ip.is_ipv4() { 4 } else { 6 }))
}

fn is_canonical<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let text = text(&args[0])?;
    parse(text).map(|ip| Value::Bool(ip.to_string() == text))
}

fn is_unspecified<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    ip(&args[0]).map(|ip| Value::Bool(ip.is_unspecified()))
}

fn is_loopback<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    ip(&args[0]).map(|ip| Value::Bool(ip.is_loopback()))
}

fn is_link_local_multicast<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    ip(&args[0]).map(|ip| {
        Value::Bool(match ip {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
        })
    })
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_link_local_unicast<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    ip(&args[0]).map(|ip| Value::Bool(is_link_local(ip)))
}

fn is_global_unicast<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    ip(&args[0]).map(|ip| {
        let is_special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local(ip);
        Value::Bool(!is_special && ip != IpAddr::V4(Ipv4Addr::BROADCAST))
    })
}

fn is_ip<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(parse(text(&args[0])?).is_ok()))
}

fn to_string<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    ip(&args[0]).map(|ip| Value::string(ip.to_string()))
}
