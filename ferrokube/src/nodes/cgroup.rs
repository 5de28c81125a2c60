//! The cgroups that nodes live in: made before they start, and what remains in them ended afterwards.
//!
//! Works on version 1 hierarchies, on version 2, and on both at once, by doing the same in each mounted hierarchy.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ROOT: &str = "/sys/fs/cgroup";
/// Processes that were killed are gone by then, or something holds them.
const KILL_ROUNDS: u32 = 100;
const KILL_PAUSE: Duration = Duration::from_millis(50);

/// Every mounted hierarchy.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    // `cpu` and `cpu,cpuacct` may be names of one hierarchy: links are skipped.
    let is_hierarchy = |path: &PathBuf| !path.is_symlink() && path.join("cgroup.procs").exists();
    entries.flatten().map(|entry| entry.path()).filter(is_hierarchy).collect()
}

/// The directories of a cgroup in all hierarchies.
fn directories(cgroup: &str) -> Vec<PathBuf> {
    hierarchies().into_iter().map(|root| root.join(cgroup.trim_start_matches('/'))).collect()
}

/// Makes a cgroup in every hierarchy, ready for processes.
pub fn create(cgroup: &str) -> anyhow::Result<()> {
    for hierarchy in hierarchies() {
        let mut path = hierarchy.clone();
        for part in cgroup.trim_matches('/').split('/') {
            let parent = path.clone();
            path.push(part);
            if let Err(error) = fs::create_dir(&path)
                && error.kind() != ErrorKind::AlreadyExists
            {
                return Err(error).with_context(|| path.display().to_string());
            }
            delegate(&parent);
            inherit_cpuset(&parent, &path)?;
        }
    }
    Ok(())
}

/// Version 2: lets children have the controllers that the parent has. A controller that cannot be passed on is left out.
fn delegate(parent: &Path) {
    let Ok(controllers) = fs::read_to_string(parent.join("cgroup.controllers")) else { return };
    for controller in controllers.split_whitespace() {
        if let Err(error) = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::debug!(%controller, parent = %parent.display(), %error, "controller is not passed on");
        }
    }
}

/// Version 1: a cpuset without processors takes no process.
fn inherit_cpuset(parent: &Path, child: &Path) -> anyhow::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = child.join(file);
        let Ok(present) = fs::read_to_string(&path) else { continue };
        if present.trim().is_empty() && !parent.join("cgroup.controllers").exists() {
            fs::copy(parent.join(file), &path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Puts a process into a cgroup, in every hierarchy.
pub fn enter(cgroup: &str, pid: u32) -> anyhow::Result<()> {
    for directory in directories(cgroup) {
        let path = directory.join("cgroup.procs");
        fs::write(&path, pid.to_string()).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Every process in a cgroup and below it.
pub fn processes(cgroup: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for directory in directories(cgroup) {
        collect(&directory, &mut pids);
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn collect(directory: &Path, pids: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    for child in children(directory) {
        collect(&child, pids);
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).map(|entry| entry.path()).collect()
}

/// Kills everything in a cgroup and removes it.
pub async fn destroy(cgroup: &str) -> anyhow::Result<()> {
    for _ in 0..KILL_ROUNDS {
        let pids = processes(cgroup);
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            // Gone meanwhile, which is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        tokio::time::sleep(KILL_PAUSE).await;
    }
    let left = processes(cgroup);
    if !left.is_empty() {
        bail!("processes {left:?} in {cgroup} do not end");
    }
    for directory in directories(cgroup) {
        remove(&directory)?;
    }
    Ok(())
}

/// Removes a directory of the hierarchy with those below it.
fn remove(directory: &Path) -> anyhow::Result<()> {
    for child in children(directory) {
        remove(&child)?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| directory.display().to_string()),
        _ => Ok(()),
    }
}

/// Whether there is a cgroup of this name in any hierarchy.
pub fn exists(cgroup: &str) -> bool {
    directories(cgroup).iter().any(|directory| directory.exists())
}

/// Removes a cgroup if nothing is in it and nothing below it.
pub fn remove_if_empty(cgroup: &str) {
    for directory in directories(cgroup) {
        if children(&directory).is_empty() {
            // Somebody may have come in meanwhile, and keeps it.
            let _ = fs::remove_dir(&directory);
        }
    }
}
