//! DynamicResources: a pod goes where its claims' devices are or can be had, and gets them with the node.
//!
//! Specified by upstream's plugin of that name (v1.37). What devices there are, and how they are found, is in [`crate::devices`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use client::Object;
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};

use crate::devices::allocated::Allocated;
use crate::devices::allocator::{self, Fault};
use crate::devices::claims::{self, allocation, asked, has_conditions, is_late, is_ready, is_reserved_for, reserved, results};
use crate::devices::extended::{self, Mappings};
use crate::devices::reservation::{Made, Reservation, without_devices};
use crate::devices::result;
use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, NodeView, Plugin, Point, PreFilter, Preparing, Refusal, Rejection, Verdict, normalize_by_highest};
use crate::node_selector::Terms;
use crate::snapshot::NodeIndex;
use crate::snapshot::pod::PodInfo;
use crate::world::World;

pub struct DynamicResources;

/// Steps of the search for devices that stand for a second of `filterTimeout`: the same claims get the same answer on any machine.
const STEPS_PER_SECOND: u64 = 500_000;
/// Alternatives that a request can have (`FirstAvailableDeviceRequestMaxSize`): the first that is taken is worth so much.
const MAX_ALTERNATIVES: usize = 8;
/// The feature that nodes have to have for devices that need nothing done on them.
const OPTIONAL_OPERATIONS: &str = "DRAOptionalNodeOperations";

/// Extended resources of the pod that devices may have to give.
struct Extended {
    asked: Vec<(Arc<str>, i64)>,
    /// The claim that was made for them when the pod was tried before. It has to go: it may have been for another node.
    stale: Option<Arc<ResourceClaim>>,
}

/// What the claims of a pod would get on a node.
#[derive(Default)]
struct Found {
    /// For those that have no devices yet.
    allocations: Vec<AllocationResult>,
    /// For the one that would be made for extended resources.
    made: Option<Made>,
}

/// The claims of the pod of this cycle.
pub struct Claims {
    all: Vec<Arc<ResourceClaim>>,
    extended: Option<Extended>,
    /// Where those are that have devices; nothing for everywhere.
    nodes: Vec<Option<Terms>>,
    /// Those that have none.
    missing: Vec<Arc<ResourceClaim>>,
    allocated: Allocated,
    /// What they would get on each node.
    found: RefCell<HashMap<NodeIndex, Found>>,
    /// The places of claims whose devices keep the pod from a node.
    unavailable: RefCell<BTreeSet<usize>>,
    /// What is to be written, once the node is chosen.
    pub reservation: Option<Reservation>,
}

fn unresolvable(reason: String) -> Refusal {
    Refusal::Rejected(Rejection::saying(false, reason))
}

impl Claims {
    fn new(world: &World, pod: &PodInfo) -> Result<Option<Claims>, Refusal> {
        let all = claims::of_pod(&world.devices, &pod.pod).map_err(unresolvable)?;
        let extended = extended::asked_of(&world.devices.extended, &pod.template.spec_requests.requests.scalars);
        let extended = extended
            .map(|asked| Extended { asked: asked.into_iter().cloned().collect(), stale: extended::made_for(&world.devices, &pod.pod) });
        if all.is_empty() && extended.is_none() {
            return Ok(None);
        }
        let mut claims = Claims {
            extended,
            nodes: all.iter().map(|claim| Some(Terms::new(allocation(claim)?.node_selector.as_ref()?))).collect(),
            missing: all.iter().filter(|claim| allocation(claim).is_none()).cloned().collect(),
            all,
            allocated: Allocated::default(),
            found: RefCell::default(),
            unavailable: RefCell::default(),
            reservation: None,
        };
        for claim in &claims.missing {
            if world.devices.is_pending(claim) {
                let name = crate::devices::full_name(&**claim);
                return Err(unresolvable(format!("resource claim {name} is in the process of being allocated")));
            }
            check_classes(world, claim)?;
        }
        if !claims.missing.is_empty() || claims.extended.is_some() {
            claims.allocated = world.devices.allocated();
        }
        Ok(Some(claims))
    }

