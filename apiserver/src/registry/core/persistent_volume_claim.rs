//! core/v1 PersistentVolumeClaim.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path, quote};
use apimachinery::quantity::Quantity;
use apimachinery::validation::{
    FIELD_IMMUTABLE, LabelSelectorOptions, is_dns1123_subdomain, is_qualified_name, is_valid_condition_reason, name_is_dns_label,
    name_is_dns_subdomain, validate_label_selector,
};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, TypedLocalObjectReference, TypedObjectReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value, json};

use super::persistent_volume::{
    STORAGE_CLASS_ANNOTATION, access_modes_text, or_unset, phase, storage_class, validate_access_modes, validate_volume_mode,
};
use super::resource::{is_native, quantity, validate_amount, validate_basic, validate_positive};
use crate::registry::defaulting::{nested, set_if_empty, set_if_unset};
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::strategy::{keep_all_but_status, keep_field, keep_status, set_field};
use crate::registry::{
    ALL_VERBS, Behaviour, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy, diff,
};

const SPEC: &str = "io.k8s.api.core.v1.PersistentVolumeClaimSpec";
const STATUS: &str = "io.k8s.api.core.v1.PersistentVolumeClaimStatus";
const RESIZE_STATES: [&str; 5] =
    ["ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizePending"];

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    kind: "PersistentVolumeClaim",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["pvc"],
    categories: &[],
    schema: "io.k8s.api.core.v1.PersistentVolumeClaim",
    name: name_is_dns_subdomain,
    strategy: &ClaimStrategy,
    subresources: &[Subresource {
        name: "status",
        group: "",
        version: "v1",
        kind: "PersistentVolumeClaim",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &StatusStrategy, reset_fields: &["spec"] },
    }],
    selectable: &[],
    printer: Printer {
        columns: &[
            NAME,
            printer::text("Status", Description::Field(STATUS, "phase")),
            printer::text("Volume", Description::Field(SPEC, "volumeName")),
            printer::text("Capacity", Description::Field(STATUS, "capacity")),
            printer::text("Access Modes", Description::Field(STATUS, "accessModes")),
            printer::text("StorageClass", Description::Text("StorageClass of the pvc")),
            printer::text("VolumeAttributesClass", Description::Text("VolumeAttributesClass of the pvc")),
            AGE,
            printer::wide("VolumeMode", Description::Field(SPEC, "volumeMode")),
        ],
        cells,
    },
    reset_fields: &["status"],
};

fn cells(claim: &Value, now: Timestamp) -> Vec<Value> {
    let volume = str_at(claim, "/spec/volumeName");
    let (capacity, modes) = if volume.is_empty() {
        ("", String::new())
    } else {
        (at(claim, "/status/capacity/storage").as_str().unwrap_or("0"), access_modes_text(list_at(claim, "/status/accessModes")))
    };
    vec![
        printer::name(claim),
        phase(claim).into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        storage_class(claim).into(),
        or_unset(at(claim, "/spec/volumeAttributesClassName")),
        printer::object_age(claim, now),
        or_unset(at(claim, "/spec/volumeMode")),
    ]
}

/// A claim waits until it is bound.
pub fn default_claim(claim: &mut Map<String, Value>) {
    if let Some(status) = nested(claim, "status") {
        set_if_empty(status, "phase", "Pending");
    }
}

/// A claim, or a template of one, asks for a file system.
pub fn default_spec(spec: &mut Map<String, Value>) {
    set_if_unset(spec, "volumeMode", "Filesystem");
}

struct ClaimStrategy;

impl UpdateStrategy for ClaimStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        prepare_sources(new, Some(old));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut old = old.clone();
        normalize_sources(&mut old);
        let (new, old): (PersistentVolumeClaim, PersistentVolumeClaim) = (view(new), view(&old));
        let new_spec = new.spec.clone().unwrap_or_default();
        let old_spec = old.spec.clone().unwrap_or_default();
        let mut errors = validate_spec(&new_spec, SpecRules::of_update(&old_spec), &Path::new("spec"));
        errors.extend(validate_changes(&new, &new_spec, &old, &old_spec));
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings(new)
    }
}

impl Strategy for ClaimStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_field(new, "status", json!({"phase": "Pending"}));
        prepare_sources(new, None);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate_spec(&view(at(new, "/spec")), SpecRules::default(), &Path::new("spec"))
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(new)
    }
}

