//! The network configuration of pods on a node, for the standard plugins: `ptp` with the node's range, and `portmap`.
//!
//! Pods keep their addresses towards other nodes: nothing is masqueraded but what leaves the machine, which is not done here.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

/// Where distributions put the plugins.
const PLUGIN_DIRECTORIES: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/// The first directory that has the plugins that are needed.
pub fn plugin_directory() -> anyhow::Result<PathBuf> {
    let has_all = |directory: &&&str| ["ptp", "portmap", "host-local", "loopback"].iter().all(|p| Path::new(directory).join(p).exists());
    let found = PLUGIN_DIRECTORIES.iter().find(has_all);
    found.map(PathBuf::from).with_context(|| format!("no CNI plugins in {}", PLUGIN_DIRECTORIES.join(", ")))
}

/// The configuration for pods from `range`.
pub fn configuration(range: &str, with_bandwidth: bool) -> String {
    let mut plugins = vec![
        json!({
            "type": "ptp",
            "ipMasq": false,
            "mtu": 1500,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": range }]], "routes": [{ "dst": "0.0.0.0/0" }] },
        }),
        json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
    ];
    if with_bandwidth {
        plugins.push(json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }));
    }
    json!({ "cniVersion": "0.4.0", "name": "ferrokube", "plugins": plugins }).to_string()
}

/// Writes the configuration, whole or not at all.
pub fn write(directory: &Path, range: &str) -> anyhow::Result<()> {
    let with_bandwidth = plugin_directory()?.join("bandwidth").exists();
    let (path, temporary) = (directory.join("10-ferrokube.conflist"), directory.join(".10-ferrokube.tmp"));
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    std::fs::write(&temporary, configuration(range, with_bandwidth)).with_context(|| temporary.display().to_string())?;
    std::fs::rename(&temporary, &path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_range_is_the_nodes() {
        let text = configuration("10.244.1.0/24", true);
        let value: Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(value["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.244.1.0/24");
        assert_eq!(value["plugins"][2]["type"], "bandwidth");
    }
}