    /// The claim that the node needs for the pod's extended resources; nothing if it has them itself.
    fn made_on(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Result<Option<(ResourceClaim, Mappings)>, Refusal> {
        let Some(Extended { asked, stale }) = &self.extended else { return Ok(None) };
        if stale.is_some() {
            return Err(unresolvable("cannot schedule extended resource claim".to_owned()));
        }
        let classes = &cycle.world.devices.extended;
        let mut given = BTreeMap::new();
        for (name, _) in asked {
            if classes.gives(name, node.info) {
                given.insert(&**name, classes.get(name).map_or("", |class| class.name()));
            } else if node.info.scalars.scalars.iter().all(|(known, _)| known != name) {
                return Err(unresolvable("cannot fit resource".to_owned()));
            }
        }
        if given.is_empty() {
            return Ok(None);
        }
        let (requests, mappings) = extended::requests(&cycle.pod.pod, &given);
        Ok(Some((extended::claim_for(&cycle.pod.pod, requests), mappings)))
    }

    /// What the claims without devices would get on a node.
    fn allocate(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Result<Found, Refusal> {
        let made = self.made_on(cycle, node)?;
        let Some(object) = node.info.node.as_deref().filter(|_| made.is_some() || !self.missing.is_empty()) else {
            return Ok(Found::default());
        };
        let devices = &cycle.world.devices;
        // The one that is made comes last.
        let mut missing = self.missing.clone();
        missing.extend(made.iter().map(|(claim, _)| Arc::new(claim.clone())));
        let steps = cycle.profile.args.dynamic_resources.filter_timeout.duration().as_secs().saturating_mul(STEPS_PER_SECOND);
        let steps = if steps == 0 { u64::MAX } else { steps };
        let pools = allocator::pools(devices, object);
        let mut selectors = devices.selectors.lock();
        match allocator::solve(devices, &self.allocated, &mut selectors, &missing, object, &pools, steps) {
            Ok(solution) => {
                let mut allocations = result::allocations(&solution, &missing, object).map_err(Refusal::Failed)?;
                let made = made.and_then(|(claim, mappings)| Some(Made { claim, mappings, allocation: allocations.pop()? }));
                Ok(Found { allocations, made })
            }
            Err(Fault::None) => Err(unresolvable("cannot allocate all claims".to_owned())),
            Err(Fault::InvalidPools) => Err(unresolvable("invalid resource pools were encountered".to_owned())),
            Err(Fault::TooLong) => Err(Refusal::Failed(format!("node {}: timed out trying to allocate devices", node.name()))),
            Err(Fault::Error(error)) => Err(Refusal::Failed(error)),
        }
    }

    /// Whether the devices of a claim that has some can be used on the node.
    fn is_available(&self, cycle: &Cycle<'_>, place: usize, node: &NodeView<'_>) -> bool {
        let claim = &self.all[place];
        let Some(object) = node.info.node.as_deref() else { return true };
        if self.nodes[place].as_ref().is_some_and(|nodes| !nodes.matches(object)) {
            return false;
        }
        let Some(allocation) = allocation(claim) else { return true };
        let declares = || object.status.iter().flat_map(|s| s.declared_features.iter().flatten()).any(|f| f == OPTIONAL_OPERATIONS);
        if results(allocation).iter().any(|r| r.skip_node_operations.as_ref().is_some_and(|o| !o.is_empty())) && !declares() {
            return false;
        }
        let timeout = cycle.profile.args.dynamic_resources.binding_timeout.duration();
        is_ready(claim).is_ok_and(|ready| ready || !is_late(claim, timeout, cycle.world.devices.clock))
    }

    /// A claim that could get other devices, without those that it has; which of several is up to `choose`.
    pub fn to_deallocate(&self, pod: &PodInfo, choose: impl FnOnce(usize) -> usize) -> Option<ResourceClaim> {
        let is_only_for =
            |claim: &ResourceClaim| reserved(claim).iter().all(|consumer| consumer.uid == *pod.uid) && reserved(claim).len() <= 1;
        let unavailable = self.unavailable.borrow();
        let idle: Vec<&ResourceClaim> = unavailable.iter().map(|place| &*self.all[*place]).filter(|claim| is_only_for(claim)).collect();
        idle.get(choose(idle.len())).map(|claim| without_devices(claim))
    }

    /// The claim that has to go before the pod can be tried with another.
    pub fn to_discard(&self) -> Option<&Arc<ResourceClaim>> {
        self.extended.as_ref()?.stale.as_ref()
    }
}

/// Refuses claims on classes that are not there.
fn check_classes(world: &World, claim: &ResourceClaim) -> Result<(), Refusal> {
    let check = |class: &str, request: String| {
        if class.is_empty() {
            return Err(Refusal::Failed(format!("request {request}: unsupported request type")));
        }
        world.devices.class(class).map(drop).ok_or_else(|| unresolvable(format!("request {request}: device class {class} does not exist")))
    };
    for request in asked(claim).into_iter().flat_map(|devices| devices.requests.iter().flatten()) {
        let alternatives = request.first_available.as_deref().unwrap_or_default();
        match &request.exactly {
            Some(exactly) => check(&exactly.device_class_name, request.name.clone())?,
            None if !alternatives.is_empty() => {
                for sub in alternatives {
                    check(&sub.device_class_name, format!("{}/{}", request.name, sub.name))?;
                }
            }
            None => {
                let name = crate::devices::full_name(claim);
                return Err(unresolvable(format!("resource claim {name}, request {}: unknown request type", request.name)));
            }
        }
    }
    Ok(())
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn points(&self) -> &'static [Point] {
        // Upstream has no PreScore here: it is where pods without claims are left out of the scoring.
        &[
            Point::PreEnqueue,
            Point::PreFilter,
            Point::Filter,
            Point::PostFilter,
            Point::PreScore,
            Point::Score,
            Point::Reserve,
            Point::PreBind,
        ]
    }

    fn interests(&self) -> &'static [Interest] {
        const CHANGE: Actions = Actions::ADD.or(Actions::UPDATE);
        const {
            &[
                Interest::any(Resource::Node, Actions::ADD.or(Actions::NODE_LABEL).or(Actions::NODE_ALLOCATABLE)),
                Interest::hinted(Resource::ResourceClaim, CHANGE.or(Actions::DELETE), claim_changed),
                Interest::hinted(Resource::TargetPod, Actions::POD_GENERATED_CLAIM, claims_made),
                Interest::any(Resource::DeviceClass, CHANGE),
                Interest::any(Resource::ResourceSlice, CHANGE),
            ]
        }
    }

