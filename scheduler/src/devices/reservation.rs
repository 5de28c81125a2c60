//! Writes what is decided about claims: their allocation, and for whom they are, before the pod is bound. Decides nothing; what it writes
//! is worked out by [`next`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::answer::{is_conflict, is_not_found};
use client::{Object, ObjectKey, clock};
use k8s_openapi::api::core::v1::{Pod, PodExtendedResourceClaimStatus};
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim, ResourceClaimConsumerReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::claims::{allocation, has_conditions, is_late, is_ready, reserved, results};
use super::extended::Mappings;
use super::full_name;
use crate::binding::told;
use crate::metrics::{Id, Metrics};

const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Somebody else may write a claim too: then it is read and written again, so often and after such pauses.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);
/// How often devices are looked at while they get ready.
const POLL: Duration = Duration::from_secs(5);

/// A claim that is to be made for a pod's extended resources.
#[derive(Clone, Debug)]
pub struct Made {
    pub claim: ResourceClaim,
    pub allocation: AllocationResult,
    /// Which containers mean which of its requests.
    pub mappings: Mappings,
}

/// What a pod's claims need before the pod is bound.
#[derive(Clone, Debug)]
pub struct Reservation {
    /// Claims that are not reserved for the pod yet, with their allocations if they have none.
    pub claims: Vec<(Arc<ResourceClaim>, Option<AllocationResult>)>,
    pub made: Option<Made>,
    /// All claims of the pod.
    pub all: Vec<ObjectKey>,
    /// Devices that the pod has already may have to get ready.
    pub waits: bool,
    /// How long devices may take to get ready.
    pub timeout: Duration,
    /// The profile that has decided it.
    pub profile: String,
}

/// The next request for a claim.
#[derive(Clone, Debug, PartialEq)]
enum Next {
    AddFinalizer(ResourceClaim),
    WriteStatus(ResourceClaim),
}

/// What a claim has to become for the pod, one request at a time. `name` is what messages call it.
fn next(claim: &ResourceClaim, pod: &Pod, allocation: Option<&AllocationResult>, now: Timestamp) -> Result<Next, String> {
    let name = full_name(claim);
    if claim.is_terminating() {
        return Err(format!("claim {name} got deleted in the meantime"));
    }
    let mut claim = claim.clone();
    let status = claim.status.get_or_insert_default();
    if let Some(allocation) = allocation {
        if status.allocation.is_some() {
            return Err(format!("claim {name} got allocated elsewhere in the meantime"));
        }
        let finalizers = claim.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
            return Ok(Next::AddFinalizer(claim));
        }
        status.allocation = Some(allocation.clone());
    }
    let Some(allocation) = &mut status.allocation else {
        return Err(format!("claim {name} got deallocated elsewhere in the meantime"));
    };
    // The API has whole seconds.
    allocation.allocation_timestamp.get_or_insert_with(|| Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    let (name, uid) = (pod.name().to_owned(), pod.uid().to_owned());
    let consumer = ResourceClaimConsumerReference { api_group: None, resource: "pods".to_owned(), name, uid };
    status.reserved_for.get_or_insert_default().push(consumer);
    Ok(Next::WriteStatus(claim))
}

fn api(client: &Client, namespace: &str) -> Api<ResourceClaim> {
    Api::namespaced(client.clone(), namespace)
}

/// Writes one claim; what it is then.
async fn write(
    client: &Client,
    pod: &Pod,
    claim: &Arc<ResourceClaim>,
    allocation: Option<&AllocationResult>,
) -> Result<ResourceClaim, String> {
    let claims = api(client, claim.namespace());
    let (name, params) = (full_name(&**claim), PostParams::default());
    let mut current = ResourceClaim::clone(claim);
    let mut tries = 0;
    loop {
        let (written, what, is_last) = match next(&current, pod, allocation, clock::now())? {
            Next::AddFinalizer(claim) => (claims.replace(claim.name(), &params, &claim).await, "add finalizer to claim", false),
            Next::WriteStatus(claim) => {
                let what = if allocation.is_some() { "add allocation and reservation to claim" } else { "add reservation to claim" };
                (claims.replace_status(claim.name(), &params, &claim).await, what, true)
            }
        };
        match written {
            Ok(written) if is_last => return Ok(written),
            Ok(written) => current = written,
            Err(error) if is_conflict(&error) && tries + 1 < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
                let latest = claims.get(claim.name()).await;
                current = latest.map_err(|error| format!("get updated claim {name} after conflict: {}", told(error)))?;
            }
            Err(error) => return Err(format!("{what} {name}: {}", told(error))),
        }
    }
}