struct StatusStrategy;

impl UpdateStrategy for StatusStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        // Volume health is an alpha feature: it is kept where it is in use, and not taken anew.
        if at(old, "/status/healthStatus").is_null()
            && let Some(status) = new.get_mut("status").and_then(Value::as_object_mut)
        {
            status.shift_remove("healthStatus");
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if str_at(new, "/metadata/resourceVersion").is_empty() {
            errors.push(Error::required(&Path::new("resourceVersion"), ""));
        }
        if list_at(new, "/spec/accessModes").is_empty() {
            errors.push(Error::required(&Path::new("Spec.accessModes"), ""));
        }
        errors.extend(validate_status(&view(at(new, "/status"))));
        errors
    }
}

/// `dataSource` and `dataSourceRef` say the same; a source that only the newer field may name is dropped from the older.
fn prepare_sources(new: &mut Value, old: Option<&Value>) {
    let in_use = |field: &str| old.is_some_and(|old| old.pointer(&format!("/spec/{field}")).is_some());
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    // Sources in other namespaces are an alpha feature.
    let elsewhere = spec.get("dataSourceRef").is_some_and(|reference| !str_at(reference, "/namespace").is_empty());
    if elsewhere && !in_use("dataSourceRef") {
        spec.shift_remove("dataSourceRef");
    }
    if !in_use("dataSource") && !in_use("dataSourceRef") && !spec.contains_key("dataSourceRef") {
        let known = spec.get("dataSource").is_some_and(|source| {
            matches!(
                (str_at(source, "/apiGroup"), str_at(source, "/kind")),
                ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
            )
        });
        if !known {
            spec.shift_remove("dataSource");
        }
    }
    normalize_sources(new);
}

/// Whichever of the two fields is missing is filled from the other.
fn normalize_sources(claim: &mut Value) {
    let Some(spec) = claim.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let copy = |from: &Value| {
        let mut to = Value::Object(Map::new());
        for field in ["apiGroup", "kind", "name"] {
            keep_field(&mut to, from, field);
        }
        to
    };
    match (spec.get("dataSource"), spec.get("dataSourceRef")) {
        (Some(source), None) => {
            let reference = copy(source);
            spec.insert("dataSourceRef".to_owned(), reference);
        }
        (None, Some(reference)) if str_at(reference, "/namespace").is_empty() => {
            let source = copy(reference);
            spec.insert("dataSource".to_owned(), source);
        }
        _ => {}
    }
}

/// What a spec may keep because it has it already.
#[derive(Clone, Copy, Default)]
pub struct SpecRules {
    pub allow_invalid_label_values: bool,
    pub allow_invalid_api_group: bool,
}

impl SpecRules {
    /// The rules of an update of a claim with this spec.
    fn of_update(old: &PersistentVolumeClaimSpec) -> SpecRules {
        let group = |source: Option<&Option<String>>| source.is_some_and(Option::is_some);
        SpecRules {
            allow_invalid_label_values: old.selector.as_ref().is_some_and(is_refused_today),
            allow_invalid_api_group: group(old.data_source.as_ref().map(|s| &s.api_group))
                || group(old.data_source_ref.as_ref().map(|s| &s.api_group)),
        }
    }
}

/// Whether a selector that was accepted once would not be now: then its values may stay what no label's value can be.
pub fn is_refused_today(selector: &LabelSelector) -> bool {
    !validate_label_selector(selector, LabelSelectorOptions::default(), &Path::ROOT).is_empty()
}

/// All rules of a claim's spec; also those of claim templates.
pub fn validate_spec(spec: &PersistentVolumeClaimSpec, rules: SpecRules, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let modes_path = path.child("accessModes");
    if modes.is_empty() {
        errors.push(Error::required(&modes_path, "at least 1 access mode is required"));
    }
    if let Some(selector) = &spec.selector {
        let options = LabelSelectorOptions {
            allow_invalid_label_value_in_selector: rules.allow_invalid_label_values,
            ..LabelSelectorOptions::default()
        };
        errors.extend(validate_label_selector(selector, options, &path.child("selector")));
    }
    if !modes.is_empty() {
        errors.extend(validate_access_modes(modes, "", &modes_path));
    }
    errors.extend(validate_request(spec, &path.child("resources").key("storage")));
    let name_errors = |field: &str, name: &str| -> ErrorList {
        name_is_dns_subdomain(name, false).into_iter().map(|message| Error::invalid(&path.child(field), name, message)).collect()
    };
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        errors.extend(name_errors("storageClassName", class));
    }
    errors.extend(spec.volume_mode.as_deref().and_then(|mode| validate_volume_mode(mode, &path.child("volumeMode"))));
    errors.extend(validate_sources(spec, rules, path));
    if let Some(class) = spec.volume_attributes_class_name.as_deref().filter(|class| !class.is_empty()) {
        errors.extend(name_errors("volumeAttributesClassName", class));
    }
    errors
}

