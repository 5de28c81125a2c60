//! `ferrokube controller-manager`: the controllers in a process of their own.

use clap::Args;
use client::{Shutdown, lease};
use controllers::manager::{self, Clients, Selection};

use crate::client_flags::ClientFlags;
use crate::common_flags::Common;
use crate::controller_manager_flags::Settings;
use crate::leader_election::{self, Candidate, LeaderElection, TOLERATED};
use crate::secure_serving::{Check, Checks, SecureServing, Shown};
use crate::service_accounts::ProcessClients;
use crate::{feature_gates, process_metrics};

const NAME: &str = "kube-controller-manager";
const PORT: u16 = 10257;

/// `ferrokube controller-manager`.
#[derive(Args)]
pub struct ControllerManager {
    #[command(flatten)]
    client: ClientFlags,
    #[command(flatten)]
    election: LeaderElection,
    #[command(flatten)]
    serving: SecureServing,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    pub common: Common,
    /// Which controllers run: * for those that are on by default, NAME, -NAME; the first that fits counts.
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Switches features on and off: Name=true|false. Only what is so already is accepted.
    #[arg(long, value_delimiter = ',')]
    feature_gates: Vec<feature_gates::Setting>,
}

impl ControllerManager {
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let config = self.settings.config()?;
        let selection = Selection::parse(self.controllers.iter().map(String::as_str))?;
        let election = self.election.config(true, lease::Config::new("kube-system", NAME, &leader_election::identity()?))?;
        let clients = ProcessClients::new(self.client.config(NAME).await?, config.use_service_account_credentials)?;
        let client = clients.shared();
        let candidate = Candidate::new(&client, election, NAME, &shutdown);

        let (watchdog, elected) = (candidate.watchdog.clone(), candidate.watchdog.clone());
        let mut healthy = vec![Check::new("leaderElection", move || watchdog.is_alive(TOLERATED))];
        healthy.extend(selection.controllers().map(|controller| Check::new(controller.name, || true)));
        let metrics = Box::new(move || {
            let mut text = process_metrics::render(NAME, &elected);
            controllers::metrics::render(&mut text);
            text
        });
        let shown = Shown { checks: Checks { healthy, ready: Vec::new() }, metrics, settings: serde_json::json!({}) };

        let served = self.serving.serve(NAME, PORT, &client, shown, shutdown.clone());
        let worked = candidate.work(shutdown.clone(), async |leading| {
            manager::run(clients, config, &selection, leading).await;
            Ok(())
        });
        tokio::pin!(worked);
        tokio::select! {
            worked = &mut worked => worked,
            served = served => {
                served?;
                // The server ends at shutdown, when the controllers end too.
                worked.await
            }
        }
    }
}
