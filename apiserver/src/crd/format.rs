//! The formats of strings that upstream checks. A format that is not listed here admits every string.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Whether a text has a format.
pub fn matches(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "byte" => STANDARD.decode(text.replace(['\r', '\n'], "")).is_ok(),
        "date" => is_date(text),
        "datetime" => text.parse::<jiff::Timestamp>().is_ok() && text.contains(['T', 't', ' ']),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "mac" => is_mac(text),
        "duration" => apimachinery::time::parse_duration(text).is_ok(),
        "hexcolor" => is_hex_color(text),
        "uri" => is_uri(text),
        "k8sshortname" => apimachinery::validation::is_dns1123_label(text).is_empty(),
        "k8slongname" => apimachinery::validation::is_dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let Ok(bits) = bits.parse::<u8>() else { return false };
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => bits <= 32,
        Ok(std::net::IpAddr::V6(_)) => bits <= 128,
        Err(_) => false,
    }
}

/// Dashes may be left out, as upstream's expressions allow.
fn is_uuid(text: &str, version: Option<char>) -> bool {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    digits.len() == 32 && digits.chars().all(|c| c.is_ascii_hexdigit()) && version.is_none_or(|v| digits.chars().nth(12) == Some(v))
}

fn is_mac(text: &str) -> bool {
    let separator = if text.contains('-') { '-' } else { ':' };
    let parts: Vec<&str> = text.split(separator).collect();
    matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|p| p.len() == 2 && p.chars().all(|c| c.is_ascii_hexdigit()))
}

fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && digits.chars().all(|c| c.is_ascii_hexdigit())
}

/// An absolute URI, or an absolute path, as Go's `url.ParseRequestURI` takes it.
fn is_uri(text: &str) -> bool {
    text.starts_with('/') || text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some()) || is_opaque(text)
}

/// `scheme:something`.
fn is_opaque(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
            && rest.starts_with('/')
            && !rest.contains(char::is_whitespace)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_admit_what_upstream_admits() {
        let table = [
            ("date-time", "2020-01-01T00:00:00Z", true),
            ("date-time", "yesterday", false),
            ("ipv4", "300.1.1.1", false),
            ("ipv4", "10.1.1.1", true),
            ("byte", "!!", false),
            ("byte", "YQ==", true),
            ("uuid4", "6ba7b810-9dad-41d1-80b4-00c04fd430c8", true),
            ("uuid4", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", false),
            ("cidr", "10.0.0.0/33", false),
            ("date", "2020-02-30", false),
            ("uri", "https://example.com/x", true),
            ("uri", "no uri", false),
            ("unheard-of", "x", true),
        ];
        for (format, text, expected) in table {
            assert_eq!(matches(format, text), expected, "{format} {text}");
        }
    }
}
