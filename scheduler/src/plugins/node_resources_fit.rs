//! NodeResourcesFit: a pod goes where what it asks for is free; among those, by default, where most is.

use std::borrow::Cow;

use client::Object;
use k8s_openapi::api::resource::v1::DeviceClass;

use crate::config::{ResourceSpec, ShapePoint, StrategyType};
use crate::devices::extended;
use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, MAX_SCORE, NodeView, Plugin, Point, Preparing, Reasons, Rejection, Verdict};
use crate::resources::{PodRequests, Resources, is_extended, pod_limit};
use crate::snapshot::NodeIndex;
use crate::snapshot::node::NodeInfo;
use crate::snapshot::pod::PodInfo;
use crate::world::World;

pub struct NodeResourcesFit;

const TOO_MANY_PODS: &str = "Too many pods";

/// What of the pod's requests the node has not free. `elsewhere` says of a resource that the pod does not get it of the node.
fn insufficient(asks: &Resources, info: &NodeInfo, elsewhere: impl Fn(&str) -> bool) -> Option<Rejection> {
    let load = &info.load;
    let fits = load.pods < load.pod_limit
        && (asks.milli_cpu == 0 || asks.milli_cpu <= load.milli_cpu - load.taken_milli_cpu)
        && (asks.memory == 0 || asks.memory <= load.memory - load.taken_memory)
        && (asks.ephemeral_storage == 0 || asks.ephemeral_storage <= load.ephemeral_storage - load.taken_ephemeral_storage)
        && asks.scalars.is_empty();
    if fits {
        return None;
    }
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut resolvable = true;
    if load.pods >= load.pod_limit {
        reasons.push(TOO_MANY_PODS.into());
    }
    let numbers = [
        (asks.milli_cpu, load.milli_cpu, load.taken_milli_cpu, "Insufficient cpu"),
        (asks.memory, load.memory, load.taken_memory, "Insufficient memory"),
        (asks.ephemeral_storage, load.ephemeral_storage, load.taken_ephemeral_storage, "Insufficient ephemeral-storage"),
    ];
    for (asked, there, taken, reason) in numbers {
        if asked > 0 && asked > there - taken {
            reasons.push(reason.into());
            resolvable &= asked <= there;
        }
    }
    for (name, asked) in &asks.scalars {
        if *asked == 0 || elsewhere(name) {
            continue;
        }
        let (there, taken) = (info.scalars.scalar(name), info.taken_scalars.scalar(name));
        if *asked > there - taken {
            reasons.push(format!("Insufficient {name}").into());
            resolvable &= *asked <= there;
        }
    }
    match reasons.as_slice() {
        [] => None,
        [Cow::Borrowed(one)] => Some(Rejection { resolvable, reasons: Reasons::One(one) }),
        _ => Some(Rejection { resolvable, reasons: Reasons::Many(reasons) }),
    }
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn interests(&self) -> &'static [Interest] {
        const {
            &[
                Interest::hinted(Resource::AssignedPod, Actions::DELETE, frees),
                Interest::hinted(Resource::Node, Actions::ADD.or(Actions::NODE_ALLOCATABLE), node_fits),
                Interest::hinted(Resource::DeviceClass, Actions::ADD.or(Actions::UPDATE), class_gives),
                Interest::any(Resource::TargetPod, Actions::POD_SCALE_DOWN),
                Interest::hinted(Resource::AssignedPod, Actions::POD_SCALE_DOWN, gives_back),
            ]
        }
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        let args = &cycle.profile.args.fit;
        let ignores = |name: &str| {
            is_extended(name)
                && (args.ignored_resources.iter().any(|ignored| ignored == name)
                    || args.ignored_resource_groups.iter().any(|group| name.split('/').next() == Some(group)))
        };
        let classes = &cycle.world.devices.extended;
        match insufficient(&cycle.pod.template.spec_requests.requests, node.info, |name| ignores(name) || classes.gives(name, node.info)) {
            None => Ok(()),
            Some(rejection) => Err(rejection.into()),
        }
    }

    fn pre_score(&self, cycle: &mut Preparing<'_>, _nodes: &[NodeIndex]) -> bool {
        look_at_devices(cycle, &cycle.profile.args.fit.scoring_strategy.resources);
        true
    }

    fn scores_locally(&self) -> bool {
        true
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> i64 {
        let strategy = &cycle.profile.args.fit.scoring_strategy;
        let asks = &cycle.pod.template.spec_requests;
        let parts = strategy.resources.iter().filter_map(|spec| {
            let (there, taken) = offered(cycle, node.info, spec, false)?;
            Some((spec.weight, taken + asked(asks, spec, false), there))
        });
        match strategy.kind {
            StrategyType::LeastAllocated => mean(parts.map(|(weight, taken, there)| (weight, least(taken, there)))),
            StrategyType::MostAllocated => mean(parts.map(|(weight, taken, there)| (weight, taken.min(there) * MAX_SCORE / there))),
            StrategyType::RequestedToCapacityRatio => {
                let shape = scaled_shape(strategy.requested_to_capacity_ratio.as_ref().map_or(&[], |r| &r.shape));
                let score = |taken: i64, there: i64| broken_line(&shape, if taken > there { 100 } else { taken * 100 / there });
                let scores = parts.map(|(weight, taken, there)| (weight, score(taken, there))).filter(|(_, score)| *score > 0);
                let (weights, sum) = scores.fold((0, 0), |(weights, sum), (weight, score)| (weights + weight, sum + weight * score));
                if weights == 0 { 0 } else { (sum as f64 / weights as f64).round() as i64 }
            }
        }
    }
}

