//! The status of claims: who uses one, and what drivers report of its devices.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_valid_interface_address, uuid, validate_conditions};
use apimachinery::view::view;
use k8s_openapi::api::resource::v1::{AllocatedDeviceStatus, AllocationResult, NetworkDeviceData};
use serde_json::{Value, json};

use super::allocation_rules::{declared_allocation, validate_allocation};
use super::claim_rules::bounded;
use super::config_rules::{Age, validate_raw};
use super::names::{RequestNames, validate_driver, validate_label, validate_pool};
use super::view_at;
use crate::registry::declared::{Findings, changed, max_items, unique};
use crate::registry::read::{at, list_at, str_at};

const MAX_CONSUMERS: usize = 256;
const MAX_CONDITIONS: usize = 8;
const MAX_IPS: usize = 16;
const MAX_INTERFACE_NAME: usize = 256;
const MAX_HARDWARE_ADDRESS: usize = 128;

/// What tells one allocated device, or one share of it, from another: driver, pool, device, share.
pub type DeviceId = [String; 4];

/// The device that a result or a report is about.
pub fn device_of(value: &Value) -> DeviceId {
    ["/driver", "/pool", "/device", "/shareID"].map(|pointer| str_at(value, pointer).to_owned())
}

/// All devices of a claim.
pub fn allocated_devices(claim: &Value) -> Vec<DeviceId> {
    list_at(claim, "/status/allocation/devices/results").iter().map(device_of).collect()
}

/// A claim whose status is replaced.
pub fn validate_status(new: &Value, old: &Value) -> ErrorList {
    let path = Path::new("status");
    let mut findings = Findings::default();
    let consumers = list_at(new, "/status/reservedFor");
    let (consumers_path, devices_path, allocation_path) = (path.child("reservedFor"), path.child("devices"), path.child("allocation"));
    if consumers.len() <= MAX_CONSUMERS {
        for (i, consumer) in consumers.iter().enumerate() {
            let path = consumers_path.index(i);
            let missing =
                ["resource", "name", "uid"].into_iter().filter(|field| consumer.get(*field).is_none_or(|v| v == "" || v.is_null()));
            findings.written.extend(missing.map(|field| Error::required(&path.child(field), "")));
        }
    }
    let allocated = allocated_devices(new);
    let reports = list_at(new, "/status/devices");
    for (i, report) in reports.iter().enumerate() {
        findings.written.extend(validate_report(report, &allocated, &devices_path.index(i)));
    }
    findings.written.extend(validate_consumers(new, old, &consumers_path));

    let allocation = at(new, "/status/allocation");
    let was = at(old, "/status/allocation");
    let set_anew = was.is_null() && !allocation.is_null();
    if !was.is_null() && !allocation.is_null() && allocation != was {
        findings.declared.push(Error::invalid(&allocation_path, Value::Null, "field cannot be modified once set"));
    } else if set_anew {
        let result: AllocationResult = view(allocation);
        let names = RequestNames::of(&view_at(new, "/spec/devices"));
        findings.written.extend(validate_allocation(&result, &names, &allocation_path));
        findings.declared.extend(declared_allocation(&result, &allocation_path));
    }
    if changed(at(new, "/status/reservedFor"), Some(at(old, "/status/reservedFor"))) {
        match max_items(consumers, MAX_CONSUMERS, &consumers_path) {
            Some(error) => findings.declared.push(error),
            None => findings.declared.extend(unique(consumers, |c| str_at(c, "/uid").to_owned(), Clone::clone, &consumers_path)),
        }
    }
    if changed(at(new, "/status/devices"), Some(at(old, "/status/devices"))) {
        findings.declared.extend(unique(reports, device_of, Clone::clone, &devices_path));
        for (i, report) in reports.iter().enumerate() {
            findings.declared.extend(declared_report(&view(report), &devices_path.index(i)));
        }
    }
    findings.into_errors()
}

fn validate_consumers(new: &Value, old: &Value, path: &Path<'_>) -> Option<Error> {
    let consumers = list_at(new, "/status/reservedFor");
    if consumers.is_empty() {
        return None;
    }
    if at(new, "/status/allocation").is_null() {
        return Some(Error::forbidden(path, "may not be specified when `allocated` is not set"));
    }
    let identity = |consumer: &Value| ["/apiGroup", "/resource", "/name", "/uid"].map(|pointer| str_at(consumer, pointer).to_owned());
    let known: Vec<_> = list_at(old, "/status/reservedFor").iter().map(identity).collect();
    let deleted = !at(new, "/metadata/deletionTimestamp").is_null();
    (deleted && consumers.iter().any(|consumer| !known.contains(&identity(consumer)))).then(|| {
        let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        Error::forbidden(path, detail)
    })
}