type Amounts = BTreeMap<String, Text>;

fn amounts(of: Option<&Amounts>) -> BTreeMap<&String, Quantity> {
    of.into_iter().flatten().map(|(name, amount)| (name, quantity(&amount.0))).collect()
}

fn requests(spec: &PersistentVolumeClaimSpec) -> Option<&Amounts> {
    spec.resources.as_ref().and_then(|resources| resources.requests.as_ref())
}

fn storage(of: Option<&Amounts>) -> Option<Quantity> {
    of.and_then(|amounts| amounts.get("storage")).map(|amount| quantity(&amount.0))
}

fn validate_request(spec: &PersistentVolumeClaimSpec, path: &Path<'_>) -> ErrorList {
    match storage(requests(spec)) {
        None => vec![Error::required(path, "")],
        Some(amount) => {
            let errors = validate_positive(&amount, path);
            if errors.is_empty() { validate_amount("storage", &amount, path) } else { errors }
        }
    }
}

fn validate_sources(spec: &PersistentVolumeClaimSpec, rules: SpecRules, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(TypedLocalObjectReference { api_group, kind, name }) = &spec.data_source {
        errors.extend(validate_source(api_group.as_deref(), kind, name, rules, &path.child("dataSource")));
    }
    let mut elsewhere = false;
    if let Some(TypedObjectReference { api_group, kind, name, namespace }) = &spec.data_source_ref {
        let path = path.child("dataSourceRef");
        errors.extend(validate_source(api_group.as_deref(), kind, name, rules, &path));
        if let Some(namespace) = namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
            elsewhere = true;
            let messages = name_is_dns_label(namespace, false).into_iter();
            errors.extend(messages.map(|message| Error::invalid(&path.child("namespace"), namespace, message)));
        }
    }
    if let (Some(source), Some(reference)) = (&spec.data_source, &spec.data_source_ref) {
        let same = (&source.api_group, &source.kind, &source.name) == (&reference.api_group, &reference.kind, &reference.name);
        // Upstream shows a field path as the value, which prints as an empty structure.
        if elsewhere {
            errors.push(Error::invalid(path, json!({}), "may not be specified when dataSourceRef.namespace is specified"));
        } else if !same {
            errors.push(Error::invalid(path, json!({}), "must match dataSourceRef"));
        }
    }
    errors
}

fn validate_source(group: Option<&str>, kind: &str, name: &str, rules: SpecRules, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (field, value) in [("name", name), ("kind", kind)] {
        if value.is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        }
    }
    let group = group.unwrap_or("");
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        errors.push(Error::invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"));
    }
    if !group.is_empty() && !rules.allow_invalid_api_group {
        let messages = is_dns1123_subdomain(group).into_iter();
        errors.extend(messages.map(|message| Error::invalid(&path.child("apiGroup"), group, message)));
    }
    errors
}

fn annotation(claim: &PersistentVolumeClaim) -> Option<&String> {
    claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(STORAGE_CLASS_ANNOTATION))
}

