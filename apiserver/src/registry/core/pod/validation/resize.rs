//! What may change in a pod that runs through `resize`: amounts of cpu and memory.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use serde_json::{Map, Value};

use super::annotations::is_mirror_pod;
use super::options::Options;
use super::validate_pod_annotations_and_spec;
use crate::registry::core::pod::access::{ResourceList, is_sidecar, items, text};
use crate::registry::core::pod::qos;
use crate::registry::core::pod::semantic::same;
use crate::registry::read::at;

const ONLY_CPU_AND_MEMORY: &str = "only cpu and memory resources are mutable";

/// The rules of an update through `resize`.
pub fn validate_pod_resize(new_raw: &Value, old_raw: &Value) -> ErrorList {
    let (new, old): (Pod, Pod) = (view(new_raw), view(old_raw));
    let opts = Options::for_pod(Some(&old));
    let empty = PodSpec::default();
    let (new_spec, old_spec) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    if is_mirror_pod(&old.metadata) {
        return vec![Error::forbidden(&Path::ROOT, "static pods cannot be resized")];
    }
    if old_spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return vec![Error::forbidden(&Path::ROOT, "windows pods cannot be resized")];
    }
    let path = Path::new("spec");
    let mut errors = validate_pod_annotations_and_spec(&new, &opts);
    if qos::of_pod(&old) != qos::compute(new_spec) {
        let class = new.status.as_ref().map(|s| text(&s.qos_class)).unwrap_or_default();
        errors.push(Error::invalid(&path, class, "Pod QOS Class may not change as a result of resizing"));
    }
    if !node_supports_resize(&old) {
        errors.push(Error::forbidden(&path, "Pod running on node without support for resize"));
    }
    let mut munged = at(new_raw, "/spec").clone();
    let before = at(old_raw, "/spec");
    if has_pod_resources(old_spec) || has_pod_resources(new_spec) {
        errors.extend(validate_pod_level_resize(new_spec, old_spec, &mut munged, before, &path));
    }
    let order = validate_container_order(new_spec, old_spec, &path);
    if !order.is_empty() {
        errors.extend(order);
        return errors;
    }
    let lists = [
        ("initContainers", items(&new_spec.init_containers), items(&old_spec.init_containers)),
        ("containers", new_spec.containers.as_slice(), old_spec.containers.as_slice()),
    ];
    for (name, after, before) in lists {
        let path = path.child(name);
        for (i, (after, before)) in after.iter().zip(before).enumerate() {
            let path = path.index(i);
            errors.extend(validate_nothing_removed(after.resources.as_ref(), before.resources.as_ref(), &path.child("resources")));
        }
    }
    errors.extend(validate_only_amounts_changed(&mut munged, before, new_spec, &path));
    if !same(at(&munged, "/volumes"), at(before, "/volumes")) {
        let detail = "volumes are immutable on resize when InPlacePodVerticalScalingMemoryBackedVolumes feature gate is disabled";
        errors.push(Error::forbidden(&path.child("volumes"), detail));
    }
    if errors.is_empty() && !same(&munged, before) {
        errors.push(Error::forbidden(&path, ONLY_CPU_AND_MEMORY));
    }
    errors
}

fn has_pod_resources(spec: &PodSpec) -> bool {
    let set = |list: &Option<ResourceList>| list.as_ref().is_some_and(|list| !list.is_empty());
    spec.resources.as_ref().is_some_and(|r| set(&r.requests) || set(&r.limits))
}

/// A kubelet that can resize reports the resources of running containers.
fn node_supports_resize(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|s| items(&s.container_statuses));
    let mut running = statuses.filter(|s| s.state.as_ref().is_some_and(|state| state.running.is_some()));
    running.next().is_none_or(|status| status.resources.is_some())
}

fn validate_pod_level_resize(new: &PodSpec, old: &PodSpec, munged: &mut Value, before: &Value, path: &Path<'_>) -> ErrorList {
    let at_resources = path.child("resources");
    let mut errors = ErrorList::new();
    match (&new.resources, &old.resources) {
        (None, Some(_)) => return vec![Error::forbidden(&at_resources, "pod-level resources cannot be removed")],
        (Some(after), Some(before)) => {
            if removed(&after.requests, &before.requests) {
                errors.push(Error::forbidden(&at_resources.child("requests"), "pod-level resource requests cannot be removed"));
            }
            if removed(&after.limits, &before.limits) {
                errors.push(Error::forbidden(&at_resources.child("limits"), "pod-level resource limits cannot be removed"));
            }
        }
        _ => {}
    }
    take_cpu_and_memory(munged, before);
    let absent = at(before, "/resources").is_null();
    if absent
        && at(munged, "/resources").as_object().is_some_and(Map::is_empty)
        && let Some(spec) = munged.as_object_mut()
    {
        spec.shift_remove("resources");
    }
    if !same(at(munged, "/resources"), at(before, "/resources")) {
        errors.push(Error::forbidden(path, "only cpu and memory resources are mutable at pod-level"));
    }
    errors
}

