//! Owners and what they own.

use std::collections::HashSet;

use super::{Invariant, is_controllers};
use crate::api::kinds::{KINDS, NAMESPACE, REPLICA_SET};
use crate::api::state::{Change, State, What};
use crate::object;

/// A ReplicaSet with pods is not deleted with a Deployment that was to leave it behind.
#[derive(Default)]
pub struct Orphans {
    /// Uids of owners that are deleted so.
    leaving: HashSet<String>,
}

impl Invariant for Orphans {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let object = &*change.object;
        let leaves = object::list(object, "/metadata/finalizers").iter().any(|finalizer| finalizer == "orphan");
        if leaves && object::is_terminating(object) {
            self.leaving.insert(object::uid(object).to_owned());
        }
        if change.key.kind != REPLICA_SET || change.what != What::Deleted || !is_controllers(change) {
            return Ok(());
        }
        // A namespace takes all with it.
        let home = state.get(NAMESPACE, "", &change.key.namespace);
        let goes_with_all = home.is_none_or(|home| object::is_terminating(home));
        let was_left = object::controller(object).is_some_and(|owner| self.leaving.contains(owner));
        if !was_left || goes_with_all || object::number(object, "/spec/replicas") == 0 {
            return Ok(());
        }
        Err(format!("ReplicaSet {:?} was deleted with an owner that was to leave it", change.key.name))
    }
}

/// At rest nothing is being deleted, every owner that an object names is there, and so is every namespace.
pub struct Owners;

impl Invariant for Owners {
    fn at_rest(&self, state: &State) -> Result<(), String> {
        let uids: HashSet<&str> = state.all().map(|(_, object)| object::uid(object)).collect();
        for (key, object) in state.all() {
            let kind = KINDS[key.kind].kind;
            if object::is_terminating(object) {
                return Err(format!("{kind} {:?} is being deleted still", key.name));
            }
            for owner in object::list(object, "/metadata/ownerReferences") {
                if !uids.contains(object::text(owner, "/uid")) {
                    return Err(format!("the owner {:?} of {kind} {:?} is gone", object::text(owner, "/name"), key.name));
                }
            }
            let has_home = key.namespace.is_empty() || state.get(crate::api::kinds::NAMESPACE, "", &key.namespace).is_some();
            // Events may come after the end of what they tell of.
            if !has_home && kind != "Event" {
                return Err(format!("{kind} {:?} has outlived its namespace {:?}", key.name, key.namespace));
            }
        }
        Ok(())
    }
}
