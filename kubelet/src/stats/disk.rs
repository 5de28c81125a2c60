//! What file systems have and what directories take. Blocking.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use super::api::FsStats;

/// How long the size of a directory is taken to be the same; measuring one means to look at every file in it.
const FRESH: Duration = Duration::from_secs(60);

/// Bytes and inodes in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub bytes: u64,
    pub inodes: u64,
}

impl Used {
    pub fn plus(self, other: Used) -> Used {
        Used { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

/// The file system that a path is on.
pub fn file_system(path: &Path, time: Timestamp) -> Option<FsStats> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let block = stat.fragment_size();
    Some(FsStats {
        time,
        available_bytes: stat.blocks_available() * block,
        capacity_bytes: stat.blocks() * block,
        used_bytes: stat.blocks().saturating_sub(stat.blocks_free()) * block,
        inodes_free: stat.files_free(),
        inodes: stat.files(),
        inodes_used: stat.files().saturating_sub(stat.files_free()),
    })
}

/// A part of a file system: its own use, and the rest as the whole has it.
pub fn part_of(whole: &FsStats, used: Used) -> FsStats {
    FsStats { used_bytes: used.bytes, inodes_used: used.inodes, ..whole.clone() }
}

/// Whether two paths are on one file system.
pub fn is_same_device(a: &Path, b: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    device(a).is_some() && device(a) == device(b)
}

/// Everything in a directory that is on its file system; files with several names count once.
pub fn measure(dir: &Path) -> Used {
    let Ok(root) = std::fs::symlink_metadata(dir) else { return Used::default() };
    let (device, mut seen, mut used) = (root.dev(), HashSet::new(), Used::default());
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != device || (metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert(metadata.ino())) {
            continue;
        }
        used = used.plus(Used { bytes: metadata.blocks() * 512, inodes: 1 });
        if metadata.is_dir() {
            todo.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    used
}

/// The sizes of directories, measured at most once a minute. Bounded by what was asked for since it was last pruned.
#[derive(Default)]
pub struct Sizes(Mutex<HashMap<PathBuf, (Instant, Used)>>);

impl Sizes {
    pub fn of(&self, dir: &Path) -> Used {
        let known = self.0.lock().get(dir).copied();
        if let Some((_, used)) = known.filter(|(at, _)| at.elapsed() < FRESH) {
            return used;
        }
        let used = measure(dir);
        self.0.lock().insert(dir.to_owned(), (Instant::now(), used));
        used
    }

    /// Forgets what has not been asked for lately.
    pub fn prune(&self) {
        self.0.lock().retain(|_, (at, _)| at.elapsed() < FRESH * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_two_names_count_once() {
        let dir = tempfile::tempdir().expect("there is a directory for temporary files");
        std::fs::write(dir.path().join("a"), vec![1; 10_000]).expect("it is writable");
        let one = measure(dir.path());
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).expect("it is writable");
        assert_eq!(measure(dir.path()), one);
        assert_eq!(one.inodes, 2);
        assert!(one.bytes >= 10_000);
        assert!(file_system(dir.path(), Timestamp::UNIX_EPOCH).is_some_and(|stats| stats.capacity_bytes > 0));
    }
}
