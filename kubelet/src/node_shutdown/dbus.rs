//! As much of D-Bus as it takes to talk to logind: a connection to the system's bus, calls with plain arguments, signals, and file
//! descriptors that come with answers. Blocking.
//!
//! The wire format is that of the D-Bus specification 0.42; messages are written in little-endian order and read in either.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// The largest message that is read, in bytes; what logind says fits many times.
const MAX_MESSAGE: usize = 1 << 20;
/// Signals that are kept while an answer is waited for; older ones are dropped.
const MAX_SIGNALS: usize = 16;
/// File descriptors that come with one message at most.
const MAX_DESCRIPTORS: usize = 16;
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Fields of a header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;
const UNIX_FDS: u8 = 9;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the bus refused the connection: {0:?}")]
    Refused(String),
    /// A call failed at its destination.
    #[error("{name}: {message}")]
    Call { name: String, message: String },
    #[error("the bus sent what is no message: {0}")]
    Malformed(&'static str),
}

/// A value that is sent or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Int(i32),
    Uint(u32),
    Long(u64),
    Bool(bool),
    /// The place of a file descriptor among those that came with the message.
    Descriptor(u32),
    Variant(Box<Value>),
}

impl Value {
    pub fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn signature(&self) -> char {
        match self {
            Value::Text(_) => 's',
            Value::Int(_) => 'i',
            Value::Uint(_) => 'u',
            Value::Long(_) => 't',
            Value::Bool(_) => 'b',
            Value::Descriptor(_) => 'h',
            Value::Variant(_) => 'v',
        }
    }
}

/// A message, as far as anybody here looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub kind: u8,
    pub serial: u32,
    pub reply_serial: u32,
    pub path: String,
    pub interface: String,
    pub member: String,
    pub destination: String,
    pub sender: String,
    pub error_name: String,
    pub body: Vec<Value>,
    /// How many file descriptors come with it.
    pub descriptors: u32,
}

