//! The addresses that are in use: each is an IPAddress object named by it, in the ranges that ServiceCIDR objects give.
//!
//! The object's creation is the allocation, so that several API servers never give one address twice.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use apimachinery::status::Status;
use apimachinery::validation::Ip;
use http::Method;
use rand::RngExt;
use serde_json::{Value, json};

use super::range::Range;
use crate::api::Api;
use crate::endpoints::options::{DeleteOptions, Query};
use crate::endpoints::{Call, create, delete};
use crate::filters::Authorized;
use crate::registry::core::service::allocation::{AddressRequest, Family};
use crate::registry::read::{at, list_at, str_at};
use crate::storage;

const GROUP: &str = "networking.k8s.io";
const COLLECTION: &str = "/apis/networking.k8s.io/v1/ipaddresses";
/// Who is named as the manager of the objects made here.
pub const MANAGED_BY: &str = "ipallocator.k8s.io";
pub const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
/// The name of the ServiceCIDR whose ranges tell the cluster's address families.
const DEFAULT_CIDR: &str = "kubernetes";

/// Why an address was not given.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("range is full")]
    Full,
    #[error("provided IP is already allocated")]
    Allocated,
    #[error("the provided network does not match the current range")]
    MismatchedNetwork,
    #[error("allocator not ready")]
    NotReady,
    #[error("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}")]
    NotInRange { ip: String, range: String },
    #[error("{0}")]
    Failed(Status),
}

/// The service that an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

/// The cluster's address families, the default one first.
pub fn families(api: &Api) -> Vec<Family> {
    let cidr = cache(api, "servicecidrs").and_then(|cache| cache.get("", DEFAULT_CIDR)).map(|cidr| cidr.value());
    let ranges = cidr.iter().flat_map(|cidr| list_at(cidr, "/spec/cidrs"));
    let families: Vec<Family> = ranges.filter_map(|range| Some(Range::parse(range.as_str()?)?.family)).collect();
    if families.is_empty() { vec![Family::V4] } else { families }
}

/// The ranges of a family that addresses may be taken from now.
fn ranges(api: &Api, family: Family) -> Vec<Range> {
    let Some(cache) = cache(api, "servicecidrs") else { return Vec::new() };
    let mut found: Vec<Range> = Vec::new();
    for cidr in cache.snapshot().range("", None) {
        let cidr = cidr.value();
        if !is_ready(&cidr) {
            continue;
        }
        let ranges = list_at(&cidr, "/spec/cidrs").iter().filter_map(|range| Range::parse(range.as_str()?));
        for range in ranges.filter(|range| range.family == family) {
            if !found.contains(&range) {
                found.push(range);
            }
        }
    }
    found
}

/// Without a condition it is ready: the controller that sets conditions may not run.
fn is_ready(cidr: &Value) -> bool {
    let condition = list_at(cidr, "/status/conditions").iter().find(|c| str_at(c, "/type") == "Ready");
    str_at(cidr, "/metadata/deletionTimestamp").is_empty() && condition.is_none_or(|c| str_at(c, "/status") == "True")
}

fn cache(api: &Api, plural: &str) -> Option<Arc<storage::Resource>> {
    api.catalog.load().stored_resource(GROUP, plural)?.cache().cloned()
}

/// Takes the address that was asked for, or any.
pub async fn take(api: &Arc<Api>, request: &AddressRequest, owner: Owner<'_>, dry_run: bool) -> Result<String, Refused> {
    let ranges = ranges(api, request.family);
    let wanted = request.address.as_deref();
    if dry_run {
        return show(&ranges, wanted);
    }
    match wanted {
        Some(wanted) => {
            let address: IpAddr = canonical(wanted).ok_or(Refused::MismatchedNetwork)?;
            if !ranges.iter().any(|range| range.contains(address)) {
                return Err(Refused::MismatchedNetwork);
            }
            create_object(api, address, request.family, owner).await?;
            Ok(wanted.to_owned())
        }
        None => take_any(api, &ranges, request.family, owner).await,
    }
}

