//! The machine that this kubelet runs on: how much it has, and what it is.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use crate::container_config::Node;

/// What the node's status tells of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpus: i64,
    pub memory_bytes: i64,
    /// The file system of the kubelet's directory.
    pub storage_bytes: i64,
    /// Sizes of huge pages as resources name them, and how many bytes of each there are.
    pub huge_pages: Vec<(String, i64)>,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    pub swap_bytes: i64,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

impl Machine {
    /// Looks around. Blocking, short.
    pub fn discover(root_dir: &Path, facts: &Node) -> Machine {
        let machine_id = read("/etc/machine-id");
        let uuid = read("/sys/class/dmi/id/product_uuid").to_lowercase();
        let storage = nix::sys::statvfs::statvfs(root_dir).map(|fs| fs.blocks() * fs.fragment_size()).unwrap_or(0);
        Machine {
            cpus: cpus(&read("/proc/cpuinfo")),
            memory_bytes: facts.memory_capacity,
            storage_bytes: i64::try_from(storage).unwrap_or(i64::MAX),
            huge_pages: huge_pages(),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            os_image: os_image(&read("/etc/os-release")),
            swap_bytes: swap(&read("/proc/meminfo")),
        }
    }
}

fn cpus(cpuinfo: &str) -> i64 {
    let listed = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    i64::try_from(listed.max(1)).unwrap_or(1)
}

fn os_image(release: &str) -> String {
    let line = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Unknown".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn swap(meminfo: &str) -> i64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("SwapTotal:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<i64>().ok()).unwrap_or(0) * 1024
}

/// `hugepages-2048kB` in the kernel is `hugepages-2Mi` in a pod.
fn huge_pages() -> Vec<(String, i64)> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut found: Vec<(String, i64)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let kib: i64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count: i64 = read(&format!("/sys/kernel/mm/hugepages/{name}/nr_hugepages")).parse().unwrap_or(0);
            let size = apimachinery::quantity::Quantity::new(kib * 1024, apimachinery::quantity::Format::BinarySi).canonical();
            Some((format!("hugepages-{size}"), kib * 1024 * count))
        })
        .collect();
    found.sort();
    found
}

/// The address that this host has towards others.
pub fn own_address() -> Option<IpAddr> {
    // Nothing is sent: connecting only chooses a route. The address is one of documentation.
    let towards = |to: &str, from: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    let routed = towards("192.0.2.1:9", "0.0.0.0:0").or_else(|| towards("[2001:db8::1]:9", "[::]:0"));
    routed.or_else(|| {
        let addresses = nix::ifaddrs::getifaddrs().ok()?;
        let mut ips = addresses.filter_map(|interface| {
            let address = interface.address?;
            let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
            four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
        });
        ips.find(|ip| !ip.is_loopback() && !matches!(ip, IpAddr::V6(six) if six.is_unicast_link_local()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_the_kernel_and_the_distribution_write_them() {
        assert_eq!(cpus("processor\t: 0\nmodel: x\nprocessor\t: 1\n"), 2);
        assert_eq!(os_image("NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(swap("SwapTotal:  2 kB\n"), 2048);
    }
}
