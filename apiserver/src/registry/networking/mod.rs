//! networking.k8s.io/v1: how traffic enters, what may talk to what, and which addresses services have.

pub mod defaults;
pub mod ingress;
pub mod ingress_backend;
pub mod ingress_class;
pub mod ip_address;
pub mod network_policy;
pub mod service_cidr;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::is_valid_path_segment_name;

use crate::registry::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] =
    &[&ingress_class::RESOURCE, &ingress::RESOURCE, &ip_address::RESOURCE, &network_policy::RESOURCE, &service_cidr::RESOURCE];

/// A name that can stand in a URL's path, as kinds, resources and names in references must.
fn path_segment(value: &str, path: &Path<'_>) -> ErrorList {
    is_valid_path_segment_name(value).into_iter().map(|message| Error::invalid(path, value, message)).collect()
}
