//! Room that is kept for when there is none: to end a pod, its runtime has to write, and on a disk that a pod has filled to the last
//! byte it cannot. The file is given up when the disk runs short, and made again when it has room.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

const BYTES: i64 = 16 * 1024 * 1024;
/// It is made only where this much is free.
const NEEDED_BYTES: u64 = 16 * BYTES as u64;

#[derive(Clone, Debug)]
pub struct Ballast(PathBuf);

impl Ballast {
    /// In the directory of a kubelet.
    pub fn new(root_dir: &Path) -> Ballast {
        Ballast(root_dir.join("ballast"))
    }

    /// Makes the file if it is not there, and there is room for more than that.
    pub fn keep(&self) -> io::Result<()> {
        if self.0.exists() {
            return Ok(());
        }
        let directory = self.0.parent().unwrap_or(Path::new("/"));
        let disk = nix::sys::statvfs::statvfs(directory)?;
        if disk.blocks_available().saturating_mul(disk.fragment_size()) < NEEDED_BYTES {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&self.0)?;
        fill(&file).inspect_err(|_| drop(self.give_up()))
    }

    /// Removes the file, if it is there.
    pub fn give_up(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Takes the room, without writing where the file system can do so.
fn fill(file: &File) -> io::Result<()> {
    nix::fcntl::posix_fallocate(file.as_fd(), 0, BYTES).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_once_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(directory.path());
        ballast.give_up().unwrap();
        ballast.keep().unwrap();
        ballast.keep().unwrap();
        let file = directory.path().join("ballast");
        // A machine that is short of room itself has none to keep.
        if let Ok(metadata) = std::fs::metadata(&file) {
            assert_eq!(metadata.len(), BYTES as u64);
        }
        ballast.give_up().unwrap();
        assert!(!file.exists());
    }
}
