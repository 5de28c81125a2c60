//! The server's side of a WebSocket: what a client asks for, the answer that agrees, and the socket.

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// The longest message that is taken, as upstream's library takes.
const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// What RFC 6455 has appended to the key.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A socket.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The subprotocols that a client offers, in its order; nothing if it asks for no WebSocket.
pub fn offered(headers: &HeaderMap) -> Option<Vec<&str>> {
    let is = |name: &header::HeaderName, wanted: &str| {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|text| text.to_ascii_lowercase().contains(wanted))
    };
    if !is(&header::CONNECTION, "upgrade") || !headers.get(header::UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return None;
    }
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    Some(lists.flat_map(|list| list.split(',')).map(str::trim).filter(|protocol| !protocol.is_empty()).collect())
}

/// The answer that agrees to a WebSocket; nothing if the request's handshake is none.
pub fn agreement(headers: &HeaderMap, protocol: Option<&str>) -> Option<Response<Body>> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    if headers.get(header::SEC_WEBSOCKET_VERSION)?.as_bytes() != b"13" {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept(key)).ok()?);
    if let Some(protocol) = protocol {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocol).ok()?);
    }
    Some(response)
}

fn accept(key: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{KEY_SUFFIX}").as_bytes());
    STANDARD.encode(digest.as_ref())
}

/// The last message of a socket that has served its purpose: clients take any other end for a failure.
pub fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// The socket, once the client has the answer.
pub async fn open(upgrade: OnUpgrade) -> Result<Socket, hyper::Error> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES)).max_frame_size(Some(MAX_MESSAGE_BYTES));
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgrade.await?), Role::Server, Some(config)).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn offers_are_read() {
        let asked = [
            (header::CONNECTION, "keep-alive, Upgrade"),
            (header::UPGRADE, "WebSocket"),
            (header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io, v4.channel.k8s.io"),
        ];
        assert_eq!(offered(&headers(&asked)), Some(vec!["v5.channel.k8s.io", "v4.channel.k8s.io"]));
        assert_eq!(offered(&headers(&asked[..2])), Some(vec![]));
        assert_eq!(offered(&headers(&asked[1..])), None);
        assert_eq!(offered(&headers(&[(header::CONNECTION, "Upgrade"), (header::UPGRADE, "SPDY/3.1")])), None);
    }

    #[test]
    fn a_handshake_is_answered_as_the_standard_has_it() {
        let asked = [(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="), (header::SEC_WEBSOCKET_VERSION, "13")];
        let response = agreement(&headers(&asked), Some("v5.channel.k8s.io")).unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()[header::SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        assert!(agreement(&headers(&asked[..1]), None).is_none());
    }
}
