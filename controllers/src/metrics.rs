//! What the controllers count and time: upstream's families (v1.37) with its labels, one table for all.
//!
//! A family is a static that its controller adds to; nobody reads one to decide anything. Names, labels and help are wire format.

use std::time::Duration;

use client::metrics::{Buckets, Counter, Family, Gauge, Histogram, LookedUp, Told, counters, gauges, histograms};

/// From a millisecond to sixteen seconds, each twice the one before.
const DOUBLING: Buckets = Buckets::Exponential(0.001, 2.0, 15);
/// Numbers of endpoints.
const ENDPOINTS: Buckets = Buckets::Exponential(2.0, 2.0, 15);
/// From five milliseconds to four minutes.
const EVICTIONS: Buckets = Buckets::Listed(&[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0]);

macro_rules! families {
    ($($id:ident: $kind:ty = $made:expr;)*) => {
        $(pub static $id: $kind = $made;)*

        static OWN: &[&dyn Told] = &[$(&$id),*];
    };
}

families! {
    RUNNING_CONTROLLERS: Family<Gauge> = gauges(
        "running_managed_controllers", "[BETA] Indicates where instances of a controller are currently running", &["name", "manager"]);

    ROOT_CA_SYNCS: Family<Counter> = counters(
        "root_ca_cert_publisher_sync_total", "[ALPHA] Number of namespace syncs happened in root ca cert publisher.", &["code"]);
    ROOT_CA_DURATION: Family<Histogram> = histograms(
        "root_ca_cert_publisher_sync_duration_seconds", "[ALPHA] Number of namespace syncs happened in root ca cert publisher.", &["code"], DOUBLING);

    TRUST_BUNDLE_SYNCS: Family<Counter> = counters(
        "clustertrustbundle_publisher_sync_total", "[ALPHA] Number of syncs that occurred in cluster trust bundle publisher.", &["code"]);
    TRUST_BUNDLE_DURATION: Family<Histogram> = histograms(
        "clustertrustbundle_publisher_sync_duration_seconds", "[ALPHA] The time it took to sync a cluster trust bundle.", &["code"], DOUBLING);

    COLLECTOR_SYNC_ERRORS: Family<Counter> = counters(
        "garbagecollector_controller_resources_sync_error_total", "[ALPHA] Number of garbage collector resources sync errors", &[]);

    JOB_SYNC_DURATION: Family<Histogram> = histograms(
        "job_controller_job_sync_duration_seconds", "[STABLE] The time it took to sync a job", &["completion_mode", "result", "action"],
        Buckets::Exponential(0.004, 2.0, 15));
    JOB_SYNCS: Family<Counter> = counters(
        "job_controller_job_syncs_total", "[STABLE] The number of job syncs", &["completion_mode", "result", "action"]);
    JOBS_FINISHED: Family<Counter> = counters(
        "job_controller_jobs_finished_total", "[STABLE] The number of finished jobs", &["completion_mode", "result", "reason"]);
    JOBS_OF_OTHERS: Family<Counter> = counters(
        "job_controller_jobs_by_external_controller_total", "[ALPHA] The number of Jobs managed by an external controller", &["controller_name"]);
    JOB_PODS_FINISHED: Family<Counter> = counters(
        "job_controller_job_pods_finished_total", "[STABLE] The number of finished Pods that are fully tracked", &["completion_mode", "result"]);
    JOB_POLICY_FAILURES: Family<Counter> = counters(
        "job_controller_pod_failures_handled_by_failure_policy_total",
        "[BETA] The number of failed Pods handled by failure policy with\n\t\t\trespect to the failure policy action applied based on the matched\n\t\t\trule. Possible values of the action label correspond to the\n\t\t\tpossible values for the failure policy rule action, which are:\n\t\t\t\"FailJob\", \"Ignore\" and \"Count\".",
        &["action"]);
    JOB_TERMINATED_PODS: Family<Counter> = counters(
        "job_controller_terminated_pods_tracking_finalizer_total",
        "[BETA] The number of terminated pods (phase=Failed|Succeeded)\nthat have the finalizer batch.kubernetes.io/job-tracking\nThe event label can be \"add\" or \"delete\".",
        &["event"]);
    JOB_FINISHED_INDEXES: Family<Counter> = counters(
        "job_controller_job_finished_indexes_total",
        "[ALPHA] The number of finished indexes. Possible values for the\n\t\t\tstatus label are: \"succeeded\", \"failed\". Possible values for the\n\t\t\tbackoffLimit label are: \"perIndex\" and \"global\"",
        &["status", "backoffLimit"]);
    JOB_PODS_CREATED: Family<Counter> = counters(
        "job_controller_job_pods_creation_total",
        "[ALPHA] The number of Pods created by the Job controller labelled with a reason for the Pod creation.\nThis metric also distinguishes between Pods created using different PodReplacementPolicy settings.\nPossible values of the \"reason\" label are:\n\"new\", \"recreate_terminating_or_failed\", \"recreate_failed\".\nPossible values of the \"status\" label are:\n\"succeeded\", \"failed\".",
        &["reason", "status"]);
    JOB_STALE_SYNCS: Family<Counter> = counters(
        "job_controller_stale_sync_skips_total", "[ALPHA] Total number of Job syncs skipped due to a stale watch cache.", &["group", "resource"]);

    CRON_JOB_SKEW: Family<Histogram> = histograms(
        "cronjob_controller_job_creation_skew_duration_seconds",
        "[STABLE] Time between when a cronjob is scheduled to be run, and when the corresponding job is created", &[],
        Buckets::Exponential(1.0, 2.0, 10));

    JOB_DELETION_DURATION: Family<Histogram> = histograms(
        "ttl_after_finished_controller_job_deletion_duration_seconds",
        "[ALPHA] The time it took to delete the job since it became eligible for deletion", &[], Buckets::Exponential(0.1, 2.0, 14));

    DELETION_AGE_RATIO: Family<Histogram> = histograms(
        "replicaset_controller_sorting_deletion_age_ratio",
        "[ALPHA] The ratio of chosen deleted pod's ages to the current youngest pod's age (at the time). Should be <2. The intent of this metric is to measure the rough efficacy of the sorting (and deletion) of pods when a replicaset scales down. This only considers Ready pods when calculating and reporting.",
        &[], Buckets::Exponential(0.25, 2.0, 6));

    STATEFUL_SET_MAX_UNAVAILABLE: Family<Gauge> = gauges(
        "statefulset_controller_statefulset_max_unavailable",
        "[ALPHA] Maximum number of unavailable pods allowed during StatefulSet rolling updates",
        &["statefulset_namespace", "statefulset_name", "pod_management_policy"]);
    STATEFUL_SET_UNAVAILABLE: Family<Gauge> = gauges(
        "statefulset_controller_statefulset_unavailable_replicas", "[ALPHA] Current number of unavailable pods in StatefulSet",
        &["statefulset_namespace", "statefulset_name", "pod_management_policy"]);
    STATEFUL_SET_STALE_SYNCS: Family<Counter> = counters(
        "statefulset_controller_stale_sync_skips_total", "[ALPHA] Total number of StatefulSet syncs skipped due to a stale watch cache.",
        &["group", "resource"]);

    COLLECTED_PODS: Family<Counter> = counters(
        "pod_gc_collector_force_delete_pods_total",
        "[ALPHA] Number of pods that are being forcefully deleted since the Pod GC Controller started.", &["namespace", "reason"]);
    COLLECTED_POD_ERRORS: Family<Counter> = counters(
        "pod_gc_collector_force_delete_pod_errors_total",
        "[ALPHA] Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started.", &["namespace", "reason"]);

    ZONE_HEALTH: Family<Gauge> = gauges(
        "node_collector_zone_health", "[ALPHA] Gauge measuring percentage of healthy nodes per zone.", &["zone"]);
    ZONE_SIZE: Family<Gauge> = gauges("node_collector_zone_size", "[ALPHA] Gauge measuring number of registered Nodes per zones.", &["zone"]);
    ZONE_UNHEALTHY: Family<Gauge> = gauges(
        "node_collector_unhealthy_nodes_in_zone", "[ALPHA] Gauge measuring number of not Ready Nodes per zones.", &["zone"]);
    NODE_EVICTIONS: Family<Counter> = counters(
        "node_collector_evictions_total",
        "[STABLE] Number of Node evictions that happened since current instance of NodeController started.", &["zone"]);
    NODE_HEALTH_DURATION: Family<Histogram> = histograms(
        "node_collector_update_node_health_duration_seconds",
        "[ALPHA] Duration in seconds for NodeController to update the health of a single node.", &[], Buckets::Exponential(0.001, 4.0, 8));
    ALL_NODES_HEALTH_DURATION: Family<Histogram> = histograms(
        "node_collector_update_all_nodes_health_duration_seconds",
        "[ALPHA] Duration in seconds for NodeController to update the health of all nodes.", &[], Buckets::Exponential(0.01, 4.0, 8));

    TAINT_EVICTIONS: Family<Counter> = counters(
        "taint_eviction_controller_pod_deletions_total", "[ALPHA] Total number of Pods deleted by TaintEvictionController since its start.", &[]);
    TAINT_EVICTION_LATENCY: Family<Histogram> = histograms(
        "taint_eviction_controller_pod_deletion_duration_seconds",
        "[ALPHA] Latency, in seconds, between the time when a taint effect has been activated for the Pod and its deletion via TaintEvictionController.",
        &[], EVICTIONS);

    DEVICE_EVICTIONS: Family<Counter> = counters(
        "device_taint_eviction_controller_pod_deletions_total",
        "[ALPHA] Total number of Pods deleted by DeviceTaintEvictionController since its start.", &[]);
    DEVICE_EVICTION_LATENCY: Family<Histogram> = histograms(
        "device_taint_eviction_controller_pod_deletion_duration_seconds",
        "[ALPHA] Latency, in seconds, between the time when a device taint effect has been activated and a Pod's deletion via DeviceTaintEvictionController.",
        &[], EVICTIONS);

    NODE_RANGES_GIVEN: Family<Counter> = counters(
        "node_ipam_controller_cidrset_cidrs_allocations_total", "[ALPHA] Counter measuring total number of CIDR allocations.", &["clusterCIDR"]);
    NODE_RANGES_FREED: Family<Counter> = counters(
        "node_ipam_controller_cidrset_cidrs_releases_total", "[ALPHA] Counter measuring total number of CIDR releases.", &["clusterCIDR"]);
    NODE_RANGES_MAX: Family<Gauge> = gauges(
        "node_ipam_controller_cirdset_max_cidrs", "[ALPHA] Maximum number of CIDRs that can be allocated.", &["clusterCIDR"]);
    NODE_RANGES_USED: Family<Gauge> = gauges(
        "node_ipam_controller_cidrset_usage_cidrs", "[ALPHA] Gauge measuring percentage of allocated CIDRs.", &["clusterCIDR"]);
    NODE_RANGES_TRIES: Family<Histogram> = histograms(
        "node_ipam_controller_cidrset_allocation_tries_per_request", "[ALPHA] Number of endpoints added on each Service sync", &["clusterCIDR"],
        Buckets::Exponential(1.0, 5.0, 5));

    SLICES_ADDED: Family<Histogram> = histograms(
        "endpoint_slice_controller_endpoints_added_per_sync", "[BETA] Number of endpoints added on each Service sync", &[], ENDPOINTS);
    SLICES_REMOVED: Family<Histogram> = histograms(
        "endpoint_slice_controller_endpoints_removed_per_sync", "[BETA] Number of endpoints removed on each Service sync", &[], ENDPOINTS);
    SLICES_ENDPOINTS: LookedUp = LookedUp::new("endpoint_slice_controller_endpoints_desired", "[BETA] Number of endpoints desired", &[]);
    SLICES_NUMBER: LookedUp = LookedUp::new("endpoint_slice_controller_num_endpoint_slices", "[BETA] Number of EndpointSlices", &[]);
    SLICES_DESIRED: LookedUp = LookedUp::new(
        "endpoint_slice_controller_desired_endpoint_slices",
        "[BETA] Number of EndpointSlices that would exist with perfect endpoint allocation", &[]);
    SLICES_CHANGES: Family<Counter> = counters("endpoint_slice_controller_changes", "[ALPHA] Number of EndpointSlice changes", &["operation"]);
    SLICES_CHANGED: Family<Histogram> = histograms(
        "endpoint_slice_controller_endpointslices_changed_per_sync", "[ALPHA] Number of EndpointSlices changed on each Service sync",
        &["topology", "traffic_distribution"], Buckets::Listed(&[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]));
    SLICES_SYNCS: Family<Counter> = counters("endpoint_slice_controller_syncs", "[ALPHA] Number of EndpointSlice syncs", &["result"]);
    SLICES_SERVICES: LookedUp = LookedUp::new(
        "endpoint_slice_controller_services_count_by_traffic_distribution",
        "[BETA] Number of Services using some specific trafficDistribution", &["traffic_distribution"]);

    MIRRORED_ADDED: Family<Histogram> = histograms(
        "endpoint_slice_mirroring_controller_endpoints_added_per_sync", "[ALPHA] Number of endpoints added on each Endpoints sync", &[], ENDPOINTS);
    MIRRORED_UPDATED: Family<Histogram> = histograms(
        "endpoint_slice_mirroring_controller_endpoints_updated_per_sync", "[ALPHA] Number of endpoints updated on each Endpoints sync", &[],
        ENDPOINTS);
    MIRRORED_REMOVED: Family<Histogram> = histograms(
        "endpoint_slice_mirroring_controller_endpoints_removed_per_sync", "[ALPHA] Number of endpoints removed on each Endpoints sync", &[],
        ENDPOINTS);
    MIRRORED_SKIPPED: Family<Histogram> = histograms(
        "endpoint_slice_mirroring_controller_addresses_skipped_per_sync",
        "[ALPHA] Number of addresses skipped on each Endpoints sync due to being invalid or exceeding MaxEndpointsPerSubset", &[], ENDPOINTS);
    MIRRORED_DURATION: Family<Histogram> = histograms(
        "endpoint_slice_mirroring_controller_endpoints_sync_duration", "[ALPHA] Duration of syncEndpoints() in seconds", &[], DOUBLING);
    MIRRORED_ENDPOINTS: LookedUp = LookedUp::new("endpoint_slice_mirroring_controller_endpoints_desired", "[ALPHA] Number of endpoints desired", &[]);
    MIRRORED_NUMBER: LookedUp = LookedUp::new("endpoint_slice_mirroring_controller_num_endpoint_slices", "[ALPHA] Number of EndpointSlices", &[]);
    MIRRORED_DESIRED: LookedUp = LookedUp::new(
        "endpoint_slice_mirroring_controller_desired_endpoint_slices",
        "[ALPHA] Number of EndpointSlices that would exist with perfect endpoint allocation", &[]);
    MIRRORED_CHANGES: Family<Counter> = counters(
        "endpoint_slice_mirroring_controller_changes", "[ALPHA] Number of EndpointSlice changes", &["operation"]);

    AUTOSCALER_SYNCS: Family<Counter> = counters(
        "horizontal_pod_autoscaler_controller_reconciliations_total",
        "[BETA] Number of reconciliations of HPA controller. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
        &["action", "error"]);
    AUTOSCALER_DURATION: Family<Histogram> = histograms(
        "horizontal_pod_autoscaler_controller_reconciliation_duration_seconds",
        "[BETA] The time(seconds) that the HPA controller takes to reconcile once. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
        &["action", "error"], DOUBLING);
    AUTOSCALER_METRICS: Family<Counter> = counters(
        "horizontal_pod_autoscaler_controller_metric_computation_total",
        "[BETA] Number of metric computations. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type",
        &["action", "error", "metric_type"]);
    AUTOSCALER_METRIC_DURATION: Family<Histogram> = histograms(
        "horizontal_pod_autoscaler_controller_metric_computation_duration_seconds",
        "[BETA] The time(seconds) that the HPA controller takes to calculate one metric. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. The label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type",
        &["action", "error", "metric_type"], DOUBLING);
    AUTOSCALERS: LookedUp = LookedUp::new(
        "horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers", "[ALPHA] Current number of controlled HPA objects.", &[]);
    AUTOSCALER_DESIRED: Family<Gauge> = gauges(
        "horizontal_pod_autoscaler_controller_desired_replicas", "[ALPHA] Current desired replica count for HPA objects.",
        &["namespace", "hpa_name"]);

    VOLUMES: LookedUp = LookedUp::new(
        "pv_collector_total_pv_count", "[ALPHA] Gauge measuring total number of persistent volumes", &["plugin_name", "volume_mode"]);
    BOUND_VOLUMES: LookedUp = LookedUp::new(
        "pv_collector_bound_pv_count", "[ALPHA] Gauge measuring number of persistent volume currently bound", &["storage_class"]);
    UNBOUND_VOLUMES: LookedUp = LookedUp::new(
        "pv_collector_unbound_pv_count", "[ALPHA] Gauge measuring number of persistent volume currently unbound", &["storage_class"]);
    BOUND_CLAIMS: LookedUp = LookedUp::new(
        "pv_collector_bound_pvc_count", "[ALPHA] Gauge measuring number of persistent volume claim currently bound",
        &["namespace", "storage_class", "volume_attributes_class"]);
    UNBOUND_CLAIMS: LookedUp = LookedUp::new(
        "pv_collector_unbound_pvc_count", "[ALPHA] Gauge measuring number of persistent volume claim currently unbound",
        &["namespace", "storage_class", "volume_attributes_class"]);
    RETROACTIVE_CLASSES: Family<Counter> = counters(
        "retroactive_storageclass_total",
        "[ALPHA] Total number of retroactive StorageClass assignments to persistent volume claim", &[]);
    RETROACTIVE_CLASS_ERRORS: Family<Counter> = counters(
        "retroactive_storageclass_errors_total",
        "[ALPHA] Total number of failed retroactive StorageClass assignments to persistent volume claim", &[]);

    FORCED_DETACHES: Family<Counter> = counters(
        "attach_detach_controller_attachdetach_controller_forced_detaches",
        "[ALPHA] Number of times the A/D Controller performed a forced detach", &["reason"]);

    EPHEMERAL_CREATES: Family<Counter> = counters(
        "ephemeral_volume_controller_create_total", "[ALPHA] Number of PersistentVolumeClaim creation requests", &[]);
    EPHEMERAL_CREATE_FAILURES: Family<Counter> = counters(
        "ephemeral_volume_controller_create_failures_total", "[ALPHA] Number of PersistentVolumeClaim creation requests", &[]);

    DEVICE_CLAIMS: LookedUp = LookedUp::new(
        "dynamic_resource_allocation_resource_claims",
        "[ALPHA] Number of ResourceClaims, categorized by allocation status, admin access, and source. Source can be 'resource_claim_template' (created from a template), 'extended_resource' (extended resources), or empty (manually created by a user).",
        &["allocated", "admin_access", "source"]);
    DEVICE_CLAIM_CREATES: Family<Counter> = counters(
        "dynamic_resource_allocation_resourceclaim_creates_total",
        "[ALPHA] Number of ResourceClaims creation requests, categorized by creation status, admin access, and owning API group and kind (either Pod or scheduling.k8s.io/PodGroup)",
        &["status", "admin_access", "owner_api_group", "owner_api_kind"]);
}

