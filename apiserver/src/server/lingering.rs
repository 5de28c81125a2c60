//! A stream that is closed slowly enough for its last answer to arrive.
//!
//! A request may be answered before all of it has been read: its body is too big, its sender is nobody. Closing the socket then makes the kernel
//! answer the rest with a reset, and a reset takes away what the client has not read yet, the answer among it. So the end is told first, and
//! what still comes is read and forgotten for a moment (RFC 9112, section 9.6).

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A peer that sends nothing for so long after the end has been told is left (upstream's server waits so long in any case).
const LINGER: Duration = Duration::from_millis(500);
/// A peer that goes on sending is left after this.
const LONGEST: Duration = Duration::from_secs(10);

enum Phase {
    Open,
    /// The end has been told; reading goes on until the sleep ends, which is never later than the instant.
    Told(Pin<Box<Sleep>>, Instant),
}

pub(super) struct Lingering<S> {
    stream: S,
    phase: Phase,
    /// Set once the connection speaks another protocol: what its peer sends after our end is then somebody's to read.
    upgraded: Arc<AtomicBool>,
}

impl<S> Lingering<S> {
    pub(super) fn new(stream: S, upgraded: Arc<AtomicBool>) -> Lingering<S> {
        Lingering { stream, phase: Phase::Open, upgraded }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Phase::Open = this.phase {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if this.upgraded.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            this.phase = Phase::Told(Box::pin(tokio::time::sleep(LINGER)), Instant::now() + LONGEST);
        }
        let Phase::Told(silence, end) = &mut this.phase else { return Poll::Ready(Ok(())) };
        let mut space = [MaybeUninit::uninit(); 16 * 1024];
        loop {
            let mut unwanted = ReadBuf::uninit(&mut space);
            match Pin::new(&mut this.stream).poll_read(cx, &mut unwanted) {
                Poll::Ready(Ok(())) if !unwanted.filled().is_empty() && Instant::now() < *end => {
                    silence.as_mut().reset((Instant::now() + LINGER).min(*end));
                }
                // A peer that has gone, in whatever way, has what it wanted.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                // Only now: whoever has not run for a while finds what has come in the meantime.
                Poll::Pending => return silence.as_mut().poll(cx).map(Ok),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        (client, listener.accept().await.expect("a connection").0)
    }

    fn lingering(stream: TcpStream, upgraded: bool) -> Lingering<TcpStream> {
        Lingering::new(stream, Arc::new(AtomicBool::new(upgraded)))
    }

    #[tokio::test]
    async fn an_answer_arrives_although_the_rest_of_the_request_was_not_read() {
        let (mut client, server) = pair().await;
        let served = tokio::spawn(async move {
            let mut server = lingering(server, false);
            let mut first = [0; 4];
            server.read_exact(&mut first).await.expect("a beginning");
            server.write_all(b"too much").await.expect("an answer");
            server.shutdown().await.expect("an end");
        });
        // More than the kernel keeps for a reader that does not read.
        client.write_all(&vec![b'x'; 16 << 20]).await.expect("all of it is taken");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("no reset");
        assert_eq!(answer, "too much");
        drop(client);
        served.await.expect("the server ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_slow_to_send_the_rest_is_read_to_its_end_but_not_for_ever() {
        for (pieces, is_answered) in [(20, true), (1_000, false)] {
            let (mut client, server) = tokio::io::duplex(1024);
            let served = tokio::spawn(async move {
                let mut server = Lingering::new(server, Arc::default());
                server.write_all(b"too much").await.expect("an answer");
                server.shutdown().await.expect("an end");
            });
            let mut taken = true;
            for _ in 0..pieces {
                tokio::time::sleep(LINGER / 2).await;
                taken &= client.write_all(&[b'x'; 1024]).await.is_ok();
            }
            assert_eq!(taken, is_answered, "{pieces} pieces");
            drop(client);
            served.await.expect("the server ends");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_did_not_run_for_a_while_takes_that_for_nobodys_silence() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut server = Lingering::new(server, Arc::default());
        let mut ended = std::pin::pin!(server.shutdown());
        assert!(futures::poll!(&mut ended).is_pending());
        client.write_all(&[b'x'; 1024]).await.expect("there is room");
        tokio::time::advance(LINGER * 2).await;
        assert!(futures::poll!(&mut ended).is_pending(), "what has come is read first");
        client.write_all(&[b'x'; 1024]).await.expect("there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stays_is_left_after_a_moment() {
        let (client, server) = pair().await;
        let started = tokio::time::Instant::now();
        lingering(server, false).shutdown().await.expect("an end");
        assert_eq!(started.elapsed().as_millis(), LINGER.as_millis());
        drop(client);
    }

    #[tokio::test]
    async fn what_an_upgraded_connection_gets_after_our_end_is_not_lost() {
        let (mut client, server) = pair().await;
        let mut server = lingering(server, true);
        server.shutdown().await.expect("an end");
        client.write_all(b"late").await.expect("it is open on this side");
        drop(client);
        let mut late = String::new();
        server.read_to_string(&mut late).await.expect("it is read");
        assert_eq!(late, "late");
    }
}
