//! A node's container runtime: an own containerd, with its configuration, that is started when it is not there and again when it ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use client::Shutdown;
use tokio::process::{Child, Command};

use super::{cgroup, cni, pause};

/// Where the runtime listens, inside the node.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// It answers by then, or something is wrong with it.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// It ended: it is started again after this long.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What the runtime of one node is told.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The node's directory: configuration and log.
    pub directory: PathBuf,
    pub registries: PathBuf,
    /// The node's cgroup; the runtime lives in `runtime` below it.
    pub cgroup: String,
}

/// The configuration. Version 2 is what containerd 1.6 reads and what later ones migrate.
///
/// `restrict_oom_score_adj`: this machine does not allow to make processes harder to kill than this one is.
pub fn configuration(registries: &Path, plugins: &Path, restrict_oom_score_adj: bool) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = {restrict_oom_score_adj}
  max_concurrent_downloads = 10
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{registries}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.test-handler]
      runtime_type = "io.containerd.runc.v2"
"#,
        image = pause::image(),
        plugins = plugins.display(),
        registries = registries.display(),
    )
}

/// Whether processes of this one may be made harder to kill: the capability CAP_SYS_RESOURCE (bit 24).
fn may_lower_oom_score() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> 24 & 1 == 1)
}

impl Runtime {
    fn runtime_cgroup(&self) -> String {
        format!("{}/runtime", self.cgroup)
    }

    /// The process id of the runtime if it runs already, from before this process.
    pub fn running(&self) -> Option<u32> {
        let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "containerd");
        cgroup::processes(&self.runtime_cgroup()).into_iter().find(name).and_then(|pid| u32::try_from(pid).ok())
    }

    fn start(&self) -> anyhow::Result<Child> {
        let config = self.directory.join("containerd.toml");
        let text = configuration(&self.registries, &cni::plugin_directory()?, !may_lower_oom_score());
        std::fs::write(&config, text).with_context(|| config.display().to_string())?;
        cgroup::create(&self.runtime_cgroup())?;
        let path = self.directory.join("containerd.log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
        let child = Command::new("containerd")
            .args(["--config".as_ref(), config.as_os_str()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // It outlives this process: a kubelet that starts again finds its containers running.
            .kill_on_drop(false)
            .process_group(0)
            .spawn()
            .context("containerd cannot be started; is it installed?")?;
        if let Some(pid) = child.id() {
            cgroup::enter(&self.runtime_cgroup(), pid)?;
        }
        Ok(child)
    }

    /// Sees to it that a runtime runs until shutdown, and never ends one itself.
    pub async fn supervise(self, shutdown: Shutdown) {
        loop {
            if let Some(pid) = self.running() {
                gone(pid, &shutdown).await;
            } else {
                match self.start() {
                    Ok(mut child) => tokio::select! {
                        status = child.wait() => tracing::warn!(?status, "containerd ended, starting it again"),
                        () = shutdown.cancelled() => return,
                    },
                    Err(error) => tracing::error!("{error:#}"),
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RESTART_PAUSE) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }
}

/// Waits for a process that is not this one's child to end.
async fn gone(pid: u32, shutdown: &Shutdown) {
    let path = PathBuf::from(format!("/proc/{pid}"));
    while path.exists() && !shutdown.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Waits until the runtime answers.
pub async fn ready() -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        match super::command::run("ctr", &["--address", SOCKET, "version"]).await {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > START_TIMEOUT => bail!("containerd does not answer: {error:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
