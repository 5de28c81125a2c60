//! Mode `nftables`: a table of its own, in which packets are looked up in maps. The names are upstream's.
//!
//! [`items`] and [`frame`] say what is in the table, [`model`] what a change makes different, [`netfilter::batch`] and
//! [`netfilter::expression`] how the kernel reads it; only this file talks to the kernel.

mod frame;
mod items;
mod model;
mod name;

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use crate::ruleset::{Difference, Ruleset};
use crate::settings::Settings;
use model::Model;
use name::TABLE;
use netfilter::batch::{Batch, table_exists};
use netfilter::family::Family;
use netfilter::netlink::{Message, Socket};

/// Kernels before 6.2 notice only after a moment that nothing leads to a chain any more.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// The oldest kernel whose hosts have an `nft` that understands our table.
const KERNEL: (u32, u32) = (5, 13);

/// Whoever knows better sets this.
const SKIP_CHECK: &str = "KUBE_PROXY_NFTABLES_SKIP_KERNEL_VERSION_CHECK";

/// The table of one family.
pub struct Nftables {
    family: Family,
    model: Model,
    /// Chains that are empty and may go, and since when.
    stale: HashMap<String, Instant>,
}

impl Nftables {
    /// # Errors
    /// The kernel is too old or lets us not in.
    pub fn open(family: Family) -> io::Result<Nftables> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        if std::env::var_os(SKIP_CHECK).is_none_or(|value| value.is_empty()) && version(&release).is_some_and(|version| version < KERNEL) {
            let text = format!("kube-proxy in nftables mode requires kernel {}.{} or later", KERNEL.0, KERNEL.1);
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        match table_exists(family, TABLE) {
            Ok(_) => Ok(Nftables { family, model: Model::default(), stale: HashMap::new() }),
            Err(error) => Err(error),
        }
    }

    async fn transact(&self, batch: Batch) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let messages: Vec<Message> = batch.finish();
        tokio::task::spawn_blocking(move || Socket::open()?.transact(messages)).await.map_err(io::Error::other)?
    }

    /// Puts a new table in the place of the old one, at once.
    pub async fn write_everything(&mut self, ruleset: &Ruleset, settings: &Settings) -> io::Result<()> {
        let mut batch = Batch::new(self.family, TABLE);
        // Deleting what is not there would fail.
        batch.add_table("rules for kube-proxy");
        batch.delete_table();
        batch.add_table("rules for kube-proxy");
        frame::write(&mut batch, settings);
        self.model.write_all(ruleset.ports(), settings, &mut batch);
        self.stale.clear();
        self.transact(batch).await
    }

    /// Writes what has changed, all or nothing. After a failure everything is due.
    pub async fn write_changes(&mut self, differences: &[Difference], settings: &Settings) -> io::Result<()> {
        let mut batch = Batch::new(self.family, TABLE);
        let stale: HashSet<String> = self.stale.keys().cloned().collect();
        let turned = self.model.write_changes(differences, &stale, settings, &mut batch);
        self.transact(batch).await?;
        for name in &turned.back {
            self.stale.remove(name);
        }
        let now = Instant::now();
        self.stale.extend(turned.gone.into_iter().map(|name| (name, now)));
        Ok(())
    }

    /// Deletes the chains that nothing has led to for a moment.
    pub async fn drop_stale_chains(&mut self) -> io::Result<()> {
        let names: Vec<String> =
            self.stale.iter().filter(|(_, since)| since.elapsed() >= STALE_AFTER).map(|(name, _)| name.clone()).collect();
        let mut batch = Batch::new(self.family, TABLE);
        names.iter().for_each(|name| batch.delete_chain(name));
        self.transact(batch).await?;
        names.iter().for_each(|name| {
            self.stale.remove(name);
        });
        Ok(())
    }

    /// Whether the table is there.
    pub async fn is_intact(&self) -> bool {
        let family = self.family;
        match tokio::task::spawn_blocking(move || table_exists(family, TABLE)).await {
            Ok(Ok(exists)) => exists,
            Ok(Err(error)) => {
                tracing::warn!(%family, %error, "cannot look for the table");
                true
            }
            Err(_) => true,
        }
    }

    /// Takes away all that this mode has ever written.
    pub async fn clean_up(&mut self) -> io::Result<()> {
        if !self.is_intact().await {
            return Ok(());
        }
        let mut batch = Batch::new(self.family, TABLE);
        batch.add_table("");
        batch.delete_table();
        self.model.clear();
        self.transact(batch).await
    }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        assert_eq!(version("6.18.0-arch"), Some((6, 18)));
        assert!(version("5.4.0-generic") < Some(KERNEL) && version("5.15") > Some(KERNEL));
        assert_eq!(version("unknown"), None);
    }
}
