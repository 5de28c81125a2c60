//! What expressions cost: counted while they are evaluated (`runtime`), and estimated from sizes before that (`estimate`).
//! The numbers are part of the API: an expression that is refused by one server must be refused by another.

mod estimate;
mod runtime;

pub(crate) use estimate::estimate;
pub use estimate::{CostEstimate, Sizes};
pub(crate) use runtime::call;

/// Cost of a character of a text that is gone through.
const TRAVERSAL: f64 = 0.1;
/// Cost of a character of a regular expression for each character of the text.
const REGEX: f64 = 0.25;
pub(crate) const LIST_COST: u64 = 10;
pub(crate) const MAP_COST: u64 = 30;
pub(crate) const OBJECT_COST: u64 = 40;
/// Cost of asking about a permission: an expression can ask twice.
const CHECK_COST: u64 = 350_000;

/// `Ceil(size * factor)`.
fn scaled(size: u64, factor: f64) -> u64 {
    let product = (size as f64 * factor).ceil();
    if product >= u64::MAX as f64 { u64::MAX } else { product as u64 }
}

/// Types of Kubernetes' libraries that are compared in one step.
const ATOMIC: [&str; 11] = [
    "kubernetes.Quantity",
    "net.IP",
    "net.CIDR",
    "kubernetes.NamedFormat",
    "kubernetes.URL",
    "kubernetes.Semver",
    "kubernetes.authorization.Authorizer",
    "kubernetes.authorization.PathCheck",
    "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.ResourceCheck",
    "kubernetes.authorization.Decision",
];
