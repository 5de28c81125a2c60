//! RuntimeClass: a pod of a class carries the class's overhead and goes where the class's nodes are.

use std::sync::Arc;

use apimachinery::field::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::amounts;
use super::pod_references::{invalid_name, object_mut};
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::{at, int_at, list_at, str_at};

/// The plugin.
pub struct RuntimeClass;

/// The pod's class, if it names one.
fn class_of(attributes: &Attributes<'_>, lookup: &dyn Lookup, pod: &Value) -> Result<Option<Arc<Value>>, Status> {
    let Some(name) = at(pod, "/spec/runtimeClassName").as_str() else { return Ok(None) };
    if let Some(invalid) = invalid_name(name) {
        return Err(Status::unknown(invalid));
    }
    match lookup.get("node.k8s.io", "runtimeclasses", "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(attributes.forbidden(Some(pod), &format!("pod rejected: RuntimeClass {} not found", quote(name)))),
    }
}

fn same_overhead(class: &Value, pod: &Value) -> bool {
    amounts::read(class.pointer("/overhead/podFixed")) == amounts::read(pod.pointer("/spec/overhead"))
}

fn set_overhead(class: &Value, pod: &mut Value) -> Result<(), String> {
    if at(class, "/overhead").is_null() {
        return Ok(());
    }
    if at(pod, "/spec/overhead").as_object().is_some_and(|o| !o.is_empty()) && !same_overhead(class, pod) {
        return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned());
    }
    let Some(spec) = object_mut(pod, &["spec"]) else { return Ok(()) };
    match class.pointer("/overhead/podFixed") {
        Some(overhead) => spec.insert("overhead".to_owned(), overhead.clone()),
        None => spec.shift_remove("overhead"),
    };
    Ok(())
}

fn set_scheduling(class: &Value, pod: &mut Value) -> Result<(), String> {
    let scheduling = at(class, "/scheduling");
    if scheduling.is_null() {
        return Ok(());
    }
    if let Some(wanted) = at(scheduling, "/nodeSelector").as_object().filter(|s| !s.is_empty())
        && let Some(selector) = object_mut(pod, &["spec", "nodeSelector"])
    {
        for (key, value) in wanted {
            if let Some(own) = selector.get(key).filter(|own| *own != value) {
                let (theirs, own) = (value.as_str().unwrap_or(""), own.as_str().unwrap_or(""));
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {theirs}; pod.spec.nodeSelector[{key}] = {own}"
                ));
            }
            selector.insert(key.clone(), value.clone());
        }
    }
    let all: Vec<Value> = list_at(pod, "/spec/tolerations").iter().chain(list_at(scheduling, "/tolerations")).cloned().collect();
    if !all.is_empty()
        && let Some(spec) = object_mut(pod, &["spec"])
    {
        spec.insert("tolerations".to_owned(), merge_tolerations(&all).into());
    }
    Ok(())
}

/// Drops the tolerations that another one covers; of equals the first stays.
fn merge_tolerations(all: &[Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let covered = merged.iter().any(|kept| covers(kept, toleration))
            || all[i + 1..].iter().any(|later| !same_toleration(later, toleration) && covers(later, toleration));
        if !covered {
            merged.push(toleration.clone());
        }
    }
    merged
}

fn same_toleration(a: &Value, b: &Value) -> bool {
    ["/key", "/operator", "/value", "/effect"].iter().all(|field| str_at(a, field) == str_at(b, field))
        && at(a, "/tolerationSeconds").as_i64() == at(b, "/tolerationSeconds").as_i64()
}

