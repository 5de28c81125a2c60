//! The registry that nodes on this machine pull from, and how they come to know it. Never reachable from other machines: it listens on
//! the cluster's own bridge.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use tokio::process::Command;

use crate::bench::process::Process;

/// The registry that the suite's images are published in, and that ours stands in for.
const STANDS_IN_FOR: &str = "registry.k8s.io";

/// A running registry; it ends with this value.
pub struct Registry {
    process: Process,
    /// Host and port, as clients name it.
    pub address: String,
}

impl Registry {
    /// Serves what lies in `directory`.
    pub async fn start(directory: &Path, host: IpAddr, port: u16) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let address = std::net::SocketAddr::new(host, port).to_string();
        let file = directory.join("registry.yml");
        std::fs::write(&file, configuration(directory, &address))?;
        let arguments = ["serve".to_owned(), file.display().to_string()];
        let mut process = Process::start(Path::new("docker-registry"), arguments, directory.join("registry.log"))?;
        process.listening(&address).await?;
        Ok(Self { process, address })
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.stop().await
    }

    /// Fills it with the suite's images, unless it has them.
    pub async fn fill(&self, builder: &Path, tools: &Path, work: &Path) -> anyhow::Result<()> {
        let status = Command::new(builder).arg(tools).arg(work).arg(&self.address).kill_on_drop(true).status().await;
        ensure!(status.with_context(|| builder.display().to_string())?.success(), "the images could not be made");
        Ok(())
    }

    /// Tells a cluster's nodes where its images are. containerd reads this at each pull.
    pub fn tell_nodes(&self, data_dir: &Path) -> anyhow::Result<()> {
        let directory = data_dir.join("certs.d").join(STANDS_IN_FOR);
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        std::fs::write(directory.join("hosts.toml"), hosts(&self.address)).with_context(|| directory.display().to_string())
    }
}

fn configuration(directory: &Path, address: &str) -> String {
    let storage = directory.join("images");
    format!(
        "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {:?} }} }}\nhttp: {{ addr: \"{address}\" }}\n",
        storage.display().to_string()
    )
}

fn hosts(address: &str) -> String {
    format!("server = \"https://{STANDS_IN_FOR}\"\n\n[host.\"http://{address}\"]\ncapabilities = [\"pull\", \"resolve\"]\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_told_to_ask_ours_first_and_the_published_one_then() {
        assert_eq!(
            hosts("172.30.0.1:5000"),
            "server = \"https://registry.k8s.io\"\n\n[host.\"http://172.30.0.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
    }

    #[test]
    fn the_registry_listens_at_the_address_alone() {
        let text = configuration(Path::new("/tmp/a b"), "127.0.0.1:1");
        assert!(text.contains("rootdirectory: \"/tmp/a b/images\"") && text.contains("addr: \"127.0.0.1:1\""), "{text}");
    }
}
