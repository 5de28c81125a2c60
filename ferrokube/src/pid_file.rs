//! Which process runs the cluster of a data directory: for `ferrokube down`, which ends it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The file; it goes when this value does.
pub struct PidFile(PathBuf);

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("ferrokube.pid")
}

impl PidFile {
    pub fn write(data_dir: &Path) -> anyhow::Result<PidFile> {
        let path = path(data_dir);
        fs::write(&path, std::process::id().to_string()).with_context(|| path.display().to_string())?;
        Ok(PidFile(path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(%error, path = %self.0.display(), "cannot be removed");
        }
    }
}

/// The process that runs this cluster, if one does. A file that a killed process left behind names nobody of this name.
pub fn read(data_dir: &Path) -> Option<i32> {
    let pid = fs::read_to_string(path(data_dir)).ok()?.trim().parse().ok()?;
    let own = fs::read_to_string("/proc/self/comm").ok()?;
    let other = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (own == other).then_some(pid)
}
