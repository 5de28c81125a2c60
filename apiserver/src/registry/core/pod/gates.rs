//! Fields of features that v1.37 leaves off: they are dropped, unless the old object already uses them.
//!
//! Owns the list of these fields; features that are on need no entry.

use serde_json::{Map, Value};

/// One feature's fields, as paths below a pod spec or status: `name` descends, `*` visits every item of a list, `@` every container
/// (or container status) of all three lists.
struct Gate {
    fields: &'static [&'static str],
}

const SPEC_GATES: &[Gate] = &[
    // AtomicWriteVolumeUserFields
    Gate {
        fields: &[
            "volumes/*/secret/defaultUser",
            "volumes/*/secret/items/*/user",
            "volumes/*/configMap/defaultUser",
            "volumes/*/configMap/items/*/user",
            "volumes/*/downwardAPI/defaultUser",
            "volumes/*/downwardAPI/items/*/user",
            "volumes/*/projected/defaultUser",
            "volumes/*/projected/sources/*/secret/items/*/user",
            "volumes/*/projected/sources/*/downwardAPI/items/*/user",
            "volumes/*/projected/sources/*/configMap/items/*/user",
            "volumes/*/projected/sources/*/serviceAccountToken/user",
            "volumes/*/projected/sources/*/clusterTrustBundle/user",
            "volumes/*/projected/sources/*/podCertificate/user",
        ],
    },
    // GenericWorkload
    Gate { fields: &["schedulingGroup"] },
    // GRPCContainerProbeTLS
    Gate { fields: &["@/livenessProbe/grpc/mode", "@/readinessProbe/grpc/mode", "@/startupProbe/grpc/mode"] },
    // EvictionRequestAPI
    Gate { fields: &["evictionResponders"] },
    // EmptyDirVolumeMode
    Gate { fields: &["volumes/*/emptyDir/mode"] },
    // VolumeBindMountOptions
    Gate { fields: &["@/volumeMounts/*/bindMountOptions"] },
    // ContainerStopSignals
    Gate { fields: &["@/lifecycle/stopSignal"] },
    // H2CContainerProbe
    Gate {
        fields: &[
            "@/livenessProbe/httpGet/protocol",
            "@/readinessProbe/httpGet/protocol",
            "@/startupProbe/httpGet/protocol",
            "@/lifecycle/postStart/httpGet/protocol",
            "@/lifecycle/preStop/httpGet/protocol",
        ],
    },
];

const STATUS_GATES: &[Gate] = &[
    // ImageVolumeWithDigest
    Gate { fields: &["@/volumeMounts/*/volumeStatus"] },
    // DRANodeAllocatableResources
    Gate { fields: &["nodeAllocatableResourceClaimStatuses"] },
    // CSIVolumeHealth
    Gate { fields: &["volumeHealth"] },
];

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
const CONTAINER_STATUSES: [&str; 3] = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];

/// Annotations that once carried init containers.
const INIT_CONTAINER_ANNOTATIONS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// Drops them from a pod, spec and status.
pub(super) fn drop_disabled_pod_fields(pod: &mut Value, old: Option<&Value>) {
    drop_disabled_template_fields(pod, old);
    let old_status = old.and_then(|pod| pod.get("status"));
    if let Some(status) = pod.get_mut("status") {
        drop_gated(STATUS_GATES, status, old_status, CONTAINER_STATUSES);
    }
}

/// Drops them from a pod template.
pub fn drop_disabled_template_fields(template: &mut Value, old: Option<&Value>) {
    let old_spec = old.and_then(|template| template.get("spec"));
    if let Some(spec) = template.get_mut("spec") {
        drop_gated(SPEC_GATES, spec, old_spec, CONTAINERS);
    }
    drop_init_container_annotations(template);
}

/// Drops annotations that upstream no longer honours.
pub(super) fn drop_init_container_annotations(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    let before = annotations.len();
    for key in INIT_CONTAINER_ANNOTATIONS {
        annotations.shift_remove(key);
    }
    if annotations.is_empty() && before > 0 {
        metadata.shift_remove("annotations");
    }
}

