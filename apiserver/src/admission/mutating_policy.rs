//! MutatingAdmissionPolicy: expressions that change what is written, bound to writes and parameters by bindings.

use std::sync::Arc;

use apimachinery::managed_fields;
use apimachinery::patch::json::{self as patch, Patch};
use apimachinery::status::{Cause, Status};
use futures::future::BoxFuture;
use serde_json::Value;

use super::matching::{Invocation, Matcher};
use super::policy::{self, Compiled, GROUP};
use super::rounds::Rounds;
use super::webhook::{converted, in_request_version, is_exempt, is_of_kind, settled, shown_as, taken_back, variables};
use super::{Attributes, Cluster, MutatingPlugin, Operation};
use crate::endpoints::convert;
use crate::expressions::{self, Change, Mutation, Variables};
use crate::registry::read::{at, list_at, str_at};

/// The plugin.
pub struct MutatingPolicies;

/// The expressions of a policy, ready to be evaluated.
struct Rules {
    name: String,
    ignores_failures: bool,
    /// Whether it has another look when others have changed the object after it.
    reinvoked: bool,
    conditions: Vec<Compiled>,
    variables: Vec<(String, Compiled)>,
    mutations: Vec<Result<Arc<Mutation>, String>>,
}

impl Rules {
    fn read(policy: &Value) -> Rules {
        let mutation = |mutation: &Value| {
            let (change, pointer) = match str_at(mutation, "/patchType") {
                "ApplyConfiguration" => (Change::ApplyConfiguration, "/applyConfiguration/expression"),
                _ => (Change::JsonPatch, "/jsonPatch/expression"),
            };
            Mutation::in_force(change, str_at(mutation, pointer).trim())
        };
        Rules {
            name: str_at(policy, "/metadata/name").to_owned(),
            ignores_failures: policy::ignores_failures(policy),
            reinvoked: str_at(policy, "/spec/reinvocationPolicy") == "IfNeeded",
            conditions: policy::conditions(policy),
            variables: policy::variables(policy),
            mutations: list_at(policy, "/spec/mutations").iter().map(mutation).collect(),
        }
    }
}

/// A policy with one of its bindings and one of its parameters.
struct Bound {
    rules: Arc<Rules>,
    binding: String,
    parameter: Option<Arc<Value>>,
    invocation: Arc<Invocation>,
}

impl Bound {
    /// Distinct among all, and the same in both rounds.
    fn id(&self) -> String {
        let parameter = self.parameter.as_ref().map_or(("", ""), |p| (str_at(p, "/metadata/namespace"), str_at(p, "/metadata/name")));
        format!("{}/{}/{}/{}", self.rules.name, self.binding, parameter.0, parameter.1)
    }

    fn told(&self, attributes: &Attributes<'_>, cluster: &dyn Cluster, new: &Value, old: Option<&Value>) -> Variables {
        variables(cluster, attributes, &self.invocation, Some(new), old)
            .with("namespaceObject", policy::namespace_object(attributes, cluster))
            .with("params", self.parameter.clone().unwrap_or_default())
    }

    fn failed(&self, why: &str) -> (Arc<Rules>, String) {
        (self.rules.clone(), format!("policy '{}' with binding '{}' denied request: {why}", self.rules.name, self.binding))
    }
}

/// What went wrong, and with which policy.
type Failures = Vec<(Arc<Rules>, String)>;

