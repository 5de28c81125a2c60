//! What a controller has written and its informer has not shown yet: until then it would decide on what is past.

use std::collections::HashMap;
use std::time::Duration;

use client::{Object, ObjectKey};
use parking_lot::Mutex;

/// A write that has not come back is looked for again after this long, in case no event tells of it.
pub const UNSEEN_RETRY: Duration = Duration::from_secs(1);

/// The last own write to each object; forgotten as soon as it is seen, so bounded by the number of objects.
#[derive(Default)]
pub struct OwnWrites {
    written: Mutex<HashMap<ObjectKey, (String, u64)>>,
}

/// Revisions are numbers that grow; one that is not says nothing.
fn revision(object: &impl Object) -> Option<u64> {
    k8s_openapi::Metadata::metadata(object).resource_version.as_deref()?.parse().ok()
}

impl OwnWrites {
    /// Notes what the server answered to a write.
    pub fn note(&self, written: &impl Object) {
        if let Some(revision) = revision(written) {
            self.written.lock().insert(written.key(), (written.uid().to_owned(), revision));
        }
    }

    /// Whether this local copy is at least as new as the last own write.
    pub fn are_seen_in(&self, known: &impl Object) -> bool {
        let mut written = self.written.lock();
        let seen = match (written.get(&known.key()), revision(known)) {
            (Some((uid, wrote)), Some(knows)) => uid != known.uid() || *wrote <= knows,
            _ => true,
        };
        if seen {
            written.remove(&known.key());
        }
        seen
    }

    /// The object is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.written.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(uid: &str, revision: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some("a".to_owned());
        object.metadata.uid = Some(uid.to_owned());
        object.metadata.resource_version = Some(revision.to_owned());
        object
    }

    #[test]
    fn a_copy_older_than_the_last_write_is_not_good_enough() {
        let writes = OwnWrites::default();
        assert!(writes.are_seen_in(&object("u", "5")));
        writes.note(&object("u", "10"));
        assert!(!writes.are_seen_in(&object("u", "9")));
        assert!(writes.are_seen_in(&object("v", "9")));
        writes.note(&object("u", "10"));
        assert!(writes.are_seen_in(&object("u", "10")));
        assert!(writes.are_seen_in(&object("u", "9")));
    }
}
