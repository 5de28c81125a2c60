//! A client's connection: streams over one socket, each read and written on its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::frame::{self, Control, Decoder, Encoder, HEAD_BYTES, Head, MAX_CONTROL_BYTES, reset};

/// Streams open at once on one connection; remote commands have five.
const MAX_STREAMS: usize = 64;
/// The other side must take a new stream by then.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Frames that wait to be written.
const MAX_FRAMES_WAITING: usize = 16;
/// Chunks of a stream that wait to be read; then the connection waits.
const MAX_CHUNKS_WAITING: usize = 8;
/// Data is read and passed on in chunks of this size at most.
const CHUNK_BYTES: usize = 32 * 1024;
/// How often the other side is sent a sign of life, so that nobody between takes the connection for dead.
const PING_PERIOD: Duration = Duration::from_secs(5);
/// What is on its way when a connection is closed gets this long.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a stream could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("too many streams on one connection")]
    TooManyStreams,
    #[error("Timeout occurred")]
    Timeout,
    #[error("Stream reset")]
    Reset,
    #[error("connection closed")]
    Closed,
    #[error(transparent)]
    Frame(#[from] frame::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What the writing task is told.
enum Order {
    Control(Control),
    Data {
        id: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// Say farewell and end.
    Close(oneshot::Sender<()>),
}

/// What the reading task knows of a stream.
struct Open {
    /// Until the other side has taken the stream.
    taken: Option<oneshot::Sender<()>>,
    chunks: mpsc::Sender<Bytes>,
}

type Streams = Arc<Mutex<HashMap<u32, Open>>>;

/// A connection. Dropping it cuts it; [`Connection::close`] is the polite way.
pub struct Connection {
    orders: mpsc::Sender<Order>,
    streams: Streams,
    next_id: u32,
    /// Ends both tasks.
    _cut: DropGuard,
}

impl Connection {
    /// A client's connection over a socket that has been upgraded.
    pub fn client<S>(socket: S) -> Result<Connection, Error>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(socket);
        let (orders, received) = mpsc::channel(MAX_FRAMES_WAITING);
        let streams = Streams::default();
        let cut = CancellationToken::new();
        let reading = Reading { reader, decoder: Decoder::new(), streams: streams.clone(), orders: orders.downgrade() };
        let writing = Writing { writer, encoder: Encoder::new()?, orders: received };
        tokio::spawn(until(cut.clone(), reading.run(), "reading"));
        tokio::spawn(until(cut.clone(), writing.run(), "writing"));
        Ok(Connection { orders, streams, next_id: 1, _cut: cut.drop_guard() })
    }

    /// Opens a stream and waits until the other side has taken it.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> Result<(Reader, Writer), Error> {
        let id = self.next_id;
        self.next_id += 2;
        let (taken, is_taken) = oneshot::channel();
        let (chunks, received) = mpsc::channel(MAX_CHUNKS_WAITING);
        {
            let mut streams = self.streams.lock();
            if streams.len() >= MAX_STREAMS {
                return Err(Error::TooManyStreams);
            }
            streams.insert(id, Open { taken: Some(taken), chunks });
        }
        let headers = headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect();
        let syn = Control::SynStream { id, associated: 0, priority: 0, unidirectional: false, fin: false, headers };
        self.orders.send(Order::Control(syn)).await.map_err(|_| Error::Closed)?;
        match tokio::time::timeout(OPEN_TIMEOUT, is_taken).await {
            Ok(Ok(())) => Ok((Reader { received }, Writer { id, orders: self.orders.clone() })),
            Ok(Err(_)) => Err(Error::Reset),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Resets the streams that are still open, says farewell, and closes the socket.
    pub async fn close(self) {
        let open: Vec<u32> = self.streams.lock().drain().map(|(id, _)| id).collect();
        let farewell = async {
            for id in open {
                let frame = Control::RstStream { id, status: reset::CANCEL };
                self.orders.send(Order::Control(frame)).await.map_err(|_| Error::Closed)?;
            }
            let (done, is_done) = oneshot::channel();
            self.orders.send(Order::Close(done)).await.map_err(|_| Error::Closed)?;
            is_done.await.map_err(|_| Error::Closed)
        };
        match tokio::time::timeout(CLOSE_TIMEOUT, farewell).await {
            Ok(Ok(())) => {}
            // Whoever is gone already needs no farewell.
            Ok(Err(error)) => tracing::debug!(%error, "a SPDY connection was closed already"),
            Err(_) => tracing::debug!("a SPDY connection did not take its farewell in time"),
        }
    }
}

async fn until(cut: CancellationToken, task: impl Future<Output = Result<(), Error>>, what: &'static str) {
    tokio::select! {
        () = cut.cancelled() => {}
        ended = task => match ended {
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "{what} a SPDY connection ended"),
        }
    }
}

/// What arrives on a stream.
pub struct Reader {
    received: mpsc::Receiver<Bytes>,
}

impl Reader {
    /// The next chunk; nothing when the other side has ended or reset the stream, or the connection is gone.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.received.recv().await
    }
}

