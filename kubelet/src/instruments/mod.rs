//! What the kubelet counts and measures of its own work: pods, containers, the runtime, images, storage drivers. By upstream's names.
//!
//! Upstream: pkg/kubelet/metrics/metrics.go.

mod pod_start;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use crate::metrics::{DEFAULT_BUCKETS, Family, Kind, Metrics};
use pod_start::Starts;

const POD_START_BUCKETS: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0,
    1800.0, 2700.0, 3600.0,
];
const IMAGE_PULL_BUCKETS: &[f64] =
    &[1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0];
const CSI_BUCKETS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];
/// Each two and a half times the one before, as upstream computes them.
const RUNTIME_BUCKETS: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];

macro_rules! counter {
    ($name:literal, $help:literal $(, $label:literal)*) => {
        Family { name: $name, kind: Kind::Counter, help: $help, labels: &[$($label),*] }
    };
}

macro_rules! histogram {
    ($name:literal, $help:literal, $buckets:expr $(, $label:literal)*) => {
        Family { name: $name, kind: Kind::Histogram($buckets), help: $help, labels: &[$($label),*] }
    };
}

pub static ADMISSION_REJECTIONS: Family =
    counter!("kubelet_admission_rejections_total", "Cumulative number pod admission rejections by the Kubelet.", "reason");
pub static PLUGIN_ERRORS: Family =
    counter!("kubelet_credential_provider_plugin_errors_total", "Number of errors from credential provider plugin", "plugin_name");
pub static EVICTIONS: Family = counter!("kubelet_evictions", "Cumulative number of pod evictions by eviction signal", "eviction_signal");
pub static IMAGES_COLLECTED: Family = counter!(
    "kubelet_image_garbage_collected_total",
    "Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
    "reason"
);
pub static ORPHANED_PODS: Family = counter!(
    "kubelet_orphaned_runtime_pods_total",
    "Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual."
);
pub static DISCARDED_EVENTS: Family = counter!("kubelet_pleg_discard_events", "The number of discard events in PLEG.");
pub static PREEMPTIONS: Family =
    counter!("kubelet_preemptions", "Cumulative number of pod preemptions by preemption resource", "preemption_signal");
pub static SANDBOX_ERRORS: Family = counter!(
    "kubelet_run_podsandbox_errors_total",
    "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
    "runtime_handler"
);
pub static RUNTIME_OPERATIONS: Family =
    counter!("kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type.", "operation_type");
pub static RUNTIME_ERRORS: Family = counter!(
    "kubelet_runtime_operations_errors_total",
    "Cumulative number of runtime operation errors by operation type.",
    "operation_type"
);
pub static CONTAINERS_STARTED: Family =
    counter!("kubelet_started_containers_total", "Cumulative number of containers started", "container_type");
pub static CONTAINER_START_ERRORS: Family =
    counter!("kubelet_started_containers_errors_total", "Cumulative number of errors when starting containers", "container_type", "code");
pub static PODS_STARTED: Family = counter!("kubelet_started_pods_total", "Cumulative number of pods started");
pub static POD_START_ERRORS: Family = counter!("kubelet_started_pods_errors_total", "Cumulative number of errors when starting pods");
pub static USER_NAMESPACED_STARTED: Family = counter!(
    "kubelet_started_user_namespaced_pods_total",
    "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux."
);
pub static USER_NAMESPACED_ERRORS: Family = counter!(
    "kubelet_started_user_namespaced_pods_errors_total",
    "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux."
);

pub static CSI_OPERATIONS: Family = histogram!(
    "csi_operations_seconds",
    "Container Storage Interface operation duration with gRPC error code status total",
    CSI_BUCKETS,
    "driver_name",
    "method_name",
    "grpc_status_code",
    "migrated"
);
pub static CONTAINERS_PER_POD: Family =
    histogram!("kubelet_containers_per_pod_count", "The number of containers per pod.", &[1.0, 2.0, 4.0, 8.0, 16.0]);
pub static PLUGIN_DURATION: Family = histogram!(
    "kubelet_credential_provider_plugin_duration_seconds",
    "Duration of execution in seconds for credential provider plugin",
    DEFAULT_BUCKETS,
    "plugin_name"
);
pub static IMAGE_PULL_DURATION: Family =
    histogram!("kubelet_image_pull_duration_seconds", "Duration in seconds to pull an image.", IMAGE_PULL_BUCKETS, "image_size_in_bytes");
pub static RELIST_DURATION: Family =
    histogram!("kubelet_pleg_relist_duration_seconds", "Duration in seconds for relisting pods in PLEG.", DEFAULT_BUCKETS);
pub static RELIST_INTERVAL: Family =
    histogram!("kubelet_pleg_relist_interval_seconds", "Interval in seconds between relisting in PLEG.", DEFAULT_BUCKETS);
pub static POD_START_DURATION: Family = histogram!(
    "kubelet_pod_start_duration_seconds",
    "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
    POD_START_BUCKETS
);
pub static POD_START_SLI_DURATION: Family = histogram!(
    "kubelet_pod_start_sli_duration_seconds",
    "Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
    POD_START_BUCKETS
);
pub static POD_START_TOTAL_DURATION: Family = histogram!(
    "kubelet_pod_start_total_duration_seconds",
    "Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
    POD_START_BUCKETS
);
pub static POD_WORKER_DURATION: Family = histogram!(
    "kubelet_pod_worker_duration_seconds",
    "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
    DEFAULT_BUCKETS,
    "operation_type"
);
pub static POD_WORKER_START_DURATION: Family = histogram!(
    "kubelet_pod_worker_start_duration_seconds",
    "Duration in seconds from kubelet seeing a pod to starting a worker.",
    DEFAULT_BUCKETS
);
pub static SANDBOX_DURATION: Family = histogram!(
    "kubelet_run_podsandbox_duration_seconds",
    "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
    DEFAULT_BUCKETS,
    "runtime_handler"
);
pub static RUNTIME_DURATION: Family = histogram!(
    "kubelet_runtime_operations_duration_seconds",
    "Duration in seconds of runtime operations. Broken down by operation type.",
    RUNTIME_BUCKETS,
    "operation_type"
);