/// Bytes with the alignment that values are to have.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Text(text) => self.text(text),
            Value::Int(number) => {
                self.align(4);
                self.0.extend(number.to_le_bytes());
            }
            Value::Uint(number) | Value::Descriptor(number) => self.u32(*number),
            Value::Long(number) => {
                self.align(8);
                self.0.extend(number.to_le_bytes());
            }
            Value::Bool(value) => self.u32(u32::from(*value)),
            Value::Variant(inner) => {
                self.signature(&inner.signature().to_string());
                self.value(inner);
            }
        }
    }

    /// A field of a header, whose value is a text.
    fn field(&mut self, code: u8, signature: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        if signature == "g" { self.signature(text) } else { self.text(text) }
    }

    fn number_field(&mut self, code: u8, number: u32) {
        if number > 0 {
            self.align(8);
            self.0.push(code);
            self.signature("u");
            self.u32(number);
        }
    }
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        self.body.iter().for_each(|value| body.value(value));
        let signature: String = self.body.iter().map(Value::signature).collect();
        let mut fields = Writer::default();
        fields.field(PATH, "o", &self.path);
        fields.field(INTERFACE, "s", &self.interface);
        fields.field(MEMBER, "s", &self.member);
        fields.field(ERROR_NAME, "s", &self.error_name);
        fields.number_field(REPLY_SERIAL, self.reply_serial);
        fields.field(DESTINATION, "s", &self.destination);
        fields.field(SIGNATURE, "g", &signature);
        fields.number_field(UNIX_FDS, self.descriptors);
        let mut out = Writer(vec![b'l', self.kind, 0, 1]);
        out.u32(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
        out.u32(self.serial);
        out.u32(u32::try_from(fields.0.len()).unwrap_or(u32::MAX));
        // The fields begin at byte 16, so that their own alignment holds.
        out.0.extend(fields.0);
        out.align(8);
        out.0.extend(body.0);
        out.0
    }

    /// How long the message is whose first 16 bytes these are.
    fn length(head: &[u8; 16]) -> Result<usize, Error> {
        let number = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            if head[0] == b'B' { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        let (body, fields) = (number(4) as usize, number(12) as usize);
        if body > MAX_MESSAGE || fields > MAX_MESSAGE {
            return Err(Error::Malformed("it is too long"));
        }
        Ok((16 + fields).next_multiple_of(8) + body)
    }

    pub fn decode(bytes: &[u8]) -> Result<Message, Error> {
        let short = Error::Malformed("it is too short");
        let Some(head) = bytes.first_chunk::<16>() else { return Err(short) };
        let mut reader = Reader { bytes, at: 4, big: head[0] == b'B' };
        let _body_length = reader.u32()?;
        let mut message = Message { kind: head[1], serial: reader.u32()?, ..Message::default() };
        let end = reader.u32()? as usize + 16;
        let mut signature = String::new();
        while reader.at < end {
            reader.align(8);
            let code = reader.u8()?;
            let kind = reader.signature()?;
            match code {
                PATH => message.path = reader.text()?,
                INTERFACE => message.interface = reader.text()?,
                MEMBER => message.member = reader.text()?,
                ERROR_NAME => message.error_name = reader.text()?,
                DESTINATION => message.destination = reader.text()?,
                SENDER => message.sender = reader.text()?,
                REPLY_SERIAL => message.reply_serial = reader.u32()?,
                UNIX_FDS => message.descriptors = reader.u32()?,
                SIGNATURE => signature = reader.signature()?,
                _ => drop(reader.value(kind.chars().next().unwrap_or(' '))?),
            }
        }
        reader.align(8);
        for kind in signature.chars() {
            // Nobody here needs what is put together.
            let Ok(value) = reader.value(kind) else { break };
            message.body.push(value);
        }
        Ok(message)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let found = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        self.at += N;
        found.copied().ok_or(Error::Malformed("it is too short"))
    }

    fn u8(&mut self) -> Result<u8, Error> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.align(4);
        let bytes = self.take::<4>()?;
        Ok(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn string(&mut self, length: usize) -> Result<String, Error> {
        let end = self.at.saturating_add(length);
        let text = self.bytes.get(self.at..end).ok_or(Error::Malformed("a text is too short"))?;
        self.at = end + 1;
        String::from_utf8(text.to_vec()).map_err(|_| Error::Malformed("a text is not UTF-8"))
    }

    fn text(&mut self) -> Result<String, Error> {
        let length = self.u32()? as usize;
        self.string(length)
    }

    fn signature(&mut self) -> Result<String, Error> {
        let length = usize::from(self.u8()?);
        self.string(length)
    }

    fn value(&mut self, kind: char) -> Result<Value, Error> {
        Ok(match kind {
            's' | 'o' => Value::Text(self.text()?),
            'g' => Value::Text(self.signature()?),
            'u' => Value::Uint(self.u32()?),
            'h' => Value::Descriptor(self.u32()?),
            'i' => Value::Int(i32::from_le_bytes(self.u32()?.to_le_bytes())),
            'b' => Value::Bool(self.u32()? != 0),
            't' => {
                self.align(8);
                let bytes = self.take::<8>()?;
                Value::Long(if self.big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
            }
            'v' => {
                let inner = self.signature()?;
                // Variants in variants would be deep without an end.
                let kind = inner.chars().next().filter(|kind| *kind != 'v').ok_or(Error::Malformed("a variant of nothing"))?;
                Value::Variant(Box::new(self.value(kind)?))
            }
            _ => return Err(Error::Malformed("a type that is not read here")),
        })
    }
}

/// A descriptor that came over the bus; closed when it is dropped.
#[derive(Debug)]
pub struct Descriptor(RawFd);

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let Err(error) = nix::unistd::close(self.0) {
            tracing::warn!(%error, "cannot close a file descriptor of the bus");
        }
    }
}

/// A connection to a bus.
pub struct Connection {
    stream: UnixStream,
    serial: u32,
    buffer: Vec<u8>,
    descriptors: VecDeque<Descriptor>,
    signals: VecDeque<Message>,
}

