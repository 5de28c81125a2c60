//! Gathering the numbers: the shell of statistics.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Object;
use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Pod, Volume};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use super::api::{
    ClaimReference, ContainerStats, CpuStats, FsStats, MemoryStats, NetworkStats, NodeStats, Origin, PodReference, PodStats, ProcessStats,
    RlimitStats, RuntimeStats, Summary, SwapStats, VolumeStats,
};
use super::disk::{self, Sizes, Used};
use super::usage::{self, Usage};
use super::{cadvisor, network, resource_metrics};
use crate::cgroups::Cgroups;
use crate::container_config::labels;
use crate::cri::SharedRuntime;
use crate::volumes::Volumes;

/// A rate is that of at least so long a time.
const RATE_OVER: Duration = Duration::from_secs(1);

/// Where numbers are to be had.
#[derive(Clone)]
pub struct Config {
    pub node_name: String,
    /// `/var/lib/kubelet`
    pub root_dir: PathBuf,
    /// `/var/log/pods`
    pub pod_logs_dir: PathBuf,
    /// None on simulated nodes, which use nothing.
    pub cgroups: Option<Cgroups>,
    /// Bytes of memory that the machine has.
    pub memory_capacity: i64,
    /// Who knows what storage drivers say of their volumes.
    pub volumes: Option<Volumes>,
}

/// Tells what is used. Clones are the same.
#[derive(Clone)]
pub struct Provider {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    runtime: SharedRuntime,
    started: Timestamp,
    rates: Mutex<HashMap<String, Rate>>,
    sizes: Sizes,
}

#[derive(Clone, Copy)]
struct Rate {
    at: Instant,
    cpu_nanos: u64,
    nano_cores: Option<u64>,
}

/// How much is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    CpuAndMemory,
    /// All of the node, nothing of pods.
    Node,
    All,
}

/// What the runtime has, by pod: running containers and sandboxes.
#[derive(Default)]
struct Found {
    containers: BTreeMap<String, Vec<v1::Container>>,
    sandboxes: BTreeMap<String, v1::PodSandbox>,
    /// Writable layers by container id.
    layers: HashMap<String, Used>,
    image_fs: Vec<(PathBuf, u64)>,
}

impl Provider {
    pub fn new(config: Config, runtime: SharedRuntime) -> Provider {
        let started = boot_time(&std::fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_else(Timestamp::now);
        Provider { shared: Arc::new(Shared { config, runtime, started, rates: Mutex::default(), sizes: Sizes::default() }) }
    }

    /// What is used now by the node and these pods: all of it, or only what is had for little.
    pub async fn summary(&self, pods: &[Arc<Pod>], only_cpu_and_memory: bool) -> Result<Summary, String> {
        Ok(self.gather(pods, if only_cpu_and_memory { Depth::CpuAndMemory } else { Depth::All }).await?.0)
    }

    /// What the node as a whole uses: cheap enough to be asked for all the time.
    pub async fn node_summary(&self) -> Result<Summary, String> {
        let image_fs = self.shared.runtime.image_fs_info().await.map_err(|error| error.to_string())?;
        let found = Found { image_fs: image_places(&image_fs), ..Found::default() };
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || shared.summarize(&[], &found, Depth::Node).0).await.map_err(|error| error.to_string())
    }

    /// `/metrics/resource`
    pub async fn resource_metrics(&self, pods: &[Arc<Pod>]) -> String {
        match self.summary(pods, true).await {
            Ok(summary) => resource_metrics::page(Some(&summary)),
            Err(error) => {
                tracing::warn!(error, "cannot gather statistics");
                resource_metrics::page(None)
            }
        }
    }

    /// `/metrics/cadvisor`
    pub async fn cadvisor_metrics(&self, pods: &[Arc<Pod>]) -> Result<String, String> {
        let (summary, groups) = self.gather(pods, Depth::All).await?;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        let memory_bytes = u64::try_from(self.shared.config.memory_capacity).unwrap_or(0);
        Ok(cadvisor::page(&summary, &groups, cadvisor::Machine { cpus, memory_bytes }))
    }

