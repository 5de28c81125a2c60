//! KubeletConfiguration `kubelet.config.k8s.io/v1beta1`: the file behind `--config`, with upstream's defaults.
//!
//! A zero value in the file means the default, as in the reference. Fields that nothing here reads are kept as they came, so that
//! `/configz` gives back what was configured.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeletConfiguration {
    pub enable_server: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub static_pod_path: String,
    pub pod_logs_dir: String,
    #[serde(with = "go_duration")]
    pub sync_frequency: Duration,
    #[serde(with = "go_duration")]
    pub file_check_frequency: Duration,
    pub address: String,
    pub port: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_cert_file: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_private_key_file: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rotate_certificates: bool,
    #[serde(rename = "serverTLSBootstrap", skip_serializing_if = "std::ops::Not::not")]
    pub server_tls_bootstrap: bool,
    pub authentication: Authentication,
    pub authorization: Authorization,
    #[serde(rename = "registryPullQPS")]
    pub registry_pull_qps: u32,
    pub registry_burst: u32,
    pub enable_debugging_handlers: bool,
    pub healthz_port: u16,
    pub healthz_bind_address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster_domain: String,
    #[serde(rename = "clusterDNS", skip_serializing_if = "Vec::is_empty")]
    pub cluster_dns: Vec<String>,
    #[serde(with = "go_duration")]
    pub streaming_connection_idle_timeout: Duration,
    #[serde(with = "go_duration")]
    pub node_status_update_frequency: Duration,
    #[serde(with = "go_duration")]
    pub node_status_report_frequency: Duration,
    pub node_lease_duration_seconds: i32,
    #[serde(rename = "imageMinimumGCAge", with = "go_duration")]
    pub image_minimum_gc_age: Duration,
    #[serde(rename = "imageMaximumGCAge", with = "go_duration")]
    pub image_maximum_gc_age: Duration,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u8,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u8,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroup_root: String,
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    pub cgroup_driver: String,
    pub cpu_manager_policy: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    #[serde(with = "go_duration")]
    pub cpu_manager_reconcile_period: Duration,
    pub memory_manager_policy: String,
    pub topology_manager_policy: String,
    pub topology_manager_scope: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub topology_manager_policy_options: BTreeMap<String, String>,
    #[serde(with = "go_duration")]
    pub runtime_request_timeout: Duration,
    pub max_pods: i32,
    #[serde(rename = "podCIDR", skip_serializing_if = "String::is_empty")]
    pub pod_cidr: String,
    pub pod_pids_limit: i64,
    #[serde(rename = "resolvConf")]
    pub resolv_conf: String,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    #[serde(rename = "cpuCFSQuotaPeriod", with = "go_duration")]
    pub cpu_cfs_quota_period: Duration,
    pub node_status_max_images: i32,
    pub serialize_image_pulls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel_image_pulls: Option<u32>,
    pub image_pull_credentials_verification_policy: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preloaded_images_verification_allowlist: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub eviction_hard: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub eviction_soft: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub eviction_soft_grace_period: BTreeMap<String, String>,
    #[serde(with = "go_duration")]
    pub eviction_pressure_transition_period: Duration,
    pub eviction_max_pod_grace_period: i32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    /// Whether what is said of hard thresholds is said beside the defaults, not instead of them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub merge_default_eviction_settings: bool,
    pub pods_per_core: i32,
    pub enable_controller_attach_detach: bool,
    pub container_log_max_size: String,
    pub container_log_max_files: u32,
    pub container_log_max_workers: u32,
    #[serde(with = "go_duration")]
    pub container_log_monitor_interval: Duration,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub system_reserved: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kube_reserved: BTreeMap<String, String>,
    #[serde(rename = "reservedSystemCPUs", skip_serializing_if = "String::is_empty")]
    pub reserved_system_cpus: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reserved_memory: Vec<MemoryReservation>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_unsafe_sysctls: Vec<String>,
    #[serde(rename = "providerID", skip_serializing_if = "String::is_empty")]
    pub provider_id: String,
    pub enable_system_log_handler: bool,
    #[serde(with = "go_duration")]
    pub shutdown_grace_period: Duration,
    #[serde(with = "go_duration")]
    pub shutdown_grace_period_critical_pods: Duration,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownGracePeriod>,
    pub crash_loop_back_off: CrashLoopBackOff,
    #[serde(skip_serializing_if = "UserNamespaces::is_default")]
    pub user_namespaces: UserNamespaces,
    pub seccomp_default: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub register_with_taints: Vec<Taint>,
    pub register_node: bool,
    pub local_storage_capacity_isolation: bool,
    pub container_runtime_endpoint: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_service_endpoint: String,
    /// Everything else that the file says.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