impl Connection {
    /// Connects to the bus behind a socket and says hello.
    pub fn open(socket: &Path) -> Result<Connection, Error> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let uid: String = nix::unistd::geteuid().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        expect(&mut stream, "OK ")?;
        stream.write_all(b"NEGOTIATE_UNIX_FD\r\n")?;
        expect(&mut stream, "AGREE_UNIX_FD")?;
        stream.write_all(b"BEGIN\r\n")?;
        let mut connection = Connection { stream, serial: 0, buffer: Vec::new(), descriptors: VecDeque::new(), signals: VecDeque::new() };
        connection.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", Vec::new())?;
        Ok(connection)
    }

    /// The socket, by which another thread can end what waits here.
    pub fn handle(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// Sends a message; its serial.
    pub fn send(&mut self, mut message: Message) -> Result<u32, Error> {
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        message.serial = self.serial;
        self.stream.write_all(&message.encode())?;
        Ok(self.serial)
    }

    /// Calls a method and waits for its answer, with the descriptors that came with it.
    pub fn call(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Vec<Value>,
    ) -> Result<(Vec<Value>, Vec<Descriptor>), Error> {
        let serial = self.send(Message {
            kind: CALL,
            path: path.to_owned(),
            interface: interface.to_owned(),
            member: member.to_owned(),
            destination: destination.to_owned(),
            body,
            ..Message::default()
        })?;
        loop {
            let (message, descriptors) = self.receive()?;
            match message.kind {
                ANSWER if message.reply_serial == serial => return Ok((message.body, descriptors)),
                ERROR if message.reply_serial == serial => {
                    let said = message.body.into_iter().next();
                    let said = if let Some(Value::Text(text)) = said { text } else { String::new() };
                    return Err(Error::Call { name: message.error_name, message: said });
                }
                SIGNAL => {
                    if self.signals.len() == MAX_SIGNALS {
                        self.signals.pop_front();
                    }
                    self.signals.push_back(message);
                }
                _ => {}
            }
        }
    }

    /// A property of an object.
    pub fn property(&mut self, destination: &str, path: &str, interface: &str, name: &str) -> Result<Value, Error> {
        let arguments = vec![Value::text(interface), Value::text(name)];
        let (mut body, _) = self.call(destination, path, "org.freedesktop.DBus.Properties", "Get", arguments)?;
        match body.pop() {
            Some(Value::Variant(value)) => Ok(*value),
            _ => Err(Error::Malformed("a property without a value")),
        }
    }

    /// Waits for the next signal, however long that takes.
    pub fn next_signal(&mut self) -> Result<Message, Error> {
        if let Some(signal) = self.signals.pop_front() {
            return Ok(signal);
        }
        self.stream.set_read_timeout(None)?;
        let found = loop {
            match self.receive() {
                Ok((message, _)) if message.kind == SIGNAL => break Ok(message),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        self.stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        found
    }

    /// The next message and its descriptors.
    pub fn receive(&mut self) -> Result<(Message, Vec<Descriptor>), Error> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<16>() {
                let length = Message::length(head)?;
                if self.buffer.len() >= length {
                    let rest = self.buffer.split_off(length);
                    let message = Message::decode(&std::mem::replace(&mut self.buffer, rest))?;
                    let count = self.descriptors.len().min(message.descriptors as usize);
                    return Ok((message, self.descriptors.drain(..count).collect()));
                }
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> Result<(), Error> {
        let mut chunk = [0; 4096];
        let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(&mut chunk)];
        let received =
            recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).map_err(io::Error::from)?;
        for control in received.cmsgs().map_err(io::Error::from)? {
            if let ControlMessageOwned::ScmRights(found) = control {
                self.descriptors.extend(found.into_iter().map(Descriptor));
            }
        }
        let count = received.bytes;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(())
    }
}

/// Reads a line of the handshake, which has to begin like this.
fn expect(stream: &mut UnixStream, beginning: &str) -> Result<(), Error> {
    const LONGEST: usize = 512;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < LONGEST {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    if line.starts_with(beginning) { Ok(()) } else { Err(Error::Refused(line)) }
}

#[cfg(test)]
pub mod testing {
    //! The other side: a service on a bus, for tests.

    use std::io::IoSlice;
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    impl Connection {
        /// Takes a name on the bus.
        pub fn own(&mut self, name: &str) {
            let arguments = vec![Value::text(name), Value::Uint(4)];
            let (answer, _) = self
                .call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName", arguments)
                .expect("the bus gives it");
            assert_eq!(answer, [Value::Uint(1)]);
        }

        /// Answers a call, with a descriptor if there is one.
        pub fn answer(&mut self, call: &Message, body: Vec<Value>, descriptor: Option<&dyn AsRawFd>) {
            let message = Message {
                kind: ANSWER,
                serial: 1_000,
                reply_serial: call.serial,
                destination: call.sender.clone(),
                body,
                descriptors: u32::from(descriptor.is_some()),
                ..Message::default()
            };
            let bytes = message.encode();
            let raw: Vec<RawFd> = descriptor.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
            let sent = sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::empty(), None);
            assert_eq!(sent, Ok(bytes.len()));
        }

        pub fn signal(&mut self, path: &str, interface: &str, member: &str, body: Vec<Value>) {
            let message = Message {
                kind: SIGNAL,
                path: path.to_owned(),
                interface: interface.to_owned(),
                member: member.to_owned(),
                body,
                ..Message::default()
            };
            self.send(message).expect("the bus takes it");
        }
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let message = Message {
            kind: CALL,
            serial: 7,
            path: "/a".to_owned(),
            interface: "b.c".to_owned(),
            member: "D".to_owned(),
            destination: "e.f".to_owned(),
            body: vec![
                Value::Bool(true),
                Value::text("text"),
                Value::Variant(Box::new(Value::Long(1 << 40))),
                Value::Int(-3),
                Value::Descriptor(0),
            ],
            descriptors: 1,
            ..Message::default()
        };
        let bytes = message.encode();
        let head = bytes.first_chunk().expect("it is long enough");
        assert_eq!(Message::length(head).expect("it is well formed"), bytes.len());
        assert_eq!(Message::decode(&bytes).expect("it is well formed"), message);
        for cut in 0..bytes.len() {
            // Whatever is cut off, nothing is read beyond the end.
            let _ = Message::decode(&bytes[..cut]);
        }
        let mut nested = message.encode();
        nested.truncate(16);
        assert!(Message::decode(&nested).is_err());
    }
}
