//! Watches of the metadata of every resource that can be deleted. They come and go with what the API server serves.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Shutdown, watching};
use futures::StreamExt;
use kube::Client;
use kube::runtime::watcher;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use super::Collector;
use super::graph::Seen;
use crate::discovery::{Metadata, Resource};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

struct Monitor {
    stop: Shutdown,
    synced: watch::Receiver<bool>,
}

/// The running watches, by group version and kind.
pub struct Monitors {
    running: BTreeMap<Resource, Monitor>,
    shutdown: Shutdown,
}

/// Upstream collects no events: they are many, and go by themselves.
fn is_collected(resource: &Resource) -> bool {
    let events = resource.plural == "events" && matches!(resource.group.as_str(), "" | "events.k8s.io");
    !events && ["delete", "list", "watch"].iter().all(|verb| resource.supports(verb))
}

impl Monitors {
    pub fn new(shutdown: Shutdown) -> Monitors {
        Monitors { running: BTreeMap::new(), shutdown }
    }

    /// Watches these resources and no others; those of groups in `unknown` stay as they are.
    pub fn set(&mut self, resources: &[Resource], unknown: &[String], client: &Client, collector: &Arc<Collector>) {
        let wanted: BTreeSet<&Resource> = resources.iter().filter(|resource| is_collected(resource)).collect();
        self.running.retain(|resource, monitor| {
            let keep = wanted.contains(resource) || unknown.contains(&resource.api_version());
            if !keep {
                monitor.stop.cancel();
            }
            keep
        });
        for resource in wanted {
            if self.running.contains_key(resource) {
                continue;
            }
            let stop = self.shutdown.child_token();
            let (sender, synced) = watch::channel(false);
            tokio::spawn({
                let (resource, client, collector, stop) = (resource.clone(), client.clone(), collector.clone(), stop.clone());
                async move {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = follow(&resource, &client, &collector, &sender) => {}
                    }
                }
            });
            self.running.insert(resource.clone(), Monitor { stop, synced });
        }
    }

    /// Waits until every watch that runs now has listed what there is.
    pub async fn synced(&self) {
        for monitor in self.running.values() {
            // A watch that was stopped has nothing to wait for.
            let _ = monitor.synced.clone().wait_for(|synced| *synced).await;
        }
    }
}

async fn follow(resource: &Resource, client: &Client, collector: &Collector, synced: &watch::Sender<bool>) {
    let mut retry = RETRY_MIN;
    let mut events = watching::events(resource.everywhere(client), watcher::Config::default().streaming_lists()).boxed();
    let mut listed: Option<HashSet<String>> = None;
    let api_version = resource.api_version();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                retry = RETRY_MIN;
                if matches!(event, Event::InitDone) {
                    synced.send_replace(true);
                }
                take(resource, &api_version, event, &mut listed, collector);
            }
            Err(error) => {
                tracing::debug!(resource = resource.group_resource(), %error, "watch failed, trying again");
                if retry == RETRY_MIN {
                    // The resource may be gone, or the server another one.
                    collector.resources_changed();
                }
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

fn take(resource: &Resource, api_version: &str, event: Event<Metadata>, listed: &mut Option<HashSet<String>>, collector: &Collector) {
    let seen = |object: Metadata| Seen::new(api_version, &resource.kind, object.metadata);
    match event {
        Event::Init => *listed = Some(HashSet::new()),
        Event::InitApply(object) => {
            let seen = seen(object);
            if let Some(listed) = listed {
                listed.insert(seen.identity.uid.clone());
            }
            collector.change(|graph| graph.observe(seen));
        }
        Event::InitDone => {
            let Some(listed) = listed.take() else { return };
            collector.change(|graph| {
                let gone = graph.unlisted(api_version, &resource.kind, &listed);
                gone.iter().flat_map(|identity| graph.remove(identity)).collect()
            });
        }
        Event::Apply(object) => collector.change(|graph| graph.observe(seen(object))),
        Event::Delete(object) => {
            let seen = seen(object);
            collector.change(|graph| graph.remove(&seen.identity));
        }
    }
    if matches!(resource.plural.as_str(), "customresourcedefinitions" | "apiservices") {
        collector.resources_changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(group: &str, plural: &str, verbs: &[&str]) -> Resource {
        Resource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            plural: plural.to_owned(),
            singular: String::new(),
            kind: "K".to_owned(),
            namespaced: true,
            verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        }
    }

    #[test]
    fn only_what_can_be_deleted_and_watched_is_collected() {
        let all = ["delete", "list", "watch", "get"];
        assert!(is_collected(&resource("apps", "deployments", &all)));
        assert!(is_collected(&resource("example.com", "events", &all)));
        assert!(!is_collected(&resource("", "events", &all)));
        assert!(!is_collected(&resource("events.k8s.io", "events", &all)));
        assert!(!is_collected(&resource("", "componentstatuses", &["get", "list"])));
    }
}