    fn pre_enqueue(&self, world: &World, pod: &PodInfo) -> Result<(), String> {
        claims::of_pod(&world.devices, &pod.pod).map(drop)
    }

    fn pre_filter(&self, cycle: &mut Preparing<'_>) -> PreFilter {
        if !claims::has_any(&cycle.pod.pod) && cycle.pod.template.spec_requests.requests.scalars.is_empty() {
            return PreFilter::Skip;
        }
        match Claims::new(cycle.world, cycle.pod) {
            Err(refusal) => PreFilter::Refuse(refusal),
            Ok(None) => PreFilter::Skip,
            Ok(claims) => {
                cycle.state.devices = claims;
                PreFilter::Ask
            }
        }
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        let Some(claims) = &cycle.state.devices else { return Ok(()) };
        let found = claims.allocate(cycle, node)?;
        let unavailable: Vec<usize> = (0..claims.all.len()).filter(|place| !claims.is_available(cycle, *place, node)).collect();
        if !unavailable.is_empty() {
            claims.unavailable.borrow_mut().extend(unavailable);
            return Err(unresolvable("resourceclaim not available on the node".to_owned()));
        }
        claims.found.borrow_mut().insert(node.index, found);
        Ok(())
    }

    fn pre_score(&self, cycle: &mut Preparing<'_>, _nodes: &[NodeIndex]) -> bool {
        cycle.state.devices.is_some()
    }

