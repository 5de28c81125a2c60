//! The service CIDR controller: a ServiceCIDR says that it is ready, and goes only when no address would be left without one.
//!
//! It allocates nothing; the API server does, from the ranges that are ready.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::clock;
use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::finalizers;
use crate::manager::Context;
use crate::prefix::Prefix;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
const FIELD_MANAGER: &str = "service-cidr-controller";
const READY: &str = "Ready";
/// API servers may take a moment to learn that nothing is to be allocated from the range any more.
const DELETION_GRACE: SignedDuration = SignedDuration::from_secs(10);
const WORKERS: usize = 5;

struct Controller {
    client: Client,
    recorder: Recorder,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        ranges: context.informers.of(),
        addresses: context.informers.of(),
    };
    let queue = Queue::named("ipaddresses");
    let (sink, ranges) = (queue.clone(), controller.ranges.clone());
    controller.ranges.on_change(move |change| {
        sink.add(change.object().key());
        if !matches!(change, Change::Updated { .. }) {
            let changed = prefixes(change.object());
            let overlapping = |range: &&Arc<ServiceCIDR>| prefixes(range).iter().any(|a| changed.iter().any(|b| a.overlaps(b)));
            ranges.list().iter().filter(overlapping).for_each(|range| sink.add(range.key()));
        }
    });
    let (sink, ranges) = (queue.clone(), controller.ranges.clone());
    controller.addresses.on_change(move |change| {
        let Some(address) = allocated(change.object()) else { return };
        if !matches!(change, Change::Updated { .. }) {
            ranges.list().iter().filter(|range| contains(range, address)).for_each(|range| sink.add(range.key()));
        }
    });
    controller.ranges.synced().await;
    controller.addresses.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| controller.sync(key)).await;
}

fn prefixes(range: &ServiceCIDR) -> Vec<Prefix> {
    range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|cidr| Prefix::parse(cidr)).collect()
}

fn contains(range: &ServiceCIDR, address: IpAddr) -> bool {
    prefixes(range).iter().any(|prefix| prefix.contains(address))
}

/// The address, if the API server allocated it.
fn allocated(address: &IPAddress) -> Option<IpAddr> {
    (address.label(MANAGED_BY) == Some(ALLOCATOR)).then(|| address.name().parse().ok()).flatten()
}

/// Whether the range may go: others hold all of it, or all its addresses.
fn may_go(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>]) -> bool {
    let others: Vec<&Arc<ServiceCIDR>> = all.iter().filter(|other| other.name() != range.name() && !other.is_terminating()).collect();
    let ours = prefixes(range);
    let is_held = |prefix: &Prefix| others.iter().any(|other| prefixes(other).iter().any(|outer| outer.holds(prefix)));
    if ours.iter().all(is_held) {
        return true;
    }
    let in_ours = addresses.iter().filter_map(|address| allocated(address)).filter(|address| ours.iter().any(|p| p.contains(*address)));
    in_ours.into_iter().all(|address| others.iter().any(|other| contains(other, address)))
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(range) = self.ranges.get_key(&key) else { return Ok(Outcome::Done) };
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let now = clock::now();
        let Some(deleted) = &range.metadata.deletion_timestamp else {
            if !finalizers::has(range.as_ref(), FINALIZER) {
                let patch = Patch::Strategic(json!({"metadata": {"finalizers": [FINALIZER]}}));
                answer::or_absent(api.patch(&key.name, &PatchParams::default(), &patch).await)?;
            }
            let said = self.say(&api, &range, "True", "", "Kubernetes Service CIDR is ready", now).await;
            if said.is_err() {
                let message = "The ServiceCIDR Status can not be set to Ready=True";
                self.recorder.warning(&range.reference(), "KubernetesServiceCIDRError", message);
            }
            return said.map(|()| Outcome::Done);
        };
        if !may_go(&range, &self.ranges.list(), &self.addresses.list()) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            self.say(&api, &range, "False", "Terminating", message, now).await?;
            return Ok(Outcome::Done);
        }
        let left = DELETION_GRACE - now.duration_since(deleted.0);
        if let Some(left) = Duration::try_from(left).ok().filter(|left| !left.is_zero()) {
            return Ok(Outcome::After(left));
        }
        if finalizers::has(range.as_ref(), FINALIZER) {
            let patch = Patch::Strategic(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}}));
            answer::or_absent(api.patch(&key.name, &PatchParams::default(), &patch).await)?;
        }
        Ok(Outcome::Done)
    }

    async fn say(
        &self,
        api: &Api<ServiceCIDR>,
        range: &ServiceCIDR,
        status: &str,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) -> Result<(), kube::Error> {
        let conditions = range.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let known = conditions.into_iter().find(|condition| condition.type_ == READY);
        if known.is_some_and(|known| known.status == status && known.reason == reason && known.message == message) {
            return Ok(());
        }
        let condition = json!({"type": READY, "status": status, "reason": reason, "message": message, "lastTransitionTime": time(now)});
        let apply = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": range.name()},
            "status": {"conditions": [condition]},
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        answer::or_absent(api.patch_status(range.name(), &params, &Patch::Apply(apply)).await).map(|_| ())
    }
}

/// Whole seconds, as conditions have them.
fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(name: &str, cidr: &str) -> Arc<ServiceCIDR> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}})).unwrap())
    }

    fn address(ip: &str) -> Arc<IPAddress> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": ip, "labels": {MANAGED_BY: ALLOCATOR}}})).unwrap())
    }

    #[test]
    fn a_range_goes_when_no_address_needs_it() {
        let (ours, part, whole) = (range("a", "10.0.0.0/16"), range("b", "10.0.1.0/24"), range("c", "10.0.0.0/8"));
        let all = [ours.clone(), part];
        assert!(may_go(&ours, &all, &[]));
        assert!(may_go(&ours, &all, &[address("10.0.1.5"), address("10.9.0.1")]));
        assert!(!may_go(&ours, &all, &[address("10.0.2.5")]));
        assert!(may_go(&ours, &[ours.clone(), whole], &[address("10.0.2.5")]));
    }
}
