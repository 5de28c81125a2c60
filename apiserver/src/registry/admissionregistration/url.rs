//! URLs as upstream reads them, and what it says about those that it cannot read.
//!
//! Follows Go's parser where a URL's parts or its errors show in answers; it is no general URL library.

use apimachinery::field::quote;

/// The parts of a URL, unescaped where Go shows them so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Url {
    /// In lower case.
    pub scheme: String,
    /// `name` or `name:password`.
    pub user: Option<String>,
    pub host: String,
    pub query: String,
    pub fragment: String,
}

impl Url {
    /// Reads a URL or a reference; the error is worded as clients see it.
    pub fn parse(text: &str) -> Result<Url, String> {
        let (base, fragment) = text.split_once('#').unwrap_or((text, ""));
        let fail = |shown: &str, problem: String| format!("parse {}: {problem}", quote(shown));
        let mut url = parse(base, false).map_err(|problem| fail(base, problem))?;
        url.fragment = unescape(fragment).map_err(|problem| fail(text, problem))?;
        Ok(url)
    }

    /// Reads a URL as it stands in a request: absolute, or a path.
    pub fn parse_request(text: &str) -> Result<Url, String> {
        parse(text, true).map_err(|problem| format!("parse {}: {problem}", quote(text)))
    }
}

fn parse(text: &str, in_request: bool) -> Result<Url, String> {
    if text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text.is_empty() && in_request {
        return Err("empty url".to_owned());
    }
    let mut url = Url::default();
    if text == "*" {
        return Ok(url);
    }
    let (scheme, rest) = split_scheme(text)?;
    url.scheme = scheme.to_ascii_lowercase();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    query.clone_into(&mut url.query);
    let mut path = rest;
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            // Opaque: `mailto:a@b`.
            return Ok(url);
        }
        if in_request {
            return Err("invalid URI for request".to_owned());
        }
        if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    if (!url.scheme.is_empty() || !in_request && !rest.starts_with("///"))
        && let Some(after) = rest.strip_prefix("//")
    {
        let end = after.find('/').unwrap_or(after.len());
        let (authority, after) = after.split_at(end);
        (url.user, url.host) = parse_authority(authority)?;
        path = after;
    }
    unescape(path)?;
    Ok(url)
}

/// The scheme, if the text starts with one, and what follows its colon.
fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..i], &text[i + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn parse_authority(authority: &str) -> Result<(Option<String>, String), String> {
    let Some((user, host)) = authority.rsplit_once('@') else { return Ok((None, parse_host(authority)?)) };
    let host = parse_host(host)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
    if !user.bytes().all(allowed) {
        return Err("net/url: invalid userinfo".to_owned());
    }
    unescape(user)?;
    Ok((Some(user.to_owned()), host))
}

fn parse_host(host: &str) -> Result<String, String> {
    let port = if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        &host[end + 1..]
    } else {
        host.rfind(':').map_or("", |colon| &host[colon..])
    };
    let digits = port.strip_prefix(':');
    if !port.is_empty() && !digits.is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("invalid port {} after host", quote(port)));
    }
    if let Some(bad) = host.chars().find(|c| c.is_ascii() && !(c.is_ascii_alphanumeric() || "-_.~$&+=:!'()*,;[]<>\"%".contains(*c))) {
        return Err(format!("invalid character {} in host name", quote(&bad.to_string())));
    }
    unescape(host)
}

/// Percent-decodes; what is no UTF-8 afterwards is replaced.
fn unescape(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] != b'%' {
            out.push(bytes[i]);
            i += 1;
            continue;
        }
        let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        let (Some(high), Some(low)) = (digit(i + 1), digit(i + 2)) else {
            let shown = String::from_utf8_lossy(&bytes[i..bytes.len().min(i + 3)]).into_owned();
            return Err(format!("invalid URL escape {}", quote(&shown)));
        };
        // Two hexadecimal digits fit a byte.
        out.push((high * 16 + low) as u8);
        i += 3;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let url = Url::parse("HTTPS://u:p@host:1/a%20b?q=1#f").unwrap();
        assert_eq!((url.scheme.as_str(), url.host.as_str(), url.user.as_deref()), ("https", "host:1", Some("u:p")));
        assert_eq!((url.query.as_str(), url.fragment.as_str()), ("q=1", "f"));
        assert_eq!(Url::parse("host/path").unwrap().host, "");
        assert_eq!(Url::parse("//host/path").unwrap().host, "host");
    }

    #[test]
    fn what_cannot_be_read_is_said_as_go_says_it() {
        let error = |text: &str| Url::parse(text).unwrap_err();
        assert_eq!(error(":a"), "parse \":a\": missing protocol scheme");
        assert_eq!(error("1:2"), "parse \"1:2\": first path segment in URL cannot contain colon");
        assert_eq!(error("https://h:x/"), "parse \"https://h:x/\": invalid port \":x\" after host");
        assert_eq!(error("https://a b/"), "parse \"https://a b/\": invalid character \" \" in host name");
        assert_eq!(error("https://h/%zz"), "parse \"https://h/%zz\": invalid URL escape \"%zz\"");
        assert_eq!(Url::parse_request("a").unwrap_err(), "parse \"a\": invalid URI for request");
    }
}
