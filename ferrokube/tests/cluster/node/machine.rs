//! A second machine for tests: a network namespace on the cluster's bridge, and mounts of its own. What runs there knows no better.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::host::Host;

pub struct Machine {
    netns: String,
    port: String,
    data_dir: PathBuf,
    node: Option<Child>,
}

/// The address in the same network with another last part.
fn sibling(address: Ipv4Addr, last: u8) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, last)
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split_whitespace()).output().expect("ip is there");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Machine {
    /// One with this last part of its address, plugged into the cluster's bridge.
    pub fn new(host: &Host, data_dir: &Path, last: u8) -> Machine {
        let (bridge, gateway) = (host.bridge(), host.gateway());
        let machine = Machine::plugged(&format!("{bridge}-m{last}"), data_dir, sibling(gateway, last));
        ip(&format!("link set {} master {bridge} up", machine.port));
        ip(&format!("-n {} route add default via {gateway}", machine.netns));
        machine
    }

    /// One with a cable to this machine's address `other`, and no way to anything else.
    pub fn apart(host: &Host, data_dir: &Path, other: Ipv4Addr) -> Machine {
        let machine = Machine::plugged(&format!("{}-apart", host.bridge()), data_dir, sibling(other, 2));
        ip(&format!("addr add {other}/24 dev {}", machine.port));
        ip(&format!("link set {} up", machine.port));
        machine
    }

    fn plugged(port: &str, data_dir: &Path, address: Ipv4Addr) -> Machine {
        let machine = Machine { netns: port.to_owned(), port: port.to_owned(), data_dir: data_dir.to_owned(), node: None };
        ip(&format!("netns add {port}"));
        ip(&format!("link add {port} type veth peer name eth0 netns {port}"));
        ip(&format!("-n {port} link set lo up"));
        ip(&format!("-n {port} addr add {address}/24 dev eth0"));
        ip(&format!("-n {port} link set eth0 up"));
        machine
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.netns))
            .args(["unshare", "--mount", "--propagation", "private", env!("CARGO_BIN_EXE_ferrokube")])
            .env("RUST_LOG", "info")
            .stdin(Stdio::null());
        command
    }

    fn log(&self) -> std::fs::File {
        std::fs::create_dir_all(&self.data_dir).expect("a directory");
        std::fs::OpenOptions::new().create(true).append(true).open(self.data_dir.join("join.log")).expect("a log")
    }

    /// `ferrokube join` with these arguments.
    pub fn join(&mut self, name: &str, arguments: &[String]) {
        let mut command = self.command();
        command.arg("join").args(arguments).args(["--node-name", name, "--data-dir"]).arg(&self.data_dir);
        self.node = Some(command.stdout(self.log()).stderr(self.log()).spawn().expect("the binary starts"));
    }

    /// What the node says, for those who wonder why it is not there.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("join.log")).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut node = self.node.take().expect("a node runs");
        node.kill().expect("the process can be killed");
        node.wait().expect("the process can be waited for");
    }

    /// Waits for the end of `ferrokube join`, and says whether it ended well.
    pub fn wait(&mut self) -> bool {
        self.node.take().expect("a node runs").wait().expect("the process can be waited for").success()
    }

    /// `ferrokube down`: the node ends for good.
    pub fn down(&mut self) {
        let status = self.command().args(["down", "--data-dir"]).arg(&self.data_dir).status().expect("the binary starts");
        assert!(status.success(), "down failed");
        if let Some(mut node) = self.node.take() {
            assert!(node.wait().expect("the process can be waited for").success(), "join did not end well: {}", self.said());
        }
    }

    /// What a node may have left: rules and chains of the packet filter, but for the empty built-in ones, routes and links.
    pub fn leftovers(&self) -> Vec<String> {
        let run = |program: &str, arguments: &[&str]| {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{}", self.netns)).arg(program).args(arguments);
            String::from_utf8_lossy(&command.output().expect("the program is there").stdout).into_owned()
        };
        let is_built_in = |line: &&str| line.starts_with(['#', '*']) || *line == "COMMIT" || line.contains(" ACCEPT [");
        let rules = run("iptables-save", &[]) + &run("ip6tables-save", &[]);
        let others = run("nft", &["list", "tables"]);
        let others = others.lines().filter(|line| line.contains("ferrokube") || line.contains("kube-proxy"));
        let network = run("ip", &["route"]) + &run("ip", &["-o", "link"]);
        rules.lines().filter(|line| !is_built_in(line)).chain(others).chain(network.lines()).map(str::to_owned).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.node.is_some() || self.data_dir.join("join.json").exists() {
            // A test that failed must not leave a node behind; what it says is about its own failure.
            let _ = self.command().args(["down", "--data-dir"]).arg(&self.data_dir).status();
            if let Some(mut node) = self.node.take() {
                let _ = node.kill();
                let _ = node.wait();
            }
        }
        let _ = Command::new("ip").args(["link", "del", &self.port]).status();
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}
