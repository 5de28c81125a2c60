//! The API server's flags, under upstream's names and with upstream's meanings.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use apiserver::admission;
use apiserver::allocation::ports::PortRange;
use apiserver::api::{StoreTimeouts, Told};
use apiserver::backend::PREFERRED_ADDRESS_TYPES;
use apiserver::encryption;
use apiserver::filters::browsers::{self, Browsers, Origin};
use apiserver::run::{Config, FrontProxies, Kubelets, Server, SniFiles};
use apiserver::server::Settings as Connections;
use apiserver::storage::etcd;
use apiserver::system::Reconciler;
use apiserver::system::service_cidr::ServiceRange;
use apiserver::{tls, tokens};
use clap::Args;
use tokio::sync::watch;

use crate::audit_flags::AuditFlags;
use crate::authentication_flags::AuthenticationFlags;
use crate::authorization_flags::AuthorizationFlags;
use crate::common_flags::Common;
use crate::go_values::duration;
use crate::settled_flags::SettledFlags;
use crate::{feature_gates, runtime_config};

/// Flags that `apiserver` and `up` share.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// The address to listen on; 0.0.0.0 for all.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The port for HTTPS with authentication and authorization; 0 takes a free one.
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// A CSV file of static tokens: token,user,uid[,"group1,group2"].
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    #[command(flatten)]
    pub authentication: AuthenticationFlags,
    #[command(flatten)]
    pub authorization: AuthorizationFlags,
    /// The issuer of service account tokens; may be repeated, all are accepted and the first is used.
    #[arg(long)]
    pub service_account_issuer: Vec<String>,
    /// Who this server is to tokens; the issuers by default.
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// PEM keys that verify service account tokens; may be repeated.
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// The PEM key that signs service account tokens; made and kept in the data directory by default.
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// The socket of a program that signs service account tokens and tells the keys that verify them: a path, or @name for an abstract one.
    #[arg(long)]
    pub service_account_signing_endpoint: Option<String>,
    /// Check that the Secret and the account of a Secret's token are there; tokens by request are always checked.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub service_account_lookup: bool,
    /// Where relying parties find the keys, if not at this server's address.
    #[arg(long)]
    pub service_account_jwks_uri: Option<String>,
    /// The longest validity of a service account token, between an hour and 2^32 seconds; longer wishes are cut.
    #[arg(long, value_parser = max_token_expiration)]
    pub service_account_max_token_expiration: Option<i64>,
    /// Let tokens that kubelets project for this server live for a year.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub service_account_extend_token_expiration: bool,
    /// Let those in who show a bootstrap token, a Secret in kube-system of type bootstrap.kubernetes.io/token; on for a whole cluster.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub enable_bootstrap_token_auth: Option<bool>,
    /// Admission plugins to run beside the default ones, of which a whole cluster has NodeRestriction too; their order does not matter.
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run although they are on by default.
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// A file with an AdmissionConfiguration: what single admission plugins are told.
    #[arg(long)]
    pub admission_control_config_file: Option<PathBuf>,
    /// How long pods tolerate a node that is not ready, if they do not say so themselves.
    #[arg(long, default_value_t = 300, allow_negative_numbers = true)]
    pub default_not_ready_toleration_seconds: i64,
    /// How long pods tolerate a node that cannot be reached, if they do not say so themselves.
    #[arg(long, default_value_t = 300, allow_negative_numbers = true)]
    pub default_unreachable_toleration_seconds: i64,
    /// Let more than one process listen at the same address and port (SO_REUSEPORT).
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub permit_port_sharing: bool,
    /// Listen where another process has just listened (SO_REUSEADDR): so it is in any case.
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub permit_address_sharing: bool,
    /// Serve profiles of the Go runtime: there are none, only false is supported.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set, value_parser = no_profiles)]
    pub profiling: bool,
    /// Another name or address that the serving certificate is for; may be repeated.
    #[arg(long = "tls-san")]
    pub tls_sans: Vec<String>,
    /// The address that others in the cluster reach this server at; found out if not given.
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Where services get their addresses from: one range, or one of each family.
    #[arg(long, default_value = "10.96.0.0/16", value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<ServiceRange>,
    /// The ports that services of type NodePort and LoadBalancer are given: first-last, first+more, or one.
    #[arg(long, default_value_t = PortRange::default())]
    pub service_node_port_range: PortRange,
    /// Where nodes serve the service `kubernetes` if it is made anew; 0 for nowhere.
    #[arg(long, default_value_t = 0, value_parser = service_node_port, allow_negative_numbers = true)]
    pub kubernetes_service_node_port: u16,
    /// Who keeps the endpoints of the service `kubernetes`: lease is all API servers on the etcd, master-count this server alone, none
    /// somebody else.
    #[arg(long, default_value = "lease", value_parser = ["lease", "master-count", "none"])]
    pub endpoint_reconciler_type: String,
    /// How long events are kept.
    #[arg(long, default_value = "1h0m0s", value_parser = duration)]
    pub event_ttl: Duration,
    /// How many seconds a watch lasts at least that does not say so itself; it ends before it is twice as old.
    #[arg(long, default_value_t = 1800, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub min_request_timeout: u32,
    /// The name by which documents say that this server is reached; the address that the client has used by default.
    #[arg(long)]
    pub external_hostname: Option<String>,
    /// How long to go on serving once told to stop; /readyz fails meanwhile, so that load balancers turn away.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub shutdown_delay_duration: Duration,
    /// The etcd servers that keep the objects, scheme://host:port, comma separated; the data directory keeps them by default.
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// What all keys in etcd begin with.
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// Who certifies the etcd servers.
    #[arg(long, requires = "etcd_servers")]
    pub etcd_cafile: Option<PathBuf>,
    /// What etcd servers are shown.
    #[arg(long, requires_all = ["etcd_servers", "etcd_keyfile"])]
    pub etcd_certfile: Option<PathBuf>,
    /// The key of --etcd-certfile.
    #[arg(long, requires_all = ["etcd_servers", "etcd_certfile"])]
    pub etcd_keyfile: Option<PathBuf>,
    /// By when the store must answer for the server to be healthy.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub etcd_healthcheck_timeout: Duration,
    /// By when the store must answer for the server to be ready.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub etcd_readycheck_timeout: Duration,
    /// The longest that keys in etcd which live for a time share a lease.
    #[arg(long, default_value_t = etcd::REUSE_SECONDS, value_parser = clap::value_parser!(i64).range(0..))]
    pub lease_reuse_duration_seconds: i64,
    /// The kind of store behind --etcd-servers: etcd3, there is no other.
    #[arg(long, default_value = "etcd3", value_parser = ["", "etcd3"])]
    pub storage_backend: String,
    /// How often history is compacted; 0 for never.
    #[arg(long, default_value = "5m0s", value_parser = duration)]
    pub etcd_compaction_interval: Duration,
    /// What to serve HTTPS with: a certificate and those that vouch for it; made and kept in the data directory by default.
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// The key of --tls-cert-file.
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// What to serve HTTPS with to clients that ask for other names: certificate,key or certificate,key:name,name; may be repeated.
    #[arg(long)]
    pub tls_sni_cert_key: Vec<SniFiles>,
    /// The oldest TLS that is spoken: VersionTLS10, VersionTLS11, VersionTLS12, VersionTLS13. Nothing below 1.2 is spoken in any case.
    #[arg(long, default_value = "VersionTLS12", action = clap::ArgAction::Set, value_parser = only_tls13)]
    pub tls_min_version: bool,
    /// Cipher suites of TLS 1.2 that are spoken, as Go names them; the safe ones by default.
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    /// Groups of key exchange that are spoken, by their numbers: 29, 23, 24; all of these by default.
    #[arg(long, value_delimiter = ',')]
    pub tls_curve_preferences: Vec<i32>,
    /// Who may certify users, besides the CA in the data directory.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Who certifies front proxies, which may say for whom they ask; the front proxy CA in the data directory by default.
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies; any that --requestheader-client-ca-file certifies by default.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers in which front proxies name the user.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-User")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers in which front proxies give the user's uid.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Uid")]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers in which front proxies name the user's groups.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Group")]
    pub requestheader_group_headers: Vec<String>,
    /// What headers begin with in which front proxies tell more of the user.
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// What extension API servers are shown; made and kept in the data directory by default.
    #[arg(long, requires = "proxy_client_key_file")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// The key of --proxy-client-cert-file.
    #[arg(long, requires = "proxy_client_cert_file")]
    pub proxy_client_key_file: Option<PathBuf>,
    /// Extension API servers are reached at endpoints of their services, as with true; false is not supported.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = routed_to_endpoints)]
    pub enable_aggregator_routing: bool,
    /// Sites whose scripts may read answers in browsers: regular expressions on the Origin header.
    #[arg(long, value_delimiter = ',', value_parser = browsers::origin)]
    pub cors_allowed_origins: Vec<Origin>,
    /// What browsers are told in Strict-Transport-Security: max-age=SECONDS, includeSubDomains, preload.
    #[arg(long, value_delimiter = ',', value_parser = browsers::directive)]
    pub strict_transport_security_directives: Vec<String>,
    /// Let requests wait in fair queues by priority level (FlowSchemas, PriorityLevelConfigurations); without, they are only counted.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_priority_and_fairness: bool,
    /// The share of requests over HTTP/2 after which their connection is closed, so that clients find other servers: at most 0.02.
    #[arg(long, default_value_t = 0.0, value_parser = goaway_chance, allow_negative_numbers = true)]
    pub goaway_chance: f64,
    /// Streams of an HTTP/2 connection; 0 for the default of 100.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub http2_max_streams_per_connection: i32,
    /// Speak HTTP/1.1 alone.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub disable_http2_serving: bool,
    /// How many requests that only read are worked at; with the next flag, what priority levels share.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(0..=i64::from(i32::MAX)))]
    pub max_requests_inflight: u32,
    /// How many requests that change something are worked at.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=i64::from(i32::MAX)))]
    pub max_mutating_requests_inflight: u32,
    /// How long a request may take that is no watch, log or the like; requests may ask for less.
    #[arg(long, default_value = "1m0s", value_parser = duration)]
    pub request_timeout: Duration,
    /// Who certifies kubelets; they may show what they like by default.
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// What kubelets are shown; made and kept in the data directory by default.
    #[arg(long, requires = "kubelet_client_key")]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// The key of --kubelet-client-certificate.
    #[arg(long, requires = "kubelet_client_certificate")]
    pub kubelet_client_key: Option<PathBuf>,
    /// Which of a node's addresses its kubelet is reached at, best first.
    #[arg(long, value_delimiter = ',', default_values = PREFERRED_ADDRESS_TYPES)]
    pub kubelet_preferred_address_types: Vec<String>,
    /// Switches APIs on and off: v1, group/version, api/all, api/ga, api/beta, api/alpha. Only what is so already is accepted.
    #[arg(long, value_delimiter = ',')]
    pub runtime_config: Vec<runtime_config::Setting>,
    /// Switches features on and off: Name=true|false. Only what is so already is accepted.
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<feature_gates::Setting>,
    #[command(flatten)]
    pub audit: AuditFlags,
    #[command(flatten)]
    pub settled: SettledFlags,
    /// The file that says which resources lie encrypted in the store, and how.
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// Read --encryption-provider-config again as it changes.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub encryption_provider_config_automatic_reload: bool,
}

