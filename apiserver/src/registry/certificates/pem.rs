//! PEM as upstream reads it: whatever stands between blocks is skipped, and so is a block that is broken.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// `CERTIFICATE`.
    pub label: String,
    pub has_headers: bool,
    pub bytes: Vec<u8>,
}

/// The blocks of a text, in order.
pub struct Blocks<'a> {
    rest: &'a str,
}

/// Looks for blocks; bytes that are no UTF-8 end the search, since no block has them.
pub fn blocks(text: &[u8]) -> Blocks<'_> {
    let rest = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or(""),
    };
    Blocks { rest }
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        loop {
            let start = find_line_start(self.rest, BEGIN)?;
            let after = &self.rest[start + BEGIN.len()..];
            let (line, body) = after.split_once('\n').unwrap_or((after, ""));
            let Some(label) = line.trim_end().strip_suffix(DASHES) else {
                self.rest = after;
                continue;
            };
            let end_line = format!("{END}{label}{DASHES}");
            let Some(end) = find_line_start(body, &end_line) else {
                self.rest = after;
                continue;
            };
            let tail = &body[end + end_line.len()..];
            self.rest = tail;
            if let Some(block) = decode(label, &body[..end]) {
                return Some(block);
            }
        }
    }
}

/// Where a line that starts with `wanted` starts.
fn find_line_start(text: &str, wanted: &str) -> Option<usize> {
    text.match_indices(wanted).map(|(at, _)| at).find(|at| *at == 0 || text.as_bytes()[at - 1] == b'\n')
}

fn decode(label: &str, body: &str) -> Option<Block> {
    let (mut base64, mut has_headers) = (String::with_capacity(body.len()), false);
    for line in body.lines() {
        if base64.is_empty() && line.contains(':') {
            has_headers = true;
            continue;
        }
        base64.extend(line.chars().filter(|c| !c.is_ascii_whitespace()));
    }
    let bytes = STANDARD.decode(base64).ok()?;
    Some(Block { label: label.to_owned(), has_headers, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_among_other_text() {
        let text =
            "hello\n-----BEGIN A-----\nYWJj\n-----END A-----\nx -----BEGIN B-----\n-----BEGIN C-----\nk: v\n\nYWJj\n-----END C-----\n";
        let found: Vec<Block> = blocks(text.as_bytes()).collect();
        assert_eq!(
            found,
            [
                Block { label: "A".to_owned(), has_headers: false, bytes: b"abc".to_vec() },
                Block { label: "C".to_owned(), has_headers: true, bytes: b"abc".to_vec() },
            ]
        );
    }

    #[test]
    fn broken_blocks_are_skipped() {
        let text = "-----BEGIN A-----\n***\n-----END A-----\n-----BEGIN B-----\n-----BEGIN D-----\nYQ==\n-----END D-----";
        assert_eq!(blocks(text.as_bytes()).map(|b| b.label).collect::<Vec<_>>(), ["D"]);
        assert_eq!(blocks(b"\xff\xfe").count(), 0);
    }
}
