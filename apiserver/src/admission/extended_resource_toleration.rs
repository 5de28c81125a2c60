//! ExtendedResourceToleration: pods that ask for a device tolerate the taint of the nodes that have it.

use std::collections::BTreeSet;

use apimachinery::status::Status;
use serde_json::{Value, json};

use super::pod_references::append;
use super::{Attributes, Lookup, Plugin};
use crate::registry::core::resource::is_extended;
use crate::registry::read::{at, list_at, str_at};

/// The plugin.
pub struct ExtendedResourceToleration;

impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !attributes.is_main("", "pods") || !attributes.operation.writes() {
            return Ok(());
        }
        let containers = list_at(new, "/spec/containers").iter().chain(list_at(new, "/spec/initContainers"));
        let requests = containers.filter_map(|c| at(c, "/resources/requests").as_object()).flat_map(|r| r.keys());
        let devices: BTreeSet<String> = requests.filter(|name| is_extended(name)).cloned().collect();
        let tolerated = |device: &str| {
            let same =
                |t: &Value| str_at(t, "/key") == device && str_at(t, "/operator") == "Exists" && str_at(t, "/effect") == "NoSchedule";
            list_at(new, "/spec/tolerations").iter().any(same)
        };
        let missing = devices.iter().filter(|device| !tolerated(device));
        let missing = missing.map(|device| json!({ "key": device, "operator": "Exists", "effect": "NoSchedule" })).collect();
        append(new, &["spec", "tolerations"], missing);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Operation;
    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn each_device_is_tolerated_once() {
        let requests = json!({ "cpu": "1", "example.com/b": "1", "example.com/a": "1" });
        let mut pod = json!({ "spec": { "containers": [{ "resources": { "requests": requests } }] } });
        let write = Write::new(Operation::Create, "", "v1", "pods");
        for _ in 0..2 {
            write.admit(&ExtendedResourceToleration, &Objects::default(), &mut pod).unwrap();
            let keys: Vec<&str> = list_at(&pod, "/spec/tolerations").iter().map(|t| str_at(t, "/key")).collect();
            assert_eq!(keys, ["example.com/a", "example.com/b"]);
        }
    }
}
