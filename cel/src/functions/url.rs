//! URLs, as Go's `net/url` takes them apart.

use std::sync::Arc;

use super::Row;
use crate::value::{Entries, EvalError, Evaluated, Map, Value};

pub(super) const ROWS: &[Row] = &[
    ("url", "string_to_url", "(string) -> kubernetes.URL", to_url),
    ("getScheme", "url_get_scheme", "kubernetes.URL.() -> string", scheme),
    ("getHost", "url_get_host", "kubernetes.URL.() -> string", host),
    ("getHostname", "url_get_hostname", "kubernetes.URL.() -> string", hostname),
    ("getPort", "url_get_port", "kubernetes.URL.() -> string", port),
    ("getEscapedPath", "url_get_escaped_path", "kubernetes.URL.() -> string", escaped_path),
    ("getQuery", "url_get_query", "kubernetes.URL.() -> map(string, list(string))", query),
    ("isURL", "is_url_string", "(string) -> bool", is_url),
];

/// A URL and its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub(crate) text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

/// Parses an absolute URL or an absolute path; a fragment is not looked for. The error is Go's.
pub(super) fn parse_request_uri(text: &str) -> Result<Url, String> {
    parse(text, true).map_err(|why| format!("parse {text:?}: {why}"))
}

fn parse(text: &str, via_request: bool) -> Result<Url, String> {
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text.is_empty() {
        return Err(if via_request { "empty url" } else { "" }.to_owned());
    }
    let (text_without_fragment, _) = if via_request { (text, "") } else { text.split_once('#').unwrap_or((text, "")) };
    let (scheme, rest) = split_scheme(text_without_fragment)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut url =
        Url { text: text.to_owned(), scheme: scheme.to_lowercase(), host: String::new(), path: String::new(), query: query.to_owned() };
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            return Ok(url);
        }
        if via_request {
            return Err("invalid URI for request".to_owned());
        }
    }
    let mut path = rest;
    if (!scheme.is_empty() || (!via_request && !rest.starts_with("///"))) && rest.starts_with("//") {
        let authority_and_path = &rest[2..];
        let at = authority_and_path.find('/').unwrap_or(authority_and_path.len());
        url.host = authority(&authority_and_path[..at])?;
        path = &authority_and_path[at..];
    }
    check_escapes(path)?;
    url.path = path.to_owned();
    Ok(url)
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

/// The host with its port; who logs in is dropped.
fn authority(text: &str) -> Result<String, String> {
    let host = match text.rfind('@') {
        Some(at) => {
            let user = &text[..at];
            let is_user = user.chars().all(|c| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c));
            if !is_user {
                return Err("net/url: invalid userinfo".to_owned());
            }
            &text[at + 1..]
        }
        None => text,
    };
    if let Some(rest) = host.strip_prefix('[') {
        let Some(end) = rest.rfind(']') else { return Err("missing ']' in host".to_owned()) };
        check_port(&rest[end + 1..])?;
    } else if let Some(at) = host.rfind(':') {
        check_port(&host[at..])?;
    }
    if let Some(c) = host.chars().find(|c| matches!(c, ' ' | '"' | '\\' | '^' | '`' | '{' | '|' | '}' | '<' | '>')) {
        return Err(format!("invalid character {:?} in host name", c.to_string()));
    }
    check_escapes(host)?;
    Ok(host.to_owned())
}

fn check_port(text: &str) -> Result<(), String> {
    match text.strip_prefix(':') {
        None if text.is_empty() => Ok(()),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(()),
        _ => Err(format!("invalid port {text:?} after host")),
    }
}

fn check_escapes(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let digits: String = rest[at..].chars().take(3).collect();
        if digits.len() < 3 || !digits[1..].bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("invalid URL escape {digits:?}"));
        }
        rest = &rest[at + 3..];
    }
    Ok(())
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            other => out.push(other),
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

fn url<'v>(value: &'v Value<'_>) -> Result<&'v Url, EvalError> {
    match value {
        Value::Url(url) => Ok(url),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_url<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let text = args[0].as_str().ok_or_else(EvalError::no_such_overload)?;
    let parsed = parse_request_uri(text).and_then(|_| parse(text, false));
    parsed
        .map(|url| Value::Url(Arc::new(url)))
        .map_err(|why| EvalError::new(format!("URL parse error during conversion from string: {why}")))
}

fn is_url<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(args[0].as_str().is_some_and(|text| parse_request_uri(text).is_ok())))
}

fn scheme<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    url(&args[0]).map(|url| Value::string(url.scheme.as_str()))
}

fn host<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    url(&args[0]).map(|url| Value::string(url.host.as_str()))
}

/// Host and port of `host:port`, `[v6]:port` and the like.
fn split_host(host: &str) -> (&str, &str) {
    if let Some(rest) = host.strip_prefix('[')
        && let Some((inner, after)) = rest.split_once(']')
    {
        return (inner, after.strip_prefix(':').unwrap_or(""));
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

fn hostname<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    url(&args[0]).map(|url| Value::string(split_host(&url.host).0))
}

fn port<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    url(&args[0]).map(|url| Value::string(split_host(&url.host).1))
}

/// The path as it is written, if it may be written so, and escaped otherwise.
fn escaped_path<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let path = &url(&args[0])?.path;
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c.is_ascii_alphanumeric() || "-_.~$&+,/:;=@!'()*%[]".contains(c) {
            out.push(c);
        } else {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| out.push_str(&format!("%{byte:02X}")));
        }
    }
    Ok(Value::string(out))
}

fn query<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let mut found: Vec<(String, Vec<Value<'a>>)> = Vec::new();
    for pair in url(&args[0])?.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(key), Some(value)) = (decode(key), decode(value)) else { continue };
        match found.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(Value::string(value)),
            None => found.push((key, vec![Value::string(value)])),
        }
    }
    let mut entries = Entries::default();
    for (key, values) in found {
        entries.insert(Value::string(key), Value::list(values));
    }
    Ok(Value::Map(Map::Owned(Arc::new(entries))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found() {
        let url = parse("https://user@example.com:80/a%20b?x=1#frag", false).unwrap();
        assert_eq!((&*url.scheme, &*url.host, &*url.path, &*url.query), ("https", "example.com:80", "/a%20b", "x=1"));
        assert_eq!(parse_request_uri("../x"), Err("parse \"../x\": invalid URI for request".to_owned()));
        assert_eq!(parse_request_uri("http://a b/").unwrap_err(), "parse \"http://a b/\": invalid character \" \" in host name");
        assert!(parse_request_uri("/abs").is_ok());
    }
}
