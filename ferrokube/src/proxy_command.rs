//! `ferrokube proxy`: kube-proxy on one node.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use client::Shutdown;
use kube::Client;
use kube_proxy::Config;
use kube_proxy::config::Mode;

use crate::client_flags::ClientFlags;
use crate::common_flags::Common;
use crate::feature_gates;

/// `ferrokube proxy`.
#[derive(Args)]
pub struct Proxy {
    /// The KubeProxyConfiguration file. As with upstream, the flags below then count for nothing, but for --hostname-override.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    pub common: Common,
    /// The node's name; the machine's by default.
    #[arg(long)]
    hostname_override: Option<String>,
    /// How packets are led: iptables, nftables or ipvs.
    #[arg(long)]
    proxy_mode: Option<Mode>,
    /// Where pods get their addresses from.
    #[arg(long)]
    cluster_cidr: Option<String>,
    /// The address to listen on; it also says which family goes first.
    #[arg(long)]
    bind_address: Option<String>,
    #[arg(long)]
    healthz_bind_address: Option<String>,
    #[arg(long)]
    metrics_bind_address: Option<String>,
    /// Where node ports are served: ranges of addresses, or primary.
    #[arg(long, value_delimiter = ',')]
    nodeport_addresses: Vec<String>,
    /// Whether all traffic to services is masqueraded.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    masquerade_all: Option<bool>,
    /// Switches features on and off: Name=true|false. Only what is so already is accepted.
    #[arg(long, value_delimiter = ',')]
    feature_gates: Vec<feature_gates::Setting>,
}

impl Proxy {
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let config = self.settings()?;
        if self.client.kubeconfig.is_none() && !config.client_connection.kubeconfig.is_empty() {
            self.client.kubeconfig = Some(PathBuf::from(&config.client_connection.kubeconfig));
        }
        let client = Client::try_from(self.client.config("kube-proxy").await?)?;
        kube_proxy::run(client, config, shutdown).await.context("kube-proxy")
    }

    fn settings(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => {
                let text = std::fs::read(path).with_context(|| format!("--config {}", path.display()))?;
                Config::parse(&text).with_context(|| format!("--config {}", path.display()))?
            }
            None => self.flags_alone(),
        };
        if let Some(name) = &self.hostname_override {
            config.hostname_override.clone_from(name);
        }
        Ok(config)
    }

    fn flags_alone(&self) -> Config {
        let mut config = Config { mode: self.proxy_mode, node_port_addresses: self.nodeport_addresses.clone(), ..Config::default() };
        let fields = [
            (&self.cluster_cidr, &mut config.cluster_cidr),
            (&self.bind_address, &mut config.bind_address),
            (&self.healthz_bind_address, &mut config.healthz_bind_address),
            (&self.metrics_bind_address, &mut config.metrics_bind_address),
        ];
        for (given, field) in fields {
            if let Some(given) = given {
                field.clone_from(given);
            }
        }
        if let Some(all) = self.masquerade_all {
            config.iptables.masquerade_all = all;
            config.nftables.masquerade_all = all;
        }
        config.default_fields();
        config
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        proxy: Proxy,
    }

    #[test]
    fn flags_are_filled_up_with_defaults() {
        let line = ["test", "--proxy-mode=nftables", "--cluster-cidr=10.1.0.0/16", "--hostname-override=n"];
        let config = Line::try_parse_from(line).unwrap().proxy.settings().unwrap();
        assert_eq!((config.mode(), config.cluster_cidr.as_str(), config.hostname_override.as_str()), (Mode::Nftables, "10.1.0.0/16", "n"));
        assert_eq!(config.healthz_bind_address, "0.0.0.0:10256");
    }
}
