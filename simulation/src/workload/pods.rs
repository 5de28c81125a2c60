//! What happens to pods one by one: they fail, stop being ready and are deleted by hand.

use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::{USER, constraints};
use crate::api::core::{Core, Deletion};
use crate::api::kinds;
use crate::api::state::{Author, Key};
use crate::devices;
use crate::nodes;
use crate::object;

/// Some pod that runs.
pub fn any(rng: &mut SmallRng, core: &Core) -> Option<Key> {
    let running = core.state.list(kinds::POD, "").filter(|pod| object::is_active(pod) && object::text(pod, "/status/phase") == "Running");
    let keys: Vec<Key> = running.map(|pod| Key::new(kinds::POD, object::namespace(pod), object::name(pod))).collect();
    keys.choose(rng).cloned()
}

pub fn disturb(rng: &mut SmallRng, core: &mut Core) {
    let Some(key) = any(rng, core) else { return };
    match rng.random_range(0..3) {
        0 => nodes::end(core, &key, 1),
        1 => nodes::set_ready(core, &key, false),
        _ => {
            // It runs, so it is there.
            let _ = core.delete(&Author::new(USER), &key, &Deletion::default());
        }
    }
}

/// Deletes what will never be ready and that nobody replaces by itself, as people have to do.
pub fn remove_stuck(core: &mut Core) {
    let is_never_ready = |pod: &serde_json::Value| !pod["metadata"]["annotations"][nodes::NEVER_READY].is_null();
    let is_stuck =
        |pod: &&std::sync::Arc<serde_json::Value>| object::is_active(pod) && (is_never_ready(pod) || constraints::is_waiting(pod));
    // A claim that is to go waits for the pods that use it.
    let is_going = |claim: &str, namespace: &str| {
        core.state.get(kinds::RESOURCE_CLAIM, namespace, claim).is_some_and(|claim| object::is_terminating(claim))
    };
    let is_stuck = |pod: &&std::sync::Arc<serde_json::Value>| {
        is_stuck(pod) || devices::claims(pod).any(|claim| claim.is_some_and(|claim| is_going(claim, object::namespace(pod))))
    };
    let stuck = core.state.list(kinds::POD, "").filter(is_stuck);
    let keys: Vec<Key> = stuck.map(|pod| Key::new(kinds::POD, object::namespace(pod), object::name(pod))).collect();
    for key in keys {
        // It is there.
        let _ = core.delete(&Author::new(USER), &key, &Deletion::default());
    }
}
