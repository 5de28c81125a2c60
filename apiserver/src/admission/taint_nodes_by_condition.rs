//! TaintNodesByCondition: a new node takes no pods before it is known to be ready.

use apimachinery::status::Status;
use serde_json::{Value, json};

use super::pod_references::append;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::{list_at, str_at};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plugin.
pub struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if attributes.operation != Operation::Create || !attributes.is_main("", "nodes") {
            return Ok(());
        }
        let has = |taint: &Value| str_at(taint, "/key") == NOT_READY && str_at(taint, "/effect") == "NoSchedule";
        if !list_at(new, "/spec/taints").iter().any(has) {
            append(new, &["spec", "taints"], vec![json!({ "key": NOT_READY, "effect": "NoSchedule" })]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn a_new_node_is_tainted_once() {
        let write = Write::new(Operation::Create, "", "v1", "nodes");
        let mut node = json!({ "spec": { "taints": [{ "key": NOT_READY, "effect": "NoExecute" }] } });
        for _ in 0..2 {
            write.admit(&TaintNodesByCondition, &Objects::default(), &mut node).unwrap();
            assert_eq!(list_at(&node, "/spec/taints").len(), 2);
        }
    }
}
