//! The machine's CPUs, as `/sys` shows them: which share a core, a cache, a NUMA node, a socket; and what memory the nodes have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::set::CpuSet;

/// Where a CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The lowest CPU of the core.
    pub core: usize,
    pub socket: usize,
    pub node: usize,
    /// The last cache that not all of the node share; without one, the socket.
    pub uncore: usize,
}

/// One NUMA node beside its CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// To all nodes, in their order.
    pub distances: Vec<u64>,
    pub memory_bytes: u64,
    /// Bytes of huge pages by their size in KiB.
    pub huge_pages: BTreeMap<u64, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus {
    places: BTreeMap<usize, Place>,
    pub nodes: BTreeMap<usize, Node>,
}

fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &Path) -> Option<usize> {
    text(path)?.parse().ok()
}

fn list(path: &Path) -> Option<CpuSet> {
    CpuSet::parse(&text(path)?).ok()
}

/// The numbers of entries such as `cpu12`.
fn numbered(directory: &Path, prefix: &str) -> BTreeSet<usize> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()).collect()
}

impl Cpus {
    /// Looks around below `sys` (`/sys`). A machine that shows no NUMA nodes is one. Blocking, short.
    pub fn discover(sys: &Path, memory_bytes: u64) -> Cpus {
        let (cpu_dir, node_dir) = (sys.join("devices/system/cpu"), sys.join("devices/system/node"));
        let mut nodes = BTreeMap::new();
        let mut node_of = BTreeMap::new();
        for node in numbered(&node_dir, "node") {
            let directory = node_dir.join(format!("node{node}"));
            node_of.extend(list(&directory.join("cpulist")).unwrap_or_default().iter().map(|cpu| (cpu, node)));
            nodes.insert(node, read_node(&directory));
        }
        if nodes.is_empty() {
            nodes.insert(0, Node { distances: vec![10], memory_bytes, ..Node::default() });
        }
        let mut places = BTreeMap::new();
        for cpu in numbered(&cpu_dir, "cpu") {
            let directory = cpu_dir.join(format!("cpu{cpu}"));
            // One that is off has no topology.
            let Some(siblings) = list(&directory.join("topology/thread_siblings_list")) else { continue };
            let socket = number(&directory.join("topology/physical_package_id")).unwrap_or(0);
            let core = siblings.iter().next().unwrap_or(cpu);
            let node = node_of.get(&cpu).copied().unwrap_or(0);
            places.insert(cpu, Place { core, socket, node, uncore: socket });
        }
        let mut cpus = Cpus { places, nodes };
        let in_node: BTreeMap<usize, usize> = cpus.nodes.keys().map(|node| (*node, cpus.in_nodes([*node]).len())).collect();
        for (cpu, place) in &mut cpus.places {
            let caches = cpu_dir.join(format!("cpu{cpu}/cache"));
            let shared_by_some = |index: usize| {
                let cache = caches.join(format!("index{index}"));
                let level = number(&cache.join("level"))?;
                let shared = list(&cache.join("shared_cpu_list"))?;
                let all = in_node.get(&place.node).copied();
                (level > 2 && Some(shared.len()) != all).then(|| number(&cache.join("id")))?
            };
            if let Some(uncore) = numbered(&caches, "index").into_iter().find_map(shared_by_some) {
                place.uncore = uncore;
            }
        }
        cpus
    }

    #[cfg(test)]
    pub fn of(places: BTreeMap<usize, Place>, nodes: BTreeMap<usize, Node>) -> Cpus {
        Cpus { places, nodes }
    }

    /// These alone.
    pub fn only(&self, cpus: &CpuSet) -> Cpus {
        let places = self.places.iter().filter(|(cpu, _)| cpus.has(**cpu)).map(|(cpu, place)| (*cpu, *place)).collect();
        Cpus { places, nodes: self.nodes.clone() }
    }

    pub fn place(&self, cpu: usize) -> Option<Place> {
        self.places.get(&cpu).copied()
    }

    pub fn all(&self) -> CpuSet {
        self.places.keys().copied().collect()
    }

    fn matching(&self, matches: impl Fn(&Place) -> bool) -> CpuSet {
        self.places.iter().filter(|(_, place)| matches(place)).map(|(cpu, _)| *cpu).collect()
    }

    pub fn in_core(&self, core: usize) -> CpuSet {
        self.matching(|place| place.core == core)
    }

    pub fn in_socket(&self, socket: usize) -> CpuSet {
        self.matching(|place| place.socket == socket)
    }

    pub fn in_uncore(&self, uncore: usize) -> CpuSet {
        self.matching(|place| place.uncore == uncore)
    }

    pub fn in_nodes(&self, nodes: impl IntoIterator<Item = usize>) -> CpuSet {
        let nodes: BTreeSet<usize> = nodes.into_iter().collect();
        self.matching(|place| nodes.contains(&place.node))
    }

    /// What the CPUs that match belong to, by one of the fields of their places.
    pub fn distinct(&self, of: impl Fn(&Place) -> usize, matches: impl Fn(&Place) -> bool) -> BTreeSet<usize> {
        self.places.values().filter(|place| matches(place)).map(of).collect()
    }

    pub fn numa_nodes(&self) -> Vec<usize> {
        self.distinct(|place| place.node, |_| true).into_iter().collect()
    }

    pub fn sockets(&self) -> BTreeSet<usize> {
        self.distinct(|place| place.socket, |_| true)
    }

    pub fn sockets_of_nodes(&self, nodes: &[usize]) -> BTreeSet<usize> {
        self.distinct(|place| place.socket, |place| nodes.contains(&place.node))
    }

