//! exec and attach: channels of a WebSocket (`v5.channel.k8s.io`) become streams of a SPDY connection.
//!
//! The first byte of a message names its channel: 0 stdin, 1 stdout, 2 stderr, 3 the outcome, 4 the terminal's size; 255 says that
//! the channel named by the second byte has ended.

use std::time::Duration;

use apimachinery::status::{Cause, Details, Status};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use super::spdy::{self, Connection, Reader, Writer};
use super::web_socket;

/// The subprotocol that is translated. Older ones are what runtimes speak themselves.
pub const PROTOCOL: &str = "v5.channel.k8s.io";
/// What is offered to the SPDY server, best first.
pub const SPDY_PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTCOME: u8 = 3;
const RESIZE: u8 = 4;
const END_OF_CHANNEL: u8 = 255;

/// A client that says nothing for so long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 60 * 60);
/// The client must have taken the outcome, and gone, by then.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// What the other side says of the outcome.
const MAX_OUTCOME_BYTES: usize = 1 << 20;

/// Which streams are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// How the outcome is told, which differs between versions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    Text,
    Status,
}

/// A connection to the SPDY server and the protocol that it chose.
pub struct Backend {
    pub connection: Connection,
    pub protocol: String,
}

/// Why a command has no good end.
#[derive(Debug)]
enum Failure {
    /// It ended by itself, with this code.
    ExitCode(u8),
    Other(String),
}

/// Translates until the command has ended, tells its outcome, and closes the socket. `connect` is called once the client knows
/// that it is connected.
pub async fn translate<C>(client: WebSocketStream<C>, streams: Streams, connect: impl Future<Output = Result<Backend, String>>)
where
    C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut outgoing, mut incoming) = client.split();
    // An empty message on the first channel that has any says that the connection stands.
    let first = match streams {
        Streams { stdout: true, .. } => STDOUT,
        Streams { stderr: true, .. } => STDERR,
        _ => OUTCOME,
    };
    if let Err(error) = outgoing.send(message(first, &[])).await {
        return tracing::debug!(%error, "a client was gone before its command began");
    }
    let outcome = match connect.await {
        Ok(backend) => run(&mut outgoing, &mut incoming, streams, backend).await,
        Err(why) => Some(Err(Failure::Other(why))),
    };
    let farewell = async {
        if let Some(outcome) = outcome {
            outgoing.send(message(OUTCOME, told(&outcome).to_string().as_bytes())).await?;
        }
        outgoing.send(web_socket::farewell()).await?;
        // What the client still sends is for nobody, but closing on it would reset the connection, and the outcome could be lost.
        while let Some(Ok(_)) = incoming.next().await {}
        Ok::<_, tungstenite::Error>(())
    };
    match tokio::time::timeout(OUTCOME_TIMEOUT, farewell).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client was gone before its command's outcome"),
        Err(_) => tracing::debug!("a client did not go when its command's outcome was told"),
    }
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut out = BytesMut::with_capacity(bytes.len() + 1);
    out.put_u8(channel);
    out.put_slice(bytes);
    Message::Binary(out.freeze())
}

/// The outcome; nothing if the client has gone before.
async fn run(
    outgoing: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
    incoming: impl Stream<Item = tungstenite::Result<Message>> + Unpin,
    streams: Streams,
    mut backend: Backend,
) -> Option<Result<(), Failure>> {
    let opened = open(&mut backend.connection, streams).await;
    let Opened { outcome, stdin, stdout, stderr, resize } = match opened {
        Ok(opened) => opened,
        Err(error) => {
            backend.connection.close().await;
            return Some(Err(Failure::Other(error.to_string())));
        }
    };
    let telling = match backend.protocol.as_str() {
        "v5.channel.k8s.io" | "v4.channel.k8s.io" => Telling::Status,
        _ => Telling::Text,
    };
    let outwards = async { tokio::join!(copy_outputs(outgoing, stdout, stderr), read_whole(outcome)) };
    let ended = tokio::select! {
        // All that was said, before anything else.
        biased;
        (copied, told) = outwards => match copied {
            Ok(()) => Some(decode(&told, telling)),
            Err(error) => {
                tracing::debug!(%error, "a client took no more of its command's output");
                None
            }
        },
        () = copy_inputs(incoming, stdin, resize) => None,
    };
    backend.connection.close().await;
    ended
}

