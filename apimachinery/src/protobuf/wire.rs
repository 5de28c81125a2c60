//! Protobuf's wire primitives: a bounds-checked reader and a writer that fills its buffer from the end.
//!
//! Knows varints, tags, lengths and groups; knows no Kubernetes type. The reader accepts and refuses what the
//! generated Go code of the API types accepts and refuses, with the same error texts.

use super::DecodeError;

/// The wire types that can carry a value.
pub const VARINT: u8 = 0;
pub const FIXED64: u8 = 1;
pub const BYTES: u8 = 2;
pub const START_GROUP: u8 = 3;
pub const END_GROUP: u8 = 4;
pub const FIXED32: u8 = 5;

/// A field's number and wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub number: u32,
    pub wire_type: u8,
}

/// Reads primitives from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    pub fn new(bytes: &'b [u8]) -> Reader<'b> {
        Reader { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// A varint of at most ten bytes; bits beyond the 64th are dropped, as the Go code drops them.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let (first, rest) = self.rest.split_first().ok_or(DecodeError::UnexpectedEof)?;
            self.rest = rest;
            value |= u64::from(first & 0x7f) << shift;
            if *first < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::IntOverflow)
    }

    /// The next field's tag, or `None` at the end of the message. `message` names the message in errors.
    pub fn tag(&mut self, message: &str) -> Result<Option<Tag>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let wire = self.varint()?;
        let wire_type = (wire & 7) as u8;
        if wire_type == END_GROUP {
            return Err(DecodeError::EndGroup { message: message.to_owned() });
        }
        // The Go code narrows the number to an int32 before it looks at it.
        match (wire >> 3) as i32 {
            number @ 1.. => Ok(Some(Tag { number: number as u32, wire_type })),
            number => Err(DecodeError::IllegalTag { message: message.to_owned(), number, wire }),
        }
    }

    /// A length and that many bytes.
    pub fn bytes(&mut self) -> Result<&'b [u8], DecodeError> {
        let length = self.varint()?;
        let length = i64::try_from(length).map_err(|_| DecodeError::InvalidLength)?;
        self.take(usize::try_from(length).map_err(|_| DecodeError::UnexpectedEof)?)
    }

    pub fn fixed64(&mut self) -> Result<u64, DecodeError> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().rev().fold(0, |value, b| value << 8 | u64::from(*b)))
    }

    /// Passes over the value of a field of this wire type, groups included.
    pub fn skip(&mut self, wire_type: u8) -> Result<(), DecodeError> {
        let mut depth = 0_usize;
        let mut wire_type = wire_type;
        loop {
            match wire_type {
                VARINT => {
                    self.varint()?;
                }
                FIXED64 => {
                    self.take(8)?;
                }
                BYTES => {
                    self.bytes()?;
                }
                START_GROUP => depth += 1,
                END_GROUP => depth = depth.checked_sub(1).ok_or(DecodeError::UnexpectedEndOfGroup)?,
                FIXED32 => {
                    self.take(4)?;
                }
                other => return Err(DecodeError::IllegalWireType(other)),
            }
            if depth == 0 {
                return Ok(());
            }
            wire_type = (self.varint()? & 7) as u8;
        }
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::UnexpectedEof)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Builds a message back to front, so that a nested message's length is known when it is written, in one pass.
///
/// Every method puts its bytes *before* all that was written earlier: the payload first, then its length, then its tag.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
    start: usize,
}

impl Writer {
    pub fn with_capacity(capacity: usize) -> Writer {
        Writer { buffer: vec![0; capacity], start: capacity }
    }

    /// How many bytes have been written.
    pub fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.buffer.drain(..self.start);
        self.buffer
    }

    /// Raw bytes, in their own order.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let end = self.start;
        self.start -= bytes.len();
        self.buffer[self.start..end].copy_from_slice(bytes);
    }

    pub fn varint(&mut self, mut value: u64) {
        let mut bytes = [0_u8; 10];
        let mut count = 0;
        loop {
            let more = value >= 0x80;
            bytes[count] = (value & 0x7f) as u8 | if more { 0x80 } else { 0 };
            count += 1;
            if !more {
                break;
            }
            value >>= 7;
        }
        self.raw(&bytes[..count]);
    }

    pub fn tag(&mut self, number: u32, wire_type: u8) {
        self.varint(u64::from(number) << 3 | u64::from(wire_type));
    }

    pub fn varint_field(&mut self, number: u32, value: u64) {
        self.varint(value);
        self.tag(number, VARINT);
    }

    pub fn fixed64_field(&mut self, number: u32, value: u64) {
        self.raw(&value.to_le_bytes());
        self.tag(number, FIXED64);
    }

    pub fn bytes_field(&mut self, number: u32, bytes: &[u8]) {
        self.raw(bytes);
        self.varint(bytes.len() as u64);
        self.tag(number, BYTES);
    }

    /// Makes all that was written since [`Writer::len`] was `mark` the payload of a length-delimited field.
    pub fn close(&mut self, number: u32, mark: usize) {
        self.varint((self.len() - mark) as u64);
        self.tag(number, BYTES);
    }

    fn reserve(&mut self, extra: usize) {
        if self.start >= extra {
            return;
        }
        let used = self.len();
        let capacity = (used + extra).next_power_of_two().max(64);
        let mut grown = vec![0; capacity];
        grown[capacity - used..].copy_from_slice(&self.buffer[self.start..]);
        self.buffer = grown;
        self.start = capacity - used;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_backwards_reads_forwards() {
        let mut w = Writer::default();
        w.varint_field(3, u64::MAX);
        let mark = w.len();
        w.bytes_field(1, b"abc");
        w.close(2, mark);
        w.fixed64_field(1, 7);
        let bytes = w.finish();
        let mut r = Reader::new(&bytes);
        assert_eq!(r.tag("m"), Ok(Some(Tag { number: 1, wire_type: FIXED64 })));
        assert_eq!(r.fixed64(), Ok(7));
        assert_eq!(r.tag("m"), Ok(Some(Tag { number: 2, wire_type: BYTES })));
        assert_eq!(r.bytes(), Ok(&b"\x0a\x03abc"[..]));
        assert_eq!(r.tag("m"), Ok(Some(Tag { number: 3, wire_type: VARINT })));
        assert_eq!(r.varint(), Ok(u64::MAX));
        assert_eq!(r.tag("m"), Ok(None));
    }

    #[test]
    fn malformed_input_is_refused_with_the_texts_of_the_go_code() {
        let tag = |bytes: &[u8]| Reader::new(bytes).tag("Pod").expect_err("refused").to_string();
        assert_eq!(tag(&[0x80]), "unexpected EOF");
        assert_eq!(tag(&[0xff; 11]), "proto: integer overflow");
        assert_eq!(tag(&[0x0c]), "proto: Pod: wiretype end group for non-group");
        assert_eq!(tag(&[0x02]), "proto: Pod: illegal tag 0 (wire type 2)");
        let skip = |wire_type, bytes: &[u8]| Reader::new(bytes).skip(wire_type).expect_err("refused").to_string();
        assert_eq!(skip(BYTES, &[5, 1]), "unexpected EOF");
        assert_eq!(
            skip(BYTES, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            "proto: negative length found during unmarshaling"
        );
        assert_eq!(skip(7, &[]), "proto: illegal wireType 7");
        assert_eq!(skip(START_GROUP, &[0x08]), "unexpected EOF");
        assert_eq!(Reader::new(&[0x0b, 0x08, 0x01, 0x0c, 0x0c]).skip(START_GROUP), Ok(()));
    }
}