const NODE_RESTRICTION: &str = "NodeRestriction";

fn service_node_port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| {
        format!(
            "--kubernetes-service-node-port {text} must be between 0 and 65535, inclusive. If 0, the Kubernetes master service will be of type ClusterIP"
        )
    })
}

/// In seconds; 0 is no limit.
fn max_token_expiration(text: &str) -> Result<i64, String> {
    const RANGE: std::ops::RangeInclusive<i64> = 3600..=1 << 32;
    const SECOND: i64 = 1_000_000_000;
    let nanoseconds = apimachinery::time::parse_duration(text)?;
    let seconds = nanoseconds / SECOND;
    let in_range = RANGE.contains(&seconds) && (seconds < 1 << 32 || nanoseconds % SECOND == 0);
    if nanoseconds != 0 && !in_range {
        return Err("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds".to_owned());
    }
    Ok(seconds)
}

/// Words of letters, digits, `-` and `_`, with dots between them.
fn is_abstract_name(name: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    name.split('.').all(is_word)
}

fn goaway_chance(text: &str) -> Result<f64, String> {
    let chance: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if !(0.0..=0.02).contains(&chance) {
        return Err("--goaway-chance can not be less than 0 or greater than 0.02".to_owned());
    }
    Ok(chance)
}

/// Whether a version of TLS, by its name in Go, leaves nothing but 1.3.
fn only_tls13(text: &str) -> Result<bool, String> {
    match text {
        "VersionTLS13" => Ok(true),
        "VersionTLS12" | "VersionTLS11" | "VersionTLS10" => Ok(false),
        other => Err(format!("unknown tls version {}", apimachinery::field::quote(other))),
    }
}

