//! Talks to the kernel's netfilter over netlink: messages, attributes, dumps and acknowledgements. Knows no subsystem.
//!
//! Blocking; callers run it where that does no harm.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP: u16 = 0x300;

const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are not flags.
const TYPE_MASK: u16 = 0x3fff;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP_INTERRUPTED: u16 = 0x10;

const HEADER_BYTES: usize = 16;
/// A netfilter message begins with the family, a version and a resource.
const NETFILTER_HEADER_BYTES: usize = 4;
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// The kernel writes at most so much at once.
const RECEIVE_BYTES: usize = 64 << 10;
/// What the kernel needs beside the bytes that are sent.
const SEND_MARGIN_BYTES: usize = 4096;
/// Failures of a transaction are told for each message, up to so much.
const TRANSACTION_RECEIVE_BYTES: usize = 1 << 20;
/// It answers at once; a missing answer is an error.
const TIMEOUT_S: i64 = 10;

fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// A message under construction.
pub struct Message(Vec<u8>);

impl Message {
    /// `kind` is the subsystem in the upper byte and the message in the lower.
    pub fn new(kind: u16, flags: u16, family: u8) -> Message {
        let mut bytes = vec![0; HEADER_BYTES + NETFILTER_HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes[HEADER_BYTES] = family;
        Message(bytes)
    }

    pub fn attribute(&mut self, kind: u16, payload: &[u8]) {
        let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + payload.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(align(self.0.len()), 0);
    }

    pub fn text(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// A number in the order of the network.
    pub fn number(&mut self, kind: u16, number: u32) {
        self.attribute(kind, &number.to_be_bytes());
    }

    /// An attribute whose payload is the attributes that `fill` writes. Together they may have 64 KiB.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; ATTRIBUTE_HEADER_BYTES]);
        fill(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
    }

    /// The resource of a message that has one, such as the subsystem of a batch.
    pub fn resource(&mut self, resource: u16) {
        self.0[HEADER_BYTES + 2..HEADER_BYTES + 4].copy_from_slice(&resource.to_be_bytes());
    }

    /// Another flag for the message.
    pub fn flag(&mut self, flag: u16) {
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | flag;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    /// How long the message is so far.
    fn length(&self) -> usize {
        self.0.len()
    }

    /// An attribute whose payload is attributes, as it was received.
    pub fn nested(&mut self, kind: u16, payload: &[u8]) {
        self.attribute(kind | NESTED, payload);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// The attributes in a payload: their types, without flags, and payloads. What is cut off is left out.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.get(..ATTRIBUTE_HEADER_BYTES)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        let payload = bytes.get(ATTRIBUTE_HEADER_BYTES..length)?;
        bytes = bytes.get(align(length)..).unwrap_or(&[]);
        Some((kind, payload))
    })
}

/// The payload of the attribute of this type.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, payload)| payload)
}

/// A socket to netfilter, in the network namespace of the thread that has opened it.
pub struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub fn open() -> io::Result<Socket> {
        let descriptor = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
        bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_S))?;
        Ok(Socket { descriptor, sequence: 0 })
    }

    /// Sends a message and calls `each` with what follows the netfilter header of every answer.
    pub fn request(&mut self, message: Message, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        send(self.descriptor.as_raw_fd(), &message.finish(self.sequence), MsgFlags::empty())?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut interrupted = false;
        loop {
            let length = recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some(head) = rest.get(..HEADER_BYTES) {
                let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
                let kind = u16::from_ne_bytes([head[4], head[5]]);
                let flags = u16::from_ne_bytes([head[6], head[7]]);
                let sequence = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
                let Some(body) = rest.get(HEADER_BYTES..length) else { break };
                rest = rest.get(align(length)..).unwrap_or(&[]);
                if sequence != self.sequence {
                    continue;
                }
                interrupted |= flags & DUMP_INTERRUPTED != 0;
                match kind {
                    DONE if interrupted => return Err(io::Error::new(io::ErrorKind::Interrupted, "the table changed while it was read")),
                    DONE => return Ok(()),
                    ERROR => {
                        let code = body.get(..4).map_or(0, |code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => each(body.get(NETFILTER_HEADER_BYTES..).unwrap_or(&[])),
                }
            }
        }
    }
}

impl Socket {
    /// Sends messages that hold together as one, and waits for the kernel's word about them: all are done, or none.
    pub fn transact(&mut self, messages: Vec<Message>) -> io::Result<()> {
        let count = messages.len();
        let mut bytes = Vec::with_capacity(messages.iter().map(Message::length).sum());
        for (place, mut message) in messages.into_iter().enumerate() {
            // The last one before the end is acknowledged; of the others only failures are told.
            if place + 2 == count {
                message.flag(ACK);
            }
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend_from_slice(&message.finish(self.sequence));
        }
        let room = bytes.len() + SEND_MARGIN_BYTES;
        setsockopt(&self.descriptor, sockopt::SndBufForce, &room)?;
        setsockopt(&self.descriptor, sockopt::RcvBufForce, &TRANSACTION_RECEIVE_BYTES)?;
        // The kernel has done everything when this comes back, and its answers are there.
        send(self.descriptor.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        let (mut acknowledged, mut failure) = (false, None);
        loop {
            let length = match recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            let mut rest = &buffer[..length];
            while let Some(head) = rest.get(..HEADER_BYTES) {
                let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
                let Some(body) = rest.get(HEADER_BYTES..length) else { break };
                if u16::from_ne_bytes([head[4], head[5]]) == ERROR {
                    let code = body.get(..4).map_or(0, |code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]));
                    let about = body.get(4..).and_then(|message| Some(u16::from_ne_bytes([*message.get(4)?, *message.get(5)?])));
                    acknowledged |= code == 0;
                    if code != 0 && failure.is_none() {
                        let error = io::Error::from_raw_os_error(-code);
                        failure = Some(io::Error::new(error.kind(), format!("message {:#06x}: {error}", about.unwrap_or(0))));
                    }
                }
                rest = rest.get(align(length)..).unwrap_or(&[]);
            }
        }
        match failure {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(io::Error::other("the kernel has not acknowledged the transaction")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut message = Message::new(0x101, ACK, 2);
        message.attribute(1, b"abc");
        message.nested(2, b"12345678");
        let bytes = message.finish(7);
        assert_eq!(bytes.len(), 20 + 8 + 12);
        let body = &bytes[20..];
        assert_eq!(attributes(body).collect::<Vec<_>>(), [(1, &b"abc"[..]), (2, &b"12345678"[..])]);
        assert_eq!(find(body, 2), Some(&b"12345678"[..]));
        assert_eq!(attributes(&body[..10]).count(), 1, "what is cut off is left out");
    }
}
