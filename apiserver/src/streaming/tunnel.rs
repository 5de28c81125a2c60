//! SPDY inside a WebSocket, as port forwarding uses it: the messages are unwrapped, what is in them goes on to a SPDY server as it is.

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::web_socket;

/// What precedes the name of a protocol over SPDY in that of one over a WebSocket.
const PREFIX: &str = "SPDY/3.1+";
/// Bytes of one message.
const MESSAGE_BYTES: usize = 32 * 1024;

/// How a protocol over SPDY is negotiated.
pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// The protocols over SPDY among the subprotocols of a WebSocket.
pub fn spdy_protocols<'a>(offered: &[&'a str]) -> Vec<&'a str> {
    offered.iter().filter(|protocol| protocol.ends_with(".k8s.io")).filter_map(|protocol| protocol.strip_prefix(PREFIX)).collect()
}

/// Turns the headers of a request for a WebSocket into those of one for SPDY.
pub fn ask_for_spdy(headers: &mut HeaderMap, protocols: &[&str]) {
    let web_socket =
        [header::SEC_WEBSOCKET_PROTOCOL, header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_VERSION, header::SEC_WEBSOCKET_EXTENSIONS];
    for name in web_socket.into_iter().chain([header::CONTENT_LENGTH, PROTOCOL_VERSION]) {
        headers.remove(name);
    }
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    for protocol in protocols.iter().filter_map(|protocol| HeaderValue::from_str(protocol).ok()) {
        headers.append(PROTOCOL_VERSION, protocol);
    }
}

/// Whether an answer agrees to SPDY.
pub fn agrees_to_spdy(headers: &HeaderMap) -> bool {
    let says = |name: HeaderName, word: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|text| text.to_ascii_lowercase().contains(word))
    };
    says(header::CONNECTION, "upgrade") && says(header::UPGRADE, "spdy/3.1")
}

/// The subprotocol that tells the client what the SPDY server has chosen.
pub fn chosen(headers: &HeaderMap) -> Option<String> {
    let protocol = headers.get(PROTOCOL_VERSION)?.to_str().ok()?.trim();
    (!protocol.is_empty()).then(|| format!("{PREFIX}{protocol}"))
}

/// Carries bytes between the messages of a WebSocket and a connection until either ends.
pub async fn carry<C, B>(client: WebSocketStream<C>, backend: B)
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite,
{
    let (mut messages_out, mut messages_in) = client.split();
    let (mut backend_read, mut backend_write) = tokio::io::split(backend);
    let inwards = async {
        while let Some(message) = messages_in.next().await {
            match message {
                Ok(Message::Binary(bytes)) => backend_write.write_all(&bytes).await.map_err(|e| e.to_string())?,
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(_)) => return Ok(()),
                Ok(Message::Text(_)) => return Err("invalid message type received".to_owned()),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    };
    let outwards = async {
        loop {
            let mut bytes = BytesMut::with_capacity(MESSAGE_BYTES);
            let read = backend_read.read_buf(&mut bytes).await.map_err(|e| e.to_string())?;
            if read == 0 {
                return Ok(());
            }
            messages_out.send(Message::Binary(bytes.freeze())).await.map_err(|e| e.to_string())?;
        }
    };
    let ended: Result<(), String> = tokio::select! {
        ended = inwards => ended,
        ended = outwards => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a tunnel ended");
    }
    // Without a code clients take the end for a failure.
    let farewell = messages_out.send(web_socket::farewell()).await;
    for ended in [
        farewell.map_err(|e| e.to_string()),
        messages_out.close().await.map_err(|e| e.to_string()),
        backend_write.shutdown().await.map_err(|e| e.to_string()),
    ] {
        if let Err(error) = ended {
            tracing::debug!(error, "a tunnel was closed already");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[test]
    fn requests_are_turned_into_those_for_spdy() {
        assert_eq!(spdy_protocols(&["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io", "SPDY/3.1+x"]), ["portforward.k8s.io"]);
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("x"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        ask_for_spdy(&mut headers, &["portforward.k8s.io"]);
        assert!(!headers.contains_key(header::SEC_WEBSOCKET_KEY));
        assert!(agrees_to_spdy(&headers));
        assert_eq!(chosen(&headers).as_deref(), Some("SPDY/3.1+portforward.k8s.io"));
        assert_eq!(chosen(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn bytes_pass_through_messages() {
        let (client, ours) = tokio::io::duplex(1 << 16);
        let (mut backend, theirs) = tokio::io::duplex(1 << 16);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let ours = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let tunnel = tokio::spawn(carry(ours, theirs));
        client.send(Message::Binary("up".into())).await.unwrap();
        let mut bytes = [0; 2];
        backend.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"up");
        backend.write_all(b"down").await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary("down".into()));
        drop(backend);
        assert_eq!(client.next().await.unwrap().unwrap(), web_socket::farewell());
        tunnel.await.unwrap();
    }
}