/// What is sent on a stream.
pub struct Writer {
    id: u32,
    orders: mpsc::Sender<Order>,
}

impl Writer {
    pub async fn write(&self, bytes: Bytes) -> Result<(), Error> {
        self.send(bytes, false).await
    }

    /// Says that nothing more will come.
    pub async fn finish(self) -> Result<(), Error> {
        self.send(Bytes::new(), true).await
    }

    async fn send(&self, bytes: Bytes, fin: bool) -> Result<(), Error> {
        self.orders.send(Order::Data { id: self.id, fin, bytes }).await.map_err(|_| Error::Closed)
    }
}

struct Writing<W> {
    writer: W,
    encoder: Encoder,
    orders: mpsc::Receiver<Order>,
}

impl<W: AsyncWrite + Unpin> Writing<W> {
    async fn run(mut self) -> Result<(), Error> {
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING_PERIOD, PING_PERIOD);
        // A client's pings are odd.
        let mut ping_id = 1;
        let mut out = Vec::new();
        loop {
            out.clear();
            tokio::select! {
                order = self.orders.recv() => match order {
                    None => return Ok(()),
                    Some(Order::Control(frame)) => self.encoder.control(&frame, &mut out)?,
                    Some(Order::Data { id, fin, bytes }) => {
                        // A chunk is far below what a frame can carry.
                        out.extend_from_slice(&frame::data_head(id, fin, bytes.len()));
                        out.extend_from_slice(&bytes);
                    }
                    Some(Order::Close(done)) => {
                        self.encoder.control(&Control::GoAway { last_good: 0, status: 0 }, &mut out)?;
                        self.writer.write_all(&out).await?;
                        self.writer.shutdown().await?;
                        // Nobody waits any more if that took too long.
                        let _ = done.send(());
                        return Ok(());
                    }
                },
                _ = pings.tick() => {
                    self.encoder.control(&Control::Ping(ping_id), &mut out)?;
                    ping_id = if ping_id > 0x7fff_fffc { 1 } else { ping_id + 2 };
                }
            }
            self.writer.write_all(&out).await?;
            self.writer.flush().await?;
        }
    }
}

struct Reading<R> {
    reader: R,
    decoder: Decoder,
    streams: Streams,
    /// Weak, so that the writing task ends when connection and streams are gone.
    orders: mpsc::WeakSender<Order>,
}

impl<R: AsyncRead + Unpin> Reading<R> {
    async fn run(mut self) -> Result<(), Error> {
        let ended = self.read().await;
        // Whoever waits for more waits in vain.
        self.streams.lock().clear();
        ended
    }

