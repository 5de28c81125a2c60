//! What this host has that containers are told of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{HostDns, Node};

const CAP_SYS_RESOURCE: u32 = 24;

impl Node {
    /// The facts of this host with the defaults of a kubelet's configuration; what the configuration says otherwise is for the caller to set.
    pub fn of_this_host(name: &str, root_dir: &Path) -> Node {
        Node {
            name: name.to_owned(),
            host_ips: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            host_dns: HostDns::read(Path::new("/etc/resolv.conf")).ok(),
            pod_logs_dir: PathBuf::from("/var/log/pods"),
            allocatable: BTreeMap::new(),
            memory_capacity: memory_capacity(&read("/proc/meminfo")),
            cgroup_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration::from_millis(100),
            seccomp_default: false,
            seccomp_profile_root: root_dir.join("seccomp"),
            min_oom_score_adj: min_oom_score_adj(&read("/proc/self/status"), &read("/proc/self/oom_score_adj")),
            single_process_oom_kill: false,
            hugepage_sizes: hugepage_sizes(&names("/sys/kernel/mm/hugepages")),
            recursive_read_only: false,
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            swap_controller: has_swap_controller(),
            thermal_throttle_paths: thermal_throttle_paths(),
            user_namespace: None,
        }
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn names(path: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Bytes of memory, by `/proc/meminfo`.
pub fn memory_capacity(meminfo: &str) -> i64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<i64>().ok()).unwrap_or(0) * 1024
}

/// Without CAP_SYS_RESOURCE a process cannot give a score below its own.
fn min_oom_score_adj(status: &str, own: &str) -> i64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    if effective >> CAP_SYS_RESOURCE & 1 == 1 { -1000 } else { own.trim().parse().unwrap_or(0) }
}

/// `hugepages-2048kB` as cgroups call it: `2MB`.
fn hugepage_sizes(directories: &[String]) -> Vec<String> {
    let size = |name: &String| -> Option<(u64, String)> {
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let text = match kib {
            kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
            kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
            kib => format!("{kib}KB"),
        };
        Some((kib, text))
    };
    let mut sizes: Vec<(u64, String)> = directories.iter().filter_map(size).collect();
    sizes.sort();
    sizes.into_iter().map(|(_, text)| text).collect()
}

/// Version 1 counts swap in a file of its own; version 2 does so in every group but the root, so in the one of this process.
fn has_swap_controller() -> bool {
    if Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists() {
        return true;
    }
    let own = read("/proc/self/cgroup");
    let group = own.lines().find_map(|line| line.strip_prefix("0::/")).filter(|group| !group.is_empty());
    group.is_some_and(|group| Path::new("/sys/fs/cgroup").join(group).join("memory.swap.max").exists())
}

fn thermal_throttle_paths() -> Vec<String> {
    let cpus = names("/sys/devices/system/cpu");
    let is_cpu = |name: &String| name.strip_prefix("cpu").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let paths = cpus.into_iter().filter(is_cpu).map(|cpu| format!("/sys/devices/system/cpu/{cpu}/thermal_throttle"));
    paths.filter(|path| Path::new(path).exists()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_as_the_kernel_writes_them() {
        assert_eq!(memory_capacity("MemTotal:       1024 kB\nMemFree: 1 kB\n"), 1 << 20);
        assert_eq!(min_oom_score_adj("CapEff:\t000001ffffffffff\n", "100\n"), -1000);
        assert_eq!(min_oom_score_adj("CapEff:\t0000000000000000\n", "100\n"), 100);
        assert_eq!(hugepage_sizes(&["hugepages-1048576kB".to_owned(), "hugepages-2048kB".to_owned()]), ["2MB", "1GB"]);
    }
}
