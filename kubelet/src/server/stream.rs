//! `/exec`, `/attach` and `/portForward`: the runtime says where its streaming server waits, and the client's connection is joined
//! with one to it, byte for byte. What is spoken over it (SPDY/3.1 or WebSocket) is between those two.

use std::time::Duration;

use axum::body::Body;
use http::header::{self, HeaderName};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Node;
use super::find;
use super::listener::Peer;
use super::respond::{runtime_error, text};
use super::route::{Container, PodPath};
use crate::cri::v1;

/// The runtime's streaming server is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Which streams a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn parse(query: &[(String, String)]) -> Result<Streams, &'static str> {
        let wants = |key: &str| super::route::first(query, key) == Some("1");
        let tty = wants("tty");
        // A terminal has one output only.
        let streams = Streams { stdin: wants("input"), stdout: wants("output"), stderr: wants("error") && !tty, tty };
        if !streams.stdin && !streams.stdout && !streams.stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr");
        }
        Ok(streams)
    }
}

/// Runs a command in a container.
pub async fn exec(
    node: &dyn Node,
    container: &Container,
    query: &[(String, String)],
    request: Request<Incoming>,
    peer: &Peer,
) -> Response<Body> {
    let streams = match Streams::parse(query) {
        Ok(streams) => streams,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let Some(pod) = node.pod(&container.pod.namespace, &container.pod.name) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let runtime = node.runtime();
    let id = match find::running_container(&*runtime, &pod, &container.name).await {
        Ok(Some(id)) => id,
        Ok(None) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{}\")", container.name)),
        Err(error) => return runtime_error(&error),
    };
    let asked = v1::ExecRequest {
        container_id: id,
        cmd: query.iter().filter(|(key, _)| key == "command").map(|(_, word)| word.clone()).collect(),
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
    };
    match runtime.exec(asked).await {
        Ok(url) => join(&url, request, peer).await,
        Err(error) => runtime_error(&error),
    }
}

/// Connects to the streams of a container's first process.
pub async fn attach(
    node: &dyn Node,
    container: &Container,
    query: &[(String, String)],
    request: Request<Incoming>,
    peer: &Peer,
) -> Response<Body> {
    let streams = match Streams::parse(query) {
        Ok(streams) => streams,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let Some(pod) = node.pod(&container.pod.namespace, &container.pod.name) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let runtime = node.runtime();
    let id = match find::running_container(&*runtime, &pod, &container.name).await {
        Ok(Some(id)) => id,
        Ok(None) => {
            let message = format!("container {} not found in pod {}", container.name, find::full_name(&pod));
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        }
        Err(error) => return runtime_error(&error),
    };
    // Whether there is a terminal was settled when the container was made.
    let tty = find::has_tty(&pod, &container.name);
    let asked = v1::AttachRequest { container_id: id, stdin: streams.stdin, tty, stdout: streams.stdout, stderr: streams.stderr && !tty };
    match runtime.attach(asked).await {
        Ok(url) => join(&url, request, peer).await,
        Err(error) => runtime_error(&error),
    }
}

/// Connects to ports of a pod.
pub async fn port_forward(
    node: &dyn Node,
    path: &PodPath,
    query: &[(String, String)],
    request: Request<Incoming>,
    peer: &Peer,
) -> Response<Body> {
    let port = match ports(query, is_web_socket(request.headers())) {
        Ok(ports) => ports,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let Some(pod) = node.pod(&path.namespace, &path.name) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    if !path.uid.is_empty() && pod.metadata.uid.as_deref() != Some(&path.uid) {
        return text(StatusCode::NOT_FOUND, "pod not found");
    }
    let runtime = node.runtime();
    let pod_sandbox_id = match find::ready_sandbox(&*runtime, &pod).await {
        Ok(Some(id)) => id,
        Ok(None) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("pod not found (\"{}\")", find::full_name(&pod))),
        Err(error) => return runtime_error(&error),
    };
    match runtime.port_forward(v1::PortForwardRequest { pod_sandbox_id, port }).await {
        Ok(url) => join(&url, request, peer).await,
        Err(error) => runtime_error(&error),
    }
}

/// A WebSocket names its ports in the query; SPDY names one for each stream.
fn ports(query: &[(String, String)], web_socket: bool) -> Result<Vec<i32>, String> {
    if !web_socket {
        return Ok(Vec::new());
    }
    let values: Vec<&str> = query.iter().filter(|(key, _)| key == "port").map(|(_, value)| value.as_str()).collect();
    if values.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    let mut ports = Vec::new();
    for value in values {
        if value.is_empty() {
            return Err("query parameter \"port\" cannot be empty".to_owned());
        }
        for text in value.split(',') {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let why = if digits { "value out of range" } else { "invalid syntax" };
            let wrong = || format!("unable to parse \"{value}\" as a port: strconv.ParseUint: parsing \"{text}\": {why}");
            let port: u16 = text.parse().map_err(|_| wrong())?;
            if port < 1 {
                return Err(format!("port \"{value}\" must be > 0"));
            }
            ports.push(i32::from(port));
        }
    }
    Ok(ports)
}

fn is_web_socket(headers: &HeaderMap) -> bool {
    is_upgrade(headers) && headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONNECTION).iter();
    values.any(|value| value.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains("upgrade")))
}

