//! Mounts of this process' mount namespace: what is mounted, and making and undoing mounts. Blocking.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The mount points at and below a directory, the deepest last made first.
pub fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
    Ok(points_below(&table, dir))
}

fn points_below(table: &str, dir: &Path) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescaped(point)))
        .filter(|point| point.starts_with(dir))
        .collect();
    points.reverse();
    points
}

/// The kernel writes spaces, tabs, line ends and backslashes in octal.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|octal| u8::from_str_radix(octal, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    // The table names places without links.
    let path = match std::fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(below(&path)?.contains(&path))
}

/// A file system in memory. `size` is in bytes, without one it may take half of the memory.
pub fn tmpfs(target: &Path, size: Option<i64>, no_swap: bool) -> io::Result<()> {
    let size = size.map(|size| format!("size={size}"));
    let mut options: Vec<&str> = size.iter().map(String::as_str).collect();
    if no_swap {
        options.push("noswap");
    }
    let options = options.join(",");
    match mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())) {
        // Kernels before 6.3 do not know the option.
        Err(nix::Error::EINVAL) if no_swap => tmpfs(target, size.and_then(|size| size[5..].parse().ok()), false),
        other => other.map_err(io::Error::from),
    }
}

/// Huge pages of a size such as `2M` as files.
pub fn hugetlbfs(target: &Path, page_size: &str) -> io::Result<()> {
    let options = format!("pagesize={page_size}");
    mount(Some("nodev"), target, Some("hugetlbfs"), MsFlags::empty(), Some(options.as_str())).map_err(io::Error::from)
}

pub fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

/// Unmounts, at once or as soon as nobody uses it any more. What is not mounted is no error.
pub fn unmount(target: &Path, lazily: bool) -> io::Result<()> {
    let flags = if lazily { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(target, flags) {
        Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        other => other.map_err(io::Error::from),
    }
}

/// Whether anything can be swapped out.
pub fn has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|table| table.lines().count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_from_its_end() {
        let table = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /a\\040b rw - tmpfs tmpfs rw\n3 2 0:6 / /a\\040b/c rw - tmpfs tmpfs rw\n4 1 0:7 / /ab rw - tmpfs tmpfs rw\n";
        assert_eq!(points_below(table, Path::new("/a b")), [PathBuf::from("/a b/c"), PathBuf::from("/a b")]);
        assert_eq!(unescaped("a\\134b\\z"), "a\\b\\z");
    }
}
