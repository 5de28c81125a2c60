//! What surrounds messages: the `k8s\0` envelope, lists of encoded items, and the frames of watch streams.

use std::borrow::Cow;

use super::DecodeError;
use super::wire::{BYTES, Reader, Writer};

/// The first bytes of every enveloped object.
pub const PREFIX: &[u8; 4] = b"k8s\0";

/// An opened envelope (`runtime.Unknown`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unknown<'b> {
    pub api_version: Cow<'b, str>,
    pub kind: Cow<'b, str>,
    /// The object's message.
    pub raw: &'b [u8],
    pub content_encoding: Cow<'b, str>,
    pub content_type: Cow<'b, str>,
}

/// Puts a message into an envelope.
pub fn wrap(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut w = Writer::with_capacity(message.len() + api_version.len() + kind.len() + 32);
    w.bytes_field(4, b"");
    w.bytes_field(3, b"");
    w.bytes_field(2, message);
    let mark = w.len();
    w.bytes_field(2, kind.as_bytes());
    w.bytes_field(1, api_version.as_bytes());
    w.close(1, mark);
    w.raw(PREFIX);
    w.finish()
}

/// Opens an envelope.
pub fn unwrap(data: &[u8]) -> Result<Unknown<'_>, DecodeError> {
    if data.is_empty() {
        return Err(DecodeError::EmptyData);
    }
    let body = data.strip_prefix(PREFIX).ok_or(DecodeError::NoPrefix)?;
    if body.is_empty() {
        return Err(DecodeError::EmptyBody);
    }
    let mut unknown = Unknown::default();
    for_each_bytes(body, "Unknown", &["TypeMeta", "Raw", "ContentEncoding", "ContentType"], |number, bytes| {
        match number {
            1 => for_each_bytes(bytes, "TypeMeta", &["APIVersion", "Kind"], |number, bytes| {
                match number {
                    1 => unknown.api_version = String::from_utf8_lossy(bytes),
                    _ => unknown.kind = String::from_utf8_lossy(bytes),
                }
                Ok(())
            })?,
            2 => unknown.raw = bytes,
            3 => unknown.content_encoding = String::from_utf8_lossy(bytes),
            _ => unknown.content_type = String::from_utf8_lossy(bytes),
        }
        Ok(())
    })?;
    Ok(unknown)
}

/// An envelope around a list of encoded items, in parts: this, each item as [`push_list_item`] writes it, and [`LIST_END`].
///
/// `list_meta` is the message of the list's `ListMeta`; `lengths` are those of the items, in bytes.
pub fn list_begin(api_version: &str, kind: &str, list_meta: &[u8], lengths: impl Iterator<Item = usize>) -> Vec<u8> {
    let mut meta = Vec::with_capacity(list_meta.len() + 8);
    push_bytes_field(&mut meta, 1, list_meta);
    let items: usize = lengths.map(|length| 1 + length_bytes(length) + length).sum();
    let mut type_meta = Vec::with_capacity(api_version.len() + kind.len() + 8);
    push_bytes_field(&mut type_meta, 1, api_version.as_bytes());
    push_bytes_field(&mut type_meta, 2, kind.as_bytes());
    let mut out = PREFIX.to_vec();
    push_bytes_field(&mut out, 1, &type_meta);
    push_head(&mut out, 2, meta.len() + items);
    out.extend_from_slice(&meta);
    out
}

pub fn push_list_item(out: &mut Vec<u8>, item: &[u8]) {
    push_bytes_field(out, 2, item);
}

/// The envelope's empty content encoding and content type.
pub const LIST_END: [u8; 4] = [3 << 3 | BYTES, 0, 4 << 3 | BYTES, 0];

/// The message of an object's `PartialObjectMetadata`, which is its field 1 alone.
pub fn partial_object_metadata(message: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    for_each_bytes(message, "PartialObjectMetadata", &["ObjectMeta"], |_, bytes| {
        push_bytes_field(&mut out, 1, bytes);
        Ok(())
    })?;
    Ok(out)
}

/// A frame of a watch stream: a big-endian length and a `WatchEvent` message without an envelope, around the
/// enveloped object.
pub fn watch_frame(event_type: &str, enveloped: &[u8]) -> Vec<u8> {
    let mut w = Writer::with_capacity(enveloped.len() + event_type.len() + 32);
    let mark = w.len();
    w.bytes_field(1, enveloped);
    w.close(2, mark);
    w.bytes_field(1, event_type.as_bytes());
    let length = u32::try_from(w.len()).expect("an object is far smaller than 4 GiB");
    w.raw(&length.to_be_bytes());
    w.finish()
}

