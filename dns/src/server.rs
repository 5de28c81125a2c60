//! Takes questions over UDP and TCP and sends replies. What is known at once is answered in place; only questions to upstream
//! become tasks of their own, and upstream's limit bounds these.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use client::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::respond::{Responder, Step, encode};

/// So many connections are open at once; more wait to be accepted.
const CONNECTIONS: usize = 512;

/// A connection on which nothing is asked is closed after this long.
const IDLE: Duration = Duration::from_secs(10);

/// Questions to upstream that are under way at once, over UDP; the rest is dropped, and clients ask again.
const PENDING: usize = 2000;

/// A question is one name and some options.
const QUESTION_BYTES: usize = 4096;

/// After an error that will not go away by itself.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens, but takes nothing yet.
pub struct Listener {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

impl Listener {
    /// Port 0 takes the same free port for both.
    pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
        let udp = UdpSocket::bind(address).await?;
        let tcp = TcpListener::bind(udp.local_addr()?).await?;
        Ok(Listener { udp: Arc::new(udp), tcp })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Answers until shutdown.
    pub async fn serve(self, responder: Arc<Responder>, shutdown: Shutdown) {
        let udp = datagrams(self.udp, responder.clone());
        let tcp = connections(self.tcp, responder, shutdown.clone());
        tokio::select! {
            ((), ()) = async { tokio::join!(udp, tcp) } => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn datagrams(socket: Arc<UdpSocket>, responder: Arc<Responder>) {
    let pending = Arc::new(Semaphore::new(PENDING));
    let mut buffer = vec![0; QUESTION_BYTES];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An earlier reply could not be delivered, mostly.
                tracing::debug!(%error, "cannot receive");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (step, limit) = responder.start(&buffer[..length]);
        match step {
            Step::Ignore => {}
            Step::Reply(reply) => send(&socket, encode(&reply, limit.into()), from).await,
            Step::Ask(question) => {
                let Ok(permit) = pending.clone().try_acquire_owned() else { continue };
                let (socket, responder) = (socket.clone(), responder.clone());
                tokio::spawn(async move {
                    let reply = responder.finish(*question).await;
                    send(&socket, encode(&reply, limit.into()), from).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: Option<Vec<u8>>, to: SocketAddr) {
    let Some(reply) = reply else { return };
    if let Err(error) = socket.send_to(&reply, to).await {
        tracing::debug!(%to, %error, "cannot send");
    }
}

async fn connections(listener: TcpListener, responder: Arc<Responder>, shutdown: Shutdown) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (responder, shutdown) = (responder.clone(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                // A client may go at any time, and that is no error.
                _ = conversation(stream, &responder) => {}
                () = shutdown.cancelled() => {}
            }
            drop(permit);
        });
    }
}

/// One question after the other, each with its length before it.
async fn conversation(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    loop {
        let length = usize::from(timeout(IDLE, stream.read_u16()).await??);
        let mut question = vec![0; length];
        timeout(IDLE, stream.read_exact(&mut question)).await??;
        let reply = match responder.start(&question).0 {
            Step::Ignore => return Ok(()),
            Step::Reply(reply) => reply,
            Step::Ask(question) => responder.finish(*question).await,
        };
        let Some(reply) = encode(&reply, usize::from(u16::MAX)) else { return Ok(()) };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&reply);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
