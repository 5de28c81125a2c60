//! Where a node is: what a process must enter to be part of it.
//!
//! A node that shares a machine with others has a network, a name and a `/run` of its own; one that is a whole machine has that
//! machine's. Both have mounts of their own over the places where kubelet and runtime expect theirs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use super::containerd::Runtime;
use super::mounts;

/// The place of one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Site {
    pub name: String,
    /// The namespace that is the node's network; the machine's own if there is none, and then the node is the whole machine.
    pub netns: Option<PathBuf>,
    pub directory: PathBuf,
    pub cgroup: String,
    pub registries: PathBuf,
}

/// What every node's network must do.
const FORWARDING: [(&str, &str); 2] = [("ipv4/ip_forward", "1"), ("bridge/bridge-nf-call-iptables", "1")];

/// Kernel settings of a network namespace that is the node's alone. One that a kernel does not have is left out.
const NETWORK_SETTINGS: [(&str, &str); 3] =
    [("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0"), ("ipv4/ip_unprivileged_port_start", "0")];

impl Site {
    /// Makes this process one of the node: in the namespaces that its runtime has, or in new ones if none runs. The process must have
    /// no other thread yet.
    pub fn enter(&self) -> anyhow::Result<()> {
        if let Some(netns) = &self.netns {
            join(netns, CloneFlags::CLONE_NEWNET)?;
        }
        let Some(pid) = self.runtime().running() else { return self.make() };
        if self.netns.is_some() {
            join(&PathBuf::from(format!("/proc/{pid}/ns/uts")), CloneFlags::CLONE_NEWUTS)?;
        }
        join(&PathBuf::from(format!("/proc/{pid}/ns/mnt")), CloneFlags::CLONE_NEWNS)?;
        std::env::set_current_dir("/").context("/")
    }

    /// Makes the node's own mounts, and its name if it shares a machine, before its runtime starts.
    fn make(&self) -> anyhow::Result<()> {
        fs::copy(resolvers(), self.resolv_conf()).context("the machine's resolvers")?;
        unshare(CloneFlags::CLONE_NEWNS).context("a node needs mounts of its own; are you root?")?;
        if self.netns.is_some() {
            unshare(CloneFlags::CLONE_NEWUTS).context("a node needs a name of its own")?;
            nix::unistd::sethostname(&self.name).context("the node's name")?;
            mounts::enter(&self.directory, mounts::Run::Own)?;
            set(&NETWORK_SETTINGS);
        } else {
            mounts::enter(&self.directory, mounts::Run::Machines)?;
        }
        set(&FORWARDING);
        Ok(())
    }

    pub fn runtime(&self) -> Runtime {
        Runtime { directory: self.directory.clone(), registries: self.registries.clone(), cgroup: self.cgroup.clone() }
    }

    pub fn resolv_conf(&self) -> PathBuf {
        self.directory.join("resolv.conf")
    }
}

/// The file that names the machine's real resolvers: one behind a stub on loopback cannot be reached from a node.
fn resolvers() -> &'static str {
    let systemd = "/run/systemd/resolve/resolv.conf";
    if Path::new(systemd).exists() { systemd } else { "/etc/resolv.conf" }
}

fn join(namespace: &Path, kind: CloneFlags) -> anyhow::Result<()> {
    let file = File::open(namespace).with_context(|| namespace.display().to_string())?;
    setns(file, kind).with_context(|| format!("entering {}", namespace.display()))
}

/// Sets what the kernel has of these.
fn set(settings: &[(&str, &str)]) {
    for (setting, value) in settings {
        if let Err(error) = fs::write(Path::new("/proc/sys/net").join(setting), value) {
            tracing::debug!(setting, %error, "not set");
        }
    }
}