    async fn gather(&self, pods: &[Arc<Pod>], depth: Depth) -> Result<(Summary, Vec<ContainerStats>), String> {
        let found = self.ask_runtime(depth).await.map_err(|error| error.to_string())?;
        let (shared, pods) = (self.shared.clone(), pods.to_vec());
        tokio::task::spawn_blocking(move || shared.summarize(&pods, &found, depth)).await.map_err(|error| error.to_string())
    }

    async fn ask_runtime(&self, depth: Depth) -> Result<Found, crate::cri::Error> {
        let runtime = &self.shared.runtime;
        let running = v1::ContainerFilter {
            state: Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() }),
            ..Default::default()
        };
        let ready = v1::PodSandboxFilter {
            state: Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() }),
            ..Default::default()
        };
        let (containers, sandboxes) = tokio::try_join!(runtime.list_containers(Some(running)), runtime.list_pod_sandboxes(Some(ready)))?;
        let mut found = Found::default();
        let uid = |labels: &HashMap<String, String>| labels.get(labels::POD_UID).cloned().unwrap_or_default();
        for container in containers {
            found.containers.entry(uid(&container.labels)).or_default().push(container);
        }
        found.sandboxes.extend(sandboxes.into_iter().map(|sandbox| (uid(&sandbox.labels), sandbox)));
        if depth != Depth::CpuAndMemory {
            let (stats, images) = tokio::try_join!(runtime.list_container_stats(None), runtime.image_fs_info())?;
            found.layers = stats.into_iter().filter_map(layer).collect();
            found.image_fs = image_places(&images);
        }
        Ok(found)
    }
}

/// Where images are, and the bytes that they take.
fn image_places(images: &v1::ImageFsInfoResponse) -> Vec<(PathBuf, u64)> {
    let of = |usage: &v1::FilesystemUsage| {
        let place = usage.fs_id.as_ref().map(|id| PathBuf::from(&id.mountpoint));
        place.map(|place| (place, usage.used_bytes.as_ref().map_or(0, |bytes| bytes.value)))
    };
    images.image_filesystems.iter().filter_map(of).collect()
}

fn layer(stats: v1::ContainerStats) -> Option<(String, Used)> {
    let layer = stats.writable_layer?;
    let bytes = layer.used_bytes.map_or(0, |bytes| bytes.value);
    let inodes = layer.inodes_used.map_or(0, |inodes| inodes.value);
    Some((stats.attributes?.id, Used { bytes, inodes }))
}

fn boot_time(stat: &str) -> Option<Timestamp> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    Timestamp::from_second(seconds).ok()
}

impl Shared {
    fn summarize(&self, pods: &[Arc<Pod>], found: &Found, depth: Depth) -> (Summary, Vec<ContainerStats>) {
        let now = Timestamp::now();
        let mut seen = HashSet::new();
        let node_fs = disk::file_system(&self.config.root_dir, now);
        let image_fs = found.image_fs.iter().find_map(|(place, used)| {
            let whole = disk::file_system(place, now)?;
            let inodes = whole.inodes_used;
            Some(disk::part_of(&whole, Used { bytes: *used, inodes }))
        });
        let container_fs = found.image_fs.iter().find_map(|(place, _)| disk::file_system(place, now));
        let mut summary = Summary { node: self.node(now, &mut seen), pods: Vec::new() };
        let only_cpu_and_memory = depth == Depth::CpuAndMemory;
        if !only_cpu_and_memory {
            summary.node.fs = node_fs.clone();
            summary.node.network = interfaces("self", now);
            summary.node.rlimit = rlimit(now);
            summary.node.runtime = Some(RuntimeStats { image_fs, container_fs: container_fs.clone() });
        }
        let mut groups = Vec::new();
        for pod in pods {
            let containers = found.containers.get(pod.uid());
            if containers.is_none() && !found.sandboxes.contains_key(pod.uid()) {
                continue;
            }
            let containers = containers.map_or(&[][..], Vec::as_slice);
            let group = self.config.cgroups.as_ref().map(|cgroups| cgroups.pod_parent(pod)).unwrap_or_default();
            let whole = self.container(String::new(), started(pod, found), &group, now, &mut seen);
            let stats = containers.iter().map(|container| {
                let mut stats = self.one(container, &group, now, &mut seen);
                if !only_cpu_and_memory {
                    self.add_disks(&mut stats, pod, &container.id, found, node_fs.as_ref(), container_fs.as_ref());
                }
                stats
            });
            let stats: Vec<ContainerStats> = stats.collect();
            summary.pods.push(self.pod(pod, &whole, stats, found, node_fs.as_ref(), only_cpu_and_memory, now));
            groups.push(whole);
        }
        // Who was not looked at is not gone.
        if depth != Depth::Node {
            self.rates.lock().retain(|group, _| seen.contains(group));
        }
        self.sizes.prune();
        (summary, groups)
    }

