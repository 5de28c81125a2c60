//! What nodes need of the machine's network: a bridge, a namespace and a cable for each node, a way out.
//!
//! Everything has the cluster's own names, so that taking it down touches nothing else.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::command::{feed, run};
use super::{Host, Layout, SLOTS, slot_file};

/// Claims a slot for the cluster in `data_dir`, the same as last time if it had one, and makes its bridge.
///
/// Two clusters cannot claim one slot: only one of them can create the bridge of that name.
pub async fn claim(data_dir: &Path) -> anyhow::Result<Layout> {
    let file = slot_file(data_dir);
    let known = match std::fs::read_to_string(&file) {
        Ok(text) => Some(text.trim().parse::<u8>().with_context(|| format!("{} does not hold a number", file.display()))?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| file.display().to_string()),
    };
    if let Some(slot) = known {
        let layout = Layout { data_dir: data_dir.to_owned(), slot };
        if !exists(&layout.bridge()) {
            run("ip", &["link", "add", &layout.bridge(), "type", "bridge"]).await?;
        }
        return Ok(layout);
    }
    for slot in 0..SLOTS {
        let layout = Layout { data_dir: data_dir.to_owned(), slot };
        if exists(&layout.bridge()) || run("ip", &["link", "add", &layout.bridge(), "type", "bridge"]).await.is_err() {
            continue;
        }
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&file, slot.to_string()).with_context(|| file.display().to_string())?;
        return Ok(layout);
    }
    bail!("no bridge could be made: fk0 to fk{} are taken, or this is not allowed here (are you root?)", SLOTS - 1)
}

/// Gives the bridge its address and the nodes a way out through this machine.
pub async fn prepare(layout: &Layout) -> anyhow::Result<()> {
    let bridge = layout.bridge();
    run("ip", &["addr", "replace", &format!("{}/24", layout.gateway()), "dev", &bridge]).await?;
    run("ip", &["link", "set", &bridge, "up"]).await?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forwarding between networks cannot be turned on")?;
    let rules = format!(
        "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n chain out {{\n  type nat hook postrouting priority srcnat;\n  ip saddr {{ {subnet}, {pods} }} ip daddr != {pods} oifname != \"{bridge}\" masquerade\n }}\n}}\n",
        table = table(layout),
        subnet = layout.subnet(),
        pods = layout.pod_cidr(),
    );
    if let Err(error) = feed("nft", &["-f", "-"], &rules).await {
        tracing::warn!(%error, "pods cannot reach beyond this machine");
    }
    Ok(())
}

fn table(layout: &Layout) -> String {
    format!("ferrokube-{}", layout.bridge())
}

/// Makes a node's namespace and plugs it into the bridge, unless it is there already.
pub async fn add(layout: &Layout, host: &Host) -> anyhow::Result<()> {
    if namespace(host).exists() {
        return Ok(());
    }
    run("ip", &["netns", "add", &host.netns]).await?;
    let batch = format!(
        "link add {port} type veth peer name eth0 netns {netns}\nlink set {port} master {bridge} up\n",
        port = host.port,
        netns = host.netns,
        bridge = layout.bridge(),
    );
    feed("ip", &["-batch", "-"], &batch).await?;
    let batch = format!(
        "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {gateway}\n",
        address = host.address,
        gateway = layout.gateway(),
    );
    feed("ip", &["-n", &host.netns, "-batch", "-"], &batch).await?;
    Ok(())
}

/// Where a node's network namespace can be opened.
pub fn namespace(host: &Host) -> PathBuf {
    Path::new("/run/netns").join(&host.netns)
}

/// Lets this machine reach the cluster's services through a node, unless something else uses those addresses already.
pub async fn route_services(service_cidr: &str, via: &Host) -> anyhow::Result<()> {
    let present = run("ip", &["route", "show", service_cidr]).await?;
    if present.trim().is_empty() {
        run("ip", &["route", "add", service_cidr, "via", &via.address.to_string()]).await?;
    }
    Ok(())
}

/// Unplugs a node. Its processes must have ended.
pub async fn remove(host: &Host) -> anyhow::Result<()> {
    if exists(&host.port) {
        run("ip", &["link", "del", &host.port]).await?;
    }
    if namespace(host).exists() {
        run("ip", &["netns", "del", &host.netns]).await?;
    }
    Ok(())
}

/// Takes away the bridge, and with it every route over it, and the way out.
pub async fn tear_down(layout: &Layout) -> anyhow::Result<()> {
    let table = table(layout);
    if run("nft", &["list", "table", "ip", &table]).await.is_ok() {
        run("nft", &["delete", "table", "ip", &table]).await?;
    }
    if exists(&layout.bridge()) {
        run("ip", &["link", "del", &layout.bridge()]).await?;
    }
    Ok(())
}

/// The address that this machine has towards another, if there is a way. Connecting a UDP socket sends nothing; it only chooses the route.
pub fn address_towards(other: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if other.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((other, 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

fn exists(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).exists()
}
