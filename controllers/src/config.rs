//! What the controllers are told at start. Fields are named after upstream's flags, and so are their defaults.
//!
//! Never reads a file: paths are read by whoever uses what is in them.

use std::path::PathBuf;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A CA that signs certificates: the paths of its certificate and key. Neither, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SigningFiles {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl SigningFiles {
    pub fn is_empty(&self) -> bool {
        self.cert.is_none() && self.key.is_none()
    }
}

/// The settings of all controllers.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub concurrent_cron_job_syncs: usize,
    pub concurrent_daemonset_syncs: usize,
    pub concurrent_deployment_syncs: usize,
    pub concurrent_device_taint_eviction_syncs: usize,
    pub concurrent_disruption_syncs: usize,
    pub concurrent_endpoint_syncs: usize,
    pub concurrent_ephemeralvolume_syncs: usize,
    pub concurrent_gc_syncs: usize,
    pub concurrent_horizontal_pod_autoscaler_syncs: usize,
    pub concurrent_job_syncs: usize,
    pub concurrent_namespace_syncs: usize,
    pub concurrent_rc_syncs: usize,
    pub concurrent_replicaset_syncs: usize,
    pub concurrent_resource_quota_syncs: usize,
    pub concurrent_resourceclaim_syncs: usize,
    pub concurrent_service_endpoint_syncs: usize,
    pub concurrent_serviceaccount_token_syncs: usize,
    pub concurrent_statefulset_syncs: usize,
    pub concurrent_ttl_after_finished_syncs: usize,
    pub concurrent_validating_admission_policy_status_syncs: usize,
    pub mirroring_concurrent_service_endpoint_syncs: usize,

    pub min_resync_period: Duration,
    pub namespace_sync_period: Duration,
    pub resource_quota_sync_period: Duration,
    pub legacy_service_account_token_clean_up_period: Duration,
    /// Terminated pods beyond this number are deleted; zero or less for never.
    pub terminated_pod_gc_threshold: i32,
    pub enable_garbage_collector: bool,

    pub endpoint_updates_batch_period: Duration,
    pub endpointslice_updates_batch_period: Duration,
    pub max_endpoints_per_slice: usize,
    pub mirroring_endpointslice_updates_batch_period: Duration,
    pub mirroring_max_endpoints_per_subset: usize,

    pub horizontal_pod_autoscaler_sync_period: Duration,
    pub horizontal_pod_autoscaler_downscale_stabilization: Duration,
    pub horizontal_pod_autoscaler_tolerance: f64,
    pub horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    pub horizontal_pod_autoscaler_initial_readiness_delay: Duration,

    pub node_monitor_period: Duration,
    pub node_monitor_grace_period: Duration,
    pub node_startup_grace_period: Duration,
    /// Nodes per second.
    pub node_eviction_rate: f32,
    pub secondary_node_eviction_rate: f32,
    pub unhealthy_zone_threshold: f32,
    pub large_cluster_size_threshold: usize,

    pub allocate_node_cidrs: bool,
    /// One range, or one of each family, separated by a comma; empty for none.
    pub cluster_cidr: String,
    pub cluster_name: String,
    /// As the API server's: node ranges must not overlap with it. Empty if it is not known.
    pub service_cluster_ip_range: String,
    /// Zero is not set, here and below: 24 for IPv4 and 64 for IPv6.
    pub node_cidr_mask_size: u8,
    pub node_cidr_mask_size_ipv4: u8,
    pub node_cidr_mask_size_ipv6: u8,

    pub pvclaimbinder_sync_period: Duration,
    pub enable_hostpath_provisioner: bool,
    pub enable_dynamic_provisioning: bool,
    pub pv_recycler_minimum_timeout_nfs: Duration,
    pub pv_recycler_increment_timeout_nfs: Duration,
    pub pv_recycler_minimum_timeout_hostpath: Duration,
    pub pv_recycler_timeout_increment_hostpath: Duration,
    pub attach_detach_reconcile_sync_period: Duration,
    pub disable_attach_detach_reconcile_sync: bool,
    pub disable_force_detach_on_timeout: bool,

    /// The key that legacy service account tokens are signed with.
    pub service_account_private_key_file: Option<PathBuf>,
    /// What `kube-root-ca.crt` and service account tokens tell pods to trust.
    pub root_ca_file: Option<PathBuf>,
    /// Signs for every signer that has no CA of its own.
    pub cluster_signing: SigningFiles,
    pub cluster_signing_kubelet_serving: SigningFiles,
    pub cluster_signing_kubelet_client: SigningFiles,
    pub cluster_signing_kube_apiserver_client: SigningFiles,
    pub cluster_signing_legacy_unknown: SigningFiles,
    /// The longest that a certificate is good for.
    pub cluster_signing_duration: Duration,

    pub use_service_account_credentials: bool,
    /// Between the starts of two controllers.
    pub controller_start_interval: Duration,
    /// Controllers get this long to end; zero for as long as they take.
    pub controller_shutdown_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            concurrent_cron_job_syncs: 5,
            concurrent_daemonset_syncs: 2,
            concurrent_deployment_syncs: 5,
            concurrent_device_taint_eviction_syncs: 8,
            concurrent_disruption_syncs: 1,
            concurrent_endpoint_syncs: 5,
            concurrent_ephemeralvolume_syncs: 5,
            concurrent_gc_syncs: 20,
            concurrent_horizontal_pod_autoscaler_syncs: 5,
            concurrent_job_syncs: 5,
            concurrent_namespace_syncs: 10,
            concurrent_rc_syncs: 5,
            concurrent_replicaset_syncs: 5,
            concurrent_resource_quota_syncs: 5,
            concurrent_resourceclaim_syncs: 50,
            concurrent_service_endpoint_syncs: 5,
            concurrent_serviceaccount_token_syncs: 5,
            concurrent_statefulset_syncs: 5,
            concurrent_ttl_after_finished_syncs: 5,
            concurrent_validating_admission_policy_status_syncs: 5,
            mirroring_concurrent_service_endpoint_syncs: 5,
            min_resync_period: 12 * 60 * MINUTE,
            namespace_sync_period: 5 * MINUTE,
            resource_quota_sync_period: 5 * MINUTE,
            legacy_service_account_token_clean_up_period: YEAR,
            terminated_pod_gc_threshold: 12_500,
            enable_garbage_collector: true,
            endpoint_updates_batch_period: Duration::ZERO,
            endpointslice_updates_batch_period: Duration::ZERO,
            max_endpoints_per_slice: 100,
            mirroring_endpointslice_updates_batch_period: Duration::ZERO,
            mirroring_max_endpoints_per_subset: 1000,
            horizontal_pod_autoscaler_sync_period: 15 * SECOND,
            horizontal_pod_autoscaler_downscale_stabilization: 5 * MINUTE,
            horizontal_pod_autoscaler_tolerance: 0.1,
            horizontal_pod_autoscaler_cpu_initialization_period: 5 * MINUTE,
            horizontal_pod_autoscaler_initial_readiness_delay: 30 * SECOND,
            node_monitor_period: 5 * SECOND,
            node_monitor_grace_period: 50 * SECOND,
            node_startup_grace_period: MINUTE,
            node_eviction_rate: 0.1,
            secondary_node_eviction_rate: 0.01,
            unhealthy_zone_threshold: 0.55,
            large_cluster_size_threshold: 50,
            allocate_node_cidrs: false,
            cluster_cidr: String::new(),
            cluster_name: "kubernetes".to_owned(),
            service_cluster_ip_range: String::new(),
            node_cidr_mask_size: 0,
            node_cidr_mask_size_ipv4: 0,
            node_cidr_mask_size_ipv6: 0,
            pvclaimbinder_sync_period: 15 * SECOND,
            enable_hostpath_provisioner: false,
            enable_dynamic_provisioning: true,
            pv_recycler_minimum_timeout_nfs: 300 * SECOND,
            pv_recycler_increment_timeout_nfs: 30 * SECOND,
            pv_recycler_minimum_timeout_hostpath: 60 * SECOND,
            pv_recycler_timeout_increment_hostpath: 30 * SECOND,
            attach_detach_reconcile_sync_period: MINUTE,
            disable_attach_detach_reconcile_sync: false,
            disable_force_detach_on_timeout: false,
            service_account_private_key_file: None,
            root_ca_file: None,
            cluster_signing: SigningFiles::default(),
            cluster_signing_kubelet_serving: SigningFiles::default(),
            cluster_signing_kubelet_client: SigningFiles::default(),
            cluster_signing_kube_apiserver_client: SigningFiles::default(),
            cluster_signing_legacy_unknown: SigningFiles::default(),
            cluster_signing_duration: YEAR,
            use_service_account_credentials: false,
            controller_start_interval: Duration::ZERO,
            controller_shutdown_timeout: 10 * SECOND,
        }
    }
}
