//! How endpoints are spread over slices: as few slices written as possible, and none beyond the limit. Pure.

use std::collections::{BTreeMap, BTreeSet};

use client::Object;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pods::{self, PortKey, port_key};

pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What is to be written. Slices to create have a `generateName`; those to delete are what is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<EndpointSlice>,
}

/// What makes two endpoints the same one: addresses, host name, and the pod's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointKey {
    addresses: Vec<String>,
    hostname: Option<String>,
    target: Option<(Option<String>, Option<String>)>,
}

pub fn endpoint_key(endpoint: &Endpoint) -> EndpointKey {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    let target = endpoint.target_ref.as_ref().map(|target| (target.namespace.clone(), target.name.clone()));
    EndpointKey { addresses, hostname: endpoint.hostname.clone(), target }
}

/// Whether an endpoint that is the same one is also told of in the same way. Hints are not compared: they come after.
fn is_same(a: &Endpoint, b: &Endpoint) -> bool {
    let target = |endpoint: &Endpoint| endpoint.target_ref.clone().map(|target| ObjectReference { resource_version: None, ..target });
    a.node_name == b.node_name && a.zone == b.zone && a.conditions == b.conditions && target(a) == target(b)
}

#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<EndpointKey, Endpoint>,
}

/// The endpoints that a service should have, by the ports that they share.
#[derive(Default)]
pub struct Desired {
    groups: BTreeMap<Vec<PortKey>, Group>,
}

impl Desired {
    /// The ports must be sorted. An endpoint without addresses makes a group of slices and is not in it.
    pub fn insert(&mut self, ports: Vec<EndpointPort>, endpoint: Endpoint) {
        let group = self.group(ports);
        if !endpoint.addresses.is_empty() {
            group.insert(endpoint_key(&endpoint), endpoint);
        }
    }

    /// Says that slices with these ports are not to be given up, even if there are no endpoints for them now.
    pub fn keep(&mut self, ports: Vec<EndpointPort>) {
        self.group(ports);
    }

    fn group(&mut self, ports: Vec<EndpointPort>) -> &mut BTreeMap<EndpointKey, Endpoint> {
        let key = ports.iter().map(port_key).collect();
        &mut self.groups.entry(key).or_insert_with(|| Group { ports, endpoints: BTreeMap::new() }).endpoints
    }
}

/// What new slices of a service look like.
pub struct Template<'a> {
    pub service: &'a Service,
    pub manager: &'static str,
    pub family: &'static str,
    pub max_endpoints: usize,
}

