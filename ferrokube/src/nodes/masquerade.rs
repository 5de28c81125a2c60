//! The way out for pods of a node that is a machine of its own: what leaves the cluster goes under the machine's address.
//!
//! Nodes and pods see each other's own addresses, since every node has routes to all pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use client::{Informer, Queue, Shutdown};
use k8s_openapi::api::core::v1::Node;

use super::command::{feed, run};
use super::routes::route_of;

const TABLE: &str = "ferrokube-node";
/// A failed change is tried again after this long.
const RETRY: Duration = Duration::from_secs(5);

/// The rules; `inside` are addresses beside the pods' that know the way back.
fn rules(pods: &str, inside: &BTreeSet<IpAddr>) -> String {
    let inside: String = inside.iter().filter(|address| address.is_ipv4()).map(|address| format!(", {address}")).collect();
    format!(
        "table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n chain out {{\n  type nat hook postrouting priority srcnat;\n  \
         ip saddr {pods} ip daddr != {{ {pods}{inside} }} fib daddr type != local masquerade\n }}\n}}\n"
    )
}

/// Keeps the rules until shutdown. `server` is the cluster's machine, which knows the way to pods though it may be no node.
pub async fn follow(nodes: Informer<Node>, pods: String, server: Option<IpAddr>, shutdown: Shutdown) {
    let queue = Queue::<()>::default();
    let trigger = queue.clone();
    nodes.on_change(move |_| trigger.add(()));
    nodes.synced().await;
    let mut present = String::new();
    loop {
        tokio::select! {
            next = queue.next() => if next.is_none() { return },
            () = shutdown.cancelled() => return,
        }
        let list = nodes.list();
        let inside = list.iter().filter_map(|node| route_of(node)).map(|(_, address)| address).chain(server).collect();
        let wanted = rules(&pods, &inside);
        if wanted != present {
            match feed("nft", &["-f", "-"], &wanted).await {
                Ok(_) => present = wanted,
                Err(error) => {
                    tracing::warn!(%error, "pods cannot reach beyond the cluster, trying again");
                    queue.add_after((), RETRY);
                }
            }
        }
        queue.done(&());
    }
}

/// Takes the rules away.
pub async fn remove() -> anyhow::Result<()> {
    if run("nft", &["list", "table", "ip", TABLE]).await.is_ok() {
        run("nft", &["delete", "table", "ip", TABLE]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_in_the_cluster_keeps_its_address() {
        let inside = BTreeSet::from(["10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]);
        let text = rules("10.244.0.0/16", &inside);
        assert!(text.contains("ip saddr 10.244.0.0/16 ip daddr != { 10.244.0.0/16, 10.0.0.1, 10.0.0.2 }"), "{text}");
    }
}
