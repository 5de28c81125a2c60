//! The API server's flags, under upstream's names and with upstream's meanings.

use std::net::IpAddr;
use std::path::PathBuf;

use apiserver::admission;
use apiserver::run::{Config, Mode, Server};
use apiserver::system::service_cidr::ServiceRange;
use apiserver::tokens;
use clap::Args;
use tokio::sync::watch;

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
    /// Who decides what users may do, asked in this order: Node, RBAC, AlwaysAllow, AlwaysDeny.
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC")]
    pub authorization_mode: Vec<Mode>,
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
    /// Where relying parties find the keys, if not at this server's address.
    #[arg(long)]
    pub service_account_jwks_uri: Option<String>,
    /// The longest validity in seconds of a service account token.
    #[arg(long)]
    pub service_account_max_token_expiration_seconds: Option<i64>,
    /// Let tokens that kubelets project for this server live for a year.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub service_account_extend_token_expiration: bool,
    /// Let requests without credentials in as system:anonymous.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: bool,
    /// Admission plugins to run beside the default ones; their order does not matter.
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run although they are on by default.
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// How long pods tolerate a node that is not ready, if they do not say so themselves.
    #[arg(long, default_value_t = 300, allow_negative_numbers = true)]
    pub default_not_ready_toleration_seconds: i64,
    /// How long pods tolerate a node that cannot be reached, if they do not say so themselves.
    #[arg(long, default_value_t = 300, allow_negative_numbers = true)]
    pub default_unreachable_toleration_seconds: i64,
    /// Another name or address that the serving certificate is for; may be repeated.
    #[arg(long = "tls-san")]
    pub tls_sans: Vec<String>,
    /// The address that others in the cluster reach this server at; found out if not given.
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Where services get their addresses from: one range, or one of each family.
    #[arg(long, default_value = "10.96.0.0/16", value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<ServiceRange>,
}

impl Flags {
    /// `alone`: nothing but the API server runs in this process.
    pub fn config(&self, data_dir: PathBuf, alone: bool) -> Config {
        Config {
            data_dir,
            bind_address: self.bind_address,
            secure_port: self.secure_port,
            token_auth_file: self.token_auth_file.clone(),
            authorization_mode: self.authorization_mode.clone(),
            tokens: tokens::Config {
                service_account_issuer: self.service_account_issuer.clone(),
                api_audiences: self.api_audiences.clone(),
                service_account_key_file: self.service_account_key_file.clone(),
                service_account_signing_key_file: self.service_account_signing_key_file.clone(),
                service_account_jwks_uri: self.service_account_jwks_uri.clone(),
                service_account_max_token_expiration_seconds: self.service_account_max_token_expiration_seconds,
                service_account_extend_token_expiration: self.service_account_extend_token_expiration,
            },
            aggregate_cluster_roles: !alone,
            anonymous_auth: self.anonymous_auth,
            admission: admission::Config {
                enable_admission_plugins: self.enable_admission_plugins.clone(),
                disable_admission_plugins: self.disable_admission_plugins.clone(),
                default_not_ready_toleration_seconds: self.default_not_ready_toleration_seconds,
                default_unreachable_toleration_seconds: self.default_unreachable_toleration_seconds,
            },
            extra_sans: self.tls_sans.clone(),
            advertise_address: self.advertise_address,
            service_cluster_ip_range: self.service_cluster_ip_range.clone(),
        }
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
}

impl Apiserver {
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
        let server = Server::start(&self.flags.config(self.data_dir, true), shutdown).await?;
        tracing::info!(address = %server.address, "serving");
        server.serve().await;
        Ok(())
    }
}
