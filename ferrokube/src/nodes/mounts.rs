//! A node's own view of the file system: its own `/run`, and its own directories where kubelet, runtime and plugins expect theirs.
//!
//! Called once in a process that has a single thread and its own mount namespace.

use std::fs;
use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};

/// Directories that a node has for itself, at the places where everybody looks for them.
pub const OWN: [&str; 7] = [
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/log/pods",
    "/var/log/containers",
    "/var/lib/cni",
    "/etc/cni/net.d",
    "/etc/kubernetes",
];

/// The places of [`OWN`] that the machine does not have; made here, and to be removed when the last node is gone.
pub fn create_places() -> anyhow::Result<Vec<String>> {
    let mut created = Vec::new();
    for place in OWN {
        let mut missing: Vec<&Path> = Path::new(place).ancestors().take_while(|p| !p.exists()).collect();
        missing.reverse();
        for path in missing {
            fs::create_dir(path).with_context(|| path.display().to_string())?;
            created.push(path.display().to_string());
        }
    }
    Ok(created)
}

/// Mounts the node's directories, which live under `directory`, over the machine's.
pub fn enter(directory: &Path) -> anyhow::Result<()> {
    // What this node mounts stays with it, and its containers may share mounts with it.
    change_propagation(MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    change_propagation(MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755")).context("/run")?;
    for place in OWN {
        let source = directory.join(place.trim_start_matches('/'));
        fs::create_dir_all(&source).with_context(|| source.display().to_string())?;
        mount(Some(&source), place, None::<&str>, MsFlags::MS_BIND, None::<&str>).with_context(|| place.to_owned())?;
        mount(None::<&str>, place, None::<&str>, MsFlags::MS_SHARED, None::<&str>).with_context(|| place.to_owned())?;
    }
    Ok(())
}

fn change_propagation(flags: MsFlags) -> anyhow::Result<()> {
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("mounts of this node cannot be made its own")
}