/// What is never served can only be switched off.
fn no_profiles(text: &str) -> Result<bool, String> {
    match text {
        "false" => Ok(false),
        _ => Err("only false is supported: there are no profiles".to_owned()),
    }
}

/// Services' own addresses are not for a control plane without a proxy.
fn routed_to_endpoints(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        _ => Err("only true is supported".to_owned()),
    }
}

impl Flags {
    /// The plugins to run beside the default ones. A whole cluster keeps nodes to their own objects, as installers set it up.
    fn plugins(&self, alone: bool) -> Vec<String> {
        let mut plugins = self.enable_admission_plugins.clone();
        let is_named = |list: &[String]| list.iter().any(|name| name == NODE_RESTRICTION);
        if !alone && !is_named(&plugins) && !is_named(&self.disable_admission_plugins) {
            plugins.push(NODE_RESTRICTION.to_owned());
        }
        plugins
    }

    /// The socket of the external signer, which is not for a server that has keys of its own.
    fn signing_endpoint(&self) -> anyhow::Result<Option<String>> {
        let Some(socket) = self.service_account_signing_endpoint.clone().filter(|socket| !socket.is_empty()) else { return Ok(None) };
        if self.service_account_signing_key_file.is_some() || !self.service_account_key_file.is_empty() {
            bail!(
                "can't set `--service-account-signing-key-file` and/or `--service-account-key-file` with `--service-account-signing-endpoint` (They are mutually exclusive)"
            );
        }
        if socket.strip_prefix('@').is_some_and(|name| !is_abstract_name(name)) {
            bail!(
                "invalid value {} passed for `--service-account-signing-endpoint`, when prefixed with @ must be a valid abstract socket name",
                apimachinery::field::quote(&socket)
            );
        }
        Ok(Some(socket))
    }