async fn take_any(api: &Arc<Api>, ranges: &[Range], family: Family, owner: Owner<'_>) -> Result<String, Refused> {
    let addresses = cache(api, "ipaddresses").ok_or(Refused::NotReady)?;
    for range in ranges {
        let candidates = range.candidates(|n| rand::rng().random_range(0..n));
        for address in candidates.filter(|address| addresses.get("", &address.to_string()).is_none()) {
            match create_object(api, address, family, owner).await {
                Ok(()) => return Ok(address.to_string()),
                // Another write was faster.
                Err(Refused::Allocated) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Err(Refused::Full)
}

/// What upstream shows in a dry run: any address in range, and the network's own for one that nobody asked for.
fn show(ranges: &[Range], wanted: Option<&str>) -> Result<String, Refused> {
    let range = ranges.first().ok_or(Refused::NotReady)?;
    let Some(wanted) = wanted else { return Ok(range.network().to_string()) };
    match canonical(wanted) {
        Some(address) if range.contains(address) => Ok(wanted.to_owned()),
        _ => Err(Refused::NotInRange { ip: wanted.to_owned(), range: range.text().to_owned() }),
    }
}

/// An address as objects are named, however it was written.
pub fn canonical(text: &str) -> Option<IpAddr> {
    Ip::parse_sloppy(text)?.to_string().parse().ok()
}

/// The object that stands for an address in use.
pub fn object(address: IpAddr, family: Family, owner: Owner<'_>) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": { FAMILY_LABEL: family.name(), MANAGED_BY_LABEL: MANAGED_BY },
        },
        "spec": { "parentRef": { "resource": "services", "namespace": owner.namespace, "name": owner.name } },
    })
}

/// Creating and deleting an object may give and take addresses in turn, so these futures are closed: they could not contain
/// themselves.
type Closed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Makes the object of an address, as the API server itself.
pub fn create_object<'a>(api: &'a Arc<Api>, address: IpAddr, family: Family, owner: Owner<'a>) -> Closed<'a, Result<(), Refused>> {
    Box::pin(async move {
        let mut call = own_call(api, Method::POST).ok_or(Refused::NotReady)?;
        match create::store(&mut call, object(address, family, owner), "kube-apiserver", false).await {
            Ok(_) => Ok(()),
            Err(status) if status.reason == "AlreadyExists" && is_left_over(api, address, owner) => Ok(()),
            Err(status) if status.reason == "AlreadyExists" => Err(Refused::Allocated),
            Err(status) => Err(Refused::Failed(status)),
        }
    })
}

/// Whether the address is already this service's although there is no such service: what a write that was cut short leaves.
fn is_left_over(api: &Api, address: IpAddr, owner: Owner<'_>) -> bool {
    let Some(object) = cache(api, "ipaddresses").and_then(|cache| cache.get("", &address.to_string())) else { return false };
    let object = object.value();
    let parent = at(&object, "/spec/parentRef");
    let is_owners = str_at(parent, "/group").is_empty()
        && str_at(parent, "/resource") == "services"
        && str_at(parent, "/namespace") == owner.namespace
        && str_at(parent, "/name") == owner.name;
    let catalog = api.catalog.load();
    let services = catalog.stored_resource("", "services").and_then(|stored| stored.cache());
    is_owners && services.is_some_and(|services| services.get(owner.namespace, owner.name).is_none())
}

/// Gives an address back. What fails is made good by the repair.
pub fn release<'a>(api: &'a Arc<Api>, address: &'a str) -> Closed<'a, ()> {
    Box::pin(async move {
        let Some(name) = canonical(address).map(|address| address.to_string()) else { return };
        let Some(mut call) = own_call(api, Method::DELETE) else { return };
        match delete::remove(&mut call, "", &name, &DeleteOptions::default()).await {
            Ok(_) => {}
            Err(status) if status.code == 404 => {}
            Err(status) => tracing::warn!(address, %status, "an address could not be given back"),
        }
    })
}

/// All objects of addresses that were made here.
pub fn managed(api: &Api) -> Vec<Value> {
    let Some(cache) = cache(api, "ipaddresses") else { return Vec::new() };
    let all = cache.snapshot();
    let objects = all.range("", None).map(|object| object.value());
    objects.filter(|object| at(object, "/metadata/labels").get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY)).collect()
}

fn own_call(api: &Arc<Api>, method: Method) -> Option<Call> {
    let request = Authorized::loopback(method, COLLECTION, "kube-apiserver");
    let catalog = api.catalog.load_full();
    let resource = catalog.find(GROUP, "v1", "ipaddresses")?.clone();
    let siblings = catalog.versions_of(&resource);
    Some(Call { api: api.clone(), request, resource, siblings, query: Query::default(), warnings: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_shows_an_address_and_checks_the_range() {
        let ranges = [Range::parse("10.96.0.0/16").unwrap()];
        assert_eq!(show(&ranges, None).unwrap(), "10.96.0.0");
        assert_eq!(show(&ranges, Some("10.96.7.7")).unwrap(), "10.96.7.7");
        assert_eq!(
            show(&ranges, Some("10.200.0.1")).unwrap_err().to_string(),
            "the provided IP (10.200.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16"
        );
        assert!(matches!(show(&[], None), Err(Refused::NotReady)));
    }

    #[test]
    fn a_range_that_is_going_or_not_ready_is_not_used() {
        assert!(is_ready(&json!({"metadata": {}})));
        assert!(!is_ready(&json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}})));
        assert!(!is_ready(&json!({"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}})));
    }
}
