//! Mode `iptables`: one Services' rules after the other, in the chains that upstream has.
//!
//! [`rules`] says what the rules are, [`plan`] what is to be written; only this file runs programs.

pub mod chain;
pub mod plan;
pub mod rules;

#[cfg(test)]
mod tests;

use crate::command::{self, Runner};
use crate::ruleset::{Difference, Ruleset};
use crate::settings::Settings;
use netfilter::family::Family;
use plan::{Counts, Plan, Present};

/// From so many endpoints on, their rules have no comments.
pub const LARGE_CLUSTER_ENDPOINTS: usize = 1000;

/// Tables that have a chain whose absence tells that somebody has flushed the rules.
const CANARY_TABLES: [&str; 3] = ["mangle", "nat", "filter"];

/// How long the programs wait for the lock that other users of iptables hold, in seconds.
const LOCK_WAIT: &str = "5";

/// What was written by a sync.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// The rules that there are now, if all were written.
    pub total: Option<Counts>,
    /// The rules in the input.
    pub last: Counts,
}

/// The rules of one family in the kernel.
pub struct Iptables {
    runner: Runner,
    family: Family,
}

impl Iptables {
    pub fn new(family: Family, runner: Runner) -> Iptables {
        Iptables { runner, family }
    }

    fn program(&self, suffix: &str) -> String {
        let name = if self.family == Family::V4 { "iptables" } else { "ip6tables" };
        format!("{name}{suffix}")
    }

    /// Whether this host has iptables for this family.
    pub async fn check(&self) -> Result<(), command::Error> {
        let list = ["-w", LOCK_WAIT, "-t", "nat", "-S", "POSTROUTING"];
        self.runner.run(&self.program(""), &list, b"").await.map(|_| ())
    }

    /// Writes all rules anew, and takes away what Services that are gone have left.
    pub async fn write_everything(&self, ruleset: &Ruleset, settings: &Settings) -> Result<Written, command::Error> {
        let saved = self.runner.run(&self.program("-save"), &[], b"").await?;
        let present = Present::parse(&String::from_utf8_lossy(&saved));
        let plan = plan::everything(ruleset, settings, &present);
        let last = self.restore(&plan).await?;
        self.raise_canaries().await?;
        Ok(Written { total: Some(plan.counts), last })
    }

    /// Writes what has changed, all or nothing per table.
    pub async fn write_changes(&self, differences: &[Difference], settings: &Settings) -> Result<Written, command::Error> {
        let last = self.restore(&plan::changes(differences, settings)).await?;
        Ok(Written { total: None, last })
    }

    async fn restore(&self, plan: &Plan) -> Result<Counts, command::Error> {
        let mut counts = Counts::default();
        for part in &plan.parts {
            let arguments = ["-w", LOCK_WAIT, "--noflush", "--counters"];
            self.runner.run(&self.program("-restore"), &arguments, part.as_bytes()).await?;
            let (filter, nat) = part.split_once("*nat\n").unwrap_or((part, ""));
            let rules = |text: &str| text.lines().filter(|line| line.starts_with("-A") || line.starts_with("-I")).count();
            counts.filter += rules(filter);
            counts.nat += rules(nat);
        }
        Ok(counts)
    }

    async fn raise_canaries(&self) -> Result<(), command::Error> {
        let text: String = CANARY_TABLES.iter().map(|table| format!("*{table}\n:{} - [0:0]\nCOMMIT\n", chain::CANARY)).collect();
        let arguments = ["-w", LOCK_WAIT, "--noflush"];
        self.runner.run(&self.program("-restore"), &arguments, text.as_bytes()).await.map(|_| ())
    }

    /// Whether nobody has flushed our tables.
    pub async fn is_intact(&self) -> bool {
        for table in CANARY_TABLES {
            let list = ["-w", LOCK_WAIT, "-t", table, "-S", chain::CANARY];
            if let Err(error) = self.runner.run(&self.program(""), &list, b"").await {
                tracing::debug!(table, family = %self.family, %error, "the canary is gone");
                return false;
            }
        }
        true
    }

    /// Takes away all that this mode has ever written; what is not there is no error.
    pub async fn clean_up(&self) -> Result<(), command::Error> {
        let saved = self.runner.run(&self.program("-save"), &[], b"").await?;
        let text = plan::nothing(&String::from_utf8_lossy(&saved));
        if text.is_empty() {
            return Ok(());
        }
        self.runner.run(&self.program("-restore"), &["-w", LOCK_WAIT, "--noflush"], text.as_bytes()).await.map(|_| ())
    }
}
