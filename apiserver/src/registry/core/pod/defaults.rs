//! What pods and the types they consist of are filled in with beyond their `+default` markers.

use serde_json::{Map, Value};

use super::image;
use crate::registry::core::defaults::round_amounts;
use crate::registry::defaulting::{Hook, existing, is_empty, is_unset, nested, set_if_empty, set_if_unset};

/// By schema type.
pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.api.core.v1.ConfigMapVolumeSource", default_mode),
    ("io.k8s.api.core.v1.Container", default_container),
    ("io.k8s.api.core.v1.ContainerStatus", |status| round_amounts(status, &["allocatedResources"])),
    ("io.k8s.api.core.v1.DownwardAPIVolumeSource", default_mode),
    ("io.k8s.api.core.v1.EphemeralContainer", default_container),
    ("io.k8s.api.core.v1.HTTPGetAction", |action| {
        set_if_empty(action, "path", "/");
        set_if_empty(action, "scheme", "HTTP");
    }),
    ("io.k8s.api.core.v1.HostPathVolumeSource", |source| set_if_unset(source, "type", "")),
    ("io.k8s.api.core.v1.ObjectFieldSelector", |selector| set_if_empty(selector, "apiVersion", "v1")),
    ("io.k8s.api.core.v1.Pod", default_pod),
    ("io.k8s.api.core.v1.PodSpec", default_pod_spec),
    ("io.k8s.api.core.v1.PodStatus", default_pod_status),
    ("io.k8s.api.core.v1.Probe", default_probe),
    ("io.k8s.api.core.v1.ProjectedVolumeSource", default_mode),
    ("io.k8s.api.core.v1.ReplicationController", default_replication_controller),
    ("io.k8s.api.core.v1.ResourceRequirements", |needs| round_amounts(needs, &["limits", "requests"])),
    ("io.k8s.api.core.v1.SecretVolumeSource", default_mode),
    ("io.k8s.api.core.v1.ServiceAccountTokenProjection", |source| set_if_unset(source, "expirationSeconds", 3600)),
    ("io.k8s.api.core.v1.Volume", default_volume),
];

const FILE_MODE: i32 = 0o644;
const GRACE_PERIOD_SECONDS: i64 = 30;

fn default_mode(source: &mut Map<String, Value>) {
    set_if_unset(source, "defaultMode", FILE_MODE);
}

fn pull_policy(image: Option<&Value>) -> &'static str {
    let image = image.and_then(Value::as_str).unwrap_or_default();
    if image::is_latest(image) { "Always" } else { "IfNotPresent" }
}

fn default_container(container: &mut Map<String, Value>) {
    let policy = pull_policy(container.get("image"));
    set_if_empty(container, "imagePullPolicy", policy);
    set_if_empty(container, "terminationMessagePath", "/dev/termination-log");
    set_if_empty(container, "terminationMessagePolicy", "File");
}

fn default_volume(volume: &mut Map<String, Value>) {
    let sourceless = volume.iter().all(|(field, value)| field == "name" || value.is_null());
    if sourceless {
        volume.insert("emptyDir".to_owned(), Value::Object(Map::new()));
    }
    if let Some(image) = existing(volume, "image") {
        let policy = pull_policy(image.get("reference"));
        set_if_empty(image, "pullPolicy", policy);
    }
}

/// Sets a number that is no pointer in Go.
fn set_if_zero(map: &mut Map<String, Value>, field: &str, number: i64) {
    if is_unset(map, field) || map.get(field).and_then(Value::as_i64) == Some(0) {
        map.insert(field.to_owned(), number.into());
    }
}

fn default_probe(probe: &mut Map<String, Value>) {
    set_if_zero(probe, "timeoutSeconds", 1);
    set_if_zero(probe, "periodSeconds", 10);
    set_if_zero(probe, "successThreshold", 1);
    set_if_zero(probe, "failureThreshold", 3);
}

fn default_pod(pod: &mut Map<String, Value>) {
    let Some(spec) = nested(pod, "spec") else { return };
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds".to_owned(), 1.into());
    }
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
            if let Some(resources) = existing(container, "resources") {
                request_what_is_limited(resources);
            }
            if host_network {
                publish_ports(container);
            }
        }
    }
    set_if_unset(spec, "enableServiceLinks", true);
}

/// A limit without request is requested.
fn request_what_is_limited(resources: &mut Map<String, Value>) {
    let limits = resources.get("limits").and_then(Value::as_object).filter(|limits| !limits.is_empty()).cloned();
    let Some(limits) = limits else { return };
    if let Some(requests) = nested(resources, "requests") {
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    }
}

/// On the host's network a container's port is the host's.
fn publish_ports(container: &mut Map<String, Value>) {
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
            set_if_zero(port, "hostPort", number);
        }
    }
}

