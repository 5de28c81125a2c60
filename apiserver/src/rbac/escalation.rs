//! Nobody grants what they do not have: the check on every write of a role or a binding.
//!
//! Runs as the last mutating step of admission, which is where upstream's storage has it: after everything that changes the object,
//! before the object is validated.

use std::sync::Arc;

use apimachinery::field::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::index::{Index, MissingRole};
use super::rule::{Rule, missing};
use super::{GROUP, Rbac};
use crate::admission::{Attributes, Lookup, Operation, Plugin};
use crate::filters::authorization::{Authorizer, Decision};
use crate::filters::request_info::RequestInfo;
use crate::registry::read::{list_at, str_at};

/// The check, over the roles of now.
pub struct Escalation {
    pub rbac: Rbac,
    pub authorizer: Arc<dyn Authorizer>,
}

impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: &mut Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if attributes.resource.group() != GROUP
            || attributes.user.in_group("system:masters")
            || old.is_some_and(|old| only_collects(new, old))
        {
            return Ok(());
        }
        let index = self.rbac.index();
        match &*attributes.resource.plural {
            "roles" | "clusterroles" => self.role(&index, attributes, new, old),
            "rolebindings" | "clusterrolebindings" => self.binding(&index, attributes, new),
            _ => Ok(()),
        }
    }
}

impl Escalation {
    fn allows(&self, attributes: &Attributes<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let question = RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            namespace: attributes.namespace.to_owned(),
            ..RequestInfo::default()
        };
        matches!(self.authorizer.authorize(attributes.user, &question), Decision::Allow(_))
    }

    fn role(&self, index: &Index, attributes: &Attributes<'_>, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        // The path of a creation has no name.
        let name = if attributes.operation == Operation::Create { "" } else { attributes.name };
        if self.allows(attributes, "escalate", &attributes.resource.plural, name) {
            return Ok(());
        }
        let rules: Vec<Rule> = list_at(new, "/rules").iter().map(Rule::parse).collect();
        let object_name = str_at(new, "/metadata/name");
        let forbidden = |why: &str| Status::forbidden(GROUP, &attributes.resource.plural, object_name, why);
        held(index, attributes, rules.iter()).map_err(|why| forbidden(&why))?;
        let gathers = |object: &Value| !list_at(object, "/aggregationRule/clusterRoleSelectors").is_empty();
        if gathers(new) || old.is_some_and(gathers) {
            // What is gathered may be anything, so it takes everything.
            let star = || vec![Box::<str>::from("*")];
            let all = [
                Rule { verbs: star(), api_groups: star(), resources: star(), ..Rule::default() },
                Rule { verbs: star(), urls: star(), ..Rule::default() },
            ];
            held(index, attributes, all.iter()).map_err(|_| forbidden("must have cluster-admin privileges to use the aggregationRule"))?;
        }
        Ok(())
    }

    fn binding(&self, index: &Index, attributes: &Attributes<'_>, new: &Value) -> Result<(), Status> {
        let (kind, name) = (str_at(new, "/roleRef/kind"), str_at(new, "/roleRef/name"));
        let resource = match kind {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            _ => "",
        };
        if !resource.is_empty() && self.allows(attributes, "bind", resource, name) {
            return Ok(());
        }
        let rules = index.referenced(kind, name, attributes.namespace).map_err(|missing| refusal(attributes, missing))?;
        held(index, attributes, rules.iter()).map_err(|why| {
            let object_name = str_at(new, "/metadata/name");
            Status::forbidden(GROUP, &attributes.resource.plural, object_name, &why)
        })
    }
}

/// Of a role that cannot be looked up. The resource of the request, not the role's: upstream words this by the path.
fn refusal(attributes: &Attributes<'_>, missing: MissingRole) -> Status {
    match missing {
        MissingRole::Absent { name, .. } if name.is_empty() => Status::bad_request("Name parameter required.".to_owned()),
        MissingRole::Absent { name, .. } => Status::not_found(GROUP, &attributes.resource.plural, &name),
        MissingRole::Kind(_) => Status::unknown(missing.to_string()),
    }
}

/// Whether the user has all these rules; what is missing otherwise.
fn held<'a>(index: &Index, attributes: &Attributes<'_>, wanted: impl Iterator<Item = &'a Rule>) -> Result<(), String> {
    let user = attributes.user;
    let (own, errors) = index.rules(user, attributes.namespace);
    let missing = missing(&own, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = user.groups.iter().map(|g| quote(g)).collect();
    let mut why = format!(
        "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        quote(&user.name),
        groups.join(" "),
        missing.join("\n")
    );
    if !errors.is_empty() {
        let errors: Vec<String> = errors.into_iter().map(|missing| refusal(attributes, missing).message).collect();
        why.push_str(&format!("; resolution errors: [{}]", crate::filters::authorization::aggregate_errors(&errors)));
    }
    Err(why)
}

/// Whether only what garbage collection needs has changed: owners and finalizers.
fn only_collects(new: &Value, old: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                metadata.shift_remove(field);
            }
        }
        object
    };
    without(new) == without(old)
}
