//! A node's own view of the file system: its own `/run`, and its own directories where kubelet, runtime and plugins expect theirs.
//!
//! Called once in a process that has a single thread and its own mount namespace.

use std::fs;
use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};

use super::cgroup;

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

/// Where the runtime has its socket and its state; apart, since a node that is a whole machine has the machine's `/run`.
const RUNTIME: &str = "/run/containerd";

/// Whose `/run` a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    Own,
    /// All but the runtime's part of it.
    Machines,
}

/// Makes the directories that nodes mount theirs over, and remembers in `file` which were not there.
pub fn take_places(file: &Path) -> anyhow::Result<()> {
    let mut created = create_places()?;
    // From an earlier start, if there are any.
    let before = fs::read_to_string(file).unwrap_or_default();
    created.extend(before.lines().map(str::to_owned));
    fs::write(file, created.join("\n")).with_context(|| file.display().to_string())
}

/// Removes the directories that were made for nodes, unless other nodes of Ferrokube are on this machine.
pub fn leave_places(file: &Path) -> anyhow::Result<()> {
    if cgroup::exists("/ferrokube") {
        return Ok(());
    }
    let mut places: Vec<String> = fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect();
    places.sort_by_key(|place| std::cmp::Reverse(place.len()));
    for place in places.iter().filter(|place| !place.is_empty()) {
        // What somebody has put something into is theirs now.
        let _ = fs::remove_dir(place);
    }
    fs::remove_file(file).or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    Ok(())
}

/// The places that the machine does not have; made here.
fn create_places() -> anyhow::Result<Vec<String>> {
    let mut created = Vec::new();
    for place in OWN.into_iter().chain([RUNTIME]) {
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
pub fn enter(directory: &Path, run: Run) -> anyhow::Result<()> {
    // What this node mounts stays with it, and its containers may share mounts with it.
    change_propagation(MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    change_propagation(MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    let temporary = match run {
        Run::Own => "/run",
        Run::Machines => RUNTIME,
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), temporary, Some("tmpfs"), flags, Some("mode=0755")).with_context(|| temporary.to_owned())?;
    mount(None::<&str>, temporary, None::<&str>, MsFlags::MS_SHARED, None::<&str>).with_context(|| temporary.to_owned())?;
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