/// Makes the claim for a pod's extended resources. `created` is set as soon as there is one, which has to go if anything fails after that.
async fn make(
    client: &Client,
    pod: &Pod,
    made: &Made,
    created: &mut Option<ResourceClaim>,
    metrics: &Metrics,
) -> Result<ResourceClaim, String> {
    let namespace = pod.namespace();
    let answer = api(client, namespace).create(&PostParams::default(), &made.claim).await;
    metrics.add(Id::ClaimCreates, &[if answer.is_ok() { "success" } else { "failure" }, "false", "", "Pod"], 1.0);
    let claim = answer.map_err(|error| format!("create claim for extended resources {namespace}/: {}", told(error)))?;
    *created = Some(claim.clone());
    let written = write(client, pod, &Arc::new(claim), Some(&made.allocation)).await?;
    let status = PodExtendedResourceClaimStatus { request_mappings: made.mappings.clone(), resource_claim_name: written.name().to_owned() };
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"extendedResourceClaimStatus": status}});
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patched = pods.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(&patch)).await;
    patched.map_err(|error| format!("update pod {namespace}/{} ExtendedResourceClaimStatus: {}", pod.name(), told(error)))?;
    Ok(written)
}

/// Reserves the claims for the pod. `created` is the claim that was made for its extended resources, if one was; `tell` hears of each
/// claim that is written, `begins_to_wait` if devices have to get ready.
pub async fn carry_out(
    client: &Client,
    pod: &Pod,
    reservation: &Reservation,
    created: &mut Option<ResourceClaim>,
    metrics: &Metrics,
    tell: impl Fn(ResourceClaim),
    begins_to_wait: impl FnOnce(),
) -> Result<(), String> {
    let mut waits = reservation.waits;
    let mut all = reservation.all.clone();
    for (claim, allocation) in &reservation.claims {
        let written = write(client, pod, claim, allocation.as_ref()).await?;
        waits |= has_conditions(&written);
        tell(written);
    }
    if let Some(made) = &reservation.made {
        let written = make(client, pod, made, created, metrics).await?;
        waits |= has_conditions(&written);
        all.push(written.key());
        tell(written);
    }
    if !waits {
        return Ok(());
    }
    begins_to_wait();
    let since = Instant::now();
    let mut claims = Vec::new();
    let (result, status) = match tokio::time::timeout(reservation.timeout, ready(client, &all, reservation.timeout, &mut claims)).await {
        Ok(Ok(())) => (Ok(()), "success"),
        Ok(Err(Unready::Late(error))) => (Err(error), "timeout"),
        Ok(Err(Unready::Failed(error))) => (Err(error), "failure"),
        Ok(Err(Unready::Error(error))) => (Err(error), "error"),
        Err(_) => (Err("device binding timeout: context deadline exceeded".to_owned()), "timeout"),
    };
    count_wait(metrics, &reservation.profile, &claims, status, since.elapsed());
    result
}

/// Counts that devices were waited for.
fn count_wait(metrics: &Metrics, profile: &str, claims: &[ResourceClaim], status: &str, took: Duration) {
    for result in claims.iter().filter_map(allocation).flat_map(results) {
        metrics.observe(Id::DeviceWait, &[profile, &result.driver, status], took.as_secs_f64());
        if result.binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty()) {
            metrics.add(Id::DeviceWaits, &[profile, &result.driver, status], 1.0);
        }
    }
}

/// Why devices are not ready.
enum Unready {
    Late(String),
    Failed(String),
    Error(String),
}

