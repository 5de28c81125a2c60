//! Containers' log files: the links that collectors follow, and rotation.

use std::path::{Path, PathBuf};

/// The longest name that file systems take.
const NAME_BYTES: usize = 255;

/// The link to a container's log: `<pod>_<namespace>_<container>-<id>.log`.
pub fn link(directory: &Path, pod: &str, namespace: &str, container: &str, id: &str) -> PathBuf {
    let mut name = format!("{pod}_{namespace}_{container}-{id}");
    name.truncate(NAME_BYTES - ".log".len());
    directory.join(format!("{name}.log"))
}