fn validate_report(report: &Value, allocated: &[DeviceId], path: &Path<'_>) -> ErrorList {
    let id = device_of(report);
    let mut errors = validate_driver(&id[0], &path.child("driver"));
    errors.extend(validate_pool(&id[1], &path.child("pool")));
    errors.extend(validate_label(&id[2], &path.child("device")));
    if !allocated.contains(&id) {
        let [driver, pool, device, share] = &id;
        let shown = json!({"Driver": driver, "Pool": pool, "Device": device, "ShareID": share});
        errors.push(Error::invalid(path, shown, "must be an allocated device in the claim"));
    }
    let (conditions, conditions_path) = (list_at(report, "/conditions"), path.child("conditions"));
    errors.extend(max_items(conditions, MAX_CONDITIONS, &conditions_path));
    errors.extend(validate_conditions(conditions, &conditions_path));
    if let Some(data) = report.get("data").filter(|data| !data.is_null()) {
        errors.extend(validate_raw(data, Age::New, &path.child("data")));
    }
    let network: NetworkDeviceData = view_at(report, "/networkData");
    let network_path = path.child("networkData");
    let ips_path = network_path.child("ips");
    for (i, address) in bounded(network.ips.as_ref(), MAX_IPS).iter().enumerate() {
        errors.extend(is_valid_interface_address(&ips_path.index(i), address));
    }
    errors
}

fn declared_report(report: &AllocatedDeviceStatus, path: &Path<'_>) -> ErrorList {
    let mut errors: ErrorList = report.share_id.iter().flat_map(|id| uuid(&path.child("shareID"), id)).collect();
    let Some(network) = &report.network_data else { return errors };
    let path = path.child("networkData");
    let too_long = |field: &str, value: Option<&String>, max: usize| {
        value.filter(|value| value.len() > max).map(|_| Error::too_long(&path.child(field), max))
    };
    errors.extend(too_long("interfaceName", network.interface_name.as_ref(), MAX_INTERFACE_NAME));
    let (ips, ips_path) = (network.ips.as_deref().unwrap_or_default(), path.child("ips"));
    match max_items(ips, MAX_IPS, &ips_path) {
        Some(error) => errors.push(error),
        None => errors.extend(unique(ips, Clone::clone, |ip| Value::from(ip.as_str()), &ips_path)),
    }
    errors.extend(too_long("hardwareAddress", network.hardware_address.as_ref(), MAX_HARDWARE_ADDRESS));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(new: Value, old: Value) -> Vec<String> {
        validate_status(&new, &old).iter().map(ToString::to_string).collect()
    }

    fn claim(status: Value) -> Value {
        json!({"spec": {"devices": {"requests": [{"name": "r"}]}}, "status": status})
    }

    fn result() -> Value {
        json!({"request": "r", "driver": "d.io", "pool": "p", "device": "a"})
    }

    #[test]
    fn consumers_use_what_is_allocated() {
        let consumer = |uid: &str| json!({"resource": "pods", "name": "p", "uid": uid});
        assert_eq!(
            check(claim(json!({"reservedFor": [consumer("1")]})), claim(json!({}))),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
        let used = |consumers: Value| claim(json!({"allocation": {"devices": {"results": [result()]}}, "reservedFor": consumers}));
        assert_eq!(check(used(json!([consumer("1")])), claim(json!({}))), [""; 0]);
        assert_eq!(
            check(used(json!([consumer("1"), consumer("1")])), used(json!([]))),
            [r#"status.reservedFor[1]: Duplicate value: {"resource":"pods","name":"p","uid":"1"}"#]
        );
        let mut deleted = used(json!([consumer("1"), consumer("2")]));
        deleted["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(check(deleted, used(json!([consumer("1")]))).len(), 1);
        assert_eq!(check(used(json!([{}])), used(json!([]))).len(), 3);
    }

    #[test]
    fn an_allocation_stays() {
        let allocated = |device: &str| {
            let mut result = result();
            result["device"] = device.into();
            claim(json!({"allocation": {"devices": {"results": [result]}}}))
        };
        assert_eq!(check(allocated("a"), allocated("b")), ["status.allocation: Invalid value: null: field cannot be modified once set"]);
        assert_eq!(check(claim(json!({})), allocated("b")), [""; 0]);
    }

    #[test]
    fn reports_are_about_allocated_devices() {
        let reports = |reports: Value| claim(json!({"allocation": {"devices": {"results": [result()]}}, "devices": reports}));
        let mut report = result();
        report["data"] = json!({"a": 1});
        report["networkData"] = json!({"ips": ["10.0.0.1/8"]});
        assert_eq!(check(reports(json!([report])), reports(json!([]))), [""; 0]);
        report["device"] = "b".into();
        report["data"] = json!([]);
        report["networkData"] = json!({"ips": ["x"], "interfaceName": "n".repeat(257)});
        let errors = check(reports(json!([report])), reports(json!([])));
        assert_eq!(
            errors[0],
            r#"status.devices[0]: Invalid value: {"Driver":"d.io","Pool":"p","Device":"b","ShareID":""}: must be an allocated device in the claim"#
        );
        assert_eq!(errors[1], r#"status.devices[0].data: Invalid value: "<value omitted>": must be a valid JSON object"#);
        assert!(errors[2].starts_with("status.devices[0].networkData.ips[0]: Invalid value: \"x\""));
        assert_eq!(errors[3], "status.devices[0].networkData.interfaceName: Too long: may not be more than 256 bytes");
    }
}
