//! Defaults of resource.k8s.io/v1 that stand in no marker.

use apimachinery::time::format_time;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::registry::defaulting::{Hook, set_if_empty, set_if_unset};

pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.api.resource.v1.DeviceSubRequest", request),
    // A taint counts from when it is written; a hook has no other clock than the machine's.
    ("io.k8s.api.resource.v1.DeviceTaint", |taint| set_if_unset(taint, "timeAdded", format_time(Timestamp::now()))),
    ("io.k8s.api.resource.v1.ExactDeviceRequest", request),
];

fn request(request: &mut Map<String, Value>) {
    set_if_empty(request, "allocationMode", "ExactCount");
    let exact = request.get("allocationMode").is_some_and(|mode| mode == "ExactCount");
    if exact && request.get("count").and_then(Value::as_i64).unwrap_or(0) == 0 {
        request.insert("count".to_owned(), 1.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_device_is_what_a_request_wants() {
        let mut map = json!({"deviceClassName": "a"});
        request(map.as_object_mut().unwrap());
        assert_eq!(map, json!({"deviceClassName": "a", "allocationMode": "ExactCount", "count": 1}));
        let mut all = json!({"allocationMode": "All"});
        request(all.as_object_mut().unwrap());
        assert_eq!(all, json!({"allocationMode": "All"}));
        assert!(DEFAULTS.is_sorted_by_key(|(name, _)| *name));
    }
}
