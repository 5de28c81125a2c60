//! core/v1 Node.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::field::{Error, ErrorList, Path, quote};
use apimachinery::validation::{
    Cidr, get_warnings_for_cidr, is_config_map_key, is_valid_cidr_for_legacy_field, is_valid_label_value, name_is_dns_label,
    name_is_dns_subdomain, validate_label_name, validate_positive_field,
};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMapNodeConfigSource, Node, NodeConfigSource, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::{Map, Value, json};

use super::resource::{quantity, validate_amount};
use crate::registry::defaulting::{is_empty, is_unset};
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, bool_at, list_at, str_at};
use crate::registry::strategy::{keep_all_but_status, keep_status, without_repeats};
use crate::registry::{
    ALL_VERBS, Behaviour, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy, Verbs,
};

const STATUS: &str = "io.k8s.api.core.v1.NodeStatus";
const SYSTEM: &str = "io.k8s.api.core.v1.NodeSystemInfo";
const TAINTS_ANNOTATION: &str = "scheduler.alpha.kubernetes.io/taints";
const AVOID_PODS_ANNOTATION: &str = "scheduler.alpha.kubernetes.io/preferAvoidPods";
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
/// The verbs of connecting through an object.
pub const PROXY_VERBS: Verbs = &["create", "delete", "get", "patch", "update"];

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "nodes",
    singular: "node",
    kind: "Node",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &["no"],
    categories: &[],
    schema: "io.k8s.api.core.v1.Node",
    name: name_is_dns_subdomain,
    strategy: &NodeStrategy,
    subresources: &[
        Subresource {
            name: "proxy",
            group: "",
            version: "v1",
            kind: "NodeProxyOptions",
            verbs: PROXY_VERBS,
            behaviour: Behaviour::Endpoint,
        },
        Subresource {
            name: "status",
            group: "",
            version: "v1",
            kind: "Node",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Object { strategy: &StatusStrategy, reset_fields: &["spec"] },
        },
    ],
    selectable: &[("spec.unschedulable", |node| if bool_at(node, "/spec/unschedulable") { "true" } else { "false" }.into())],
    printer: Printer {
        columns: &[
            NAME,
            printer::text("Status", Description::Text("The status of the node")),
            printer::text("Roles", Description::Text("The roles of the node")),
            AGE,
            printer::text("Version", Description::Field(SYSTEM, "kubeletVersion")),
            printer::wide("Internal-IP", Description::Field(STATUS, "addresses")),
            printer::wide("External-IP", Description::Field(STATUS, "addresses")),
            printer::wide("OS-Image", Description::Field(SYSTEM, "osImage")),
            printer::wide("Kernel-Version", Description::Field(SYSTEM, "kernelVersion")),
            printer::wide("Container-Runtime", Description::Field(SYSTEM, "containerRuntimeVersion")),
        ],
        cells,
    },
    reset_fields: &["status"],
};

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = |field: &str| match str_at(node, &format!("/status/nodeInfo/{field}")) {
        "" => "<unknown>".to_owned(),
        text => text.to_owned(),
    };
    let mut kernel = info("kernelVersion");
    let architecture = str_at(node, "/status/nodeInfo/architecture");
    if !architecture.is_empty() {
        kernel = format!("{kernel} ({architecture})");
    }
    vec![
        printer::name(node),
        status_text(node).into(),
        roles_text(node).into(),
        printer::object_age(node, now),
        str_at(node, "/status/nodeInfo/kubeletVersion").into(),
        address(node, "InternalIP").into(),
        address(node, "ExternalIP").into(),
        info("osImage").into(),
        kernel.into(),
        info("containerRuntimeVersion").into(),
    ]
}

/// Ready or not, and whether pods are kept away.
fn status_text(node: &Value) -> String {
    let ready = list_at(node, "/status/conditions").iter().rfind(|condition| condition["type"] == "Ready");
    let status = match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if bool_at(node, "/spec/unschedulable") { format!("{status},SchedulingDisabled") } else { status.to_owned() }
}

