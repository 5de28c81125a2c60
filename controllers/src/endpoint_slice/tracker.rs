//! What a controller knows of the slices that it wrote: its informer shows them later, and until then must not be believed.

use std::collections::HashMap;

use client::{Object, ObjectKey};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;

use super::slicing::SERVICE_NAME_LABEL;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Generation(i64),
    Deleted,
}

/// Slices by the service they belong to and their uid.
#[derive(Default)]
pub struct Tracker {
    services: Mutex<HashMap<ObjectKey, HashMap<String, Known>>>,
}

/// The service that a slice says it belongs to.
pub fn service_key(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.label(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(slice.namespace(), name))
}

fn generation(slice: &EndpointSlice) -> i64 {
    slice.metadata.generation.unwrap_or(0)
}

impl Tracker {
    /// The slice was written.
    pub fn written(&self, service: &ObjectKey, slice: &EndpointSlice) {
        self.services.lock().entry(service.clone()).or_default().insert(slice.uid().to_owned(), Known::Generation(generation(slice)));
    }

    /// The slice was deleted, which the informer has yet to tell.
    pub fn deleted(&self, service: &ObjectKey, slice: &EndpointSlice) {
        self.services.lock().entry(service.clone()).or_default().insert(slice.uid().to_owned(), Known::Deleted);
    }

    /// Whether the slice is in a state that was not written here.
    pub fn is_news(&self, slice: &EndpointSlice) -> bool {
        let services = self.services.lock();
        let known = service_key(slice).and_then(|key| services.get(&key)?.get(slice.uid()).copied());
        !matches!(known, Some(Known::Generation(known)) if generation(slice) <= known)
    }

    /// The informer tells that the slice is gone. Whether that was somebody else's doing.
    pub fn gone(&self, slice: &EndpointSlice) -> bool {
        let mut services = self.services.lock();
        let known = service_key(slice).and_then(|key| services.get_mut(&key)?.remove(slice.uid()));
        matches!(known, Some(Known::Generation(_)))
    }

    /// Whether the informer has not caught up with what was written for this service.
    pub fn is_stale<'a>(&self, service: &ObjectKey, slices: impl IntoIterator<Item = &'a EndpointSlice>) -> bool {
        let services = self.services.lock();
        let Some(known) = services.get(service) else { return false };
        let mut missing: HashMap<&str, ()> =
            known.iter().filter(|(_, known)| matches!(known, Known::Generation(_))).map(|(uid, _)| (uid.as_str(), ())).collect();
        for slice in slices {
            missing.remove(slice.uid());
            match known.get(slice.uid()) {
                Some(Known::Deleted) => return true,
                Some(Known::Generation(written)) if *written > generation(slice) => return true,
                _ => {}
            }
        }
        !missing.is_empty()
    }

    pub fn forget(&self, service: &ObjectKey) {
        self.services.lock().remove(service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(generation: i64) -> EndpointSlice {
        let mut slice = EndpointSlice::default();
        slice.metadata.namespace = Some("n".to_owned());
        slice.metadata.uid = Some("u".to_owned());
        slice.metadata.generation = Some(generation);
        slice.metadata.labels = Some([(SERVICE_NAME_LABEL.to_owned(), "s".to_owned())].into());
        slice
    }

    #[test]
    fn an_informer_that_lags_is_noticed() {
        let (tracker, key) = (Tracker::default(), ObjectKey::new("n", "s"));
        assert!(!tracker.is_stale(&key, []) && tracker.is_news(&slice(1)));
        tracker.written(&key, &slice(2));
        assert!(tracker.is_stale(&key, []));
        assert!(tracker.is_stale(&key, [&slice(1)]));
        assert!(!tracker.is_stale(&key, [&slice(2)]));
        assert!(!tracker.is_news(&slice(2)) && tracker.is_news(&slice(3)));
        tracker.deleted(&key, &slice(2));
        assert!(tracker.is_stale(&key, [&slice(2)]));
        assert!(!tracker.is_stale(&key, []));
        assert!(!tracker.gone(&slice(2)));
    }

    #[test]
    fn a_deletion_by_somebody_else_is_noticed() {
        let (tracker, key) = (Tracker::default(), ObjectKey::new("n", "s"));
        tracker.written(&key, &slice(2));
        assert!(tracker.gone(&slice(2)));
        assert!(!tracker.is_stale(&key, []));
    }
}