    fn node(&self, now: Timestamp, seen: &mut HashSet<String>) -> NodeStats {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let machine = usage::of_machine(&read("/proc/stat"), &read("/proc/meminfo"));
        let cgroups = self.config.cgroups.as_ref();
        let own = cgroups.map(|cgroups| usage::of(cgroups.hierarchies(), "/")).unwrap_or_default();
        let mut usage = Usage { cpu_nanos: own.cpu_nanos.or(machine.cpu_nanos), memory: own.memory.or(machine.memory), ..machine };
        let capacity = u64::try_from(self.config.memory_capacity).unwrap_or(0);
        if let Some(memory) = &mut usage.memory {
            memory.limit = Some(capacity).filter(|capacity| *capacity > 0);
        }
        let system = cgroups.map(|cgroups| self.container("pods".to_owned(), self.started, &cgroups.kubepods(), now, seen));
        NodeStats {
            node_name: self.config.node_name.clone(),
            system_containers: system.into_iter().collect(),
            start_time: self.started,
            cpu: self.cpu("/", &usage, now, seen),
            memory: memory(&usage, now),
            network: None,
            fs: None,
            runtime: None,
            rlimit: None,
            swap: swap(&usage, now),
        }
    }

    /// A group's numbers.
    fn container(&self, name: String, start_time: Timestamp, group: &str, now: Timestamp, seen: &mut HashSet<String>) -> ContainerStats {
        let cgroups = self.config.cgroups.as_ref();
        let usage = cgroups.map(|cgroups| usage::of(cgroups.hierarchies(), group)).unwrap_or_default();
        ContainerStats {
            name,
            start_time,
            cpu: self.cpu(group, &usage, now, seen),
            memory: memory(&usage, now),
            rootfs: None,
            logs: None,
            swap: swap(&usage, now),
            origin: Origin {
                group: group.to_owned(),
                cache_bytes: usage.memory.map_or(0, |memory| memory.cache),
                memory_limit: usage.memory.and_then(|memory| memory.limit).unwrap_or(0),
                processes: usage.processes.unwrap_or(0),
                ..Origin::default()
            },
        }
    }

    fn one(&self, container: &v1::Container, pod_group: &str, now: Timestamp, seen: &mut HashSet<String>) -> ContainerStats {
        let name = container.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default();
        let created = Timestamp::from_nanosecond(i128::from(container.created_at)).unwrap_or(now);
        let mut stats = self.container(name, created, &format!("{pod_group}/{}", container.id), now, seen);
        stats.origin.id.clone_from(&container.id);
        let specified = container.image.as_ref().map(|image| image.user_specified_image.clone()).filter(|image| !image.is_empty());
        stats.origin.image = specified.unwrap_or_else(|| container.image_ref.clone());
        stats
    }

