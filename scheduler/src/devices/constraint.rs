//! What the devices of one claim have to have in common, or not in common.

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceConstraint};

/// A constraint, and the devices that are under it so far.
pub struct Constraint<'a> {
    /// The requests that it is about; all if there are none.
    requests: &'a [String],
    attribute: &'a str,
    distinct: bool,
    values: Vec<&'a DeviceAttribute>,
}

impl<'a> Constraint<'a> {
    /// Nothing for one of an unknown kind.
    pub fn new(constraint: &'a DeviceConstraint) -> Option<Constraint<'a>> {
        let (attribute, distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), _) => (attribute, false),
            (None, Some(attribute)) => (attribute, true),
            (None, None) => return None,
        };
        Some(Constraint { requests: constraint.requests.as_deref().unwrap_or_default(), attribute, distinct, values: Vec::new() })
    }

    fn is_about(&self, request: &str, alternative: Option<&str>) -> bool {
        let named = |name: &String| match (name.split_once('/'), alternative) {
            (None, _) => name == request,
            (Some((parent, sub)), Some(alternative)) => parent == request && sub == alternative,
            (Some(_), None) => name == request,
        };
        self.requests.is_empty() || self.requests.iter().any(named)
    }

    /// Adds a device if that is allowed.
    pub fn add(&mut self, request: &str, alternative: Option<&str>, device: &'a Device, driver: &str) -> bool {
        if !self.is_about(request, alternative) {
            return true;
        }
        let Some(value) = attribute_of(device, driver, self.attribute) else { return false };
        let fits = if self.distinct {
            self.values.iter().all(|known| scalar(value).is_some() && scalar(known) != scalar(value))
        } else {
            // The first may be anything.
            self.values.first().is_none_or(|known| scalar(value).is_some() && scalar(known) == scalar(value))
        };
        if fits {
            self.values.push(value);
        }
        fits
    }

    /// Undoes the last [`Constraint::add`] that was allowed.
    pub fn remove(&mut self, request: &str, alternative: Option<&str>) {
        if self.is_about(request, alternative) {
            self.values.pop();
        }
    }
}

#[derive(PartialEq, Eq)]
enum Scalar<'a> {
    String(&'a str),
    Int(i64),
    Bool(bool),
    Version(&'a str),
}

fn scalar(attribute: &DeviceAttribute) -> Option<Scalar<'_>> {
    let string = attribute.string.as_deref().map(Scalar::String);
    let version = || attribute.version.as_deref().map(Scalar::Version);
    string.or(attribute.int.map(Scalar::Int)).or(attribute.bool.map(Scalar::Bool)).or_else(version)
}

/// The attribute by its full name; the driver's domain may be left out in the device.
fn attribute_of<'a>(device: &'a Device, driver: &str, name: &str) -> Option<&'a DeviceAttribute> {
    let attributes = device.attributes.as_ref()?;
    attributes.get(name).or_else(|| {
        let (domain, id) = name.split_once('/')?;
        attributes.get(id).filter(|_| domain == driver)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices_have_to_match_or_to_differ() {
        let device =
            |value: serde_json::Value| -> Device { serde_json::from_value(json!({"name": "x", "attributes": {"numa": value}})).unwrap() };
        let (zero, one, text) = (device(json!({"int": 0})), device(json!({"int": 1})), device(json!({"string": "0"})));
        let none: Device = serde_json::from_value(json!({"name": "x"})).unwrap();
        for (kind, expected) in
            [("matchAttribute", [true, true, false, false, false]), ("distinctAttribute", [true, false, true, true, false])]
        {
            let constraint: DeviceConstraint = serde_json::from_value(json!({kind: "d.com/numa", "requests": ["r", "s/a"]})).unwrap();
            let mut constraint = Constraint::new(&constraint).unwrap();
            let got = [&zero, &zero, &one, &text, &none].map(|device| constraint.add("r", None, device, "d.com"));
            assert_eq!(got, expected, "{kind}");
            assert!(constraint.add("s", Some("b"), &none, "d.com") && !constraint.add("s", Some("a"), &none, "d.com"));
            assert!(!constraint.add("r", None, &zero, "other.com"));
            let kept = constraint.values.len();
            constraint.remove("t", None);
            constraint.remove("r", None);
            assert_eq!(constraint.values.len(), kept - 1);
        }
        assert!(Constraint::new(&DeviceConstraint::default()).is_none());
    }
}
