//! Who has which devices: the claims of pods, what they are given, and what is left, told from all that there is.

use std::sync::Arc;

use serde_json::Value;

use crate::api::kinds::{RESOURCE_CLAIM, RESOURCE_SLICE};
use crate::api::state::State;
use crate::object;

/// The names of a pod's claims; nothing for one that is not made yet.
pub fn claims(pod: &Value) -> impl Iterator<Item = Option<&str>> {
    let made = object::list(pod, "/status/resourceClaimStatuses");
    object::list(pod, "/spec/resourceClaims").iter().map(move |asked| {
        let name = object::text(asked, "/resourceClaimName");
        if !name.is_empty() {
            return Some(name);
        }
        let status = made.iter().find(|status| object::text(status, "/name") == object::text(asked, "/name"))?;
        Some(object::text(status, "/resourceClaimName")).filter(|name| !name.is_empty())
    })
}

/// The devices that a claim is given, each by its pool and its name. A pool is a node's here.
pub fn given(claim: &Value) -> impl Iterator<Item = (&str, &str)> {
    let results = object::list(claim, "/status/allocation/devices/results").iter();
    results.map(|result| (object::text(result, "/pool"), object::text(result, "/device")))
}

pub fn is_allocated(claim: &Value) -> bool {
    claim.pointer("/status/allocation").is_some()
}

/// The uids of the pods that a claim is reserved for.
pub fn reserved(claim: &Value) -> impl Iterator<Item = &str> {
    object::list(claim, "/status/reservedFor").iter().map(|consumer| object::text(consumer, "/uid"))
}

fn count(claim: &Value) -> usize {
    let requests = object::list(claim, "/spec/devices/requests").iter();
    let counts = requests.map(|request| object::number_or(request, "/exactly/count", 1));
    usize::try_from(counts.sum::<i64>()).unwrap_or(usize::MAX)
}

/// Whether a node has the devices that a pod asks for. A claim that is given devices and reserved for nobody may be given others.
pub fn are_there(state: &State, pod: &Value, node: &str) -> bool {
    let mut own: Vec<&Arc<Value>> = Vec::new();
    for name in claims(pod) {
        let claim = name.and_then(|name| state.get(RESOURCE_CLAIM, object::namespace(pod), name));
        let Some(claim) = claim.filter(|claim| !object::is_terminating(claim)) else { return false };
        if is_allocated(claim) && reserved(claim).next().is_some() {
            if given(claim).any(|(pool, _)| pool != node) {
                return false;
            }
        } else {
            own.push(claim);
        }
    }
    let slices = state.list(RESOURCE_SLICE, "").filter(|slice| object::text(slice, "/spec/nodeName") == node);
    let all: usize = slices.map(|slice| object::list(slice, "/spec/devices").len()).sum();
    let others = state.list(RESOURCE_CLAIM, "").filter(|claim| !own.iter().any(|own| object::uid(own) == object::uid(claim)));
    let taken = others.flat_map(|claim| given(claim)).filter(|(pool, _)| *pool == node).count();
    own.iter().map(|claim| count(claim)).sum::<usize>() <= all.saturating_sub(taken)
}
