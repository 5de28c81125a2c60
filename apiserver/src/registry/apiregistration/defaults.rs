//! Defaults of apiregistration.k8s.io/v1 that stand in no marker.

use crate::registry::defaulting::{Hook, set_if_unset};

pub static DEFAULTS: &[Hook] = &[("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.ServiceReference", |service| {
    set_if_unset(service, "port", 443);
})];
