//! The claims of a pod: which they are, whether they are its own, and whether it may have them.
//!
//! Specified by upstream's `dynamic-resource-allocation/resourceclaim` (v1.37).

use std::sync::Arc;
use std::time::Duration;

use client::Object;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceClaim, DeviceRequestAllocationResult, ResourceClaim, ResourceClaimConsumerReference,
};
use k8s_openapi::jiff::Timestamp;

use super::{Devices, full_name};
use crate::snapshot::pod::spec;

/// What a claim asks for.
pub fn asked(claim: &ResourceClaim) -> Option<&DeviceClaim> {
    claim.spec.as_ref()?.devices.as_ref()
}

pub fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

pub fn results(allocation: &AllocationResult) -> &[DeviceRequestAllocationResult] {
    allocation.devices.as_ref().and_then(|devices| devices.results.as_deref()).unwrap_or_default()
}

pub fn reserved(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default()
}

pub fn is_reserved_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    reserved(claim).iter().any(|consumer| consumer.uid == pod.uid())
}

/// Whether the pod has claims at all.
pub fn has_any(pod: &Pod) -> bool {
    spec(pod).resource_claims.as_ref().is_some_and(|claims| !claims.is_empty())
}

/// The name of the claim, and whether it was made for the pod; nothing if the pod does without it.
fn name(pod: &Pod, request: &PodResourceClaim) -> Result<Option<(String, bool)>, String> {
    let of = full_name(pod);
    if let Some(name) = &request.resource_claim_name {
        return Ok(Some((name.clone(), false)));
    }
    if request.resource_claim_template_name.is_none() {
        let name = &request.name;
        return Err(format!("pod \"{of}\", spec.resourceClaim {name:?}: none of the supported fields are set"));
    }
    let statuses = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    match statuses.into_iter().find(|status| status.name == request.name) {
        Some(status) => Ok(status.resource_claim_name.clone().map(|name| (name, true))),
        None => Err(format!("pod \"{of}\": ResourceClaim not created yet")),
    }
}

/// The pod's claims, each once.
///
/// # Errors
/// Why the pod has to wait.
pub fn of_pod(devices: &Devices, pod: &Pod) -> Result<Vec<Arc<ResourceClaim>>, String> {
    let mut claims: Vec<Arc<ResourceClaim>> = Vec::new();
    for request in spec(pod).resource_claims.iter().flatten() {
        let Some((name, is_own)) = name(pod, request)? else { continue };
        let namespace = pod.namespace();
        let claim = devices.claim(namespace, &name).ok_or_else(|| format!("could not find ResourceClaim \"{namespace}/{name}\""))?;
        if claim.is_terminating() {
            return Err(format!("resourceclaim {name:?} is being deleted"));
        }
        if is_own && !claim.is_controlled_by(pod.uid()) {
            let (claim, pod) = (full_name(&**claim), full_name(pod));
            return Err(format!("ResourceClaim {claim} was not created for Pod {pod} (Pod is not owner)"));
        }
        if claims.iter().all(|known| known.name() != claim.name()) {
            claims.push(claim.clone());
        }
    }
    Ok(claims)
}

fn status_of<'a>(claim: &'a ResourceClaim, result: &DeviceRequestAllocationResult) -> Option<&'a AllocatedDeviceStatus> {
    let devices = claim.status.as_ref()?.devices.as_ref()?;
    devices.iter().find(|d| d.device == result.device && d.driver == result.driver && d.pool == result.pool)
}

/// Whether any device of the claim has to be made ready before the pod is bound.
pub fn has_conditions(claim: &ResourceClaim) -> bool {
    let waits = |result: &DeviceRequestAllocationResult| result.binding_conditions.as_ref().is_some_and(|c| !c.is_empty());
    allocation(claim).is_some_and(|allocation| results(allocation).iter().any(waits))
}

