//! DefaultTolerationSeconds: pods stay bound for a while to a node that stops answering.

use apimachinery::status::Status;
use serde_json::{Value, json};

use super::{Attributes, Config, Lookup, Plugin};
use crate::registry::read::{list_at, str_at};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// The plugin, with the seconds for each of the two taints.
pub struct DefaultTolerationSeconds {
    seconds: [(&'static str, i64); 2],
}

impl DefaultTolerationSeconds {
    pub fn new(config: &Config) -> DefaultTolerationSeconds {
        DefaultTolerationSeconds {
            seconds: [
                (NOT_READY, config.default_not_ready_toleration_seconds),
                (UNREACHABLE, config.default_unreachable_toleration_seconds),
            ],
        }
    }
}

/// Whether a toleration says something about a taint that evicts, if only by saying it about all.
fn covers(toleration: &Value, taint: &str) -> bool {
    let (key, effect) = (str_at(toleration, "/key"), str_at(toleration, "/effect"));
    (key.is_empty() || key == taint) && matches!(effect, "" | "NoExecute")
}

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
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
        let missing: Vec<Value> = self
            .seconds
            .iter()
            .filter(|(taint, _)| !list_at(new, "/spec/tolerations").iter().any(|t| covers(t, taint)))
            .map(|(taint, seconds)| json!({ "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds }))
            .collect();
        super::pod_references::append(new, &["spec", "tolerations"], missing);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Operation;
    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn only_what_no_toleration_covers_is_added() {
        let plugin = DefaultTolerationSeconds::new(&Config::default());
        let write = Write::new(Operation::Create, "", "v1", "pods");
        let cases = [
            (json!([]), vec![NOT_READY, UNREACHABLE]),
            (json!([{"operator": "Exists"}]), vec![""]),
            (json!([{"key": NOT_READY, "effect": "NoExecute"}]), vec![NOT_READY, UNREACHABLE]),
            (json!([{"key": NOT_READY, "effect": "NoSchedule"}]), vec![NOT_READY, NOT_READY, UNREACHABLE]),
        ];
        for (tolerations, keys) in cases {
            let mut pod = json!({ "spec": { "tolerations": tolerations } });
            write.admit(&plugin, &Objects::default(), &mut pod).unwrap();
            let found: Vec<&str> = list_at(&pod, "/spec/tolerations").iter().map(|t| str_at(t, "/key")).collect();
            assert_eq!(found, keys);
        }
    }
}
