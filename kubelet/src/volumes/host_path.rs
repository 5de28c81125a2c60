//! Places of the host in a pod: whether they are what they are said to be. Blocking.

use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Checks the type of a host path, and makes it if that is asked for.
pub fn check(path: &Path, kind: &str) -> Result<(), String> {
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if !path.exists() => make_directory(path),
        "FileOrCreate" if !path.exists() => make_file(path),
        "DirectoryOrCreate" | "Directory" => expect(path, "Directory", "directory"),
        "FileOrCreate" | "File" => expect(path, "File", "file"),
        "Socket" => expect(path, "Socket", "socket file"),
        "CharDevice" => expect(path, "CharDevice", "character device"),
        "BlockDevice" => expect(path, "BlockDevice", "block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn make_directory(path: &Path) -> Result<(), String> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|error| format!("mkdir {}: {error}", path.display()))
}

fn make_file(path: &Path) -> Result<(), String> {
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o644).open(path);
    file.map(drop).map_err(|error| format!("open {}: {error}", path.display()))
}

fn expect(path: &Path, kind: &str, word: &str) -> Result<(), String> {
    let place = path.display();
    let found = match std::fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) => {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => format!("path \"{place}\" does not exist"),
                _ => error.to_string(),
            };
            return Err(format!("hostPath type check failed, {place} is not a {word}, unable to determine its type: {why}"));
        }
    };
    let found = match found {
        found if found.is_dir() => "Directory",
        found if found.is_file() => "File",
        found if found.is_socket() => "Socket",
        found if found.is_char_device() => "CharDevice",
        found if found.is_block_device() => "BlockDevice",
        _ => {
            let why = "only recognise file, directory, socket, block device and character device";
            return Err(format!("hostPath type check failed, {place} is not a {word}, unable to determine its type: {why}"));
        }
    };
    if found == kind { Ok(()) } else { Err(format!("hostPath type check failed: {place} is not a {word}, it's a {found}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_what_they_are_said_to_be_or_made() {
        let dir = tempfile::tempdir().expect("there is a directory for temporary files");
        let (a, b) = (dir.path().join("x/a"), dir.path().join("x/b"));
        assert_eq!(check(&a, ""), Ok(()));
        assert!(check(&a, "Directory").is_err_and(|error| error.ends_with("x/a\" does not exist")));
        assert_eq!(check(&a, "DirectoryOrCreate"), Ok(()));
        assert_eq!(check(&b, "FileOrCreate"), Ok(()));
        for (path, kind) in [(&a, "Directory"), (&b, "File"), (&a, "DirectoryOrCreate"), (&b, "FileOrCreate")] {
            assert_eq!(check(path, kind), Ok(()), "{kind}");
        }
        assert_eq!(check(Path::new("/dev/null"), "CharDevice"), Ok(()));
        assert_eq!(check(&a, "Socket"), Err(format!("hostPath type check failed: {} is not a socket file, it's a Directory", a.display())));
        assert_eq!(check(&a, "Tape"), Err("Tape is an invalid volume type".to_owned()));
    }
}
