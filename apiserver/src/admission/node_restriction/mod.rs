//! NodeRestriction: a kubelet writes what concerns its own node, and nothing else.
//!
//! Authorization has let the kubelet in already; what needs a look at the object itself is refused here.

mod certificates;
mod nodes;
mod pods;
mod tokens;

use std::sync::Arc;

use apimachinery::field::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::signers::GROUP as CERTIFICATES;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::filters::authentication::User;
use crate::registry::read::{at, str_at};

const USER_PREFIX: &str = "system:node:";
const NODES_GROUP: &str = "system:nodes";
/// Where the leases are by which nodes show that they live.
const LEASES: &str = "kube-node-lease";

/// The plugin.
pub struct NodeRestriction;

/// The name of the node whose kubelet this is; `None` for everybody else.
pub fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix(USER_PREFIX).filter(|_| user.in_group(NODES_GROUP))
}

/// A write by a node's kubelet.
struct Write<'a> {
    attributes: &'a Attributes<'a>,
    lookup: &'a dyn Lookup,
    node: &'a str,
    new: Option<&'a Value>,
    old: Option<&'a Value>,
}

impl<'a> Write<'a> {
    fn refuse<T>(&self, why: impl AsRef<str>) -> Result<T, Status> {
        Err(self.attributes.forbidden(self.new, why.as_ref()))
    }

    fn unexpected_operation(&self) -> Result<(), Status> {
        self.refuse(format!("unexpected operation {}", quote(self.attributes.operation.as_str())))
    }

    fn after(&self) -> &'a Value {
        self.new.unwrap_or(&Value::Null)
    }

    fn before(&self) -> &'a Value {
        self.old.unwrap_or(&Value::Null)
    }

    /// Another object, or 404.
    fn find(&self, plural: &str, namespace: &str, name: &str) -> Result<Arc<Value>, Status> {
        self.lookup.get("", plural, namespace, name).ok_or_else(|| Status::not_found("", plural.trim_end_matches('s'), name))
    }

    fn check(&self) -> Result<(), Status> {
        if self.node.is_empty() {
            return self.refuse(format!("could not determine node from user {}", quote(&self.attributes.user.name)));
        }
        match (self.attributes.group(), self.attributes.plural()) {
            ("", "pods") => pods::check(self),
            ("", "nodes") => nodes::check(self),
            ("", "persistentvolumeclaims") => self.check_claim(),
            ("", "serviceaccounts") => tokens::check(self),
            (CERTIFICATES, "podcertificaterequests") => certificates::check_pod_request(self),
            (CERTIFICATES, "certificatesigningrequests") => certificates::check_request(self),
            ("coordination.k8s.io", "leases") => self.check_lease(),
            ("storage.k8s.io", "csinodes") => self.check_csi_node(),
            ("resource.k8s.io", "resourceslices") => self.check_resource_slice(),
            _ => Ok(()),
        }
    }

    /// A kubelet that grows a volume says so in the claim's status.
    fn check_claim(&self) -> Result<(), Status> {
        if self.attributes.subresource != "status" {
            return self.refuse("may only update PVC status");
        }
        if self.attributes.operation != Operation::Update {
            return self.unexpected_operation();
        }
        let rest = |claim: &Value| {
            let mut claim = claim.clone();
            let mut drop = |pointer: &str, fields: &[&str]| {
                if let Some(map) = claim.pointer_mut(pointer).and_then(Value::as_object_mut) {
                    fields.iter().for_each(|field| {
                        map.shift_remove(*field);
                    });
                }
            };
            drop("/metadata", &["resourceVersion", "managedFields"]);
            drop("/status", &["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"]);
            claim
        };
        let (old, new) = (rest(self.before()), rest(self.after()));
        if old == new {
            return Ok(());
        }
        let diff = crate::registry::diff::of_values(&old, &new);
        let node = quote(self.node);
        self.refuse(format!("node {node} is not allowed to update fields other than status.quantity and status.conditions: {diff}"))
    }

    /// The name of the object: a creation may leave it out of the request.
    fn object_name(&self) -> &str {
        if self.attributes.operation == Operation::Create { str_at(self.after(), "/metadata/name") } else { self.attributes.name }
    }

    fn check_lease(&self) -> Result<(), Status> {
        if self.attributes.namespace != LEASES {
            return self.refuse(format!("can only access leases in the {} system namespace", quote(LEASES)));
        }
        if self.object_name() != self.node {
            return self.refuse("can only access node lease with the same name as the requesting node");
        }
        Ok(())
    }

    fn check_csi_node(&self) -> Result<(), Status> {
        if self.object_name() != self.node {
            return self.refuse("can only access CSINode with the same name as the requesting node");
        }
        if self.attributes.subresource == "status" {
            return self.refuse("CSIVolumeHealth feature gate is disabled");
        }
        Ok(())
    }

    fn check_resource_slice(&self) -> Result<(), Status> {
        let (slice, verb) = match self.attributes.operation {
            Operation::Create => (self.after(), "create"),
            Operation::Delete => (self.before(), "delete"),
            Operation::Update | Operation::Connect => return Ok(()),
        };
        if at(slice, "/spec/nodeName").as_str() != Some(self.node) {
            return self.refuse(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"));
        }
        Ok(())
    }
}