    /// The earlier the alternatives that are taken, the better.
    fn score(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> i64 {
        let Some(claims) = &cycle.state.devices else { return 0 };
        let found = claims.found.borrow();
        let Some(found) = found.get(&node.index) else { return 0 };
        let mut found = found.allocations.iter();
        let mut score = 0;
        for claim in &claims.all {
            let Some(allocation) = allocation(claim).or_else(|| found.next()) else { return 0 };
            let taken = |name: &str| results(allocation).iter().any(|result| result.request == name);
            for request in asked(claim).into_iter().flat_map(|d| d.requests.iter().flatten()).filter(|r| r.exactly.is_none()) {
                for (place, sub) in request.first_available.iter().flatten().enumerate() {
                    if taken(&format!("{}/{}", request.name, sub.name)) {
                        score += MAX_ALTERNATIVES.saturating_sub(place);
                    }
                }
            }
        }
        i64::try_from(score).unwrap_or(i64::MAX)
    }

    fn normalize(&self, _cycle: &Cycle<'_>, _nodes: &[NodeIndex], scores: &mut [i64]) {
        normalize_by_highest(scores, false);
    }

    fn reserve(&self, cycle: &mut Preparing<'_>, node: NodeIndex) -> Verdict {
        let Some(claims) = cycle.state.devices.as_mut() else { return Ok(()) };
        let found = claims.found.borrow_mut().remove(&node).unwrap_or_default();
        let Found { allocations, mut made } = found;
        if allocations.len() != claims.missing.len() {
            return Err(Refusal::Failed("claim allocation not found for node".to_owned()));
        }
        let devices = &mut cycle.world.devices;
        let mut promise = |claim: &ResourceClaim, allocation: &mut AllocationResult| {
            let results = allocation.devices.iter_mut().flat_map(|devices| devices.results.iter_mut().flatten());
            results.filter_map(|result| result.share_id.as_mut()).for_each(|share| *share = devices.share_id());
            devices.promise(&cycle.pod.uid, claim, allocation.clone());
        };
        let mut allocations = allocations.into_iter();
        let mut reservation = Vec::new();
        for claim in &claims.all {
            let mut given = if allocation(claim).is_none() { allocations.next() } else { None };
            if let Some(allocation) = &mut given {
                promise(claim, allocation);
            }
            if !is_reserved_for(claim, &cycle.pod.pod) {
                reservation.push((claim.clone(), given));
            }
        }
        if let Some(made) = &mut made {
            promise(&made.claim, &mut made.allocation);
        }
        let all: Vec<_> = claims.all.iter().map(|claim| claim.key()).collect();
        if all.is_empty() && made.is_none() {
            return Ok(());
        }
        let waits = claims.all.iter().any(|claim| has_conditions(claim));
        let timeout = cycle.profile.args.dynamic_resources.binding_timeout.duration();
        let profile = cycle.profile.name.clone();
        claims.reservation = Some(Reservation { claims: reservation, made, all, waits, timeout, profile });
        Ok(())
    }

    fn unreserve(&self, world: &mut World, pod: &PodInfo) {
        world.devices.take_back(&pod.uid);
    }
}

fn claim_changed(world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::ResourceClaim { old, new } = subject else { return true };
    let had = old.as_ref().is_some_and(|old| allocation(old).is_some());
    let Some(new) = new else { return had };
    let Ok(claims) = claims::of_pod(&world.devices, &pod.pod) else { return false };
    if had && allocation(new).is_none() {
        return true;
    }
    let is_used = claims.iter().any(|claim| claim.uid() == new.uid());
    is_used && old.as_ref().is_none_or(|old| old.status != new.status)
}

fn claims_made(world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Pod { new: Some(new), .. } = subject else { return true };
    claims::of_pod(&world.devices, &new.pod).is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::framework::State;
    use crate::plugins::testing::{Bench, of};

    /// Two nodes with a device each, the second with a larger one.
    fn bench() -> Bench {
        let mut bench = Bench::new(&[("a", json!({})), ("b", json!({}))]);
        bench.world.devices.classes.insert(of(json!({"metadata": {"name": "gpu"}, "spec": {}})));
        for (node, memory) in [("a", 1), ("b", 2)] {
            let device = json!({"name": "x", "attributes": {"memory": {"int": memory}}});
            bench.world.devices.set_slice(&of(json!({"metadata": {"name": node}, "spec": {"driver": "d.com", "nodeName": node,
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": [device]}})));
        }
        bench
    }

    fn claim(name: &str, exactly: Value, status: Value) -> Arc<ResourceClaim> {
        let requests = json!([{"name": "r", "exactly": exactly}]);
        of(
            json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"devices": {"requests": requests}}, "status": status}),
        )
    }

    fn pod(claims: &[&str]) -> Value {
        let claims: Vec<Value> = claims.iter().map(|name| json!({"name": name, "resourceClaimName": name})).collect();
        json!({"spec": {"resourceClaims": claims}})
    }

    fn on(node: &str) -> Value {
        let selector = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]});
        json!({"allocation": {"nodeSelector": selector, "devices": {"results": [{"request": "r", "driver": "d.com", "pool": node, "device": "x"}]}}})
    }

