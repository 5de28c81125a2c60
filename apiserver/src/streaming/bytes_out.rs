//! A stream of bytes as the messages of a WebSocket, for clients that can read nothing else (`binary.k8s.io`).

use std::time::Duration;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::web_socket;

const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";
/// Bytes of one message.
const MESSAGE_BYTES: usize = 32 * 1024;
/// The client must have gone by then, once it has everything.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);

/// How bytes become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The subprotocol to agree to; nothing if the client offered none.
    pub protocol: Option<&'static str>,
    as_text: bool,
}

/// The first form that the client offers and we have.
pub fn form(offered: &[&str]) -> Option<Form> {
    if offered.is_empty() {
        return Some(Form { protocol: None, as_text: false });
    }
    offered.iter().find_map(|protocol| match *protocol {
        BINARY => Some(Form { protocol: Some(BINARY), as_text: false }),
        BASE64 => Some(Form { protocol: Some(BASE64), as_text: true }),
        _ => None,
    })
}

fn message(bytes: Bytes, form: Form) -> Message {
    if form.as_text { Message::Text(STANDARD.encode(&bytes).into()) } else { Message::Binary(bytes) }
}

/// Sends an empty message, then the body, then farewell. Ends early when the client goes; what it says is of no interest.
pub async fn send<C: AsyncRead + AsyncWrite + Unpin>(client: WebSocketStream<C>, body: Body, form: Form) {
    let (mut outgoing, mut incoming) = client.split();
    let outwards = async {
        outgoing.send(message(Bytes::new(), form)).await?;
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let mut chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    tracing::debug!(%error, "a stream broke off");
                    break;
                }
            };
            while !chunk.is_empty() {
                outgoing.send(message(chunk.split_to(chunk.len().min(MESSAGE_BYTES)), form)).await?;
            }
        }
        outgoing.send(web_socket::farewell()).await
    };
    let gone = async { while let Some(Ok(_)) = incoming.next().await {} };
    let ended = tokio::select! {
        ended = outwards => ended,
        () = gone => return,
    };
    if let Err(error) = ended {
        return tracing::debug!(%error, "a client took no more of its stream");
    }
    let gone = async { while let Some(Ok(_)) = incoming.next().await {} };
    if tokio::time::timeout(FAREWELL_TIMEOUT, gone).await.is_err() {
        tracing::debug!("a client did not go when its stream had ended");
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[test]
    fn forms_are_chosen_in_the_clients_order() {
        assert_eq!(form(&[]), Some(Form { protocol: None, as_text: false }));
        assert_eq!(form(&["x", BASE64, BINARY]), Some(Form { protocol: Some(BASE64), as_text: true }));
        assert_eq!(form(&["x"]), None);
    }

    async fn sent(form: Form) -> Vec<Message> {
        let (client, ours) = tokio::io::duplex(1 << 16);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let ours = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let sending = tokio::spawn(send(ours, Body::from("alive\n"), form));
        let mut messages = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            messages.push(message);
        }
        sending.await.unwrap();
        messages
    }

    #[tokio::test]
    async fn bytes_arrive_as_messages() {
        let expected = [Message::Binary("".into()), Message::Binary("alive\n".into()), web_socket::farewell()];
        assert_eq!(sent(form(&[BINARY]).unwrap()).await, expected);
        let expected = [Message::Text("".into()), Message::Text("YWxpdmUK".into()), web_socket::farewell()];
        assert_eq!(sent(form(&[BASE64]).unwrap()).await, expected);
    }
}