/// Whether `wide` tolerates all that `narrow` does.
fn covers(wide: &Value, narrow: &Value) -> bool {
    if same_toleration(wide, narrow) {
        return true;
    }
    let (key, operator, effect) = (str_at(wide, "/key"), str_at(wide, "/operator"), str_at(wide, "/effect"));
    if str_at(narrow, "/key") != key && !(key.is_empty() && operator == "Exists") {
        return false;
    }
    if str_at(narrow, "/effect") != effect && !effect.is_empty() {
        return false;
    }
    if effect == "NoExecute" && !at(wide, "/tolerationSeconds").is_null() {
        let seconds = at(narrow, "/tolerationSeconds").as_i64();
        if seconds.is_none_or(|seconds| seconds > int_at(wide, "/tolerationSeconds")) {
            return false;
        }
    }
    match operator {
        "Exists" => true,
        "Equal" | "" => str_at(narrow, "/operator") == "Equal" && str_at(narrow, "/value") == str_at(wide, "/value"),
        _ => false,
    }
}

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if attributes.operation != Operation::Create || !attributes.is_main("", "pods") {
            return Ok(());
        }
        let Some(class) = class_of(attributes, lookup, new)? else { return Ok(()) };
        set_overhead(&class, new).and_then(|()| set_scheduling(&class, new)).map_err(|why| attributes.forbidden(Some(new), &why))
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(pod) = new.filter(|_| attributes.operation == Operation::Create && attributes.is_main("", "pods")) else { return Ok(()) };
        let class = class_of(attributes, lookup, pod)?;
        match class.filter(|class| !at(class, "/overhead").is_null()) {
            Some(class) if !same_overhead(&class, pod) => {
                Err(attributes.forbidden(new, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
            }
            None if !at(pod, "/spec/overhead").is_null() => {
                Err(attributes.forbidden(new, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    fn objects() -> Objects {
        let class = json!({
            "metadata": { "name": "gvisor" },
            "overhead": { "podFixed": { "cpu": "250m" } },
            "scheduling": { "nodeSelector": { "runtime": "gvisor" }, "tolerations": [{ "key": "a", "operator": "Exists" }] },
        });
        Objects::of(vec![("node.k8s.io", "runtimeclasses", class)])
    }

    fn admit(spec: Value) -> Result<Value, String> {
        let mut pod = json!({ "spec": spec });
        let write = Write::new(Operation::Create, "", "v1", "pods");
        write.admit(&RuntimeClass, &objects(), &mut pod).map(|()| pod["spec"].take())
    }

    #[test]
    fn the_class_gives_overhead_and_scheduling() {
        let spec =
            admit(json!({ "runtimeClassName": "gvisor", "tolerations": [{ "key": "a", "operator": "Equal", "value": "v" }] })).unwrap();
        assert_eq!(spec["overhead"], json!({ "cpu": "250m" }));
        assert_eq!(spec["nodeSelector"], json!({ "runtime": "gvisor" }));
        assert_eq!(spec["tolerations"], json!([{ "key": "a", "operator": "Exists" }]));
    }

    #[test]
    fn what_contradicts_the_class_is_refused() {
        let cases = [
            (json!({ "runtimeClassName": "no" }), "pod rejected: RuntimeClass \"no\" not found"),
            (
                json!({ "runtimeClassName": "gvisor", "overhead": { "cpu": "1" } }),
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            ),
            (
                json!({ "runtimeClassName": "gvisor", "nodeSelector": { "runtime": "x" } }),
                "conflict: runtimeClass.scheduling.nodeSelector[runtime] = gvisor; pod.spec.nodeSelector[runtime] = x",
            ),
        ];
        for (spec, why) in cases {
            assert_eq!(admit(spec).unwrap_err(), format!("pods \"x\" is forbidden: {why}"));
        }
        assert!(admit(json!({ "runtimeClassName": "gvisor", "overhead": { "cpu": "0.25" } })).is_ok());
        let alone = json!({ "spec": { "overhead": { "cpu": "1" } } });
        let write = Write::new(Operation::Create, "", "v1", "pods");
        assert_eq!(
            write.validate(&RuntimeClass, &objects(), Some(&alone), None).unwrap_err(),
            "pods \"x\" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
        );
    }
}