/// What of a claim may not change.
fn validate_changes(
    new: &PersistentVolumeClaim,
    new_spec: &PersistentVolumeClaimSpec,
    old: &PersistentVolumeClaim,
    old_spec: &PersistentVolumeClaimSpec,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = Path::new("spec");
    let (mut after, mut before) = (new_spec.clone(), old_spec.clone());
    let bound = new.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    if before.volume_name.as_deref().unwrap_or("").is_empty() {
        before.volume_name.clone_from(&after.volume_name);
    }
    errors.extend(allow_storage_class_upgrade(new, old, &mut after, &before));
    if bound {
        let old_storage = requests(old_spec).and_then(|amounts| amounts.get("storage")).cloned();
        if let Some(requests) = after.resources.as_mut().and_then(|resources| resources.requests.as_mut()) {
            requests.insert("storage".to_owned(), old_storage.unwrap_or_else(|| Text("0".to_owned())));
        }
        after.volume_attributes_class_name.clone_from(&before.volume_attributes_class_name);
    }
    if !same_spec(&after, &before) {
        let difference = diff::of_values(&as_go_prints(&before), &as_go_prints(&after));
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(Error::forbidden(&spec, format!("{why}\n{difference}")));
    }
    let size = |of: Option<Quantity>| of.unwrap_or_default();
    let (new_size, old_size) = (size(storage(requests(new_spec))), size(storage(requests(old_spec))));
    let capacity = size(storage(old.status.as_ref().and_then(|status| status.capacity.as_ref())));
    if new_size < old_size && new_size <= capacity {
        errors.push(Error::forbidden(&spec.child("resources.requests.storage"), "field can not be less than status.capacity"));
    }
    if new_spec.volume_mode != old_spec.volume_mode {
        errors.push(Error::invalid(&Path::new("volumeMode"), json!(new_spec.volume_mode), FIELD_IMMUTABLE));
    }
    let class = &new_spec.volume_attributes_class_name;
    let in_use = old.status.as_ref().is_some_and(|status| status.current_volume_attributes_class_name.is_some());
    if *class != old_spec.volume_attributes_class_name && in_use {
        const WHEN: &str = "is forbidden when status.currentVolumeAttributesClassName is not nil";
        let path = spec.child("volumeAttributesClassName");
        match class.as_deref() {
            None => errors.push(Error::forbidden(&path, format!("update to nil {WHEN}"))),
            Some("") => errors.push(Error::forbidden(&path, format!("update to empty string {WHEN}"))),
            Some(_) => {}
        }
    }
    errors
}

/// The class of a claim may move from the annotation to the field, or be set where there was none.
fn allow_storage_class_upgrade(
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
    after: &mut PersistentVolumeClaimSpec,
    before: &PersistentVolumeClaimSpec,
) -> Option<Error> {
    let (noted, noted_now) = (annotation(old), annotation(new));
    let newly_set = before.storage_class_name.is_none() && after.storage_class_name.is_some();
    if newly_set && noted.is_some() && after.storage_class_name.as_ref() == noted && noted_now.is_none_or(|now| Some(now) == noted) {
        after.storage_class_name = None;
        return None;
    }
    if newly_set && noted.is_none_or(|noted| after.storage_class_name.as_ref() == Some(noted)) {
        after.storage_class_name = None;
    }
    let value = |annotation: Option<&String>| annotation.cloned().unwrap_or_default();
    let metadata = Path::new("metadata");
    let annotations = metadata.child("annotations");
    (value(noted_now) != value(noted))
        .then(|| Error::invalid(&annotations.child(STORAGE_CLASS_ANNOTATION), value(noted_now), FIELD_IMMUTABLE))
}

/// Equal but for the spelling of amounts and absent lists.
fn same_spec(a: &PersistentVolumeClaimSpec, b: &PersistentVolumeClaimSpec) -> bool {
    let limits = |spec: &PersistentVolumeClaimSpec| spec.resources.as_ref().and_then(|resources| resources.limits.clone());
    let rest = |spec: &PersistentVolumeClaimSpec| PersistentVolumeClaimSpec {
        resources: None,
        access_modes: Some(spec.access_modes.clone().unwrap_or_default()),
        volume_name: Some(spec.volume_name.clone().unwrap_or_default()),
        ..spec.clone()
    };
    amounts(requests(a)) == amounts(requests(b)) && amounts(limits(a).as_ref()) == amounts(limits(b).as_ref()) && rest(a) == rest(b)
}

/// The spec as upstream's messages show it: its internal type has no JSON names and leaves nothing out.
fn as_go_prints(spec: &PersistentVolumeClaimSpec) -> Value {
    let limits = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    json!({
        "AccessModes": spec.access_modes,
        "Selector": spec.selector.as_ref().map(selector_as_go_prints),
        "Resources": {"Limits": limits, "Requests": requests(spec)},
        "VolumeName": spec.volume_name.as_deref().unwrap_or(""),
        "StorageClassName": spec.storage_class_name,
        "VolumeMode": spec.volume_mode,
        "DataSource": spec.data_source.as_ref().map(|s| json!({"APIGroup": s.api_group, "Kind": s.kind, "Name": s.name})),
        "DataSourceRef": spec.data_source_ref.as_ref().map(|s| {
            json!({"APIGroup": s.api_group, "Kind": s.kind, "Name": s.name, "Namespace": s.namespace})
        }),
        "VolumeAttributesClassName": spec.volume_attributes_class_name,
    })
}

