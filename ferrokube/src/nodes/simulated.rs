//! Nodes whose pods run in memory only: the same kubelet, behind it a runtime that starts nothing. They show what a large cluster does,
//! and take neither root nor a container runtime.
//!
//! A simulated node has the capacity of this machine. Its kubelet serves nothing, so there are no logs and no commands.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use apiserver::api::Api;
use apiserver::{in_process, threads};
use client::Shutdown;
use kubelet::Config;
use kubelet::cri::fake::{Fake, Simulation};
use tokio::task::JoinSet;

/// Each is a kubelet in this process, with what it watches.
pub const MAX_SIMULATED: u32 = 2000;
/// Tells them from nodes that run something.
pub const LABEL: &str = "ferrokube.io/simulated";
/// The first of the nodes' addresses, from the range for benchmarks (RFC 2544).
const FIRST_NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The first of the pods' addresses. Each node has 256, of which the first two are nobody's.
const FIRST_POD: Ipv4Addr = Ipv4Addr::new(10, 192, 0, 2);

/// Runs the nodes `simulated-1` to `simulated-COUNT` until shutdown; what they keep is below `directory`.
///
/// They stand for other machines, so their threads give way to those of the control plane.
///
/// # Errors
/// When the system has no thread left.
pub fn start(api: &Arc<Api>, directory: &Path, count: u32, shutdown: &Shutdown) -> io::Result<()> {
    if count == 0 {
        return Ok(());
    }
    let runtime = threads::giving_way("simulated-nodes")?;
    let mut nodes = JoinSet::new();
    for number in 1..=count {
        let config = config(directory, number);
        let name = config.node_name.clone();
        let client = in_process::client(api, in_process::node(&name), "kubelet");
        let shutdown = shutdown.clone();
        let node = async move {
            if let Err(error) = kubelet::run(client, config, shutdown).await {
                tracing::error!(node = name, %error, "a simulated node has ended");
            }
        };
        nodes.spawn_on(node, runtime.handle());
    }
    let run = move || {
        runtime.block_on(async { while nodes.join_next().await.is_some() {} });
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name("simulated-nodes".to_owned()).spawn(run)?;
    Ok(())
}

fn config(directory: &Path, number: u32) -> Config {
    let name = format!("simulated-{number}");
    let directory = directory.join(&name);
    let mut config = Config::new(&name);
    config.node_ips = vec![address(FIRST_NODE, number - 1).into()];
    config.node_labels = [(LABEL.to_owned(), "true".to_owned())].into();
    config.root_dir = directory.join("kubelet");
    config.container_logs_dir = directory.join("containers");
    config.plugins = false;
    config.runtime =
        Some(Arc::new(Fake::new(Simulation { first_address: address(FIRST_POD, (number - 1) << 8), ..Simulation::default() })));
    let settings = &mut config.configuration;
    settings.pod_logs_dir = directory.join("pods").display().to_string();
    settings.enable_server = false;
    // What the machine has or lacks is nothing to pods that use none of it.
    settings.eviction_hard = [("memory.available".to_owned(), "1Mi".to_owned())].into();
    settings.image_gc_high_threshold_percent = 100;
    config
}

fn address(first: Ipv4Addr, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + offset)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nodes_and_their_pods_have_addresses_of_their_own() {
        let node = |number| address(FIRST_NODE, number - 1);
        let pods = |number: u32| address(FIRST_POD, (number - 1) << 8);
        assert_eq!((node(1), node(300)), (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 1, 44)));
        assert_eq!((pods(1), pods(300)), (Ipv4Addr::new(10, 192, 0, 2), Ipv4Addr::new(10, 193, 43, 2)));
        assert!(pods(MAX_SIMULATED).octets()[0] == 10 && node(MAX_SIMULATED).octets()[1] <= 19);
        assert_eq!((1..=MAX_SIMULATED).map(pods).collect::<HashSet<_>>().len(), MAX_SIMULATED as usize);
        assert_eq!(config(Path::new("/d"), 7).root_dir, Path::new("/d/simulated-7/kubelet"));
    }
}
