//! Images without a registry: archives in a directory are imported into the node's runtime at start, and when they are dropped there later.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use client::Shutdown;
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::command::run;
use super::containerd::SOCKET;

/// An archive that is still being written is left alone until it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(500);

fn is_archive(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    !name.starts_with('.') && [".tar", ".tar.gz", ".tgz", ".tar.zst"].iter().any(|end| name.ends_with(end))
}

/// Imports one archive, of docker's or OCI's form, compressed or not.
pub async fn import(archive: &Path) -> anyhow::Result<()> {
    let path = archive.display().to_string();
    run("ctr", &["--address", SOCKET, "--namespace", "k8s.io", "images", "import", "--all-platforms", &path]).await.map(drop)
}

/// An archive as it was when it was imported.
type Version = (PathBuf, SystemTime, u64);

fn versions(directory: &Path) -> Vec<Version> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let describe = |path: PathBuf| {
        let metadata = path.metadata().ok()?;
        Some((path, metadata.modified().ok()?, metadata.len()))
    };
    let mut versions: Vec<Version> = entries.flatten().map(|e| e.path()).filter(|p| is_archive(p)).filter_map(describe).collect();
    versions.sort();
    versions
}

/// Imports what is in `directory` and what comes later, until shutdown. `first` turns when everything that was there is imported.
pub async fn follow(directory: PathBuf, first: tokio::sync::oneshot::Sender<()>, shutdown: Shutdown) {
    let (sender, mut changed) = mpsc::channel::<()>(1);
    // One pending message says all there is to say.
    let tell = move |event: notify::Result<notify::Event>| {
        // Looking into the directory is an event too, and must not be a reason to look again.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _ = sender.try_send(());
        }
    };
    let watching = notify::recommended_watcher(tell).and_then(|mut watcher| {
        watcher.watch(&directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    if let Err(error) = &watching {
        tracing::warn!(%error, directory = %directory.display(), "archives that are added later are not imported");
    }
    let mut imported = HashSet::new();
    let mut first = Some(first);
    loop {
        for version in versions(&directory) {
            let age = version.1.elapsed().unwrap_or(QUIET);
            if imported.contains(&version) || (first.is_none() && age < QUIET) {
                continue;
            }
            match import(&version.0).await {
                Ok(()) => tracing::info!(archive = %version.0.display(), "imported"),
                Err(error) => tracing::error!(archive = %version.0.display(), "not imported: {error:#}"),
            }
            imported.insert(version);
        }
        if let Some(first) = first.take() {
            // Nobody may be waiting.
            let _ = first.send(());
        }
        tokio::select! {
            _ = changed.recv() => tokio::time::sleep(QUIET).await,
            () = shutdown.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_their_names() {
        for (name, expected) in [("a.tar", true), ("a.tar.gz", true), ("a.tgz", true), (".a.tar", false), ("a.txt", false)] {
            assert_eq!(is_archive(Path::new(name)), expected, "{name}");
        }
    }
}
