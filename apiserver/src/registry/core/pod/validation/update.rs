//! What may change in a pod that exists: through its main endpoint, and through `ephemeralcontainers`.

use apimachinery::field::{Error, ErrorList, Path, quote};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::{Container, NodeAffinity, NodeSelectorTerm, Pod, PodSchedulingGate, PodSpec, Toleration};
use serde_json::{Map, Value};

use super::annotations::{is_mirror_pod, validate_pod_annotations_update};
use super::options::Options;
use super::scheduling::validate_tolerations_with;
use super::{printed, validate_pod_annotations_and_spec};
use crate::registry::core::pod::access::{items, text};
use crate::registry::core::pod::semantic::same;
use crate::registry::read::at;
use crate::registry::{diff, internal_form};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const MAX_DEADLINE_SECONDS: i64 = i32::MAX as i64;

/// The rules of an update through the main endpoint.
pub fn validate_pod_update(new_raw: &Value, old_raw: &Value) -> ErrorList {
    let (new, old): (Pod, Pod) = (view(new_raw), view(old_raw));
    let opts = Options::for_pod(Some(&old));
    let (new_spec, old_spec) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let (meta_path, spec_path) = (Path::new("metadata"), Path::new("spec"));

    let mut errors = validate_pod_annotations_and_spec(&new, &opts);
    errors.extend(validate_pod_annotations_update(&new.metadata, &old.metadata, &new_spec, &meta_path.child("annotations"), &opts));
    let lists = [
        ("containers", new_spec.containers.as_slice(), old_spec.containers.as_slice()),
        ("initContainers", items(&new_spec.init_containers), items(&old_spec.init_containers)),
    ];
    for (name, after, before) in lists {
        let path = spec_path.child(name);
        if after.len() != before.len() {
            errors.push(Error::forbidden(&path, "pod updates may not add or remove containers"));
            return errors;
        }
        errors.extend(validate_images(after, &path));
    }
    let (deadline_errors, stop) = validate_deadline_update(&new_spec, &old_spec, &spec_path.child("activeDeadlineSeconds"));
    errors.extend(deadline_errors);
    if stop {
        return errors;
    }
    errors.extend(validate_only_added_tolerations(
        items(&new_spec.tolerations),
        items(&old_spec.tolerations),
        &spec_path.child("tolerations"),
        &opts,
    ));
    errors.extend(validate_only_deleted_gates(
        items(&new_spec.scheduling_gates),
        items(&old_spec.scheduling_gates),
        &spec_path.child("schedulingGates"),
    ));
    let (after, before) = (at(new_raw, "/spec"), at(old_raw, "/spec"));
    if same(after, before) {
        return errors;
    }
    let mut munged = with_updatable_fields_of(after, before);
    if !items(&old_spec.scheduling_gates).is_empty() {
        errors.extend(validate_gated_pod(&new_spec, &old_spec, &spec_path));
        take_node_selection(&mut munged, before);
    }
    if !same(&munged, before) {
        let detail = format!("pod updates may not change fields other than {UPDATABLE}\n{}", shown_difference("PodSpec", before, &munged));
        errors.push(Error::forbidden(&spec_path, detail));
    }
    errors
}

/// How two values of the internal type `name` differ.
fn shown_difference(name: &str, old: &Value, new: &Value) -> String {
    diff::of_values(&internal_form::render(name, old), &internal_form::render(name, new))
}

fn validate_images(containers: &[Container], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        let image = text(&container.image);
        if image.is_empty() {
            errors.push(Error::required(&path.child("image"), ""));
        }
        if image.trim().len() != image.len() {
            errors.push(Error::invalid(&path.child("image"), image, "must not have leading or trailing whitespace"));
        }
    }
    errors
}

