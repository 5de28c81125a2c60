//! NamespaceAutoProvision: whoever creates something in a namespace that is not there gets the namespace too.

use apimachinery::status::Status;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Attributes, Cluster, Operation, WaitingPlugin};

/// The plugin.
pub struct NamespaceAutoProvision;

impl WaitingPlugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        cluster: &'a dyn Cluster,
        new: &'a mut Value,
        _old: Option<&'a Value>,
        _warnings: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let namespace = attributes.namespace;
            let concerns = attributes.operation == Operation::Create && !namespace.is_empty() && !attributes.is("", "namespaces");
            if attributes.dry_run || !concerns || cluster.get("", "namespaces", "", namespace).is_some() {
                return Ok(());
            }
            match cluster.create_namespace(namespace).await {
                Err(status) if status.reason == "Forbidden" => Err(status),
                Err(status) => Err(attributes.forbidden(Some(new), &status.message)),
                Ok(()) => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    async fn made(write: Write, objects: &Objects) -> Vec<String> {
        let (mut new, mut warnings) = (json!({}), Vec::new());
        NamespaceAutoProvision.admit(&write.attributes(), objects, &mut new, None, &mut warnings).await.unwrap();
        objects.made.lock().clone()
    }

    #[tokio::test]
    async fn only_creations_in_a_namespace_that_is_not_there_make_it() {
        let of = |operation, plural| Write::new(operation, "", "v1", plural);
        let nowhere = Objects::default;
        assert_eq!(made(of(Operation::Create, "configmaps"), &nowhere()).await, ["ns"]);
        assert_eq!(made(of(Operation::Create, "pods").to("eviction"), &nowhere()).await, ["ns"]);
        let nothing: [&str; 0] = [];
        assert_eq!(made(of(Operation::Update, "configmaps"), &nowhere()).await, nothing);
        assert_eq!(made(of(Operation::Create, "nodes"), &nowhere()).await, nothing);
        assert_eq!(made(of(Operation::Create, "namespaces"), &nowhere()).await, nothing);
        assert_eq!(made(of(Operation::Create, "configmaps").as_dry_run(), &nowhere()).await, nothing);
        let there = Objects::of(vec![("", "namespaces", json!({"metadata": {"name": "ns"}}))]);
        assert_eq!(made(of(Operation::Create, "configmaps"), &there).await, nothing);
    }

    #[tokio::test]
    async fn a_namespace_that_cannot_be_made_forbids_the_creation() {
        let objects = Objects { refuses: Some(Status::internal_error("no room")), ..Objects::default() };
        let write = Write::new(Operation::Create, "", "v1", "configmaps");
        let (mut new, mut warnings) = (json!({}), Vec::new());
        let refused = NamespaceAutoProvision.admit(&write.attributes(), &objects, &mut new, None, &mut warnings).await.unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (403, "configmaps \"x\" is forbidden: Internal error occurred: no room"));
    }
}