    async fn read(&mut self) -> Result<(), Error> {
        loop {
            let mut head = [0; HEAD_BYTES];
            match self.reader.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            match Head::parse(&head) {
                Head::Data { id, fin, length } => self.data(id, fin, length).await?,
                Head::Control { length, .. } if length > MAX_CONTROL_BYTES => return Err(frame::Error::TooLarge(length).into()),
                Head::Control { version, kind, flags, length } => {
                    let mut payload = vec![0; length];
                    self.reader.read_exact(&mut payload).await?;
                    let frame = self.decoder.control(version, kind, flags, &payload)?;
                    self.take(frame).await?;
                }
            }
        }
    }

    async fn data(&mut self, id: u32, fin: bool, length: usize) -> Result<(), Error> {
        let mut chunks = self.streams.lock().get(&id).map(|stream| stream.chunks.clone());
        let mut left = length;
        while left > 0 {
            let mut chunk = BytesMut::with_capacity(left.min(CHUNK_BYTES));
            let read = (&mut self.reader).take(left.min(CHUNK_BYTES) as u64).read_buf(&mut chunk).await?;
            if read == 0 {
                return Err(Error::Closed);
            }
            left -= read;
            // What nobody reads is passed over, so that it holds up no other stream.
            if let Some(open) = &chunks
                && open.send(chunk.freeze()).await.is_err()
            {
                chunks = None;
            }
        }
        if fin {
            self.streams.lock().remove(&id);
        }
        Ok(())
    }

    async fn take(&mut self, frame: Control) -> Result<(), Error> {
        match frame {
            Control::SynReply { id, fin, .. } => {
                let taken = self.streams.lock().get_mut(&id).and_then(|stream| stream.taken.take());
                if let Some(taken) = taken {
                    // Whoever opened it may have given up.
                    let _ = taken.send(());
                }
                if fin {
                    self.streams.lock().remove(&id);
                }
            }
            Control::RstStream { id, .. } | Control::Headers { id, fin: true, .. } => {
                self.streams.lock().remove(&id);
            }
            // An even one is the server's, and is sent back; an odd one is our own that came back.
            Control::Ping(id) if id % 2 == 0 => self.order(Control::Ping(id)).await?,
            // Nobody opens streams towards us.
            Control::SynStream { id, .. } => self.order(Control::RstStream { id, status: reset::REFUSED_STREAM }).await?,
            // After a farewell the open streams still run to their end.
            Control::GoAway { .. } | Control::Ping(_) | Control::Settings(_) | Control::Headers { .. } | Control::WindowUpdate { .. } => {}
        }
        Ok(())
    }

