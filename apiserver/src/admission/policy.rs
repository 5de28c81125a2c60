//! What validating and mutating admission policies have alike: expressions, bindings' parameters, what expressions are told.

use std::sync::Arc;

use apimachinery::selector::label::Selector;
use serde_json::Value;

use super::{Attributes, Cluster};
use crate::endpoints::versions;
use crate::expressions::Expression;
use crate::registry::read::{at, list_at, str_at};

pub const GROUP: &str = "admissionregistration.k8s.io";

/// A compiled expression, or why it is none.
pub type Compiled = Result<Arc<Expression>, String>;

/// The expression at a place of a policy.
pub fn compiled(value: &Value, pointer: &str) -> Compiled {
    Expression::in_force(str_at(value, pointer).trim())
}

/// The match conditions of a policy.
pub fn conditions(policy: &Value) -> Vec<Compiled> {
    list_at(policy, "/spec/matchConditions").iter().map(|condition| compiled(condition, "/expression")).collect()
}

/// The variables that a policy composes, in the order in which they may use each other.
pub fn variables(policy: &Value) -> Vec<(String, Compiled)> {
    let variables = list_at(policy, "/spec/variables").iter();
    variables.map(|variable| (str_at(variable, "/name").to_owned(), compiled(variable, "/expression"))).collect()
}

pub fn ignores_failures(policy: &Value) -> bool {
    str_at(policy, "/spec/failurePolicy") == "Ignore"
}

/// The parameters of a binding, one `None` if its policy has none; an error if that is not as it should be.
pub async fn parameters(
    cluster: &dyn Cluster,
    policy: &Value,
    binding: &Value,
    namespace: &str,
) -> Result<Vec<Option<Arc<Value>>>, String> {
    let kind = at(policy, "/spec/paramKind");
    let reference = at(binding, "/spec/paramRef");
    if kind.is_null() || reference.is_null() {
        return Ok(vec![None]);
    }
    let (api_version, kind) = (str_at(kind, "/apiVersion"), str_at(kind, "/kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let served = cluster.resources_of_kind(group, version, kind);
    let Some((plural, namespaced)) = served.into_iter().next() else {
        return Err(format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"));
    };
    let within = match (namespaced, str_at(reference, "/namespace")) {
        (false, "") => "",
        (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()),
        (true, "") if namespace.is_empty() => {
            return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned());
        }
        (true, "") => namespace,
        (true, named) => named,
    };
    let name = str_at(reference, "/name");
    let found: Vec<Arc<Value>> = if name.is_empty() {
        let selector = Selector::from_value(Some(at(reference, "/selector"))).map_err(|error| error.to_string())?;
        let labels = |object: &Value| object.pointer("/metadata/labels").and_then(Value::as_object).cloned();
        cluster.list(group, &plural, within).into_iter().filter(|object| selector.matches(&labels(object))).collect()
    } else {
        cluster.get(group, &plural, within, name).into_iter().collect()
    };
    let resource = cluster.resource(group, version, &plural);
    let mut shown = Vec::with_capacity(found.len());
    for parameter in found {
        shown.push(match &resource {
            Some(resource) => versions::stored_as(cluster, resource, Value::clone(&parameter)).await?.into(),
            None => parameter,
        });
    }
    match str_at(reference, "/parameterNotFoundAction") {
        "Deny" if shown.is_empty() => Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned()),
        _ => Ok(shown.into_iter().map(Some).collect()),
    }
}

/// The namespace of what is written; null for what has none.
pub fn namespace_object(attributes: &Attributes<'_>, cluster: &dyn Cluster) -> Arc<Value> {
    let named = !attributes.namespace.is_empty() && !attributes.is("", "namespaces");
    named.then(|| cluster.get("", "namespaces", "", attributes.namespace)).flatten().unwrap_or_default()
}
