//! Administrative access to devices that are in use, which only namespaces with a certain label may ask for.
//!
//! Finds out whether it is asked for; who knows the namespace's labels decides.

use serde_json::Value;

use crate::registry::read::{at, bool_at, list_at};

/// The label that allows it, with the value `true`.
pub const NAMESPACE_LABEL: &str = "resource.kubernetes.io/admin-access";

/// What is said of a namespace without the label, at the path that was found.
pub fn refusal() -> String {
    format!("admin access to devices requires the `{NAMESPACE_LABEL}: true` label on the containing namespace")
}

/// Where a new claim, or the claim of a new template, asks for it. Upstream's path leaves out `exactly`, and what a template
/// puts before it.
pub fn asked_by(object: &Value) -> Option<String> {
    let claim = match at(object, "/spec/spec") {
        Value::Null => at(object, "/spec"),
        claim => claim,
    };
    let place = list_at(claim, "/devices/requests").iter().position(|request| bool_at(request, "/exactly/adminAccess"));
    place.map(|i| format!("spec.devices.requests[{i}].adminAccess"))
}

/// Where a claim's status grants it, if it did not before.
pub fn granted_by(new: &Value, old: &Value) -> Option<String> {
    let granted = |object: &Value| {
        let mut results = list_at(object, "/status/allocation/devices/results").iter();
        results.position(|result| bool_at(result, "/adminAccess"))
    };
    match granted(old) {
        Some(_) => None,
        None => granted(new).map(|i| format!("status.allocation.devices.results[{i}].adminAccess")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_request_for_it_is_found() {
        let devices = json!({"devices": {"requests": [{"name": "a"}, {"exactly": {"adminAccess": true}}]}});
        assert_eq!(asked_by(&json!({"spec": devices})).as_deref(), Some("spec.devices.requests[1].adminAccess"));
        assert_eq!(asked_by(&json!({"spec": {"spec": devices}})).as_deref(), Some("spec.devices.requests[1].adminAccess"));
        assert_eq!(asked_by(&json!({"spec": {}})), None);
        let status = json!({"status": {"allocation": {"devices": {"results": [{"adminAccess": true}]}}}});
        assert_eq!(granted_by(&status, &json!({})).as_deref(), Some("status.allocation.devices.results[0].adminAccess"));
        assert_eq!(granted_by(&status, &status), None);
    }
}