    #[test]
    fn a_pod_goes_where_its_devices_are_or_can_be_had() {
        let mut bench = bench();
        let large = json!({"deviceClassName": "gpu", "selectors": [{"cel": {"expression": "device.attributes['d.com'].memory > 1"}}]});
        let broken = json!({"deviceClassName": "gpu", "selectors": [{"cel": {"expression": "device.attributes['d.com'].size > 1"}}]});
        for claim in [
            claim("any", json!({"deviceClassName": "gpu"}), json!({})),
            claim("large", large, json!({})),
            claim("two", json!({"deviceClassName": "gpu", "count": 2}), json!({})),
            claim("classless", json!({"deviceClassName": "none"}), json!({})),
            claim("broken", broken, json!({})),
        ] {
            bench.world.devices.claim_is(claim);
        }
        let none = "never: cannot allocate all claims";
        let missing = "no such key: size. consider using CEL optional chaining (.? followed by orValue()) or guarding the check with has() for optional fields";
        let error = format!("error: claim d/broken: selector #0 on device d.com/a/x: CEL runtime error: {missing}");
        let table = [
            (json!({}), vec!["skip".to_owned()]),
            (pod(&["any"]), vec![String::new(), String::new()]),
            (pod(&["large"]), vec![none.to_owned(), String::new()]),
            (pod(&["two"]), vec![none.to_owned(), none.to_owned()]),
            (pod(&["any", "large"]), vec![none.to_owned(), none.to_owned()]),
            (pod(&["classless"]), vec!["never: request r: device class none does not exist".to_owned()]),
            (pod(&["gone"]), vec!["never: could not find ResourceClaim \"d/gone\"".to_owned()]),
            (pod(&["broken"]), vec![error.clone(), error.replace("d.com/a/x", "d.com/b/x")]),
        ];
        for (pod, expected) in table {
            assert_eq!(bench.verdicts(&DynamicResources, pod.clone()), expected, "{pod}");
        }
    }

    #[test]
    fn what_a_claim_has_is_where_it_is_and_nobody_elses() {
        let mut bench = bench();
        bench.world.devices.claim_is(claim("have", json!({"deviceClassName": "gpu"}), on("b")));
        bench.world.devices.claim_is(claim("want", json!({"deviceClassName": "gpu"}), json!({})));
        let elsewhere = "never: resourceclaim not available on the node";
        assert_eq!(bench.verdicts(&DynamicResources, pod(&["have"])), [elsewhere, ""]);
        assert_eq!(bench.verdicts(&DynamicResources, pod(&["want"])), ["", "never: cannot allocate all claims"]);
    }