/// The text of what the controllers of this process tell. What they work with (queues, requests, leases) tells for itself.
pub fn render(out: &mut String) {
    client::metrics::render(out, OWN);
}

/// The code that a request was answered with, as a label: what is no answer counts as 500, and success as 200.
fn code<T>(result: &Result<T, kube::Error>) -> String {
    match result {
        Ok(_) => "200".to_owned(),
        Err(kube::Error::Api(status)) if status.code != 0 => status.code.to_string(),
        Err(_) => "500".to_owned(),
    }
}

/// Counts and times a sync by the code that it came to.
pub fn synced<T>(syncs: &Family<Counter>, durations: &Family<Histogram>, result: &Result<T, kube::Error>, time: Duration) {
    let code = code(result);
    syncs.with(&[&code]).inc();
    durations.with(&[&code]).observe_time(time);
}

/// Counts by labels, sorted.
pub fn tally(labels: impl IntoIterator<Item = Vec<String>>) -> Vec<(Vec<String>, f64)> {
    let mut counts = std::collections::BTreeMap::<Vec<String>, f64>::new();
    for labels in labels {
        *counts.entry(labels).or_default() += 1.0;
    }
    counts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_well_formed_and_no_name_is_told_twice() {
        NODE_EVICTIONS.with(&["a\"b"]).inc();
        let mut text = String::new();
        render(&mut text);
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        assert!(names.len() > 20, "{names:?}");
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len(), "{names:?}");
        for line in text.lines().filter(|line| line.starts_with("# HELP")) {
            assert!(["[ALPHA] ", "[BETA] ", "[STABLE] "].iter().any(|word| line.contains(word)), "{line}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.rsplit_once(' ').is_some_and(|(_, value)| value == "+Inf" || value.parse::<f64>().is_ok()), "{line}");
        }
        assert!(text.contains(r#"node_collector_evictions_total{zone="a\"b"} 1"#), "{text}");
    }

    #[test]
    fn a_sync_is_counted_by_the_code_it_came_to() {
        let refused = |code: u16| {
            let status = kube::core::Status::failure("no", "Nothing").with_code(code);
            Err::<(), _>(kube::Error::Api(Box::new(status)))
        };
        for (result, expected) in [(Ok(()), "200"), (refused(403), "403"), (Err(kube::Error::LinesCodecMaxLineLengthExceeded), "500")] {
            assert_eq!(code(&result), expected);
        }
    }
}