/// Takes the first whole frame off a stream's buffer: the frame's message and what follows it. `None` if it is not
/// all there yet.
pub fn split_frame(buffer: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = buffer.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// The type and the enveloped object of a `WatchEvent` message.
pub fn watch_event(message: &[u8]) -> Result<(Cow<'_, str>, &[u8]), DecodeError> {
    let (mut event_type, mut object) = (Cow::Borrowed(""), &b""[..]);
    for_each_bytes(message, "WatchEvent", &["Type", "Object"], |number, bytes| {
        match number {
            1 => event_type = String::from_utf8_lossy(bytes),
            _ => for_each_bytes(bytes, "RawExtension", &["Raw"], |_, bytes| {
                object = bytes;
                Ok(())
            })?,
        }
        Ok(())
    })?;
    Ok((event_type, object))
}

/// Visits the length-delimited fields 1 to `names.len()` of a message; other fields are passed over.
fn for_each_bytes<'b>(
    message: &'b [u8],
    name: &str,
    fields: &[&str],
    mut visit: impl FnMut(u32, &'b [u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag(name)? {
        match fields.get(tag.number as usize - 1) {
            Some(_) if tag.wire_type == BYTES => visit(tag.number, reader.bytes()?)?,
            Some(field) => return Err(DecodeError::WrongWireType { wire_type: tag.wire_type, field: (*field).to_owned() }),
            None => reader.skip(tag.wire_type)?,
        }
    }
    Ok(())
}

fn push_bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    push_head(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

fn push_head(out: &mut Vec<u8>, number: u8, mut length: usize) {
    out.push(number << 3 | BYTES);
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// How many bytes a length is written in.
fn length_bytes(length: usize) -> usize {
    (usize::BITS - (length | 1).leading_zeros()).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_opens_to_what_was_put_in() {
        let data = wrap("apps/v1", "Deployment", b"\x0a\x00");
        assert_eq!(&data[..], b"k8s\0\x0a\x15\x0a\x07apps/v1\x12\x0aDeployment\x12\x02\x0a\x00\x1a\x00\x22\x00");
        let unknown = unwrap(&data).expect("opens");
        assert_eq!((&*unknown.api_version, &*unknown.kind, unknown.raw), ("apps/v1", "Deployment", &b"\x0a\x00"[..]));
        assert_eq!(unwrap(b"").expect_err("refused").to_string(), "empty data");
        assert_eq!(unwrap(b"k8s\0").expect_err("refused").to_string(), "empty body");
        assert_eq!(unwrap(b"k8s").expect_err("refused"), DecodeError::NoPrefix);
        assert_eq!(unwrap(b"k8s\0\x0a\x05").expect_err("refused"), DecodeError::UnexpectedEof);
    }

    #[test]
    fn frames_are_split_where_they_end() {
        let mut stream = watch_frame("ADDED", b"one");
        stream.extend(watch_frame("DELETED", b""));
        let (first, rest) = split_frame(&stream).expect("whole");
        assert_eq!(watch_event(first), Ok(("ADDED".into(), &b"one"[..])));
        let (second, rest) = split_frame(rest).expect("whole");
        assert_eq!(watch_event(second), Ok(("DELETED".into(), &b""[..])));
        assert_eq!(split_frame(rest), None);
        assert_eq!(split_frame(&stream[..6]), None);
    }

    #[test]
    fn a_list_in_parts_is_an_envelope_around_its_metadata_and_its_items() {
        for length in [0, 1, 127, 128, 16_383, 16_384] {
            let items = [vec![7_u8; length], b"i".to_vec()];
            let mut list = list_begin("v1", "PodList", b"m", items.iter().map(Vec::len));
            let mut message = b"\x0a\x01m".to_vec();
            for item in &items {
                push_list_item(&mut list, item);
                push_bytes_field(&mut message, 2, item);
            }
            list.extend(LIST_END);
            assert_eq!(list, wrap("v1", "PodList", &message), "an item of {length} bytes");
        }
        assert_eq!(partial_object_metadata(b"\x0a\x01m\x10\x05").as_deref(), Ok(&b"\x0a\x01m"[..]));
    }
}