/// Labels before expressions, as Go declares them.
fn selector_as_go_prints(selector: &LabelSelector) -> Value {
    let mut shown = Map::new();
    if let Some(labels) = selector.match_labels.as_ref().filter(|labels| !labels.is_empty()) {
        shown.insert("matchLabels".to_owned(), json!(labels));
    }
    if let Some(expressions) = selector.match_expressions.as_ref().filter(|expressions| !expressions.is_empty()) {
        shown.insert("matchExpressions".to_owned(), json!(expressions));
    }
    Value::Object(shown)
}

fn validate_status(status: &PersistentVolumeClaimStatus) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    for (name, amount) in amounts(status.capacity.as_ref()) {
        errors.extend(validate_basic(&amount, &path.child("capacity").key(name)));
    }
    let health = status.health_status.iter().flat_map(|health| health.health_conditions.iter().flatten()).enumerate();
    for (i, condition) in health.filter(|(_, condition)| !condition.reason.is_empty()) {
        let (reason, path) = (condition.reason.as_str(), path.child("healthStatus.healthConditions"));
        let messages = is_valid_condition_reason(reason).into_iter();
        errors.extend(messages.map(|message| Error::invalid(&path.index(i).child("reason"), reason, message)));
    }
    let states = path.child("allocatedResourceStatuses");
    for (name, state) in status.allocated_resource_statuses.iter().flatten() {
        errors.extend(validate_resource_key(name, &states));
        if !RESIZE_STATES.contains(&state.as_str()) {
            errors.push(Error::not_supported(&states, name.as_str(), &RESIZE_STATES));
        }
    }
    let allocated = path.child("allocatedResources");
    for (name, amount) in amounts(status.allocated_resources.as_ref()) {
        let key_errors = validate_resource_key(name, &allocated);
        if !key_errors.is_empty() {
            errors.extend(key_errors);
            continue;
        }
        let path = allocated.key(name);
        let basic = validate_basic(&amount, &path);
        errors.extend(if basic.is_empty() { validate_amount("storage", &amount, &path) } else { basic });
    }
    errors
}

fn validate_resource_key(name: &str, path: &Path<'_>) -> ErrorList {
    let errors: ErrorList = is_qualified_name(name).into_iter().map(|message| Error::invalid(path, name, message)).collect();
    if errors.is_empty() && is_native(name) && name != "storage" {
        return vec![Error::not_supported(path, name, &["storage"])];
    }
    errors
}

fn warnings(claim: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if at(claim, "/metadata/annotations").get(STORAGE_CLASS_ANNOTATION).is_some() {
        let why = "deprecated since v1.8; use \"storageClassName\" attribute instead";
        warnings.push(format!("metadata.annotations[{STORAGE_CLASS_ANNOTATION}]: {why}"));
    }
    warnings.extend(warnings_for_spec(at(claim, "/spec"), &Path::new("spec")));
    warnings
}

