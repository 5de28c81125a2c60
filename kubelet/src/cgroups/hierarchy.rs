//! The hierarchies of control groups that the host has, as directories and files. Knows nothing of pods.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::limits::Limits;

/// The controllers that groups are made for; the kernel may lack some.
const CONTROLLERS_V1: [&str; 12] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls", "perf_event", "name=systemd"];
const CONTROLLERS_V2: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];
/// A group that was just left is busy for a moment.
const REMOVE_TRIES: u32 = 20;
const REMOVE_WAIT: Duration = Duration::from_millis(10);

/// Where the controllers' groups are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchies {
    /// Mount points by controller; several controllers may share one.
    V1(BTreeMap<String, PathBuf>),
    V2(PathBuf),
}

impl Hierarchies {
    /// What is mounted at or below a directory; none if there is nothing.
    pub fn discover(mount_point: &Path) -> Option<Hierarchies> {
        if mount_point.join("cgroup.controllers").is_file() {
            return Some(Hierarchies::V2(mount_point.to_owned()));
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        Some(v1_mounts(&table, mount_point)).filter(|mounts| !mounts.is_empty()).map(Hierarchies::V1)
    }

    pub fn is_v2(&self) -> bool {
        matches!(self, Hierarchies::V2(_))
    }

    /// The directories that a group has, each once.
    fn directories(&self, group: &str) -> BTreeSet<PathBuf> {
        let below = |mount: &Path| mount.join(group.trim_start_matches('/'));
        match self {
            Hierarchies::V1(mounts) => mounts.values().map(|mount| below(mount)).collect(),
            Hierarchies::V2(mount) => BTreeSet::from([below(mount)]),
        }
    }

    /// The directory of a group for one controller.
    pub fn directory(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let mount = match self {
            Hierarchies::V1(mounts) => mounts.get(controller)?,
            Hierarchies::V2(mount) => mount,
        };
        Some(mount.join(group.trim_start_matches('/')))
    }

    /// Whether the group is in every hierarchy.
    pub fn exists(&self, group: &str) -> bool {
        self.directories(group).iter().all(|dir| dir.is_dir())
    }

    /// A file of a group; none if there is no such file.
    pub fn read(&self, controller: &str, group: &str, file: &str) -> Option<String> {
        std::fs::read_to_string(self.directory(controller, group)?.join(file)).ok()
    }

    /// Makes a group and those above it.
    pub fn make(&self, group: &str) -> io::Result<()> {
        match self {
            Hierarchies::V1(mounts) => {
                for (controller, mount) in mounts {
                    let mut dir = mount.clone();
                    for part in parts(group) {
                        let parent = dir.clone();
                        dir.push(part);
                        make_directory(&dir)?;
                        if controller == "cpuset" {
                            inherit(&parent, &dir, "cpuset.cpus")?;
                            inherit(&parent, &dir, "cpuset.mems")?;
                        }
                    }
                }
                Ok(())
            }
            Hierarchies::V2(mount) => {
                let mut dir = mount.clone();
                for part in parts(group) {
                    delegate(&dir)?;
                    dir.push(part);
                    make_directory(&dir)?;
                }
                // Containers' groups are made below and need the controllers as well.
                delegate(&dir)
            }
        }
    }

    /// Writes what a group is limited to. Controllers that the kernel lacks limit nothing.
    pub fn limit(&self, group: &str, limits: &Limits) -> io::Result<()> {
        let settings = if self.is_v2() { limits.settings_v2() } else { limits.settings_v1() };
        for (controller, file, value) in settings {
            let Some(path) = self.directory(controller, group).map(|dir| dir.join(&file)) else { continue };
            match std::fs::write(&path, &value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && controller != "cpu" && controller != "memory" => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("write {} to {}: {error}", value, path.display()))),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// The processes in a group and below, in whichever hierarchy.
    pub fn processes(&self, group: &str) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        let mut directories: Vec<PathBuf> = self.directories(group).into_iter().collect();
        while let Some(dir) = directories.pop() {
            let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            // Processes of other process namespaces show as zero.
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
            directories.extend(subdirectories(&dir).unwrap_or_default());
        }
        found
    }

    /// Puts a process into a group.
    pub fn join(&self, group: &str, pid: u32) -> io::Result<()> {
        self.directories(group).iter().try_for_each(|dir| std::fs::write(dir.join("cgroup.procs"), pid.to_string()))
    }

    /// The names of the groups below a group, in whichever hierarchy.
    pub fn children(&self, group: &str) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for dir in self.directories(group) {
            let found = subdirectories(&dir)?;
            names.extend(found.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()));
        }
        Ok(names)
    }

    /// Removes a group and those below it, which must have no processes.
    pub fn remove(&self, group: &str) -> io::Result<()> {
        self.directories(group).iter().try_for_each(|dir| remove_tree(dir))
    }
}