fn drop_gated(gates: &[Gate], holder: &mut Value, old: Option<&Value>, containers: [&str; 3]) {
    for gate in gates {
        let in_use = old.is_some_and(|old| {
            gate.fields.iter().any(|field| match field.strip_prefix("@/") {
                Some(rest) => containers.iter().any(|list| items(old.get(list)).any(|container| is_set(container, rest))),
                None => is_set(old, field),
            })
        });
        if in_use {
            continue;
        }
        for field in gate.fields {
            match field.strip_prefix("@/") {
                Some(rest) => {
                    let lists = containers.iter();
                    lists.for_each(|list| items_mut(holder.get_mut(list)).for_each(|container| remove(container, rest)));
                }
                None => remove(holder, field),
            }
        }
    }
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

fn items_mut(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

fn is_set(value: &Value, path: &str) -> bool {
    let (step, rest) = path.split_once('/').map_or((path, None), |(step, rest)| (step, Some(rest)));
    match (step, rest) {
        ("*", Some(rest)) => value.as_array().is_some_and(|items| items.iter().any(|item| is_set(item, rest))),
        (step, Some(rest)) => value.get(step).is_some_and(|inner| is_set(inner, rest)),
        (step, None) => value.get(step).is_some_and(|inner| !inner.is_null() && inner.as_array().is_none_or(|items| !items.is_empty())),
    }
}

fn remove(value: &mut Value, path: &str) {
    let (step, rest) = path.split_once('/').map_or((path, None), |(step, rest)| (step, Some(rest)));
    match (step, rest) {
        ("*", Some(rest)) => value.as_array_mut().into_iter().flatten().for_each(|item| remove(item, rest)),
        // A lifecycle that held nothing but a stop signal is none.
        ("lifecycle", Some("stopSignal")) => {
            let only_signal = |l: &Value| l.as_object().is_some_and(|l| l.len() == 1 && l.contains_key("stopSignal"));
            if value.get(step).is_some_and(only_signal) {
                remove_field(value.as_object_mut(), step);
            } else {
                remove_field(value.get_mut(step).and_then(Value::as_object_mut), "stopSignal");
            }
        }
        (step, Some(rest)) => {
            if let Some(inner) = value.get_mut(step) {
                remove(inner, rest);
            }
        }
        (step, None) => remove_field(value.as_object_mut(), step),
    }
}

fn remove_field(map: Option<&mut Map<String, Value>>, field: &str) {
    if let Some(map) = map {
        map.shift_remove(field);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_disabled_features_are_dropped_unless_in_use() {
        let pod = json!({
            "metadata": {"annotations": {"pod.beta.kubernetes.io/init-containers": "x"}},
            "spec": {
                "containers": [
                    {"name": "a", "lifecycle": {"stopSignal": "SIGTERM"}, "volumeMounts": [{"name": "v", "bindMountOptions": ["nodev"]}]},
                    {"name": "b", "lifecycle": {"preStop": {}, "stopSignal": "SIGTERM"}},
                    {"name": "c", "lifecycle": {}},
                ],
                "volumes": [{"name": "v", "emptyDir": {"mode": 511}}],
                "schedulingGroup": {"podGroupName": "g"},
            },
            "status": {"volumeHealth": [{"name": "v"}]},
        });
        let mut new = pod.clone();
        drop_disabled_pod_fields(&mut new, None);
        let want = json!({
            "metadata": {},
            "spec": {
                "containers": [
                    {"name": "a", "volumeMounts": [{"name": "v"}]},
                    {"name": "b", "lifecycle": {"preStop": {}}},
                    {"name": "c", "lifecycle": {}},
                ],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
            "status": {},
        });
        assert_eq!(new, want);
        let mut kept = pod.clone();
        drop_disabled_pod_fields(&mut kept, Some(&pod));
        assert_eq!(kept["spec"], pod["spec"]);
        assert_eq!(kept["status"], pod["status"]);
    }
}