/// Storage comes in whole bytes.
pub fn warnings_for_spec(spec: &Value, path: &Path<'_>) -> Vec<String> {
    let resources = path.child("resources");
    let mut warnings = Vec::new();
    for field in ["requests", "limits"] {
        let amount = quantity(str_at(spec, &format!("/resources/{field}/storage")));
        if amount.milli_value() % 1000 != 0 {
            let (place, shown) = (resources.child(field), quote(&amount.canonical()));
            warnings.push(format!("{}: fractional byte value {shown} is invalid, must be an integer", place.key("storage")));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::core::tests::{cx, messages};

    fn claim(spec: Value, phase: &str) -> Value {
        let mut full = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2M"}}, "volumeMode": "Filesystem"});
        for (key, value) in spec.as_object().unwrap() {
            full[key] = value.clone();
        }
        json!({"metadata": {"name": "c"}, "spec": full, "status": {"phase": phase}})
    }

    #[test]
    fn an_empty_spec_lacks_modes_and_storage() {
        let empty = json!({"metadata": {}, "spec": {"resources": {}, "volumeMode": "Filesystem"}});
        assert_eq!(
            messages(&ClaimStrategy.validate(&cx(), &empty)),
            ["spec.accessModes: Required value: at least 1 access mode is required", "spec.resources[storage]: Required value"]
        );
    }

    #[test]
    fn sources_are_told_in_both_fields() {
        let source = json!({"kind": "PersistentVolumeClaim", "name": "x"});
        let mut new = claim(json!({"dataSource": source}), "");
        ClaimStrategy.prepare_for_create(&cx(), &mut new);
        assert_eq!(new["spec"]["dataSourceRef"], source);
        let mut foreign = claim(json!({"dataSource": {"apiGroup": "a.example", "kind": "K", "name": "x"}}), "");
        ClaimStrategy.prepare_for_create(&cx(), &mut foreign);
        assert!(foreign["spec"].get("dataSource").is_none());
        let different = claim(json!({"dataSource": source, "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "y"}}), "");
        assert_eq!(messages(&ClaimStrategy.validate(&cx(), &different)), ["spec: Invalid value: {}: must match dataSourceRef"]);
    }

    #[test]
    fn an_unbound_claim_never_changes() {
        let spec = |size: &str| json!({"resources": {"limits": {"storage": "1M"}, "requests": {"storage": size}}, "selector": {"matchLabels": {"pvc": "stuff"}}});
        let errors = ClaimStrategy.validate_update(&cx(), &claim(spec("21M"), "Pending"), &claim(spec("2M"), "Pending"));
        assert_eq!(
            messages(&errors),
            [
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n@@ -12,7 +12,7 @@\n    \"storage\": \"1M\"\n   },\n   \"Requests\": {\n-   \"storage\": \"2M\"\n+   \"storage\": \"21M\"\n   }\n  },\n  \"VolumeName\": \"\",\n"
            ]
        );
    }

    #[test]
    fn a_bound_claim_may_grow() {
        let spec = |size: &str| json!({"resources": {"requests": {"storage": size}}});
        let old = claim(spec("2Gi"), "Bound");
        assert!(ClaimStrategy.validate_update(&cx(), &claim(spec("3Gi"), "Bound"), &old).is_empty());
        assert!(ClaimStrategy.validate_update(&cx(), &claim(spec("2048Mi"), "Pending"), &claim(spec("2Gi"), "Pending")).is_empty());
        let mut filled = old.clone();
        filled["status"]["capacity"] = json!({"storage": "1Gi"});
        assert_eq!(
            messages(&ClaimStrategy.validate_update(&cx(), &claim(spec("1Gi"), "Bound"), &filled)),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
    }

    #[test]
    fn a_class_may_be_set_where_there_was_none() {
        let old = claim(json!({}), "Pending");
        assert!(ClaimStrategy.validate_update(&cx(), &claim(json!({"storageClassName": "a"}), "Pending"), &old).is_empty());
        let mut noted = old.clone();
        noted["metadata"]["annotations"] = json!({STORAGE_CLASS_ANNOTATION: "a"});
        assert!(ClaimStrategy.validate_update(&cx(), &claim(json!({"storageClassName": "a"}), "Pending"), &noted).is_empty());
        assert_eq!(
            messages(&ClaimStrategy.validate_update(&cx(), &old, &noted)),
            ["metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: \"\": field is immutable"]
        );
    }

    #[test]
    fn fractions_of_bytes_are_warned_about() {
        let spec = json!({"resources": {"requests": {"storage": "100m"}}});
        assert_eq!(
            warnings_for_spec(&spec, &Path::new("spec")),
            ["spec.resources.requests[storage]: fractional byte value \"100m\" is invalid, must be an integer"]
        );
    }

    #[test]
    fn statuses_name_known_states_and_storage() {
        let mut new = claim(json!({}), "Bound");
        new["metadata"]["resourceVersion"] = "1".into();
        new["status"]["allocatedResourceStatuses"] = json!({"storage": "Bogus"});
        new["status"]["allocatedResources"] = json!({"cpu": "1"});
        let text = messages(&StatusStrategy.validate_update(&cx(), &new, &new));
        assert_eq!(
            text,
            [
                "status.allocatedResourceStatuses: Unsupported value: \"storage\": supported values: \"ControllerResizeInProgress\", \"ControllerResizeInfeasible\", \"NodeResizeInProgress\", \"NodeResizeInfeasible\", \"NodeResizePending\"",
                "status.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"",
            ]
        );
    }
}
