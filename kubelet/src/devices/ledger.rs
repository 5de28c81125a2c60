//! Which devices there are, how they are, and who has them.
//!
//! Decisions alone: what plugins are asked, and what is written down, is the manager's. Upstream: pkg/kubelet/cm/devicemanager.

use std::collections::{BTreeMap, BTreeSet};

use super::messages::{ContainerAllocateResponse, Device, HEALTHY};
use crate::topology::{Hint, Mask};

/// Ids of devices.
pub type Ids = BTreeSet<String>;

/// Where devices are that belong to no NUMA node.
pub const WITHOUT_TOPOLOGY: i64 = -1;

/// The devices of one resource that a container has, and what the plugin said that it needs for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    /// By NUMA node; a device of several nodes is with each of them.
    pub devices: BTreeMap<i64, Vec<String>>,
    pub response: ContainerAllocateResponse,
}

impl Allocation {
    pub fn ids(&self) -> Ids {
        self.devices.values().flatten().cloned().collect()
    }
}

/// A container of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder<'a> {
    pub pod_uid: &'a str,
    pub container: &'a str,
}

/// By container and resource.
pub type OfPod = BTreeMap<String, BTreeMap<String, Allocation>>;

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// All devices that plugins told of last, by resource and id.
    devices: BTreeMap<String, BTreeMap<String, Device>>,
    /// Resources that are known; a plugin that is gone leaves its devices unhealthy.
    healthy: BTreeMap<String, Ids>,
    unhealthy: BTreeMap<String, Ids>,
    pods: BTreeMap<String, OfPod>,
    /// What init containers of the pod that is being admitted leave to those that follow.
    reusable: (String, BTreeMap<String, Ids>),
}

/// Devices are to be chosen, and the plugin may have a say in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    pub required: usize,
    /// Chosen already.
    pub taken: Ids,
    /// The plugin may name some of these.
    pub candidates: Ids,
    /// Then these are taken, in this order.
    then: Vec<Ids>,
}

/// What is to be done for a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// The container has its devices.
    Nothing,
    Chosen(Ids),
    Pending(Pending),
}

impl Pending {
    /// What the plugin can choose from, with what it has to take.
    pub fn available(&self) -> Ids {
        self.candidates.union(&self.taken).cloned().collect()
    }

    /// Takes what the plugin prefers, and then what there is.
    pub fn finish(mut self, preferred: Option<&Ids>) -> Result<Ids, String> {
        let preferred = preferred.map(|preferred| preferred.intersection(&self.candidates).cloned().collect::<Ids>());
        for ids in preferred.into_iter().chain(std::mem::take(&mut self.then)) {
            if take(&mut self.taken, &ids, self.required) {
                return Ok(self.taken);
            }
        }
        let got = self.taken.len();
        Err(format!("unexpectedly allocated less resources than required. Requested: {}, Got: {got}", self.required))
    }
}

/// Whether enough is taken now.
fn take(taken: &mut Ids, from: &Ids, required: usize) -> bool {
    for id in from {
        if taken.len() >= required {
            break;
        }
        taken.insert(id.clone());
    }
    taken.len() >= required
}

fn nodes(device: &Device) -> Vec<usize> {
    device.topology.iter().flat_map(|topology| &topology.nodes).filter_map(|node| usize::try_from(node.id).ok()).collect()
}

impl Ledger {
    /// What a checkpoint tells. Resources have no devices until their plugins come back.
    pub fn recalled(pods: BTreeMap<String, OfPod>, resources: impl IntoIterator<Item = String>) -> Ledger {
        let known: BTreeMap<String, Ids> = resources.into_iter().map(|resource| (resource, Ids::new())).collect();
        Ledger { healthy: known.clone(), unhealthy: known, pods, ..Ledger::default() }
    }

    pub fn pods(&self) -> &BTreeMap<String, OfPod> {
        &self.pods
    }

    /// The ids of the healthy devices, by resource.
    pub fn healthy(&self) -> &BTreeMap<String, Ids> {
        &self.healthy
    }

    pub fn healthy_devices(&self, resource: &str) -> impl Iterator<Item = &Device> {
        let healthy = self.healthy.get(resource);
        let all = self.devices.get(resource).into_iter().flat_map(BTreeMap::values);
        all.filter(move |device| healthy.is_some_and(|healthy| healthy.contains(&device.id)))
    }