fn validate_container_order(new: &PodSpec, old: &PodSpec, path: &Path<'_>) -> ErrorList {
    let lists = [
        ("containers", new.containers.as_slice(), old.containers.as_slice()),
        ("initContainers", items(&new.init_containers), items(&old.init_containers)),
    ];
    let mut errors = ErrorList::new();
    for (name, after, before) in lists {
        let path = path.child(name);
        if after.len() != before.len() {
            errors.push(Error::forbidden(&path, format!("{name} may not be added or removed on resize")));
            continue;
        }
        for (i, _) in after.iter().zip(before).enumerate().filter(|(_, (after, before))| after.name != before.name) {
            errors.push(Error::forbidden(&path.index(i).child("name"), format!("{name} may not be renamed or reordered on resize")));
        }
    }
    errors
}

fn validate_nothing_removed(new: Option<&ResourceRequirements>, old: Option<&ResourceRequirements>, path: &Path<'_>) -> ErrorList {
    let none = ResourceRequirements::default();
    let (new, old) = (new.unwrap_or(&none), old.unwrap_or(&none));
    let mut errors = ErrorList::new();
    if removed(&new.requests, &old.requests) {
        errors.push(Error::forbidden(&path.child("requests"), "resource requests cannot be removed"));
    }
    if removed(&new.limits, &old.limits) {
        errors.push(Error::forbidden(&path.child("limits"), "resource limits cannot be removed"));
    }
    errors
}

fn removed(new: &Option<ResourceList>, old: &Option<ResourceList>) -> bool {
    let kept = |name: &String| new.as_ref().is_some_and(|list| list.contains_key(name));
    old.as_ref().is_some_and(|list| !list.keys().all(kept))
}

/// Puts the old amounts into the new containers, which then must be the old ones.
fn validate_only_amounts_changed(munged: &mut Value, before: &Value, new: &PodSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let pairs = |munged: &mut Value, list: &str| -> Vec<(bool, bool)> {
        let before = at(before, &format!("/{list}")).as_array().map(Vec::as_slice).unwrap_or_default();
        let after = munged.get_mut(list).and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default();
        let compare = |(after, before): (&mut Value, &Value)| {
            let changed = !same(after, before);
            take_cpu_and_memory(after, before);
            (changed, !same(after, before))
        };
        after.iter_mut().zip(before).map(compare).collect()
    };
    for _ in pairs(munged, "containers").into_iter().filter(|(_, beyond)| *beyond) {
        errors.push(Error::forbidden(path, ONLY_CPU_AND_MEMORY));
    }
    let init_path = path.child("initContainers");
    let init = items(&new.init_containers);
    for (i, (changed, beyond)) in pairs(munged, "initContainers").into_iter().enumerate() {
        let path = init_path.index(i);
        if beyond {
            errors.push(Error::forbidden(&path, "only cpu and memory resources for init or sidecar containers are mutable"));
        }
        let restarts = |c: &Container| items(&c.resize_policy).iter().filter(|p| p.restart_policy == "RestartContainer").count();
        let count = init.get(i).filter(|c| changed && !is_sidecar(c)).map_or(0, restarts);
        let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
        errors.extend((0..count).map(|_| Error::forbidden(&path, detail)));
    }
    errors
}

/// Makes cpu and memory of `new.resources` what they are in `old.resources`.
fn take_cpu_and_memory(new: &mut Value, old: &Value) {
    let Some(holder) = new.as_object_mut() else { return };
    if !holder.contains_key("resources") {
        return;
    }
    let Some(resources) = holder.get_mut("resources").and_then(Value::as_object_mut) else { return };
    for list in ["limits", "requests"] {
        let before = at(old, "/resources").get(list).and_then(Value::as_object);
        let mut amounts = resources.get(list).and_then(Value::as_object).cloned().unwrap_or_default();
        for name in ["cpu", "memory"] {
            match before.and_then(|amounts| amounts.get(name)) {
                Some(amount) => amounts.insert(name.to_owned(), amount.clone()),
                None => amounts.shift_remove(name),
            };
        }
        if amounts.is_empty() {
            resources.shift_remove(list);
        } else {
            resources.insert(list.to_owned(), Value::Object(amounts));
        }
    }
}
