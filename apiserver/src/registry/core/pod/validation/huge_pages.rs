//! Huge pages: amounts that come in whole pages.

use apimachinery::field::{Error, Path};
use apimachinery::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Typed;

use super::options::Options;
use super::resources::amount;

/// A resource of huge pages of the size that follows.
pub(crate) fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// The amount is a multiple of the page size that the name gives.
pub(super) fn is_divisible(name: &str, quantity: &Typed) -> bool {
    let Some(page) = name.strip_prefix("hugepages-").and_then(|size| Quantity::parse(size).ok()) else { return false };
    page.sign() > 0 && page.milli_value() % 1000 == 0 && amount(quantity).value().checked_rem(page.value()) == Some(0)
}

/// Whole pages, unless the old object already had broken ones.
pub(super) fn validate_pages(name: &str, quantity: &Typed, path: &Path<'_>, opts: &Options) -> Option<Error> {
    let bad = is_huge_pages(name) && !opts.allow_indivisible_huge_pages_values && !is_divisible(name, quantity);
    bad.then(|| Error::invalid(path, quantity.0.as_str(), format!("{} is not positive integer multiple of {name}", quantity.0)))
}
