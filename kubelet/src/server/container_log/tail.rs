//! Where the last lines of a file begin.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt, SeekFrom};

/// Read at once, from the end towards the front.
const BLOCK_BYTES: u64 = 64 * 1024;

/// The offset of the last `lines` lines. An end without a line feed is no line: it comes on top.
pub async fn start_of_last_lines<F>(file: &mut F, lines: u64) -> io::Result<u64>
where
    F: AsyncRead + AsyncSeek + Unpin,
{
    let mut right = file.seek(SeekFrom::End(0)).await?;
    // The feed of the line before the first wanted one is the one that is looked for.
    let mut feeds_to_pass = lines;
    let mut block = Vec::new();
    while right > 0 {
        let left = right.saturating_sub(BLOCK_BYTES);
        block.resize(usize::try_from(right - left).unwrap_or_default(), 0);
        file.seek(SeekFrom::Start(left)).await?;
        file.read_exact(&mut block).await?;
        for (at, byte) in block.iter().enumerate().rev() {
            if *byte != b'\n' {
                continue;
            }
            if feeds_to_pass == 0 {
                return Ok(left + at as u64 + 1);
            }
            feeds_to_pass -= 1;
        }
        right = left;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    async fn tail(text: &str, lines: u64) -> String {
        let start = start_of_last_lines(&mut Cursor::new(text.as_bytes().to_vec()), lines).await.unwrap();
        text[usize::try_from(start).unwrap()..].to_owned()
    }

    #[tokio::test]
    async fn the_last_lines_are_found() {
        assert_eq!(tail("a\nb\nc\n", 2).await, "b\nc\n");
        assert_eq!(tail("a\nb\nc\n", 3).await, "a\nb\nc\n");
        assert_eq!(tail("a\nb\nc\n", 9).await, "a\nb\nc\n");
        assert_eq!(tail("a\nb\nc\n", 0).await, "");
        assert_eq!(tail("a\nb\nc", 1).await, "b\nc");
        assert_eq!(tail("", 1).await, "");
        let long = format!("{}\n{}\nend\n", "x".repeat(200_000), "y".repeat(100_000));
        assert_eq!(tail(&long, 2).await, format!("{}\nend\n", "y".repeat(100_000)));
    }
}