/// What is shown before anything has happened: families without labels.
static SHOWN_AT_ONCE: [&Family; 10] = [
    &ORPHANED_PODS,
    &DISCARDED_EVENTS,
    &POD_START_ERRORS,
    &PODS_STARTED,
    &USER_NAMESPACED_ERRORS,
    &USER_NAMESPACED_STARTED,
    &CONTAINERS_PER_POD,
    &RELIST_DURATION,
    &RELIST_INTERVAL,
    &POD_START_DURATION,
];

/// Sizes of images, as the pulls' durations are told apart by them: from so many bytes on.
const IMAGE_SIZES: [(u64, &str); 12] = [
    (0, "0-10MB"),
    (10 << 20, "10MB-100MB"),
    (100 << 20, "100MB-500MB"),
    (500 << 20, "500MB-1GB"),
    (1 << 30, "1GB-5GB"),
    (5 << 30, "5GB-10GB"),
    (10 << 30, "10GB-20GB"),
    (20 << 30, "20GB-30GB"),
    (30 << 30, "30GB-40GB"),
    (40 << 30, "40GB-60GB"),
    (60 << 30, "60GB-100GB"),
    (100 << 30, "GT100GB"),
];

/// What the kubelet has counted and measured. Clones are the same.
#[derive(Clone)]
pub struct Instruments {
    metrics: Metrics,
    starts: Arc<Mutex<Starts>>,
}

impl Default for Instruments {
    fn default() -> Instruments {
        let metrics = Metrics::default();
        SHOWN_AT_ONCE.iter().for_each(|family| metrics.begin(family));
        Instruments { metrics, starts: Arc::default() }
    }
}

impl Instruments {
    pub fn count(&self, counter: &'static Family, labels: &[&str]) {
        self.metrics.count(counter, labels);
    }

    pub fn took(&self, histogram: &'static Family, labels: &[&str], time: Duration) {
        self.metrics.observe(histogram, labels, time.as_secs_f64());
    }

    /// A call to the runtime has ended. `method` is that of the interface, such as `run_pod_sandbox`.
    pub fn runtime_operation(&self, method: &str, time: Duration, failed: bool) {
        let operation = operation_type(method);
        self.count(&RUNTIME_OPERATIONS, &[&operation]);
        self.took(&RUNTIME_DURATION, &[&operation], time);
        if failed {
            self.count(&RUNTIME_ERRORS, &[&operation]);
        }
    }

    pub fn pulled(&self, uid: &str, bytes: u64, time: Duration) {
        self.starts.lock().pull_ends(uid, Timestamp::now());
        let size = IMAGE_SIZES.iter().rev().find(|(from, _)| bytes >= *from).map_or("N/A", |(_, name)| name);
        self.took(&IMAGE_PULL_DURATION, &[size], time);
    }

    pub fn pulling(&self, uid: &str) {
        self.starts.lock().pull_begins(uid, Timestamp::now());
    }

    /// A pod is seen for the first time, and has not run before.
    pub fn pod_seen(&self, uid: &str, created: Timestamp, containers: usize) {
        self.starts.lock().seen(uid, created, Timestamp::now());
        self.metrics.observe(&CONTAINERS_PER_POD, &[], containers as f64);
    }

    /// A pod's status was told.
    pub fn status_told(&self, uid: &str, status: &PodStatus) {
        let Some(took) = self.starts.lock().told(uid, status, Timestamp::now()) else { return };
        self.took(&POD_START_DURATION, &[], took.here);
        self.took(&POD_START_TOTAL_DURATION, &[], took.total);
        self.took(&POD_START_SLI_DURATION, &[], took.sli);
    }

    pub fn forget(&self, uid: &str) {
        self.starts.lock().forget(uid);
    }

    /// Everything, as scrapers read it.
    pub fn render(&self) -> String {
        self.metrics.render()
    }
}

/// A method of the interface by upstream's name for it.
fn operation_type(method: &str) -> String {
    match method {
        "update_container_resources" => "update_container".to_owned(),
        method => method.replace("pod_sandbox", "podsandbox"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_and_sizes_have_upstreams_names() {
        for (method, expect) in [
            ("run_pod_sandbox", "run_podsandbox"),
            ("list_pod_sandbox", "list_podsandbox"),
            ("update_container_resources", "update_container"),
            ("exec_sync", "exec_sync"),
        ] {
            assert_eq!(operation_type(method), expect);
        }
        let metrics = Instruments::default();
        metrics.pulled("u", 10 << 20, Duration::from_secs(2));
        metrics.runtime_operation("run_pod_sandbox", Duration::from_millis(3), true);
        let text = metrics.render();
        for line in [
            "kubelet_started_pods_total 0\n",
            "kubelet_image_pull_duration_seconds_count{image_size_in_bytes=\"10MB-100MB\"} 1\n",
            "kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"} 1\n",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"0.005\"} 1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
