//! `--leader-elect…`: of several processes of a component, the one that leads does the work.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use client::Shutdown;
use client::events::Recorder;
use client::lease::{self, Elector, Watchdog};
use kube::Client;

use crate::go_values::duration;

/// A health check fails when a leader has not renewed for so long beyond its lease.
pub const TOLERATED: Duration = Duration::from_secs(20);

#[derive(Args, Clone, Debug, Default)]
pub struct LeaderElection {
    /// Whether to work only while leading; true unless said otherwise.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    leader_elect: Option<bool>,
    /// How long the other processes wait for a leader that does not renew.
    #[arg(long, value_parser = duration)]
    leader_elect_lease_duration: Option<Duration>,
    /// How long a leader tries to renew before it gives up.
    #[arg(long, value_parser = duration)]
    leader_elect_renew_deadline: Option<Duration>,
    /// The time between two tries.
    #[arg(long, value_parser = duration)]
    leader_elect_retry_period: Option<Duration>,
    /// What is locked; only leases.
    #[arg(long, value_parser = ["leases"])]
    leader_elect_resource_lock: Option<String>,
    #[arg(long)]
    leader_elect_resource_name: Option<String>,
    #[arg(long)]
    leader_elect_resource_namespace: Option<String>,
}

impl LeaderElection {
    /// The election that these flags ask for; `defaults` if the component was told otherwise. Nothing if there is to be none.
    pub fn config(&self, elect: bool, defaults: lease::Config) -> anyhow::Result<Option<lease::Config>> {
        if !self.leader_elect.unwrap_or(elect) {
            return Ok(None);
        }
        let config = lease::Config {
            namespace: self.leader_elect_resource_namespace.clone().unwrap_or(defaults.namespace),
            name: self.leader_elect_resource_name.clone().unwrap_or(defaults.name),
            identity: defaults.identity,
            lease_duration: self.leader_elect_lease_duration.unwrap_or(defaults.lease_duration),
            renew_deadline: self.leader_elect_renew_deadline.unwrap_or(defaults.renew_deadline),
            retry_period: self.leader_elect_retry_period.unwrap_or(defaults.retry_period),
        };
        if let Err(reason) = config.check() {
            bail!(reason);
        }
        Ok(Some(config))
    }
}

/// Who this process is among the candidates: the machine, and what tells it from others there.
pub fn identity() -> anyhow::Result<String> {
    let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    Ok(format!("{host}_{}", uuid::Uuid::new_v4()))
}

/// A candidate, or one that does not ask.
pub struct Candidate {
    elector: Option<Elector>,
    pub watchdog: Watchdog,
}

impl Candidate {
    pub fn new(client: &Client, config: Option<lease::Config>, component: &str, shutdown: &Shutdown) -> Candidate {
        let recorder = || Recorder::new(client.clone(), component, "", shutdown.clone());
        let elector = config.map(|config| Elector::new(client.clone(), config).with_recorder(recorder()));
        let watchdog = elector.as_ref().map(Elector::watchdog).unwrap_or_default();
        Candidate { elector, watchdog }
    }

    /// Works while leading. Losing the lease is an error: what the work knows is not to be trusted any more.
    pub async fn work<F: Future<Output = anyhow::Result<()>>>(
        self,
        shutdown: Shutdown,
        work: impl FnOnce(Shutdown) -> F,
    ) -> anyhow::Result<()> {
        let Some(elector) = self.elector else { return work(shutdown).await };
        let Some(leadership) = elector.lead(shutdown.clone()).await else { return Ok(()) };
        let result = work(leadership.ends.clone()).await;
        let lost = leadership.ends.is_cancelled() && !shutdown.is_cancelled();
        leadership.release().await;
        result?;
        if lost {
            bail!("leaderelection lost");
        }
        Ok(())
    }
}
