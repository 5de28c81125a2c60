//! Taking a pod's volumes away. Works from what is on the disk and in the mount table, so that it needs no memory of what was mounted. Blocking.
//!
//! Contents of volumes that are not the pod's own (host paths, local volumes, network file systems) are never deleted: nothing is
//! removed as long as anything is mounted, and of foreign volumes only empty directories are.

use std::io;
use std::path::Path;

use super::{layout, mount_table};

/// Unmounts everything below the pod's directory and removes the directory.
pub fn pod(root: &Path, uid: &str) -> io::Result<()> {
    let dir = layout::pod_dir(root, uid);
    // The mount table has no links in it.
    let dir = match std::fs::canonicalize(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        dir => dir?,
    };
    for point in mount_table::below(&dir)? {
        // A program that still looks at it must not keep the pod from ending.
        match mount_table::unmount(&point, false) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) => mount_table::unmount(&point, true)?,
            Err(error) => return Err(error),
        }
    }
    if let Some(point) = mount_table::below(&dir)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", point.display())));
    }
    let volumes = dir.join("volumes");
    for kind in entries(&volumes)? {
        if layout::OWNED.iter().any(|owned| kind.file_name().is_some_and(|name| name == owned.directory)) {
            std::fs::remove_dir_all(&kind)?;
            continue;
        }
        for volume in entries(&kind)? {
            std::fs::remove_dir(&volume)?;
        }
        std::fs::remove_dir(&kind)?;
    }
    std::fs::remove_dir_all(&dir)
}

fn entries(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// The uids of the pods that have directories.
pub fn pods_on_disk(root: &Path) -> io::Result<Vec<String>> {
    Ok(entries(&layout::pods_dir(root))?
        .iter()
        .filter(|path| path.is_dir())
        .filter_map(|path| path.file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_pods_own_is_not_deleted() {
        let root = tempfile::tempdir().expect("there is a directory for temporary files");
        let own = layout::volume_dir(root.path(), "u", layout::EMPTY_DIR, "a");
        let foreign = layout::volume_dir(root.path(), "u", layout::LOCAL, "pv");
        for dir in [&own, &foreign] {
            std::fs::create_dir_all(dir).expect("it can be made");
            std::fs::write(dir.join("file"), "x").expect("it is writable");
        }
        assert_eq!(pods_on_disk(root.path()).expect("it is readable"), ["u"]);
        assert!(pod(root.path(), "u").is_err());
        assert!(foreign.join("file").exists() && !own.exists());
        std::fs::remove_file(foreign.join("file")).expect("it is there");
        pod(root.path(), "u").expect("nothing is in the way");
        assert!(!layout::pod_dir(root.path(), "u").exists());
        pod(root.path(), "u").expect("there is nothing");
    }
}
