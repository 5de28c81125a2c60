//! `ferrokube down`: ends a cluster and takes away what its nodes have left on the machine. The data directory stays.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::joining::join;
use crate::joining::leave::leave;
use crate::nodes::{network, slot_file, supervise};
use crate::pid_file;

/// `ferrokube down`.
#[derive(Args)]
pub struct Down {
    /// The data directory that the cluster was started with.
    #[arg(long, default_value = "/var/lib/ferrokube")]
    data_dir: PathBuf,
    /// Remove the data directory too, and with it everything that the cluster kept.
    #[arg(long)]
    delete_data: bool,
}

/// A cluster that was told to end has ended by then.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

impl Down {
    pub async fn run(self) -> anyhow::Result<()> {
        if !self.data_dir.exists() {
            tracing::info!("nothing in {}", self.data_dir.display());
            return Ok(());
        }
        let data_dir = self.data_dir.canonicalize().with_context(|| self.data_dir.display().to_string())?;
        if let Some(pid) = pid_file::read(&data_dir) {
            tracing::info!(pid, "stopping the cluster");
            end(pid).await?;
        }
        if slot_file(&data_dir).exists() {
            // Nothing of this is there after an orderly end; a killed process leaves it.
            let layout = network::claim(&data_dir).await?;
            supervise::remove_all(&layout).await?;
        }
        if let Some(site) = join::site_of(&data_dir)? {
            leave(&data_dir, &site).await?;
        }
        if self.delete_data {
            std::fs::remove_dir_all(&data_dir).with_context(|| data_dir.display().to_string())?;
        }
        tracing::info!("nothing of the cluster is left{}", if self.delete_data { "" } else { " but its data" });
        Ok(())
    }
}

async fn end(pid: i32) -> anyhow::Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("process {pid}"))?;
    let started = Instant::now();
    while is_running(pid) {
        if started.elapsed() > STOP_TIMEOUT {
            bail!("process {pid} does not end");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Whether a process still runs. One that has ended stays in the table until whoever started it asks how.
fn is_running(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which stands in parentheses and may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X'))
}
