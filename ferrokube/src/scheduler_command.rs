//! `ferrokube scheduler`: the scheduler in a process of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use client::{Informers, Shutdown, lease};
use scheduler::{Config, Metrics};

use crate::client_flags::{self, ClientFlags};
use crate::common_flags::Common;
use crate::go_values::duration;
use crate::leader_election::{self, Candidate, LeaderElection, TOLERATED};
use crate::secure_serving::{Check, Checks, SecureServing, Shown};
use crate::{feature_gates, process_metrics};

const NAME: &str = "kube-scheduler";
const PORT: u16 = 10259;

/// `ferrokube scheduler`.
#[derive(Args)]
pub struct Scheduler {
    /// The KubeSchedulerConfiguration file.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    election: LeaderElection,
    #[command(flatten)]
    serving: SecureServing,
    #[command(flatten)]
    pub common: Common,
    /// Switches features on and off: Name=true|false. Only what is so already is accepted.
    #[arg(long, value_delimiter = ',')]
    feature_gates: Vec<feature_gates::Setting>,
}

impl Scheduler {
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let config = match &self.config {
            Some(path) => read(path)?,
            None => Config::default(),
        };
        if self.client.kubeconfig.is_none() && !config.client_connection.kubeconfig.is_empty() {
            self.client.kubeconfig = Some(PathBuf::from(&config.client_connection.kubeconfig));
        }
        let client = client_flags::client(self.client.config(NAME).await?)?;
        let election = self.election.config(config.leader_election.leader_elect, lease_of(&config)?)?;
        let candidate = Candidate::new(&client, election, NAME, &shutdown);
        let metrics: Arc<Metrics> = Arc::default();

        let (watchdog, elected, counted) = (candidate.watchdog.clone(), candidate.watchdog.clone(), metrics.clone());
        let healthy = vec![Check::new("leaderElection", move || watchdog.is_alive(TOLERATED))];
        let shown = Shown {
            checks: Checks { healthy, ready: Vec::new() },
            metrics: Box::new(move || process_metrics::render(NAME, &elected) + &counted.render()),
            settings: serde_json::json!({}),
        };
        let served = self.serving.serve(NAME, PORT, &client, shown, shutdown.clone());
        let worked = candidate.work(shutdown.clone(), async |leading| {
            let informers = Informers::new(client.clone(), leading.clone());
            scheduler::run_with(client.clone(), informers, config, metrics, leading).await.context("scheduler")
        });
        tokio::pin!(worked);
        tokio::select! {
            worked = &mut worked => worked,
            served = served => {
                served?;
                // The server ends at shutdown, when the scheduler ends too.
                worked.await
            }
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read(path).with_context(|| format!("--config {}", path.display()))?;
    let parsed = apimachinery::yaml::parse(&text).with_context(|| format!("--config {}", path.display()))?;
    serde_json::from_value(parsed.value).with_context(|| format!("--config {}", path.display()))
}

/// The lease that the configuration names, and its times.
fn lease_of(config: &Config) -> anyhow::Result<lease::Config> {
    let said = &config.leader_election;
    let time = |name: &str, text: &str| -> anyhow::Result<Duration> {
        duration(text).map_err(|reason| anyhow::anyhow!("leaderElection.{name}: {reason}"))
    };
    Ok(lease::Config {
        lease_duration: time("leaseDuration", &said.lease_duration)?,
        renew_deadline: time("renewDeadline", &said.renew_deadline)?,
        retry_period: time("retryPeriod", &said.retry_period)?,
        ..lease::Config::new(&said.resource_namespace, &said.resource_name, &leader_election::identity()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_is_the_one_that_the_file_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nleaderElection:\n  leaderElect: false\n  leaseDuration: 30s\n  resourceName: mine\n";
        std::fs::write(file.path(), text).unwrap();
        let config = read(file.path()).unwrap();
        let lease = lease_of(&config).unwrap();
        assert!(!config.leader_election.leader_elect);
        assert_eq!(
            (lease.name.as_str(), lease.lease_duration, lease.retry_period),
            ("mine", Duration::from_secs(30), Duration::from_secs(2))
        );
    }

    #[test]
    fn a_field_that_does_not_exist_is_told_of() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "leaderElection:\n  nonsense: 1\n").unwrap();
        assert!(format!("{:#}", read(file.path()).unwrap_err()).contains("unknown field `nonsense`"));
    }
}