/// Why a connection to the streaming server did not come about.
#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error("error dialing backend: {0} is no URL with a host")]
    Url(String),
    #[error("error dialing backend: dial tcp {0}: i/o timeout")]
    Timeout(Authority),
    #[error("error dialing backend: dial tcp {address}: {source}")]
    Connect { address: Authority, source: std::io::Error },
    #[error("error sending request: {0}")]
    Send(#[from] hyper::Error),
}

/// Sends the request on to the URL and, when the server there agrees to the upgrade, joins both connections.
async fn join(url: &str, mut request: Request<Incoming>, peer: &Peer) -> Response<Body> {
    if !is_upgrade(request.headers()) {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required\n");
    }
    let client = hyper::upgrade::on(&mut request);
    let mut response = match send(url, request, peer).await {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(%error, "error while proxying a request to the runtime");
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
        }
    };
    let code = response.status();
    if code != StatusCode::SWITCHING_PROTOCOLS {
        if code.as_u16() < 400 {
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("invalid upgrade response: status code {}\n", code.as_u16()));
        }
        let (head, body) = response.into_parts();
        return Response::from_parts(head, Body::new(body));
    }
    let backend = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        match tokio::try_join!(client, backend) {
            Ok((client, backend)) => splice(TokioIo::new(client), TokioIo::new(backend)).await,
            Err(error) => tracing::debug!(%error, "a stream was not joined"),
        }
    });
    let (head, _) = response.into_parts();
    Response::from_parts(head, Body::empty())
}

async fn send(url: &str, request: Request<Incoming>, peer: &Peer) -> Result<Response<Incoming>, JoinError> {
    let uri: Uri = url.parse().map_err(|_| JoinError::Url(url.to_owned()))?;
    let authority = uri.authority().cloned().ok_or_else(|| JoinError::Url(url.to_owned()))?;
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Err(_) => return Err(JoinError::Timeout(authority)),
        Ok(Err(source)) => return Err(JoinError::Connect { address: authority, source }),
        Ok(Ok(stream)) => stream,
    };
    // Keystrokes are to travel at once. A socket that cannot be told so is still good.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot turn Nagle's algorithm off");
    }
    let (mut sender, connection) = http1::Builder::new().preserve_header_case(true).handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to the runtime's streaming server ended");
        }
    });
    let (mut head, _) = request.into_parts();
    head.uri = uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    head.version = http::Version::HTTP_11;
    if let (false, Ok(host)) = (head.headers.contains_key(header::HOST), HeaderValue::from_str(authority.as_str())) {
        head.headers.insert(header::HOST, host);
    }
    let from = peer.address.ip().to_string();
    let before = head.headers.get(&FORWARDED_FOR).and_then(|value| value.to_str().ok());
    if let Ok(chain) = HeaderValue::from_str(&before.map_or_else(|| from.clone(), |before| format!("{before}, {from}"))) {
        head.headers.insert(FORWARDED_FOR, chain);
    }
    Ok(sender.send_request(Request::from_parts(head, Body::empty())).await?)
}

/// Copies both ways until one side has ended, then ends the other: neither protocol half-closes its connection.
async fn splice<A, B>(client: A, backend: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut backend_read, mut backend_write) = tokio::io::split(backend);
    let ended = tokio::select! {
        ended = tokio::io::copy(&mut client_read, &mut backend_write) => ended,
        ended = tokio::io::copy(&mut backend_read, &mut client_write) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a joined stream ended");
    }
    use tokio::io::AsyncWriteExt;
    for ended in [client_write.shutdown().await, backend_write.shutdown().await] {
        if let Err(error) = ended {
            tracing::debug!(%error, "a joined stream was closed already");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Vec<(String, String)> {
        super::super::route::query(Some(text))
    }

    #[test]
    fn at_least_one_stream_is_wanted() {
        let streams = |text: &str| Streams::parse(&query(text));
        assert_eq!(streams("input=1&output=1&error=0"), Ok(Streams { stdin: true, stdout: true, stderr: false, tty: false }));
        assert_eq!(streams("output=1&error=1&tty=1"), Ok(Streams { stdin: false, stdout: true, stderr: false, tty: true }));
        assert_eq!(streams("error=1&tty=1"), Err("you must specify at least 1 of stdin, stdout, stderr"));
    }

    #[test]
    fn a_web_socket_names_its_ports() {
        assert_eq!(ports(&query("port=80,81&port=82"), true), Ok(vec![80, 81, 82]));
        assert_eq!(ports(&query(""), false), Ok(vec![]));
        assert_eq!(ports(&query(""), true).unwrap_err(), "query parameter \"port\" is required");
        assert_eq!(ports(&query("port="), true).unwrap_err(), "query parameter \"port\" cannot be empty");
        assert_eq!(ports(&query("port=0"), true).unwrap_err(), "port \"0\" must be > 0");
        assert!(ports(&query("port=x"), true).unwrap_err().ends_with("parsing \"x\": invalid syntax"));
    }
}