/// A deadline may be set and shortened. The second part says that no more is to be checked.
fn validate_deadline_update(new: &PodSpec, old: &PodSpec, path: &Path<'_>) -> (ErrorList, bool) {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(after), _) if !(0..=MAX_DEADLINE_SECONDS).contains(&after) => {
            let detail = format!("must be between 0 and {MAX_DEADLINE_SECONDS}, inclusive");
            (vec![Error::invalid(path, after, detail)], true)
        }
        (Some(after), Some(before)) if before < after => {
            (vec![Error::invalid(path, after, "must be less than or equal to previous value")], true)
        }
        (None, Some(_)) => (vec![Error::invalid(path, Value::Null, "must not update from a positive integer to nil value")], false),
        _ => (ErrorList::new(), false),
    }
}

fn validate_only_added_tolerations(new: &[Toleration], old: &[Toleration], path: &Path<'_>, opts: &Options) -> ErrorList {
    let kept = |before: &Toleration| {
        new.iter().any(|after| Toleration { toleration_seconds: after.toleration_seconds, ..before.clone() } == *after)
    };
    if !old.iter().all(kept) {
        return vec![Error::forbidden(path, "existing toleration can not be modified except its tolerationSeconds")];
    }
    validate_tolerations_with(new, path, opts)
}

fn validate_only_deleted_gates(new: &[PodSchedulingGate], old: &[PodSchedulingGate], path: &Path<'_>) -> ErrorList {
    // Of a name that stands twice, the last is told.
    let is_last = |i: usize, gate: &PodSchedulingGate| !new[i + 1..].contains(gate);
    let added = new.iter().enumerate().filter(|(i, gate)| !old.contains(gate) && is_last(*i, gate));
    added
        .map(|(i, gate)| {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            Error::forbidden(&path.index(i).child("name"), detail)
        })
        .collect()
}

/// The new spec with everything that may change taken from the old one.
fn with_updatable_fields_of(new: &Value, old: &Value) -> Value {
    let mut munged = new.clone();
    let Some(spec) = munged.as_object_mut() else { return munged };
    for list in ["containers", "initContainers"] {
        let (Some(after), Some(before)) = (spec.get_mut(list).and_then(Value::as_array_mut), old.get(list).and_then(Value::as_array))
        else {
            continue;
        };
        for (container, before) in after.iter_mut().zip(before) {
            take(container.as_object_mut(), before, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        take(Some(spec), old, field);
    }
    let was_negative = at(old, "/terminationGracePeriodSeconds").as_i64().is_some_and(|s| s < 0);
    if was_negative && spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64) == Some(1) {
        take(Some(spec), old, "terminationGracePeriodSeconds");
    }
    munged
}

/// Makes the field what it is in `from`, or absent.
fn take(map: Option<&mut Map<String, Value>>, from: &Value, field: &str) {
    let Some(map) = map else { return };
    match from.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.shift_remove(field),
    };
}

/// While a pod is gated its choice of nodes may be narrowed.
fn validate_gated_pod(new: &PodSpec, old: &PodSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let none = Default::default();
    let (after, before) = (new.node_selector.as_ref().unwrap_or(&none), old.node_selector.as_ref().unwrap_or(&none));
    if before.iter().any(|(key, value)| after.get(key) != Some(value)) {
        let shown =
            new.node_selector.as_ref().map_or(Value::Null, |s| s.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect());
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(Error::invalid(&path.child("nodeSelector"), shown, detail));
    }
    let of = |spec: &PodSpec| spec.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let (after, before) = (of(new), of(old));
    if after != before {
        errors.extend(validate_node_affinity_mutation(after.as_ref(), before.as_ref(), &path.child("affinity").child("nodeAffinity")));
    }
    errors
}