fn parts(group: &str) -> impl Iterator<Item = &str> {
    group.split('/').filter(|part| !part.is_empty())
}

fn v1_mounts(table: &str, mount_point: &Path) -> BTreeMap<String, PathBuf> {
    let mut mounts: BTreeMap<String, PathBuf> = BTreeMap::new();
    for line in table.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let Some(point) = mount.split(' ').nth(4).map(PathBuf::from).filter(|point| point.starts_with(mount_point)) else { continue };
        let mut words = file_system.split(' ');
        if words.next() != Some("cgroup") {
            continue;
        }
        for option in words.nth(1).unwrap_or("").split(',').filter(|option| CONTROLLERS_V1.contains(option)) {
            // Of several mounts of one hierarchy the shortest path is the customary one.
            let known = mounts.get(option).map(|known| known.as_os_str().len());
            if known.is_none_or(|length| point.as_os_str().len() < length) {
                mounts.insert(option.to_owned(), point.clone());
            }
        }
    }
    mounts
}

fn make_directory(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("mkdir {}: {error}", dir.display()))),
        Ok(()) => Ok(()),
    }
}

/// A set of CPUs that is empty holds no process.
fn inherit(parent: &Path, dir: &Path, file: &str) -> io::Result<()> {
    let own = std::fs::read_to_string(dir.join(file))?;
    if own.trim().is_empty() {
        std::fs::write(dir.join(file), std::fs::read_to_string(parent.join(file))?)?;
    }
    Ok(())
}

/// Lets the groups below have the controllers that this group has.
fn delegate(dir: &Path) -> io::Result<()> {
    let available = std::fs::read_to_string(dir.join("cgroup.controllers"))?;
    for controller in available.split_whitespace().filter(|controller| CONTROLLERS_V2.contains(controller)) {
        std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))?;
    }
    Ok(())
}

fn subdirectories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for child in subdirectories(dir)? {
        remove_tree(&child)?;
    }
    for tries in 0.. {
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) if tries >= REMOVE_TRIES => return Err(error),
            Err(_) => std::thread::sleep(REMOVE_WAIT),
            Ok(()) => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_by_what_is_mounted() {
        let table = "1 0 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            2 1 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            3 1 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            4 1 0:3 / /sys/fs/cgroup/memory/again rw - cgroup cgroup rw,memory\n\
            5 1 0:4 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            6 1 0:5 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            7 1 0:6 / /elsewhere/pids rw - cgroup cgroup rw,pids\n";
        let mounts = v1_mounts(table, Path::new("/sys/fs/cgroup"));
        let text: Vec<String> = mounts.iter().map(|(controller, mount)| format!("{controller} {}", mount.display())).collect();
        assert_eq!(
            text,
            [
                "cpu /sys/fs/cgroup/cpu,cpuacct",
                "cpuacct /sys/fs/cgroup/cpu,cpuacct",
                "memory /sys/fs/cgroup/memory",
                "name=systemd /sys/fs/cgroup/systemd"
            ]
        );
        assert_eq!(Hierarchies::V1(mounts).directories("/a/b").len(), 3);
    }
}
