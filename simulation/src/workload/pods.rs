//! What happens to pods one by one: they fail, stop being ready and are deleted by hand.

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::Value;

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
    let state = &core.state;
    let is_stuck = |pod: &&Arc<Value>| {
        let is_never_ready = || !pod["metadata"]["annotations"][nodes::NEVER_READY].is_null();
        // A claim that is to go waits for the pods that use it.
        let is_going =
            |claim: &str| state.get(kinds::RESOURCE_CLAIM, object::namespace(pod), claim).is_some_and(|it| object::is_terminating(it));
        let stays = object::is_active(pod) && (is_never_ready() || constraints::is_waiting(pod));
        stays || devices::claims(pod).flatten().any(is_going)
    };
    let stuck = state.list(kinds::POD, "").filter(is_stuck);
    let keys: Vec<Key> = stuck.map(|pod| Key::new(kinds::POD, object::namespace(pod), object::name(pod))).collect();
    for key in keys {
        // It is there.
        let _ = core.delete(&Author::new(USER), &key, &Deletion::default());
    }
}