fn validate_node_affinity_mutation(new: Option<&NodeAffinity>, old: Option<&NodeAffinity>, path: &Path<'_>) -> ErrorList {
    let required = |a: Option<&NodeAffinity>| a.and_then(|a| a.required_during_scheduling_ignored_during_execution.clone());
    let Some(old) = required(old) else { return ErrorList::new() };
    let before = old.node_selector_terms;
    let after = required(new).map(|s| s.node_selector_terms);
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    let path = path.child("nodeSelectorTerms");
    let count = after.as_ref().map_or(0, Vec::len);
    if !before.is_empty() && before.len() != count {
        let shown = after.map_or(Value::Null, |terms| printed::list("NodeSelectorTerm", &terms));
        return vec![Error::invalid(&path, shown, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")];
    }
    let after = after.unwrap_or_default();
    let pairs = after.iter().zip(&before).enumerate();
    pairs
        .filter(|(_, (after, before))| !has_only_additions(after, before))
        .map(|(i, (after, _))| {
            let detail = "only additions are allowed (no mutations or deletions)";
            Error::invalid(&path.index(i), printed::structure("NodeSelectorTerm", after), detail)
        })
        .collect()
}

/// Requirements within a term are joined by and, so that more of them select less; but an empty term selects nothing.
fn has_only_additions(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    let (new_expressions, new_fields) = (items(&new.match_expressions), items(&new.match_fields));
    let (old_expressions, old_fields) = (items(&old.match_expressions), items(&old.match_fields));
    if old_expressions.is_empty() && old_fields.is_empty() {
        return new_expressions.is_empty() && new_fields.is_empty();
    }
    new_expressions.starts_with(old_expressions) && new_fields.starts_with(old_fields)
}

/// Takes the node selector and the node affinity from the old spec, whose narrowing has been checked.
fn take_node_selection(munged: &mut Value, old: &Value) {
    let Some(spec) = munged.as_object_mut() else { return };
    take(Some(spec), old, "nodeSelector");
    let before = old.get("affinity").filter(|a| !a.is_null());
    let before_node = before.and_then(|a| a.get("nodeAffinity")).filter(|a| !a.is_null());
    match spec.get_mut("affinity").and_then(Value::as_object_mut) {
        None => {
            if let Some(node) = before_node {
                let affinity: Map<String, Value> = [("nodeAffinity".to_owned(), node.clone())].into_iter().collect();
                spec.insert("affinity".to_owned(), Value::Object(affinity));
            }
        }
        Some(affinity) => {
            match before_node {
                Some(node) => affinity.insert("nodeAffinity".to_owned(), node.clone()),
                None => affinity.shift_remove("nodeAffinity"),
            };
            if before.is_none() && affinity.values().all(Value::is_null) {
                spec.shift_remove("affinity");
            }
        }
    }
}

/// The rules of an update through `ephemeralcontainers`: containers may be added.
pub fn validate_ephemeral_containers_update(new_raw: &Value, old_raw: &Value) -> ErrorList {
    let (new, old): (Pod, Pod) = (view(new_raw), view(old_raw));
    let opts = Options::for_pod(Some(&old));
    if is_mirror_pod(&old.metadata) {
        return vec![Error::forbidden(&Path::ROOT, "static pods do not support ephemeral containers")];
    }
    let empty = PodSpec::default();
    let new_spec = new.spec.as_ref().unwrap_or(&empty);
    let meta_path = Path::new("metadata");
    let mut errors = validate_pod_annotations_and_spec(&new, &opts);
    errors.extend(validate_pod_annotations_update(&new.metadata, &old.metadata, new_spec, &meta_path.child("annotations"), &opts));
    let spec_path = Path::new("spec");
    let path = spec_path.child("ephemeralContainers");
    let list = |pod: &Value| at(pod, "/spec/ephemeralContainers").as_array().cloned().unwrap_or_default();
    let after = list(new_raw);
    for before in list(old_raw) {
        let name = before.get("name").and_then(Value::as_str).unwrap_or_default();
        // With a name listed twice, the last counts.
        match after.iter().rfind(|c| c.get("name") == before.get("name")) {
            None => {
                let detail = format!("existing ephemeral containers {} may not be removed\n", quote(name));
                errors.push(Error::forbidden(&path, detail));
            }
            Some(now) if !same(now, &before) => {
                let difference = shown_difference("EphemeralContainer", &before, now);
                let detail = format!("existing ephemeral containers {} may not be changed\n{difference}", quote(name));
                errors.push(Error::forbidden(&path, detail));
            }
            Some(_) => {}
        }
    }
    errors
}