fn roles_text(node: &Value) -> String {
    let labels = at(node, "/metadata/labels").as_object();
    let role = |(key, value): (&'_ String, &'_ Value)| {
        let value = value.as_str().unwrap_or("");
        let role = if key == "kubernetes.io/role" { value } else { key.strip_prefix(ROLE_PREFIX)? };
        (!role.is_empty()).then(|| role.to_owned())
    };
    let roles: BTreeSet<String> = labels.into_iter().flatten().filter_map(role).collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let found = list_at(node, "/status/addresses").iter().find(|address| address["type"] == kind);
    found.map_or("<none>", |address| str_at(address, "/address"))
}

/// `podCIDR` and the first of `podCIDRs` are one; where they differ the older field is right.
pub fn default_spec(spec: &mut Map<String, Value>) {
    let first = spec.get("podCIDRs").and_then(|list| list.get(0)).and_then(Value::as_str).unwrap_or("").to_owned();
    if is_empty(spec, "podCIDR") {
        if !first.is_empty() {
            spec.insert("podCIDR".to_owned(), first.into());
        }
    } else if spec["podCIDR"] != first.as_str() {
        let one = spec["podCIDR"].clone();
        spec.insert("podCIDRs".to_owned(), json!([one]));
    }
}

/// All of a node's capacity can be used unless it says otherwise.
pub fn default_status(status: &mut Map<String, Value>) {
    let has_none = status.get("allocatable").and_then(Value::as_object).is_some_and(Map::is_empty);
    if (has_none || is_unset(status, "allocatable"))
        && let Some(capacity) = status.get("capacity").filter(|capacity| !capacity.is_null()).cloned()
    {
        status.insert("allocatable".to_owned(), capacity);
    }
}

struct NodeStrategy;

impl UpdateStrategy for NodeStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        drop_unused(new, "spec", "configSource", Some(old));
        drop_unused(new, "spec", "podPreemptionPolicy", Some(old));
    }

    /// The rules of a new node and those of a changed one overlap.
    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let (new, old): (Node, Node) = (view(new), view(old));
        let mut errors = validate(&new);
        errors.extend(validate_changes(&new, &old));
        let preemption = |node: &Node| node.spec.as_ref().and_then(|spec| spec.pod_preemption_policy.clone());
        // An alpha field that the node has already may stay as it is.
        if preemption(&new).is_some() && preemption(&new) != preemption(&old) {
            errors.push(Error::forbidden(&Path::new("spec.podPreemptionPolicy"), ""));
        }
        without_repeats(errors)
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings(new)
    }
}

impl Strategy for NodeStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        for (part, field) in [("spec", "configSource"), ("spec", "podPreemptionPolicy"), ("status", "config")] {
            drop_unused(new, part, field, None);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(new))
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(new)
    }
}

struct StatusStrategy;

impl UpdateStrategy for StatusStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        drop_unused(new, "status", "config", Some(old));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_changes(&view(new), &view(old))
    }
}

/// Removes a field of a removed or disabled feature, unless the node has it already.
fn drop_unused(node: &mut Value, part: &str, field: &str, old: Option<&Value>) {
    let in_use = old.and_then(|old| old.get(part)?.get(field)).is_some();
    if !in_use && let Some(map) = node.get_mut(part).and_then(Value::as_object_mut) {
        map.shift_remove(field);
    }
}

