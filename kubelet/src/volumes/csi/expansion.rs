//! Whether a volume that has become bigger is to be made bigger on this node too, and what its claim is told of that. Pure.
//!
//! Upstream: pkg/volume/util/operationexecutor/node_expander.go, pkg/volume/util/resize_util.go.

use apimachinery::quantity::Quantity as Amount;
use client::Object;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::driver::CallError;

const STORAGE: &str = "storage";
/// Says that a volume of many nodes need not be made bigger on each.
const NOT_REQUIRED: &str = "volume.kubernetes.io/node-expansion-not-required";
/// The conditions that tell of a resize.
const RESIZE_CONDITIONS: [&str; 4] = ["FileSystemResizePending", "Resizing", "ControllerResizeError", "NodeResizeError"];

/// What is to be done on this node.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: it has this size.
    Finished(Amount),
    /// Nothing, since the controller has not come so far, or has given up.
    NotYet,
    Call(Call),
}

/// The driver is to be asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    pub size: Amount,
    /// Whether the claim's status tells of the steps; older controllers do not know them.
    pub stepwise: bool,
    /// Whether the claim says already that it has the size: another node was first.
    pub is_told: bool,
    /// Whether a failure means that the controller shall take another size.
    pub give_up_on_failure: bool,
}

fn amount(text: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> Option<Amount> {
    text.and_then(|quantity| Amount::parse(&quantity.0).ok())
}

/// The size that a claim says its volume has.
pub fn told_size(claim: &PersistentVolumeClaim) -> Amount {
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    amount(capacity.and_then(|capacity| capacity.get(STORAGE))).unwrap_or_default()
}

/// What to do for a volume that is to have the size `desired`. `failed_before`: the driver has refused for good.
pub fn plan(claim: &PersistentVolumeClaim, desired: &Amount, failed_before: bool) -> Plan {
    let status = claim.status.clone().unwrap_or_default();
    let step = status.allocated_resource_statuses.as_ref().and_then(|steps| steps.get(STORAGE)).map_or("", String::as_str);
    let told = told_size(claim);
    let Some(allocated) = status.allocated_resources.as_ref().map(|sizes| amount(sizes.get(STORAGE))) else {
        if step.is_empty() {
            let is_told = told >= *desired;
            return Plan::Call(Call { size: desired.clone(), stepwise: false, is_told, give_up_on_failure: false });
        }
        return stepwise(claim, desired.clone(), step, &told, failed_before);
    };
    stepwise(claim, allocated.unwrap_or_else(|| desired.clone()), step, &told, failed_before)
}

fn stepwise(claim: &PersistentVolumeClaim, size: Amount, step: &str, told: &Amount, failed_before: bool) -> Plan {
    let spec = claim.spec.as_ref();
    let requests = spec.and_then(|spec| spec.resources.as_ref()).and_then(|resources| resources.requests.as_ref());
    let requested = amount(requests.and_then(|requests| requests.get(STORAGE))).unwrap_or_default();
    let is_told = *told >= size && step.is_empty();
    let give_up_on_failure = failed_before && requested != size;
    let call = |size| Plan::Call(Call { size, stepwise: true, is_told, give_up_on_failure });
    let many_nodes = spec.and_then(|spec| spec.access_modes.as_ref()).is_some_and(|modes| modes.iter().any(|mode| mode == "ReadWriteMany"));
    match step {
        "" if is_told && many_nodes && claim.annotation(NOT_REQUIRED).is_none() => call(size),
        "" if is_told => Plan::Finished(size),
        "NodeResizePending" | "NodeResizeInProgress" => call(size),
        _ => Plan::NotYet,
    }
}

/// Why a driver did not make a volume bigger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("NodeExpand is not supported by the CSI driver {0}")]
    NotSupported(String),
    /// Nobody was asked.
    #[error("{0}")]
    NotAsked(String),
    #[error("{}", call_message(.0))]
    Call(CallError),
}

fn call_message(error: &CallError) -> String {
    match is_infeasible(error.code) {
        true => format!("Expander.NodeExpand failed to expand the volume {error}"),
        false => format!("Expander.NodeExpand failed to expand the volume : {error}"),
    }
}

fn is_infeasible(code: tonic::Code) -> bool {
    matches!(code, tonic::Code::InvalidArgument | tonic::Code::OutOfRange | tonic::Code::NotFound)
}