    #[test]
    fn devices_are_promised_with_the_node_and_taken_back() {
        let mut bench = bench();
        bench.world.devices.claim_is(claim("c", json!({"deviceClassName": "gpu"}), json!({})));
        bench.world.devices.claim_is(claim("other", json!({"deviceClassName": "gpu"}), json!({})));
        let info = bench.pod(pod(&["c"]));
        let mut state = State::default();
        let index = bench.world.snapshot.find("a").unwrap();
        let mut cycle = Preparing { world: &mut bench.world, profile: &bench.profile, pod: &info, state: &mut state };
        assert_eq!(DynamicResources.pre_filter(&mut cycle), PreFilter::Ask);
        let reading = Cycle { world: &bench.world, profile: &bench.profile, pod: &info, state: &state };
        DynamicResources.filter(&reading, &NodeView::of(&bench.world, index)).unwrap();
        let mut cycle = Preparing { world: &mut bench.world, profile: &bench.profile, pod: &info, state: &mut state };
        DynamicResources.reserve(&mut cycle, index).unwrap();
        let reservation = state.devices.unwrap().reservation.unwrap();
        let given = results(reservation.claims[0].1.as_ref().unwrap()).to_vec();
        assert_eq!((given[0].pool.as_str(), given[0].device.as_str(), given[0].request.as_str()), ("a", "x", "r"));
        let waits = "never: resource claim d/c is in the process of being allocated";
        assert_eq!(bench.verdicts(&DynamicResources, pod(&["c"])), [waits]);
        assert_eq!(bench.verdicts(&DynamicResources, pod(&["other"])), ["never: cannot allocate all claims", ""]);
        DynamicResources.unreserve(&mut bench.world, &info);
        assert_eq!(bench.verdicts(&DynamicResources, pod(&["other"])), ["", ""]);
    }

