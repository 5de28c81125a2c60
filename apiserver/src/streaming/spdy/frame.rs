//! Frames of SPDY/3.1: bytes to values and back. Pure but for the compression state that a direction of a connection has.

use super::headers::{self, Headers, Packer, Unpacker};

const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
const FIN: u8 = 0x01;
/// The largest length that a frame can tell.
const MAX_LENGTH: usize = (1 << 24) - 1;
/// A control frame's payload. Those of Kubernetes have some hundred bytes.
pub const MAX_CONTROL_BYTES: usize = 1 << 20;
/// The head of every frame.
pub const HEAD_BYTES: usize = 8;

/// What a control frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    SynStream {
        id: u32,
        associated: u32,
        priority: u8,
        unidirectional: bool,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        id: u32,
        status: u32,
    },
    /// Flags, identifier and value of each.
    Settings(Vec<(u8, u32, u32)>),
    Ping(u32),
    GoAway {
        last_good: u32,
        status: u32,
    },
    Headers {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        id: u32,
        delta: u32,
    },
}

/// Statuses of RST_STREAM that we send.
pub mod reset {
    pub const REFUSED_STREAM: u32 = 3;
    pub const CANCEL: u32 = 5;
}

/// The first eight bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Control { version: u16, kind: u16, flags: u8, length: usize },
    Data { id: u32, fin: bool, length: usize },
}

/// Why bytes are no frame, or a frame no bytes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("SPDY version {0}")]
    Version(u16),
    #[error("a control frame of {0} bytes")]
    TooLarge(usize),
    #[error("a control frame of type {0}")]
    Kind(u16),
    #[error("a control frame of type {0} ends too soon")]
    Short(u16),
    #[error("a frame of stream zero")]
    StreamZero,
    #[error(transparent)]
    Headers(#[from] headers::Error),
}

impl Head {
    pub fn parse(bytes: &[u8; HEAD_BYTES]) -> Head {
        let [a, b, c, d, flags, x, y, z] = *bytes;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        let first = u16::from_be_bytes([a, b]);
        if first & CONTROL != 0 {
            return Head::Control { version: first & !CONTROL, kind: u16::from_be_bytes([c, d]), flags, length };
        }
        Head::Data { id: u32::from_be_bytes([a, b, c, d]), fin: flags & FIN != 0, length }
    }
}

/// The head of a data frame, which its bytes follow.
pub fn data_head(id: u32, fin: bool, length: usize) -> [u8; HEAD_BYTES] {
    let [a, b, c, d] = (id & 0x7fff_ffff).to_be_bytes();
    let [_, x, y, z] = (length.min(MAX_LENGTH) as u32).to_be_bytes();
    [a, b, c, d, if fin { FIN } else { 0 }, x, y, z]
}

/// Reads control frames.
pub struct Decoder(Unpacker);

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    pub fn new() -> Decoder {
        Decoder(Unpacker::new())
    }

    /// `kind` and `flags` are the head's.
    pub fn control(&mut self, version: u16, kind: u16, flags: u8, payload: &[u8]) -> Result<Control, Error> {
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let mut rest = payload;
        let mut number = || -> Result<u32, Error> {
            let (bytes, after) = rest.split_first_chunk::<4>().ok_or(Error::Short(kind))?;
            rest = after;
            Ok(u32::from_be_bytes(*bytes))
        };
        let fin = flags & FIN != 0;
        let stream = |id: u32| if id & 0x7fff_ffff == 0 { Err(Error::StreamZero) } else { Ok(id & 0x7fff_ffff) };
        Ok(match kind {
            1 => {
                let (id, associated) = (stream(number()?)?, number()?);
                let (slots, block) = rest.split_first_chunk::<2>().ok_or(Error::Short(kind))?;
                let headers = self.0.unpack(block)?;
                Control::SynStream { id, associated, priority: slots[0] >> 5, unidirectional: flags & 0x02 != 0, fin, headers }
            }
            2 => {
                let id = stream(number()?)?;
                Control::SynReply { id, fin, headers: self.0.unpack(rest)? }
            }
            3 => Control::RstStream { id: stream(number()?)?, status: number()? },
            4 => {
                let count = number()?;
                let mut settings = Vec::new();
                for _ in 0..count {
                    let (id, value) = (number()?, number()?);
                    settings.push(((id >> 24) as u8, id & 0x00ff_ffff, value));
                }
                Control::Settings(settings)
            }
            6 => Control::Ping(number()?),
            7 => Control::GoAway { last_good: number()?, status: number()? },
            8 => {
                let id = stream(number()?)?;
                Control::Headers { id, fin, headers: self.0.unpack(rest)? }
            }
            9 => Control::WindowUpdate { id: number()?, delta: number()? },
            other => return Err(Error::Kind(other)),
        })
    }
}

