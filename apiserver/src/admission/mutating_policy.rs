//! MutatingAdmissionPolicy: expressions that change what is written, bound to writes and parameters by bindings.

use std::sync::Arc;

use apimachinery::managed_fields;
use apimachinery::patch::json::{self as patch, Patch};
use apimachinery::status::{Cause, Status};
use futures::future::BoxFuture;
use serde_json::Value;

use super::matching::{Invocation, Subject};
use super::policy::{self, Compiled, InForce, Policy};
use super::rounds::Rounds;
use super::shown::Shown;
use super::static_manifests;
use super::webhook::{in_request_version, is_exempt, is_of_kind, settled, shown_as, taken_back};
use super::{Attributes, Cluster, MutatingPlugin, Operation};
use crate::endpoints::convert;
use crate::expressions::{self, Change, Composed, Mutation, Quick, Variables};
use crate::registry::read::{list_at, str_at};

/// The plugin.
pub struct MutatingPolicies(InForce<Rules>);

impl Default for MutatingPolicies {
    fn default() -> MutatingPolicies {
        MutatingPolicies(InForce::new("mutatingadmissionpolicies", "mutatingadmissionpolicybindings", Rules::read))
    }
}

/// The expressions of a policy, ready to be evaluated.
struct Rules {
    name: String,
    ignores_failures: bool,
    /// Whether it has another look when others have changed the object after it.
    reinvoked: bool,
    conditions: Vec<Compiled>,
    variables: Composed,
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

    fn failed(&self, reason: &'static str, why: &str) -> Failure {
        let message = format!("policy '{}' with binding '{}' denied request: {why}", self.rules.name, self.binding);
        Failure { rules: self.rules.clone(), reason, message }
    }
}

/// What went wrong, and with which policy.
struct Failure {
    rules: Arc<Rules>,
    reason: &'static str,
    message: String,
}

type Failures = Vec<Failure>;

impl MutatingPolicies {
    pub fn new(told: Option<&[u8]>) -> Result<MutatingPolicies, String> {
        static_manifests::check_policies(told, "MutatingAdmissionPolicyConfiguration")?;
        Ok(MutatingPolicies::default())
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        cluster: &dyn Cluster,
        new: &mut Value,
        old: Option<&Value>,
        rounds: &mut Rounds,
    ) -> Result<(), Status> {
        let policies = self.0.get(cluster);
        if policies.is_empty() || attributes.operation == Operation::Delete || is_exempt(attributes) {
            return Ok(());
        }
        if rounds.is_second() && rounds.policies.is_changed(new) {
            rounds.policies.require_again();
        }
        let subject = Subject::new(attributes, cluster);
        let mut failures = Failures::new();
        let bound = bound(&policies, &subject, cluster, new, old, &mut failures).await?;
        if bound.is_empty() && failures.is_empty() {
            return Ok(());
        }
        let resource = attributes.resource;
        let is_resource = is_of_kind(attributes, new);
        // Policies see the version of the request.
        let mut object = Arc::new(in_request_version(attributes, std::mem::take(new)));
        let old = old.map(|old| Arc::new(in_request_version(attributes, old.clone())));
        let outcome = mutate(&subject, cluster, &bound, &mut object, old.as_ref(), rounds, &mut failures).await;
        let refused = failures.iter().filter(|failure| !failure.rules.ignores_failures);
        let refusal = refusal(attributes, &object, refused);
        let object = Arc::unwrap_or_clone(object);
        *new = if is_resource { convert::to_storage(resource, object) } else { object };
        rounds.policies.leave(new);
        outcome?;
        refusal.map_or(Ok(()), Err)
    }
}

/// What is to be invoked; the write is matched as it came.
async fn bound(
    policies: &[Policy<Rules>],
    subject: &Subject<'_>,
    cluster: &dyn Cluster,
    object: &Value,
    old: Option<&Value>,
    failures: &mut Failures,
) -> Result<Vec<Bound>, Status> {
    let mut bound = Vec::new();
    for policy in policies {
        let Some(invocation) = policy.matcher.concerns(subject, Some(object), old)? else { continue };
        let invocation = Arc::new(invocation);
        for binding in &policy.bindings {
            if let Some(within) = &binding.within
                && !within.allows(subject, Some(object), old)?
            {
                continue;
            }
            let one =
                |parameter| Bound { rules: policy.rules.clone(), binding: binding.name.clone(), parameter, invocation: invocation.clone() };
            match policy::parameters(cluster, &policy.object, &binding.object, subject.attributes.namespace).await {
                Ok(parameters) => bound.extend(parameters.into_iter().map(one)),
                Err(why) => failures.push(one(None).failed("Forbidden", &format!("failed to configure binding: {why}"))),
            }
        }
    }
    Ok(bound)
}