/// Whether the driver is certainly not at it any more.
fn is_final(code: tonic::Code) -> bool {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable};
    !matches!(code, Cancelled | DeadlineExceeded | Unavailable | ResourceExhausted | Aborted)
}

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has the size; nobody need be told if nothing was done.
    Finished { by_driver: bool },
    /// The driver cannot do it while pods use the volume: it is not tried again here.
    InUse,
    Failed {
        /// What the claim is told, if the driver has spoken its last word.
        told: Option<Told>,
    },
}

/// What a claim is told of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Error,
    /// The controller is to take another size.
    Infeasible,
}

/// Judges the answer to a call.
pub fn outcome(call: &Call, answer: &Result<(), Refusal>) -> Outcome {
    let told = |infeasible: bool| Some(if infeasible || call.give_up_on_failure { Told::Infeasible } else { Told::Error });
    match answer {
        Ok(()) => Outcome::Finished { by_driver: true },
        Err(Refusal::NotSupported(_)) if call.is_told || !call.stepwise => Outcome::Finished { by_driver: false },
        Err(Refusal::NotSupported(_)) => Outcome::Failed { told: told(false) },
        Err(Refusal::NotAsked(_)) => Outcome::Failed { told: None },
        Err(Refusal::Call(error)) if error.code == tonic::Code::FailedPrecondition => Outcome::InUse,
        Err(Refusal::Call(error)) if call.stepwise && is_final(error.code) => Outcome::Failed { told: told(is_infeasible(error.code)) },
        Err(Refusal::Call(_)) => Outcome::Failed { told: None },
    }
}

/// The patch that says that the volume is being made bigger on the node.
pub fn in_progress(claim: &PersistentVolumeClaim) -> Value {
    json!({"metadata": {"resourceVersion": claim.metadata.resource_version},
        "status": {"allocatedResourceStatuses": {STORAGE: "NodeResizeInProgress"}}})
}

/// The patch that says that the volume has a new size.
pub fn finished(claim: &PersistentVolumeClaim, size: &Amount) -> Value {
    let conditions = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let others: Vec<&PersistentVolumeClaimCondition> =
        conditions.filter(|condition| !RESIZE_CONDITIONS.contains(&condition.type_.as_str())).collect();
    json!({"metadata": {"resourceVersion": claim.metadata.resource_version},
        "status": {"capacity": {STORAGE: size.canonical()}, "allocatedResourceStatuses": {STORAGE: null}, "conditions": others}})
}

