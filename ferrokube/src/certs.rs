//! `ferrokube certs`: what the certificates of a data directory say, and making them anew.
//!
//! Servers read them at their start; that makes those anew, too, which end within a month.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use apiserver::pki::{Described, Pki};
use clap::Subcommand;
use jiff::Timestamp;

/// `ferrokube certs`.
#[derive(Subcommand)]
pub enum Certs {
    /// Show the certificates, and until when they are good.
    Show {
        /// The server's data directory.
        #[arg(long, default_value = "/var/lib/ferrokube")]
        data_dir: PathBuf,
    },
    /// Make certificates anew, with other keys; all but the authorities' if none is named. Servers show them, and kubeconfigs have them, from
    /// the next start on.
    Renew {
        /// As `show` names them.
        names: Vec<String>,
        /// The server's data directory.
        #[arg(long, default_value = "/var/lib/ferrokube")]
        data_dir: PathBuf,
    },
}

impl Certs {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Certs::Show { data_dir } => show(&open(&data_dir)?.certificates()?),
            Certs::Renew { names, data_dir } => {
                let pki = open(&data_dir)?;
                let all = pki.certificates()?;
                for name in &names {
                    let found = all.iter().find(|described| described.name == *name);
                    let found = found.with_context(|| format!("there is no certificate {name}"))?;
                    ensure!(!found.is_authority(), "{name} certifies others and is not made anew");
                }
                let asked = |described: &&Described| names.is_empty() || names.contains(&described.name);
                let renewed = all.iter().filter(|described| !described.is_authority()).filter(asked);
                show(&renewed.map(|described| pki.renew(&described.name)).collect::<Result<Vec<_>, _>>()?)
            }
        }
    }
}

fn open(data_dir: &std::path::Path) -> anyhow::Result<Pki> {
    let directory = data_dir.join("pki");
    // Opening would make authorities.
    ensure!(directory.join("ca.crt").exists(), "{} has no certificates", data_dir.display());
    Ok(Pki::open(&directory)?)
}

fn show(all: &[Described]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<28} {:<34} {:<16} {:<20} LEFT", "NAME", "SUBJECT", "AUTHORITY", "EXPIRES")?;
    for described in all {
        let Described { name, common_name, authority, not_after, .. } = described;
        let hours = not_after.duration_since(Timestamp::now()).as_hours();
        let left = if hours < 0 { "expired".to_owned() } else { format!("{}d", hours / 24) };
        writeln!(out, "{name:<28} {common_name:<34} {authority:<16} {:<20} {left}", not_after.to_string())?;
    }
    Ok(())
}