impl Template<'_> {
    fn new_slice(&self, ports: Vec<EndpointPort>) -> EndpointSlice {
        let (labels, _) = self.labels(&EndpointSlice::default());
        EndpointSlice {
            address_type: self.family.to_owned(),
            endpoints: Some(Vec::new()),
            metadata: ObjectMeta {
                generate_name: Some(name_prefix(self.service.name())),
                namespace: self.service.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![self.service.controller_reference()]),
                ..ObjectMeta::default()
            },
            ports: Some(ports),
        }
    }

    /// The labels that a slice should have, and whether those that come from the service differ from what it has.
    fn labels(&self, slice: &EndpointSlice) -> (BTreeMap<String, String>, bool) {
        let ours = |labels: Option<&BTreeMap<String, String>>| -> BTreeMap<String, String> {
            labels.into_iter().flatten().filter(|(key, _)| !is_reserved(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let mut labels = ours(self.service.metadata.labels.as_ref());
        let changed = labels != ours(slice.metadata.labels.as_ref());
        if self.service.spec.as_ref().is_none_or(pods::is_headless) {
            labels.insert(HEADLESS_LABEL.to_owned(), String::new());
        }
        labels.insert(SERVICE_NAME_LABEL.to_owned(), self.service.name().to_owned());
        labels.insert(MANAGED_BY_LABEL.to_owned(), self.manager.to_owned());
        (labels, changed)
    }

    fn is_owner(&self, slice: &EndpointSlice) -> bool {
        let mut owners = slice.metadata.owner_references.iter().flatten();
        owners.any(|owner| owner.uid == self.service.uid() && owner.kind == "Service" && owner.api_version == "v1")
    }
}

fn is_reserved(label: &str) -> bool {
    matches!(label, SERVICE_NAME_LABEL | MANAGED_BY_LABEL | HEADLESS_LABEL)
}

/// Generated names have the service's, and a dash where the result is still a name.
pub fn name_prefix(service: &str) -> String {
    /// A name's limit as upstream checks prefixes by it.
    const NAME_MAX: usize = 253;
    if service.len() < NAME_MAX { format!("{service}-") } else { service.to_owned() }
}

fn len(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

/// Brings the slices of one family from what exists to what is desired.
pub fn plan(template: &Template<'_>, existing: &[EndpointSlice], desired: Desired) -> Plan {
    let mut plan = Plan::default();
    let mut by_ports = BTreeMap::<Vec<PortKey>, Vec<&EndpointSlice>>::new();
    for slice in existing {
        if template.is_owner(slice) {
            let mut ports: Vec<PortKey> = slice.ports.iter().flatten().map(port_key).collect();
            ports.sort();
            by_ports.entry(ports).or_default().push(slice);
        } else {
            plan.delete.push(slice.clone());
        }
    }
    for (key, Group { ports, endpoints }) in desired.groups {
        let slices = by_ports.remove(&key).unwrap_or_default();
        plan_group(template, &slices, ports, endpoints, &mut plan);
    }
    plan.delete.extend(by_ports.into_values().flatten().cloned());
    if existing.len() == plan.delete.len() && plan.create.is_empty() {
        keep_placeholder(template, &mut plan);
    }
    reuse(template, &mut plan);
    plan
}

/// A service without endpoints has one slice without ports, so that it is known to be empty rather than not looked at.
fn keep_placeholder(template: &Template<'_>, plan: &mut Plan) {
    let placeholder = template.new_slice(Vec::new());
    if let [only] = plan.delete.as_slice()
        && is_placeholder(only, &placeholder)
    {
        plan.delete.clear();
    } else {
        plan.create.push(placeholder);
    }
}

fn is_placeholder(slice: &EndpointSlice, placeholder: &EndpointSlice) -> bool {
    slice.metadata.namespace == placeholder.metadata.namespace
        && slice.metadata.labels == placeholder.metadata.labels
        && slice.address_type == placeholder.address_type
        && len(slice) == 0
        && slice.ports.as_ref().is_none_or(Vec::is_empty)
}

/// A slice that would be deleted becomes one that would be created: one write instead of two.
fn reuse(template: &Template<'_>, plan: &mut Plan) {
    let mut kept = Vec::new();
    for old in std::mem::take(&mut plan.delete) {
        if !template.is_owner(&old) || old.address_type != template.family || plan.create.is_empty() {
            kept.push(old);
            continue;
        }
        if let Some(mut new) = plan.create.pop() {
            new.metadata.name = old.metadata.name;
            new.metadata.generate_name = old.metadata.generate_name;
            plan.update.push(new);
        }
    }
    plan.delete = kept;
}

fn plan_group(
    template: &Template<'_>,
    existing: &[&EndpointSlice],
    ports: Vec<EndpointPort>,
    mut desired: BTreeMap<EndpointKey, Endpoint>,
    plan: &mut Plan,
) {
    let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
    for &slice in existing {
        let mut updated = false;
        let mut kept = Vec::new();
        for endpoint in slice.endpoints.iter().flatten() {
            if let Some(mut wanted) = desired.remove(&endpoint_key(endpoint)) {
                if is_same(&wanted, endpoint) {
                    wanted = endpoint.clone();
                } else {
                    updated = true;
                }
                kept.push(wanted);
            }
        }
        let (labels, relabelled) = template.labels(slice);
        if updated || kept.len() != len(slice) {
            if kept.is_empty() {
                plan.delete.push(slice.clone());
                continue;
            }
        } else if !relabelled {
            unchanged.push(slice.clone());
            continue;
        }
        let mut slice = slice.clone();
        slice.endpoints = Some(kept);
        slice.metadata.labels = Some(labels);
        changed.push(slice);
    }
    // The fullest first, so that others may become empty some day.
    changed.sort_by_key(|slice| std::cmp::Reverse(len(slice)));
    for slice in &mut changed {
        fill(slice, &mut desired, template.max_endpoints);
    }
    while !desired.is_empty() {
        let room = if desired.len() < template.max_endpoints { best_fit(&unchanged, desired.len(), template.max_endpoints) } else { None };
        match room {
            Some(index) => {
                let mut slice = unchanged.swap_remove(index);
                fill(&mut slice, &mut desired, template.max_endpoints);
                changed.push(slice);
            }
            None => {
                let mut slice = template.new_slice(ports.clone());
                fill(&mut slice, &mut desired, template.max_endpoints);
                plan.create.push(slice);
            }
        }
    }
    plan.update.append(&mut changed);
}

fn fill(slice: &mut EndpointSlice, desired: &mut BTreeMap<EndpointKey, Endpoint>, max: usize) {
    let endpoints = slice.endpoints.get_or_insert_default();
    while endpoints.len() < max {
        let Some((_, endpoint)) = desired.pop_first() else { return };
        endpoints.push(endpoint);
    }
}

/// The slice that has room for all of them and is fullest afterwards.
fn best_fit(slices: &[EndpointSlice], endpoints: usize, max: usize) -> Option<usize> {
    let fitting = slices.iter().enumerate().filter(|(_, slice)| len(slice) + endpoints <= max);
    fitting.max_by_key(|(_, slice)| len(slice)).map(|(index, _)| index)
}

/// The existing slices that a plan leaves alone.
pub fn untouched<'a>(existing: &'a [EndpointSlice], plan: &Plan) -> Vec<&'a EndpointSlice> {
    let touched: BTreeSet<&str> = plan.update.iter().chain(&plan.delete).map(|slice| slice.name()).collect();
    existing.iter().filter(|slice| !touched.contains(slice.name())).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointConditions;

    use super::*;

    fn service() -> Service {
        let mut service = Service::default();
        service.metadata.name = Some("s".to_owned());
        service.metadata.namespace = Some("n".to_owned());
        service.metadata.uid = Some("u".to_owned());
        service.spec.get_or_insert_default().cluster_ip = Some("10.0.0.1".to_owned());
        service
    }

    fn endpoint(number: usize) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.0.{number}")],
            conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
            ..Endpoint::default()
        }
    }

    fn port(number: i32) -> Vec<EndpointPort> {
        vec![EndpointPort { port: Some(number), ..EndpointPort::default() }]
    }

    fn desired(numbers: impl IntoIterator<Item = usize>) -> Desired {
        let mut desired = Desired::default();
        numbers.into_iter().for_each(|n| desired.insert(port(80), endpoint(n)));
        desired
    }

    fn template(service: &Service) -> Template<'_> {
        Template { service, manager: "m", family: "IPv4", max_endpoints: 3 }
    }

    /// What the API server has after the plan.
    fn apply(existing: &[EndpointSlice], plan: Plan) -> Vec<EndpointSlice> {
        let mut slices: Vec<EndpointSlice> = untouched(existing, &plan).into_iter().cloned().collect();
        slices.extend(plan.update);
        for (i, mut slice) in plan.create.into_iter().enumerate() {
            slice.metadata.name = Some(format!("s-{i}{}", slices.len()));
            slices.push(slice);
        }
        slices
    }

    fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
        slices.iter().map(len).collect()
    }

    #[test]
    fn new_endpoints_fill_new_slices_up_to_the_limit() {
        let service = service();
        let plan = plan(&template(&service), &[], desired(0..7));
        assert_eq!(sizes(&plan.create), [3, 3, 1]);
        assert_eq!((plan.update.len(), plan.delete.len()), (0, 0));
        let slice = &plan.create[0];
        assert_eq!(slice.metadata.generate_name.as_deref(), Some("s-"));
        assert_eq!(slice.label(SERVICE_NAME_LABEL), Some("s"));
        assert_eq!(slice.label(MANAGED_BY_LABEL), Some("m"));
        assert_eq!(slice.label(HEADLESS_LABEL), None);
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let service = service();
        let slices = apply(&[], plan(&template(&service), &[], desired(0..7)));
        assert_eq!(plan(&template(&service), &slices, desired(0..7)), Plan::default());
    }

    #[test]
    fn a_few_more_endpoints_go_where_there_is_room() {
        let service = service();
        let slices = apply(&[], plan(&template(&service), &[], desired(0..5)));
        let next = plan(&template(&service), &slices, desired(0..6));
        assert_eq!((sizes(&next.create), sizes(&next.update)), (vec![], vec![3]));
    }

    #[test]
    fn a_slice_that_loses_all_its_endpoints_goes() {
        let service = service();
        let slices = apply(&[], plan(&template(&service), &[], desired(0..6)));
        let next = plan(&template(&service), &slices, desired(0..3));
        assert_eq!((next.create.len(), next.update.len(), next.delete.len()), (0, 0, 1));
    }

    #[test]
    fn a_change_of_ports_reuses_the_slice() {
        let service = service();
        let slices = apply(&[], plan(&template(&service), &[], desired(0..1)));
        let mut other = Desired::default();
        other.insert(port(81), endpoint(0));
        let next = plan(&template(&service), &slices, other);
        assert_eq!((next.create.len(), next.update.len(), next.delete.len()), (0, 1, 0));
        assert_eq!(next.update[0].name(), slices[0].name());
        assert_eq!(next.update[0].ports, Some(port(81)));
    }

    #[test]
    fn a_service_without_endpoints_has_one_empty_slice() {
        let service = service();
        let empty = apply(&[], plan(&template(&service), &[], Desired::default()));
        assert_eq!(sizes(&empty), [0]);
        assert_eq!(plan(&template(&service), &empty, Desired::default()), Plan::default());
        let filled = plan(&template(&service), &empty, desired(0..1));
        assert_eq!((filled.create.len(), sizes(&filled.update), filled.delete.len()), (0, vec![1], 0));
    }

    #[test]
    fn slices_of_a_former_service_of_this_name_are_not_reused() {
        let service = service();
        let mut slices = apply(&[], plan(&template(&service), &[], desired(0..1)));
        for owner in slices.iter_mut().flat_map(|slice| slice.metadata.owner_references.iter_mut().flatten()) {
            owner.uid = "other".to_owned();
        }
        let next = plan(&template(&service), &slices, desired(0..1));
        assert_eq!((next.create.len(), next.update.len(), next.delete.len()), (1, 0, 1));
    }

    #[test]
    fn labels_of_the_service_are_followed() {
        let mut service = service();
        let slices = apply(&[], plan(&template(&service), &[], desired(0..1)));
        service.metadata.labels = Some([("a".to_owned(), "b".to_owned()), (MANAGED_BY_LABEL.to_owned(), "x".to_owned())].into());
        let next = plan(&template(&service), &slices, desired(0..1));
        assert_eq!(next.update[0].label("a"), Some("b"));
        assert_eq!(next.update[0].label(MANAGED_BY_LABEL), Some("m"));
    }

    #[test]
    fn a_change_of_condition_updates_the_endpoint_in_its_place() {
        let service = service();
        let slices = apply(&[], plan(&template(&service), &[], desired(0..2)));
        let mut changed = Desired::default();
        changed.insert(port(80), endpoint(0));
        changed.insert(port(80), Endpoint { conditions: None, ..endpoint(1) });
        let next = plan(&template(&service), &slices, changed);
        assert_eq!(next.update[0].endpoints.as_ref().unwrap()[1].conditions, None);
    }
}