    /// `alone`: nothing but the API server runs in this process.
    pub fn config(&self, data_dir: PathBuf, alone: bool) -> anyhow::Result<Config> {
        Ok(Config {
            data_dir,
            bind_address: self.bind_address,
            secure_port: self.secure_port,
            token_auth_file: self.token_auth_file.clone(),
            authentication: self.authentication.config(),
            authorization: self.authorization.config(),
            tokens: tokens::Config {
                service_account_issuer: self.service_account_issuer.clone(),
                api_audiences: self.api_audiences.clone(),
                service_account_key_file: self.service_account_key_file.clone(),
                service_account_signing_key_file: self.service_account_signing_key_file.clone(),
                service_account_signing_endpoint: self.signing_endpoint()?,
                service_account_lookup: self.service_account_lookup,
                service_account_jwks_uri: self.service_account_jwks_uri.clone(),
                service_account_max_token_expiration_seconds: self.service_account_max_token_expiration,
                service_account_extend_token_expiration: self.service_account_extend_token_expiration,
            },
            enable_bootstrap_token_auth: self.enable_bootstrap_token_auth.unwrap_or(!alone),
            admission: admission::Config {
                enable_admission_plugins: self.plugins(alone),
                disable_admission_plugins: self.disable_admission_plugins.clone(),
                admission_control_config_file: self.admission_control_config_file.clone(),
                default_not_ready_toleration_seconds: self.default_not_ready_toleration_seconds,
                default_unreachable_toleration_seconds: self.default_unreachable_toleration_seconds,
            },
            extra_sans: self.tls_sans.clone(),
            advertise_address: self.advertise_address,
            service_cluster_ip_range: self.service_cluster_ip_range.clone(),
            service_node_port_range: self.service_node_port_range,
            kubernetes_service_node_port: self.kubernetes_service_node_port,
            endpoint_reconciler: match &*self.endpoint_reconciler_type {
                "none" => Reconciler::Nobody,
                "master-count" => Reconciler::Own,
                _ => Reconciler::Leases,
            },
            told: Told {
                event_ttl: self.event_ttl,
                min_request_timeout: Duration::from_secs(self.min_request_timeout.into()),
                external_hostname: self.external_hostname.clone().filter(|name| !name.is_empty()),
            },
            shutdown_delay_duration: self.shutdown_delay_duration,
            etcd: (!self.etcd_servers.is_empty()).then(|| etcd::Address {
                servers: self.etcd_servers.clone(),
                prefix: self.etcd_prefix.clone(),
                ca_file: self.etcd_cafile.clone(),
                cert_file: self.etcd_certfile.clone(),
                key_file: self.etcd_keyfile.clone(),
                lease_reuse_seconds: self.lease_reuse_duration_seconds,
            }),
            compaction_interval: self.etcd_compaction_interval,
            tls_files: self.tls_cert_file.clone().zip(self.tls_private_key_file.clone()),
            tls_sni: self.tls_sni_cert_key.clone(),
            tls_settings: tls::Settings {
                only_tls13: self.tls_min_version,
                cipher_suites: self.tls_cipher_suites.clone(),
                curves: self.tls_curve_preferences.clone(),
            },
            client_ca_file: self.client_ca_file.clone(),
            connections: Connections {
                goaway_chance: self.goaway_chance,
                http2_max_streams: u32::try_from(self.http2_max_streams_per_connection).unwrap_or(0),
                disable_http2: self.disable_http2_serving,
                lanes: true,
            },
            browsers: Browsers {
                cors_allowed_origins: self.cors_allowed_origins.clone(),
                strict_transport_security_directives: self.strict_transport_security_directives.clone(),
            },
            enable_priority_and_fairness: self.enable_priority_and_fairness,
            max_requests_inflight: self.max_requests_inflight,
            max_mutating_requests_inflight: self.max_mutating_requests_inflight,
            request_timeout: self.request_timeout,
            store_timeouts: StoreTimeouts { health: self.etcd_healthcheck_timeout, readiness: self.etcd_readycheck_timeout },
            permit_port_sharing: self.permit_port_sharing,
            kubelets: Kubelets {
                certificate_authority: self.kubelet_certificate_authority.clone(),
                client: self.kubelet_client_certificate.clone().zip(self.kubelet_client_key.clone()),
                preferred_address_types: self.kubelet_preferred_address_types.clone(),
            },
            // Nodes of one's own are for whoever starts them to say.
            resource_metrics: false,
            front_proxies: FrontProxies {
                client_ca_file: self.requestheader_client_ca_file.clone(),
                allowed_names: self.requestheader_allowed_names.clone(),
                username_headers: self.requestheader_username_headers.clone(),
                uid_headers: self.requestheader_uid_headers.clone(),
                group_headers: self.requestheader_group_headers.clone(),
                extra_headers_prefix: self.requestheader_extra_headers_prefix.clone(),
                proxy_client: self.proxy_client_cert_file.clone().zip(self.proxy_client_key_file.clone()),
            },
            audit: self.audit.config().map_err(anyhow::Error::msg)?,
            encryption: encryption::Config {
                encryption_provider_config: self.encryption_provider_config.clone(),
                automatic_reload: self.encryption_provider_config_automatic_reload,
            },
        })
    }
}

