//! What a pod refers to, and adding to a pod: reading and writing of pods as values that several plugins share.
//!
//! Knows where a pod's spec names other objects; decides nothing.

use apimachinery::field::quote;
use apimachinery::validation::validate_path_segment_name;
use serde_json::{Map, Value};

use crate::registry::read::{at, list_at, str_at};

/// Annotation of the pods that a kubelet makes up to show its static pods.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether the pod shows a static pod.
pub fn is_mirror(pod: &Value) -> bool {
    at(pod, "/metadata/annotations").get(MIRROR).is_some()
}

/// The lists of a pod's containers, in the order in which they are visited.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Init, main and ephemeral containers of a pod's spec, in this order.
pub fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    CONTAINER_LISTS.iter().filter_map(|list| spec.get(list)?.as_array()).flatten()
}

/// What a client of upstream's says of a name that cannot be part of a path.
pub fn invalid_name(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("resource name may not be empty".to_owned());
    }
    let problems = validate_path_segment_name(name, false);
    (!problems.is_empty()).then(|| format!("invalid resource name {}: [{}]", quote(name), problems.join(" ")))
}

/// The object at a path below `value`, made where it is absent.
pub fn object_mut<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let mut map = value.as_object_mut()?;
    for step in path {
        let next = map.entry(*step).or_insert_with(|| Value::Object(Map::new()));
        if next.is_null() {
            *next = Value::Object(Map::new());
        }
        map = next.as_object_mut()?;
    }
    Some(map)
}

/// Appends to the list at a path, which is made if there is something to append.
pub fn append(value: &mut Value, path: &[&str], items: Vec<Value>) {
    let Some((last, parents)) = path.split_last() else { return };
    if items.is_empty() {
        return;
    }
    let Some(parent) = object_mut(value, parents) else { return };
    let list = parent.entry(*last).or_insert(Value::Null);
    match list {
        Value::Array(list) => list.extend(items),
        other => *other = Value::Array(items),
    }
}

/// Where the volume sources that use a secret name it.
const SECRETS_OF_VOLUMES: [(&str, &str); 10] = [
    ("azureFile", "/secretName"),
    ("cephfs", "/secretRef/name"),
    ("cinder", "/secretRef/name"),
    ("flexVolume", "/secretRef/name"),
    ("rbd", "/secretRef/name"),
    ("secret", "/secretName"),
    ("scaleIO", "/secretRef/name"),
    ("iscsi", "/secretRef/name"),
    ("storageos", "/secretRef/name"),
    ("csi", "/nodePublishSecretRef/name"),
];

/// Whether the pod names a secret anywhere.
pub fn names_a_secret(pod: &Value) -> bool {
    let spec = at(pod, "/spec");
    list_at(spec, "/imagePullSecrets").iter().any(|r| names(r, "/name"))
        || env_names(spec, "/secretRef/name", "/valueFrom/secretKeyRef/name")
        || list_at(spec, "/volumes").iter().any(|volume| {
            let direct = SECRETS_OF_VOLUMES.iter().any(|(source, name)| volume.get(source).is_some_and(|s| names(s, name)));
            direct || list_at(volume, "/projected/sources").iter().any(|s| names(s, "/secret/name"))
        })
}

/// Whether the pod names a config map anywhere.
fn names_a_config_map(spec: &Value) -> bool {
    env_names(spec, "/configMapRef/name", "/valueFrom/configMapKeyRef/name")
        || list_at(spec, "/volumes")
            .iter()
            .any(|v| names(v, "/configMap/name") || list_at(v, "/projected/sources").iter().any(|s| names(s, "/configMap/name")))
}

fn names(value: &Value, pointer: &str) -> bool {
    !str_at(value, pointer).is_empty()
}

fn env_names(spec: &Value, from: &str, var: &str) -> bool {
    containers(spec).any(|c| list_at(c, "/envFrom").iter().any(|e| names(e, from)) || list_at(c, "/env").iter().any(|e| names(e, var)))
}

/// Volume sources that need nothing of the API.
const LOCAL_VOLUMES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

/// Volume sources that do, and how messages name what they need.
const API_VOLUMES: [(&str, &str); 7] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];

const API_PROJECTIONS: [(&str, &str); 5] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// The first sort of API objects that the pod refers to, as messages name it; an error for a volume of an unknown sort.
pub fn api_reference(pod: &Value) -> Result<Option<&'static str>, String> {
    let spec = at(pod, "/spec");
    if names(spec, "/serviceAccountName") {
        return Ok(Some("serviceaccounts"));
    }
    if names_a_secret(pod) {
        return Ok(Some("secrets"));
    }
    if names_a_config_map(spec) {
        return Ok(Some("configmaps"));
    }
    if !list_at(spec, "/resourceClaims").is_empty() {
        return Ok(Some("resourceclaims"));
    }
    for volume in list_at(spec, "/volumes") {
        if let Some(found) = volume_reference(volume)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn volume_reference(volume: &Value) -> Result<Option<&'static str>, String> {
    let has = |source: &str| volume.get(source).is_some_and(|s| !s.is_null());
    if LOCAL_VOLUMES.iter().any(|source| has(source)) {
        return Ok(None);
    }
    if let Some((_, what)) = API_VOLUMES.iter().find(|(source, _)| has(source)) {
        return Ok(Some(what));
    }
    if !has("projected") {
        return Err(format!("unknown volume type for volume  {}", apimachinery::field::quote(str_at(volume, "/name"))));
    }
    for source in list_at(volume, "/projected/sources") {
        if let Some((_, what)) = API_PROJECTIONS.iter().find(|(kind, _)| source.get(kind).is_some()) {
            return Ok(Some(what));
        }
        if source.get("downwardAPI").is_none() {
            return Err(format!("unknown source for projected volume {}", apimachinery::field::quote(str_at(volume, "/name"))));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_found_wherever_a_pod_can_hold_them() {
        let cases = [
            (json!({}), None),
            (json!({"serviceAccountName": "a"}), Some("serviceaccounts")),
            (json!({"imagePullSecrets": [{"name": "a"}]}), Some("secrets")),
            (json!({"imagePullSecrets": [{}]}), None),
            (json!({"initContainers": [{"envFrom": [{"secretRef": {"name": "a"}}]}]}), Some("secrets")),
            (json!({"ephemeralContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "a"}}}]}]}), Some("configmaps")),
            (json!({"volumes": [{"name": "v", "secret": {"secretName": "a"}}]}), Some("secrets")),
            (
                json!({"volumes": [{"name": "v", "hostPath": {}}, {"name": "w", "persistentVolumeClaim": {}}]}),
                Some("persistentvolumeclaims"),
            ),
            (json!({"volumes": [{"name": "v", "projected": {"sources": [{"downwardAPI": {}}]}}]}), None),
            (
                json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {}}]}}]}),
                Some("serviceaccounts (via projected volumes)"),
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(api_reference(&json!({ "spec": spec })), Ok(expected), "{spec}");
        }
        assert_eq!(api_reference(&json!({"spec": {"volumes": [{"name": "v"}]}})), Err("unknown volume type for volume  \"v\"".to_owned()));
    }
}
