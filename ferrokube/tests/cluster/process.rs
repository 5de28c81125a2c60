//! A `ferrokube up` process for a test, on a free port and a data directory of its own; killed when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A start takes far less; a loaded machine may take longer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Cluster {
    child: Child,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts on a data directory and waits until the kubeconfig of this start is there.
    pub fn start(data_dir: &Path) -> Cluster {
        Cluster::start_with(data_dir, &[])
    }

    /// The same with more flags.
    pub fn start_with(data_dir: &Path, flags: &[&str]) -> Cluster {
        Cluster::run(data_dir, &["up", "--nodes", "0"], flags)
    }

    /// An API server and nothing else.
    pub fn api_server(data_dir: &Path) -> Cluster {
        Cluster::api_server_with(data_dir, &[])
    }

    /// The same with more flags.
    pub fn api_server_with(data_dir: &Path, flags: &[&str]) -> Cluster {
        Cluster::run(data_dir, &["apiserver"], flags)
    }

    fn run(data_dir: &Path, command: &[&str], flags: &[&str]) -> Cluster {
        let kubeconfig = data_dir.join("kubeconfig");
        let _ = std::fs::remove_file(&kubeconfig);
        let child = Command::new(env!("CARGO_BIN_EXE_ferrokube"))
            .args(command)
            .args(["--bind-address", "127.0.0.1", "--secure-port", "0", "--data-dir"])
            .arg(data_dir)
            .args(flags)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let mut cluster = Cluster { child, kubeconfig };
        let deadline = Instant::now() + START_TIMEOUT;
        while !cluster.kubeconfig.exists() {
            assert!(cluster.child.try_wait().expect("the child can be asked").is_none(), "the control plane ended early");
            assert!(Instant::now() < deadline, "the control plane did not start in time");
            std::thread::sleep(Duration::from_millis(10));
        }
        cluster
    }

    /// A client with the administrator's certificate.
    pub async fn client(&self) -> Client {
        Client::try_from(self.config().await).expect("a client")
    }

    /// The same, but it takes the first answer for the answer, even if it is that the server is busy.
    pub async fn impatient_client(&self) -> Client {
        let mut config = self.config().await;
        config.default_retry = false;
        Client::try_from(config).expect("a client")
    }

    /// What the administrator's client is made of.
    pub async fn administrator(&self) -> Config {
        self.config().await
    }

    async fn config(&self) -> Config {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a usable kubeconfig")
    }

    /// The way to the API server, with nobody's credentials.
    pub async fn anonymous(&self) -> Config {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a usable kubeconfig");
        config.auth_info = kube::config::AuthInfo::default();
        config
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The memory that the process has now.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory is known");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// SIGTERM, and whether it ended well.
    pub fn stop(mut self) -> bool {
        terminate(&self.child);
        self.child.wait().expect("the process can be waited for").success()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process can be waited for");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One component beside an API server, started under upstream's name for it; killed when dropped.
pub struct Component {
    child: Child,
}

impl Component {
    /// `directory` is where the link of that name is made.
    pub fn start(directory: &Path, name: &str, flags: &[&str]) -> Component {
        let link = directory.join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ferrokube"), &link).expect("a link to the binary");
        let child = Command::new(link).args(flags).env("RUST_LOG", "warn").stdin(Stdio::null()).spawn().expect("the binary starts");
        Component { child }
    }

    /// Waits for its end, and says whether it ended well.
    pub fn wait(mut self) -> bool {
        self.child.wait().expect("the process can be waited for").success()
    }

    /// SIGTERM, and whether it ended well.
    pub fn stop(mut self) -> bool {
        terminate(&self.child);
        self.child.wait().expect("the process can be waited for").success()
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn terminate(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the process can be told to end");
}
