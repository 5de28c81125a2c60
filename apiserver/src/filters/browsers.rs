//! What browsers are told: which sites' scripts may read answers (CORS), and to come by TLS alone (HSTS).
//!
//! Around everything else, so that refusals tell it too. Without origins and directives nothing is told.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use regex::Regex;

const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE, PATCH");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, If-Modified-Since",
);
const ORIGINS_HELP: &str = r"List of allowed origins for CORS, comma separated. An allowed origin can be a regular expression to support subdomain matching. If this list is empty CORS will not be enabled. Please ensure each expression matches the entire hostname by anchoring to the start with '^' or including the '//' prefix, and by anchoring to the end with '$' or including the ':' port separator suffix. Examples of valid expressions are '//example\.com(:|$)' and '^https://example\.com(:|$)'";

/// A pattern of origins.
pub type Origin = Regex;

/// What the flags say. Field names follow upstream's.
#[derive(Clone, Debug, Default)]
pub struct Browsers {
    /// `--cors-allowed-origins`
    pub cors_allowed_origins: Vec<Origin>,
    /// `--strict-transport-security-directives`
    pub strict_transport_security_directives: Vec<String>,
}

/// An origin's pattern, which must say where its host begins and ends.
pub fn origin(pattern: &str) -> Result<Origin, String> {
    if pattern.is_empty() {
        return Err(format!("empty value in --cors-allowed-origins, help: {ORIGINS_HELP}"));
    }
    let invalid = |why: &str| format!("--cors-allowed-origins has an invalid regular expression: {why}, help: {ORIGINS_HELP}");
    let compiled = Regex::new(pattern).map_err(|error| invalid(&error.to_string()))?;
    let has = |marks: [&str; 2]| marks.into_iter().any(|mark| pattern.contains(mark));
    if !has(["^", "//"]) || !has(["$", ":"]) {
        return Err(invalid("regular expression does not pin to start/end of host in the origin header"));
    }
    Ok(compiled)
}

/// A directive of Strict-Transport-Security.
pub fn directive(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("empty value in strict-transport-security-directives".to_owned());
    }
    let is_age = text.strip_prefix("max-age=").is_some_and(|age| !age.contains('='));
    if !is_age && text != "includeSubDomains" && text != "preload" {
        return Err("--strict-transport-security-directives invalid, allowed values: max-age=expireTime, includeSubDomains, preload. see https://tools.ietf.org/html/rfc6797#section-6.1 for more information".to_owned());
    }
    Ok(text.to_owned())
}

/// What is to be told with the answer to one request.
pub struct Told {
    origin: Option<HeaderValue>,
    security: Option<HeaderValue>,
    /// A browser asks beforehand what it may ask.
    is_question: bool,
}

impl Browsers {
    pub fn told<T>(&self, request: &Request<T>) -> Told {
        let origin = request.headers().get(header::ORIGIN).filter(|origin| {
            let origin = origin.to_str().unwrap_or("");
            !origin.is_empty() && self.cors_allowed_origins.iter().any(|allowed| allowed.is_match(origin))
        });
        let directives = &self.strict_transport_security_directives;
        let security = (!directives.is_empty()).then(|| HeaderValue::from_str(&directives.join("; ")).ok()).flatten();
        Told { is_question: origin.is_some() && request.method() == Method::OPTIONS, origin: origin.cloned(), security }
    }
}

impl Told {
    /// The answer, if nobody else needs to make one.
    pub fn alone(&self) -> Option<Response<Body>> {
        if !self.is_question {
            return None;
        }
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        Some(answer)
    }

    pub fn tell(self, headers: &mut HeaderMap) {
        if let Some(security) = self.security {
            headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(security);
        }
        let Some(origin) = self.origin else { return };
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
            (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Date")),
            (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")),
        ] {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, origin: &str) -> Request<()> {
        let builder = Request::builder().method(method);
        let builder = if origin.is_empty() { builder } else { builder.header(header::ORIGIN, origin) };
        builder.body(()).unwrap()
    }

    #[test]
    fn allowed_origins_are_told_what_they_may_and_are_answered_beforehand() {
        let browsers = Browsers { cors_allowed_origins: vec![origin(r"//example\.com(:|$)").unwrap()], ..Browsers::default() };
        for (method, from, allowed, answered) in [
            (Method::GET, "https://example.com", true, false),
            (Method::OPTIONS, "https://example.com:8443", true, true),
            (Method::OPTIONS, "https://example.com.evil.org", false, false),
            (Method::OPTIONS, "", false, false),
        ] {
            let told = browsers.told(&request(method, from));
            assert_eq!(told.alone().is_some_and(|answer| answer.status() == 204), answered, "{from}");
            let mut headers = HeaderMap::new();
            told.tell(&mut headers);
            let origin = headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
            assert_eq!(origin, allowed.then_some(from));
            assert_eq!(headers.len(), if allowed { 5 } else { 0 });
        }
    }

    #[test]
    fn everybody_is_told_to_come_by_tls() {
        let directives = ["max-age=31536000", "includeSubDomains"].map(|text| directive(text).unwrap()).to_vec();
        let browsers = Browsers { strict_transport_security_directives: directives, ..Browsers::default() };
        let mut headers = HeaderMap::new();
        browsers.told(&request(Method::GET, "")).tell(&mut headers);
        assert_eq!(headers[header::STRICT_TRANSPORT_SECURITY], "max-age=31536000; includeSubDomains");
    }

    #[test]
    fn what_would_let_in_others_is_refused() {
        for pattern in ["", "example.com", "//example.com", "^https://(:", ".*"] {
            assert!(origin(pattern).is_err(), "{pattern}");
        }
        for text in ["", " ", "max-age", "max-age=1=2", "preload=yes"] {
            assert!(directive(text).is_err(), "{text}");
        }
    }
}
