//! Services and their endpoints.

use std::collections::BTreeSet;

use super::Invariant;
use crate::api::kinds::{ENDPOINT_SLICE, POD, SERVICE};
use crate::api::state::State;
use crate::object;

/// At rest the slices of a Service name the pods that it selects, each ready, and no others.
pub struct Endpoints;

impl Invariant for Endpoints {
    fn at_rest(&self, state: &State) -> Result<(), String> {
        for service in state.list(SERVICE, "") {
            let (name, namespace) = (object::name(service), object::namespace(service));
            let selector = serde_json::json!({"matchLabels": service["spec"]["selector"]});
            let pods = state.list(POD, namespace).filter(|pod| object::is_active(pod) && object::matches(Some(&selector), pod));
            let wanted: BTreeSet<&str> = pods.map(|pod| object::text(pod, "/status/podIP")).collect();
            let slices = state.list(ENDPOINT_SLICE, namespace);
            let slices = slices.filter(|slice| object::text(slice, "/metadata/labels/kubernetes.io~1service-name") == name);
            let mut told: Vec<&str> = Vec::new();
            for endpoint in slices.flat_map(|slice| object::list(slice, "/endpoints")) {
                if object::is_true(endpoint, "/conditions/ready") {
                    told.push(object::text(endpoint, "/addresses/0"));
                }
            }
            let distinct: BTreeSet<&str> = told.iter().copied().collect();
            if distinct != wanted || distinct.len() != told.len() {
                return Err(format!("Service {name:?} leads to {told:?} and not to {wanted:?}"));
            }
        }
        Ok(())
    }
}
