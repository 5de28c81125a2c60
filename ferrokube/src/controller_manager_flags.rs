//! The controllers' flags, under upstream's names and with upstream's defaults: one that is not given leaves the setting as it is.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use controllers::manager::{Config, SigningFiles};

use crate::go_values::duration;

/// The flags, and how each goes over into the setting of its name.
macro_rules! settings {
    ($($(#[$meta:meta])* $field:ident: $type:ty),* $(,)?) => {
        /// What the controllers are told.
        #[derive(Args, Clone, Debug, Default)]
        pub struct Settings {
            $($(#[$meta])* $field: Option<$type>,)*
            #[command(flatten)]
            files: Files,
        }

        impl Settings {
            fn apply(&self, config: &mut Config) {
                $(if let Some(value) = &self.$field {
                    config.$field = value.clone();
                })*
            }
        }
    };
}

settings! {
    /// CronJobs that are synced at once.
    #[arg(long)]
    concurrent_cron_job_syncs: usize,
    /// DaemonSets that are synced at once.
    #[arg(long)]
    concurrent_daemonset_syncs: usize,
    /// Deployments that are synced at once.
    #[arg(long)]
    concurrent_deployment_syncs: usize,
    /// Pods that are evicted at once because of a device's taint.
    #[arg(long)]
    concurrent_device_taint_eviction_syncs: usize,
    /// PodDisruptionBudgets that are synced at once.
    #[arg(long)]
    concurrent_disruption_syncs: usize,
    /// Endpoints that are synced at once.
    #[arg(long)]
    concurrent_endpoint_syncs: usize,
    /// Ephemeral volumes that are synced at once.
    #[arg(long)]
    concurrent_ephemeralvolume_syncs: usize,
    /// Objects that the garbage collector looks at at once.
    #[arg(long)]
    concurrent_gc_syncs: usize,
    /// HorizontalPodAutoscalers that are synced at once.
    #[arg(long)]
    concurrent_horizontal_pod_autoscaler_syncs: usize,
    /// Jobs that are synced at once.
    #[arg(long)]
    concurrent_job_syncs: usize,
    /// Namespaces that are emptied at once.
    #[arg(long)]
    concurrent_namespace_syncs: usize,
    /// ReplicationControllers that are synced at once.
    #[arg(long)]
    concurrent_rc_syncs: usize,
    /// ReplicaSets that are synced at once.
    #[arg(long)]
    concurrent_replicaset_syncs: usize,
    /// ResourceQuotas that are synced at once.
    #[arg(long)]
    concurrent_resource_quota_syncs: usize,
    /// ResourceClaims that are synced at once.
    #[arg(long)]
    concurrent_resourceclaim_syncs: usize,
    /// Services whose EndpointSlices are synced at once.
    #[arg(long)]
    concurrent_service_endpoint_syncs: usize,
    /// Service account tokens that are synced at once.
    #[arg(long)]
    concurrent_serviceaccount_token_syncs: usize,
    /// StatefulSets that are synced at once.
    #[arg(long)]
    concurrent_statefulset_syncs: usize,
    /// Finished Jobs that are looked at at once.
    #[arg(long)]
    concurrent_ttl_after_finished_syncs: usize,
    /// ValidatingAdmissionPolicies that are checked at once.
    #[arg(long)]
    concurrent_validating_admission_policy_status_syncs: usize,
    /// Endpoints that are mirrored into EndpointSlices at once.
    #[arg(long)]
    mirroring_concurrent_service_endpoint_syncs: usize,
    /// How often everything is looked at although nothing has changed, at least.
    #[arg(long, value_parser = duration)]
    min_resync_period: Duration,
    /// How often namespaces are looked at.
    #[arg(long, value_parser = duration)]
    namespace_sync_period: Duration,
    /// How often the usage of quotas is counted anew.
    #[arg(long, value_parser = duration)]
    resource_quota_sync_period: Duration,
    /// How long a service account's legacy token must be unused to be deleted.
    #[arg(long, value_parser = duration)]
    legacy_service_account_token_clean_up_period: Duration,
    /// Terminated pods beyond this number are deleted; zero or less for never.
    #[arg(long, allow_negative_numbers = true)]
    terminated_pod_gc_threshold: i32,
    /// Whether objects without an owner are deleted.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_garbage_collector: bool,
    /// How long changes of endpoints are gathered.
    #[arg(long, value_parser = duration)]
    endpoint_updates_batch_period: Duration,
    /// How long changes of EndpointSlices are gathered.
    #[arg(long, value_parser = duration)]
    endpointslice_updates_batch_period: Duration,
    /// Endpoints in one EndpointSlice.
    #[arg(long)]
    max_endpoints_per_slice: usize,
    /// How long changes of mirrored endpoints are gathered.
    #[arg(long, value_parser = duration)]
    mirroring_endpointslice_updates_batch_period: Duration,
    /// Endpoints of a subset that are mirrored.
    #[arg(long)]
    mirroring_max_endpoints_per_subset: usize,
    /// How often the number of pods is looked at.
    #[arg(long, value_parser = duration)]
    horizontal_pod_autoscaler_sync_period: Duration,
    /// How far back recommendations count before there are fewer pods.
    #[arg(long, value_parser = duration)]
    horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// How far the wanted and the real usage must be apart.
    #[arg(long)]
    horizontal_pod_autoscaler_tolerance: f64,
    /// How long after a pod's start its CPU usage may be left out.
    #[arg(long, value_parser = duration)]
    horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// How long after a pod's start a change of readiness counts as the first.
    #[arg(long, value_parser = duration)]
    horizontal_pod_autoscaler_initial_readiness_delay: Duration,
    /// How often nodes are looked at.
    #[arg(long, value_parser = duration)]
    node_monitor_period: Duration,
    /// How long a node may say nothing before it is unhealthy.
    #[arg(long, value_parser = duration)]
    node_monitor_grace_period: Duration,
    /// The same for a node that starts.
    #[arg(long, value_parser = duration)]
    node_startup_grace_period: Duration,
    /// Nodes per second whose pods are evicted while the zone is healthy.
    #[arg(long)]
    node_eviction_rate: f32,
    /// Nodes per second whose pods are evicted while the zone is unhealthy.
    #[arg(long)]
    secondary_node_eviction_rate: f32,
    /// The part of a zone's nodes that must be unhealthy for the zone to be.
    #[arg(long)]
    unhealthy_zone_threshold: f32,
    /// The number of nodes from which on a cluster is large.
    #[arg(long)]
    large_cluster_size_threshold: usize,
    /// Whether nodes are given ranges for their pods.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allocate_node_cidrs: bool,
    /// Where pods get their addresses from: one range, or one of each family.
    #[arg(long)]
    cluster_cidr: String,
    /// The name of the cluster.
    #[arg(long)]
    cluster_name: String,
    /// Where services get their addresses from, which nodes must not use.
    #[arg(long)]
    service_cluster_ip_range: String,
    /// The size of a node's range.
    #[arg(long)]
    node_cidr_mask_size: u8,
    /// The size of a node's IPv4 range in a cluster with both families.
    #[arg(long)]
    node_cidr_mask_size_ipv4: u8,
    /// The size of a node's IPv6 range in a cluster with both families.
    #[arg(long)]
    node_cidr_mask_size_ipv6: u8,
    /// How often claims and volumes are looked at.
    #[arg(long, value_parser = duration)]
    pvclaimbinder_sync_period: Duration,
    /// Whether volumes are made of directories of the host, for tests.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_hostpath_provisioner: bool,
    /// Whether volumes are made when they are claimed.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_dynamic_provisioning: bool,
    /// How often attached volumes are compared with what should be attached.
    #[arg(long, value_parser = duration)]
    attach_detach_reconcile_sync_period: Duration,
    /// Whether that is left out.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_attach_detach_reconcile_sync: bool,
    /// Whether volumes of nodes that are gone stay attached until somebody says otherwise.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_force_detach_on_timeout: bool,
    /// The longest that a signed certificate is good for.
    #[arg(long, value_parser = duration)]
    cluster_signing_duration: Duration,
    /// Whether each controller acts as a service account of its own.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_service_account_credentials: bool,
    /// Between the starts of two controllers.
    #[arg(long, value_parser = duration)]
    controller_start_interval: Duration,
    /// How long controllers get to end.
    #[arg(long, value_parser = duration)]
    controller_shutdown_timeout: Duration,
}

/// Keys and certificates.
#[derive(Args, Clone, Debug, Default)]
struct Files {
    /// The key that legacy service account tokens are signed with.
    #[arg(long)]
    service_account_private_key_file: Option<PathBuf>,
    /// The CA that pods are told to trust.
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// The CA that signs for every signer; not together with those of single signers.
    #[arg(long)]
    cluster_signing_cert_file: Option<PathBuf>,
    #[arg(long)]
    cluster_signing_key_file: Option<PathBuf>,
    /// The CA of kubernetes.io/kubelet-serving.
    #[arg(long)]
    cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    #[arg(long)]
    cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    /// The CA of kubernetes.io/kube-apiserver-client-kubelet.
    #[arg(long)]
    cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    #[arg(long)]
    cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// The CA of kubernetes.io/kube-apiserver-client.
    #[arg(long)]
    cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    #[arg(long)]
    cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// The CA of kubernetes.io/legacy-unknown.
    #[arg(long)]
    cluster_signing_legacy_unknown_cert_file: Option<PathBuf>,
    #[arg(long)]
    cluster_signing_legacy_unknown_key_file: Option<PathBuf>,
}

impl Settings {
    /// The defaults and what the flags say otherwise.
    pub fn config(&self) -> anyhow::Result<Config> {
        let mut config = Config::default();
        self.apply(&mut config);
        let files = &self.files;
        let pair = |cert: &Option<PathBuf>, key: &Option<PathBuf>| SigningFiles { cert: cert.clone(), key: key.clone() };
        config.service_account_private_key_file = files.service_account_private_key_file.clone();
        config.root_ca_file = files.root_ca_file.clone();
        config.cluster_signing = pair(&files.cluster_signing_cert_file, &files.cluster_signing_key_file);
        config.cluster_signing_kubelet_serving =
            pair(&files.cluster_signing_kubelet_serving_cert_file, &files.cluster_signing_kubelet_serving_key_file);
        config.cluster_signing_kubelet_client =
            pair(&files.cluster_signing_kubelet_client_cert_file, &files.cluster_signing_kubelet_client_key_file);
        config.cluster_signing_kube_apiserver_client =
            pair(&files.cluster_signing_kube_apiserver_client_cert_file, &files.cluster_signing_kube_apiserver_client_key_file);
        config.cluster_signing_legacy_unknown =
            pair(&files.cluster_signing_legacy_unknown_cert_file, &files.cluster_signing_legacy_unknown_key_file);
        check(&config)?;
        Ok(config)
    }
}

/// One CA for all signers, or some signers with their own: not both.
fn check(config: &Config) -> anyhow::Result<()> {
    let own = [
        &config.cluster_signing_kubelet_serving,
        &config.cluster_signing_kubelet_client,
        &config.cluster_signing_kube_apiserver_client,
        &config.cluster_signing_legacy_unknown,
    ];
    if !config.cluster_signing.is_empty() && own.iter().any(|files| !files.is_empty()) {
        bail!("cannot specify --cluster-signing-{{cert,key}}-file and other --cluster-signing-*-file flags at the same time");
    }
    if config.allocate_node_cidrs && config.cluster_cidr.is_empty() {
        bail!("--allocate-node-cidrs needs --cluster-cidr");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn config(arguments: &[&str]) -> anyhow::Result<Config> {
        Line::try_parse_from([&["test"], arguments].concat())?.settings.config()
    }

    #[test]
    fn without_flags_the_defaults_hold() {
        assert_eq!(config(&[]).unwrap(), Config::default());
    }

    #[test]
    fn flags_are_upstreams() {
        let config = config(&[
            "--concurrent-deployment-syncs=7",
            "--node-monitor-grace-period=1m40s",
            "--allocate-node-cidrs",
            "--cluster-cidr=10.1.0.0/16",
            "--use-service-account-credentials=true",
            "--terminated-pod-gc-threshold=-1",
            "--root-ca-file=/ca.crt",
        ])
        .unwrap();
        assert_eq!(config.concurrent_deployment_syncs, 7);
        assert_eq!(config.node_monitor_grace_period, Duration::from_secs(100));
        assert!(config.allocate_node_cidrs && config.use_service_account_credentials);
        assert_eq!((config.terminated_pod_gc_threshold, config.root_ca_file), (-1, Some(PathBuf::from("/ca.crt"))));
    }

    #[test]
    fn a_ca_for_all_and_one_for_some_is_a_contradiction() {
        let error = config(&["--cluster-signing-cert-file=a", "--cluster-signing-kubelet-serving-cert-file=b"]).unwrap_err();
        assert!(error.to_string().starts_with("cannot specify --cluster-signing-{cert,key}-file"), "{error}");
        assert!(config(&["--allocate-node-cidrs"]).is_err());
        assert!(config(&["--no-such-flag"]).is_err());
    }
}
