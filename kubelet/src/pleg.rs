//! Watches the runtime: pods whose sandboxes or containers have changed are synced.
//!
//! Lists everything each second, as upstream; where the runtime tells of its events, these come first and lists are rare.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::Shutdown;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::container_config::labels;
use crate::core::Core;
use crate::cri::{self, v1};
use crate::instruments;

/// How often all is listed, without events and with them.
const RELIST: Duration = Duration::from_secs(1);
const RELIST_BESIDE_EVENTS: Duration = Duration::from_secs(5);
/// Who tells of an end may be faster than who lists it: it is listed this soon after, and once more.
const AFTER_EVENT: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(150)];
/// Listing that has not succeeded for so long is told as unhealthy.
const UNHEALTHY: Duration = Duration::from_secs(180);
/// How soon a broken stream of events is opened again.
const REOPEN: Duration = Duration::from_secs(5);

/// The state of each sandbox and container, by pod.
type Picture = BTreeMap<String, BTreeSet<(String, i32)>>;

/// When the runtime was last listed.
#[derive(Clone)]
pub struct Health {
    listed: Arc<Mutex<Instant>>,
}

impl Default for Health {
    fn default() -> Health {
        Health { listed: Arc::new(Mutex::new(Instant::now())) }
    }
}

impl Health {
    /// How long ago the runtime was last listed.
    pub fn age(&self) -> Duration {
        self.listed.lock().elapsed()
    }

    pub fn problem(&self) -> Option<String> {
        let age = self.listed.lock().elapsed();
        (age > UNHEALTHY).then(|| {
            let (age, most) = (nanoseconds(age), nanoseconds(UNHEALTHY));
            let (age, most) = (apimachinery::time::format_duration(age), apimachinery::time::format_duration(most));
            format!("pleg was last seen active {age} ago; threshold is {most}")
        })
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

async fn take_picture(core: &Core) -> Result<Picture, cri::Error> {
    let (sandboxes, containers) = futures::try_join!(core.runtime.list_pod_sandboxes(None), core.runtime.list_containers(None))?;
    let mut picture = Picture::new();
    for sandbox in sandboxes {
        let uid = sandbox.metadata.map(|metadata| metadata.uid).unwrap_or_default();
        picture.entry(uid).or_default().insert((sandbox.id, sandbox.state));
    }
    for container in containers {
        let uid = container.labels.get(labels::POD_UID).cloned().unwrap_or_default();
        picture.entry(uid).or_default().insert((container.id, container.state));
    }
    picture.remove("");
    Ok(picture)
}

/// The pods that differ.
fn changed(old: &Picture, new: &Picture) -> BTreeSet<String> {
    let all = old.keys().chain(new.keys());
    all.filter(|uid| old.get(*uid) != new.get(*uid)).cloned().collect()
}

/// Watches until shutdown. `on_change` is called with the uid of a pod that has changed, `on_list` with all uids after each list.
pub async fn run(core: &Core, health: Health, on_change: impl Fn(&str), on_list: impl Fn(&BTreeSet<String>), shutdown: Shutdown) {
    let mut picture = Picture::new();
    let mut events = core.runtime.container_events().await.ok();
    let mut reopen_at = Instant::now() + REOPEN;
    // When to list beside the usual times.
    let mut soon: Vec<Instant> = Vec::new();
    let mut began = Instant::now();
    loop {
        let now = Instant::now();
        core.metrics.took(&instruments::RELIST_INTERVAL, &[], now - began);
        began = now;
        let taken = take_picture(core).await;
        core.metrics.took(&instruments::RELIST_DURATION, &[], began.elapsed());
        match taken {
            Ok(new) => {
                *health.listed.lock() = Instant::now();
                changed(&picture, &new).iter().for_each(|uid| on_change(uid));
                picture = new;
                on_list(&picture.keys().cloned().collect());
            }
            Err(error) => tracing::warn!(%error, "cannot list what the runtime runs"),
        }
        if events.is_none() && Instant::now() >= reopen_at {
            reopen_at = Instant::now() + REOPEN;
            events = core.runtime.container_events().await.ok();
        }
        let usual = Instant::now() + if events.is_some() { RELIST_BESIDE_EVENTS } else { RELIST };
        loop {
            let until = soon.iter().copied().min().map_or(usual, |at| at.min(usual));
            let next = async {
                match &mut events {
                    Some(events) => events.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(until) => {
                    soon.retain(|at| *at > until);
                    break;
                }
                event = next => match event {
                    Some(Ok(event)) => match pod_of(&event) {
                        Some(uid) => on_change(&uid),
                        None => soon = AFTER_EVENT.map(|wait| Instant::now() + wait).to_vec(),
                    },
                    Some(Err(_)) | None => {
                        events = None;
                        reopen_at = Instant::now() + REOPEN;
                        break;
                    }
                },
            }
        }
    }
}

/// The pod that an event is about, if it says; else all is listed.
fn pod_of(event: &v1::ContainerEventResponse) -> Option<String> {
    let metadata = event.pod_sandbox_status.as_ref()?.metadata.as_ref()?;
    (!metadata.uid.is_empty()).then(|| metadata.uid.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_came_went_or_changed_are_told() {
        let picture = |entries: &[(&str, i32)]| -> Picture {
            entries.iter().map(|(uid, state)| ((*uid).to_owned(), BTreeSet::from([("c".to_owned(), *state)]))).collect()
        };
        let (old, new) = (picture(&[("a", 0), ("b", 0), ("c", 0)]), picture(&[("b", 1), ("c", 0), ("d", 0)]));
        assert_eq!(changed(&old, &new), ["a", "b", "d"].map(str::to_owned).into());
    }
}
