//! What is stored: how many objects of each resource, how big the store is, and what lists read of it.

use std::sync::atomic::{AtomicU64, Ordering};

use apimachinery::metrics::{head, pairs, sample};

use crate::catalog::{Catalog, Stored};

/// The objects that are looked at for the size of all.
const SAMPLED: usize = 16;

/// What lists of a resource read: of the cache, and of the store where the past is asked for.
#[derive(Debug, Default)]
pub struct Lists {
    of_cache: Reads,
    of_store: Reads,
}

#[derive(Debug, Default)]
struct Reads {
    lists: AtomicU64,
    fetched: AtomicU64,
    returned: AtomicU64,
}

impl Lists {
    pub fn listed(&self, of_store: bool, fetched: usize, returned: usize) {
        let reads = if of_store { &self.of_store } else { &self.of_cache };
        reads.lists.fetch_add(1, Ordering::Relaxed);
        reads.fetched.fetch_add(fetched as u64, Ordering::Relaxed);
        reads.returned.fetch_add(returned as u64, Ordering::Relaxed);
    }

    fn told(&self) -> impl Iterator<Item = (&'static str, &Reads)> {
        [("etcd", &self.of_store), ("watchcache", &self.of_cache)].into_iter().filter(|(_, reads)| reads.lists.load(Ordering::Relaxed) > 0)
    }
}

/// `size_bytes`: of the store on its disk, if it tells.
pub fn render(out: &mut String, catalog: &Catalog, size_bytes: Option<u64>) {
    let mut stored = catalog.stored();
    stored.retain(|stored| stored.cache().is_some());
    stored.sort_by(|a, b| (&a.group, &a.resource).cmp(&(&b.group, &b.resource)));
    let labels = |stored: &Stored| pairs(&["group", "resource"], &[&stored.group, &stored.resource]);
    let all = |out: &mut String, name: &str, kind: &str, help: &str, write: &dyn Fn(&mut String, &str, &Stored)| {
        let mut samples = String::new();
        stored.iter().for_each(|stored| write(&mut samples, name, stored));
        if !samples.is_empty() {
            head(out, name, kind, help);
            out.push_str(&samples);
        }
    };
    let each = |out: &mut String, name: &str, kind: &str, help: &str, value: &dyn Fn(&Stored) -> Option<f64>| {
        all(out, name, kind, help, &|out, name, stored| {
            if let Some(value) = value(stored) {
                sample(out, name, &labels(stored), value);
            }
        });
    };
    each(out, "apiserver_resource_objects", "gauge", "[ALPHA] Objects that are stored, by group and resource.", &|stored| {
        Some(stored.cache()?.snapshot().len() as f64)
    });
    let help = "[ALPHA] About how many bytes the stored objects of a resource have, by the size of some of them as JSON.";
    each(out, "apiserver_resource_size_estimate_bytes", "gauge", help, &|stored| {
        let snapshot = stored.cache()?.snapshot();
        let sizes: Vec<usize> = snapshot.range("", None).take(SAMPLED).map(|object| object.json().len()).collect();
        let average = sizes.iter().sum::<usize>().checked_div(sizes.len()).unwrap_or(0);
        Some((average * snapshot.len()) as f64)
    });
    let help = "[BETA] Changes that the store has told of, by group and resource.";
    each(out, "apiserver_storage_events_received_total", "counter", help, &|stored| {
        Some(stored.cache()?.changes() as f64).filter(|changes| *changes > 0.0)
    });
    let reads = |out: &mut String, name: &str, help: &str, index: &str, value: &dyn Fn(&Reads) -> &AtomicU64| {
        all(out, name, "counter", help, &|out, name, stored| {
            for (storage, reads) in stored.lists.told() {
                let labels = format!("group=\"{}\",{index}resource=\"{}\",storage=\"{storage}\"", stored.group, stored.resource);
                sample(out, name, &labels, value(reads).load(Ordering::Relaxed) as f64);
            }
        });
    };
    // Nothing here is found by an index.
    let index = "index=\"\",";
    reads(out, "apiserver_storage_list_total", "[ALPHA] Lists that were read.", index, &|reads| &reads.lists);
    let help = "[ALPHA] Objects that were looked at for lists.";
    reads(out, "apiserver_storage_list_fetched_objects_total", help, index, &|reads| &reads.fetched);
    let help = "[ALPHA] Objects that lists have answered with.";
    reads(out, "apiserver_storage_list_returned_objects_total", help, "", &|reads| &reads.returned);
    if let Some(bytes) = size_bytes {
        let name = "apiserver_storage_size_bytes";
        head(out, name, "gauge", "[STABLE] Bytes that the store takes on its disk.");
        sample(out, name, "storage_cluster_id=\"etcd-0\"", bytes as f64);
    }
}