/// An object of the request's version as a policy is shown it.
async fn shown_to(one: &Bound, subject: &Subject<'_>, cluster: &dyn Cluster, object: &Arc<Value>) -> Result<Arc<Value>, Status> {
    match one.invocation.other {
        None => Ok(object.clone()),
        Some(_) => shown_as(cluster, subject.attributes, &one.invocation, object).await.map(Arc::new),
    }
}

async fn mutate(
    subject: &Subject<'_>,
    cluster: &dyn Cluster,
    bound: &[Bound],
    object: &mut Arc<Value>,
    old: Option<&Arc<Value>>,
    rounds: &mut Rounds,
    failures: &mut Failures,
) -> Result<(), Status> {
    let attributes = subject.attributes;
    let mut around = Shown::new(subject, cluster, None, None);
    let quick = Quick::default();
    for one in bound {
        let id = one.id();
        let before = shown_to(one, subject, cluster, object).await?;
        let old = match old {
            Some(old) => shown_to(one, subject, cluster, old).await?,
            None => Arc::default(),
        };
        let told = around.around(&one.invocation).with("oldObject", old).with("params", one.parameter.clone().unwrap_or_default());
        match holds(one, &quick, told.clone().with("object", before.clone())).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(why) => {
                failures.push(one.failed("Invalid", &why));
                continue;
            }
        }
        if rounds.is_second() && !rounds.policies.is_to_be_asked_again(&id) {
            continue;
        }
        let mut shown = before.clone();
        for mutation in &one.rules.mutations {
            let told = told.clone().with("object", shown.clone());
            match changed(attributes, one, mutation, &quick, told, &shown).await {
                Ok(Some(changed)) => shown = Arc::new(changed),
                Ok(None) => {}
                Err(why) => failures.push(one.failed("Invalid", &why)),
            }
        }
        if shown != before {
            drop(before);
            *object = Arc::new(taken_back(cluster, attributes, &one.invocation, Arc::unwrap_or_clone(shown)).await?);
            rounds.policies.require_again();
            rounds.note_change();
        }
        if one.rules.reinvoked {
            rounds.policies.may_ask_again(&id);
        }
    }
    Ok(())
}

async fn holds(one: &Bound, quick: &Quick, told: Variables) -> Result<bool, String> {
    let rules = one.rules.clone();
    expressions::evaluated(quick, told, move |told| expressions::all_hold(&rules.conditions, told)).await?
}

/// The object after one mutation; `None` if that leaves it as it is.
async fn changed(
    attributes: &Attributes<'_>,
    one: &Bound,
    mutation: &Result<Arc<Mutation>, String>,
    quick: &Quick,
    told: Variables,
    object: &Value,
) -> Result<Option<Value>, String> {
    let mutation = mutation.clone()?;
    // A variable that fails does so where it is used.
    let told = told.composing(&one.rules.variables);
    let evaluated = mutation.clone();
    let made = expressions::evaluated(quick, told, move |told| evaluated.evaluate(told)).await??;
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

/// 403 with the reason of the first failure, whatever it is, as upstream has it; `None` if nothing stands against the write.
fn refusal<'a>(attributes: &Attributes<'_>, object: &Value, failures: impl Iterator<Item = &'a Failure>) -> Option<Status> {
    let mut status: Option<Status> = None;
    for Failure { message, reason, .. } in failures {
        let status = status.get_or_insert_with(|| {
            let refused = attributes.forbidden(Some(object), "");
            Status { message: message.clone(), reason: (*reason).into(), ..refused }
        });
        status.details.get_or_insert_default().causes.push(Cause { message: message.clone(), ..Cause::default() });
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