/// Waits until the devices of all claims are ready. `claims` are these as they were seen last.
async fn ready(client: &Client, keys: &[ObjectKey], timeout: Duration, claims: &mut Vec<ResourceClaim>) -> Result<(), Unready> {
    loop {
        let mut all = true;
        claims.clear();
        for key in keys {
            let claim = api(client, &key.namespace).get(&key.name).await.map_err(|error| Unready::Error(told(error)))?;
            claims.push(claim.clone());
            if is_ready(&claim).map_err(Unready::Failed)? {
                continue;
            }
            if is_late(&claim, timeout, clock::now()) {
                return Err(Unready::Late(format!("device binding timeout: claim={}", key.name)));
            }
            all = false;
        }
        if all {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Gives back what was reserved, and what was made, for a pod that is not bound after all.
pub async fn give_back(client: &Client, pod: &Pod, reservation: &Reservation, created: Option<ResourceClaim>) {
    if let Some(claim) = created {
        discard(client, &claim).await;
    }
    for (claim, _) in &reservation.claims {
        let consumer = json!({"$patch": "delete", "uid": pod.uid()});
        let patch = json!({"metadata": {"uid": claim.uid()}, "status": {"reservedFor": [consumer]}});
        let patched = api(client, claim.namespace()).patch_status(claim.name(), &PatchParams::default(), &Patch::Strategic(&patch)).await;
        if let Err(error) = patched.map(drop)
            && !is_not_found(&error)
        {
            tracing::error!(claim = full_name(&**claim), error = told(error), "the claim is still reserved for the pod");
        }
    }
}

/// Removes a claim that was made for a pod's extended resources.
pub async fn discard(client: &Client, claim: &ResourceClaim) {
    if let Err(error) = try_discard(client, claim).await {
        tracing::error!(claim = full_name(claim), error = told(error), "the claim for extended resources is still there");
    }
}

async fn try_discard(client: &Client, claim: &ResourceClaim) -> Result<(), kube::Error> {
    let claims = api(client, claim.namespace());
    for attempt in 1.. {
        // It is protected while it has devices, and nobody uses them.
        let mut latest = match claims.get(claim.name()).await {
            Ok(latest) if latest.uid() == claim.uid() => latest,
            Ok(_) => return Ok(()),
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let finalizers = latest.metadata.finalizers.get_or_insert_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        match claims.replace(claim.name(), &PostParams::default(), &latest).await {
            Err(error) if is_conflict(&error) && attempt < TRIES => tokio::time::sleep(PAUSE).await,
            Err(error) if !is_not_found(&error) => return Err(error),
            _ => break,
        }
    }
    match claims.delete(claim.name(), &DeleteParams::default()).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

/// What a claim is without its devices.
pub fn without_devices(claim: &ResourceClaim) -> ResourceClaim {
    let mut claim = claim.clone();
    let status = claim.status.get_or_insert_default();
    (status.allocation, status.devices, status.reserved_for) = (None, None, None);
    claim
}

/// Takes a claim's devices from it, so that it can get others.
pub async fn deallocate(client: &Client, claim: &ResourceClaim) {
    debug_assert!(reserved(claim).is_empty(), "it is the claim as it is to be");
    let written = api(client, claim.namespace()).replace_status(claim.name(), &PostParams::default(), claim).await;
    if let Err(error) = written {
        tracing::error!(claim = full_name(claim), error = told(error), "the claim keeps its devices");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::plugins::testing::of;

    #[test]
    fn a_claim_gets_its_finalizer_then_its_allocation_and_its_pod() {
        let pod: Arc<Pod> = of(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}}));
        let claim = |metadata: Value, status: Value| -> Arc<ResourceClaim> {
            let mut claim = json!({"metadata": metadata, "spec": {}, "status": status});
            claim["metadata"]["name"] = json!("c");
            claim["metadata"]["namespace"] = json!("d");
            of(claim)
        };
        let now = Timestamp::from_millisecond(1_500).unwrap();
        let given = AllocationResult::default();
        let protected = json!({"finalizers": [FINALIZER]});
        let Ok(Next::AddFinalizer(first)) = next(&claim(json!({}), json!({})), &pod, Some(&given), now) else {
            panic!("the finalizer is first")
        };
        let Ok(Next::WriteStatus(second)) = next(&first, &pod, Some(&given), now) else { panic!("then comes the status") };
        let status = serde_json::to_value(second.status).unwrap();
        assert_eq!(status["reservedFor"], json!([{"resource": "pods", "name": "p", "uid": "u"}]));
        assert_eq!(status["allocation"]["allocationTimestamp"], "1970-01-01T00:00:01Z");
        let allocated = json!({"allocation": {"allocationTimestamp": "2026-01-01T00:00:00Z"}, "reservedFor": [{"resource": "pods", "name": "q", "uid": "v"}]});
        let Ok(Next::WriteStatus(shared)) = next(&claim(protected.clone(), allocated.clone()), &pod, None, now) else {
            panic!("it is shared")
        };
        assert_eq!(reserved(&shared).len(), 2);
        for (claim, allocation, expected) in [
            (claim(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({})), None, "claim d/c got deleted in the meantime"),
            (claim(protected.clone(), allocated), Some(&given), "claim d/c got allocated elsewhere in the meantime"),
            (claim(protected, json!({})), None, "claim d/c got deallocated elsewhere in the meantime"),
        ] {
            assert_eq!(next(&claim, &pod, allocation, now), Err(expected.to_owned()));
        }
        assert_eq!(without_devices(&shared).status, Some(Default::default()));
    }
}
