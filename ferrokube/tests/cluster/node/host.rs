//! A cluster with nodes for a test, and what it leaves on the machine.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A `ferrokube up` with nodes; taken down when dropped.
pub struct Host {
    child: Child,
    data_dir: PathBuf,
    /// How it was started, but for the data directory.
    arguments: Vec<String>,
}

impl Host {
    pub fn start(data_dir: &Path, nodes: u32) -> Host {
        Host::start_with(data_dir, nodes, &[])
    }

    /// The same with more flags.
    pub fn start_with(data_dir: &Path, nodes: u32, flags: &[&str]) -> Host {
        let port = std::net::TcpListener::bind("0.0.0.0:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        // The machine has one route to the services of a range: another cluster may have that to the usual one.
        let services = format!("10.{}.0.0/16", 100 + port % 100);
        let (port, nodes) = (port.to_string(), nodes.to_string());
        let own = ["up", "--secure-port", &port, "--nodes", &nodes, "--service-cluster-ip-range", &services];
        let arguments: Vec<String> = own.iter().chain(flags).map(|word| (*word).to_owned()).collect();
        let child = Host::run(data_dir, &arguments);
        let mut host = Host { child, data_dir: data_dir.to_owned(), arguments };
        host.wait_for_start();
        host
    }

    fn run(data_dir: &Path, arguments: &[String]) -> Child {
        // That of an earlier start would pass for this one's.
        let _ = std::fs::remove_file(data_dir.join("kubeconfig"));
        Command::new(env!("CARGO_BIN_EXE_ferrokube"))
            .args(arguments)
            .arg("--data-dir")
            .arg(data_dir)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary starts")
    }

    fn wait_for_start(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.data_dir.join("kubeconfig").exists() || !self.data_dir.join("nodes/slot").exists() {
            assert!(self.child.try_wait().expect("the child can be asked").is_none(), "the cluster ended early");
            assert!(Instant::now() < deadline, "the cluster did not start in time");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9` of the cluster's process.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process can be waited for");
    }

    /// The same cluster once more, after it was killed.
    pub fn start_again(&mut self) {
        self.child = Host::run(&self.data_dir, &self.arguments);
        self.wait_for_start();
    }

    /// Processes of one name in a part of a node's cgroup.
    pub fn processes(&self, node: &str, part: &str, name: &str) -> Vec<u32> {
        let cgroup = format!("ferrokube/fk{}/{node}/{part}/cgroup.procs", self.slot());
        let files = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|root| Path::new(root).join(&cgroup));
        let text = files.iter().find_map(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        let is_named = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
        text.lines().filter_map(|line| line.parse().ok()).filter(is_named).collect()
    }

    /// `kill -9` of one of [`Host::processes`].
    pub fn kill_process(&self, pid: u32) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process id"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("the process can be killed");
    }

    pub async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.data_dir.join("kubeconfig")).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a usable kubeconfig");
        Client::try_from(config).expect("a client")
    }

    /// The cluster's bridge between its nodes.
    pub fn bridge(&self) -> String {
        format!("fk{}", self.slot())
    }

    /// `ferrokube token create --print-join-command`: the arguments after `ferrokube join`.
    pub fn join_arguments(&self, token: &str) -> Vec<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_ferrokube"))
            .args(["token", "create", token, "--print-join-command", "--data-dir"])
            .arg(&self.data_dir)
            .output()
            .expect("the binary starts");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "no token: {}", String::from_utf8_lossy(&output.stderr));
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        assert_eq!(words[..2], ["ferrokube", "join"], "{text}");
        words[2..].to_vec()
    }

    fn slot(&self) -> u8 {
        std::fs::read_to_string(self.data_dir.join("nodes/slot")).expect("a slot").trim().parse().expect("a number")
    }

    /// The machine's address on the cluster's bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.slot(), 1)
    }

    /// The address of the nth node.
    pub fn node(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.slot(), 10 + n)
    }

    /// Stops every process of a node where it is.
    pub fn freeze(&self, node: &str) -> Frozen {
        let cgroup = format!("ferrokube/fk{}/{node}", self.slot());
        let frozen = if Path::new("/sys/fs/cgroup/freezer").exists() {
            Frozen { file: Path::new("/sys/fs/cgroup/freezer").join(cgroup).join("freezer.state"), frozen: "FROZEN", thawed: "THAWED" }
        } else {
            Frozen { file: Path::new("/sys/fs/cgroup").join(cgroup).join("cgroup.freeze"), frozen: "1", thawed: "0" }
        };
        std::fs::write(&frozen.file, frozen.frozen).expect("the node is frozen");
        frozen
    }

    /// `ferrokube down`.
    pub fn down(&mut self) {
        let status = Command::new(env!("CARGO_BIN_EXE_ferrokube"))
            .args(["down", "--data-dir"])
            .arg(&self.data_dir)
            .env("RUST_LOG", "warn")
            .status()
            .expect("the binary starts");
        assert!(status.success(), "down failed");
        assert!(self.child.wait().expect("the child can be waited for").success(), "up did not end well");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        // A test that failed must not leave a cluster behind; what it says is about its own failure.
        let _ = Command::new(env!("CARGO_BIN_EXE_ferrokube")).args(["down", "--data-dir"]).arg(&self.data_dir).status();
        let _ = self.child.wait();
    }
}

/// A node whose processes do nothing; they go on when this is dropped, so that they can be ended.
pub struct Frozen {
    file: PathBuf,
    frozen: &'static str,
    thawed: &'static str,
}

impl Frozen {
    pub fn thaw(self) {}
}

impl Drop for Frozen {
    fn drop(&mut self) {
        std::fs::write(&self.file, self.thawed).expect("the node goes on");
    }
}

/// What the machine has of the things that a cluster makes. Equal before and after, nothing is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    links: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    mounts: BTreeSet<String>,
    /// Runtimes and their shims: the process id, and the cgroup that it is in.
    runtimes: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    rules: BTreeSet<String>,
}

impl Inventory {
    pub fn take() -> Inventory {
        let output = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().expect("the program is there");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let names = |directory: &str| {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<BTreeSet<_>>()
        };
        // One that has ended has no command line, and stays in the table until init asks how it ended.
        let runtime = |pid: &String| {
            let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let is_runtime = read("comm").starts_with("containerd") && !read("cmdline").is_empty();
            is_runtime.then(|| format!("{pid} {}", read("cgroup").lines().next().unwrap_or("/")))
        };
        let mut mounts = lines(&std::fs::read_to_string("/proc/self/mounts").expect("mounts"));
        // Where names of network namespaces are kept: whoever makes the first one on a machine mounts it, for good.
        mounts.retain(|mount| mount.split(' ').nth(1) != Some("/run/netns"));
        Inventory {
            links: names("/sys/class/net"),
            namespaces: names("/run/netns"),
            mounts,
            runtimes: names("/proc").iter().filter_map(runtime).collect(),
            cgroups: names("/sys/fs/cgroup/pids/ferrokube").into_iter().chain(names("/sys/fs/cgroup/ferrokube")).collect(),
            rules: lines(&output("nft", &["list", "tables"])),
        }
    }

    /// Fails if anything is left since this was taken. What carries another cluster's name is not this test's: others may run beside it.
    pub fn assert_restored(&self, host: &Host) {
        assert_eq!(Inventory::take().without_others(host), self.clone().without_others(host));
    }

    fn without_others(mut self, host: &Host) -> Inventory {
        let own = host.bridge();
        for names in [&mut self.links, &mut self.namespaces, &mut self.mounts, &mut self.runtimes, &mut self.cgroups, &mut self.rules] {
            names.retain(|name| cluster_of(name).is_none_or(|cluster| cluster == own));
        }
        // The folder of all clusters has files of its own.
        self.cgroups.retain(|name| cluster_of(name).is_some() || name.starts_with("join-"));
        self
    }
}

/// The cluster that a name is made of, such as `fk3` in `fk3-node-1` or `/ferrokube/fk3/node-1`.
fn cluster_of(name: &str) -> Option<&str> {
    let at = name.match_indices("fk").map(|(at, _)| at).find(|at| *at == 0 || name[..*at].ends_with(['/', '-', ' ']))?;
    let digits = name[at + 2..].bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| &name[at..at + 2 + digits])
}
