//! What kube-proxy is told: `KubeProxyConfiguration` of `kubeproxy.config.k8s.io/v1alpha1`, its defaults and its rules.
//!
//! Knows nothing of flags ([`crate::flags`] fills one of these) and nothing of the node, so `primary` among the node port
//! addresses is still a word here.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use apimachinery::time::{format_duration, parse_duration};
use apimachinery::validation::{Cidr, Ip};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
pub const KIND: &str = "KubeProxyConfiguration";

const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the configuration is not YAML: {0}")]
    Syntax(String),
    #[error("the configuration is not a {KIND} of {API_VERSION}: {0}")]
    Type(String),
    #[error("invalid configuration: {}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// A length of time as Go writes it: `1m30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    pub const fn from_secs(seconds: u64) -> Period {
        Period(Duration::from_secs(seconds))
    }

    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl std::str::FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Period, String> {
        let nanoseconds = u64::try_from(parse_duration(text)?).map_err(|_| format!("{text:?} is negative"))?;
        Ok(Period(Duration::from_nanos(nanoseconds)))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_duration(i64::try_from(self.0.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Period, D::Error> {
        let text = String::deserialize(source)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, sink: S) -> Result<S::Ok, S::Error> {
        sink.collect_str(self)
    }
}

/// How packets are led to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Iptables,
    Ipvs,
    Nftables,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        match text {
            "iptables" => Ok(Mode::Iptables),
            "ipvs" => Ok(Mode::Ipvs),
            "nftables" => Ok(Mode::Nftables),
            other => Err(format!("must be iptables, ipvs or nftables, not {other:?}")),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
            Mode::Nftables => "nftables",
        })
    }
}

/// How traffic of this node's pods is told from other traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalMode {
    ClusterCIDR,
    NodeCIDR,
    BridgeInterface,
    InterfaceNamePrefix,
}

impl std::str::FromStr for LocalMode {
    type Err = String;

