//! What the files of a volume made from objects contain: config maps, secrets, the pod itself. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::container_config::downward;

/// The mode of files where nothing is said.
const DEFAULT_MODE: i32 = 0o644;

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    pub owner: Option<u32>,
}

/// Files by their path in the volume.
pub type Payload = BTreeMap<String, File>;

/// How files are made where an item does not say otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    pub mode: i32,
    pub user: Option<i64>,
}

impl Defaults {
    pub fn new(mode: Option<i32>, user: Option<i64>) -> Defaults {
        Defaults { mode: mode.unwrap_or(DEFAULT_MODE), user }
    }

    /// A file with its own mode and owner, or these.
    pub fn file(self, data: Vec<u8>, mode: Option<i32>, user: Option<i64>) -> File {
        let mode = u32::try_from(mode.unwrap_or(self.mode)).unwrap_or(0) & 0o7777;
        File { data, mode, owner: user.or(self.user).and_then(|user| u32::try_from(user).ok()) }
    }
}

/// The files of a config map: all of it, or the items. An absent one has none.
pub fn of_config_map(object: Option<&ConfigMap>, items: &[KeyToPath], optional: bool, defaults: Defaults) -> Result<Payload, String> {
    let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
    if let Some(object) = object {
        data.extend(object.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())));
        data.extend(object.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes())));
    }
    chosen(&data, items, optional, defaults, |key| format!("configmap references non-existent config key: {key}"))
}

/// The files of a secret, likewise.
pub fn of_secret(object: Option<&Secret>, items: &[KeyToPath], optional: bool, defaults: Defaults) -> Result<Payload, String> {
    let entries = object.and_then(|object| object.data.as_ref()).into_iter().flatten();
    let data = entries.map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
    chosen(&data, items, optional, defaults, |key| format!("references non-existent secret key: {key}"))
}

fn chosen(
    data: &BTreeMap<&str, &[u8]>,
    items: &[KeyToPath],
    optional: bool,
    defaults: Defaults,
    missing: impl Fn(&str) -> String,
) -> Result<Payload, String> {
    if items.is_empty() {
        return Ok(data.iter().map(|(key, value)| ((*key).to_owned(), defaults.file(value.to_vec(), None, None))).collect());
    }
    let mut payload = Payload::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(value) => drop(payload.insert(item.path.clone(), defaults.file(value.to_vec(), item.mode, item.user))),
            None if optional => {}
            None => return Err(missing(&item.key)),
        }
    }
    Ok(payload)
}

/// The files that tell a pod of itself.
pub fn of_downward_api(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    allocatable: &BTreeMap<String, Quantity>,
    defaults: Defaults,
) -> Result<Payload, String> {
    let (mut payload, mut errors) = (Payload::new(), Vec::new());
    for item in items {
        let own: Option<&Container> = None;
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::metadata_field(pod, &field.field_path),
            (None, Some(selector)) => downward::container_resource(pod, own, selector, allocatable),
            (None, None) => Ok(String::new()),
        };
        match text {
            Ok(text) => drop(payload.insert(item.path.clone(), defaults.file(text.into_bytes(), item.mode, item.user))),
            Err(error) => errors.push(error.message),
        }
    }
    if errors.is_empty() { Ok(payload) } else { Err(aggregate(errors)) }
}

/// Several errors as one, each told once.
pub fn aggregate(mut errors: Vec<String>) -> String {
    let mut seen = Vec::new();
    errors.retain(|error| {
        let new = !seen.contains(error);
        seen.push(error.clone());
        new
    });
    match errors.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_choose_and_rename_and_the_rest_has_the_defaults() {
        let object: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AP8="}})).expect("it is a config map");
        let defaults = Defaults::new(Some(0o400), Some(7));
        let all = of_config_map(Some(&object), &[], false, defaults).expect("nothing is missing");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(all["c"], File { data: vec![0, 255], mode: 0o400, owner: Some(7) });
        let items: Vec<KeyToPath> =
            serde_json::from_value(json!([{"key": "a", "path": "x/y", "mode": 0o777}, {"key": "z", "path": "z"}])).expect("they are items");
        let missing = of_config_map(Some(&object), &items, false, defaults);
        assert_eq!(missing, Err("configmap references non-existent config key: z".to_owned()));
        let some = of_config_map(Some(&object), &items, true, defaults).expect("it is optional");
        assert_eq!(some, Payload::from([("x/y".to_owned(), File { data: b"1".to_vec(), mode: 0o777, owner: Some(7) })]));
        assert_eq!(of_secret(None, &[], true, defaults), Ok(Payload::new()));
    }

    #[test]
    fn a_pod_is_told_of_itself() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"a": "1"}}, "spec": {"containers": [{"name": "c"}]}}))
                .expect("it is a pod");
        let items: Vec<DownwardAPIVolumeFile> = serde_json::from_value(json!([
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}}]))
        .expect("they are items");
        let allocatable = BTreeMap::from([("cpu".to_owned(), Quantity("2".to_owned()))]);
        let payload = of_downward_api(&pod, &items, &allocatable, Defaults::new(None, None)).expect("all is known");
        assert_eq!((payload["labels"].data.as_slice(), payload["cpu"].data.as_slice()), (&b"a=\"1\""[..], &b"2"[..]));
        assert_eq!(payload["cpu"].mode, 0o644);
    }

    #[test]
    fn errors_are_told_once_each() {
        assert_eq!(aggregate(vec!["a".to_owned(), "a".to_owned()]), "a");
        assert_eq!(aggregate(vec!["a".to_owned(), "b".to_owned()]), "[a, b]");
    }
}
