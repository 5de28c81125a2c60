//! Ranges of IP addresses.

use std::fmt;
use std::net::IpAddr;

use super::{Row, ip};
use crate::value::{EvalError, Evaluated, Value};

pub(super) const ROWS: &[Row] = &[
    ("cidr", "string_to_cidr", "(string) -> net.CIDR", to_cidr),
    ("containsIP", "cidr_contains_ip_string", "net.CIDR.(string) -> bool", contains_ip),
    ("containsIP", "cidr_contains_ip_ip", "net.CIDR.(net.IP) -> bool", contains_ip),
    ("containsCIDR", "cidr_contains_cidr_string", "net.CIDR.(string) -> bool", contains_cidr),
    ("containsCIDR", "cidr_contains_cidr", "net.CIDR.(net.CIDR) -> bool", contains_cidr),
    ("ip", "cidr_ip", "net.CIDR.() -> net.IP", address),
    ("prefixLength", "cidr_prefix_length", "net.CIDR.() -> int", prefix_length),
    ("masked", "cidr_masked", "net.CIDR.() -> net.CIDR", masked),
    ("isCIDR", "is_cidr", "(string) -> bool", is_cidr),
    ("string", "cidr_to_string", "(net.CIDR) -> string", to_string),
];

/// An address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub bits: u32,
}

impl Cidr {
    /// The error is upstream's.
    fn parse(text: &str) -> Result<Cidr, EvalError> {
        let failed = |why: &str| {
            EvalError::new(format!("network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}"))
        };
        let Some((address, bits)) = text.rsplit_once('/') else { return Err(failed("no '/'")) };
        let parsed: Result<IpAddr, _> = address.parse();
        let address = parsed.map_err(|_| failed(&format!("ParseAddr({address:?}): {}", ip::unparsed(address))))?;
        let is_plain = bits.bytes().all(|b| b.is_ascii_digit()) && !bits.is_empty() && (bits.len() == 1 || !bits.starts_with('0'));
        let count: Option<u32> = is_plain.then(|| bits.parse().ok()).flatten();
        let Some(count) = count else { return Err(failed(&format!("bad bits after slash: {bits:?}"))) };
        let most = if address.is_ipv4() { 32 } else { 128 };
        if count > most {
            return Err(failed("prefix length out of range"));
        }
        match address {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
            }
            address => Ok(Cidr { address, bits: count }),
        }
    }

    fn masked(self) -> Cidr {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        Cidr { address, bits: self.bits }
    }

    fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.address.is_ipv4() && Cidr { address: ip, bits: self.bits }.masked() == self.masked()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

fn cidr(value: &Value<'_>) -> Result<Cidr, EvalError> {
    match value {
        Value::Cidr(cidr) => Ok(*cidr),
        Value::String(text) => Cidr::parse(text)
            .map_err(|error| EvalError::new(format!("network address parse error during conversion from string: {}", error.message))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_cidr<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    cidr(&args[0]).map(Value::Cidr)
}

fn contains_ip<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let other = match &args[1] {
        Value::Ip(ip) => *ip,
        // An address that is none is not within, and upstream says so by the missing overload.
        Value::String(text) => ip::parse(text).map_err(|_| EvalError::no_such_overload())?,
        _ => return Err(EvalError::no_such_overload()),
    };
    cidr(&args[0]).map(|cidr| Value::Bool(cidr.contains(other)))
}

fn contains_cidr<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (outer, inner) = (cidr(&args[0])?, cidr(&args[1])?);
    Ok(Value::Bool(outer.bits <= inner.bits && outer.contains(inner.address)))
}

fn address<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    cidr(&args[0]).map(|cidr| Value::Ip(cidr.address))
}

fn prefix_length<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    cidr(&args[0]).map(|cidr| Value::Int(cidr.bits.into()))
}

fn masked<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    cidr(&args[0]).map(|cidr| Value::Cidr(cidr.masked()))
}

fn is_cidr<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(args[0].as_str().is_some_and(|text| Cidr::parse(text).is_ok())))
}

fn to_string<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    cidr(&args[0]).map(|cidr| Value::string(cidr.to_string()))
}