fn default_pod_spec(spec: &mut Map<String, Value>) {
    if is_empty(spec, "serviceAccountName")
        && let Some(deprecated) = spec.get("serviceAccount").filter(|v| !v.is_null()).cloned()
    {
        spec.insert("serviceAccountName".to_owned(), deprecated);
    }
    match spec.get("serviceAccountName").filter(|v| !v.is_null()).cloned() {
        Some(name) => spec.insert("serviceAccount".to_owned(), name),
        None => spec.shift_remove("serviceAccount"),
    };
    set_if_empty(spec, "dnsPolicy", "ClusterFirst");
    set_if_empty(spec, "restartPolicy", "Always");
    set_if_unset(spec, "securityContext", Value::Object(Map::new()));
    set_if_unset(spec, "terminationGracePeriodSeconds", GRACE_PERIOD_SECONDS);
    set_if_empty(spec, "schedulerName", "default-scheduler");
    round_amounts(spec, &["overhead"]);
}

/// `podIP` and the first of `podIPs` are one; where they differ the former wins.
fn default_pod_status(status: &mut Map<String, Value>) {
    round_amounts(status, &["allocatedResources"]);
    let first = status.get("podIPs").and_then(|ips| ips.get(0)).and_then(|ip| ip.get("ip")).cloned();
    let own = status.get("podIP").filter(|ip| ip.as_str().is_some_and(|ip| !ip.is_empty())).cloned();
    match (own, first) {
        (None, Some(first)) => {
            status.insert("podIP".to_owned(), first);
        }
        (Some(own), first) if first.as_ref() != Some(&own) => {
            let ip: Map<String, Value> = [("ip".to_owned(), own)].into_iter().collect();
            status.insert("podIPs".to_owned(), Value::Array(vec![Value::Object(ip)]));
        }
        _ => {}
    }
}

/// A controller without selector or labels takes those of its template.
fn default_replication_controller(controller: &mut Map<String, Value>) {
    let spec = controller.get("spec");
    let labels = spec.and_then(|s| s.pointer("/template/metadata/labels")).and_then(Value::as_object).cloned();
    let Some(labels) = labels.filter(|labels| !labels.is_empty()) else { return };
    let missing = |map: &Map<String, Value>, field: &str| map.get(field).and_then(Value::as_object).is_none_or(Map::is_empty);
    if let Some(spec) = existing(controller, "spec")
        && missing(spec, "selector")
    {
        spec.insert("selector".to_owned(), Value::Object(labels.clone()));
    }
    if let Some(metadata) = nested(controller, "metadata")
        && missing(metadata, "labels")
    {
        metadata.insert("labels".to_owned(), Value::Object(labels));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn defaulted(kind: &str, mut value: Value) -> Value {
        let hook = DEFAULTS.iter().find(|(name, _)| name.ends_with(&format!(".{kind}"))).expect("listed").1;
        hook(value.as_object_mut().expect("object"));
        value
    }

    #[test]
    fn hooks_are_listed_by_type() {
        assert!(DEFAULTS.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn each_type_gets_what_upstream_sets() {
        let cases = [
            ("Container", json!({"image": "a"}), json!("Always"), "/imagePullPolicy"),
            ("Container", json!({"image": "a:1"}), json!("IfNotPresent"), "/imagePullPolicy"),
            ("Volume", json!({"name": "v"}), json!({}), "/emptyDir"),
            ("Volume", json!({"name": "v", "emptyDir": null}), json!({}), "/emptyDir"),
            ("Volume", json!({"name": "v", "image": {"reference": "a:latest"}}), json!("Always"), "/image/pullPolicy"),
            ("Probe", json!({"periodSeconds": 0}), json!(10), "/periodSeconds"),
            ("Pod", json!({"spec": {"terminationGracePeriodSeconds": -4}}), json!(1), "/spec/terminationGracePeriodSeconds"),
            (
                "Pod",
                json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1"}}}]}}),
                json!({"memory": "1", "cpu": "1"}),
                "/spec/containers/0/resources/requests",
            ),
            (
                "Pod",
                json!({"spec": {"hostNetwork": true, "containers": [{"ports": [{"containerPort": 80}]}]}}),
                json!(80),
                "/spec/containers/0/ports/0/hostPort",
            ),
            ("PodSpec", json!({"serviceAccount": "a"}), json!("a"), "/serviceAccountName"),
            ("PodSpec", json!({"serviceAccountName": "b", "serviceAccount": "a"}), json!("b"), "/serviceAccount"),
            ("PodStatus", json!({"podIP": "1.1.1.1", "podIPs": [{"ip": "2.2.2.2"}]}), json!([{"ip": "1.1.1.1"}]), "/podIPs"),
            ("PodStatus", json!({"podIPs": [{"ip": "2.2.2.2"}]}), json!("2.2.2.2"), "/podIP"),
            ("ResourceRequirements", json!({"limits": {"cpu": "0.0001"}}), json!("1m"), "/limits/cpu"),
            (
                "ReplicationController",
                json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
                json!({"a": "b"}),
                "/spec/selector",
            ),
        ];
        for (kind, value, want, pointer) in cases {
            assert_eq!(defaulted(kind, value.clone()).pointer(pointer), Some(&want), "{kind} {value}");
        }
        assert_eq!(defaulted("PodSpec", json!({})).get("serviceAccount"), None);
    }
}
