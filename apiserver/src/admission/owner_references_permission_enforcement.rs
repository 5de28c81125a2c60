//! OwnerReferencesPermissionEnforcement: who cannot delete an object cannot make its deletion depend on another, and
//! who cannot finalize an owner cannot hold up its deletion.

use apimachinery::status::Status;
use serde_json::Value;

use super::{Attributes, Lookup, Operation, Plugin};
use crate::filters::authorization::Decision;
use crate::filters::request_info::RequestInfo;
use crate::registry::read::{bool_at, list_at, str_at};

/// The plugin.
pub struct OwnerReferencesPermissionEnforcement;

const OWNERS: &str = "/metadata/ownerReferences";

/// Why not, unless the user may; an authorizer's reason and no error, as upstream prints them.
fn refused(attributes: &Attributes<'_>, lookup: &dyn Lookup, request: &RequestInfo) -> Option<String> {
    match lookup.authorize(attributes.user, request) {
        Decision::Allow(_) => None,
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Some(format!("{reason}, <nil>")),
        Decision::Failed { error, reason, .. } => Some(format!("{reason}, {error}")),
    }
}

/// The references that hold up the deletion of their owner and did not before.
fn newly_blocking<'a>(new: &'a Value, old: Option<&Value>) -> Vec<&'a Value> {
    let blocks = |owner: &Value| bool_at(owner, "/blockOwnerDeletion");
    let blocked_before = |owner: &Value| {
        let before = old.map_or(&[][..], |old| list_at(old, OWNERS));
        before.iter().any(|b| str_at(b, "/uid") == str_at(owner, "/uid") && blocks(b))
    };
    list_at(new, OWNERS).iter().filter(|owner| blocks(owner) && !blocked_before(owner)).collect()
}

fn finalize(group: &str, version: &str, resource: &str, name: &str, namespace: &str) -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: "update".to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        subresource: "finalizers".to_owned(),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        ..RequestInfo::default()
    }
}

/// Whether the user may finalize the owner that a reference names.
fn check_owner(attributes: &Attributes<'_>, lookup: &dyn Lookup, new: &Value, owner: &Value) -> Result<(), Status> {
    let (api_version, kind) = (str_at(owner, "/apiVersion"), str_at(owner, "/kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resources = lookup.resources_of_kind(group, version, kind);
    if resources.is_empty() {
        let why = format!(
            "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} Kind {kind}: no matches for kind \"{kind}\" in version \"{api_version}\""
        );
        return Err(attributes.forbidden(Some(new), &why));
    }
    for (resource, namespaced) in resources {
        let namespace = if namespaced { attributes.namespace } else { "" };
        let request = finalize(group, version, &resource, str_at(owner, "/name"), namespace);
        if let Some(reason) = refused(attributes, lookup, &request) {
            let why =
                format!("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {reason}");
            return Err(attributes.forbidden(Some(new), &why));
        }
    }
    Ok(())
}

impl Plugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(object) = new.filter(|_| attributes.operation.writes()) else { return Ok(()) };
        // The status of a pod cannot change its owners.
        if attributes.is("", "pods") && attributes.subresource == "status" {
            return Ok(());
        }
        if list_at(object, OWNERS) == old.map_or(&[][..], |old| list_at(old, OWNERS)) {
            return Ok(());
        }
        if attributes.operation != Operation::Create {
            let request = RequestInfo {
                is_resource: true,
                verb: "delete".to_owned(),
                group: attributes.group().to_owned(),
                version: attributes.resource.gvk.version.to_string(),
                resource: attributes.plural().to_owned(),
                subresource: attributes.subresource.to_owned(),
                name: attributes.name.to_owned(),
                namespace: attributes.namespace.to_owned(),
                ..RequestInfo::default()
            };
            if let Some(reason) = refused(attributes, lookup, &request) {
                return Err(attributes.forbidden(new, &format!("cannot set an ownerRef on a resource you can't delete: {reason}")));
            }
        }
        let blocking = newly_blocking(object, old);
        if blocking.is_empty() || refused(attributes, lookup, &finalize("*", "*", "*", "*", "")).is_none() {
            return Ok(());
        }
        blocking.into_iter().try_for_each(|owner| check_owner(attributes, lookup, object, owner))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn owners_are_set_by_those_who_may_delete_and_finalize() {
        let owned = |blocks: bool| {
            let owner = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "blockOwnerDeletion": blocks });
            json!({ "metadata": { "ownerReferences": [owner] } })
        };
        let free = json!({ "metadata": {} });
        let check = |operation, allowed: Vec<&'static str>, new: &Value, old: Option<&Value>| {
            let objects = Objects { allowed, ..Objects::default() };
            Write::new(operation, "", "v1", "pods").validate(&OwnerReferencesPermissionEnforcement, &objects, Some(new), old).map(|_| ())
        };
        use Operation::{Create, Update};
        assert_eq!(check(Create, vec![], &owned(false), None), Ok(()));
        assert_eq!(check(Update, vec![], &free, Some(&free)), Ok(()));
        assert_eq!(
            check(Update, vec![], &owned(false), Some(&free)).unwrap_err(),
            "pods \"x\" is forbidden: cannot set an ownerRef on a resource you can't delete: , <nil>"
        );
        assert_eq!(check(Update, vec!["delete /pods x"], &owned(false), Some(&free)), Ok(()));
        assert_eq!(
            check(Create, vec![], &owned(true), None).unwrap_err(),
            "pods \"x\" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>"
        );
        assert_eq!(check(Create, vec!["update apps/replicasets/finalizers r"], &owned(true), None), Ok(()));
        assert_eq!(check(Create, vec!["update */*/finalizers *"], &owned(true), None), Ok(()));
    }
}
