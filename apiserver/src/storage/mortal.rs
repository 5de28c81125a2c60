//! Keys that are there only as long as somebody renews them: how processes on one store tell each other that they live.
//!
//! Owns nothing in memory: they are read from the store itself, seldom and few, and no resource's cache holds them.

use std::sync::Arc;

use bytes::Bytes;

use super::encrypted::Kind;
use super::store::{Change, Expected, Key, Store, StoreError, Txn};

/// The mortal keys below one prefix.
#[derive(Clone)]
pub struct Mortal {
    store: Arc<dyn Store>,
    prefix: &'static str,
}

impl Mortal {
    pub(super) fn new(store: Arc<dyn Store>, prefix: &'static str, kind: &Kind) -> Mortal {
        store.declare(prefix, kind);
        Mortal { store, prefix }
    }

    fn key(&self, name: &str) -> Key {
        Key::new(format!("{}/{name}", self.prefix))
    }

    /// Puts a value, to be gone after `ttl_seconds` unless it is put again.
    pub async fn renew(&self, name: &str, value: Bytes, ttl_seconds: u32) -> Result<(), StoreError> {
        let change = Change::Put { value, ttl_seconds: Some(ttl_seconds) };
        self.store.commit(Txn { key: self.key(name), change, expected: Expected::Any, plain: None }).await.map(|_| ())
    }

    /// Takes a key away. Says whether it was there.
    pub async fn remove(&self, name: &str) -> Result<bool, StoreError> {
        match self.store.commit(Txn::delete(self.key(name), Expected::Any)).await {
            Ok(_) => Ok(true),
            Err(StoreError::Absent { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The values of all who live, in the order of their keys. What cannot be decrypted is left out.
    pub async fn values(&self) -> Result<Vec<Bytes>, StoreError> {
        let loaded = self.store.load(&format!("{}/", self.prefix), None).await?;
        Ok(loaded.entries.into_iter().filter(|entry| entry.unreadable.is_none()).map(|entry| entry.value).collect())
    }
}
