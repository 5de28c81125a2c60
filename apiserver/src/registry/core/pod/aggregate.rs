//! What a pod's containers need together: the sum of those that run at once, or the most that its start needs.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::access::{ResourceList, is_sidecar, items};
use super::validation::amount;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

pub fn container_requests(spec: &PodSpec) -> Amounts {
    aggregate(spec, |c| c.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

pub fn container_limits(spec: &PodSpec) -> Amounts {
    aggregate(spec, |c| c.resources.as_ref().and_then(|r| r.limits.as_ref()))
}

fn aggregate(spec: &PodSpec, of: fn(&Container) -> Option<&ResourceList>) -> Amounts {
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &amounts(of(container)));
    }
    // Sidecars started so far run on while later init containers run.
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in items(&spec.init_containers) {
        let mut at_start = amounts(of(container));
        if is_sidecar(container) {
            add(&mut total, &at_start);
            add(&mut sidecars, &at_start);
            at_start.clone_from(&sidecars);
        } else {
            add(&mut at_start, &sidecars);
        }
        raise(&mut peak, at_start);
    }
    raise(&mut total, peak);
    total
}

fn amounts(list: Option<&ResourceList>) -> Amounts {
    list.into_iter().flatten().map(|(name, quantity)| (name.clone(), amount(quantity))).collect()
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, quantity) in more {
        match total.get_mut(name) {
            Some(sum) => *sum = sum.plus(quantity),
            None => {
                total.insert(name.clone(), quantity.clone());
            }
        }
    }
}

fn raise(total: &mut Amounts, other: Amounts) {
    for (name, quantity) in other {
        match total.get_mut(&name) {
            Some(most) if quantity > *most => *most = quantity,
            Some(_) => {}
            None => {
                total.insert(name, quantity);
            }
        }
    }
}