fn warnings(node: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if node.pointer("/spec/configSource").is_some() {
        warnings.push("spec.configSource: the feature is removed".to_owned());
    }
    if !str_at(node, "/spec/externalID").is_empty() {
        warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    let path = Path::new("spec.podCIDRs");
    for (i, cidr) in list_at(node, "/spec/podCIDRs").iter().enumerate() {
        warnings.extend(get_warnings_for_cidr(&path.index(i), cidr.as_str().unwrap_or("")));
    }
    warnings
}

fn validate(node: &Node) -> ErrorList {
    let metadata = Path::new("metadata");
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let mut errors = validate_annotations(node, &metadata.child("annotations"));
    errors.extend(validate_taints(spec.taints.as_deref().unwrap_or_default(), &metadata.child("taints")));
    errors.extend(validate_resources(&status));
    let swap = status.node_info.as_ref().and_then(|info| info.swap.as_ref()).and_then(|swap| swap.capacity);
    if let Some(capacity) = swap {
        errors.extend(validate_positive_field(capacity, &metadata.child("nodeSwapStatus.capacity")));
    }
    errors.extend(validate_features(&status));
    errors.extend(validate_pod_cidrs(spec.pod_cidrs.as_deref().unwrap_or_default()));
    errors
}

fn validate_pod_cidrs(cidrs: &[String]) -> ErrorList {
    let path = Path::new("spec.podCIDRs");
    let mut errors: ErrorList =
        cidrs.iter().enumerate().flat_map(|(i, cidr)| is_valid_cidr_for_legacy_field(&path.index(i), cidr, true, &[])).collect();
    if cidrs.len() < 2 {
        return errors;
    }
    let parsed: Vec<Option<Cidr>> = cidrs.iter().map(|cidr| Cidr::parse_sloppy(cidr)).collect();
    if let Some(bad) = cidrs.iter().zip(&parsed).position(|(_, cidr)| cidr.is_none()) {
        let why = format!("invalid CIDR[{bad}]: <nil> (invalid CIDR address: {})", cidrs[bad]);
        errors.push(Error::internal(&path, format!("invalid PodCIDRs. failed to check with dual stack with error:{why}")));
    }
    let families: BTreeSet<bool> = parsed.iter().flatten().map(|cidr| cidr.ip.is_v6()).collect();
    let dual = parsed.iter().all(Option::is_some) && families.len() == 2;
    if !dual || cidrs.len() > 2 {
        errors.push(Error::invalid(&path, json!(cidrs), "may specify no more than one CIDR for each IP family"));
    }
    errors
}

fn validate_resources(status: &NodeStatus) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let mut check = |field: &str, amounts: &Option<BTreeMap<String, Text>>| {
        for (name, amount) in amounts.iter().flatten() {
            errors.extend(validate_amount(name, &quantity(&amount.0), &path.child(field).child(name)));
        }
    };
    check("capacity", &status.capacity);
    check("allocatable", &status.allocatable);
    errors
}

/// Features are named in a form of their own, and sorted.
fn validate_features(status: &NodeStatus) -> ErrorList {
    let mut errors = ErrorList::new();
    let status_path = Path::new("status");
    let path = status_path.child("declaredFeatures");
    let features = status.declared_features.as_deref().unwrap_or_default();
    for (i, feature) in features.iter().enumerate() {
        let shown = feature.as_str();
        if feature.len() > 253 {
            let why = format!("invalid feature name {}: must be no more than 253 characters", quote(shown));
            errors.push(Error::invalid(&path.index(i), shown, why));
        } else if !is_feature_name(feature) {
            let why = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";
            errors.push(Error::invalid(&path.index(i), shown, format!("invalid feature name {}: {why}", quote(shown))));
        }
        let Some(next) = features.get(i + 1) else { break };
        if feature == next {
            errors.push(Error::duplicate(&path.index(i + 1), next.as_str()));
        } else if feature > next {
            errors.push(Error::invalid(&path.index(i + 1), next.as_str(), "list must be sorted alphabetically"));
        }
    }
    errors
}

fn is_feature_name(name: &str) -> bool {
    let segment =
        |segment: &str| segment.starts_with(|c: char| c.is_ascii_alphabetic()) && segment.bytes().all(|b| b.is_ascii_alphanumeric());
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(segment)
}

/// Taints and pods to avoid once stood in annotations.
fn validate_annotations(node: &Node, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let annotation =
        |key: &str| node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(key)).filter(|text| !text.is_empty());
    if let Some(text) = annotation(TAINTS_ANNOTATION) {
        match serde_json::from_str::<Vec<Taint>>(text) {
            Ok(taints) => errors.extend(validate_taints(&taints, &path.child(TAINTS_ANNOTATION))),
            Err(error) => errors.push(Error::invalid(path, TAINTS_ANNOTATION, error.to_string())),
        }
    }
    if let Some(text) = annotation(AVOID_PODS_ANNOTATION) {
        match serde_json::from_str::<Value>(text) {
            Ok(avoid) => errors.extend(validate_avoided(&avoid, &path.child(AVOID_PODS_ANNOTATION))),
            Err(error) => errors.push(Error::invalid(&path.child("AvoidPods"), AVOID_PODS_ANNOTATION, error.to_string())),
        }
    }
    errors
}