/// `ferrokube apiserver`.
#[derive(Args)]
pub struct Apiserver {
    /// Where the embedded store and the certificates live.
    #[arg(long, default_value = "/var/lib/ferrokube")]
    data_dir: PathBuf,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    pub common: Common,
}

impl Apiserver {
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
        let server = Server::start(&self.flags.config(self.data_dir, true)?, shutdown).await?;
        server.api.metrics.tell_also(feature_gates::render);
        tracing::info!(address = %server.address, "serving");
        server.serve().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: Flags,
    }

    fn parsed(flags: &[&str]) -> Result<Flags, clap::Error> {
        Command::try_parse_from(["test"].iter().chain(flags)).map(|command| command.flags)
    }

    #[test]
    fn an_abstract_socket_has_a_name_of_words() {
        for (name, is_good) in [("a", true), ("a-b.c_9", true), ("", false), ("a..b", false), (".a", false), ("a b", false), ("a/b", false)]
        {
            let flags = parsed(&[&format!("--service-account-signing-endpoint=@{name}")]).unwrap();
            assert_eq!(flags.signing_endpoint().is_ok(), is_good, "{name}");
        }
        assert_eq!(parsed(&["--service-account-signing-endpoint="]).unwrap().signing_endpoint().unwrap(), None);
    }

    /// The flags of a manifest as installers write it.
    #[test]
    fn what_installers_say_is_understood() {
        let flags = parsed(&[
            "--allow-privileged=true",
            "--service-node-port-range=20000-22767",
            "--event-ttl=30m",
            "--min-request-timeout=600",
            "--shutdown-delay-duration=70s",
            "--external-hostname=api.example.org",
            "--endpoint-reconciler-type=none",
            "--kubernetes-service-node-port=30443",
            "--default-watch-cache-size=100",
            "--watch-cache-sizes=pods#500,deployments.apps#100",
            "--delete-collection-workers=4",
            "--enable-garbage-collector",
            "--storage-media-type=application/vnd.kubernetes.protobuf",
            "--kubelet-timeout=10s",
            "--emulated-version=kube=1.37",
            "--aggregator-reject-forwarding-redirect=true",
        ])
        .unwrap();
        let config = flags.config(PathBuf::from("unused"), true).unwrap();
        assert_eq!(config.service_node_port_range.to_string(), "20000-22767");
        assert_eq!((config.told.event_ttl, config.told.min_request_timeout), (Duration::from_secs(1800), Duration::from_secs(600)));
        assert_eq!((config.shutdown_delay_duration, config.kubernetes_service_node_port), (Duration::from_secs(70), 30_443));
        assert_eq!(config.endpoint_reconciler, Reconciler::Nobody);
        assert_eq!(config.told.external_address(([127, 0, 0, 1], 6443).into()), "api.example.org:6443");
    }

    #[test]
    fn what_this_server_has_not_is_not_accepted() {
        let flags = parsed(&["--profiling=false", "--storage-backend=etcd3", "--etcd-healthcheck-timeout=5s"]).unwrap();
        assert_eq!((flags.etcd_healthcheck_timeout, flags.etcd_readycheck_timeout), (Duration::from_secs(5), Duration::from_secs(2)));
        assert!(flags.service_account_lookup && !flags.permit_port_sharing);
        for wrong in [
            "--allow-privileged=false",
            "--watch-cache=false",
            "--service-node-port-range=7-6",
            "--min-request-timeout=0",
            "--profiling",
            "--profiling=true",
            "--storage-backend=etcd2",
            "--lease-reuse-duration-seconds=-1",
        ] {
            assert!(parsed(&[wrong]).is_err(), "{wrong}");
        }
    }
}