/// The patch that says that the volume cannot be made bigger.
pub fn failed(claim: &PersistentVolumeClaim, told: Told, refusal: &Refusal, now: Timestamp) -> Value {
    const KIND: &str = "NodeResizeError";
    let mut conditions: Vec<PersistentVolumeClaimCondition> =
        claim.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let new = PersistentVolumeClaimCondition {
        type_: KIND.to_owned(),
        status: "True".to_owned(),
        message: Some(format!("failed to expand pvc with {refusal}")),
        last_transition_time: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
        ..PersistentVolumeClaimCondition::default()
    };
    match conditions.iter_mut().find(|condition| condition.type_ == KIND) {
        Some(known) if known.status == new.status => {}
        Some(known) => *known = new,
        None => conditions.push(new),
    }
    let mut status = json!({ "conditions": conditions });
    if told == Told::Infeasible {
        status["allocatedResourceStatuses"] = json!({STORAGE: "NodeResizeInfeasible"});
    }
    json!({ "status": status })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(modes: &[&str], status: Value) -> PersistentVolumeClaim {
        let spec = json!({"accessModes": modes, "resources": {"requests": {"storage": "2Gi"}}});
        serde_json::from_value(json!({"metadata": {"resourceVersion": "7"}, "spec": spec, "status": status})).expect("it is a claim")
    }

    fn size(text: &str) -> Amount {
        Amount::parse(text).expect("it is a quantity")
    }

    #[test]
    fn the_controllers_word_decides_whether_the_node_has_something_to_do() {
        let call = |text: &str, stepwise, is_told, give_up_on_failure| {
            Plan::Call(Call { size: size(text), stepwise, is_told, give_up_on_failure })
        };
        let old = json!({"capacity": {"storage": "1Gi"}});
        let at = |told: &str, step: &str| json!({"capacity": {"storage": told}, "allocatedResources": {"storage": "2Gi"}, "allocatedResourceStatuses": {"storage": step}});
        let done = json!({"capacity": {"storage": "2Gi"}, "allocatedResources": {"storage": "2Gi"}});
        for (modes, status, failed_before, expect) in [
            (&["ReadWriteOnce"][..], old, false, call("2Gi", false, false, false)),
            (&["ReadWriteOnce"], at("1Gi", "NodeResizePending"), false, call("2Gi", true, false, false)),
            (&["ReadWriteOnce"], at("1Gi", "NodeResizeInProgress"), true, call("2Gi", true, false, false)),
            (&["ReadWriteOnce"], at("1Gi", "ControllerResizeInProgress"), false, Plan::NotYet),
            (&["ReadWriteOnce"], at("1Gi", "NodeResizeInfeasible"), false, Plan::NotYet),
            (&["ReadWriteOnce"], done.clone(), false, Plan::Finished(size("2Gi"))),
            (&["ReadWriteMany"], done, false, call("2Gi", true, true, false)),
        ] {
            assert_eq!(plan(&claim(modes, status.clone()), &size("2Gi"), failed_before), expect, "{status}");
        }
        // Somebody wants another size meanwhile.
        let other = json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "3Gi"}, "allocatedResourceStatuses": {"storage": "NodeResizePending"}});
        assert_eq!(plan(&claim(&["ReadWriteOnce"], other), &size("3Gi"), true), call("3Gi", true, false, true));
    }

    #[test]
    fn a_drivers_answer_is_judged_by_its_code() {
        let refused = |code| Err(Refusal::Call(CallError { code, message: "x".to_owned() }));
        let call = |stepwise, is_told, give_up_on_failure| Call { size: size("2Gi"), stepwise, is_told, give_up_on_failure };
        let not_supported = || Err(Refusal::NotSupported("d".to_owned()));
        for (call, answer, expect) in [
            (call(true, false, false), Ok(()), Outcome::Finished { by_driver: true }),
            (call(true, true, false), not_supported(), Outcome::Finished { by_driver: false }),
            (call(false, false, false), not_supported(), Outcome::Finished { by_driver: false }),
            (call(true, false, false), not_supported(), Outcome::Failed { told: Some(Told::Error) }),
            (call(true, false, false), refused(tonic::Code::FailedPrecondition), Outcome::InUse),
            (call(true, false, false), refused(tonic::Code::OutOfRange), Outcome::Failed { told: Some(Told::Infeasible) }),
            (call(true, false, false), refused(tonic::Code::Internal), Outcome::Failed { told: Some(Told::Error) }),
            (call(true, false, true), refused(tonic::Code::Internal), Outcome::Failed { told: Some(Told::Infeasible) }),
            (call(true, false, false), refused(tonic::Code::Unavailable), Outcome::Failed { told: None }),
            (call(false, false, false), refused(tonic::Code::Internal), Outcome::Failed { told: None }),
        ] {
            assert_eq!(outcome(&call, &answer), expect, "{answer:?}");
        }
    }

    #[test]
    fn a_claim_is_told_of_the_end_whichever_it_is() {
        let conditions = json!([{"type": "FileSystemResizePending", "status": "True"}, {"type": "ModifyingVolume", "status": "True"}]);
        let claim = claim(&["ReadWriteOnce"], json!({ "conditions": conditions }));
        let done = finished(&claim, &size("2Gi"));
        assert_eq!(done["metadata"]["resourceVersion"], "7");
        assert_eq!(done["status"]["capacity"]["storage"], "2Gi");
        assert_eq!(done["status"]["allocatedResourceStatuses"], json!({ "storage": null }));
        assert_eq!(done["status"]["conditions"].as_array().expect("it is a list").len(), 1);
        let refusal = Refusal::Call(CallError { code: tonic::Code::OutOfRange, message: "too big".to_owned() });
        let failed = failed(&claim, Told::Infeasible, &refusal, Timestamp::UNIX_EPOCH);
        assert_eq!(failed["status"]["allocatedResourceStatuses"]["storage"], "NodeResizeInfeasible");
        let expect =
            "failed to expand pvc with Expander.NodeExpand failed to expand the volume rpc error: code = OutOfRange desc = too big";
        assert_eq!(failed["status"]["conditions"][2]["message"], expect);
    }
}
