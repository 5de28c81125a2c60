//! The modes, as the loop sees them: something that writes rules and knows when somebody else has taken them away.

use crate::command;
use crate::iptables::{Iptables, Written};
use crate::metrics::Metrics;
use crate::nftables::Nftables;
use crate::ruleset::{Difference, Ruleset};
use crate::settings::Settings;
use netfilter::family::Family;

/// Why rules were not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Program(#[from] command::Error),
    #[error("nftables: {0}")]
    Kernel(#[from] std::io::Error),
}

/// The rules of one family in the kernel, in the mode that was asked for.
pub enum Mode {
    Iptables(Iptables),
    Nftables(Box<Nftables>),
}

impl Mode {
    /// Writes all rules anew.
    pub async fn write_everything(&mut self, ruleset: &Ruleset, settings: &Settings, metrics: &Metrics) -> Result<(), Error> {
        match self {
            Mode::Iptables(iptables) => {
                let result = iptables.write_everything(ruleset, settings).await;
                Mode::told(settings.family, result, true, metrics)
            }
            Mode::Nftables(nftables) => {
                let result = nftables.write_everything(ruleset, settings).await;
                Ok(result.inspect_err(|_| metrics.of(settings.family).nftables_failures.add(1))?)
            }
        }
    }

    /// Writes what differs from what was written before.
    pub async fn write_changes(&mut self, differences: &[Difference], settings: &Settings, metrics: &Metrics) -> Result<(), Error> {
        match self {
            Mode::Iptables(iptables) => {
                let result = iptables.write_changes(differences, settings).await;
                Mode::told(settings.family, result, false, metrics)
            }
            Mode::Nftables(nftables) => {
                let result = nftables.write_changes(differences, settings).await;
                Ok(result.inspect_err(|_| metrics.of(settings.family).nftables_failures.add(1))?)
            }
        }
    }

    fn told(family: Family, result: Result<Written, command::Error>, everything: bool, metrics: &Metrics) -> Result<(), Error> {
        let of = metrics.of(family);
        match result {
            Ok(written) => {
                if let Some(total) = written.total {
                    of.filter_rules.set(total.filter as f64);
                    of.nat_rules.set(total.nat as f64);
                }
                of.filter_rules_last.set(written.last.filter as f64);
                of.nat_rules_last.set(written.last.nat as f64);
                Ok(())
            }
            Err(error) => {
                of.restore_failures.add(1);
                of.partial_restore_failures.add(u64::from(!everything));
                Err(error.into())
            }
        }
    }

    /// Whether all rules are to be written anew now and then. A table of our own is not changed by others, and clients that are
    /// to stay with their endpoints would be forgotten.
    pub fn is_refreshed(&self) -> bool {
        matches!(self, Mode::Iptables(_))
    }

    /// What is done now and then, when nothing changes. False: somebody has taken rules away.
    pub async fn look_after(&mut self, metrics: &Metrics, family: Family) -> bool {
        match self {
            Mode::Iptables(iptables) => iptables.is_intact().await,
            Mode::Nftables(nftables) => {
                if let Err(error) = nftables.drop_stale_chains().await {
                    metrics.of(family).nftables_cleanup_failures.add(1);
                    tracing::warn!(%error, "cannot delete stale chains");
                    return false;
                }
                nftables.is_intact().await
            }
        }
    }
}
