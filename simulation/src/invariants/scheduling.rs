//! Pods on nodes: bound once, and not more than fit.

use serde_json::Value;

use super::Invariant;
use crate::api::kinds::{NODE, POD};
use crate::api::state::{Change, State, What};
use crate::object;

/// Thousandths of a processor.
fn milli_cpus(quantity: &Value) -> i64 {
    let text = quantity.as_str().unwrap_or("0");
    match text.strip_suffix('m') {
        Some(milli) => milli.parse().unwrap_or(0),
        None => text.parse::<i64>().unwrap_or(0) * 1000,
    }
}

fn asked(pod: &Value) -> i64 {
    object::list(pod, "/spec/containers").iter().map(|container| milli_cpus(&container["resources"]["requests"]["cpu"])).sum()
}

/// A pod stays on the node that it is bound to, and the pods that are bound to a node and have not ended ask for no more than it has.
pub struct Placement;

impl Invariant for Placement {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        if change.key.kind != POD || change.what == What::Deleted {
            return Ok(());
        }
        let (name, pod) = (&change.key.name, &*change.object);
        let node = object::text(pod, "/spec/nodeName");
        let before = change.old.as_deref().map_or("", |old| object::text(old, "/spec/nodeName"));
        if before == node {
            return Ok(());
        }
        if !before.is_empty() {
            return Err(format!("pod {name:?} was on {before:?} and now is on {node:?}"));
        }
        let Some(found) = state.get(NODE, "", node) else { return Ok(()) };
        let there = state.list(POD, "").filter(|pod| object::text(pod, "/spec/nodeName") == node && !object::is_ended(pod));
        let there: Vec<_> = there.map(|pod| (object::name(pod), asked(pod))).collect();
        let (count, sum) = there.iter().fold((0, 0), |(count, sum), (_, asked)| (count + 1, sum + asked));
        let has = milli_cpus(&found["status"]["allocatable"]["cpu"]);
        let most: i64 = object::text(found, "/status/allocatable/pods").parse().unwrap_or(0);
        if sum > has || count > most {
            return Err(format!("pod {name:?} was put on {node:?}, which has {has}m: {count} pods ask for {sum}m, {there:?}"));
        }
        Ok(())
    }
}