struct Opened {
    outcome: Reader,
    stdin: Option<(Reader, Writer)>,
    stdout: Option<Reader>,
    stderr: Option<Reader>,
    resize: Option<Writer>,
}

/// Opens the streams in the order in which servers expect them.
async fn open(connection: &mut Connection, streams: Streams) -> Result<Opened, spdy::Error> {
    let (outcome, _) = connection.open(&[("streamType", "error")]).await?;
    let mut opened = Opened { outcome, stdin: None, stdout: None, stderr: None, resize: None };
    if streams.stdin {
        opened.stdin = Some(connection.open(&[("streamType", "stdin")]).await?);
    }
    if streams.stdout {
        opened.stdout = Some(connection.open(&[("streamType", "stdout")]).await?.0);
    }
    // A terminal has one output only.
    if streams.stderr && !streams.tty {
        opened.stderr = Some(connection.open(&[("streamType", "stderr")]).await?.0);
    }
    if streams.tty {
        opened.resize = Some(connection.open(&[("streamType", "resize")]).await?.1);
    }
    Ok(opened)
}

/// Until both outputs have ended.
async fn copy_outputs(
    outgoing: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin),
    mut stdout: Option<Reader>,
    mut stderr: Option<Reader>,
) -> Result<(), tungstenite::Error> {
    async fn next(reader: &mut Option<Reader>) -> Option<Bytes> {
        reader.as_mut()?.next().await
    }
    while stdout.is_some() || stderr.is_some() {
        let (channel, chunk) = tokio::select! {
            chunk = next(&mut stdout), if stdout.is_some() => (STDOUT, chunk),
            chunk = next(&mut stderr), if stderr.is_some() => (STDERR, chunk),
        };
        match chunk {
            Some(chunk) => outgoing.send(message(channel, &chunk)).await?,
            None if channel == STDOUT => stdout = None,
            None => stderr = None,
        }
    }
    Ok(())
}

async fn read_whole(mut reader: Reader) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(chunk) = reader.next().await {
        let room = MAX_OUTCOME_BYTES - whole.len();
        whole.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    whole
}

/// What a message of a client asks for.
#[derive(Debug, PartialEq, Eq)]
enum Input {
    Stdin(Bytes),
    EndOfStdin,
    Resize(Bytes),
    Nothing,
    /// The client does not speak the protocol.
    Nonsense,
}

fn input(bytes: &Bytes) -> Input {
    match bytes.as_ref() {
        [END_OF_CHANNEL, STDIN] => Input::EndOfStdin,
        [END_OF_CHANNEL, channel] if *channel <= RESIZE => Input::Nothing,
        [END_OF_CHANNEL, ..] => Input::Nonsense,
        [STDIN, _, ..] => Input::Stdin(bytes.slice(1..)),
        [RESIZE, _, ..] => Input::Resize(bytes.slice(1..)),
        _ => Input::Nothing,
    }
}

/// Until the client has gone.
async fn copy_inputs(
    mut incoming: impl Stream<Item = tungstenite::Result<Message>> + Unpin,
    stdin: Option<(Reader, Writer)>,
    resize: Option<Writer>,
) {
    let (mut echo, mut stdin) = stdin.unzip();
    loop {
        let message = tokio::select! {
            message = tokio::time::timeout(IDLE_TIMEOUT, incoming.next()) => message,
            // The command has closed its stdin: the other half is closed too, and what still comes is for nobody.
            () = ended(&mut echo), if echo.is_some() => {
                echo = None;
                finish(stdin.take()).await;
                continue;
            }
        };
        let bytes = match message {
            Ok(Some(Ok(Message::Binary(bytes)))) => bytes,
            Ok(Some(Ok(Message::Text(text)))) => text.into(),
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => continue,
            Ok(Some(Ok(Message::Close(_))) | None) => return,
            Ok(Some(Err(error))) => return tracing::debug!(%error, "a client of a command is lost"),
            Err(_) => return tracing::debug!("a client of a command was idle for too long"),
        };
        let written = match input(&bytes) {
            Input::Stdin(bytes) => match &stdin {
                Some(stdin) => stdin.write(bytes).await,
                None => Ok(()),
            },
            Input::EndOfStdin => {
                finish(stdin.take()).await;
                Ok(())
            }
            Input::Resize(bytes) => match &resize {
                Some(resize) => resize.write(bytes).await,
                None => Ok(()),
            },
            Input::Nothing => Ok(()),
            Input::Nonsense => return tracing::debug!("a client of a command does not speak the protocol"),
        };
        if let Err(error) = written {
            // What the command said last is still on its way to the client.
            tracing::debug!(%error, "a command takes no more input");
            stdin = None;
        }
    }
}

