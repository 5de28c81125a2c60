//! core/v1 ConfigMap.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_config_map_key, name_is_dns_subdomain};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use crate::registry::printer::{self, AGE, NAME};
use crate::registry::{ALL_VERBS, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

/// The largest sum of the values of a ConfigMap or a Secret.
pub const MAX_DATA_BYTES: usize = 1 << 20;
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "configmaps",
    singular: "configmap",
    kind: "ConfigMap",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["cm"],
    categories: &[],
    schema: "io.k8s.api.core.v1.ConfigMap",
    name: name_is_dns_subdomain,
    strategy: &ConfigMapStrategy,
    subresources: &[],
    selectable: &[],
    printer: Printer {
        columns: &[NAME, printer::text("Data", Description::Field("io.k8s.api.core.v1.ConfigMap", "data")), AGE],
        cells: |object, now| {
            let count = |field: &str| object.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len);
            vec![printer::name(object), (count("data") + count("binaryData")).into(), printer::object_age(object, now)]
        },
    },
    reset_fields: &[],
};

struct ConfigMapStrategy;

impl UpdateStrategy for ConfigMapStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let (new, old): (ConfigMap, ConfigMap) = (view(new), view(old));
        let mut errors = ErrorList::new();
        if old.immutable == Some(true) {
            if new.immutable != Some(true) {
                errors.push(Error::forbidden(&Path::new("immutable"), IMMUTABLE));
            }
            if new.data.as_ref().filter(|d| !d.is_empty()) != old.data.as_ref().filter(|d| !d.is_empty()) {
                errors.push(Error::forbidden(&Path::new("data"), IMMUTABLE));
            }
            if new.binary_data != old.binary_data {
                errors.push(Error::forbidden(&Path::new("binaryData"), IMMUTABLE));
            }
        }
        errors.extend(validate(&new));
        errors
    }
}

impl Strategy for ConfigMapStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(new))
    }
}

fn validate(map: &ConfigMap) -> ErrorList {
    let (no_data, no_binary) = (BTreeMap::new(), BTreeMap::new());
    let (data, binary) = (map.data.as_ref().unwrap_or(&no_data), map.binary_data.as_ref().unwrap_or(&no_binary));
    let mut errors = ErrorList::new();
    for key in data.keys() {
        let path = Path::new("data");
        let path = path.key(key);
        errors.extend(is_config_map_key(key).into_iter().map(|message| Error::invalid(&path, key.as_str(), message)));
        if binary.contains_key(key) {
            errors.push(Error::invalid(&path, key.as_str(), "duplicate of key present in binaryData"));
        }
    }
    for key in binary.keys() {
        let path = Path::new("binaryData");
        errors.extend(is_config_map_key(key).into_iter().map(|message| Error::invalid(&path.key(key), key.as_str(), message)));
    }
    let size = data.values().map(String::len).chain(binary.values().map(|bytes| bytes.0.len())).sum::<usize>();
    if size > MAX_DATA_BYTES {
        errors.push(Error::too_long(&Path::new(""), MAX_DATA_BYTES));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::{cx, messages};

    #[test]
    fn keys_are_checked_and_live_in_one_place() {
        let errors = ConfigMapStrategy.validate(&cx(), &json!({"data": {"a/b": "", "x": ""}, "binaryData": {"x": ""}}));
        let text = messages(&errors);
        assert_eq!(text.len(), 2, "{text:?}");
        assert!(text[0].starts_with("data[a/b]: Invalid value: \"a/b\": "));
        assert_eq!(text[1], "data[x]: Invalid value: \"x\": duplicate of key present in binaryData");
    }

    #[test]
    fn an_immutable_map_stays_as_it_is() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let errors = ConfigMapStrategy.validate_update(&cx(), &json!({"data": {"a": "2"}}), &old);
        assert_eq!(
            messages(&errors),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
        assert!(ConfigMapStrategy.validate_update(&cx(), &old, &old).is_empty());
    }

    #[test]
    fn the_size_of_all_values_is_bounded() {
        let big = "x".repeat(MAX_DATA_BYTES);
        assert_eq!(
            messages(&ConfigMapStrategy.validate(&cx(), &json!({"data": {"a": big, "b": "y"}}))),
            ["[]: Too long: may not be more than 1048576 bytes"]
        );
    }
}
