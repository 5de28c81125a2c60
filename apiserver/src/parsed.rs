//! Small objects that are looked at again and again (namespaces, service accounts, policies), parsed once.
//!
//! A cache that can be lost at any time: it holds what the watch cache holds, as trees. Bounded in number and in the size of each.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

use crate::storage::Object;

/// When there are more, keeping starts anew.
const MAX_OBJECTS: usize = 256;
/// Bytes of the JSON of what is kept.
const MAX_BYTES: usize = 8 * 1024;

/// Lists that are longer are no lists of policies or quotas, and would push out what is.
const MAX_LISTED: usize = 32;

/// By the objects' addresses.
type Kept = HashMap<usize, (Arc<Object>, Arc<Value>)>;

/// See the module.
#[derive(Default)]
pub struct Parsed(RwLock<Kept>);

impl Parsed {
    /// The objects of a list as trees.
    pub fn values<'a>(&self, objects: impl Iterator<Item = &'a Arc<Object>>) -> Vec<Arc<Value>> {
        let objects: Vec<_> = objects.collect();
        let is_long = objects.len() > MAX_LISTED;
        objects.into_iter().map(|object| if is_long { Arc::new(object.value()) } else { self.value(object) }).collect()
    }

    /// The object as a tree.
    pub fn value(&self, object: &Arc<Object>) -> Arc<Value> {
        if object.json().len() > MAX_BYTES {
            return Arc::new(object.value());
        }
        // No other object can be at this address while this one is kept.
        let address = Arc::as_ptr(object) as usize;
        if let Some((_, value)) = self.0.read().get(&address) {
            return value.clone();
        }
        let value = Arc::new(object.value());
        let mut kept = self.0.write();
        if kept.len() >= MAX_OBJECTS {
            kept.clear();
        }
        kept.insert(address, (object.clone(), value.clone()));
        value
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::storage;

    #[test]
    fn an_object_is_parsed_once_and_another_revision_anew() {
        let object = |revision, size: usize| {
            Arc::new(storage::Object::of_value(&json!({ "metadata": { "name": "a" }, "x": "y".repeat(size) }), revision))
        };
        let parsed = Parsed::default();
        let (first, second, large) = (object(1, 1), object(2, 1), object(3, MAX_BYTES));
        assert!(Arc::ptr_eq(&parsed.value(&first), &parsed.value(&first)));
        assert_eq!(parsed.value(&second)["metadata"]["resourceVersion"], "2");
        assert!(!Arc::ptr_eq(&parsed.value(&large), &parsed.value(&large)));
        for revision in 0..=MAX_OBJECTS as u64 {
            parsed.value(&object(revision, 1));
        }
        assert!(parsed.0.read().len() <= MAX_OBJECTS);
        let long: Vec<_> = (0..=MAX_LISTED as u64).map(|revision| object(revision, 1)).collect();
        let parsed = Parsed::default();
        assert_eq!(parsed.values(long.iter()).len(), long.len());
        assert_eq!(parsed.0.read().len(), 0, "a long list is not kept");
    }
}
