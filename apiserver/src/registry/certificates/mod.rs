//! certificates.k8s.io/v1: certificates that are asked for, and those that are trusted.

pub mod certificate_signing_request;
pub mod cluster_trust_bundle;
pub mod issued;
pub mod pem;
pub mod pod_certificate_request;
pub mod request_rules;
pub mod signer_name;
pub mod x509;

use crate::registry::Definition;

/// The group.
pub const GROUP: &str = "certificates.k8s.io";

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] =
    &[&certificate_signing_request::RESOURCE, &cluster_trust_bundle::RESOURCE, &pod_certificate_request::RESOURCE];
