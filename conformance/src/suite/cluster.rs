//! The cluster that is tested: ours, started for it, or somebody's that runs already. Known by its kubeconfig alone.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// How long nodes may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(300);
const READY_POLL: Duration = Duration::from_millis(500);
/// How long a cluster may take to stop its pods and nodes.
const STOP_TIMEOUT: Duration = Duration::from_secs(180);

/// A cluster to ask.
pub struct Cluster {
    kubectl: PathBuf,
    pub kubeconfig: PathBuf,
}

impl Cluster {
    pub fn new(tools: &Path, kubeconfig: PathBuf) -> Self {
        Self { kubectl: tools.join("kubectl"), kubeconfig }
    }

    async fn ask(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.kubectl)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| self.kubectl.display().to_string())?;
        ensure!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// What the server calls itself.
    pub async fn version(&self) -> anyhow::Result<String> {
        let version: serde_json::Value = serde_json::from_str(&self.ask(&["get", "--raw", "/version"]).await?)?;
        Ok(version["gitVersion"].as_str().context("the server has no version")?.to_owned())
    }

    /// Where the API server is for pods and nodes.
    pub async fn address(&self) -> anyhow::Result<IpAddr> {
        let path = "jsonpath={.items[0].endpoints[0].addresses[0]}";
        let slices = ["get", "endpointslices", "--namespace=default", "--selector=kubernetes.io/service-name=kubernetes", "--output", path];
        let address = match self.ask(&slices).await? {
            // The server's own slice may go without the label.
            none if none.is_empty() => {
                self.ask(&[
                    "get",
                    "endpointslice",
                    "--namespace=default",
                    "kubernetes",
                    "--output",
                    "jsonpath={.endpoints[0].addresses[0]}",
                ])
                .await?
            }
            address => address,
        };
        address.parse().with_context(|| format!("the address of the API server, {address:?}"))
    }

    async fn ready_nodes(&self) -> anyhow::Result<usize> {
        Ok(count_ready(&self.ask(&["get", "nodes", "--no-headers"]).await?))
    }
}

/// The nodes of `kubectl get nodes` that are ready and take pods.
fn count_ready(table: &str) -> usize {
    table.lines().filter(|line| line.split_whitespace().nth(1) == Some("Ready")).count()
}

/// A cluster of ours on this machine; to be stopped.
pub struct Own {
    child: Child,
    binary: PathBuf,
    data_dir: PathBuf,
    log: PathBuf,
}

/// One test waits until history is compacted, which by default takes ten minutes, longer than all others.
const COMPACTION_INTERVAL: &str = "1m";

impl Own {
    /// Starts from nothing: what an earlier cluster left in `data_dir` goes away. Nodes take their runtime's programs from `path`.
    pub async fn start(binary: &Path, data_dir: &Path, nodes: u32, port: u16, path: &OsStr, log: PathBuf) -> anyhow::Result<Self> {
        if data_dir.exists() {
            down(binary, data_dir, &log).await?;
            std::fs::remove_dir_all(data_dir).with_context(|| data_dir.display().to_string())?;
        }
        std::fs::create_dir_all(data_dir).with_context(|| data_dir.display().to_string())?;
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        let child = Command::new(binary)
            .args(["up", "--nodes", &nodes.to_string(), "--secure-port", &port.to_string()])
            .args(["--etcd-compaction-interval", COMPACTION_INTERVAL, "--data-dir"])
            .arg(data_dir)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A signal for the run must reach the tests first, while there is a cluster to clean up in.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        Ok(Self { child, binary: binary.to_owned(), data_dir: data_dir.to_owned(), log })
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    /// Waits until so many nodes are ready.
    pub async fn ready(&mut self, cluster: &Cluster, nodes: usize) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut last = anyhow::anyhow!("no kubeconfig yet");
        while started.elapsed() < READY_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                bail!("the cluster ended with {status}; see {}", self.log.display());
            }
            if self.kubeconfig().exists() {
                match cluster.ready_nodes().await {
                    Ok(ready) if ready >= nodes => return Ok(()),
                    Ok(ready) => last = anyhow::anyhow!("{ready} of {nodes} nodes are ready"),
                    Err(error) => last = error,
                }
            }
            tokio::time::sleep(READY_POLL).await;
        }
        Err(last.context(format!("the cluster is not ready after {READY_TIMEOUT:?}; see {}", self.log.display())))
    }

    /// Ends it and leaves nothing of its nodes behind.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        down(&self.binary, &self.data_dir, &self.log).await
    }
}

/// The search path for programs, with `first` before all else.
pub fn search_path(first: Option<&Path>) -> anyhow::Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(first.map(Path::to_owned).into_iter().chain(std::env::split_paths(&path)))?)
}

/// Takes away what a cluster that was killed has left.
async fn down(binary: &Path, data_dir: &Path, log: &Path) -> anyhow::Result<()> {
    let output = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
    let status =
        Command::new(binary).args(["down", "--data-dir"]).arg(data_dir).stdout(output.try_clone()?).stderr(output).status().await?;
    ensure!(status.success(), "{} down: {status}; see {}", binary.display(), log.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_that_are_ready_and_schedulable_count() {
        let table = "node-1   Ready                      <none>   1m   v1.37.2\nnode-2   NotReady   <none>   1m   v1.37.2\nnode-3   Ready,SchedulingDisabled   <none>   1m   v1.37.2\n";
        assert_eq!(count_ready(table), 1);
        assert_eq!(count_ready(""), 0);
    }
}
