//! Defaults of scheduling.k8s.io/v1 that stand in no marker.

use serde_json::{Map, Value};

use crate::registry::defaulting::{Hook, set_if_unset};

pub static DEFAULTS: &[Hook] = &[("io.k8s.api.scheduling.v1.PriorityClass", priority_class)];

fn priority_class(object: &mut Map<String, Value>) {
    set_if_unset(object, "preemptionPolicy", "PreemptLowerPriority");
}
