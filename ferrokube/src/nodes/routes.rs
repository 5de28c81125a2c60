//! Routes to the pods of other nodes, as the nodes' objects tell them. One route a node, through the node's own address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Object, Queue, Shutdown};
use k8s_openapi::api::core::v1::Node;

use super::command::run;
use super::simulated;

/// A failed change is tried again after this long.
const RETRY: Duration = Duration::from_secs(2);

/// What marks a node's own routes among the machine's, so that they can be taken away together; the kernel gives it no meaning.
pub const PROTOCOL: &str = "197";

/// Whose routes, and how nodes are reached that are not in the same network.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// The node that needs no route to itself.
    pub own: Option<String>,
    /// Who forwards to nodes that cannot be reached directly.
    pub gateway: Option<IpAddr>,
    /// See [`PROTOCOL`].
    pub protocol: Option<&'static str>,
}

/// What a node says of itself: the range of its pods and the address that they are behind. Pods in memory cannot be reached.
pub fn route_of(node: &Node) -> Option<(String, IpAddr)> {
    if node.label(simulated::LABEL).is_some() {
        return None;
    }
    let range = node.spec.as_ref()?.pod_cidr.clone()?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let address = addresses.iter().find(|a| a.type_ == "InternalIP")?.address.parse().ok()?;
    Some((range, address))
}

/// Keeps this network namespace's routes to all nodes but its own until shutdown.
pub async fn follow(nodes: Informer<Node>, way: Way, shutdown: Shutdown) {
    let queue = Queue::<()>::default();
    let trigger = queue.clone();
    nodes.on_change(move |change| {
        let route = |node: &Arc<Node>| route_of(node);
        if change.old().is_none_or(|old| route(old) != route(change.object())) || matches!(change, client::Change::Deleted(_)) {
            trigger.add(());
        }
    });
    nodes.synced().await;
    let mut present: BTreeMap<String, IpAddr> = BTreeMap::new();
    loop {
        tokio::select! {
            next = queue.next() => if next.is_none() { return },
            () = shutdown.cancelled() => return,
        }
        let list = nodes.list();
        let wanted: BTreeMap<String, IpAddr> =
            list.iter().filter(|node| Some(node.name()) != way.own.as_deref()).filter_map(|node| route_of(node)).collect();
        if let Err(error) = change(&way, &mut present, &wanted).await {
            tracing::warn!(%error, "routes to other nodes are incomplete, trying again");
            queue.add_after((), RETRY);
        }
        queue.done(&());
    }
}

async fn change(way: &Way, present: &mut BTreeMap<String, IpAddr>, wanted: &BTreeMap<String, IpAddr>) -> anyhow::Result<()> {
    for (range, address) in wanted {
        if present.get(range) != Some(address) {
            way.lead(range, *address).await?;
            present.insert(range.clone(), *address);
        }
    }
    let gone: Vec<String> = present.keys().filter(|range| !wanted.contains_key(*range)).cloned().collect();
    for range in gone {
        // The bridge may have gone, and its routes with it.
        let _ = run("ip", &["route", "del", &range]).await;
        present.remove(&range);
    }
    Ok(())
}

impl Way {
    /// Leads packets for the range to the node that it is behind: directly, or else by the gateway, which then leads to the node too.
    async fn lead(&self, range: &str, address: IpAddr) -> anyhow::Result<()> {
        let refused = match self.replace(range, address).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let Some(gateway) = self.gateway.filter(|gateway| *gateway != address) else { return Err(refused) };
        self.replace(range, gateway).await?;
        self.replace(&address.to_string(), gateway).await
    }

    /// Makes or changes one route.
    pub async fn replace(&self, range: &str, via: IpAddr) -> anyhow::Result<()> {
        let via = via.to_string();
        let mut arguments = vec!["route", "replace", range, "via", &via];
        if let Some(protocol) = self.protocol {
            arguments.extend(["proto", protocol]);
        }
        run("ip", &arguments).await.map(drop)
    }
}
