//! `ferrokube snapshot`: the embedded store as one file, and a data directory made of such a file.
//!
//! Both need a data directory that no server has open. Certificates are not part of a snapshot.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use apiserver::run::store_path;
use apiserver::storage::embedded::snapshot;
use apiserver::storage::StoreError;
use clap::Subcommand;

/// `ferrokube snapshot`.
#[derive(Subcommand)]
pub enum Snapshot {
    /// Write everything that a stopped server keeps to a file.
    Save {
        /// The file to write; replaced if it exists.
        file: PathBuf,
        /// The server's data directory.
        #[arg(long, default_value = "/var/lib/ferrokube")]
        data_dir: PathBuf,
    },
    /// Fill a data directory without a store from a file.
    Restore {
        /// The file that `save` wrote.
        file: PathBuf,
        /// The data directory to fill.
        #[arg(long, default_value = "/var/lib/ferrokube")]
        data_dir: PathBuf,
    },
}

impl Snapshot {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Snapshot::Save { file, data_dir } => {
                let store = store_path(&data_dir);
                // Opening would make an empty store.
                if !store.is_dir() {
                    bail!("{} has no store", data_dir.display());
                }
                let revision = snapshot::save(&store, &file).map_err(|error| match error {
                    StoreError::Locked(_) => anyhow::anyhow!("{error}; stop the server that uses it first"),
                    other => other.into(),
                })?;
                tracing::info!(%revision, file = %file.display(), "saved");
            }
            Snapshot::Restore { file, data_dir } => {
                std::fs::create_dir_all(&data_dir).with_context(|| data_dir.display().to_string())?;
                let revision = snapshot::restore(&file, &store_path(&data_dir))?;
                tracing::info!(%revision, data_dir = %data_dir.display(), "restored");
            }
        }
        Ok(())
    }
}
