//! What is written of found devices: an allocation with the configuration of claim and classes, and the nodes that it holds for.

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceRequestAllocationResult, ResourceClaim,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::allocator::{Asked, Picked, Solution};

/// The allocation of each claim. Shares of devices have no names yet: an empty text stands for one.
pub fn allocations(
    solution: &Solution<'_>,
    claims: &[std::sync::Arc<ResourceClaim>],
    node: &Node,
) -> Result<Vec<AllocationResult>, String> {
    let each = solution.picked.iter().zip(&solution.asked).zip(claims);
    each.map(|((picked, asked), claim)| {
        let chosen: Vec<&Asked<'_>> = asked.iter().map(|(alternatives, chosen)| &alternatives[*chosen]).collect();
        let results = picked.iter().map(|picked| result(picked, &asked[picked.request.0].0[picked.request.1])).collect();
        let selector = node_selector(picked, node).map_err(|error| {
            let name = claim.metadata.name.as_deref().unwrap_or("");
            format!("create NodeSelector for claim {name}: {error}")
        })?;
        let config = Some(configuration(claim, &chosen)).filter(|config| !config.is_empty());
        let devices = Some(DeviceAllocationResult { config, results: Some(results) });
        Ok(AllocationResult { allocation_timestamp: None, devices, node_selector: selector })
    })
    .collect()
}

fn result(picked: &Picked<'_>, asked: &Asked<'_>) -> DeviceRequestAllocationResult {
    let (spec, device) = (&picked.slice.slice.spec, picked.slice.device(picked.device));
    let consumed = picked.consumed.iter().map(|(name, amount)| (name.clone(), Quantity(amount.canonical()))).collect();
    let tolerations = asked.wanted.tolerations.to_vec();
    DeviceRequestAllocationResult {
        request: asked.wanted.full_name(),
        driver: spec.driver.clone(),
        pool: spec.pool.name.clone(),
        device: device.name.clone(),
        admin_access: picked.admin.then_some(true),
        tolerations: Some(tolerations).filter(|tolerations| !tolerations.is_empty()),
        share_id: picked.shared.then(String::new),
        consumed_capacity: Some(consumed).filter(|_| !picked.consumed.is_empty()),
        binding_conditions: device.binding_conditions.clone().filter(|c| !c.is_empty()),
        binding_failure_conditions: device.binding_failure_conditions.clone().filter(|c| !c.is_empty()),
        skip_node_operations: None,
    }
}

/// The configuration of classes, each once with the requests that it is for, and that of the claim; for all requests none are named.
fn configuration(claim: &ResourceClaim, chosen: &[&Asked<'_>]) -> Vec<DeviceAllocationConfiguration> {
    let mut all: Vec<DeviceAllocationConfiguration> = Vec::new();
    let mut classes: Vec<&str> = Vec::new();
    for asked in chosen {
        let name = asked.wanted.class;
        if classes.contains(&name) {
            continue;
        }
        classes.push(name);
        let of_class = chosen.iter().filter(|other| other.wanted.class == name);
        let requests: Vec<String> = of_class.map(|asked| asked.wanted.full_name()).collect();
        for config in asked.class.spec.iter().flat_map(|spec| spec.config.iter().flatten()) {
            let (opaque, requests) = (config.opaque.clone(), Some(requests.clone()));
            all.push(DeviceAllocationConfiguration { opaque, requests, source: "FromClass".to_owned() });
        }
    }
    // Whether a list of requests means this one.
    let means = |requests: &[String], asked: &Asked<'_>| {
        let whole = asked.wanted.parent.unwrap_or(asked.wanted.name);
        requests.iter().any(|name| name == whole || *name == asked.wanted.full_name())
    };
    for config in super::claims::asked(claim).into_iter().flat_map(|devices| devices.config.iter().flatten()) {
        let requests = config.requests.clone().unwrap_or_default();
        if requests.is_empty() || chosen.iter().any(|asked| means(&requests, asked)) {
            let (opaque, requests) = (config.opaque.clone(), Some(requests));
            all.push(DeviceAllocationConfiguration { opaque, requests, source: "FromClaim".to_owned() });
        }
    }
    for config in &mut all {
        config.requests =
            config.requests.take().filter(|requests| !chosen.iter().all(|asked| means(requests, asked)) && !requests.is_empty());
    }
    all
}

/// Where the devices can be used; nothing for everywhere.
fn node_selector(picked: &[Picked<'_>], node: &Node) -> Result<Option<NodeSelector>, String> {
    let mut term = NodeSelectorTerm::default();
    for picked in picked {
        let (slice, device) = (picked.slice, picked.slice.device(picked.device));
        let spec = &slice.slice.spec;
        let (name, selector) = if slice.leaves_nodes_to_devices() {
            (&device.node_name, &device.node_selector)
        } else {
            (&spec.node_name, &spec.node_selector)
        };
        if name.is_some() || device.binds_to_node == Some(true) {
            let only = NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.metadata.name.clone().unwrap_or_default()]),
            };
            let term = NodeSelectorTerm { match_fields: Some(vec![only]), match_expressions: None };
            return Ok(Some(NodeSelector { node_selector_terms: vec![term] }));
        }
        match selector.as_ref().map(|selector| selector.node_selector_terms.as_slice()) {
            None | Some([]) => {}
            Some([one]) => {
                add(one.match_fields.as_deref(), &mut term.match_fields);
                add(one.match_expressions.as_deref(), &mut term.match_expressions);
            }
            Some(terms) => return Err(format!("unsupported ResourceSlice.NodeSelector with {} terms", terms.len())),
        }
    }
    let is_empty = term.match_fields.is_none() && term.match_expressions.is_none();
    Ok((!is_empty).then(|| NodeSelector { node_selector_terms: vec![term] }))
}

/// Adds requirements that are not there already, in whatever order their values are.
fn add(from: Option<&[NodeSelectorRequirement]>, to: &mut Option<Vec<NodeSelectorRequirement>>) {
    let values = |requirement: &NodeSelectorRequirement| -> std::collections::BTreeSet<String> {
        requirement.values.iter().flatten().cloned().collect()
    };
    for requirement in from.unwrap_or_default() {
        let same = |known: &NodeSelectorRequirement| {
            known.key == requirement.key && known.operator == requirement.operator && values(known) == values(requirement)
        };
        let all = to.get_or_insert_default();
        if !all.iter().any(same) {
            all.push(requirement.clone());
        }
    }
}