/// Waits until a stream on which nothing is sent to us has ended.
async fn ended(echo: &mut Option<Reader>) {
    if let Some(echo) = echo {
        while echo.next().await.is_some() {}
    }
}

async fn finish(stdin: Option<Writer>) {
    if let Some(stdin) = stdin
        && let Err(error) = stdin.finish().await
    {
        tracing::debug!(%error, "a command was gone before its input ended");
    }
}

/// The outcome in the words of the other side.
fn decode(told: &[u8], telling: Telling) -> Result<(), Failure> {
    let other = |why: String| Err(Failure::Other(why));
    if told.is_empty() {
        return Ok(());
    }
    if telling == Telling::Text {
        return other(format!("error executing remote command: {}", String::from_utf8_lossy(told)));
    }
    let status: Value = match serde_json::from_slice(told) {
        Ok(status) => status,
        Err(error) => return other(format!("error stream protocol error: {error} in {:?}", String::from_utf8_lossy(told))),
    };
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    match (text("/status"), text("/reason")) {
        ("Success", _) => Ok(()),
        ("Failure", "NonZeroExitCode") => {
            let Some(details) = status.get("details") else { return other("error stream protocol error: details must be set".to_owned()) };
            let causes = details.get("causes").and_then(Value::as_array);
            let Some(code) = causes.into_iter().flatten().find(|cause| cause.get("reason").is_some_and(|reason| reason == "ExitCode"))
            else {
                return other("error stream protocol error: no ExitCode cause given".to_owned());
            };
            let code = code.get("message").and_then(Value::as_str).unwrap_or("");
            match code.parse() {
                Ok(code) => Err(Failure::ExitCode(code)),
                Err(_) => other(format!("error stream protocol error: invalid exit code value {code:?}")),
            }
        }
        ("Failure", _) => other(text("/message").to_owned()),
        _ => other("error stream protocol error: unknown error".to_owned()),
    }
}