/// Each entry names a controller.
fn validate_avoided(avoid: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, entry) in list_at(avoid, "/preferAvoidPods").iter().enumerate() {
        let path = path.index(i);
        let signature = path.child("PodSignature");
        match entry.pointer("/podSignature/podController") {
            None | Some(Value::Null) => errors.push(Error::required(&signature, "")),
            Some(controller) if !bool_at(controller, "/controller") => {
                errors.push(Error::invalid(&signature.child("PodController.Controller"), false, "must point to a controller"));
            }
            Some(_) => {}
        }
    }
    errors
}

/// Taints are well formed and unique by key and effect.
pub fn validate_taints(taints: &[Taint], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        errors.extend(validate_label_name(&taint.key, &path.child("key")));
        let value = taint.value.as_deref().unwrap_or("");
        let faults = is_valid_label_value(value);
        if !faults.is_empty() {
            errors.push(Error::invalid(&path.child("value"), value, faults.join(";")));
        }
        let effect = path.child("effect");
        if taint.effect.is_empty() {
            errors.push(Error::required(&effect, ""));
        } else if !EFFECTS.contains(&taint.effect.as_str()) {
            errors.push(Error::not_supported(&effect, taint.effect.as_str(), &EFFECTS));
        }
        if !seen.insert((&taint.key, &taint.effect)) {
            let mut error = Error::duplicate(&path, as_go_prints(taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
    errors
}

/// A taint as upstream's messages show it: its internal type has no JSON names.
fn as_go_prints(taint: &Taint) -> Value {
    json!({"Key": taint.key, "Value": taint.value.as_deref().unwrap_or(""), "Effect": taint.effect, "TimeAdded": taint.time_added})
}

/// What of a node may not change, and what only a changed node is asked.
fn validate_changes(new: &Node, old: &Node) -> ErrorList {
    let metadata = Path::new("metadata");
    let spec_path = Path::new("spec");
    let status_path = Path::new("status");
    let (spec, old_spec) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let status = new.status.clone().unwrap_or_default();
    let mut errors = validate_annotations(new, &metadata.child("annotations"));
    errors.extend(validate_resources(&status));
    errors.extend(validate_features(&status));
    let mut seen = BTreeSet::new();
    for (i, address) in status.addresses.iter().flatten().enumerate() {
        if !seen.insert((&address.type_, &address.address)) {
            let shown = json!({"Type": address.type_, "Address": address.address});
            errors.push(Error::duplicate(&status_path.child("addresses").index(i), shown));
        }
    }
    errors
        .extend(validate_pod_cidr_change(spec.pod_cidrs.as_deref().unwrap_or_default(), old_spec.pod_cidrs.as_deref().unwrap_or_default()));
    let (provider, old_provider) = (spec.provider_id.as_deref().unwrap_or(""), old_spec.provider_id.as_deref().unwrap_or(""));
    if !old_provider.is_empty() && provider != old_provider {
        let why = if provider.is_empty() { "field cannot be cleared once set" } else { "field cannot be modified once set" };
        errors.push(Error::invalid(&spec_path.child("providerID"), Value::Null, why));
    }
    if let Some(source) = &spec.config_source {
        errors.extend(validate_config_source(source, false, &spec_path.child("configSource")));
    }
    if let Some(config) = &status.config {
        let path = status_path.child("config");
        for (field, source) in [("assigned", &config.assigned), ("active", &config.active), ("lastKnownGood", &config.last_known_good)] {
            errors.extend(source.iter().flat_map(|source| validate_config_source(source, true, &path.child(field))));
        }
    }
    errors.extend(validate_taints(spec.taints.as_deref().unwrap_or_default(), &metadata.child("taints")));
    if spec.external_id.as_deref().unwrap_or("") != old_spec.external_id.as_deref().unwrap_or("") {
        errors.push(Error::forbidden(&spec_path.child("externalID"), "may not be updated"));
    }
    errors
}

/// Networks are given once; each that differs is told.
fn validate_pod_cidr_change(new: &[String], old: &[String]) -> ErrorList {
    let refused = || Error::forbidden(&Path::new("spec.podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    if old.is_empty() {
        return ErrorList::new();
    }
    if old.len() != new.len() {
        return vec![refused()];
    }
    old.iter().zip(new).filter(|(old, new)| old != new).map(|_| refused()).collect()
}

/// A ConfigMap with a kubelet's configuration: in the status it is told exactly, in the spec it is not.
fn validate_config_source(source: &NodeConfigSource, in_status: bool, path: &Path<'_>) -> ErrorList {
    let Some(map) = &source.config_map else {
        return vec![Error::invalid(path, json!({"ConfigMap": null}), "exactly one reference subfield must be non-nil")];
    };
    let path = path.child("configMap");
    let mut errors = ErrorList::new();
    for (field, value) in [("uid", &map.uid), ("resourceVersion", &map.resource_version)] {
        let empty = value.as_deref().unwrap_or("").is_empty();
        if in_status && empty {
            errors.push(Error::required(&path.child(field), ""));
        } else if !in_status && !empty {
            errors.push(Error::forbidden(&path.child(field), format!("{field} must not be set in spec")));
        }
    }
    errors.extend(validate_config_map_reference(map, &path));
    errors
}

fn validate_config_map_reference(map: &ConfigMapNodeConfigSource, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut check = |field: &str, value: &str, messages: Vec<String>| {
        let path = path.child(field);
        if value.is_empty() {
            errors.push(Error::required(&path, ""));
        } else {
            errors.extend(messages.into_iter().map(|message| Error::invalid(&path, value, message)));
        }
    };
    check("namespace", &map.namespace, name_is_dns_label(&map.namespace, false));
    check("name", &map.name, name_is_dns_subdomain(&map.name, false));
    check("kubeletConfigKey", &map.kubelet_config_key, is_config_map_key(&map.kubelet_config_key));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::core::tests::{cx, messages};

    #[test]
    fn the_older_pod_network_field_is_right() {
        for (given, want) in [
            (json!({"podCIDR": "a"}), json!({"podCIDR": "a", "podCIDRs": ["a"]})),
            (json!({"podCIDRs": ["a", "b"]}), json!({"podCIDRs": ["a", "b"], "podCIDR": "a"})),
            (json!({"podCIDR": "c", "podCIDRs": ["a", "b"]}), json!({"podCIDR": "c", "podCIDRs": ["c"]})),
            (json!({}), json!({})),
        ] {
            let mut spec = given;
            default_spec(spec.as_object_mut().unwrap());
            assert_eq!(spec, want);
        }
    }

    #[test]
    fn taints_are_unique_by_key_and_effect() {
        let node = json!({"metadata": {}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "X"}]}});
        assert_eq!(
            messages(&NodeStrategy.validate(&cx(), &node)),
            [
                "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoSchedule\",\"TimeAdded\":null}: taints must be unique by key and effect pair",
                "metadata.taints[2].effect: Unsupported value: \"X\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ]
        );
    }

    #[test]
    fn networks_and_provider_are_set_once() {
        let old = json!({"metadata": {}, "spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "p://1"}});
        let new = json!({"metadata": {}, "spec": {"podCIDRs": ["10.0.1.0/24"]}});
        assert_eq!(
            messages(&NodeStrategy.validate_update(&cx(), &new, &old)),
            [
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Invalid value: null: field cannot be cleared once set",
            ]
        );
    }

    #[test]
    fn declared_features_are_named_and_sorted() {
        let node = json!({"metadata": {}, "status": {"declaredFeatures": ["B/c", "A", "A", "x"]}});
        let text = messages(&NodeStrategy.validate(&cx(), &node));
        assert_eq!(text.len(), 3, "{text:?}");
        assert_eq!(text[0], "status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically");
        assert_eq!(text[1], "status.declaredFeatures[2]: Duplicate value: \"A\"");
        assert!(text[2].starts_with("status.declaredFeatures[3]: Invalid value: \"x\": invalid feature name \"x\": must start with"));
    }

    #[test]
    fn the_table_shows_readiness_and_roles() {
        let node = json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/etcd": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kernelVersion": "K", "architecture": "a"}},
        });
        let cells = cells(&node, Timestamp::UNIX_EPOCH);
        let text: Vec<&str> = cells.iter().map(|cell| cell.as_str().unwrap()).collect();
        assert_eq!(
            text,
            [
                "n",
                "Ready,SchedulingDisabled",
                "control-plane,etcd,x",
                "<unknown>",
                "",
                "<none>",
                "<none>",
                "<unknown>",
                "K (a)",
                "<unknown>"
            ]
        );
    }
}
