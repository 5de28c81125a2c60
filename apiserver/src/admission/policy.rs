//! What validating and mutating admission policies have alike: expressions, bindings' parameters, what expressions are told.

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::selector::label::Selector;
use serde_json::Value;

use super::Cluster;
use super::derived::Derived;
use super::matching::Matcher;
use crate::endpoints::versions;
use crate::expressions::{Composed, Expression};
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
pub fn variables(policy: &Value) -> Composed {
    let variables = list_at(policy, "/spec/variables").iter();
    Arc::new(variables.map(|variable| (str_at(variable, "/name").to_owned(), compiled(variable, "/expression"))).collect())
}

pub fn ignores_failures(policy: &Value) -> bool {
    str_at(policy, "/spec/failurePolicy") == "Ignore"
}

/// A policy that has bindings.
pub struct Policy<R> {
    pub name: String,
    pub object: Arc<Value>,
    pub matcher: Matcher,
    /// What it says, ready to be evaluated.
    pub rules: Arc<R>,
    pub bindings: Vec<Binding>,
}

pub struct Binding {
    pub name: String,
    pub object: Arc<Value>,
    /// To what it confines the policy, if to anything.
    pub within: Option<Matcher>,
    /// What is to be done about what the policy finds.
    pub actions: Vec<String>,
}

impl Binding {
    fn read(object: Arc<Value>) -> Binding {
        let within = at(&object, "/spec/matchResources");
        Binding {
            name: str_at(&object, "/metadata/name").to_owned(),
            within: (!within.is_null()).then(|| Matcher::read(within)),
            actions: list_at(&object, "/spec/validationActions").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            object,
        }
    }

    pub fn wants(&self, action: &str) -> bool {
        self.actions.iter().any(|wanted| wanted == action)
    }
}

/// The policies of one kind that have bindings, in the order of their names.
pub struct InForce<R> {
    policies: &'static str,
    bindings: &'static str,
    read: fn(&Value) -> R,
    kept: Derived<Vec<Policy<R>>, 2>,
}

impl<R> InForce<R> {
    /// Of the resources with these plurals; `read` makes a policy's expressions ready.
    pub fn new(policies: &'static str, bindings: &'static str, read: fn(&Value) -> R) -> InForce<R> {
        InForce { policies, bindings, read, kept: Derived::default() }
    }

    /// Those of now.
    pub fn get(&self, cluster: &dyn Cluster) -> Arc<Vec<Policy<R>>> {
        self.kept.get(cluster, GROUP, [self.policies, self.bindings], || self.make(cluster))
    }

    fn make(&self, cluster: &dyn Cluster) -> Vec<Policy<R>> {
        let mut bindings: HashMap<String, Vec<Binding>> = HashMap::new();
        for binding in cluster.list(GROUP, self.bindings, "") {
            bindings.entry(str_at(&binding, "/spec/policyName").to_owned()).or_default().push(Binding::read(binding));
        }
        // Most clusters have none, and then there is nothing to be looked at.
        if bindings.is_empty() {
            return Vec::new();
        }
        let bound = |object: Arc<Value>| {
            let name = str_at(&object, "/metadata/name");
            let bindings = bindings.remove(name)?;
            let matcher = Matcher::read(at(&object, "/spec/matchConstraints"));
            Some(Policy { name: name.to_owned(), rules: Arc::new((self.read)(&object)), matcher, bindings, object })
        };
        cluster.list(GROUP, self.policies, "").into_iter().filter_map(bound).collect()
    }
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