    fn from_str(text: &str) -> Result<LocalMode, String> {
        match text {
            "ClusterCIDR" => Ok(LocalMode::ClusterCIDR),
            "NodeCIDR" => Ok(LocalMode::NodeCIDR),
            "BridgeInterface" => Ok(LocalMode::BridgeInterface),
            "InterfaceNamePrefix" => Ok(LocalMode::InterfaceNamePrefix),
            other => Err(format!("must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix, not {other:?}")),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f32,
    pub burst: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Iptables {
    pub masquerade_bit: Option<u32>,
    pub masquerade_all: bool,
    pub localhost_node_ports: Option<bool>,
    pub sync_period: Period,
    /// Nothing: as often as the cost of a sync allows. Upstream's default is one second, because its syncs cost what the
    /// cluster costs; ours cost what the change costs.
    pub min_sync_period: Option<Period>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Ipvs {
    pub sync_period: Period,
    pub min_sync_period: Option<Period>,
    pub scheduler: String,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Vec<String>,
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    pub tcp_timeout: Period,
    pub tcp_fin_timeout: Period,
    pub udp_timeout: Period,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Nftables {
    pub masquerade_bit: Option<u32>,
    pub masquerade_all: bool,
    pub sync_period: Period,
    pub min_sync_period: Option<Period>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Conntrack {
    pub max_per_core: Option<u32>,
    pub min: Option<u32>,
    pub tcp_established_timeout: Option<Period>,
    pub tcp_close_wait_timeout: Option<Period>,
    pub tcp_be_liberal: bool,
    pub udp_timeout: Period,
    pub udp_stream_timeout: Period,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DetectLocal {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
}

/// The configuration of [`crate::run`], under the names of its file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    pub api_version: String,
    pub kind: String,
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    /// Logging is set up by whoever starts us; the section is accepted and kept.
    pub logging: serde_json::Value,
    pub hostname_override: String,
    pub bind_address: String,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: Option<Mode>,
    pub iptables: Iptables,
    pub ipvs: Ipvs,
    pub nftables: Nftables,
    pub winkernel: serde_json::Value,
    pub detect_local_mode: Option<LocalMode>,
    pub detect_local: DetectLocal,
    /// One CIDR, or one of each family with a comma between.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    pub node_port_addresses: Vec<String>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    pub config_sync_period: Period,
    pub port_range: String,
    pub windows_run_as_service: bool,
}

/// The two servers of kube-proxy listen on `address` unless it has a port already.
fn with_port(address: &str, port: u16) -> String {
    if address.parse::<std::net::SocketAddr>().is_ok() {
        return address.to_owned();
    }
    match Ip::parse_sloppy(address) {
        Some(ip) if ip.is_v6() => format!("[{address}]:{port}"),
        Some(_) => format!("{address}:{port}"),
        // Validation tells of it.
        None => address.to_owned(),
    }
}

/// In such files nothing and `null` are the same.
fn drop_nulls(value: &mut serde_json::Value) {
    if let serde_json::Value::Object(fields) = value {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}

impl Config {
    /// Reads a configuration file, YAML or JSON, and fills in the defaults.
    pub fn parse(text: &[u8]) -> Result<Config, Error> {
        let parsed = apimachinery::yaml::parse(text).map_err(|e| Error::Syntax(e.to_string()))?;
        let mut value = parsed.value;
        drop_nulls(&mut value);
        let mut config: Config = serde_json::from_value(value).map_err(|e| Error::Type(e.to_string()))?;
        if config.api_version != API_VERSION || config.kind != KIND {
            return Err(Error::Type(format!("it is a {:?} of {:?}", config.kind, config.api_version)));
        }
        config.default_fields();
        Ok(config)
    }

    /// What holds when nothing is said.
    pub fn defaulted() -> Config {
        let mut config = Config::default();
        config.default_fields();
        config
    }

    /// Fills in what was left out.
    pub fn default_fields(&mut self) {
        API_VERSION.clone_into(&mut self.api_version);
        KIND.clone_into(&mut self.kind);
        let set = |field: &mut String, value: &str| {
            if field.is_empty() {
                value.clone_into(field);
            }
        };
        set(&mut self.bind_address, "0.0.0.0");
        let v6 = Ip::parse_sloppy(&self.bind_address).is_some_and(Ip::is_v6);
        set(&mut self.healthz_bind_address, if v6 { "::" } else { "0.0.0.0" });
        set(&mut self.metrics_bind_address, if v6 { "::1" } else { "127.0.0.1" });
        self.healthz_bind_address = with_port(&self.healthz_bind_address, HEALTHZ_PORT);
        self.metrics_bind_address = with_port(&self.metrics_bind_address, METRICS_PORT);
        for period in [&mut self.iptables.sync_period, &mut self.ipvs.sync_period, &mut self.nftables.sync_period] {
            if period.is_zero() {
                *period = Period::from_secs(30);
            }
        }
        self.iptables.localhost_node_ports.get_or_insert(true);
        self.iptables.masquerade_bit.get_or_insert(14);
        self.nftables.masquerade_bit.get_or_insert(14);
        self.oom_score_adj.get_or_insert(-999);
        self.conntrack.max_per_core.get_or_insert(32 * 1024);
        self.conntrack.min.get_or_insert(128 * 1024);
        self.conntrack.tcp_established_timeout.get_or_insert(Period::from_secs(24 * 3600));
        self.conntrack.tcp_close_wait_timeout.get_or_insert(Period::from_secs(3600));
        if self.config_sync_period.is_zero() {
            self.config_sync_period = Period::from_secs(15 * 60);
        }
        set(&mut self.client_connection.content_type, "application/vnd.kubernetes.protobuf");
        if self.client_connection.qps == 0.0 {
            self.client_connection.qps = 5.0;
        }
        if self.client_connection.burst == 0 {
            self.client_connection.burst = 10;
        }
        // In nftables mode every node port address costs a lookup less when it is named.
        if self.mode() == Mode::Nftables && self.node_port_addresses.is_empty() {
            self.node_port_addresses = vec!["primary".to_owned()];
        }
        self.detect_local_mode.get_or_insert(LocalMode::ClusterCIDR);
    }

    /// The mode; iptables unless said otherwise.
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(Mode::Iptables)
    }

    /// How often rules are looked after when nothing changes.
    pub fn sync_period(&self) -> Duration {
        match self.mode() {
            Mode::Iptables => self.iptables.sync_period.0,
            Mode::Ipvs => self.ipvs.sync_period.0,
            Mode::Nftables => self.nftables.sync_period.0,
        }
    }

    /// How long at least lies between two syncs, if anybody has said so.
    pub fn min_sync_period(&self) -> Option<Duration> {
        match self.mode() {
            Mode::Iptables => self.iptables.min_sync_period,
            Mode::Ipvs => self.ipvs.min_sync_period,
            Mode::Nftables => self.nftables.min_sync_period,
        }
        .map(|period| period.0)
    }

    pub fn masquerade_all(&self) -> bool {
        match self.mode() {
            Mode::Nftables => self.nftables.masquerade_all,
            Mode::Iptables | Mode::Ipvs => self.iptables.masquerade_all,
        }
    }

    /// The bit of a packet's mark that says that its source is to be rewritten.
    pub fn masquerade_mark(&self) -> u32 {
        let bit = match self.mode() {
            Mode::Nftables => self.nftables.masquerade_bit,
            Mode::Iptables | Mode::Ipvs => self.iptables.masquerade_bit,
        };
        1u32.checked_shl(bit.unwrap_or(14)).unwrap_or(1 << 14)
    }

    /// The CIDRs of the cluster's pods.
    pub fn cluster_cidrs(&self) -> impl Iterator<Item = &str> {
        self.cluster_cidr.split(',').filter(|cidr| !cidr.is_empty())
    }

    /// Every rule that the configuration breaks.
    pub fn validate(&self) -> Result<(), Error> {
        let mut errors = Vec::new();
        let mut check = |holds: bool, message: String| {
            if !holds {
                errors.push(message);
            }
        };
        for (name, bit) in [("iptables", self.iptables.masquerade_bit), ("nftables", self.nftables.masquerade_bit)] {
            let bit = bit.unwrap_or(14);
            check(bit <= 31, format!("{name}.masqueradeBit: Invalid value: {bit}: must be within the range [0, 31]"));
        }
        let score = self.oom_score_adj.unwrap_or(0);
        check((-1000..=1000).contains(&score), format!("oomScoreAdj: Invalid value: {score}: must be within the range [-1000, 1000]"));
        check(
            Ip::parse_sloppy(&self.bind_address).is_some(),
            format!("bindAddress: Invalid value: {:?}: not a valid textual representation of an IP address", self.bind_address),
        );
        for (name, address) in [("healthzBindAddress", &self.healthz_bind_address), ("metricsBindAddress", &self.metrics_bind_address)] {
            let valid = address.is_empty() || address.parse::<std::net::SocketAddr>().is_ok();
            check(valid, format!("{name}: Invalid value: {address:?}: must be IP:port"));
        }
        for cidr in self.cluster_cidrs() {
            check(
                Cidr::parse_sloppy(cidr).is_some(),
                format!("clusterCIDR: Invalid value: {cidr:?}: must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"),
            );
        }
        for address in &self.node_port_addresses {
            let known = matches!(address.as_str(), "primary" | "localhost" | "all") || Cidr::parse_sloppy(address).is_some();
            check(
                known,
                format!(
                    "nodePortAddresses: Invalid value: {address:?}: must be a valid CIDR or the keyword 'primary', 'localhost' or 'all'"
                ),
            );
        }
        match self.detect_local_mode {
            Some(LocalMode::BridgeInterface) => {
                check(
                    !self.detect_local.bridge_interface.is_empty(),
                    "detectLocal.bridgeInterface: Required value: it must not be empty for this detectLocalMode".to_owned(),
                );
            }
            Some(LocalMode::InterfaceNamePrefix) => {
                check(
                    !self.detect_local.interface_name_prefix.is_empty(),
                    "detectLocal.interfaceNamePrefix: Required value: it must not be empty for this detectLocalMode".to_owned(),
                );
            }
            _ => {}
        }
        let min = self.min_sync_period().unwrap_or_default();
        check(min <= self.sync_period(), format!("{}.minSyncPeriod: Invalid value: must not be greater than syncPeriod", self.mode()));
        if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_kubeadm_is_understood() {
        let text = br#"
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection: {acceptContentTypes: "", burst: 0, contentType: "", kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: null}
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: NodeCIDR
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 2s, syncPeriod: 1m}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: "", strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}
metricsBindAddress: "0.0.0.0"
mode: iptables
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel: {enableDSR: false, networkName: "", sourceVip: ""}
"#;
        let config = Config::parse(text).unwrap();
        config.validate().unwrap();
        assert_eq!(config.healthz_bind_address, "0.0.0.0:10256");
        assert_eq!(config.metrics_bind_address, "0.0.0.0:10249");
        assert_eq!(config.min_sync_period(), Some(Duration::from_secs(2)));
        assert_eq!(config.sync_period(), Duration::from_secs(60));
        assert_eq!(config.detect_local_mode, Some(LocalMode::NodeCIDR));
        assert_eq!(config.masquerade_mark(), 0x4000);
        assert_eq!(config.client_connection.kubeconfig, "/var/lib/kube-proxy/kubeconfig.conf");
    }

    #[test]
    fn unknown_fields_and_kinds_are_refused() {
        assert!(matches!(Config::parse(b"kind: Pod\napiVersion: v1"), Err(Error::Type(_))));
        let text = b"kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nmoode: iptables";
        assert!(matches!(Config::parse(text), Err(Error::Type(_))));
    }

    #[test]
    fn every_broken_rule_is_told() {
        let mut config = Config::defaulted();
        config.iptables.masquerade_bit = Some(32);
        config.cluster_cidr = "10.0.0.0/8,x".to_owned();
        config.node_port_addresses = vec!["secondary".to_owned()];
        let Err(Error::Invalid(errors)) = config.validate() else { panic!("it is accepted") };
        assert_eq!(errors.len(), 3, "{errors:?}");
    }
}