fn check(attributes: &Attributes<'_>, lookup: &dyn Lookup, new: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
    match node_of(attributes.user) {
        Some(node) if attributes.operation != Operation::Connect => Write { attributes, lookup, node, new, old }.check(),
        _ => Ok(()),
    }
}

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: &mut Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        check(attributes, lookup, Some(new), old)
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        // Deletions are not mutated, so they are checked here.
        if new.is_none() { check(attributes, lookup, None, old) } else { Ok(()) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::super::testing::{self, Objects};
    use super::*;

    /// A write by the kubelet of node `n`.
    pub fn by_node(operation: Operation, group: &str, version: &str, plural: &str) -> testing::Write {
        testing::Write::new(operation, group, version, plural).by("system:node:n", &[NODES_GROUP])
    }

    fn claim(size: &str, volume: &str) -> Value {
        json!({ "metadata": { "name": "x" }, "spec": { "volumeName": volume }, "status": { "capacity": { "storage": size } } })
    }

    #[test]
    fn others_are_not_restricted() {
        let write = testing::Write::new(Operation::Create, "", "v1", "pods").by("system:node:n", &["dev"]);
        assert!(write.admit(&NodeRestriction, &Objects::default(), &mut json!({})).is_ok());
        let nobody = testing::Write::new(Operation::Create, "", "v1", "pods").by(USER_PREFIX, &[NODES_GROUP]);
        assert_eq!(
            nobody.admit(&NodeRestriction, &Objects::default(), &mut json!({})).unwrap_err(),
            "pods \"x\" is forbidden: could not determine node from user \"system:node:\""
        );
    }

    #[test]
    fn a_claim_only_grows() {
        let update = |new: Value| {
            let write = by_node(Operation::Update, "", "v1", "persistentvolumeclaims").to("status");
            let (attributes, mut new) = (write.attributes(), new);
            NodeRestriction.admit(&attributes, &Objects::default(), &mut new, Some(&claim("1Gi", "v")), &mut Vec::new())
        };
        assert!(update(claim("2Gi", "v")).is_ok());
        let refused = update(claim("2Gi", "w")).unwrap_err().message;
        assert!(refused.contains("node \"n\" is not allowed to update fields other than status.quantity and status.conditions: "));
    }

    #[test]
    fn objects_of_nodes_bear_the_nodes_name() {
        let admit = |write: testing::Write, name: &str| {
            write.admit(&NodeRestriction, &Objects::default(), &mut json!({ "metadata": { "name": name } }))
        };
        let csi = || by_node(Operation::Create, "storage.k8s.io", "v1", "csinodes");
        assert!(admit(csi(), "n").is_ok());
        assert!(admit(csi(), "m").unwrap_err().ends_with("can only access CSINode with the same name as the requesting node"));
        let lease = by_node(Operation::Create, "coordination.k8s.io", "v1", "leases");
        assert!(admit(lease, "n").unwrap_err().ends_with("can only access leases in the \"kube-node-lease\" system namespace"));
    }
}