/// What of a NUMA node's memory is not for pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryReservation {
    pub numa_node: i32,
    pub limits: BTreeMap<String, Quantity>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authentication {
    pub x509: X509Authentication,
    pub webhook: WebhookAuthentication,
    pub anonymous: AnonymousAuthentication,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct X509Authentication {
    #[serde(rename = "clientCAFile", skip_serializing_if = "String::is_empty")]
    pub client_ca_file: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookAuthentication {
    pub enabled: bool,
    #[serde(rename = "cacheTTL", with = "go_duration")]
    pub cache_ttl: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnonymousAuthentication {
    pub enabled: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authorization {
    pub mode: AuthorizationMode,
    pub webhook: WebhookAuthorization,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorizationMode {
    AlwaysAllow,
    Webhook,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookAuthorization {
    #[serde(rename = "cacheAuthorizedTTL", with = "go_duration")]
    pub cache_authorized_ttl: Duration,
    #[serde(rename = "cacheUnauthorizedTTL", with = "go_duration")]
    pub cache_unauthorized_ttl: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CrashLoopBackOff {
    #[serde(with = "go_duration")]
    pub max_container_restart_period: Duration,
}

/// How long pods of a priority have when the machine shuts down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShutdownGracePeriod {
    pub priority: i32,
    pub shutdown_grace_period_seconds: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UserNamespaces {
    /// How many ids each pod has that has its own.
    pub ids_per_pod: u32,
}

impl Default for UserNamespaces {
    fn default() -> UserNamespaces {
        UserNamespaces { ids_per_pod: 65536 }
    }
}

impl UserNamespaces {
    fn is_default(&self) -> bool {
        *self == UserNamespaces::default()
    }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Default for KubeletConfiguration {
    fn default() -> KubeletConfiguration {
        KubeletConfiguration {
            enable_server: true,
            static_pod_path: String::new(),
            pod_logs_dir: "/var/log/pods".to_owned(),
            sync_frequency: seconds(60),
            file_check_frequency: seconds(20),
            address: "0.0.0.0".to_owned(),
            port: 10250,
            tls_cert_file: String::new(),
            tls_private_key_file: String::new(),
            rotate_certificates: false,
            server_tls_bootstrap: false,
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            registry_pull_qps: 5,
            registry_burst: 10,
            enable_debugging_handlers: true,
            healthz_port: 10248,
            healthz_bind_address: "127.0.0.1".to_owned(),
            cluster_domain: String::new(),
            cluster_dns: Vec::new(),
            streaming_connection_idle_timeout: seconds(4 * 3600),
            node_status_update_frequency: seconds(10),
            node_status_report_frequency: seconds(300),
            node_lease_duration_seconds: 40,
            image_minimum_gc_age: seconds(120),
            image_maximum_gc_age: seconds(0),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            cgroup_root: String::new(),
            cgroups_per_qos: true,
            cgroup_driver: "cgroupfs".to_owned(),
            cpu_manager_policy: "none".to_owned(),
            cpu_manager_policy_options: BTreeMap::new(),
            cpu_manager_reconcile_period: seconds(10),
            memory_manager_policy: "None".to_owned(),
            topology_manager_policy: "none".to_owned(),
            topology_manager_scope: "container".to_owned(),
            topology_manager_policy_options: BTreeMap::new(),
            runtime_request_timeout: seconds(120),
            max_pods: 110,
            pod_cidr: String::new(),
            pod_pids_limit: -1,
            resolv_conf: "/etc/resolv.conf".to_owned(),
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration::from_millis(100),
            node_status_max_images: 50,
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            image_pull_credentials_verification_policy: "NeverVerifyPreloadedImages".to_owned(),
            preloaded_images_verification_allowlist: Vec::new(),
            eviction_hard: BTreeMap::new(),
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_pressure_transition_period: seconds(300),
            eviction_max_pod_grace_period: 0,
            eviction_minimum_reclaim: BTreeMap::new(),
            merge_default_eviction_settings: false,
            pods_per_core: 0,
            enable_controller_attach_detach: true,
            container_log_max_size: "10Mi".to_owned(),
            container_log_max_files: 5,
            container_log_max_workers: 1,
            container_log_monitor_interval: seconds(10),
            feature_gates: BTreeMap::new(),
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            reserved_system_cpus: String::new(),
            reserved_memory: Vec::new(),
            allowed_unsafe_sysctls: Vec::new(),
            provider_id: String::new(),
            enable_system_log_handler: true,
            shutdown_grace_period: seconds(0),
            shutdown_grace_period_critical_pods: seconds(0),
            shutdown_grace_period_by_pod_priority: Vec::new(),
            crash_loop_back_off: CrashLoopBackOff::default(),
            user_namespaces: UserNamespaces::default(),
            seccomp_default: false,
            register_with_taints: Vec::new(),
            register_node: true,
            local_storage_capacity_isolation: true,
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            image_service_endpoint: String::new(),
            other: serde_json::Map::new(),
        }
    }
}

impl Default for WebhookAuthentication {
    fn default() -> WebhookAuthentication {
        WebhookAuthentication { enabled: true, cache_ttl: seconds(120) }
    }
}

impl Default for Authorization {
    fn default() -> Authorization {
        Authorization { mode: AuthorizationMode::Webhook, webhook: WebhookAuthorization::default() }
    }
}

impl Default for WebhookAuthorization {
    fn default() -> WebhookAuthorization {
        WebhookAuthorization { cache_authorized_ttl: seconds(300), cache_unauthorized_ttl: seconds(30) }
    }
}

impl Default for CrashLoopBackOff {
    fn default() -> CrashLoopBackOff {
        CrashLoopBackOff { max_container_restart_period: seconds(300) }
    }
}

/// The kind of the file.
pub const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
pub const KIND: &str = "KubeletConfiguration";

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not YAML: {0}")]
    Yaml(String),
    #[error("no kind {kind:?} is registered for version {version:?}")]
    Kind { version: String, kind: String },
    #[error(transparent)]
    Field(#[from] serde_json::Error),
    #[error("failed to validate kubelet configuration, error: {0}")]
    Invalid(String),
}

impl KubeletConfiguration {
    /// Reads a file, which may be YAML or JSON.
    pub fn parse(text: &str) -> Result<KubeletConfiguration, Error> {
        let mut value = apimachinery::yaml::parse(text.as_bytes()).map_err(|error| Error::Yaml(error.to_string()))?.value;
        let mut pick = |key: &str| match value.as_object_mut().and_then(|fields| fields.remove(key)) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (version, kind) = (pick("apiVersion"), pick("kind"));
        if version != API_VERSION || kind != KIND {
            return Err(Error::Kind { version, kind });
        }
        drop_zeros(&mut value);
        let read = KubeletConfiguration::read(value)?;
        match crate::configuration_rules::problems(&read).as_slice() {
            [] => Ok(read),
            [problem] => Err(Error::Invalid(problem.clone())),
            several => Err(Error::Invalid(format!("[{}]", several.join(", ")))),
        }
    }

    fn read(value: Value) -> Result<KubeletConfiguration, serde_json::Error> {
        let says = |key: &str| value.get(key).is_some();
        let (update, report, serialize) =
            (says("nodeStatusUpdateFrequency"), says("nodeStatusReportFrequency"), says("serializeImagePulls"));
        let mut read: KubeletConfiguration = serde_json::from_value(value)?;
        if update && !report {
            read.node_status_report_frequency = read.node_status_update_frequency;
        }
        if !serialize {
            read.serialize_image_pulls = read.max_parallel_image_pulls.is_none_or(|most| most < 2);
        }
        Ok(read)
    }
}

/// Fields that are no pointers in the published type count as unset when they are zero.
fn drop_zeros(value: &mut Value) {
    const POINTERS: [&str; 5] =
        ["registryPullQPS", "healthzPort", "imageGCHighThresholdPercent", "imageGCLowThresholdPercent", "containerLogMaxFiles"];
    let Some(fields) = value.as_object_mut() else { return };
    fields.retain(|name, value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty() || name == "resolvConf",
        Value::Number(number) => number.as_i64() != Some(0) || POINTERS.contains(&name.as_str()),
        _ => true,
    });
}

/// Durations as Go prints and reads them: `1m30s`.
mod go_duration {
    use std::time::Duration;

    use apimachinery::time::{format_duration, parse_duration};
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(i64::try_from(value.as_nanos()).unwrap_or(i64::MAX)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let nanoseconds = parse_duration(&text).map_err(de::Error::custom)?;
        Ok(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> KubeletConfiguration {
        KubeletConfiguration::parse(&format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{rest}")).expect("it is well formed")
    }

    #[test]
    fn what_is_not_said_has_upstreams_default() {
        assert_eq!(parse(""), KubeletConfiguration::default());
        assert_eq!(parse("syncFrequency: 0s\nmaxPods: 0").max_pods, 110);
    }

    #[test]
    fn defaults_depend_on_each_other_as_upstream() {
        let read = parse("nodeStatusUpdateFrequency: 4s\nmaxParallelImagePulls: 5");
        assert_eq!(read.node_status_report_frequency, seconds(4));
        assert!(!read.serialize_image_pulls);
    }

    #[test]
    fn what_nothing_reads_is_given_back() {
        let read = parse("topologyManagerPolicy: none\nclusterDNS: [10.96.0.10]");
        assert_eq!(read.cluster_dns, ["10.96.0.10"]);
        let written = serde_json::to_value(&read).expect("it has a JSON form");
        assert_eq!(written["topologyManagerPolicy"], "none");
        assert_eq!(written["syncFrequency"], "1m0s");
    }

    #[test]
    fn another_kind_is_refused() {
        assert!(matches!(KubeletConfiguration::parse("kind: Pod\napiVersion: v1"), Err(Error::Kind { .. })));
    }
}