    fn add_disks(
        &self,
        stats: &mut ContainerStats,
        pod: &Pod,
        id: &str,
        found: &Found,
        node_fs: Option<&FsStats>,
        container_fs: Option<&FsStats>,
    ) {
        let layer = found.layers.get(id).copied().unwrap_or_default();
        stats.rootfs = container_fs.map(|whole| disk::part_of(whole, layer));
        let dir = format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid());
        let logs = self.sizes.of(&self.config.pod_logs_dir.join(dir).join(&stats.name));
        stats.logs = node_fs.map(|whole| disk::part_of(whole, logs));
    }

    #[allow(clippy::too_many_arguments, reason = "one place puts the parts of a pod together")]
    fn pod(
        &self,
        pod: &Pod,
        group: &ContainerStats,
        containers: Vec<ContainerStats>,
        found: &Found,
        node_fs: Option<&FsStats>,
        only_cpu_and_memory: bool,
        now: Timestamp,
    ) -> PodStats {
        let mut stats = PodStats {
            pod_ref: PodReference { name: pod.name().to_owned(), namespace: pod.namespace().to_owned(), uid: pod.uid().to_owned() },
            start_time: group.start_time,
            cpu: group.cpu.clone(),
            memory: group.memory.clone(),
            network: None,
            volumes: Vec::new(),
            ephemeral_storage: None,
            processes: Some(ProcessStats { process_count: group.origin.processes }),
            swap: group.swap.clone(),
            containers,
        };
        if only_cpu_and_memory {
            return stats;
        }
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        if let (Some(sandbox), false) = (found.sandboxes.get(pod.uid()), host_network) {
            stats.network = self.process_of(&group.origin.group, &sandbox.id).and_then(|pid| interfaces(&pid.to_string(), now));
        }
        let (volumes, own) = self.volumes(pod, now);
        stats.volumes = volumes;
        stats.ephemeral_storage = node_fs.map(|whole| {
            let disks = stats.containers.iter().flat_map(|container| container.rootfs.iter().chain(&container.logs));
            let used = disks.map(|fs| Used { bytes: fs.used_bytes, inodes: fs.inodes_used }).fold(own, Used::plus);
            disk::part_of(whole, used)
        });
        stats
    }

    /// A process in the sandbox, whose network is the pod's.
    fn process_of(&self, pod_group: &str, sandbox: &str) -> Option<i32> {
        let cgroups = self.config.cgroups.as_ref()?;
        cgroups.hierarchies().processes(&format!("{pod_group}/{sandbox}")).into_iter().next()
    }

    /// What each volume takes, and what those on the node's own disk take together.
    fn volumes(&self, pod: &Pod, now: Timestamp) -> (Vec<VolumeStats>, Used) {
        let (mut all, mut own) = (Vec::new(), Used::default());
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(dir) = self.directory_of(pod, volume) else { continue };
            let Some(whole) = disk::file_system(&dir, now) else { continue };
            let used = if is_whole(volume) { Used { bytes: whole.used_bytes, inodes: whole.inodes_used } } else { self.sizes.of(&dir) };
            if !is_whole(volume) && disk::is_same_device(&dir, &self.config.root_dir) {
                own = own.plus(used);
            }
            let claim = crate::volumes::claim_of(pod, volume).map(|name| ClaimReference { name, namespace: pod.namespace().to_owned() });
            all.push(VolumeStats { fs: disk::part_of(&whole, used), name: volume.name.clone(), claim });
        }
        all.extend(self.of_drivers(pod));
        (all, own)
    }

    /// What storage drivers said of the pod's volumes.
    fn of_drivers(&self, pod: &Pod) -> Vec<VolumeStats> {
        let measured = self.config.volumes.as_ref().map(|volumes| volumes.measured(pod.uid())).unwrap_or_default();
        let told = measured.into_iter().map(|(name, usage)| {
            let volume = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).find(|volume| volume.name == name);
            let claim = volume.and_then(|volume| crate::volumes::claim_of(pod, volume));
            let fs = FsStats {
                time: usage.time,
                available_bytes: usage.available,
                capacity_bytes: usage.capacity,
                used_bytes: usage.used,
                inodes_free: usage.inodes_free,
                inodes: usage.inodes,
                inodes_used: usage.inodes_used,
            };
            VolumeStats { fs, name, claim: claim.map(|name| ClaimReference { name, namespace: pod.namespace().to_owned() }) }
        });
        told.collect()
    }

    fn directory_of(&self, pod: &Pod, volume: &Volume) -> Option<PathBuf> {
        let volumes = self.config.root_dir.join("pods").join(pod.uid()).join("volumes");
        let kind = match volume {
            volume if volume.empty_dir.is_some() => "kubernetes.io~empty-dir",
            volume if volume.config_map.is_some() => "kubernetes.io~configmap",
            volume if volume.secret.is_some() => "kubernetes.io~secret",
            volume if volume.projected.is_some() => "kubernetes.io~projected",
            volume if volume.downward_api.is_some() => "kubernetes.io~downward-api",
            _ => return None,
        };
        Some(volumes.join(kind).join(&volume.name)).filter(|dir: &PathBuf| Path::is_dir(dir))
    }

    fn cpu(&self, group: &str, usage: &Usage, now: Timestamp, seen: &mut HashSet<String>) -> Option<CpuStats> {
        let cpu_nanos = usage.cpu_nanos?;
        seen.insert(group.to_owned());
        let mut rates = self.rates.lock();
        let last = rates.get(group).copied();
        let current = rate(last, Instant::now(), cpu_nanos);
        rates.insert(group.to_owned(), current);
        Some(CpuStats { time: now, usage_nano_cores: current.nano_cores, usage_core_nano_seconds: cpu_nanos })
    }
}

