//! Blocks of headers: names and values, compressed with one zlib stream for each direction of a connection.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary;

/// Headers of one block, as upstream's peers allow.
const MAX_HEADERS: u32 = 1_000;
/// A block, unpacked.
const MAX_BLOCK_BYTES: usize = 1 << 20;
/// Room that (de)compression is given at a time.
const STEP_BYTES: usize = 4 * 1024;

/// Names in lower case, and values; a name with several values stands once for each.
pub type Headers = Vec<(String, String)>;

/// Why a block cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("compressed headers: {0}")]
    Decompress(#[from] flate2::DecompressError),
    #[error("compressing headers: {0}")]
    Compress(#[from] flate2::CompressError),
    #[error("headers end too soon")]
    Short,
    #[error("headers are too large")]
    TooLarge,
    #[error("headers are no text")]
    NotText,
}

/// Packs blocks.
pub struct Packer(Compress);

impl Packer {
    pub fn new() -> Result<Packer, Error> {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&dictionary::bytes())?;
        Ok(Packer(compress))
    }

    /// Appends the packed block to `out`.
    pub fn pack(&mut self, headers: &Headers, out: &mut Vec<u8>) -> Result<(), Error> {
        let plain = plain_block(headers);
        let mut rest = plain.as_slice();
        loop {
            out.reserve(STEP_BYTES);
            let before = self.0.total_in();
            self.0.compress_vec(rest, out, FlushCompress::Sync)?;
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(rest.len());
            rest = rest.get(taken..).unwrap_or_default();
            // With room left over, everything has been flushed.
            if rest.is_empty() && out.len() < out.capacity() {
                return Ok(());
            }
        }
    }
}

fn plain_block(headers: &Headers) -> Vec<u8> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in headers {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut out = Vec::new();
    let text = |bytes: &[u8], out: &mut Vec<u8>| {
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    out.extend_from_slice(&(names.len() as u32).to_be_bytes());
    for name in names {
        let values: Vec<&str> = headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect();
        text(name.as_bytes(), &mut out);
        text(values.join("\0").as_bytes(), &mut out);
    }
    out
}

/// Unpacks blocks.
pub struct Unpacker {
    decompress: Decompress,
}

impl Unpacker {
    pub fn new() -> Unpacker {
        Unpacker { decompress: Decompress::new(true) }
    }

    pub fn unpack(&mut self, packed: &[u8]) -> Result<Headers, Error> {
        let mut plain = Vec::new();
        let mut rest = packed;
        loop {
            plain.reserve(STEP_BYTES);
            let (read, written) = (self.decompress.total_in(), self.decompress.total_out());
            let outcome = self.decompress.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.decompress.total_in() - read).unwrap_or(rest.len());
            rest = rest.get(taken..).unwrap_or_default();
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.decompress.set_dictionary(&dictionary::bytes())?;
                    continue;
                }
                Err(error) => return Err(error.into()),
                Ok(Status::StreamEnd) => break,
                Ok(Status::Ok | Status::BufError) => {}
            }
            if plain.len() > MAX_BLOCK_BYTES {
                return Err(Error::TooLarge);
            }
            let stands_still = taken == 0 && self.decompress.total_out() == written;
            if stands_still || (rest.is_empty() && plain.len() < plain.capacity()) {
                break;
            }
        }
        read_block(&plain)
    }
}

fn read_block(mut plain: &[u8]) -> Result<Headers, Error> {
    let count = number(&mut plain)?;
    if count > MAX_HEADERS {
        return Err(Error::TooLarge);
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut plain)?.to_ascii_lowercase();
        let values = text(&mut plain)?;
        headers.extend(values.split('\0').map(|value| (name.clone(), value.to_owned())));
    }
    Ok(headers)
}

fn number(plain: &mut &[u8]) -> Result<u32, Error> {
    let (bytes, rest) = plain.split_first_chunk::<4>().ok_or(Error::Short)?;
    *plain = rest;
    Ok(u32::from_be_bytes(*bytes))
}

fn text<'a>(plain: &mut &'a [u8]) -> Result<&'a str, Error> {
    let length = number(plain)? as usize;
    let (bytes, rest) = plain.split_at_checked(length).ok_or(Error::Short)?;
    *plain = rest;
    std::str::from_utf8(bytes).map_err(|_| Error::NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn blocks_of_one_connection_share_their_compression() {
        let (mut packer, mut unpacker) = (Packer::new().unwrap(), Unpacker::new());
        let blocks = [
            headers(&[("streamtype", "error")]),
            headers(&[("streamtype", "stdin"), ("requestid", "0"), ("x", "1"), ("x", "2")]),
            headers(&[]),
            headers(&[("long", &"y".repeat(20_000))]),
            headers(&[("streamtype", "error")]),
        ];
        for block in blocks {
            let mut packed = Vec::new();
            packer.pack(&block, &mut packed).unwrap();
            assert_eq!(unpacker.unpack(&packed).unwrap(), block);
        }
    }

    #[test]
    fn broken_blocks_are_refused() {
        assert!(matches!(read_block(&[0, 0, 0, 1, 0, 0, 0, 9, b'a']), Err(Error::Short)));
        assert!(matches!(read_block(&[0, 0, 0xff, 0xff]), Err(Error::TooLarge)));
        assert!(Unpacker::new().unpack(b"not zlib").is_err());
        let mut packed = Vec::new();
        let mut packer = Packer::new().unwrap();
        packer.pack(&headers(&[("a", &"z".repeat(2 << 20))]), &mut packed).unwrap();
        assert!(matches!(Unpacker::new().unpack(&packed), Err(Error::TooLarge)));
    }
}
