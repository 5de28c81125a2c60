//! Owners and what they own.

use std::collections::HashSet;

use super::{Invariant, is_controllers};
use crate::api::kinds::{KINDS, NAMESPACE, REPLICA_SET};
use crate::api::state::{Change, State, What};
use crate::object;

/// A ReplicaSet with pods is not deleted with a Deployment that was to leave it behind, if it was there when that was said. One that the
/// controller makes afterwards, because it does not know yet, may come when the collector has looked: upstream deletes it then, too.
#[derive(Default)]
pub struct Orphans {
    /// Uids of owners that are deleted so.
    leaving: HashSet<String>,
    /// Uids of ReplicaSets that came afterwards.
    late: HashSet<String>,
}

impl Invariant for Orphans {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let object = &*change.object;
        let leaves = object::list(object, "/metadata/finalizers").iter().any(|finalizer| finalizer == "orphan");
        if leaves && object::is_terminating(object) {
            self.leaving.insert(object::uid(object).to_owned());
        }
        if change.key.kind != REPLICA_SET || change.what == What::Modified || !is_controllers(change) {
            return Ok(());
        }
        let was_left = object::controller(object).is_some_and(|owner| self.leaving.contains(owner));
        if change.what == What::Added {
            if was_left {
                self.late.insert(object::uid(object).to_owned());
            }
            return Ok(());
        }
        // A namespace takes all with it.
        let home = state.get(NAMESPACE, "", &change.key.namespace);
        let goes_with_all = home.is_none_or(|home| object::is_terminating(home));
        let is_late = self.late.contains(object::uid(object));
        if !was_left || is_late || goes_with_all || object::number(object, "/spec/replicas") == 0 {
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::api::kinds::DEPLOYMENT;
    use crate::api::state::{Author, Key};

    /// What is said of a ReplicaSet that is deleted, made before or after its Deployment was to leave it.
    fn deleted(is_late: bool) -> Result<(), String> {
        let (mut state, mut orphans) = (State::default(), Orphans::default());
        let deployment = json!({"metadata": {"uid": "d", "deletionTimestamp": "2030-01-01T00:00:00Z", "finalizers": ["orphan"]}});
        let set = json!({"metadata": {"uid": "s", "ownerReferences": [{"uid": "d", "controller": true}]}, "spec": {"replicas": 1}});
        let mut steps = vec![(DEPLOYMENT, deployment, false), (REPLICA_SET, set.clone(), false)];
        if !is_late {
            steps.reverse();
        }
        steps.push((REPLICA_SET, set, true));
        let author = Author::new("kube-controller-manager-0.1");
        state.write(Key::new(NAMESPACE, "", "n"), json!({"metadata": {"name": "n"}}), false, &author, Instant::now());
        steps.into_iter().try_for_each(|(kind, object, gone)| {
            let change = state.write(Key::new(kind, "n", "x"), object, gone, &author, Instant::now());
            orphans.changed(&state, &change)
        })
    }

    #[test]
    fn what_was_to_be_left_is_not_deleted_but_what_came_afterwards_may_be() {
        assert!(deleted(false).is_err());
        assert_eq!(deleted(true), Ok(()));
    }
}
