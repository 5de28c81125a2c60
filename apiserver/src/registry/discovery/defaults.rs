//! Defaults of discovery.k8s.io/v1 that stand in no marker.

use serde_json::{Map, Value};

use crate::registry::defaulting::{Hook, set_if_unset};

pub static DEFAULTS: &[Hook] = &[("io.k8s.api.discovery.v1.EndpointPort", endpoint_port)];

fn endpoint_port(port: &mut Map<String, Value>) {
    set_if_unset(port, "name", "");
    set_if_unset(port, "protocol", "TCP");
}
