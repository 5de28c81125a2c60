//! Repairs what was cut short: addresses that no service has are given back, services whose address is not on record get it
//! recorded. Runs at start and then from time to time, as upstream's repair does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::addresses::{self, Owner, Refused};
use crate::api::Api;
use crate::endpoints::meta;
use crate::registry::core::service::allocation::{Family, releases};
use crate::registry::read::str_at;

const INTERVAL: Duration = Duration::from_secs(180);
/// The write that took a younger address may still be under way.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// One repair.
#[derive(Debug, PartialEq, Eq)]
enum Fix {
    Record { address: IpAddr, namespace: String, name: String },
    Release { address: String },
}

/// Repairs until the server stops.
pub async fn run(api: Arc<Api>) {
    let mut shutdown = api.shutdown.clone();
    loop {
        repair(&api).await;
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn repair(api: &Arc<Api>) {
    let services = {
        let catalog = api.catalog.load();
        let Some(cache) = catalog.stored_resource("", "services").and_then(|stored| stored.cache()) else { return };
        cache.snapshot()
    };
    let services: Vec<Value> = services.range("", None).map(|service| service.value()).collect();
    for fix in plan(&services, &addresses::managed(api), &addresses::families(api), Timestamp::now()) {
        match fix {
            Fix::Record { address, namespace, name } => {
                let family = family(address);
                match addresses::create_object(api, address, family, Owner { namespace: &namespace, name: &name }).await {
                    Ok(()) | Err(Refused::Allocated) => tracing::info!(%address, namespace, name, "recorded the address of a service"),
                    Err(error) => tracing::warn!(%address, namespace, name, %error, "the address of a service could not be recorded"),
                }
            }
            Fix::Release { address } => {
                tracing::info!(address, "gave back an address that no service has");
                addresses::release(api, &address).await;
            }
        }
    }
}

const fn family(address: IpAddr) -> Family {
    if address.is_ipv6() { Family::V6 } else { Family::V4 }
}

/// `cluster` are the families that addresses are recorded of; an address of another one is left alone while it is used.
fn plan(services: &[Value], objects: &[Value], cluster: &[Family], now: Timestamp) -> Vec<Fix> {
    let mut used: BTreeMap<IpAddr, (&str, &str)> = BTreeMap::new();
    for service in services {
        for address in releases(service, &[Family::V4, Family::V6]).released_addresses.iter().filter_map(|text| addresses::canonical(text))
        {
            used.entry(address).or_insert((meta::text(service, "namespace"), meta::text(service, "name")));
        }
    }
    let recorded: BTreeSet<IpAddr> = objects.iter().filter_map(|object| meta::text(object, "name").parse().ok()).collect();
    let mut fixes: Vec<Fix> = used
        .iter()
        .filter(|(address, _)| !recorded.contains(address) && cluster.contains(&family(**address)))
        .map(|(address, (namespace, name))| Fix::Record { address: *address, namespace: (*namespace).to_owned(), name: (*name).to_owned() })
        .collect();
    for object in objects {
        let name = meta::text(object, "name");
        let parent = (str_at(object, "/spec/parentRef/namespace"), str_at(object, "/spec/parentRef/name"));
        let is_used = name.parse().ok().and_then(|address: IpAddr| used.get(&address)).is_some_and(|owner| *owner == parent);
        let created: Option<Timestamp> = meta::text(object, "creationTimestamp").parse().ok();
        let is_young = created.is_some_and(|created| now.duration_since(created) < GRACE);
        if !is_used && !is_young {
            fixes.push(Fix::Release { address: name.to_owned() });
        }
    }
    fixes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_and_services_come_to_agree() {
        let service =
            |name: &str, ip: &str| json!({"metadata": {"namespace": "n", "name": name}, "spec": {"type": "ClusterIP", "clusterIPs": [ip]}});
        let object = |ip: &str, service: &str, created: &str| json!({"metadata": {"name": ip, "creationTimestamp": created}, "spec": {"parentRef": {"namespace": "n", "name": service}}});
        let (old, young) = ("2020-01-01T00:00:00Z", "2020-01-01T00:09:30Z");
        let now: Timestamp = "2020-01-01T00:10:00Z".parse().unwrap();
        let services = [service("a", "10.0.0.1"), service("b", "10.0.0.2"), service("h", "None")];
        let objects = [object("10.0.0.1", "a", old), object("10.0.0.3", "gone", old), object("10.0.0.4", "coming", young)];
        let record = Fix::Record { address: "10.0.0.2".parse().unwrap(), namespace: "n".into(), name: "b".into() };
        assert_eq!(plan(&services, &objects, &[Family::V4], now), [record, Fix::Release { address: "10.0.0.3".into() }]);
    }
}
