//! ResourceClaims: each device is given once, and only to those who use it.

use std::collections::HashMap;

use super::Invariant;
use crate::api::kinds::{POD, RESOURCE_CLAIM};
use crate::api::state::{Change, State, What};
use crate::{devices, object};

/// No device is given to two claims, and a pod is bound only where its claims are given devices, reserved for it. At rest a claim that is
/// given devices is reserved, and for pods that are there and have not ended.
pub struct Devices;

impl Invariant for Devices {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let (object, name) = (&*change.object, &change.key.name);
        if change.what == What::Deleted {
            return Ok(());
        }
        if change.key.kind == RESOURCE_CLAIM && devices::is_allocated(object) {
            let mut owners: HashMap<(&str, &str), &str> = HashMap::new();
            for claim in state.list(RESOURCE_CLAIM, "") {
                for device in devices::given(claim) {
                    if let Some(other) = owners.insert(device, object::name(claim)) {
                        return Err(format!("{device:?} is given to claim {:?} and to claim {other:?}", object::name(claim)));
                    }
                }
            }
        }
        let node = object::text(object, "/spec/nodeName");
        let was_bound = change.old.as_deref().is_some_and(|old| !object::text(old, "/spec/nodeName").is_empty());
        if change.key.kind != POD || was_bound || node.is_empty() {
            return Ok(());
        }
        for claim in devices::claims(object) {
            let found = claim.and_then(|claim| state.get(RESOURCE_CLAIM, &change.key.namespace, claim));
            let is_given = found.is_some_and(|claim| {
                let is_here = devices::is_allocated(claim) && devices::given(claim).all(|(pool, _)| pool == node);
                is_here && devices::reserved(claim).any(|uid| uid == object::uid(object))
            });
            if !is_given {
                return Err(format!("pod {name:?} was put on {node:?} without the devices of its claim {claim:?}"));
            }
        }
        Ok(())
    }

    fn at_rest(&self, state: &State) -> Result<(), String> {
        for claim in state.list(RESOURCE_CLAIM, "") {
            let name = object::name(claim);
            if devices::is_allocated(claim) && devices::reserved(claim).next().is_none() {
                return Err(format!("claim {name:?} is given devices that nobody uses"));
            }
            for uid in devices::reserved(claim) {
                let pod = state.list(POD, object::namespace(claim)).find(|pod| object::uid(pod) == uid);
                if !pod.is_some_and(|pod| object::is_active(pod)) {
                    return Err(format!("claim {name:?} is reserved for a pod that is no more"));
                }
            }
        }
        Ok(())
    }
}