fn least(taken: i64, there: i64) -> i64 {
    if taken > there { 0 } else { (there - taken) * MAX_SCORE / there }
}

fn mean(parts: impl Iterator<Item = (i64, i64)>) -> i64 {
    let (weights, sum) = parts.fold((0, 0), |(weights, sum), (weight, score)| (weights + weight, sum + weight * score));
    if weights == 0 { 0 } else { sum / weights }
}

/// What the pod asks for, as scoring counts it; `exact` leaves out what is assumed of pods that do not say.
pub fn asked(asks: &PodRequests, spec: &ResourceSpec, exact: bool) -> i64 {
    match spec.name.as_str() {
        "cpu" if !exact => asks.non_zero_cpu,
        "memory" if !exact => asks.non_zero_memory,
        name => asks.requests.get(name),
    }
}

/// Looks up who has which devices, if any of these resources, as the pod asks for it, is one that a device class stands for.
pub fn look_at_devices(cycle: &mut Preparing<'_>, resources: &[ResourceSpec]) {
    let (devices, asks) = (&cycle.world.devices, &cycle.pod.template.spec_requests.requests);
    let counts = |spec: &ResourceSpec| asks.scalar(&spec.name) != 0 && devices.extended.get(&spec.name).is_some();
    if cycle.state.given.is_none() && resources.iter().any(counts) {
        cycle.state.given = Some(devices.allocated());
    }
}

/// What the node has of a resource and how much of it is taken; nothing if it has none or the pod does not want this kind.
pub fn offered(cycle: &Cycle<'_>, info: &NodeInfo, spec: &ResourceSpec, exact: bool) -> Option<(i64, i64)> {
    let (load, asks) = (&info.load, &cycle.pod.template.spec_requests);
    let (there, taken) = match spec.name.as_str() {
        "cpu" => (load.milli_cpu, if exact { load.taken_milli_cpu } else { load.scored_milli_cpu }),
        "memory" => (load.memory, if exact { load.taken_memory } else { load.scored_memory }),
        "ephemeral-storage" => (load.ephemeral_storage, load.taken_ephemeral_storage),
        name => {
            if asks.requests.scalar(name) == 0 {
                return None;
            }
            let devices = &cycle.world.devices;
            match cycle.state.given.as_ref().zip(devices.extended.get(name)) {
                Some((given, class)) if devices.extended.gives(name, info) => extended::totals(devices, given, class, info)?,
                _ => (info.scalars.scalar(name), info.taken_scalars.scalar(name)),
            }
        }
    };
    (there != 0).then_some((there, taken))
}

