//! The tree of control groups above containers: `kubepods`, a group for each quality of service, and one for each pod.
//!
//! Groups are directories (the `cgroupfs` driver), in the hierarchies of version 1 or the one of version 2. The groups of containers
//! belong to the runtime. Blocking: every call is a few reads and writes of the kernel's files.
//!
//! Upstream: pkg/kubelet/cm.

mod hierarchy;
mod limits;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::container_config::qos;

pub use hierarchy::Hierarchies;
pub use limits::Limits;

/// How often, and how long apart, killing what is left in a group is tried.
const KILLS: u32 = 20;
const KILL_WAIT: Duration = Duration::from_millis(50);

/// How cgroups are laid out.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where hierarchies are mounted: `/sys/fs/cgroup`.
    pub mount_point: PathBuf,
    /// `--cgroup-root`: the group that `kubepods` is made in; `/` or a path below it.
    pub root: String,
    pub cpu_cfs_quota: bool,
    pub cpu_cfs_quota_period_us: u64,
    /// `--pod-max-pids`; none means no limit.
    pub pod_pids_limit: Option<i64>,
}

/// The groups of this node. Clones are the same.
#[derive(Clone)]
pub struct Cgroups {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    hierarchies: Hierarchies,
    /// What each pod's group was last limited to, so that a sync of an unchanged pod writes nothing.
    pods: Mutex<HashMap<String, Limits>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to find cgroup mounts below {0}")]
    NoMounts(PathBuf),
    #[error("failed to create container for {0} : {1}")]
    Create(String, #[source] io::Error),
    #[error("failed to delete cgroup paths for {0} : {1}")]
    Remove(String, #[source] io::Error),
    #[error("failed to kill all the processes attached to the {0} cgroups")]
    Kill(String),
    #[error("failed to read the cgroup directory {0} : {1}")]
    Read(String, #[source] io::Error),
}

impl Cgroups {
    /// Finds out what the host has.
    pub fn new(config: Config) -> Result<Cgroups, Error> {
        let hierarchies = Hierarchies::discover(&config.mount_point).ok_or_else(|| Error::NoMounts(config.mount_point.clone()))?;
        Ok(Cgroups { shared: Arc::new(Shared { config, hierarchies, pods: Mutex::default() }) })
    }

    pub fn is_v2(&self) -> bool {
        self.shared.hierarchies.is_v2()
    }

    /// Where the groups are, for whoever reads statistics.
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.shared.hierarchies
    }

    /// The group of all pods: `/kubepods`.
    pub fn kubepods(&self) -> String {
        format!("{}/kubepods", self.shared.config.root.trim_end_matches('/'))
    }

    fn class_group(&self, class: qos::Class) -> String {
        let kubepods = self.kubepods();
        match class {
            qos::Class::Guaranteed => kubepods,
            qos::Class::Burstable => format!("{kubepods}/burstable"),
            qos::Class::BestEffort => format!("{kubepods}/besteffort"),
        }
    }

    fn make(&self, group: &str, limits: &Limits) -> Result<(), Error> {
        self.shared
            .hierarchies
            .make(group)
            .and_then(|()| self.shared.hierarchies.limit(group, limits))
            .map_err(|error| Error::Create(group.to_owned(), error))
    }

    /// Makes `kubepods` and the groups of the quality of service classes, and limits `kubepods` to what the node can give.
    pub fn ensure_node(&self, allocatable_memory: Option<i64>, allocatable_cpu_milli: Option<i64>) -> Result<(), Error> {
        self.make(&self.kubepods(), &Limits::of_node(allocatable_memory, allocatable_cpu_milli))?;
        self.make(&self.class_group(qos::Class::Burstable), &Limits::shares(2))?;
        self.make(&self.class_group(qos::Class::BestEffort), &Limits::shares(2))
    }

    /// The path of a pod's group: what the runtime is told as the sandbox's `cgroup_parent`.
    pub fn pod_parent(&self, pod: &Pod) -> String {
        format!("{}/pod{}", self.class_group(qos::class(pod)), pod.metadata.uid.as_deref().unwrap_or(""))
    }

    /// Makes the pod's group, or brings its limits up to date. Blocking, short.
    pub fn ensure_pod(&self, pod: &Pod) -> Result<(), Error> {
        self.ensure_pod_limited(pod, true)
    }

    /// The same; `cpu_limits`: whether the pod's time on CPUs is limited at all, which it is not on those of its own.
    pub fn ensure_pod_limited(&self, pod: &Pod, cpu_limits: bool) -> Result<(), Error> {
        let (group, config) = (self.pod_parent(pod), &self.shared.config);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let limits = Limits::of_pod(pod, config.cpu_cfs_quota && cpu_limits, config.cpu_cfs_quota_period_us, config.pod_pids_limit);
        let known = self.shared.pods.lock().get(&uid) == Some(&limits);
        if !known || !self.shared.hierarchies.exists(&group) {
            self.make(&group, &limits)?;
            self.shared.pods.lock().insert(uid, limits);
        }
        Ok(())
    }

    /// Kills what is left in a pod's group and removes it. Blocking; may take a second.
    pub fn remove_pod(&self, pod_uid: &str) -> Result<(), Error> {
        self.shared.pods.lock().remove(pod_uid);
        for class in [qos::Class::Guaranteed, qos::Class::Burstable, qos::Class::BestEffort] {
            let group = format!("{}/pod{pod_uid}", self.class_group(class));
            self.remove(&group)?;
        }
        Ok(())
    }

    fn remove(&self, group: &str) -> Result<(), Error> {
        let hierarchies = &self.shared.hierarchies;
        let mut tries = 0;
        loop {
            let left = hierarchies.processes(group);
            if left.is_empty() {
                break;
            }
            if tries == KILLS {
                return Err(Error::Kill(group.to_owned()));
            }
            tries += 1;
            for pid in left {
                // One that has ended meanwhile is as good as killed; others are tried again.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::sleep(KILL_WAIT);
        }
        hierarchies.remove(group).map_err(|error| Error::Remove(group.to_owned(), error))
    }

    /// Removes the groups of pods that are not among `known`.
    pub fn clean_orphans(&self, known: &BTreeSet<String>) -> Vec<Error> {
        let mut errors = Vec::new();
        for class in [qos::Class::Guaranteed, qos::Class::Burstable, qos::Class::BestEffort] {
            let parent = self.class_group(class);
            let children = match self.shared.hierarchies.children(&parent) {
                Ok(children) => children,
                Err(error) => {
                    errors.push(Error::Read(parent, error));
                    continue;
                }
            };
            let orphans = children.iter().filter_map(|name| name.strip_prefix("pod")).filter(|uid| !known.contains(*uid));
            errors.extend(orphans.filter_map(|uid| self.remove(&format!("{parent}/pod{uid}")).err()));
        }
        errors
    }

    /// Brings the shares of the quality of service classes up to date with the pods that are there.
    pub fn update_qos<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) -> Result<(), Error> {
        let shares = limits::burstable_shares(pods);
        let group = self.class_group(qos::Class::Burstable);
        self.shared.hierarchies.limit(&group, &Limits::shares(shares)).map_err(|error| Error::Create(group, error))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, resources: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "uid": uid}, "spec": {"containers": [{"name": "c", "resources": resources}]}}),
        )
        .expect("it is a pod")
    }

    /// Needs root and cgroups that can be written; a machine without them has nothing to test.
    #[test]
    fn groups_come_and_go_with_their_pods() {
        let root = format!("/ferrokube-test-{}", std::process::id());
        let config = Config {
            mount_point: "/sys/fs/cgroup".into(),
            root: root.clone(),
            cpu_cfs_quota: true,
            cpu_cfs_quota_period_us: 100_000,
            pod_pids_limit: Some(50),
        };
        let Ok(cgroups) = Cgroups::new(config) else { return };
        if cgroups.ensure_node(Some(1 << 30), Some(2000)).is_err() {
            return;
        }
        let limited = json!({"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}});
        let pod = pod("u1", limited);
        assert_eq!(cgroups.pod_parent(&pod), format!("{root}/kubepods/burstable/podu1"));
        cgroups.ensure_pod(&pod).expect("the parent can be written");
        let read = |controller: &str, file: &str| cgroups.hierarchies().read(controller, &cgroups.pod_parent(&pod), file);
        if cgroups.is_v2() {
            assert_eq!(read("memory", "memory.max").as_deref(), Some("67108864\n"));
        } else {
            assert_eq!(read("cpu", "cpu.shares").as_deref(), Some("512\n"));
            assert_eq!(read("cpu", "cpu.cfs_quota_us").as_deref(), Some("100000\n"));
            assert_eq!(read("memory", "memory.limit_in_bytes").as_deref(), Some("67108864\n"));
            assert_eq!(read("pids", "pids.max").as_deref(), Some("50\n"));
        }
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("there is one");
        cgroups.hierarchies().join(&cgroups.pod_parent(&pod), child.id()).expect("it can be joined");
        let known = BTreeSet::from(["other".to_owned()]);
        // Killed processes are gone only when they are waited for.
        let waiting = std::thread::spawn(move || child.wait().expect("it was started").success());
        let errors = cgroups.clean_orphans(&known);
        assert!(errors.is_empty(), "{errors:?}");
        assert!(!waiting.join().expect("it does not panic"), "it was killed");
        assert!(!cgroups.hierarchies().exists(&cgroups.pod_parent(&pod)));
        cgroups.remove_pod("u1").expect("there is nothing to remove");
        cgroups.hierarchies().remove(&root).expect("it is empty");
    }
}
