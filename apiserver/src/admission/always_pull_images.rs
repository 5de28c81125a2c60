//! AlwaysPullImages: nobody runs a private image only because another pod has pulled it.

use apimachinery::field::{Error, Path};
use apimachinery::status::Status;
use serde_json::Value;

use super::pod_references::{CONTAINER_LISTS, containers};
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::{at, list_at, str_at};

/// The plugin.
pub struct AlwaysPullImages;

/// Pods whose images may be new.
fn applies(attributes: &Attributes<'_>, new: &Value, old: Option<&Value>) -> bool {
    if !attributes.is_main("", "pods") || !attributes.operation.writes() {
        return false;
    }
    let Some(old) = old.filter(|_| attributes.operation == Operation::Update) else { return true };
    let known = |image: &str| containers(at(old, "/spec")).any(|c| str_at(c, "/image") == image);
    containers(at(new, "/spec")).any(|c| !known(str_at(c, "/image")))
}

fn pull_always(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    let set = |object: Option<&mut Value>, field: &str| {
        if let Some(map) = object.and_then(Value::as_object_mut) {
            map.insert(field.to_owned(), "Always".into());
        }
    };
    for list in CONTAINER_LISTS {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            set(Some(container), "imagePullPolicy");
        }
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        set(volume.get_mut("image"), "pullPolicy");
    }
}

/// Every place that would not pull.
fn problems(pod: &Value) -> Vec<Error> {
    let mut found = Vec::new();
    let spec = Path::new("spec");
    for list in CONTAINER_LISTS {
        let path = spec.child(list);
        for (i, container) in list_at(at(pod, "/spec"), &format!("/{list}")).iter().enumerate() {
            let policy = str_at(container, "/imagePullPolicy");
            if policy != "Always" {
                found.push(Error::not_supported(&path.index(i).child("imagePullPolicy"), policy, &["Always"]));
            }
        }
    }
    let volumes = spec.child("volumes");
    for (i, volume) in list_at(pod, "/spec/volumes").iter().enumerate() {
        if let Some(image) = volume.get("image")
            && str_at(image, "/pullPolicy") != "Always"
        {
            found.push(Error::not_supported(
                &volumes.index(i).child("image").child("pullPolicy"),
                str_at(image, "/pullPolicy"),
                &["Always"],
            ));
        }
    }
    found
}

impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: &mut Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if applies(attributes, new, old) {
            pull_always(new);
        }
        Ok(())
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(pod) = new.filter(|pod| applies(attributes, pod, old)) else { return Ok(()) };
        match problems(pod).first() {
            Some(error) => Err(attributes.forbidden(new, &error.to_string())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn every_image_is_pulled() {
        let mut pod = json!({ "spec": {
            "initContainers": [{ "image": "a" }], "containers": [{ "image": "b", "imagePullPolicy": "Never" }],
            "volumes": [{ "name": "v", "image": { "reference": "c" } }, { "name": "w" }],
        }});
        assert_eq!(problems(&pod).len(), 3);
        Write::new(Operation::Create, "", "v1", "pods").admit(&AlwaysPullImages, &Objects::default(), &mut pod).unwrap();
        assert!(problems(&pod).is_empty());
    }
}
