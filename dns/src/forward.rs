//! Asks upstream what the cluster does not know: over UDP, and over TCP when the answer is too long for that.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::cache::{Cache, Key};

/// So many questions wait for upstream at once; more are refused.
const CONCURRENT: usize = 1000;

/// An upstream server that takes longer is given up, for this question.
const PATIENCE: Duration = Duration::from_secs(2);

/// What we say that we can receive in one datagram; it passes every network unfragmented.
const PAYLOAD_BYTES: u16 = 1232;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no upstream server")]
    Nobody,
    #[error("{CONCURRENT} questions wait already")]
    TooMany,
    #[error("no upstream server has answered: {0}")]
    Silence(#[source] io::Error),
}

/// The way to the rest of the world.
pub struct Forwarder {
    servers: Vec<SocketAddr>,
    cache: Mutex<Cache>,
    permits: Semaphore,
}

impl Forwarder {
    pub fn new(servers: Vec<SocketAddr>) -> Forwarder {
        Forwarder { servers, cache: Mutex::default(), permits: Semaphore::new(CONCURRENT) }
    }

    /// The answer, if it is known already.
    pub fn cached(&self, query: &Query, dnssec: bool) -> Option<Message> {
        let key = Key::new(query.name(), query.query_type(), dnssec);
        self.cache.lock().get(&key, Instant::now())
    }

    /// Asks one server after the other. The answer's id and OPT record are those of our question, not of the client's.
    pub async fn ask(&self, query: &Query, dnssec: bool) -> Result<Message, Error> {
        if self.servers.is_empty() {
            return Err(Error::Nobody);
        }
        let _permit = self.permits.try_acquire().map_err(|_| Error::TooMany)?;
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for server in &self.servers {
            match ask_server(*server, query, dnssec).await {
                Ok(message) => {
                    self.cache.lock().put(Key::new(query.name(), query.query_type(), dnssec), &message, Instant::now());
                    return Ok(message);
                }
                Err(error) => {
                    tracing::debug!(%server, name = %query.name(), %error, "no answer from upstream");
                    last = error;
                }
            }
        }
        Err(Error::Silence(last))
    }
}

async fn ask_server(server: SocketAddr, query: &Query, dnssec: bool) -> io::Result<Message> {
    // A number and a port that nobody can guess keep forged answers out.
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD_BYTES);
    edns.set_dnssec_ok(dnssec);
    message.set_edns(edns);
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let answer = timeout(PATIENCE, over_udp(server, &bytes, &message)).await??;
    if answer.metadata.truncation { timeout(PATIENCE, over_tcp(server, &bytes, &message)).await? } else { Ok(answer) }
}

/// Whether this is an answer to that question.
fn belongs(answer: &Message, question: &Message) -> bool {
    answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries.len() == 1
        && answer.queries[0].query_type() == question.queries[0].query_type()
        && answer.queries[0].name().to_lowercase() == question.queries[0].name().to_lowercase()
}

async fn over_udp(server: SocketAddr, bytes: &[u8], question: &Message) -> io::Result<Message> {
    let any = if server.is_ipv4() { SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) } else { SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)) };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && belongs(&answer, question)
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, bytes: &[u8], question: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if belongs(&answer, question) { Ok(answer) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
}
