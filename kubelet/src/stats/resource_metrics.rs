//! `/metrics/resource`: what autoscalers and schedulers of others read.
//!
//! Upstream: pkg/kubelet/metrics/collectors/resource_metrics.go.

use k8s_openapi::jiff::Timestamp;

use super::api::{ContainerStats, PodStats, Summary};
use super::exposition::Page;

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn ms(time: Timestamp) -> Option<i64> {
    Some(time.as_millisecond())
}

/// The page; of a summary that could not be made only the failure is told.
pub fn page(summary: Option<&Summary>) -> String {
    let mut page = Page::default();
    if let Some(summary) = summary {
        containers(&mut page, summary);
        node(&mut page, summary);
        pods(&mut page, summary);
    }
    let failed = if summary.is_none() { 1.0 } else { 0.0 };
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    page.family("resource_scrape_error", "gauge", help).sample(&[], failed, None);
    page.into_text()
}

fn containers(page: &mut Page, summary: &Summary) {
    let all = || summary.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
    fn labels<'a>(pod: &'a PodStats, container: &'a ContainerStats) -> [(&'static str, &'a str); 3] {
        [("container", &container.name), ("namespace", &pod.pod_ref.namespace), ("pod", &pod.pod_ref.name)]
    }
    let mut family = page.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    for (pod, container) in all() {
        if let Some(cpu) = &container.cpu {
            family.sample(&labels(pod, container), seconds(cpu.usage_core_nano_seconds), ms(cpu.time));
        }
    }
    let mut family = page.family("container_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the container in bytes");
    for (pod, container) in all() {
        if let Some(memory) = &container.memory {
            family.sample(&labels(pod, container), memory.working_set_bytes as f64, ms(memory.time));
        }
    }
    let mut family =
        page.family("container_start_time_seconds", "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    for (pod, container) in all() {
        family.sample(&labels(pod, container), container.start_time.as_nanosecond() as f64 / 1e9, None);
    }
    let mut family = page.family(
        "container_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
    );
    for (pod, container) in all() {
        if let Some(swap) = &container.swap {
            family.sample(&labels(pod, container), swap.swap_usage_bytes as f64, ms(swap.time));
        }
    }
}

fn node(page: &mut Page, summary: &Summary) {
    let node = &summary.node;
    if let Some(cpu) = &node.cpu {
        page.family("node_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds").sample(
            &[],
            seconds(cpu.usage_core_nano_seconds),
            ms(cpu.time),
        );
    }
    if let Some(memory) = &node.memory {
        page.family("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes").sample(
            &[],
            memory.working_set_bytes as f64,
            ms(memory.time),
        );
    }
    if let Some(swap) = &node.swap {
        page.family(
            "node_swap_usage_bytes",
            "gauge",
            "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
        )
        .sample(&[], swap.swap_usage_bytes as f64, ms(swap.time));
    }
}

fn pods(page: &mut Page, summary: &Summary) {
    fn labels(pod: &PodStats) -> [(&'static str, &str); 2] {
        [("namespace", &pod.pod_ref.namespace), ("pod", &pod.pod_ref.name)]
    }
    let mut family =
        page.family("pod_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds");
    for pod in &summary.pods {
        if let Some(cpu) = &pod.cpu {
            family.sample(&labels(pod), seconds(cpu.usage_core_nano_seconds), ms(cpu.time));
        }
    }
    let mut family = page.family("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes");
    for pod in &summary.pods {
        if let Some(memory) = &pod.memory {
            family.sample(&labels(pod), memory.working_set_bytes as f64, ms(memory.time));
        }
    }
    let mut family = page.family(
        "pod_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
    );
    for pod in &summary.pods {
        if let Some(swap) = &pod.swap {
            family.sample(&labels(pod), swap.swap_usage_bytes as f64, ms(swap.time));
        }
    }
}
