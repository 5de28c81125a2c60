//! Small files that outlive the kubelet: written whole or not at all, with upstream's checksums in them.

use std::path::Path;

/// The largest that is read.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: std::path::PathBuf, source: std::io::Error },
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("{0}")]
    Content(String),
    #[error("checkpoint is corrupted")]
    Corrupt,
}

/// The text of a file; none if there is none.
pub async fn read(path: &Path) -> Result<Option<String>, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    match tokio::fs::metadata(path).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if metadata.len() > MAX_BYTES => return Err(Error::TooLarge),
        Ok(_) => {}
    }
    tokio::fs::read_to_string(path).await.map(Some).map_err(failed)
}

/// Replaces a file, which is on the disk then.
pub async fn write(path: &Path, text: String) -> Result<(), Error> {
    let target = path.to_owned();
    let written = tokio::task::spawn_blocking(move || write_now(&target, &text)).await;
    written.map_err(|error| Error::Content(error.to_string()))?.map_err(|source| Error::File { path: path.to_owned(), source })
}

fn write_now(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    // Those who look for sockets beside it pass over names that begin with a dot.
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let beside = path.with_file_name(format!(".{name}.new"));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    std::fs::rename(&beside, path)
}

/// Upstream's checksums are this hash of what Go prints of the data.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The checksum of a text within a file.
pub fn text_checksum(text: &str) -> u32 {
    fnv32a(format!("(string){text}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().expect("there is a directory for temporary files");
        let path = directory.path().join("state");
        assert!(read(&path).await.expect("it can be looked for").is_none());
        for text in ["longer", "short"] {
            write(&path, text.to_owned()).await.expect("it can be written");
            assert_eq!(read(&path).await.expect("it can be read").as_deref(), Some(text));
        }
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 1);
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // The last is a number of upstream's own code over the same text.
        assert_eq!(text_checksum("{\"policyName\":\"static\"}"), 1_132_569_682);
        assert_eq!([fnv32a(b""), fnv32a(b"a"), fnv32a(b"foobar")], [0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968]);
    }
}