/// The outcome as clients of the WebSocket are told it: a Status that does not call itself one.
fn told(outcome: &Result<(), Failure>) -> Value {
    let status = match outcome {
        Ok(()) => Status::success(None),
        Err(Failure::Other(why)) => Status::internal_error(why),
        Err(Failure::ExitCode(code)) => Status {
            reason: "NonZeroExitCode".into(),
            message: format!("command terminated with non-zero exit code: command terminated with exit code {code}"),
            details: Some(Details {
                causes: vec![Cause { reason: "ExitCode".to_owned(), message: code.to_string(), ..Cause::default() }],
                ..Details::default()
            }),
            ..Status::default()
        },
    };
    let mut value = status.to_value();
    if let Some(fields) = value.as_object_mut() {
        fields.shift_remove("kind");
        fields.shift_remove("apiVersion");
        if outcome.is_err() {
            // An exit code is a failure that has no HTTP status.
            fields.insert("status".to_owned(), "Failure".into());
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_name_their_channels() {
        let check = |bytes: &'static [u8], expected: Input| assert_eq!(input(&Bytes::from_static(bytes)), expected, "{bytes:?}");
        check(b"\0abc", Input::Stdin(Bytes::from_static(b"abc")));
        check(b"\0", Input::Nothing);
        check(b"", Input::Nothing);
        check(b"\x04{}", Input::Resize(Bytes::from_static(b"{}")));
        check(b"\x01x", Input::Nothing);
        check(b"\xff\0", Input::EndOfStdin);
        check(b"\xff\x04", Input::Nothing);
        check(b"\xff\x09", Input::Nonsense);
        check(b"\xff", Input::Nonsense);
    }

    #[test]
    fn outcomes_are_told_as_upstream_tells_them() {
        let tell = |status: Value| told(&decode(status.to_string().as_bytes(), Telling::Status));
        assert_eq!(tell(json!({"status": "Success"})), json!({"metadata": {}, "status": "Success"}));
        let exit =
            json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
        assert_eq!(
            tell(exit),
            json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": "command terminated with non-zero exit code: command terminated with exit code 3",
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
            })
        );
        let failed = tell(json!({"status": "Failure", "message": "no such container"}));
        assert_eq!(failed["message"], "Internal error occurred: no such container");
        assert_eq!((&failed["reason"], &failed["code"]), (&json!("InternalError"), &json!(500)));
        let words = |told: &[u8], telling| match decode(told, telling) {
            Err(Failure::Other(why)) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(words(b"boom", Telling::Text), "error executing remote command: boom");
        assert_eq!(
            words(br#"{"status":"Failure","reason":"NonZeroExitCode"}"#, Telling::Status),
            "error stream protocol error: details must be set"
        );
        assert!(words(b"{", Telling::Status).starts_with("error stream protocol error: "));
        assert!(decode(b"", Telling::Status).is_ok());
    }
    /// A SPDY server in a few lines: echoes stdin to stdout and tells exit code 7 when stdin ends.
    async fn echo_server(socket: tokio::io::DuplexStream) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut reader, mut writer) = tokio::io::split(socket);
        let (mut encoder, mut decoder) = (spdy::testing::Encoder::new().unwrap(), spdy::testing::Decoder::new());
        let mut ids = std::collections::HashMap::new();
        loop {
            let mut head = [0; 8];
            if reader.read_exact(&mut head).await.is_err() {
                return;
            }
            let mut out = Vec::new();
            match spdy::testing::Head::parse(&head) {
                spdy::testing::Head::Control { version, kind, flags, length } => {
                    let mut payload = vec![0; length];
                    reader.read_exact(&mut payload).await.unwrap();
                    if let spdy::testing::Control::SynStream { id, headers, .. } = decoder.control(version, kind, flags, &payload).unwrap()
                    {
                        ids.insert(headers[0].1.clone(), id);
                        encoder.control(&spdy::testing::Control::SynReply { id, fin: false, headers: vec![] }, &mut out).unwrap();
                    }
                }
                spdy::testing::Head::Data { fin, length, .. } => {
                    let mut payload = vec![0; length];
                    reader.read_exact(&mut payload).await.unwrap();
                    out.extend_from_slice(&spdy::testing::data_head(ids["stdout"], fin, length));
                    out.extend_from_slice(&payload);
                    if fin {
                        let status = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
                        out.extend_from_slice(&spdy::testing::data_head(ids["error"], true, status.len()));
                        out.extend_from_slice(status);
                    }
                }
            }
            writer.write_all(&out).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_command_is_carried_from_its_first_byte_to_its_outcome() {
        use tokio_tungstenite::tungstenite::protocol::Role;
        let (client, ours) = tokio::io::duplex(1 << 16);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let ours = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let (backend, server) = tokio::io::duplex(1 << 16);
        tokio::spawn(echo_server(server));
        let connect = async { Ok(Backend { connection: Connection::client(backend).unwrap(), protocol: SPDY_PROTOCOLS[1].to_owned() }) };
        let streams = Streams { stdin: true, stdout: true, ..Streams::default() };
        let translation = tokio::spawn(translate(ours, streams, connect));
        assert_eq!(client.next().await.unwrap().unwrap(), message(STDOUT, b""));
        client.send(message(STDIN, b"hello")).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), message(STDOUT, b"hello"));
        client.send(Message::Binary(Bytes::from_static(&[END_OF_CHANNEL, STDIN]))).await.unwrap();
        let Message::Binary(outcome) = client.next().await.unwrap().unwrap() else { panic!("no outcome") };
        assert_eq!(outcome[0], OUTCOME);
        assert!(std::str::from_utf8(&outcome).unwrap().contains("command terminated with exit code 7"));
        assert_eq!(client.next().await.unwrap().unwrap(), web_socket::farewell());
        drop(client);
        translation.await.unwrap();
    }

    #[tokio::test]
    async fn a_kubelet_that_is_not_reached_is_told_of_as_the_outcome() {
        use tokio_tungstenite::tungstenite::protocol::Role;
        let (client, ours) = tokio::io::duplex(1 << 16);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let ours = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        tokio::spawn(translate(ours, Streams { stderr: true, ..Streams::default() }, async { Err("no route".to_owned()) }));
        assert_eq!(client.next().await.unwrap().unwrap(), message(STDERR, b""));
        let Message::Binary(outcome) = client.next().await.unwrap().unwrap() else { panic!("no outcome") };
        assert!(std::str::from_utf8(&outcome).unwrap().contains("Internal error occurred: no route"));
        assert_eq!(client.next().await.unwrap().unwrap(), web_socket::farewell());
    }
}