    /// Takes a plugin's list; the pods that have a device whose health is news.
    pub fn update(&mut self, resource: &str, devices: Vec<Device>) -> BTreeSet<String> {
        let old = self.devices.remove(resource).unwrap_or_default();
        let new: BTreeMap<String, Device> = devices.into_iter().map(|device| (device.id.clone(), device)).collect();
        let news = new.values().filter(|device| old.get(&device.id).is_none_or(|old| old.health != device.health));
        let concerned = news.filter_map(|device| self.holder_of(resource, &device.id)).map(str::to_owned).collect();
        let (healthy, unhealthy): (Vec<&Device>, Vec<&Device>) = new.values().partition(|device| device.health == HEALTHY);
        let ids = |devices: Vec<&Device>| devices.into_iter().map(|device| device.id.clone()).collect::<Ids>();
        self.healthy.insert(resource.to_owned(), ids(healthy));
        self.unhealthy.insert(resource.to_owned(), ids(unhealthy));
        self.devices.insert(resource.to_owned(), new);
        concerned
    }

    fn holder_of(&self, resource: &str, id: &str) -> Option<&str> {
        let has = |of_pod: &OfPod| {
            let allocations = of_pod.values().filter_map(|resources| resources.get(resource));
            allocations.flat_map(|allocation| allocation.devices.values().flatten()).any(|device| device == id)
        };
        self.pods.iter().find(|(_, of_pod)| has(of_pod)).map(|(uid, _)| uid.as_str())
    }

    /// The last plugin of a resource is gone.
    pub fn mark_unhealthy(&mut self, resource: &str) {
        let healthy = self.healthy.insert(resource.to_owned(), Ids::new()).unwrap_or_default();
        self.unhealthy.entry(resource.to_owned()).or_default().extend(healthy);
    }

    /// A resource whose plugin does not come back.
    pub fn forget_resource(&mut self, resource: &str) {
        self.healthy.remove(resource);
        self.unhealthy.remove(resource);
    }

    pub fn resources(&self) -> Ids {
        self.healthy.keys().chain(self.unhealthy.keys()).cloned().collect()
    }

    /// How many devices of a resource there are, and how many of them can be used.
    pub fn amounts(&self, resource: &str) -> (usize, usize) {
        let count = |of: &BTreeMap<String, Ids>| of.get(resource).map_or(0, Ids::len);
        (count(&self.healthy) + count(&self.unhealthy), count(&self.healthy))
    }

    /// Whether plugins give this, or have given it to somebody.
    pub fn knows(&self, resource: &str) -> bool {
        self.healthy.contains_key(resource) || self.allocated().contains_key(resource)
    }

    /// What somebody has, by resource.
    pub fn allocated(&self) -> BTreeMap<String, Ids> {
        let mut all: BTreeMap<String, Ids> = BTreeMap::new();
        for (resource, allocation) in self.pods.values().flat_map(BTreeMap::values).flatten() {
            all.entry(resource.clone()).or_default().extend(allocation.ids());
        }
        all
    }

    /// Frees what pods have that are not among these; whether any did.
    pub fn keep(&mut self, active: &BTreeSet<String>) -> bool {
        let before = self.pods.len();
        self.pods.retain(|uid, _| active.contains(uid));
        self.pods.len() != before
    }

    pub fn container(&self, holder: Holder<'_>) -> Option<&BTreeMap<String, Allocation>> {
        self.pods.get(holder.pod_uid)?.get(holder.container)
    }

    fn has(&self, holder: Holder<'_>, resource: &str) -> Option<Ids> {
        self.container(holder)?.get(resource).map(Allocation::ids)
    }

    /// A pod is being admitted: nobody else's devices are left over.
    pub fn begin(&mut self, pod_uid: &str) {
        if self.reusable.0 != pod_uid {
            self.reusable = (pod_uid.to_owned(), BTreeMap::new());
        }
    }

    /// A container of the pod that is being admitted has got its devices: what an init container has, those that follow may have too.
    pub fn settle(&mut self, holder: Holder<'_>, leaves_devices: bool) {
        let allocations = self.pods.get(holder.pod_uid).and_then(|of_pod| of_pod.get(holder.container)).into_iter().flatten();
        for (resource, allocation) in allocations {
            let reusable = self.reusable.1.entry(resource.clone()).or_default();
            for id in allocation.ids() {
                if leaves_devices {
                    reusable.insert(id);
                } else {
                    reusable.remove(&id);
                }
            }
        }
    }

    fn reusable(&self, pod_uid: &str, resource: &str) -> Ids {
        if self.reusable.0 == pod_uid { self.reusable.1.get(resource).cloned().unwrap_or_default() } else { Ids::new() }
    }