/// A shape with scores up to 100 rather than 10.
pub fn scaled_shape(shape: &[ShapePoint]) -> Vec<(i64, i64)> {
    shape.iter().map(|point| (point.utilization.into(), i64::from(point.score) * (MAX_SCORE / 10))).collect()
}

/// The value of a function that is linear between points and constant beyond them.
pub fn broken_line(shape: &[(i64, i64)], x: i64) -> i64 {
    let Some(place) = shape.iter().position(|(to, _)| x <= *to) else { return shape.last().map_or(0, |(_, score)| *score) };
    let (to, high) = shape[place];
    match place.checked_sub(1).map(|before| shape[before]) {
        None => high,
        Some((from, low)) => low + (high - low) * (x - from) / (to - from),
    }
}

fn frees(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Pod { old: Some(gone), .. } = subject else { return true };
    !gone.node_name().is_empty() || !gone.nominated_node().is_empty()
}

/// Whether a pod on a node has given back any of what this one asks for.
fn gives_back(_world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Pod { old: Some(old), new: Some(new) } = subject else { return true };
    let (before, now) = (&old.requests.requests, &new.requests.requests);
    let asks = &pod.template.spec_requests.requests;
    (asks.milli_cpu > 0 && now.milli_cpu < before.milli_cpu)
        || (asks.memory > 0 && now.memory < before.memory)
        || (asks.ephemeral_storage > 0 && now.ephemeral_storage < before.ephemeral_storage)
        || asks.scalars.iter().any(|(name, asked)| *asked > 0 && now.scalar(name) < before.scalar(name))
}

/// Whether a class has come to stand for a resource that the pod asks for.
fn class_gives(_world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::DeviceClass { old, new: Some(new) } = subject else { return true };
    let name = |class: &DeviceClass| class.spec.as_ref().and_then(|spec| spec.extended_resource_name.clone());
    let asks = &pod.template.spec_requests.requests;
    let asked = |name: &str| asks.scalars.iter().any(|(asked, _)| **asked == *name);
    match old {
        Some(old) if name(old) == name(new) => false,
        None if asked(&format!("{}{}", extended::PREFIX, new.name())) => true,
        _ => name(new).is_some_and(|name| asked(&name)),
    }
}

