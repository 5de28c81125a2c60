//! Which Services have changed since the last sync. Informers' handlers write here, and a family's loop takes it all at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use client::{Change, Informer, Object, ObjectKey};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

use crate::ruleset::service_of;

/// The index of slices by their Service.
pub const BY_SERVICE: &str = "service";

/// The controller of slices writes here when that happened which made it write the slice.
const TRIGGER_TIME_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Of each Service so many trigger times are kept until the next sync.
const TRIGGER_TIMES_KEPT: usize = 100;

/// Changes since they were last taken. Bounded by the number of Services.
#[derive(Default)]
pub struct Changes {
    dirty: Mutex<HashMap<ObjectKey, Vec<Timestamp>>>,
    notify: Notify,
    pub service_changes: AtomicU64,
    pub endpoint_changes: AtomicU64,
    pub service_changes_pending: AtomicU64,
    pub endpoint_changes_pending: AtomicU64,
}

/// A Service that has changed, and the times of what has changed its endpoints.
pub type Dirty = HashMap<ObjectKey, Vec<Timestamp>>;

impl Changes {
    /// Follows the informers. What they know already counts as changed.
    pub fn follow(self: &Arc<Self>, services: &Informer<Service>, slices: &Informer<EndpointSlice>) {
        slices.add_index(BY_SERVICE, |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
        let changes = self.clone();
        services.on_change(move |change: &Change<Service>| {
            if is_worth_a_look(change) {
                changes.service_changes.fetch_add(1, Ordering::Relaxed);
                changes.service_changes_pending.fetch_add(1, Ordering::Relaxed);
                changes.mark(change.object().key(), None);
            }
        });
        let changes = self.clone();
        slices.on_change(move |change: &Change<EndpointSlice>| {
            let slice = change.object();
            changes.endpoint_changes.fetch_add(1, Ordering::Relaxed);
            changes.endpoint_changes_pending.fetch_add(1, Ordering::Relaxed);
            let time = slice.annotation(TRIGGER_TIME_ANNOTATION).and_then(|text| text.parse::<Timestamp>().ok());
            let time = time.filter(|_| !matches!(change, Change::Deleted(_)));
            let (new, old) = (service_of(slice), change.old().and_then(|old| service_of(old)));
            if let Some(old) = old.filter(|old| new.as_ref() != Some(old)) {
                changes.mark(old, None);
            }
            if let Some(new) = new {
                changes.mark(new, time);
            }
        });
    }

    fn mark(&self, service: ObjectKey, time: Option<Timestamp>) {
        {
            let mut dirty = self.dirty.lock();
            let times = dirty.entry(service).or_default();
            times.extend(time.filter(|_| times.len() < TRIGGER_TIMES_KEPT));
        }
        self.notify.notify_one();
    }

    /// Waits until there is something to take.
    pub async fn wait(&self) {
        loop {
            let notified = self.notify.notified();
            if !self.is_empty() {
                return;
            }
            notified.await;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.dirty.lock().is_empty()
    }

    pub fn take(&self) -> Dirty {
        self.service_changes_pending.store(0, Ordering::Relaxed);
        self.endpoint_changes_pending.store(0, Ordering::Relaxed);
        std::mem::take(&mut *self.dirty.lock())
    }
}

/// Whether rules may depend on what has changed.
fn is_worth_a_look(change: &Change<Service>) -> bool {
    let Change::Updated { old, new } = change else { return true };
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || old.status.as_ref().map(|s| &s.load_balancer) != new.status.as_ref().map(|s| &s.load_balancer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{named_slice, service};

    #[tokio::test]
    async fn a_slice_marks_the_service_that_it_had_and_the_one_that_it_has() {
        let (services, slices) = (Informer::detached(), Informer::detached());
        services.apply(service(r#"{"clusterIP":"10.0.0.1"}"#, "{}"));
        let changes = Arc::new(Changes::default());
        changes.follow(&services, &slices);
        changes.wait().await;
        assert_eq!(changes.take().into_keys().map(|k| k.to_string()).collect::<Vec<_>>(), ["default/web"]);
        let mut slice = named_slice("a", "[]", "[]");
        slices.apply(slice.clone());
        changes.take();
        slice.metadata.labels.get_or_insert_default().insert("kubernetes.io/service-name".to_owned(), "b".to_owned());
        let time = "2026-01-02T03:04:05Z";
        slice.metadata.annotations.get_or_insert_default().insert(TRIGGER_TIME_ANNOTATION.to_owned(), time.to_owned());
        slices.apply(slice);
        let mut dirty: Vec<_> = changes.take().into_iter().map(|(key, times)| format!("{key} {}", times.len())).collect();
        dirty.sort();
        assert_eq!(dirty, ["default/a 0", "default/b 1"]);
        assert!(changes.is_empty());
    }
}
