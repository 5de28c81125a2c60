//! Files that change all at once: contents lie in a directory with a time in its name, `..data` is a link to it that is replaced
//! by a rename, and what users see are links through `..data`. Blocking.
//!
//! Upstream: pkg/volume/util/atomic_writer.go; the same names, so that either kubelet updates the other's volumes.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;

use super::payload::{File, Payload};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;

/// Makes the directory hold exactly these files. `publish` runs on a complete new state before it is seen. Says whether anything changed.
pub fn write(dir: &Path, payload: &Payload, now: Timestamp, publish: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    let payload = cleaned(payload)?;
    let data = dir.join(DATA);
    let old = match std::fs::read_link(&data) {
        Ok(name) => Some(dir.join(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let stale = old.as_deref().map(|old| stale_names(&payload, old)).transpose()?.unwrap_or_default();
    let changed = stale.any || !old.as_deref().is_some_and(|old| is_current(&payload, old));
    if changed {
        let fresh = fresh_directory(dir, now)?;
        let done = fill(&payload, &fresh).and_then(|()| publish()).and_then(|()| switch(dir, &fresh, &data));
        if let Err(error) = done {
            // Nobody has seen it yet; what is left of it is in nobody's way.
            let _ = std::fs::remove_dir_all(&fresh);
            return Err(error);
        }
    }
    show(dir, &payload)?;
    for name in stale.names {
        match std::fs::remove_file(dir.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if let Some(old) = old.filter(|_| changed) {
        match std::fs::remove_dir_all(&old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(changed)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn cleaned(payload: &Payload) -> io::Result<Payload> {
    payload.iter().map(|(path, file)| Ok((clean(path)?, file.clone()))).collect()
}

/// A path without empty parts, refused if it leaves the volume or takes a name of ours.
fn clean(path: &str) -> io::Result<String> {
    if path.is_empty() {
        return Err(invalid(format!("invalid path: must not be empty: {path:?}")));
    }
    if path.starts_with('/') {
        return Err(invalid(format!("invalid path: must be relative path: {path}")));
    }
    if path.len() > MAX_PATH {
        return Err(invalid(format!("invalid path: must be less than or equal to {MAX_PATH} characters")));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(invalid(format!("invalid path: must not contain '..': {path}")));
    }
    if parts.iter().any(|part| part.len() > MAX_NAME) {
        return Err(invalid(format!("invalid path: filenames must be less than or equal to {MAX_NAME} characters")));
    }
    match parts.first() {
        None => Err(invalid(format!("invalid path: must not be empty: {path:?}"))),
        Some(first) if first.starts_with("..") => Err(invalid(format!("invalid path: must not start with '..': {path}"))),
        Some(_) => Ok(parts.join("/")),
    }
}

fn top(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// What the new state does not have any more.
#[derive(Default)]
struct Stale {
    any: bool,
    /// Of it, what users see.
    names: BTreeSet<String>,
}

fn stale_names(payload: &Payload, old: &Path) -> io::Result<Stale> {
    let mut stale = Stale::default();
    let mut directories = vec![PathBuf::new()];
    while let Some(relative) = directories.pop() {
        let entries = match std::fs::read_dir(old.join(&relative)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = relative.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                directories.push(path);
                continue;
            }
            let path = path.to_string_lossy().into_owned();
            if !payload.contains_key(&path) {
                stale.any = true;
                if !payload.keys().any(|kept| top(kept) == top(&path)) {
                    stale.names.insert(top(&path).to_owned());
                }
            }
        }
    }
    Ok(stale)
}

fn is_current(payload: &Payload, old: &Path) -> bool {
    payload.iter().all(|(path, file)| std::fs::read(old.join(path)).is_ok_and(|data| data == file.data))
}

fn fresh_directory(dir: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let stamp = now.to_zoned(k8s_openapi::jiff::tz::TimeZone::UTC).strftime("..%Y_%m_%d_%H_%M_%S.").to_string();
    let path = dir.join(format!("{stamp}{}", rand::random::<u32>()));
    std::fs::create_dir(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn fill(payload: &Payload, dir: &Path) -> io::Result<()> {
    for (path, File { data, mode, owner }) in payload {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, data)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode))?;
        if owner.is_some() {
            chown(&path, *owner, None)?;
        }
    }
    Ok(())
}

fn switch(dir: &Path, fresh: &Path, data: &Path) -> io::Result<()> {
    let link = dir.join(NEW_DATA);
    // One may be left of a run that was interrupted.
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let name = fresh.file_name().ok_or_else(|| invalid("a directory has a name".to_owned()))?;
    symlink(name, &link)?;
    std::fs::rename(&link, data)
}

fn show(dir: &Path, payload: &Payload) -> io::Result<()> {
    for (path, file) in payload {
        let name = top(path);
        let visible = dir.join(name);
        if std::fs::read_link(&visible).is_err() {
            symlink(Path::new(DATA).join(name), &visible)?;
        }
        if file.owner.is_some() {
            lchown(&visible, file.owner, None)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(data: &str, mode: u32) -> File {
        File { data: data.as_bytes().to_vec(), mode, owner: None }
    }

    fn run(dir: &Path, files: &[(&str, &str)]) -> io::Result<bool> {
        let payload = files.iter().map(|(path, data)| ((*path).to_owned(), file(data, 0o640))).collect();
        write(dir, &payload, Timestamp::UNIX_EPOCH, || Ok(()))
    }

    fn seen(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .expect("it is there")
            .map(|e| e.expect("it is readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.retain(|name| !name.starts_with("..1970"));
        names.sort();
        names
    }

    #[test]
    fn contents_are_replaced_all_at_once() {
        let dir = tempfile::tempdir().expect("there is a directory for temporary files");
        let dir = dir.path();
        assert!(run(dir, &[("a", "1"), ("b/c", "2")]).expect("it is written"));
        assert_eq!(seen(dir), ["..data", "a", "b"]);
        assert_eq!(std::fs::read_to_string(dir.join("b/c")).expect("it is there"), "2");
        assert_eq!(std::fs::metadata(dir.join("a")).expect("it is there").permissions().mode() & 0o777, 0o640);
        let first = std::fs::read_link(dir.join("..data")).expect("it is a link");
        assert!(!run(dir, &[("a", "1"), ("b/c", "2")]).expect("it is the same"));
        assert_eq!(std::fs::read_link(dir.join("..data")).expect("it is a link"), first);
        assert!(run(dir, &[("b/d", "3")]).expect("it is written"));
        assert_eq!(seen(dir), ["..data", "b"]);
        assert!(!dir.join(first).exists());
        assert!(!dir.join("b/c").exists());
        assert!(run(dir, &[]).expect("it is written"));
        assert_eq!(seen(dir), ["..data"]);
    }

    #[test]
    fn a_state_that_cannot_be_published_is_never_seen() {
        let dir = tempfile::tempdir().expect("there is a directory for temporary files");
        run(dir.path(), &[("a", "1")]).expect("it is written");
        let payload = Payload::from([("a".to_owned(), file("2", 0o600))]);
        let refused = write(dir.path(), &payload, Timestamp::UNIX_EPOCH, || Err(io::Error::other("no")));
        assert!(refused.is_err());
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).expect("it is there"), "1");
        assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 3);
    }

    #[test]
    fn paths_stay_in_the_volume() {
        let cases = [
            ("a//b/./c", Ok("a/b/c")),
            ("..a", Err("invalid path: must not start with '..': ..a")),
            ("a/../b", Err("invalid path: must not contain '..': a/../b")),
            ("/a", Err("invalid path: must be relative path: /a")),
            ("", Err("invalid path: must not be empty: \"\"")),
        ];
        for (path, expect) in cases {
            let got = clean(path).map_err(|error| error.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), expect, "{path}");
        }
    }
}