impl MutatingPolicies {
    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        cluster: &dyn Cluster,
        new: &mut Value,
        old: Option<&Value>,
        rounds: &mut Rounds,
    ) -> Result<(), Status> {
        let bindings = cluster.list(GROUP, "mutatingadmissionpolicybindings", "");
        if bindings.is_empty() || attributes.operation == Operation::Delete || is_exempt(attributes) {
            return Ok(());
        }
        if rounds.is_second() && rounds.policies.is_changed(new) {
            rounds.policies.require_again();
        }
        let resource = attributes.resource;
        let is_resource = is_of_kind(attributes, new);
        // Policies see the version of the request.
        let mut object = in_request_version(attributes, std::mem::take(new));
        let old = old.map(|old| in_request_version(attributes, old.clone()));
        let mut failures = Failures::new();
        let bound = self.bound(attributes, cluster, &bindings, &object, old.as_ref(), &mut failures).await;
        let outcome = match bound {
            Ok(bound) => self.mutate(attributes, cluster, &bound, &mut object, old.as_ref(), rounds, &mut failures).await,
            Err(refused) => Err(refused),
        };
        let refused = failures.iter().filter(|(rules, _)| !rules.ignores_failures).map(|(_, message)| message.as_str());
        let refusal = refusal(attributes, &object, refused);
        *new = if is_resource { convert::to_storage(resource, object) } else { object };
        rounds.policies.leave(new);
        outcome?;
        refusal.map_or(Ok(()), Err)
    }

    /// What is to be invoked; the write is matched as it came.
    async fn bound(
        &self,
        attributes: &Attributes<'_>,
        cluster: &dyn Cluster,
        bindings: &[Arc<Value>],
        object: &Value,
        old: Option<&Value>,
        failures: &mut Failures,
    ) -> Result<Vec<Bound>, Status> {
        let mut bound = Vec::new();
        for policy in cluster.list(GROUP, "mutatingadmissionpolicies", "") {
            let matcher = Matcher::read(at(&policy, "/spec/matchConstraints"));
            let Some(invocation) = matcher.concerns(attributes, cluster, Some(object), old)? else { continue };
            let (rules, invocation) = (Arc::new(Rules::read(&policy)), Arc::new(invocation));
            for binding in bindings.iter().filter(|binding| str_at(binding, "/spec/policyName") == rules.name) {
                let within = at(binding, "/spec/matchResources");
                if !within.is_null() && !Matcher::read(within).allows(attributes, cluster, Some(object), old)? {
                    continue;
                }
                let one = |parameter| Bound {
                    rules: rules.clone(),
                    binding: str_at(binding, "/metadata/name").to_owned(),
                    parameter,
                    invocation: invocation.clone(),
                };
                match policy::parameters(cluster, &policy, binding, attributes.namespace).await {
                    Ok(parameters) => bound.extend(parameters.into_iter().map(one)),
                    Err(why) => failures.push(one(None).failed(&format!("failed to configure binding: {why}"))),
                }
            }
        }
        Ok(bound)
    }

    #[expect(clippy::too_many_arguments, reason = "the plugin interface's own arguments, and what a round knows")]
    async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        cluster: &dyn Cluster,
        bound: &[Bound],
        object: &mut Value,
        old: Option<&Value>,
        rounds: &mut Rounds,
        failures: &mut Failures,
    ) -> Result<(), Status> {
        for one in bound {
            let id = one.id();
            let mut shown = shown_as(cluster, attributes, &one.invocation, object).await?;
            let shown_old = converted(cluster, attributes, &one.invocation, old).await?;
            match holds(one, || one.told(attributes, cluster, &shown, shown_old.as_ref())).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(why) => {
                    failures.push(one.failed(&why));
                    continue;
                }
            }
            if rounds.is_second() && !rounds.policies.is_to_be_asked_again(&id) {
                continue;
            }
            let before = shown.clone();
            for mutation in &one.rules.mutations {
                let told = one.told(attributes, cluster, &shown, shown_old.as_ref());
                match changed(attributes, one, mutation, told, &shown).await {
                    Ok(Some(changed)) => shown = changed,
                    Ok(None) => {}
                    Err(why) => failures.push(one.failed(&why)),
                }
            }
            if shown != before {
                *object = taken_back(cluster, attributes, &one.invocation, shown).await?;
                rounds.policies.require_again();
                rounds.note_change();
            }
            if one.rules.reinvoked {
                rounds.policies.may_ask_again(&id);
            }
        }
        Ok(())
    }
}

async fn holds(one: &Bound, told: impl FnOnce() -> Variables) -> Result<bool, String> {
    if one.rules.conditions.is_empty() {
        return Ok(true);
    }
    let (rules, told) = (one.rules.clone(), told());
    expressions::bounded(move || expressions::all_hold(&rules.conditions, &told)).await?
}

/// The object after one mutation; `None` if that leaves it as it is.
async fn changed(
    attributes: &Attributes<'_>,
    one: &Bound,
    mutation: &Result<Arc<Mutation>, String>,
    mut told: Variables,
    object: &Value,
) -> Result<Option<Value>, String> {
    let mutation = mutation.clone()?;
    for (name, expression) in &one.rules.variables {
        // One that fails does so where it is used.
        told.compose(name, expression.clone());
    }
    let evaluated = mutation.clone();
    let made = expressions::bounded(move || evaluated.evaluate(&told)).await??;
    let changed = match mutation.change() {
        Change::JsonPatch => {
            let (patch, _) = Patch::decode(&made, false).map_err(|error| format!("JSON Patch: {error}"))?;
            match patch.apply(object) {
                // A failed test means that there is nothing to do.
                Err(patch::Error::TestFailed(_)) => return Ok(None),
                Err(error) => return Err(format!("JSON Patch: {error}")),
                Ok(patched) => patched,
            }
        }
        Change::ApplyConfiguration => {
            let resource = one.invocation.other.as_deref().unwrap_or(attributes.resource);
            let mut config = made;
            if let Some(members) = config.as_object_mut() {
                members.extend(["apiVersion", "kind"].iter().filter_map(|field| Some(((*field).to_owned(), object.get(*field)?.clone()))));
            }
            let laid = managed_fields::overlay(&resource.types, resource.root(), object, &config);
            laid.map_err(|why| format!("error applying patch: {why}"))?
        }
    };
    settled(attributes, &one.invocation, changed).map(Some)
}

/// 403 with the reason `Invalid`, as upstream has it; `None` if nothing stands against the write.
fn refusal<'a>(attributes: &Attributes<'_>, object: &Value, messages: impl Iterator<Item = &'a str>) -> Option<Status> {
    let mut status: Option<Status> = None;
    for message in messages {
        let status = status.get_or_insert_with(|| {
            let refused = attributes.forbidden(Some(object), "");
            Status { message: message.to_owned(), reason: "Invalid", ..refused }
        });
        status.details.get_or_insert_default().causes.push(Cause { message: message.to_owned(), ..Cause::default() });
    }
    status
}

impl MutatingPlugin for MutatingPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        cluster: &'a dyn Cluster,
        new: &'a mut Value,
        old: Option<&'a Value>,
        _warnings: &'a mut Vec<String>,
        rounds: &'a mut Rounds,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(MutatingPolicies::admit(self, attributes, cluster, new, old, rounds))
    }
}
