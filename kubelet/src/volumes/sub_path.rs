//! Mounting a path below a volume. The pod writes to the volume and may change it at any moment, so the path is resolved once to an
//! open file that is inside, and that very file is mounted. Blocking.
//!
//! Upstream: pkg/volume/util/subpath/subpath_linux.go.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};

use super::mount_table;

/// Mounts `path` below `volume` at `target` and makes it a directory first if it is not there.
pub fn mount(volume: &Path, path: &Path, target: &Path) -> io::Result<()> {
    let volume = std::fs::canonicalize(volume)?;
    if std::fs::symlink_metadata(volume.join(path)).is_err() {
        make_directories(&volume, path)?;
    }
    let file = open_inside(&volume, path)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let wanted = std::fs::metadata(&source)?;
    if mount_table::is_mount_point(target)? {
        let mounted = std::fs::symlink_metadata(target)?;
        if (mounted.dev(), mounted.ino()) == (wanted.dev(), wanted.ino()) {
            return Ok(());
        }
        // Another file has that name now: a config map was updated, for one.
        mount_table::unmount(target, true)?;
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match (wanted.is_dir(), std::fs::symlink_metadata(target).map(|target| target.is_dir())) {
        (true, Ok(true)) | (false, Ok(false)) => {}
        (true, Ok(false)) => std::fs::remove_file(target).and_then(|()| std::fs::create_dir(target))?,
        (false, Ok(true)) => std::fs::remove_dir(target).and_then(|()| std::fs::write(target, b""))?,
        (true, Err(_)) => std::fs::create_dir(target)?,
        (false, Err(_)) => std::fs::write(target, b"")?,
    }
    mount_table::bind(&source, target, false)
}

/// Opens what the path leads to, links included, as long as that is inside of the volume.
fn open_inside(volume: &Path, path: &Path) -> io::Result<OwnedFd> {
    let real = std::fs::canonicalize(volume.join(path))?;
    let inside = real.strip_prefix(volume).map_err(|_| outside())?;
    let root = open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    if inside.as_os_str().is_empty() {
        return Ok(root);
    }
    // What has become a link since is refused.
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(&root, inside, how)?)
}

fn outside() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "subpath not within volume path")
}

/// Makes the directories of the path that are not there, with the mode of the volume.
fn make_directories(volume: &Path, path: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(volume)?.permissions().mode() & 0o777;
    let parts: Vec<_> = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let mut existing = volume.to_owned();
    let mut rest = parts.iter();
    let mut next = rest.next();
    while let Some(part) = next {
        match std::fs::canonicalize(existing.join(part)) {
            Ok(real) if !real.starts_with(volume) => return Err(outside()),
            Ok(real) => existing = real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
        next = rest.next();
    }
    let relative = existing.strip_prefix(volume).map_err(|_| outside())?.to_owned();
    let mut parent = open_inside(volume, &relative)?;
    while let Some(part) = next {
        let name = Path::new(part.as_os_str());
        match mkdirat(&parent, name, Mode::from_bits_truncate(mode)) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        parent = openat(&parent, name, flags, Mode::empty())?;
        // The mode at creation went through this process' umask.
        nix::sys::stat::fchmod(&parent, Mode::from_bits_truncate(mode))?;
        next = rest.next();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_are_made_with_the_volumes_mode_and_never_outside() {
        let dir = tempfile::tempdir().expect("there is a directory for temporary files");
        let (volume, other) = (dir.path().join("v"), dir.path().join("o"));
        std::fs::create_dir(&volume).expect("it can be made");
        std::fs::create_dir(&other).expect("it can be made");
        std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
        make_directories(&volume, Path::new("a/b")).expect("it is inside");
        let mode = std::fs::metadata(volume.join("a/b")).expect("it was made").permissions().mode();
        assert_eq!(mode & 0o777, 0o777);
        symlink(&other, volume.join("out")).expect("it can be made");
        symlink("a", volume.join("in")).expect("it can be made");
        assert!(make_directories(&volume, Path::new("out/x")).is_err());
        assert!(!other.join("x").exists());
        assert!(open_inside(&volume, Path::new("out")).is_err());
        assert!(open_inside(&volume, Path::new("in/b")).is_ok());
        make_directories(&volume, Path::new("in/c")).expect("it is inside");
        assert!(volume.join("a/c").is_dir());
    }
}
