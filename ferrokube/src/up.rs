//! `ferrokube up`: a cluster in one process.

use std::path::PathBuf;
use std::time::Instant;

use apiserver::run::{Server, kubeconfig_path};
use clap::Args;
use tokio::sync::watch;

use crate::apiserver_flags::Flags;

/// `ferrokube up`.
#[derive(Args)]
pub struct Up {
    /// Everything that the cluster keeps: store, certificates, kubeconfig.
    #[arg(long, default_value = "/var/lib/ferrokube")]
    data_dir: PathBuf,
    /// Nodes on this machine. 0 is a control plane alone, which needs neither root nor a container runtime.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=0))]
    nodes: u32,
    #[command(flatten)]
    flags: Flags,
}

impl Up {
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
        let started = Instant::now();
        let kubeconfig = kubeconfig_path(&self.data_dir);
        let server = Server::start(&self.flags.config(self.data_dir, false), shutdown).await?;
        tracing::info!(nodes = self.nodes, address = %server.address, "control plane ready in {} ms", started.elapsed().as_millis());
        tracing::info!("try: kubectl --kubeconfig {} get namespaces", kubeconfig.display());
        server.serve().await;
        tracing::info!("stopped");
        Ok(())
    }
}