/// Whether a volume is a file system of its own, whose use need not be counted file by file.
fn is_whole(volume: &Volume) -> bool {
    let in_memory = volume.empty_dir.as_ref().is_some_and(|source| source.medium.as_deref().is_some_and(|medium| !medium.is_empty()));
    in_memory || volume.secret.is_some() || volume.projected.is_some() || volume.downward_api.is_some()
}

fn rate(last: Option<Rate>, at: Instant, cpu_nanos: u64) -> Rate {
    match last {
        Some(last) if at.duration_since(last.at) < RATE_OVER => last,
        Some(last) => {
            let seconds = at.duration_since(last.at).as_secs_f64();
            let nano_cores = (cpu_nanos.saturating_sub(last.cpu_nanos) as f64 / seconds) as u64;
            Rate { at, cpu_nanos, nano_cores: Some(nano_cores) }
        }
        None => Rate { at, cpu_nanos, nano_cores: None },
    }
}

fn memory(usage: &Usage, time: Timestamp) -> Option<MemoryStats> {
    let memory = usage.memory?;
    Some(MemoryStats {
        time,
        available_bytes: memory.limit.map(|limit| limit.saturating_sub(memory.working_set)),
        usage_bytes: memory.usage,
        working_set_bytes: memory.working_set,
        rss_bytes: memory.rss,
        page_faults: memory.faults,
        major_page_faults: memory.major_faults,
    })
}

fn swap(usage: &Usage, time: Timestamp) -> Option<SwapStats> {
    usage.swap_bytes.map(|swap_usage_bytes| SwapStats { time, swap_available_bytes: None, swap_usage_bytes })
}

fn interfaces(pid: &str, time: Timestamp) -> Option<NetworkStats> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{file}"));
    let (default, interfaces) = network::parse(&read("dev").ok()?, &read("route").unwrap_or_default());
    Some(NetworkStats { time, default, interfaces })
}

fn rlimit(time: Timestamp) -> Option<RlimitStats> {
    let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i64>().ok());
    let maxpid = [number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max")].into_iter().flatten().min()?;
    // `0.00 0.01 0.05 1/123 4567`: running and all.
    let loads = std::fs::read_to_string("/proc/loadavg").ok()?;
    let curproc = loads.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some(RlimitStats { time, maxpid, curproc })
}

fn started(pod: &Pod, found: &Found) -> Timestamp {
    let sandbox = found.sandboxes.get(pod.uid()).and_then(|sandbox| Timestamp::from_nanosecond(i128::from(sandbox.created_at)).ok());
    let told = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    sandbox.or(told).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_second_at_least() {
        let start = Instant::now();
        let first = rate(None, start, 1_000);
        assert_eq!(first.nano_cores, None);
        let soon = rate(Some(first), start + Duration::from_millis(10), 2_000);
        assert_eq!((soon.nano_cores, soon.cpu_nanos), (None, 1_000));
        let later = rate(Some(soon), start + Duration::from_secs(2), 1_000_001_000);
        assert_eq!(later.nano_cores, Some(500_000_000));
    }

    #[test]
    fn the_machine_tells_when_it_booted() {
        assert_eq!(boot_time("cpu 1\nbtime 100\n"), Timestamp::from_second(100).ok());
    }
}