    fn per(&self, count: usize) -> usize {
        self.places.len().checked_div(count).unwrap_or(0)
    }

    pub fn per_core(&self) -> usize {
        self.per(self.distinct(|place| place.core, |_| true).len())
    }

    pub fn per_socket(&self) -> usize {
        self.per(self.sockets().len())
    }

    pub fn per_uncore(&self) -> usize {
        self.per(self.distinct(|place| place.uncore, |_| true).len())
    }
}

fn read_node(directory: &Path) -> Node {
    let distances = text(&directory.join("distance")).unwrap_or_default();
    let distances = distances.split_whitespace().filter_map(|distance| distance.parse().ok()).collect();
    let meminfo = text(&directory.join("meminfo")).unwrap_or_default();
    let total =
        meminfo.lines().find(|line| line.contains("MemTotal:")).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    let mut huge_pages = BTreeMap::new();
    for entry in std::fs::read_dir(directory.join("hugepages")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = name.strip_prefix("hugepages-").and_then(|name| name.strip_suffix("kB")).and_then(|kib| kib.parse::<u64>().ok());
        let count = number(&entry.path().join("nr_hugepages")).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        if let Some(kib) = size {
            huge_pages.insert(kib, count * kib * 1024);
        }
    }
    Node { distances, memory_bytes: total.unwrap_or(0) * 1024, huge_pages }
}

/// Machines to test with.
#[cfg(test)]
pub mod examples {
    use super::*;

    /// `sockets` with `nodes` each, these with `cores` of `threads`. Threads of a core are as far apart as on real machines. Each pair
    /// of cores shares a cache if so wanted.
    pub fn machine(sockets: usize, nodes: usize, cores: usize, threads: usize, split_cache: bool) -> Cpus {
        let all_cores = sockets * nodes * cores;
        let place = |cpu: usize| {
            let core = cpu % all_cores;
            let node = core / cores;
            let socket = node / nodes;
            Place { core, socket, node, uncore: if split_cache { core / 2 } else { socket } }
        };
        let places = (0..all_cores * threads).map(|cpu| (cpu, place(cpu))).collect();
        let count = sockets * nodes;
        let node = Node { distances: vec![10; count], memory_bytes: 8 << 30, huge_pages: BTreeMap::from([(2048, 1 << 30)]) };
        Cpus::of(places, (0..count).map(|id| (id, node.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join("devices/system").join(path);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
        std::fs::write(path, text).expect("it can be written");
    }

    #[test]
    fn a_machine_is_read_from_the_kernels_tree() {
        let root = tempfile::tempdir().expect("there is a directory for temporary files");
        let root = root.path();
        // Two sockets of two cores of two threads; each core has a last cache of its own. CPU 8 is off.
        for cpu in 0..8 {
            let core = cpu % 4;
            put(root, &format!("cpu/cpu{cpu}/topology/thread_siblings_list"), &format!("{core},{}\n", core + 4));
            put(root, &format!("cpu/cpu{cpu}/topology/physical_package_id"), &format!("{}\n", core / 2));
            put(root, &format!("cpu/cpu{cpu}/cache/index0/level"), "1\n");
            put(root, &format!("cpu/cpu{cpu}/cache/index0/shared_cpu_list"), &format!("{core},{}\n", core + 4));
            put(root, &format!("cpu/cpu{cpu}/cache/index3/level"), "3\n");
            put(root, &format!("cpu/cpu{cpu}/cache/index3/id"), &format!("{}\n", core + 10));
            put(root, &format!("cpu/cpu{cpu}/cache/index3/shared_cpu_list"), &format!("{core},{}\n", core + 4));
        }
        put(root, "cpu/cpu8/online", "0\n");
        put(root, "cpu/cpufreq/boost", "1\n");
        for (node, list) in ["0-1,4-5", "2-3,6-7"].iter().enumerate() {
            put(root, &format!("node/node{node}/cpulist"), list);
            put(root, &format!("node/node{node}/distance"), "10 21\n");
            put(root, &format!("node/node{node}/meminfo"), &format!("Node {node} MemTotal:       1024 kB\nNode {node} MemFree:   1 kB\n"));
            put(root, &format!("node/node{node}/hugepages/hugepages-2048kB/nr_hugepages"), "3\n");
        }
        let cpus = Cpus::discover(root, 0);
        assert_eq!(cpus.all().to_string(), "0-7");
        assert_eq!(cpus.place(7), Some(Place { core: 3, socket: 1, node: 1, uncore: 13 }));
        assert_eq!((cpus.per_core(), cpus.per_socket(), cpus.per_uncore()), (2, 4, 2));
        let node = &cpus.nodes[&1];
        assert_eq!((node.distances.as_slice(), node.memory_bytes, node.huge_pages[&2048]), ([10, 21].as_slice(), 1 << 20, 6 << 20));
        // A cache that the whole node shares says nothing.
        (0..8).for_each(|cpu| put(root, &format!("cpu/cpu{cpu}/cache/index3/shared_cpu_list"), "0-1,4-5\n"));
        assert_eq!(Cpus::discover(root, 0).place(7).expect("it is there").uncore, 1);
    }

    #[test]
    fn a_machine_without_nodes_is_one() {
        let root = tempfile::tempdir().expect("there is a directory for temporary files");
        put(root.path(), "cpu/cpu0/topology/thread_siblings_list", "0\n");
        let cpus = Cpus::discover(root.path(), 7);
        assert_eq!((cpus.numa_nodes(), cpus.nodes[&0].memory_bytes), (vec![0], 7));
    }
}