/// Writes control frames.
pub struct Encoder(Packer);

impl Encoder {
    pub fn new() -> Result<Encoder, Error> {
        Ok(Encoder(Packer::new()?))
    }

    /// Appends the frame to `out`.
    pub fn control(&mut self, frame: &Control, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut payload = Vec::new();
        let mut numbers = |numbers: &[u32]| numbers.iter().for_each(|number| payload.extend_from_slice(&number.to_be_bytes()));
        let flag = |fin: &bool| if *fin { FIN } else { 0 };
        let (kind, flags): (u16, u8) = match frame {
            Control::SynStream { id, associated, priority, unidirectional, fin, headers } => {
                numbers(&[*id, *associated]);
                payload.extend_from_slice(&[priority << 5, 0]);
                self.0.pack(headers, &mut payload)?;
                (1, flag(fin) | if *unidirectional { 0x02 } else { 0 })
            }
            Control::SynReply { id, fin, headers } => {
                numbers(&[*id]);
                self.0.pack(headers, &mut payload)?;
                (2, flag(fin))
            }
            Control::RstStream { id, status } => {
                numbers(&[*id, *status]);
                (3, 0)
            }
            Control::Settings(settings) => {
                numbers(&[settings.len() as u32]);
                settings.iter().for_each(|(flags, id, value)| numbers(&[u32::from(*flags) << 24 | id, *value]));
                (4, 0)
            }
            Control::Ping(id) => {
                numbers(&[*id]);
                (6, 0)
            }
            Control::GoAway { last_good, status } => {
                numbers(&[*last_good, *status]);
                (7, 0)
            }
            Control::Headers { id, fin, headers } => {
                numbers(&[*id]);
                self.0.pack(headers, &mut payload)?;
                (8, flag(fin))
            }
            Control::WindowUpdate { id, delta } => {
                numbers(&[*id, *delta]);
                (9, 0)
            }
        };
        if payload.len() > MAX_CONTROL_BYTES {
            return Err(Error::TooLarge(payload.len()));
        }
        out.extend_from_slice(&(CONTROL | VERSION).to_be_bytes());
        out.extend_from_slice(&kind.to_be_bytes());
        let [_, x, y, z] = (payload.len() as u32).to_be_bytes();
        out.extend_from_slice(&[flags, x, y, z]);
        out.extend_from_slice(&payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(encoder: &mut Encoder, decoder: &mut Decoder, frame: &Control) -> Control {
        let mut bytes = Vec::new();
        encoder.control(frame, &mut bytes).unwrap();
        let (head, payload) = bytes.split_first_chunk::<HEAD_BYTES>().unwrap();
        let Head::Control { version, kind, flags, length } = Head::parse(head) else { panic!("no control frame") };
        assert_eq!(length, payload.len());
        decoder.control(version, kind, flags, payload).unwrap()
    }

    #[test]
    fn frames_survive_the_wire() {
        let headers = vec![("streamtype".to_owned(), "stdin".to_owned())];
        let frames = [
            Control::SynStream { id: 1, associated: 0, priority: 3, unidirectional: false, fin: true, headers: headers.clone() },
            Control::SynReply { id: 1, fin: false, headers: Vec::new() },
            Control::RstStream { id: 1, status: reset::CANCEL },
            Control::Settings(vec![(1, 4, 100)]),
            Control::Ping(2),
            Control::GoAway { last_good: 5, status: 0 },
            Control::Headers { id: 3, fin: true, headers },
            Control::WindowUpdate { id: 1, delta: 65_536 },
        ];
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
        for frame in frames {
            assert_eq!(round_trip(&mut encoder, &mut decoder, &frame), frame);
        }
    }

    #[test]
    fn bytes_are_as_specified() {
        let mut bytes = Vec::new();
        Encoder::new().unwrap().control(&Control::Ping(1), &mut bytes).unwrap();
        assert_eq!(bytes, [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
        assert_eq!(data_head(5, true, 300), [0, 0, 0, 5, 1, 0, 1, 44]);
        assert_eq!(Head::parse(&data_head(5, true, 300)), Head::Data { id: 5, fin: true, length: 300 });
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut decoder = Decoder::new();
        assert!(matches!(decoder.control(2, 6, 0, &[0; 4]), Err(Error::Version(2))));
        assert!(matches!(decoder.control(3, 5, 0, &[]), Err(Error::Kind(5))));
        assert!(matches!(decoder.control(3, 3, 0, &[0, 0, 0, 1]), Err(Error::Short(3))));
        assert!(matches!(decoder.control(3, 3, 0, &[0; 8]), Err(Error::StreamZero)));
        assert!(matches!(decoder.control(3, 4, 0, &[0xff; 4]), Err(Error::Short(4))));
    }
}