/// Whether all devices of the claim are ready.
///
/// # Errors
/// A device will not get ready.
pub fn is_ready(claim: &ResourceClaim) -> Result<bool, String> {
    let Some(allocation) = allocation(claim) else { return Ok(false) };
    for result in results(allocation) {
        let wanted = result.binding_conditions.as_deref().unwrap_or_default();
        if wanted.is_empty() {
            continue;
        }
        let Some(status) = status_of(claim, result) else { return Ok(false) };
        let find =
            |kind: &String| status.conditions.iter().flatten().find(|condition| condition.type_ == *kind && condition.status == "True");
        if let Some(failed) = result.binding_failure_conditions.iter().flatten().find_map(find) {
            let (name, reason, message) = (claim.name(), &failed.reason, &failed.message);
            return Err(format!("device binding failed: claim={name}, reason={reason}, message={message:?}"));
        }
        if wanted.iter().any(|kind| find(kind).is_none()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the claim's devices have had so long to get ready.
pub fn is_late(claim: &ResourceClaim, timeout: Duration, now: Timestamp) -> bool {
    let Some(since) = allocation(claim).and_then(|allocation| allocation.allocation_timestamp.as_ref()) else { return false };
    has_conditions(claim) && now.as_second().saturating_sub(since.0.as_second()) > i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::of;

    /// Requests of a pod, what its status says of them, and the claims that they mean.
    type Row<'a> = (Value, Value, Result<Vec<&'a str>, &'a str>);

    fn pod(claims: Value, statuses: Value) -> Arc<Pod> {
        of(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": [], "resourceClaims": claims},
            "status": {"resourceClaimStatuses": statuses}}))
    }

    #[test]
    fn a_pod_waits_for_claims_that_are_its_own() {
        let mut devices = Devices::default();
        let owner = |uid: &str| json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]);
        for claim in [
            json!({"metadata": {"name": "a", "namespace": "d"}}),
            json!({"metadata": {"name": "own", "namespace": "d", "ownerReferences": owner("u")}}),
            json!({"metadata": {"name": "other", "namespace": "d", "ownerReferences": owner("v")}}),
            json!({"metadata": {"name": "going", "namespace": "d", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        ] {
            let mut claim = claim;
            claim["spec"] = json!({});
            devices.claim_is(of(claim));
        }
        let named = |name: &str| json!([{"name": "r", "resourceClaimName": name}]);
        let made = json!([{"name": "r", "resourceClaimTemplateName": "t"}]);
        let status = |name: &str| json!([{"name": "r", "resourceClaimName": name}]);
        let table: [Row<'_>; 8] = [
            (named("a"), json!([]), Ok(vec!["a"])),
            (named("none"), json!([]), Err("could not find ResourceClaim \"d/none\"")),
            (named("going"), json!([]), Err("resourceclaim \"going\" is being deleted")),
            (made.clone(), json!([]), Err("pod \"d/p\": ResourceClaim not created yet")),
            (made.clone(), json!([{"name": "r"}]), Ok(vec![])),
            (made.clone(), status("own"), Ok(vec!["own"])),
            (made, status("other"), Err("ResourceClaim d/other was not created for Pod d/p (Pod is not owner)")),
            (json!([{"name": "r"}]), json!([]), Err("pod \"d/p\", spec.resourceClaim \"r\": none of the supported fields are set")),
        ];
        for (claims, statuses, expected) in table {
            let got = of_pod(&devices, &pod(claims.clone(), statuses));
            let names = got.map(|claims| claims.iter().map(|claim| claim.name().to_owned()).collect::<Vec<_>>());
            assert_eq!(names, expected.map(|names| names.into_iter().map(str::to_owned).collect()).map_err(str::to_owned), "{claims}");
        }
    }

    #[test]
    fn devices_are_ready_when_all_their_conditions_hold() {
        let claim = |conditions: Value| -> Arc<ResourceClaim> {
            let result = json!({"request": "r", "driver": "d", "pool": "p", "device": "x", "bindingConditions": ["Ready"], "bindingFailureConditions": ["Broken"]});
            of(
                json!({"metadata": {"name": "c"}, "spec": {}, "status": {"allocation": {"allocationTimestamp": "2026-01-01T00:00:00Z", "devices": {"results": [result]}},
                "devices": [{"driver": "d", "pool": "p", "device": "x", "conditions": conditions}]}}),
            )
        };
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        assert_eq!(is_ready(&claim(json!([]))), Ok(false));
        assert_eq!(is_ready(&claim(json!([condition("Ready", "False")]))), Ok(false));
        assert_eq!(is_ready(&claim(json!([condition("Ready", "True")]))), Ok(true));
        let failed = is_ready(&claim(json!([condition("Ready", "True"), condition("Broken", "True")])));
        assert_eq!(failed, Err("device binding failed: claim=c, reason=R, message=\"m\"".to_owned()));
        let since = Timestamp::from_second(1_767_225_600).unwrap();
        let after = |seconds: i64| {
            is_late(&claim(json!([])), Duration::from_secs(600), Timestamp::from_second(since.as_second() + seconds).unwrap())
        };
        assert!(!after(600) && after(601));
    }
}
