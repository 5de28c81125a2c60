//! `/metrics/cadvisor`: containers in detail, in the series that dashboards know from cAdvisor.

use k8s_openapi::jiff::Timestamp;

use super::api::{ContainerStats, InterfaceStats, NodeStats, PodStats, Summary};
use super::exposition::Page;

/// What is told of the machine beside its use.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub cpus: u64,
    pub memory_bytes: u64,
}

/// One group: the root, a pod's, or a container's.
struct Row<'a> {
    container: &'a str,
    id: &'a str,
    image: &'a str,
    name: &'a str,
    pod: Option<&'a PodStats>,
    stats: &'a ContainerStats,
}

impl<'a> Row<'a> {
    fn labels(&self) -> [(&'static str, &'a str); 6] {
        let (namespace, pod) = self.pod.map_or(("", ""), |pod| (pod.pod_ref.namespace.as_str(), pod.pod_ref.name.as_str()));
        [("container", self.container), ("id", self.id), ("image", self.image), ("name", self.name), ("namespace", namespace), ("pod", pod)]
    }
}

/// The page. `pods` are the groups of whole pods, in the order of the summary's.
pub fn page(summary: &Summary, pods: &[ContainerStats], machine: Machine) -> String {
    let root = root(&summary.node);
    let mut rows = vec![Row { container: "", id: "/", image: "", name: "", pod: None, stats: &root }];
    for (pod, group) in summary.pods.iter().zip(pods) {
        rows.push(Row { container: "", id: &group.origin.group, image: "", name: "", pod: Some(pod), stats: group });
        let containers = pod.containers.iter();
        rows.extend(containers.map(|stats| {
            let origin = &stats.origin;
            Row { container: &stats.name, id: &origin.group, image: &origin.image, name: &origin.id, pod: Some(pod), stats }
        }));
    }
    let mut page = Page::default();
    cpu_and_memory(&mut page, &rows);
    networks(&mut page, summary, pods);
    page.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.").sample(&[], machine.cpus as f64, None);
    page.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.").sample(
        &[],
        machine.memory_bytes as f64,
        None,
    );
    page.family("container_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise").sample(
        &[],
        0.0,
        None,
    );
    page.into_text()
}

fn root(node: &NodeStats) -> ContainerStats {
    ContainerStats {
        name: String::new(),
        start_time: node.start_time,
        cpu: node.cpu.clone(),
        memory: node.memory.clone(),
        rootfs: None,
        logs: None,
        swap: node.swap.clone(),
        origin: super::api::Origin::default(),
    }
}

type Reading = fn(&ContainerStats) -> Option<(f64, Option<Timestamp>)>;

fn cpu_and_memory(page: &mut Page, rows: &[Row<'_>]) {
    let families: [(&str, &str, &str, Reading); 12] = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |stats| {
            stats.cpu.as_ref().map(|cpu| (cpu.usage_core_nano_seconds as f64 / 1e9, Some(cpu.time)))
        }),
        ("container_last_seen", "gauge", "Last time a container was seen by the exporter", |stats| {
            stats.cpu.as_ref().map(|cpu| (cpu.time.as_second() as f64, Some(cpu.time)))
        }),
        ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |stats| {
            stats.memory.as_ref().map(|memory| (stats.origin.cache_bytes as f64, Some(memory.time)))
        }),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |stats| {
            stats.memory.as_ref().map(|memory| (memory.rss_bytes as f64, Some(memory.time)))
        }),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |stats| stats.memory.as_ref().map(|memory| (memory.usage_bytes as f64, Some(memory.time))),
        ),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |stats| {
            stats.memory.as_ref().map(|memory| (memory.working_set_bytes as f64, Some(memory.time)))
        }),
        ("container_memory_swap", "gauge", "Container swap usage in bytes.", |stats| {
            stats.swap.as_ref().map(|swap| (swap.swap_usage_bytes as f64, Some(swap.time)))
        }),
        ("container_processes", "gauge", "Number of processes running inside the container.", |stats| {
            stats.cpu.as_ref().map(|cpu| (stats.origin.processes as f64, Some(cpu.time)))
        }),
        ("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container on this filesystem.", |stats| {
            stats.rootfs.as_ref().map(|fs| (fs.used_bytes as f64, Some(fs.time)))
        }),
        ("container_fs_limit_bytes", "gauge", "Number of bytes that can be consumed by the container on this filesystem.", |stats| {
            stats.rootfs.as_ref().map(|fs| (fs.capacity_bytes as f64, Some(fs.time)))
        }),
        ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |stats| {
            Some((stats.origin.memory_limit as f64, None))
        }),
        ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", |stats| {
            Some((stats.start_time.as_second() as f64, None))
        }),
    ];
    for (name, kind, help, reading) in families {
        let mut family = page.family(name, kind, help);
        for row in rows {
            let Some((value, time)) = reading(row.stats) else { continue };
            family.sample(&row.labels(), value, time.map(Timestamp::as_millisecond));
        }
    }
}

fn networks(page: &mut Page, summary: &Summary, pods: &[ContainerStats]) {
    type Counter = fn(&InterfaceStats) -> u64;
    let families: [(&str, &str, Counter); 4] = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", |interface| interface.rx_bytes),
        ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |interface| {
            interface.rx_errors
        }),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |interface| interface.tx_bytes),
        ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |interface| {
            interface.tx_errors
        }),
    ];
    for (name, help, counter) in families {
        let mut family = page.family(name, "counter", help);
        let node = summary.node.network.iter().map(|network| (network, "", "", "/"));
        let of_pods = summary.pods.iter().zip(pods).filter_map(|(pod, group)| {
            Some((pod.network.as_ref()?, pod.pod_ref.namespace.as_str(), pod.pod_ref.name.as_str(), group.origin.group.as_str()))
        });
        for (network, namespace, pod, id) in node.chain(of_pods) {
            for interface in &network.interfaces {
                let labels = [
                    ("container", ""),
                    ("id", id),
                    ("image", ""),
                    ("interface", interface.name.as_str()),
                    ("name", ""),
                    ("namespace", namespace),
                    ("pod", pod),
                ];
                family.sample(&labels, counter(interface) as f64, Some(network.time.as_millisecond()));
            }
        }
    }
}