fn node_fits(world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Node { old, new: Some(new) } = subject else { return true };
    let offers = |node: &k8s_openapi::api::core::v1::Node| {
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.clone()).unwrap_or_default();
        (Resources::of(&allocatable), pod_limit(&allocatable))
    };
    let asks = &pod.template.spec_requests.requests;
    let mut empty = NodeInfo::new("");
    empty.set_node(Some(new.clone()));
    let given = |name: &str| world.devices.extended.gives(name, &empty);
    if insufficient(asks, &empty, given).is_some() {
        return false;
    }
    let Some(old) = old else { return true };
    let ((before, pods_before), (now, pods_now)) = (offers(old), offers(new));
    pods_now > pods_before
        || (asks.milli_cpu > 0 && now.milli_cpu > before.milli_cpu)
        || (asks.memory > 0 && now.memory > before.memory)
        || (asks.ephemeral_storage > 0 && now.ephemeral_storage > before.ephemeral_storage)
        || asks.scalars.iter().any(|(name, asked)| *asked > 0 && (now.scalar(name) > before.scalar(name) || given(name)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Bench, of};

    fn node(allocatable: serde_json::Value) -> NodeInfo {
        let mut info = NodeInfo::new("n");
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": allocatable}});
        info.set_node(Some(std::sync::Arc::new(serde_json::from_value(node).unwrap())));
        info
    }

    fn asks(list: serde_json::Value) -> Resources {
        Resources::of(&serde_json::from_value(list).unwrap())
    }

    #[test]
    fn everything_that_is_not_free_is_told() {
        let mut info = node(json!({"cpu": "4", "memory": "4Gi", "pods": "1", "example.com/gpu": "1"}));
        info.load.taken_milli_cpu = 3000;
        let table = [
            (json!({"cpu": "1", "memory": "4Gi"}), None),
            (json!({"cpu": "2"}), Some((true, "Insufficient cpu"))),
            (json!({"cpu": "5"}), Some((false, "Insufficient cpu"))),
            (json!({"cpu": "2", "memory": "5Gi"}), Some((false, "Insufficient cpu, Insufficient memory"))),
            (json!({"example.com/gpu": "1"}), None),
            (json!({"example.com/gpu": "2"}), Some((false, "Insufficient example.com/gpu"))),
            (json!({"example.com/ignored": "2"}), None),
            (json!({"ephemeral-storage": "1"}), Some((false, "Insufficient ephemeral-storage"))),
        ];
        for (list, expected) in table {
            let got = insufficient(&asks(list.clone()), &info, |name| name == "example.com/ignored");
            assert_eq!(got.map(|r| (r.resolvable, r.reasons.join())), expected.map(|(r, text)| (r, text.to_owned())), "{list}");
        }
        info.load.pods = 1;
        assert_eq!(insufficient(&asks(json!({})), &info, |_| false).unwrap(), Rejection::resolvable("Too many pods"));
    }

    #[test]
    fn what_a_class_gives_is_not_asked_of_the_node() {
        let mut bench = Bench::new(&[("a", json!({}))]);
        bench.node(json!({"metadata": {"name": "b"}, "status": {"allocatable": {"cpu": "9", "pods": "9", "x.com/gpu": "1"}}}));
        let pod =
            |resource: &str, amount: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {resource: amount}}}]}});
        let none = "never: Insufficient x.com/gpu";
        assert_eq!(bench.verdicts(&NodeResourcesFit, pod("x.com/gpu", "2")), [none, none]);
        bench.world.devices.classes.insert(of(json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "x.com/gpu"}})));
        bench.world.devices.classes_changed();
        assert_eq!(bench.verdicts(&NodeResourcesFit, pod("x.com/gpu", "2")), ["", none]);
        assert_eq!(bench.verdicts(&NodeResourcesFit, pod("deviceclass.resource.kubernetes.io/gpu", "2")), ["", ""]);
    }

    #[test]
    fn devices_count_as_the_resource_that_they_stand_for() {
        let mut bench = Bench::new(&[("a", json!({})), ("b", json!({}))]);
        bench.profile.args.fit.scoring_strategy.resources = vec![ResourceSpec { name: "x.com/gpu".to_owned(), weight: 1 }];
        bench.world.devices.classes.insert(of(json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "x.com/gpu"}})));
        bench.world.devices.classes_changed();
        for (node, devices) in
            [("a", json!([{"name": "x"}, {"name": "y"}, {"name": "z"}, {"name": "w"}])), ("b", json!([{"name": "x"}, {"name": "y"}]))]
        {
            bench.world.devices.set_slice(&of(json!({"metadata": {"name": node}, "spec": {"driver": "d.com", "nodeName": node,
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": devices}})));
        }
        let given = json!({"devices": {"results": [{"request": "r", "driver": "d.com", "pool": "a", "device": "x"}]}});
        bench
            .world
            .devices
            .claim_is(of(json!({"metadata": {"name": "c", "namespace": "d", "uid": "c"}, "spec": {}, "status": {"allocation": given}})));
        // With the pod's: two of four are taken, and one of two.
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"x.com/gpu": "1"}}}]}});
        assert_eq!(bench.scores(&NodeResourcesFit, pod), Some(vec![50, 50]));
    }

    #[test]
    fn a_line_has_corners() {
        let shape = [(0, 0), (50, 100), (100, 0)];
        assert_eq!([0, 25, 50, 75, 100, 120].map(|x| broken_line(&shape, x)), [0, 50, 100, 50, 0, 0]);
    }
}
