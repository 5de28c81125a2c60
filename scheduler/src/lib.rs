//! The scheduler: for each pod that waits, the node that suits it best.
//!
//! [`core`] decides, on one thread and without I/O: it is told of changes, asked for decisions, and keeps all state. The shell
//! around it ([`run`]) feeds it from informers and carries out what it decides. A plugin is one file under [`plugins`].

pub mod config;

use client::Shutdown;
pub use config::Config;

/// Why a scheduler stopped or could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the configuration cannot be used")]
    Config(#[from] config::Error),
}

/// Schedules pods until shutdown.
pub async fn run(client: kube::Client, config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let config = config.complete()?;
    let _ = (client, config);
    shutdown.cancelled().await;
    Ok(())
}
