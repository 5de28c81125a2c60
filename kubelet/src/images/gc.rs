//! Removing images when the disk is full: those that no container uses, the longest unused first.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::Shutdown;
use client::events::Type;
use k8s_openapi::jiff::Timestamp;

use crate::configuration::KubeletConfiguration;
use crate::core::Core;
use crate::cri::v1;
use crate::instruments;
use crate::node;

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(300);

/// When images go, by `imageGC*` of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub high_percent: u64,
    pub low_percent: u64,
    pub min_age: Duration,
    /// Unused images that are older go anyway; zero means never.
    pub max_age: Duration,
}

impl Policy {
    pub fn of(configuration: &KubeletConfiguration) -> Policy {
        Policy {
            high_percent: u64::from(configuration.image_gc_high_threshold_percent),
            low_percent: u64::from(configuration.image_gc_low_threshold_percent),
            min_age: configuration.image_minimum_gc_age,
            max_age: configuration.image_maximum_gc_age,
        }
    }
}

/// What is remembered of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    first_seen: Timestamp,
    last_used: Timestamp,
    bytes: u64,
    pinned: bool,
}

/// What is remembered of all images. Bounded by the images that the runtime has.
#[derive(Default)]
struct Records(HashMap<String, Record>);

fn since(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)
}

impl Records {
    /// Takes in what there is now, and which images (by id or name) containers use.
    fn observe(&mut self, images: &[v1::Image], used: &HashSet<String>, now: Timestamp) {
        for image in images {
            let names = image.repo_digests.iter().chain(&image.repo_tags).chain([&image.id]);
            let in_use = names.into_iter().any(|name| used.contains(name));
            let never = Timestamp::UNIX_EPOCH;
            let record = self.0.entry(image.id.clone()).or_insert(Record { first_seen: now, last_used: never, bytes: 0, pinned: false });
            record.bytes = image.size;
            record.pinned = image.pinned;
            if in_use {
                record.last_used = now;
            }
        }
        let present: HashSet<&str> = images.iter().map(|image| image.id.as_str()).collect();
        self.0.retain(|id, _| present.contains(id.as_str()));
    }

    /// Unused images, the longest unused first.
    fn unused(&self, now: Timestamp) -> Vec<(&String, &Record)> {
        let mut unused: Vec<_> = self.0.iter().filter(|(_, record)| record.last_used < now && !record.pinned).collect();
        unused.sort_by_key(|(id, record)| (record.last_used, record.first_seen, (*id).clone()));
        unused
    }

    /// Those to remove so that so many bytes become free. Young ones stay.
    fn to_free(&self, bytes: u64, policy: Policy, now: Timestamp) -> Vec<String> {
        let mut freed = 0;
        let mut chosen = Vec::new();
        for (id, record) in self.unused(now) {
            if freed >= bytes {
                break;
            }
            if since(now, record.first_seen) >= policy.min_age {
                freed += record.bytes;
                chosen.push(id.clone());
            }
        }
        chosen
    }

    /// Those that nobody has used for too long.
    fn too_old(&self, policy: Policy, now: Timestamp) -> Vec<String> {
        if policy.max_age.is_zero() {
            return Vec::new();
        }
        let old = |record: &Record| since(now, record.last_used.max(record.first_seen)) > policy.max_age;
        self.unused(now).into_iter().filter(|(_, record)| old(record)).map(|(id, _)| id.clone()).collect()
    }
}

/// Bytes to free of a file system, so that no more than the lower threshold is used; none below the upper one.
fn excess(capacity: u64, available: u64, policy: Policy) -> Option<u64> {
    if capacity == 0 {
        return None;
    }
    let used = 100 - available.min(capacity) * 100 / capacity;
    let keep = capacity * (100 - policy.low_percent.min(100)) / 100;
    (used >= policy.high_percent).then(|| keep.saturating_sub(available))
}

/// Looks again and again until shutdown.
pub async fn run(core: Arc<Core>, policy: Policy, shutdown: Shutdown) {
    let mut records = Records::default();
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = collect(&core, &mut records, policy).await {
            tracing::warn!(error, "image garbage collection failed");
            let about = node::reference(&core.config.node_name, &core.config.node_name);
            core.recorder.tell(client::events::Event::new(&about, Type::Warning, "ImageGCFailed", error));
        }
    }
}

/// The images that are in use, by whatever they are called: those of containers, and that of sandboxes, which runtimes of before
/// they could pin images do not count as used.
async fn used_images(core: &Core) -> Result<HashSet<String>, crate::cri::Error> {
    let containers = core.runtime.list_containers(None).await?;
    let status = core.runtime.status(true).await?;
    let sandbox_image = status.info.get("config").and_then(|config| sandbox_image(config));
    let names =
        |container: v1::Container| [container.image_ref, container.image_id, container.image.map(|image| image.image).unwrap_or_default()];
    Ok(containers.into_iter().flat_map(names).chain(sandbox_image).collect())
}

