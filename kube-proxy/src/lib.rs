//! kube-proxy: leads packets that are sent to Services to the endpoints of these.
//!
//! [`ruleset`] says, in the terms of no mode, where traffic arrives and where it may go; a mode ([`iptables`], [`nftables`])
//! spells that out for the kernel. Pods are never looked at, and nothing is written to the API but events.

pub mod backend;
mod changes;
pub mod command;
pub mod config;
mod conntrack;
pub mod frontend;
mod health;
pub mod iptables;
pub mod ipvs;
mod listen;
mod metrics;
mod mode;
pub mod nftables;
pub mod node;
mod proxier;
pub mod ruleset;
mod run;
mod service_health;
pub mod settings;
mod sysctl;
#[cfg(test)]
mod testing;

pub use config::Config;
pub use run::{Sources, clean_up, run, run_from};

/// Why kube-proxy ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("cannot tell the host's name: {0}")]
    Hostname(#[source] std::io::Error),
    #[error("the host does not support mode {mode}: {source}")]
    Unsupported { mode: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("can't use the IPVS proxier: {0}")]
    Ipvs(#[source] ipvs::Error),
    #[error("cannot serve: {0}")]
    Serve(#[source] std::io::Error),
}
