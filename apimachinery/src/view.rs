//! Typed views of values: k8s-openapi types for code that reads many fields.
//!
//! A view is read only by convention: it loses what the typed form cannot hold (unknown fields, the difference
//! between absent and empty) and the managed fields, so nothing that is stored or answered is ever made from one.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// Go's zero time.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Reads a value that has passed the schema pass as a typed object.
///
/// A value whose shape the schema has accepted always deserializes; if table and types ever disagreed the view
/// would be the type's default, which validation then refuses as empty, and debug builds stop here.
pub fn view<T: DeserializeOwned + Default>(value: &Value) -> T {
    match T::deserialize(Viewed { value, place: Place::Root }) {
        Ok(typed) => typed,
        Err(error) => {
            debug_assert!(false, "schema and typed view disagree: {error}");
            T::default()
        }
    }
}

/// A value in which null stands for the zero time where a type insists on a time (the canonical form writes null for it), and whose
/// metadata have no managed fields: nobody who takes a view reads them, and they may be half of an object.
struct Viewed<'a> {
    value: &'a Value,
    place: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    /// The object's own; there are others inside templates.
    Metadata,
    Elsewhere,
}

impl<'a> Viewed<'a> {
    fn elsewhere(value: &'a Value) -> Viewed<'a> {
        Viewed { value, place: Place::Elsewhere }
    }
}

impl<'de> IntoDeserializer<'de, Error> for Viewed<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Viewed<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Number(n) => n.deserialize_any(visitor),
            Value::String(s) => visitor.visit_str(s),
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.iter().map(Viewed::elsewhere))),
            Value::Object(map) => {
                let place = self.place;
                let members = map.iter().filter(|(key, _)| place != Place::Metadata || *key != "managedFields");
                visitor.visit_map(MapDeserializer::new(members.map(|(key, value)| {
                    let below = if place == Place::Root && key == "metadata" { Place::Metadata } else { Place::Elsewhere };
                    (key.as_str(), Viewed { value, place: below })
                })))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match (name, self.value) {
            ("Time" | "MicroTime", Value::Null) => visitor.visit_newtype_struct(ZERO_TIME.into_deserializer()),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, Service};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_null_time_is_no_time() {
        let service: Service = view(&json!({
            "metadata": {"creationTimestamp": null},
            "spec": {"ports": [{"port": 80, "targetPort": "web"}], "sessionAffinity": null},
            "status": {"conditions": [{"type": "a", "lastTransitionTime": null}]},
        }));
        let spec = service.spec.unwrap();
        assert_eq!((spec.ports.unwrap()[0].port, spec.session_affinity), (80, None));
        assert_eq!(service.status.unwrap().conditions.unwrap()[0].type_, "a");
        assert_eq!(service.metadata.creation_timestamp, None);
    }

    #[test]
    fn free_form_values_and_numbers_are_read() {
        let pod: Pod = view(&json!({
            "metadata": {"name": "a", "managedFields": [{"fieldsV1": {"f:a": {}}}]},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}], "terminationGracePeriodSeconds": 30, "hostNetwork": true},
        }));
        assert_eq!((pod.metadata.name.as_deref(), pod.metadata.managed_fields), (Some("a"), None), "owners are left out");
        let spec = pod.spec.unwrap();
        assert_eq!((spec.termination_grace_period_seconds, spec.host_network), (Some(30), Some(true)));
        assert_eq!(spec.containers[0].resources.as_ref().unwrap().limits.as_ref().unwrap()["cpu"].0, "1");
    }
}
