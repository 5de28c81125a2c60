//! Frames of HTTP/2, written and read by hand.

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header that no table has, without compression.
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = text.len();
        // Lengths of 127 and more go on in groups of seven bits.
        let mut out = if length < 127 { vec![length as u8] } else { vec![127] };
        let mut rest = length.saturating_sub(127);
        while length >= 127 && rest >= 128 {
            out.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        if length >= 127 {
            out.push(rest as u8);
        }
        out.extend_from_slice(text.as_bytes());
        out
    };
    [vec![0], text(name), text(value)].concat()
}

/// The head of `GET path`, as somebody with a token if there is one.
pub fn get(path: &str, token: &str) -> Vec<u8> {
    // `:method: GET` and `:scheme: https` are in the table.
    let mut head = [vec![0x82, 0x87], literal(":path", path), literal(":authority", "a")].concat();
    if !token.is_empty() {
        head.extend(literal("authorization", &format!("Bearer {token}")));
    }
    head
}

/// The frames that a server has sent: kind, and payload.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let Some(payload) = bytes.get(9..9 + length) else { break };
        all.push((bytes[3], payload));
        bytes = &bytes[9 + length..];
    }
    all
}
