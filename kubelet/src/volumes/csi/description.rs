//! What is written beside a driver's volume, so that it can be undone by whoever comes after a restart. Blocking.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::{layout, tear_down};

const FILE: &str = "vol_data.json";

/// What is written; the names are upstream's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Description {
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub attachment_id: String,
    pub driver_name: String,
    pub node_name: String,
    #[serde(rename = "specVolID")]
    pub spec_volume_id: String,
    pub volume_handle: String,
    pub volume_lifecycle_mode: String,
}

impl Description {
    pub fn write(&self, dir: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join(FILE), serde_json::to_vec(self)?)
    }

    /// None if there is none.
    pub fn read(dir: &Path) -> std::io::Result<Option<Description>> {
        match std::fs::read(dir.join(FILE)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            text => Ok(Some(serde_json::from_slice(&text?)?)),
        }
    }

    pub fn remove(dir: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(dir.join(FILE)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn is_same_volume(&self, other: &Description) -> bool {
        (&self.driver_name, &self.volume_handle) == (&other.driver_name, &other.volume_handle)
    }

    /// Whether any pod on this node still has the volume mounted.
    pub fn is_mounted_anywhere(&self, root: &Path) -> std::io::Result<bool> {
        for pod in tear_down::pods_on_disk(root)? {
            let dir = layout::pod_dir(root, &pod).join("volumes").join(layout::CSI.directory);
            if below(&dir)?.iter().any(|(_, other)| self.is_same_volume(other)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The volumes of drivers that are described in directories of this one.
pub fn below(dir: &Path) -> std::io::Result<Vec<(PathBuf, Description)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // Without a description it was interrupted before anything was published.
        if let Some(description) = Description::read(&path)? {
            found.push((path, description));
        }
    }
    Ok(found)
}

/// Removes the directory of a mount that is undone; the driver may have removed the mount point itself.
pub fn remove_published(dir: &Path) -> std::io::Result<()> {
    let mount = dir.join("mount");
    if mount.exists() {
        std::fs::remove_dir(&mount)?;
    }
    Description::remove(dir)?;
    std::fs::remove_dir(dir)
}
