//! NamespaceExists: nothing is done in a namespace that is not there. NamespaceLifecycle says so too, but not of deletions.

use apimachinery::status::Status;
use serde_json::Value;

use super::{Attributes, Lookup, Operation, Plugin};

/// The plugin.
pub struct NamespaceExists;

impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        _new: Option<&Value>,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let namespace = attributes.namespace;
        if namespace.is_empty() || attributes.is("", "namespaces") || attributes.operation == Operation::Connect {
            return Ok(());
        }
        match lookup.get("", "namespaces", "", namespace) {
            Some(_) => Ok(()),
            None => Err(Status::not_found("", "namespaces", namespace)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn a_namespace_must_be_there_for_deletions_too() {
        let there = Objects::of(vec![("", "namespaces", json!({"metadata": {"name": "ns"}}))]);
        let absent = Err("namespaces \"ns\" not found".to_owned());
        for operation in [Operation::Create, Operation::Update, Operation::Delete] {
            let write = Write::new(operation, "", "v1", "configmaps");
            assert_eq!(write.validate(&NamespaceExists, &there, None, None), Ok(Vec::new()));
            assert_eq!(write.validate(&NamespaceExists, &Objects::default(), None, None), absent);
        }
    }
}
