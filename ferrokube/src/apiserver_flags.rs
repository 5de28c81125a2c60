//! The API server's flags, under upstream's names and with upstream's meanings.

use std::net::IpAddr;
use std::path::PathBuf;

use apiserver::run::{Config, Server};
use apiserver::system::service_cidr::ServiceRange;
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
    /// Let requests without credentials in as system:anonymous.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: bool,
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
    pub fn config(&self, data_dir: PathBuf) -> Config {
        Config {
            data_dir,
            bind_address: self.bind_address,
            secure_port: self.secure_port,
            token_auth_file: self.token_auth_file.clone(),
            anonymous_auth: self.anonymous_auth,
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
        let server = Server::start(&self.flags.config(self.data_dir), shutdown).await?;
        tracing::info!(address = %server.address, "serving");
        server.serve().await;
        Ok(())
    }
}
