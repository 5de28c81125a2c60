//! Bearer tokens of web pages: a browser sets no headers on a WebSocket, so the token comes as one of the protocols that it asks for. Pure.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The token among the protocols, if there is one. An error says that there is one that cannot be read.
pub fn token(headers: &HeaderMap) -> Result<Option<String>, String> {
    let says = |name: HeaderName, word: &str| values(headers, &name).any(|value| value.to_ascii_lowercase().contains(word));
    if !says(CONNECTION, "upgrade") || !says(UPGRADE, "websocket") {
        return Ok(None);
    }
    let mut tokens = protocols(headers).filter_map(|protocol| protocol.strip_prefix(PREFIX));
    let Some(encoded) = tokens.next() else { return Ok(None) };
    if tokens.next().is_some() {
        return Err("multiple base64.bearer.authorization tokens specified".to_owned());
    }
    let decoded = URL_SAFE_NO_PAD.decode(encoded).map_err(|error| error.to_string())?;
    let token = String::from_utf8(decoded).map_err(|_| "invalid base64.bearer.authorization token encoding".to_owned())?;
    if token.is_empty() {
        return Ok(None);
    }
    // One must be left that the server can agree to.
    if protocols(headers).all(|protocol| protocol.starts_with(PREFIX)) {
        return Err("missing additional subprotocol".to_owned());
    }
    Ok(Some(token))
}

/// Takes the token out of the protocols, so that nobody agrees to speak it.
pub fn remove(headers: &mut HeaderMap) {
    if !protocols(headers).any(|protocol| protocol.starts_with(PREFIX)) {
        return;
    }
    let others: Vec<&str> = protocols(headers).filter(|protocol| !protocol.starts_with(PREFIX)).collect();
    let others = HeaderValue::from_str(&others.join(","));
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Ok(others) = others {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, others);
    }
}

fn values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    values(headers, &SEC_WEBSOCKET_PROTOCOL).flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(protocols: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocols).unwrap());
        headers
    }

    #[test]
    fn a_token_stands_among_other_protocols() {
        let encoded = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode("t"));
        assert_eq!(token(&asking("v4.channel.k8s.io")), Ok(None));
        assert_eq!(token(&asking(&format!("{encoded}, v4.channel.k8s.io"))), Ok(Some("t".to_owned())));
        assert_eq!(token(&asking(&encoded)), Err("missing additional subprotocol".to_owned()));
        assert!(token(&asking(&format!("{encoded},{encoded},x"))).is_err());
        assert!(token(&asking(&format!("{PREFIX}?,x"))).is_err());
        let mut headers = asking(&format!("a, {encoded},b"));
        remove(&mut headers);
        assert_eq!(headers.get(SEC_WEBSOCKET_PROTOCOL).unwrap(), "a,b");
        headers.remove(UPGRADE);
        assert_eq!(token(&headers), Ok(None));
    }
}