    async fn order(&mut self, frame: Control) -> Result<(), Error> {
        let orders = self.orders.upgrade().ok_or(Error::Closed)?;
        orders.send(Order::Control(frame)).await.map_err(|_| Error::Closed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    /// The server's side, frame by frame.
    struct Server {
        socket: DuplexStream,
        encoder: Encoder,
        decoder: Decoder,
    }

    #[derive(Debug, PartialEq)]
    enum Seen {
        Control(Control),
        Data(u32, bool, Vec<u8>),
    }

    impl Server {
        async fn see(&mut self) -> Seen {
            let mut head = [0; HEAD_BYTES];
            self.socket.read_exact(&mut head).await.unwrap();
            let head = Head::parse(&head);
            let (Head::Control { length, .. } | Head::Data { length, .. }) = head;
            let mut payload = vec![0; length];
            self.socket.read_exact(&mut payload).await.unwrap();
            match head {
                Head::Data { id, fin, .. } => Seen::Data(id, fin, payload),
                Head::Control { version, kind, flags, .. } => Seen::Control(self.decoder.control(version, kind, flags, &payload).unwrap()),
            }
        }

        async fn send(&mut self, frame: Control) {
            let mut bytes = Vec::new();
            self.encoder.control(&frame, &mut bytes).unwrap();
            self.socket.write_all(&bytes).await.unwrap();
        }

        async fn send_data(&mut self, id: u32, fin: bool, bytes: &[u8]) {
            self.socket.write_all(&frame::data_head(id, fin, bytes.len())).await.unwrap();
            self.socket.write_all(bytes).await.unwrap();
        }
    }

    fn pair() -> (Connection, Server) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let server = Server { socket: theirs, encoder: Encoder::new().unwrap(), decoder: Decoder::new() };
        (Connection::client(ours).unwrap(), server)
    }

    async fn opened(connection: &mut Connection, server: &mut Server, kind: &str) -> (Reader, Writer) {
        let headers = [("streamType", kind)];
        let (stream, ()) = tokio::join!(connection.open(&headers), async {
            let Seen::Control(Control::SynStream { id, headers, .. }) = server.see().await else { panic!("no stream") };
            assert_eq!(headers, [("streamtype".to_owned(), kind.to_owned())]);
            server.send(Control::SynReply { id, fin: false, headers: Vec::new() }).await;
        });
        stream.unwrap()
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_and_end_by_halves() {
        let (mut connection, mut server) = pair();
        let (mut output, _) = opened(&mut connection, &mut server, "stdout").await;
        let (mut echo, input) = opened(&mut connection, &mut server, "stdin").await;
        input.write(Bytes::from_static(b"hello")).await.unwrap();
        assert_eq!(server.see().await, Seen::Data(3, false, b"hello".to_vec()));
        input.finish().await.unwrap();
        assert_eq!(server.see().await, Seen::Data(3, true, Vec::new()));
        server.send_data(1, false, b"world").await;
        server.send_data(3, true, b"").await;
        assert_eq!(output.next().await.unwrap(), "world");
        assert_eq!(echo.next().await, None);
        server.send_data(1, true, b"!").await;
        assert_eq!(output.next().await.unwrap(), "!");
        assert_eq!(output.next().await, None);
        tokio::join!(connection.close(), async {
            assert_eq!(server.see().await, Seen::Control(Control::GoAway { last_good: 0, status: 0 }));
        });
    }

    #[tokio::test]
    async fn a_stream_that_nobody_reads_holds_up_no_other() {
        let (mut connection, mut server) = pair();
        let (unread, _) = opened(&mut connection, &mut server, "stdout").await;
        let (mut read, _) = opened(&mut connection, &mut server, "error").await;
        drop(unread);
        for _ in 0..4 * MAX_CHUNKS_WAITING {
            server.send_data(1, false, &[0; 1_000]).await;
        }
        server.send_data(3, true, b"done").await;
        assert_eq!(read.next().await.unwrap(), "done");
    }

    #[tokio::test]
    async fn resets_and_lost_connections_end_streams() {
        let (mut connection, mut server) = pair();
        let (mut first, _) = opened(&mut connection, &mut server, "stdout").await;
        let (mut second, writer) = opened(&mut connection, &mut server, "stderr").await;
        server.send(Control::RstStream { id: 1, status: reset::CANCEL }).await;
        assert_eq!(first.next().await, None);
        drop(server);
        assert_eq!(second.next().await, None);
        // The writing task finds out with its first write.
        let lost = async { while writer.write(Bytes::from_static(b"x")).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(5), lost).await.unwrap();
    }

    #[tokio::test]
    async fn refused_streams_and_pings_are_answered() {
        let (mut connection, mut server) = pair();
        let headers = [("streamType", "stdin")];
        let (stream, ()) = tokio::join!(connection.open(&headers), async {
            server.see().await;
            server.send(Control::RstStream { id: 1, status: reset::REFUSED_STREAM }).await;
        });
        assert!(matches!(stream, Err(Error::Reset)));
        server.send(Control::Ping(2)).await;
        assert_eq!(server.see().await, Seen::Control(Control::Ping(2)));
        server.send(Control::SynStream { id: 2, associated: 0, priority: 0, unidirectional: false, fin: false, headers: vec![] }).await;
        assert_eq!(server.see().await, Seen::Control(Control::RstStream { id: 2, status: reset::REFUSED_STREAM }));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_shows_that_it_lives() {
        let (_connection, mut server) = pair();
        assert_eq!(server.see().await, Seen::Control(Control::Ping(1)));
        assert_eq!(server.see().await, Seen::Control(Control::Ping(3)));
    }
}
