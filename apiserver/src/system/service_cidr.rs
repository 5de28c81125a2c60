//! The ServiceCIDR `kubernetes`: the ranges that this server was told to give services their addresses from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use apimachinery::status::Status;
use apimachinery::time::format_time;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Settings;
use crate::loopback::Loopback;
use crate::registry::conditions;
use crate::registry::read::{list_at, str_at};

const NAME: &str = "kubernetes";
const COLLECTION: &str = "/apis/networking.k8s.io/v1/servicecidrs";
/// Who says that it is ready.
const MANAGER: &str = "kubernetes-service-cidr-controller";

/// A range of addresses: `10.96.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRange {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is no service range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} is no range of addresses such as 10.96.0.0/16 with room for a service")]
pub struct NotARange(String);

impl FromStr for ServiceRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<ServiceRange, NotARange> {
        let refuse = || NotARange(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(refuse)?;
        let address: IpAddr = address.trim().parse().map_err(|_| refuse())?;
        let prefix: u8 = prefix.trim().parse().map_err(|_| refuse())?;
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        // A range needs at least eight addresses, as upstream asks.
        if prefix > bits.saturating_sub(3) {
            return Err(refuse());
        }
        let network = match address {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4) & u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0))),
        };
        Ok(ServiceRange { network, prefix })
    }
}

impl fmt::Display for ServiceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl ServiceRange {
    /// The first address that a service can have: that of the service `kubernetes`.
    pub fn first(&self) -> IpAddr {
        match self.network {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4) | 1)),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) | 1)),
        }
    }
}

/// Creates the object if it is missing, and says that it is ready if nobody has said anything about that.
pub async fn ensure(client: &Loopback, settings: &Settings) -> Result<(), Status> {
    if !client.serves("networking.k8s.io", "servicecidrs") || settings.service_ranges.is_empty() {
        return Ok(());
    }
    let ranges: Vec<String> = settings.service_ranges.iter().map(ToString::to_string).collect();
    let current = match client.get("networking.k8s.io", "servicecidrs", "", NAME) {
        Some(current) => current,
        None => {
            let object = json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "ServiceCIDR",
                "metadata": { "name": NAME },
                "spec": { "cidrs": ranges },
            });
            client.ensure(COLLECTION, object).await?;
            client.get("networking.k8s.io", "servicecidrs", "", NAME).unwrap_or_default()
        }
    };
    match decide(&current, &ranges) {
        Step::None => Ok(()),
        Step::Inconsistent => {
            tracing::warn!(wanted = ?ranges, is = %current["spec"]["cidrs"], "the default ServiceCIDR is not what --service-cluster-ip-range says");
            Ok(())
        }
        Step::Widen => {
            let mut wider = current;
            wider["spec"]["cidrs"] = json!(ranges);
            client.replace(&format!("{COLLECTION}/{NAME}"), wider).await.map(|_| ())
        }
        Step::Ready => client.with_manager(MANAGER).apply(&format!("{COLLECTION}/{NAME}/status"), &ready(Timestamp::now())).await,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    None,
    /// The object says something else than the flag; an administrator has to decide.
    Inconsistent,
    /// From one family to two.
    Widen,
    Ready,
}

fn decide(current: &Value, ranges: &[String]) -> Step {
    let has: Vec<&str> = list_at(current, "/spec/cidrs").iter().filter_map(Value::as_str).collect();
    if ranges.len() == 2 && has.len() == 1 && ranges.first().is_some_and(|r| r == has[0]) {
        return Step::Widen;
    }
    if !str_at(current, "/metadata/deletionTimestamp").is_empty() {
        return Step::None;
    }
    if has != ranges {
        return Step::Inconsistent;
    }
    match conditions::find(current, "Ready").map(|c| str_at(c, "/status")) {
        None | Some("Unknown") => Step::Ready,
        Some(_) => Step::None,
    }
}

fn ready(now: Timestamp) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": { "name": NAME },
        "status": { "conditions": [{
            "type": "Ready",
            "status": "True",
            "lastTransitionTime": format_time(now),
            "message": "Kubernetes default Service CIDR is ready",
        }] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_masked_and_have_a_first_address() {
        for (text, range, first) in [
            ("10.96.3.4/16", "10.96.0.0/16", "10.96.0.1"),
            ("0.0.0.0/0", "0.0.0.0/0", "0.0.0.1"),
            ("fd00:1::5/108", "fd00:1::/108", "fd00:1::1"),
        ] {
            let parsed: ServiceRange = text.parse().unwrap();
            assert_eq!((parsed.to_string(), parsed.first().to_string()), (range.to_owned(), first.to_owned()));
        }
        for text in ["10.96.0.0", "10.96.0.0/30", "x/16", "10.0.0.0/-1"] {
            assert!(text.parse::<ServiceRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn readiness_is_said_once_and_only_of_the_configured_range() {
        let object = |cidrs: Value, status: Option<&str>| {
            let conditions: Vec<Value> = status.iter().map(|s| json!({"type": "Ready", "status": s})).collect();
            json!({"spec": {"cidrs": cidrs}, "status": {"conditions": conditions}})
        };
        let one = ["10.0.0.0/16".to_owned()];
        let two = ["10.0.0.0/16".to_owned(), "fd00::/112".to_owned()];
        assert_eq!(decide(&object(json!(["10.0.0.0/16"]), None), &one), Step::Ready);
        assert_eq!(decide(&object(json!(["10.0.0.0/16"]), Some("True")), &one), Step::None);
        assert_eq!(decide(&object(json!(["10.0.0.0/16"]), Some("False")), &one), Step::None);
        assert_eq!(decide(&object(json!(["10.1.0.0/16"]), None), &one), Step::Inconsistent);
        assert_eq!(decide(&object(json!(["10.0.0.0/16"]), Some("True")), &two), Step::Widen);
    }
}
