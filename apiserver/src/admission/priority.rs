//! Priority: a pod's class becomes its priority, and there is one default class at most.

use std::sync::Arc;

use apimachinery::status::Status;
use serde_json::Value;

use super::pod_references::object_mut;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::{at, bool_at, int_at, str_at};

const GROUP: &str = "scheduling.k8s.io";

/// The plugin.
pub struct Priority;

/// What a class gives to a pod.
struct Resolved {
    class: String,
    value: i64,
    preemption: Option<String>,
}

impl Resolved {
    fn of(class: &Value) -> Resolved {
        Resolved {
            class: str_at(class, "/metadata/name").to_owned(),
            value: int_at(class, "/value"),
            preemption: at(class, "/preemptionPolicy").as_str().map(str::to_owned),
        }
    }
}

/// The class that is the default; the lowest if a race has let several in.
fn default_class(lookup: &dyn Lookup) -> Option<Arc<Value>> {
    let classes = lookup.list(GROUP, "priorityclasses", "");
    classes.into_iter().filter(|class| bool_at(class, "/globalDefault")).min_by_key(|class| int_at(class, "/value"))
}

fn resolve(attributes: &Attributes<'_>, lookup: &dyn Lookup, pod: &Value) -> Result<Resolved, Status> {
    let name = str_at(pod, "/spec/priorityClassName");
    if name.is_empty() {
        let none = || Resolved { class: String::new(), value: 0, preemption: Some("PreemptLowerPriority".to_owned()) };
        return Ok(default_class(lookup).map_or_else(none, |class| Resolved::of(&class)));
    }
    let class = lookup.get(GROUP, "priorityclasses", "", name);
    let class = class.ok_or_else(|| attributes.forbidden(Some(pod), &format!("no PriorityClass with name {name} was found")))?;
    Ok(Resolved::of(&class))
}

fn admit_new(attributes: &Attributes<'_>, lookup: &dyn Lookup, pod: &mut Value) -> Result<(), Status> {
    let resolved = resolve(attributes, lookup, pod)?;
    if let Some(given) = at(pod, "/spec/priority").as_i64().filter(|given| *given != resolved.value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            resolved.value
        );
        return Err(attributes.forbidden(Some(pod), &why));
    }
    let given = at(pod, "/spec/preemptionPolicy").as_str();
    if let (Some(given), Some(computed)) = (given, &resolved.preemption)
        && given != computed
    {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
        );
        return Err(attributes.forbidden(Some(pod), &why));
    }
    let Some(spec) = object_mut(pod, &["spec"]) else { return Ok(()) };
    if !resolved.class.is_empty() {
        spec.insert("priorityClassName".to_owned(), resolved.class.into());
    }
    spec.insert("priority".to_owned(), resolved.value.into());
    if let Some(policy) = resolved.preemption {
        spec.insert("preemptionPolicy".to_owned(), policy.into());
    }
    Ok(())
}

/// What was computed when the pod was made cannot be unset by omission.
fn keep(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        let kept = at(old, "/spec").get(field).filter(|value| !value.is_null()).cloned();
        if let (Some(kept), Some(spec)) = (kept, object_mut(pod, &["spec"])) {
            let value = spec.entry(field).or_insert(Value::Null);
            if value.is_null() {
                *value = kept;
            }
        }
    }
}

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: &mut Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !attributes.is_main("", "pods") {
            return Ok(());
        }
        match (attributes.operation, old) {
            (Operation::Create, _) => admit_new(attributes, lookup, new),
            (Operation::Update, Some(old)) => {
                keep(new, old);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(class) = new.filter(|_| attributes.operation.writes() && attributes.is_main(GROUP, "priorityclasses")) else {
            return Ok(());
        };
        let Some(default) = default_class(lookup).filter(|_| bool_at(class, "/globalDefault")) else { return Ok(()) };
        let name = str_at(&default, "/metadata/name");
        if attributes.operation == Operation::Create || name != str_at(class, "/metadata/name") {
            let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
            return Err(attributes.forbidden(new, &why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    fn class(name: &str, value: i64, default: bool) -> (&'static str, &'static str, Value) {
        let class = json!({ "metadata": { "name": name }, "value": value, "globalDefault": default, "preemptionPolicy": "Never" });
        (GROUP, "priorityclasses", class)
    }

    #[test]
    fn a_pod_gets_the_priority_of_its_class() {
        let write = Write::new(Operation::Create, "", "v1", "pods");
        let admit = |objects: &Objects, spec: Value| {
            let mut pod = json!({ "spec": spec });
            write.admit(&Priority, objects, &mut pod).map(|()| pod["spec"].take())
        };
        let none = Objects::default();
        assert_eq!(admit(&none, json!({})).unwrap(), json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}));
        let two = Objects::of(vec![class("low", 5, true), class("high", 9, false)]);
        assert_eq!(admit(&two, json!({})).unwrap(), json!({"priorityClassName": "low", "priority": 5, "preemptionPolicy": "Never"}));
        assert_eq!(admit(&two, json!({"priorityClassName": "high"})).unwrap()["priority"], 9);
        assert_eq!(
            admit(&none, json!({"priorityClassName": "a"})).unwrap_err(),
            "pods \"x\" is forbidden: no PriorityClass with name a was found"
        );
        assert_eq!(
            admit(&none, json!({"priority": 3})).unwrap_err(),
            "pods \"x\" is forbidden: the integer value of priority (3) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name"
        );
    }

    #[test]
    fn a_second_default_is_refused() {
        let objects = Objects::of(vec![class("low", 5, true)]);
        let create = Write::new(Operation::Create, GROUP, "v1", "priorityclasses");
        let (_, _, new) = class("new", 1, true);
        assert_eq!(
            create.validate(&Priority, &objects, Some(&new), None).unwrap_err(),
            "priorityclasses.scheduling.k8s.io \"x\" is forbidden: PriorityClass low is already marked as default. Only one default can exist"
        );
        let update = Write::new(Operation::Update, GROUP, "v1", "priorityclasses");
        let (_, _, same) = class("low", 5, true);
        assert!(update.validate(&Priority, &objects, Some(&same), Some(&same)).is_ok());
    }
}
