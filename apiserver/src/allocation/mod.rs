//! Cluster addresses and node ports: what services take from the cluster's pools and give back.
//!
//! What a service needs is planned in [`crate::registry::core::service::allocation`]; this is the shell that carries plans
//! out. [`begin`] comes before a service is prepared and validated, [`Taken::finish`] after it is stored or refused; what a
//! deleted service had goes back by [`release_deleted`]. It never decides what a service may be.

pub mod addresses;
pub mod ports;
pub mod range;
pub mod repair;

use std::sync::Arc;

use apimachinery::field::quote;
use apimachinery::status::Status;
use parking_lot::Mutex;
use rand::RngExt;
use serde_json::Value;

use crate::api::Api;
use crate::catalog::Resource;
use crate::endpoints::{Call, meta};
use crate::registry::core::service::allocation::{Plan, Refusal, allocations, releases};
use addresses::Owner;
use ports::{Held, PortRange, Ports};

/// The pools of one API server.
pub struct Allocator {
    ports: Arc<Mutex<Ports>>,
}

impl Allocator {
    /// `node_ports`: what services of type NodePort and LoadBalancer are given.
    pub fn new(node_ports: PortRange) -> Allocator {
        Allocator { ports: Arc::new(Mutex::new(Ports::new(node_ports))) }
    }
}

/// What one write has taken, until it has succeeded or failed.
#[derive(Default)]
pub struct Taken {
    addresses: Vec<String>,
    /// To give back when the write has succeeded.
    released: Vec<String>,
    /// Never read: the ports are let go of with it.
    _ports: Option<Held>,
}

impl Taken {
    /// Settles what was taken: the service has it now, or it goes back.
    pub async fn finish(self, api: &Arc<Api>, stored: bool) {
        for address in if stored { &self.released } else { &self.addresses } {
            addresses::release(api, address).await;
        }
    }
}

fn allocates(resource: &Resource) -> bool {
    resource.group().is_empty() && &*resource.plural == "services"
}

/// Takes what a service that is to be stored needs and writes it into the service; nothing for other kinds.
/// A dry run shows what could be and takes nothing.
pub async fn begin(call: &Call, new: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<Taken, Status> {
    if !allocates(&call.resource) || !call.request.info.subresource.is_empty() {
        return Ok(Taken::default());
    }
    let name = meta::text(new, "name").to_owned();
    let plan = allocations(new, old, &addresses::families(&call.api)).map_err(|refusal| status(&name, refusal))?;
    let mut taken = Taken::default();
    match take(call, new, &plan, &mut taken, dry_run).await {
        Ok(()) if dry_run => Ok(Taken::default()),
        Ok(()) => {
            taken.released = plan.released_addresses;
            Ok(taken)
        }
        Err(status) => {
            taken.finish(&call.api, false).await;
            Err(status)
        }
    }
}

async fn take(call: &Call, new: &mut Value, plan: &Plan, taken: &mut Taken, dry_run: bool) -> Result<(), Status> {
    let name = meta::text(new, "name").to_owned();
    let owner = Owner { namespace: call.namespace(), name: &name };
    for request in &plan.addresses {
        match addresses::take(&call.api, request, owner, dry_run).await {
            Ok(address) => {
                request.grant(new, &address);
                if !dry_run {
                    taken.addresses.push(address);
                }
            }
            Err(addresses::Refused::Full) if request.address.is_none() => {
                return Err(Status::internal_error(&format!("failed to allocate a serviceIP for Service {}: range is full", quote(&name))));
            }
            Err(refused) => return Err(status(&name, request.refused(new, &refused.to_string()))),
        }
    }
    if plan.ports.is_empty() {
        return Ok(());
    }
    let services = call.cache()?;
    let pool = &call.api.allocator.ports;
    pool.lock().refresh(services);
    let held = taken._ports.insert(Held::new(pool, dry_run));
    for request in &plan.ports {
        let number = held.take(request.number, |n| rand::rng().random_range(0..n));
        let number = number.map_err(|refused| status(&name, request.refused(&refused.to_string())))?;
        request.grant(new, number);
    }
    Ok(())
}

/// Gives back what a service had that is stored no more; nothing for other kinds.
pub async fn release_deleted(call: &Call, old: &Value) {
    if !allocates(&call.resource) {
        return;
    }
    for address in releases(old, &addresses::families(&call.api)).released_addresses {
        addresses::release(&call.api, &address).await;
    }
}

fn status(name: &str, refusal: Refusal) -> Status {
    match refusal {
        Refusal::Invalid(errors) => Status::invalid("", "Service", name, &errors),
        Refusal::Internal(why) => Status::internal_error(&why),
        Refusal::Unknown(why) => Status::unknown(why),
    }
}
