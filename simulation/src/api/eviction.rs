//! Evictions: deletions of pods that their budgets allow.

use serde_json::Value;

use super::core::{Core, Deletion, Part};
use super::failure::{Failure, Result};
use super::kinds;
use super::prepare::set_condition;
use super::state::{Author, Key};
use crate::object;

/// Deletes a pod if its budget has room for it, which is then taken.
pub fn evict(core: &mut Core, by: &Author, namespace: &str, name: &str) -> Result<()> {
    let pod = core.get(kinds::POD, namespace, name)?;
    let key = Key::new(kinds::POD, namespace, name);
    let only = Deletion { uid: Some(object::uid(&pod).to_owned()), ..Deletion::default() };
    let counts = !object::is_ended(&pod) && !object::is_terminating(&pod) && object::text(&pod, "/status/phase") != "Pending";
    let budgets = core.state.list(kinds::POD_DISRUPTION_BUDGET, namespace);
    let budgets = budgets.filter(|budget| object::matches(budget.pointer("/spec/selector"), &pod)).cloned();
    let budgets: Vec<_> = budgets.collect();
    if budgets.len() > 1 {
        return Err(Failure::internal_error());
    }
    if let Some(budget) = budgets.into_iter().next().filter(|_| counts) {
        let status = |field: &str| object::number(&budget, &format!("/status/{field}"));
        let has_enough = status("desiredHealthy") > 0 && status("currentHealthy") >= status("desiredHealthy");
        if object::is_ready(&pod) || !has_enough {
            let is_known = status("observedGeneration") >= object::number(&budget, "/metadata/generation");
            if !is_known || status("disruptionsAllowed") <= 0 {
                return Err(Failure::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget."));
            }
            let time = core.time();
            let budget_key = Key::new(kinds::POD_DISRUPTION_BUDGET, namespace, object::name(&budget));
            core.change(&by.name, &budget_key, Part::Status, |budget: &mut Value| {
                budget["status"]["disruptionsAllowed"] = (object::number(budget, "/status/disruptionsAllowed") - 1).into();
                budget["status"]["disruptedPods"][name] = time;
            });
        }
    }
    let time = core.time();
    core.change(&by.name, &key, Part::Status, |pod| set_condition(pod, "DisruptionTarget", "True", time));
    core.delete(by, &key, &only).map(drop)
}