    /// Chooses devices. `runs`: the container was found running when the kubelet started. `affinity`: where they shall be.
    pub fn choose(
        &self,
        holder: Holder<'_>,
        resource: &str,
        required: usize,
        runs: bool,
        affinity: Option<Mask>,
    ) -> Result<Choice, String> {
        let has = self.has(holder, resource);
        if let Some(has) = &has
            && has.len() != required
        {
            let Holder { pod_uid, container } = holder;
            return Err(format!(
                "pod {pod_uid:?} container {container:?} changed request for resource {resource:?} from {} to {required}",
                has.len()
            ));
        }
        if runs {
            return Ok(Choice::Nothing);
        }
        let Some(healthy) = self.healthy.get(resource) else { return Err(format!("cannot allocate unregistered device {resource}")) };
        if healthy.is_empty() {
            return Err(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
        }
        if let Some(has) = has {
            if !healthy.is_superset(&has) {
                return Err(format!("previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"));
            }
            return Ok(Choice::Nothing);
        }
        if required == 0 {
            return Ok(Choice::Nothing);
        }
        let mut taken = Ids::new();
        if take(&mut taken, &self.reusable(holder.pod_uid, resource), required) {
            return Ok(Choice::Chosen(taken));
        }
        let in_use = self.allocated().remove(resource).unwrap_or_default();
        let available: Ids = healthy.difference(&in_use).filter(|id| !taken.contains(*id)).cloned().collect();
        let needed = required - taken.len();
        if available.len() < needed {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {needed}, Available: {}",
                available.len()
            ));
        }
        let [aligned, unaligned, indifferent] = self.by_affinity(resource, &available, affinity);
        if needed < aligned.len() {
            return Ok(Choice::Pending(Pending { required, taken, then: vec![aligned.clone()], candidates: aligned }));
        }
        if take(&mut taken, &aligned, required) {
            return Ok(Choice::Chosen(taken));
        }
        Ok(Choice::Pending(Pending { required, taken, candidates: available, then: vec![unaligned, indifferent] }))
    }

    /// Devices where they shall be, elsewhere, and nowhere in particular.
    fn by_affinity(&self, resource: &str, available: &Ids, affinity: Option<Mask>) -> [Ids; 3] {
        let Some(affinity) = affinity.filter(|_| self.has_topology(resource)) else { return [Ids::new(), Ids::new(), available.clone()] };
        let mut sorted: [Ids; 3] = Default::default();
        for id in available {
            let nodes = self.nodes_of(resource, id);
            let place = if affinity.has_any(&nodes) { 0 } else { 1 + usize::from(nodes.is_empty()) };
            sorted[place].insert(id.clone());
        }
        sorted
    }

    fn nodes_of(&self, resource: &str, id: &str) -> Vec<usize> {
        self.devices.get(resource).and_then(|devices| devices.get(id)).map(nodes).unwrap_or_default()
    }

    fn has_topology(&self, resource: &str) -> bool {
        self.devices.get(resource).is_some_and(|devices| devices.values().any(|device| !nodes(device).is_empty()))
    }

    /// Writes down that a container has these.
    pub fn give(&mut self, holder: Holder<'_>, resource: &str, ids: &Ids, response: ContainerAllocateResponse) {
        let mut devices: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for id in ids {
            let device = self.devices.get(resource).and_then(|devices| devices.get(id));
            let nodes = device.and_then(|device| device.topology.as_ref()).map(|topology| topology.nodes.as_slice()).unwrap_or(&[]);
            for node in nodes {
                devices.entry(node.id).or_default().push(id.clone());
            }
            if nodes.is_empty() {
                devices.entry(WITHOUT_TOPOLOGY).or_default().push(id.clone());
            }
        }
        let of_container = self.pods.entry(holder.pod_uid.to_owned()).or_default().entry(holder.container.to_owned()).or_default();
        of_container.insert(resource.to_owned(), Allocation { devices, response });
    }

    /// Whether a device can be used, as far as anybody has told.
    pub fn is_healthy(&self, resource: &str, id: &str) -> bool {
        self.devices.get(resource).and_then(|devices| devices.get(id)).is_none_or(|device| device.health == HEALTHY)
    }

    /// Where `requested` devices could come from for a container, or, without one, for the whole pod. None: it does not matter.
    pub fn hints(&self, pod_uid: &str, container: Option<&str>, resource: &str, requested: usize, machine: &[usize]) -> Option<Vec<Hint>> {
        if !self.has_topology(resource) {
            return None;
        }
        let of_pod = self.pods.get(pod_uid).into_iter().flatten();
        let matching = of_pod.filter(|(name, _)| container.is_none_or(|container| container == name.as_str()));
        let has: Ids = matching.filter_map(|(_, resources)| resources.get(resource)).flat_map(Allocation::ids).collect();
        if !has.is_empty() {
            let fits = has.len() == requested;
            return Some(if fits { self.make_hints(resource, &has, &Ids::new(), requested, machine) } else { Vec::new() });
        }
        let in_use = self.allocated().remove(resource).unwrap_or_default();
        let available: Ids = self.healthy.get(resource).map(|healthy| healthy.difference(&in_use).cloned().collect()).unwrap_or_default();
        let reusable = if container.is_some() { self.reusable(pod_uid, resource) } else { Ids::new() };
        if available.union(&reusable).count() < requested {
            return Some(Vec::new());
        }
        Some(self.make_hints(resource, &available, &reusable, requested, machine))
    }

    fn make_hints(&self, resource: &str, available: &Ids, reusable: &Ids, requested: usize, machine: &[usize]) -> Vec<Hint> {
        let all = self.devices.get(resource);
        let with_devices: BTreeSet<usize> = all.into_iter().flat_map(BTreeMap::values).flat_map(nodes).collect();
        let known: Vec<usize> = with_devices.into_iter().filter(|node| machine.contains(node)).collect();
        let considered = if known.is_empty() { machine } else { &known };
        let within = |mask: Mask, ids: &Ids| ids.iter().filter(|id| mask.has_any(&self.nodes_of(resource, id))).count();
        let mut fewest = considered.len();
        let mut masks = Vec::new();
        for mask in Mask::subsets(considered) {
            let there = all.into_iter().flat_map(BTreeMap::values).filter(|device| mask.has_any(&nodes(device))).count();
            if there >= requested {
                fewest = fewest.min(mask.count());
            }
            let elsewhere = reusable.iter().any(|id| {
                let nodes = self.nodes_of(resource, id);
                !nodes.is_empty() && !mask.has_any(&nodes)
            });
            if !elsewhere && within(mask, reusable) + within(mask, available) >= requested {
                masks.push(mask);
            }
        }
        masks.into_iter().map(|mask| Hint { affinity: Some(mask), preferred: mask.count() == fewest }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{NumaNode, Topology};
    use super::*;

    const R: &str = "example.com/r";
    const A: Holder<'static> = Holder { pod_uid: "p", container: "a" };

    fn device(id: &str, health: &str, nodes: &[i64]) -> Device {
        let topology = (!nodes.is_empty()).then(|| Topology { nodes: nodes.iter().map(|id| NumaNode { id: *id }).collect() });
        Device { id: id.to_owned(), health: health.to_owned(), topology }
    }

    fn ids(list: &[&str]) -> Ids {
        list.iter().map(|id| (*id).to_owned()).collect()
    }

    fn with(devices: &[(&str, &[i64])]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.update(R, devices.iter().map(|(id, nodes)| device(id, HEALTHY, nodes)).collect());
        ledger
    }

    fn chosen(ledger: &Ledger, required: usize, affinity: Option<Mask>, preferred: Option<&Ids>) -> Result<Ids, String> {
        match ledger.choose(A, R, required, false, affinity)? {
            Choice::Nothing => Ok(Ids::new()),
            Choice::Chosen(ids) => Ok(ids),
            Choice::Pending(pending) => pending.finish(preferred),
        }
    }

    #[test]
    fn what_cannot_be_given_is_refused_in_upstreams_words() {
        let mut ledger = with(&[("1", &[]), ("2", &[])]);
        assert_eq!(
            chosen(&ledger, 3, None, None),
            Err("requested number of devices unavailable for example.com/r. Requested: 3, Available: 2".to_owned())
        );
        assert_eq!(
            ledger.choose(A, "example.com/other", 1, false, None),
            Err("cannot allocate unregistered device example.com/other".to_owned())
        );
        ledger.give(A, R, &ids(&["1"]), ContainerAllocateResponse::default());
        assert_eq!(
            chosen(&ledger, 2, None, None),
            Err("pod \"p\" container \"a\" changed request for resource \"example.com/r\" from 1 to 2".to_owned())
        );
        assert_eq!(ledger.choose(A, R, 1, false, None), Ok(Choice::Nothing));
        ledger.update(R, vec![device("1", "Unhealthy", &[]), device("2", HEALTHY, &[])]);
        assert_eq!(
            ledger.choose(A, R, 1, false, None),
            Err("previously allocated devices are no longer healthy; cannot allocate unhealthy devices example.com/r".to_owned())
        );
        ledger.mark_unhealthy(R);
        assert_eq!(
            ledger.choose(A, R, 1, false, None),
            Err("no healthy devices present; cannot allocate unhealthy devices example.com/r".to_owned())
        );
        assert_eq!(ledger.choose(A, R, 1, true, None), Ok(Choice::Nothing));
        assert_eq!(ledger.amounts(R), (2, 0));
    }

    #[test]
    fn devices_where_they_shall_be_go_first_and_the_plugin_has_a_say() {
        let ledger = with(&[("1", &[0]), ("2", &[1]), ("3", &[1]), ("4", &[])]);
        type Case<'a> = (usize, Option<Mask>, Option<&'a [&'a str]>, &'a [&'a str]);
        let cases: [Case<'_>; 6] = [
            (1, None, None, &["1"]),
            (1, None, Some(&["4"]), &["4"]),
            (1, Some(Mask::of([1])), None, &["2"]),
            (1, Some(Mask::of([1])), Some(&["3"]), &["3"]),
            (1, Some(Mask::of([1])), Some(&["1"]), &["2"]),
            (3, Some(Mask::of([1])), None, &["1", "2", "3"]),
        ];
        for (required, affinity, preferred, expect) in cases {
            let preferred = preferred.map(ids);
            assert_eq!(chosen(&ledger, required, affinity, preferred.as_ref()), Ok(ids(expect)), "{required} {affinity:?} {preferred:?}");
        }
    }

    #[test]
    fn what_an_init_container_has_is_used_again_but_not_what_a_sidecar_has() {
        let mut ledger = with(&[("1", &[]), ("2", &[])]);
        ledger.begin("p");
        for (container, leaves, expect) in [("init", true, "1"), ("sidecar", false, "1"), ("main", false, "2")] {
            let holder = Holder { pod_uid: "p", container };
            let got = match ledger.choose(holder, R, 1, false, None).expect("there are devices") {
                Choice::Pending(pending) => pending.finish(None).expect("there are devices"),
                Choice::Chosen(ids) => ids,
                Choice::Nothing => Ids::new(),
            };
            assert_eq!(got, ids(&[expect]), "{container}");
            ledger.give(holder, R, &got, ContainerAllocateResponse::default());
            ledger.settle(holder, leaves);
        }
        assert!(ledger.keep(&BTreeSet::new()) && ledger.allocated().is_empty());
    }

    #[test]
    fn pods_hear_of_their_devices_alone() {
        let mut ledger = with(&[("1", &[]), ("2", &[])]);
        ledger.give(A, R, &ids(&["1"]), ContainerAllocateResponse::default());
        assert!(ledger.update(R, vec![device("1", HEALTHY, &[]), device("2", "Unhealthy", &[])]).is_empty());
        assert_eq!(ledger.update(R, vec![device("1", "Unhealthy", &[]), device("2", "Unhealthy", &[])]), ids(&["p"]));
        assert!(!ledger.is_healthy(R, "1"));
        // A device that was gone for a while is news when it is back.
        assert!(ledger.update(R, vec![]).is_empty());
        assert_eq!(ledger.update(R, vec![device("1", HEALTHY, &[])]), ids(&["p"]));
    }

    #[test]
    fn hints_say_where_enough_devices_are() {
        let mut ledger = with(&[("1", &[0]), ("2", &[0]), ("3", &[1])]);
        let hint = |nodes: &[usize], preferred| Hint { affinity: Some(Mask::of(nodes.iter().copied())), preferred };
        let of = |ledger: &Ledger, count| ledger.hints("q", Some("c"), R, count, &[0, 1, 2]);
        assert_eq!(of(&ledger, 1), Some(vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)]));
        assert_eq!(of(&ledger, 2), Some(vec![hint(&[0], true), hint(&[0, 1], false)]));
        assert_eq!(of(&ledger, 4), Some(vec![]));
        ledger.give(A, R, &ids(&["1"]), ContainerAllocateResponse::default());
        // One node would do, but not any more.
        assert_eq!(of(&ledger, 2), Some(vec![hint(&[0, 1], false)]));
        assert_eq!(ledger.hints("p", Some("a"), R, 1, &[0, 1, 2]), Some(vec![hint(&[0], true), hint(&[0, 1], false)]));
        assert_eq!(with(&[("1", &[])]).hints("q", Some("c"), R, 1, &[0, 1]), None);
    }
}
