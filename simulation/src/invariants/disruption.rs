//! PodDisruptionBudgets: evictions leave enough pods.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::Invariant;
use super::lately::{Events, Lately};
use crate::api::kinds::{POD, POD_DISRUPTION_BUDGET};
use crate::api::state::{Change, State, What};
use crate::object;

fn healthy<'a>(state: &'a State, budget: &'a Value) -> impl Iterator<Item = &'a Arc<Value>> + 'a {
    let pods = state.list(POD, object::namespace(budget));
    pods.filter(|pod| object::is_active(pod) && object::is_ready(pod) && object::matches(budget.pointer("/spec/selector"), pod))
}

/// Whenever an eviction takes room from a budget, as many pods are healthy as the budget wants, that one left out, but for those that
/// were lately lost otherwise. At rest a budget tells how many are.
#[derive(Default)]
pub struct Budgets {
    desired: HashMap<String, Lately<i64>>,
    /// By namespace: readiness that was lost.
    lost: HashMap<String, Events>,
}

impl Invariant for Budgets {
    fn changed(&mut self, state: &State, change: &Change) -> Result<(), String> {
        let (object, now) = (&*change.object, change.at);
        if change.key.kind == POD {
            let was = change.old.as_deref().is_some_and(|old| object::is_active(old) && object::is_ready(old));
            let is = change.what != What::Deleted && object::is_active(object) && object::is_ready(object);
            if was && !is && change.by.name.as_ref() != crate::workload::USER {
                self.lost.entry(change.key.namespace.clone()).or_default().add(now);
            }
        }
        if change.key.kind != POD_DISRUPTION_BUDGET || change.what == What::Deleted {
            return Ok(());
        }
        let desired = object::number(object, "/status/desiredHealthy");
        let known = self.desired.entry(object::uid(object).to_owned()).or_insert_with(|| Lately::new(desired));
        known.set(now, desired);
        let room = |budget: &Value| object::number(budget, "/status/disruptionsAllowed");
        let is_eviction = change.by.name.as_ref() == crate::workload::USER
            && change.old.as_deref().is_some_and(|old| room(old) > room(object) && old["spec"] == object["spec"]);
        if !is_eviction {
            return Ok(());
        }
        let left = i64::try_from(healthy(state, object).count()).unwrap_or(0) - 1;
        let lost = self.lost.get(&change.key.namespace).map_or(0, |lost| lost.count(now));
        let desired = known.all(now).copied().min().unwrap_or(0);
        if left + i64::try_from(lost).unwrap_or(0) >= desired {
            return Ok(());
        }
        Err(format!("budget {:?} wants {desired} healthy pods and let one go of {}", change.key.name, left + 1))
    }

    fn at_rest(&self, state: &State) -> Result<(), String> {
        for budget in state.list(POD_DISRUPTION_BUDGET, "") {
            // Of several budgets over the same pods only one is kept up to date, as upstream has it.
            let others = state.list(POD_DISRUPTION_BUDGET, object::namespace(budget));
            if others.filter(|other| other["spec"]["selector"] == budget["spec"]["selector"]).count() > 1 {
                continue;
            }
            let (healthy, told) = (healthy(state, budget).count(), object::number(budget, "/status/currentHealthy"));
            if usize::try_from(told).unwrap_or(0) != healthy {
                return Err(format!("budget {:?} tells of {told} healthy pods, there are {healthy}", object::name(budget)));
            }
        }
        Ok(())
    }
}