    /// A pod that asks for a resource that the class `gpu` stands for, and maybe for others.
    fn extended(bench: &mut Bench, resources: Value) -> Value {
        bench.world.devices.classes.insert(of(json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "x.com/gpu"}})));
        bench.world.devices.classes_changed();
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": resources}}]}})
    }

    #[test]
    fn a_class_gives_what_a_node_does_not_have_itself() {
        let none = "never: cannot allocate all claims";
        // By resource: what the plugin says of nodes with a device, with a device and the resource, and with neither.
        let table = [
            (json!({"x.com/gpu": "1"}), vec!["", "", none]),
            (json!({"x.com/gpu": "2"}), vec![none, "", none]),
            (json!({"deviceclass.resource.kubernetes.io/gpu": "1"}), vec!["", "", none]),
            (json!({"x.com/gpu": "1", "y.com/other": "1"}), vec!["never: cannot fit resource", "", "never: cannot fit resource"]),
            (json!({"y.com/other": "1"}), vec!["skip"]),
            (json!({"x.com/gpu": "0"}), vec!["skip"]),
        ];
        for (resources, expected) in table {
            let mut bench = Bench::new(&[("a", json!({})), ("c", json!({}))]);
            bench.node(json!({"metadata": {"name": "b"}, "status": {"allocatable": {"cpu": "9", "x.com/gpu": "5", "y.com/other": "5", "pods": "9"}}}));
            for node in ["a", "b"] {
                bench.world.devices.set_slice(&of(json!({"metadata": {"name": node}, "spec": {"driver": "d.com", "nodeName": node,
                    "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "x"}]}})));
            }
            let pod = extended(&mut bench, resources.clone());
            assert_eq!(bench.verdicts(&DynamicResources, pod), expected, "{resources}");
        }
    }

    #[test]
    fn of_alternatives_the_first_is_worth_the_most() {
        let mut bench = bench();
        let alternative = |name: &str, memory: i64| {
            let expression = format!("device.attributes['d.com'].memory == {memory}");
            json!({"name": name, "deviceClassName": "gpu", "selectors": [{"cel": {"expression": expression}}]})
        };
        let request = json!({"name": "r", "firstAvailable": [alternative("large", 2), alternative("small", 1)]});
        let claim = json!({"metadata": {"name": "c", "namespace": "d", "uid": "c"}, "spec": {"devices": {"requests": [request]}}});
        bench.world.devices.claim_is(of(claim));
        let info = bench.pod(pod(&["c"]));
        let mut state = State::default();
        let nodes = ["a", "b"].map(|name| bench.world.snapshot.find(name).unwrap());
        let mut cycle = Preparing { world: &mut bench.world, profile: &bench.profile, pod: &info, state: &mut state };
        DynamicResources.pre_filter(&mut cycle);
        let cycle = Cycle { world: &bench.world, profile: &bench.profile, pod: &info, state: &state };
        nodes.iter().for_each(|node| DynamicResources.filter(&cycle, &NodeView::of(&bench.world, *node)).unwrap());
        let mut scores = nodes.map(|node| DynamicResources.score(&cycle, &NodeView::of(&bench.world, node)));
        assert_eq!(scores, [7, 8]);
        DynamicResources.normalize(&cycle, &nodes, &mut scores);
        assert_eq!(scores, [87, 100]);
    }

    #[test]
    fn a_claim_that_keeps_its_pod_from_all_nodes_gives_its_devices_back() {
        let mut bench = bench();
        let mut reserved = on("gone");
        reserved["reservedFor"] = json!([{"resource": "pods", "name": "pod", "uid": "pod"}]);
        for (status, expected) in [(on("gone"), true), (reserved.clone(), true), (json!({}), false)] {
            bench.world.devices.claim_is(claim("c", json!({"deviceClassName": "gpu"}), status.clone()));
            let info = bench.pod(pod(&["c"]));
            let mut state = State::default();
            let mut cycle = Preparing { world: &mut bench.world, profile: &bench.profile, pod: &info, state: &mut state };
            DynamicResources.pre_filter(&mut cycle);
            let index = bench.world.snapshot.find("a").unwrap();
            let cycle = Cycle { world: &bench.world, profile: &bench.profile, pod: &info, state: &state };
            let refused = DynamicResources.filter(&cycle, &NodeView::of(&bench.world, index)).is_err();
            let claim = state.devices.unwrap().to_deallocate(&info, |_| 0);
            assert_eq!((refused, claim.is_some()), (expected, expected), "{status}");
            assert!(claim.is_none_or(|claim| allocation(&claim).is_none()));
        }
        reserved["reservedFor"][0]["uid"] = json!("another");
        bench.world.devices.claim_is(claim("c", json!({"deviceClassName": "gpu"}), reserved));
        let info = bench.pod(pod(&["c"]));
        let claims = Claims::new(&bench.world, &info).unwrap().unwrap();
        claims.unavailable.borrow_mut().insert(0);
        assert!(claims.to_deallocate(&info, |_| 0).is_none());
    }

    #[test]
    fn a_change_of_a_claim_wakes_those_whom_it_may_help() {
        let mut bench = bench();
        let want = |status: Value| claim("want", json!({"deviceClassName": "gpu"}), status);
        bench.world.devices.claim_is(want(json!({})));
        let info = bench.pod(pod(&["want"]));
        let other = |status: Value| Some(claim("other", json!({"deviceClassName": "gpu"}), status));
        for (old, new, expected) in [
            (None, Some(want(json!({}))), true),
            (Some(want(json!({}))), Some(want(json!({}))), false),
            (Some(want(json!({}))), Some(want(on("a"))), true),
            (None, other(json!({})), false),
            (other(on("a")), other(json!({})), true),
            (other(on("a")), None, true),
            (other(json!({})), None, false),
        ] {
            let subject = Subject::ResourceClaim { old: old.clone(), new: new.clone() };
            assert_eq!(claim_changed(&bench.world, &info, &subject), expected, "{old:?} {new:?}");
        }
    }
}