/// The image of sandboxes, as containerd tells it in its configuration.
fn sandbox_image(config: &str) -> Option<String> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    config.get("sandboxImage").and_then(|image| image.as_str()).map(str::to_owned)
}

/// Removes all images that no container uses.
pub async fn remove_unused(core: &Core) -> Result<(), crate::cri::Error> {
    let images = core.runtime.list_images(None).await?;
    let mut records = Records::default();
    let now = Timestamp::now();
    records.observe(&images, &used_images(core).await?, now);
    let unused: Vec<String> = records.unused(now).into_iter().map(|(id, _)| id.clone()).collect();
    for id in unused {
        remove(core, &mut records, &id).await?;
    }
    Ok(())
}

async fn collect(core: &Core, records: &mut Records, policy: Policy) -> Result<(), String> {
    let words = |error: crate::cri::Error| error.to_string();
    let now = Timestamp::now();
    let images = core.runtime.list_images(None).await.map_err(words)?;
    core.images.prune(images.clone(), now).await;
    let used = used_images(core).await.map_err(words)?;
    records.observe(&images, &used, now);
    for id in records.too_old(policy, now) {
        core.metrics.count(&instruments::IMAGES_COLLECTED, &["age"]);
        remove(core, records, &id).await.map_err(words)?;
    }
    let info = core.runtime.image_fs_info().await.map_err(words)?;
    let Some(directory) = info.image_filesystems.first().and_then(|fs| fs.fs_id.as_ref()).map(|id| id.mountpoint.clone()) else {
        return Ok(());
    };
    let Ok(fs) = nix::sys::statvfs::statvfs(Path::new(&directory)) else { return Ok(()) };
    let (capacity, available) = (fs.blocks() * fs.fragment_size(), fs.blocks_available() * fs.fragment_size());
    let Some(bytes) = excess(capacity, available, policy) else { return Ok(()) };
    tracing::info!(directory, bytes, "the disk of images is fuller than it may be, trying to free space");
    let mut freed = 0;
    for id in records.to_free(bytes, policy, now) {
        freed += records.0.get(&id).map_or(0, |record| record.bytes);
        core.metrics.count(&instruments::IMAGES_COLLECTED, &["space"]);
        remove(core, records, &id).await.map_err(words)?;
    }
    if freed < bytes {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only found {freed} bytes eligible to free."
        );
        let about = node::reference(&core.config.node_name, &core.config.node_name);
        core.recorder.tell(client::events::Event::new(&about, Type::Warning, "FreeDiskSpaceFailed", message.clone()));
        return Err(message);
    }
    Ok(())
}

async fn remove(core: &Core, records: &mut Records, id: &str) -> Result<(), crate::cri::Error> {
    tracing::info!(image = id, "removing an unused image");
    core.runtime.remove_image(v1::ImageSpec { image: id.to_owned(), ..Default::default() }).await?;
    records.0.remove(id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { high_percent: 85, low_percent: 80, min_age: Duration::from_secs(120), max_age: Duration::from_secs(1000) };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("it is a time")
    }

    fn image(id: &str, size: u64) -> v1::Image {
        v1::Image { id: id.to_owned(), size, ..Default::default() }
    }

    #[test]
    fn the_longest_unused_go_first_and_the_young_and_the_used_stay() {
        let mut records = Records::default();
        let used = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<HashSet<_>>();
        records.observe(&[image("a", 10), image("b", 10), image("c", 10)], &used(&["b"]), at(0));
        let pinned = v1::Image { pinned: true, ..image("p", 10) };
        records.observe(&[image("a", 10), image("b", 10), image("c", 10), image("young", 10), pinned], &used(&["c"]), at(200));
        assert_eq!(records.to_free(15, POLICY, at(200)), ["a", "b"]);
        assert_eq!(records.to_free(5, POLICY, at(200)), ["a"]);
        assert_eq!(records.to_free(100, POLICY, at(200)), ["a", "b"]);
        assert_eq!(records.too_old(POLICY, at(1100)), ["a", "b"]);
    }

    #[test]
    fn the_image_of_sandboxes_is_known_where_the_runtime_tells_it() {
        assert_eq!(sandbox_image(r#"{"sandboxImage": "pause:1"}"#).as_deref(), Some("pause:1"));
        assert_eq!(sandbox_image("{}"), None);
    }

    #[test]
    fn only_a_full_disk_is_emptied_and_only_to_the_lower_threshold() {
        assert_eq!(excess(1000, 200, POLICY), None);
        assert_eq!(excess(1000, 100, POLICY), Some(100));
        assert_eq!(excess(0, 0, POLICY), None);
    }
}
