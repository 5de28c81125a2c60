//! Lines of a container's log file, and what of them is shown. Pure.
//!
//! The runtime writes `<time> <stdout|stderr> <tags> <text>`, where tag `P` marks a part of a line that goes on in the next.

use jiff::Timestamp;

use super::Options;

/// One entry of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// As written, in the zone of whoever wrote it.
    pub time: &'a str,
    pub at: Timestamp,
    /// With the line's end, unless the entry is a part of a line.
    pub text: &'a [u8],
}

/// Why a line is no entry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("timestamp is not found")]
    NoTimestamp,
    #[error("unexpected timestamp format \"2006-01-02T15:04:05.999999999Z07:00\": {0}")]
    Timestamp(String),
    #[error("stream type is not found")]
    NoStream,
    #[error("unexpected stream type \"{0}\"")]
    Stream(String),
    #[error("log tag is not found")]
    NoTag,
}

/// Reads an entry.
pub fn parse(line: &[u8]) -> Result<Entry<'_>, Error> {
    let (time, rest) = word(line).ok_or(Error::NoTimestamp)?;
    let time = std::str::from_utf8(time).map_err(|_| Error::NoTimestamp)?;
    let at = time.parse().map_err(|_| Error::Timestamp(time.to_owned()))?;
    let (stream, rest) = word(rest).ok_or(Error::NoStream)?;
    if stream != b"stdout" && stream != b"stderr" {
        return Err(Error::Stream(String::from_utf8_lossy(stream).into_owned()));
    }
    let (tags, text) = word(rest).ok_or(Error::NoTag)?;
    let is_part = tags.split(|byte| *byte == b':').next() == Some(b"P".as_slice());
    let text = if is_part { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
    Ok(Entry { time, at, text })
}

fn word(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b' ')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// The time with all nine digits of its fraction, so that lines stand in columns.
fn fixed_width(time: &str) -> String {
    let zone = time.find(['Z', 'z']).or_else(|| time.rfind(['+', '-']).filter(|at| *at > "2006-01-02".len())).unwrap_or(time.len());
    let (clock, zone) = time.split_at(zone);
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    format!("{seconds}.{fraction}{zone}")
}

/// Writes entries as a client is to see them.
pub struct Printer<'a> {
    options: &'a Options,
    remaining_bytes: u64,
    /// The next entry begins a line.
    begins_line: bool,
}

impl<'a> Printer<'a> {
    pub fn new(options: &'a Options) -> Printer<'a> {
        Printer { options, remaining_bytes: options.limit_bytes.unwrap_or(u64::MAX), begins_line: true }
    }

    /// Appends the entry to `out`, and says whether there may be more.
    pub fn print(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) -> bool {
        let begins_line = std::mem::replace(&mut self.begins_line, entry.text.last().is_none_or(|byte| *byte == b'\n'));
        if self.options.since.is_some_and(|since| entry.at < since) {
            return true;
        }
        if self.options.timestamps && begins_line {
            self.append(format!("{} ", fixed_width(entry.time)).as_bytes(), out);
        }
        self.append(entry.text, out);
        self.remaining_bytes > 0
    }

    fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let fits = usize::try_from(self.remaining_bytes).unwrap_or(usize::MAX).min(bytes.len());
        out.extend_from_slice(&bytes[..fits]);
        self.remaining_bytes -= fits as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read() {
        let entry = parse(b"2026-10-06T00:17:09.66979Z stdout F log content 1\n").unwrap();
        assert_eq!((entry.time, entry.text), ("2026-10-06T00:17:09.66979Z", b"log content 1\n".as_slice()));
        assert_eq!(parse(b"2026-10-06T00:17:09Z stderr P part\n").unwrap().text, b"part");
        assert_eq!(parse(b"2026-10-06T00:17:09Z stderr P:TAG part\n").unwrap().text, b"part");
        assert_eq!(parse(b"2026-10-06T00:17:09+02:00 stderr F \n").unwrap().text, b"\n");
    }

    #[test]
    fn what_is_no_entry_says_why() {
        assert_eq!(parse(b"x\n"), Err(Error::NoTimestamp));
        assert_eq!(parse(b"x stdout F a\n"), Err(Error::Timestamp("x".to_owned())));
        assert_eq!(parse(b"2026-10-06T00:17:09Z stdin F a\n"), Err(Error::Stream("stdin".to_owned())));
        assert_eq!(parse(b"2026-10-06T00:17:09Z stdout\n"), Err(Error::NoStream));
        assert_eq!(parse(b"2026-10-06T00:17:09Z stdout F\n"), Err(Error::NoTag));
    }

    fn shown(options: Options, lines: &[&str]) -> (String, bool) {
        let mut printer = Printer::new(&options);
        let mut out = Vec::new();
        let mut more = true;
        for line in lines {
            more = printer.print(&parse(line.as_bytes()).unwrap(), &mut out);
            if !more {
                break;
            }
        }
        (String::from_utf8(out).unwrap(), more)
    }

    #[test]
    fn a_line_in_parts_has_one_timestamp() {
        let lines = ["2026-10-06T00:17:09.5Z stdout P a\n", "2026-10-06T00:17:10Z stdout F b\n", "2026-10-06T00:17:11+02:00 stdout F c\n"];
        let options = Options { timestamps: true, ..Options::default() };
        let expected = "2026-10-06T00:17:09.500000000Z ab\n2026-10-06T00:17:11.000000000+02:00 c\n";
        assert_eq!(shown(options, &lines), (expected.to_owned(), true));
    }

    #[test]
    fn old_entries_are_left_out_and_bytes_are_counted() {
        let lines = ["2026-10-06T00:17:09Z stdout F old\n", "2026-10-06T00:17:10Z stdout F new\n", "2026-10-06T00:17:11Z stdout F newer\n"];
        let since = Some("2026-10-06T00:17:10Z".parse().unwrap());
        assert_eq!(shown(Options { since, ..Options::default() }, &lines), ("new\nnewer\n".to_owned(), true));
        assert_eq!(shown(Options { since, limit_bytes: Some(6), ..Options::default() }, &lines), ("new\nne".to_owned(), false));
    }
}
