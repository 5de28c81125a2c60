//! The plugins that are connected, by the resource that they give.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::messages::Options;
use crate::grpc::Socket;

/// A plugin that answers.
#[derive(Clone, Debug)]
pub struct Live {
    pub path: PathBuf,
    pub socket: Socket,
    pub options: Options,
    /// Tells one that came back from the one before.
    pub connection: u64,
}

/// Who gives a resource: several while one takes over from the other.
#[derive(Debug, Default)]
pub struct Plugin {
    live: Vec<Live>,
    /// Since when there is nobody.
    stopped: Option<Instant>,
}

impl Plugin {
    /// The one that came last.
    pub fn live(&self, resource: &str) -> Result<Live, String> {
        self.live.last().cloned().ok_or_else(|| format!("endpoint {resource} has been stopped"))
    }

    pub fn options(&self) -> Options {
        self.live.last().map(|live| live.options).unwrap_or_default()
    }

    pub fn is_gone_for(&self, grace: Duration) -> bool {
        self.stopped.is_some_and(|at| at.elapsed() > grace)
    }
}

#[derive(Debug, Default)]
pub struct Plugins {
    by_resource: BTreeMap<String, Plugin>,
    connections: u64,
}

impl Plugins {
    pub fn get(&self, resource: &str) -> Option<&Plugin> {
        self.by_resource.get(resource)
    }

    pub fn remove(&mut self, resource: &str) {
        self.by_resource.remove(resource);
    }

    /// A plugin that was there before the kubelet's start has not come back yet.
    pub fn expect_back(&mut self, resource: &str, now: Instant) {
        self.by_resource.entry(resource.to_owned()).or_default().stopped = Some(now);
    }

    /// One that was there at the same path is no more.
    pub fn connect(&mut self, resource: &str, path: &Path, socket: Socket, options: Options) -> u64 {
        self.connections += 1;
        let plugin = self.by_resource.entry(resource.to_owned()).or_default();
        plugin.live.retain(|live| live.path != path);
        plugin.live.push(Live { path: path.to_owned(), socket, options, connection: self.connections });
        plugin.stopped = None;
        self.connections
    }

    /// Whether that was the last one of its resource.
    pub fn disconnect(&mut self, resource: &str, connection: u64, now: Instant) -> bool {
        let Some(plugin) = self.by_resource.get_mut(resource) else { return false };
        let before = plugin.live.len();
        plugin.live.retain(|live| live.connection != connection);
        let last = plugin.live.is_empty() && before > 0;
        if last {
            plugin.stopped = Some(now);
        }
        last
    }

    /// The connection to the plugin at this path.
    pub fn connection_at(&self, resource: &str, path: &Path) -> Option<u64> {
        self.by_resource.get(resource)?.live.iter().find(|live| live.path == path).map(|live| live.connection)
    }

    pub fn is_connected(&self, resource: &str, connection: u64) -> bool {
        self.by_resource.get(resource).is_some_and(|plugin| plugin.live.iter().any(|live| live.connection == connection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_resource_is_gone_with_its_last_plugin() {
        let mut plugins = Plugins::default();
        let socket = Socket::at(Path::new("/nobody"));
        let now = Instant::now();
        let options = Options { pre_start_required: true, ..Options::default() };
        let first = plugins.connect("r", Path::new("/a"), socket.clone(), options);
        let second = plugins.connect("r", Path::new("/b"), socket.clone(), Options::default());
        assert!(!plugins.disconnect("r", second, now));
        assert_eq!(plugins.get("r").expect("it is there").options(), options);
        let again = plugins.connect("r", Path::new("/a"), socket, options);
        assert!(!plugins.is_connected("r", first) && plugins.is_connected("r", again));
        // The end of the one before is no news.
        assert!(!plugins.disconnect("r", first, now));
        assert!(plugins.disconnect("r", again, now));
        let plugin = plugins.get("r").expect("it is remembered");
        assert_eq!(plugin.live("r").expect_err("it is gone"), "endpoint r has been stopped");
        assert!(plugin.is_gone_for(Duration::ZERO) && !plugin.is_gone_for(Duration::from_secs(300)));
    }
}
