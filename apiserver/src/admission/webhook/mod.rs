//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: what others say about a write, asked over HTTPS.
//!
//! [`configuration`] says what they are shown, [`hook`] which webhooks are concerned, [`review`] what they are asked and what their answers
//! mean; this file asks. Their own configurations and those of policies are never shown to webhooks, so that a broken one can be removed.

mod configuration;
mod hook;
mod review;

use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::json;
use apimachinery::patch::json::Patch;
use apimachinery::status::Status;
use apimachinery::validation::is_qualified_name;
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use serde_json::Value;

use super::derived::Derived;
use super::matching::{Invocation, Subject};
use super::policy::GROUP;
use super::rounds::Rounds;
use super::shown::permissions;
use super::{Attributes, Cluster, MutatingPlugin, Operation, WaitingPlugin};
use crate::audit::event::Level;
use crate::audit::{self, Layer};
use crate::endpoints::{convert, versions, write};
use crate::expressions::{self, Quick, Variables};
use crate::metrics::admission::{Said, webhook_asked};
use crate::metrics::tally;
use crate::registry::read::{list_at, str_at};
use crate::webhook_client::credentials::Credentials;
pub use hook::is_exempt;
use hook::{Hook, SideEffects};
use review::Answer;

/// Why a webhook's say could not be had, or what it was.
enum Failure {
    /// Failed to ask: what becomes of it is the webhook's failure policy. The code is what it is counted under.
    Calling(String, u16),
    /// It said no.
    Refused(Box<Status>),
    /// It must not be asked this.
    Unaskable(Box<Status>),
}

/// What is asked about, in the version that a webhook wants.
struct Versioned<'a> {
    attributes: &'a Attributes<'a>,
    new: Option<&'a Value>,
    old: Option<&'a Value>,
}

/// Whether the webhook's match conditions hold. Where that cannot be told, its failure policy says whether the write fails.
async fn is_asked(cluster: &dyn Cluster, hook: &Hook, invocation: &Invocation, about: &Versioned<'_>) -> Result<bool, Status> {
    if hook.match_conditions.is_empty() {
        return Ok(true);
    }
    let object = |object: Option<&Value>| object.cloned().unwrap_or(Value::Null);
    let variables = Variables::default()
        .with("object", object(about.new))
        .with("oldObject", object(about.old))
        .with("request", request_told(about.attributes, invocation))
        .permit(permissions(about.attributes, cluster));
    let conditions = hook.match_conditions.clone();
    let held = expressions::evaluated(&Quick::default(), variables, move |variables| expressions::all_hold(&conditions, variables)).await;
    match held.and_then(|held| held) {
        Ok(held) => Ok(held),
        Err(_) if hook.ignores_failures => Ok(false),
        Err(why) => Err(about.attributes.forbidden(about.new.or(about.old), &why)),
    }
}

/// `request` as expressions are told of it: the question, without objects.
pub fn request_told(attributes: &Attributes<'_>, invocation: &Invocation) -> Value {
    let mut review = review::request("", "v1", attributes, invocation, None, None);
    let mut request = review.get_mut("request").map(Value::take).unwrap_or_default();
    if let Some(members) = request.as_object_mut() {
        for hidden in ["uid", "object", "oldObject"] {
            members.shift_remove(hidden);
        }
    }
    request
}

/// Asks one webhook, and counts that.
async fn ask(
    cluster: &dyn Cluster,
    hook: &Hook,
    invocation: &Invocation,
    about: &Versioned<'_>,
    warnings: &mut Vec<String>,
) -> Result<Answer, Failure> {
    let since = Instant::now();
    let answer = call(cluster, hook, invocation, about, warnings).await;
    let said = match &answer {
        Ok(_) => Said::Yes,
        Err(Failure::Refused(status)) => Said::No(status.code),
        Err(Failure::Unaskable(_)) => Said::Unaskable,
        Err(Failure::Calling(_, code)) if hook.ignores_failures => Said::Open(*code),
        Err(Failure::Calling(_, code)) => Said::Unreachable(*code),
    };
    webhook_asked(&hook.name, hook.mutating, about.attributes.operation, said, since.elapsed());
    if hook.mutating {
        // One after the other; the others are asked at the same time.
        tally::webhooks_took(since.elapsed());
    }
    answer
}

async fn call(
    cluster: &dyn Cluster,
    hook: &Hook,
    invocation: &Invocation,
    about: &Versioned<'_>,
    warnings: &mut Vec<String>,
) -> Result<Answer, Failure> {
    let failed = |code: u16, why: String| Failure::Calling(format!("failed calling webhook {:?}: {why}", hook.name), code);
    if about.attributes.dry_run && hook.side_effects == SideEffects::Some {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::Unaskable(Box::new(Status::bad_request(why))));
    }
    let version = hook.review_version().map_err(|why| failed(400, format!("could not create admission objects: {why}")))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let body = review::request(&uid, version, about.attributes, invocation, about.new, about.old).to_string();
    let client = hook.client.as_ref().map_err(|why| failed(500, format!("could not get REST client: {why}")))?;
    let said = client.post(cluster, Bytes::from(body), Duration::from_secs(hook.timeout_seconds)).await;
    let said = said.map_err(|why| failed(503, format!("failed to call webhook: {why}")))?;
    let answer = review::read(&said, &uid, version, hook.mutating)
        .map_err(|why| failed(503, format!("received invalid webhook response: {why}")))?;
    warnings.extend(answer.warnings.iter().cloned());
    for (key, value) in &answer.annotations {
        let key = format!("{}/{key}", hook.name);
        if is_qualified_name(&key).is_empty() {
            audit::annotate(&key, || value.clone());
        } else {
            tracing::warn!(webhook = hook.name, key, "an audit annotation has no name");
        }
    }
    match &answer.denial {
        Some(result) => Err(Failure::Refused(Box::new(review::denial(&hook.name, result)))),
        None => Ok(answer),
    }
}

/// Which webhook of a round one is, which names what the audit log is told of it.
#[derive(Clone, Copy)]
struct Place {
    round: u8,
    index: usize,
}

impl Place {
    fn key(self, what: &str) -> String {
        format!("{what}.webhook.admission.k8s.io/round_{}_index_{}", self.round, self.index)
    }
}

/// What a webhook's failure means for the write.
fn judge(hook: &Hook, failure: Failure, place: Place) -> Result<(), Status> {
    match failure {
        Failure::Refused(status) | Failure::Unaskable(status) => Err(*status),
        Failure::Calling(why, _) if hook.ignores_failures => {
            audit::annotate(&place.key(if hook.mutating { "failed-open.mutation" } else { "failed-open.validating" }), || {
                hook.name.clone()
            });
            tracing::warn!(webhook = hook.name, "failing open: {why}");
            Ok(())
        }
        Failure::Calling(why, _) => Err(Status::internal_error(&why)),
    }
}

/// An object as it is in memory, in the version of the request.
pub fn in_request_version(attributes: &Attributes<'_>, object: Value) -> Value {
    if is_of_kind(attributes, &object) { convert::from_storage(attributes.resource, object) } else { object }
}

/// An object of the request's version in the one that is asked for.
pub async fn shown_as(
    cluster: &dyn Cluster,
    attributes: &Attributes<'_>,
    invocation: &Invocation,
    object: &Value,
) -> Result<Value, Status> {
    match &invocation.other {
        Some(other) => versions::between(cluster, attributes.resource, other, object).await,
        None => Ok(object.clone()),
    }
}

/// [`shown_as`] of an object that may not be there.
pub async fn converted(
    cluster: &dyn Cluster,
    attributes: &Attributes<'_>,
    invocation: &Invocation,
    object: Option<&Value>,
) -> Result<Option<Value>, Status> {
    match object {
        Some(object) => shown_as(cluster, attributes, invocation, object).await.map(Some),
        None => Ok(None),
    }
}

/// What became of an object that was shown, in the version of the request.
pub async fn taken_back(
    cluster: &dyn Cluster,
    attributes: &Attributes<'_>,
    invocation: &Invocation,
    changed: Value,
) -> Result<Value, Status> {
    match &invocation.other {
        Some(other) => versions::between(cluster, other, attributes.resource, &changed).await,
        None => Ok(changed),
    }
}

/// The webhooks of a kind of configuration, in the order in which they are asked.
#[derive(Default)]
struct InForce {
    hooks: Derived<Vec<Hook>, 1>,
    credentials: Credentials,
}

impl InForce {
    fn new(told: Option<&[u8]>) -> Result<InForce, String> {
        Ok(InForce { credentials: configuration::read(told)?, ..InForce::default() })
    }

    fn get(&self, cluster: &dyn Cluster, plural: &'static str) -> Arc<Vec<Hook>> {
        self.hooks.get(cluster, GROUP, [plural], || {
            let configurations = cluster.list(GROUP, plural, "");
            configurations.iter().flat_map(|configuration| hook::read(configuration, plural == MUTATING, &self.credentials)).collect()
        })
    }
}

const MUTATING: &str = "mutatingwebhookconfigurations";
const VALIDATING: &str = "validatingwebhookconfigurations";

/// The webhooks that may change what is written.
pub struct MutatingWebhooks(InForce);

impl MutatingWebhooks {
    pub fn new(told: Option<&[u8]>) -> Result<MutatingWebhooks, String> {
        InForce::new(told).map(MutatingWebhooks)
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        cluster: &dyn Cluster,
        new: &mut Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
        rounds: &mut Rounds,
    ) -> Result<(), Status> {
        let hooks = self.0.get(cluster, MUTATING);
        if hooks.is_empty() || is_exempt(attributes) {
            return Ok(());
        }
        if rounds.is_second() && rounds.webhooks.is_changed(new) {
            rounds.webhooks.require_again();
        }
        let resource = attributes.resource;
        let is_resource = is_of_kind(attributes, new);
        // Webhooks see the version of the request.
        let mut object = in_request_version(attributes, std::mem::take(new));
        let old = old.map(|old| in_request_version(attributes, old.clone()));
        let result = self.ask_all(attributes, cluster, &hooks, &mut object, old.as_ref(), warnings, rounds).await;
        *new = if is_resource { convert::to_storage(resource, object) } else { object };
        rounds.webhooks.leave(new);
        result
    }

    #[expect(clippy::too_many_arguments, reason = "the plugin interface's own arguments, and what a round knows")]
    async fn ask_all(
        &self,
        attributes: &Attributes<'_>,
        cluster: &dyn Cluster,
        hooks: &[Hook],
        object: &mut Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
        rounds: &mut Rounds,
    ) -> Result<(), Status> {
        let subject = Subject::new(attributes, cluster);
        for (index, hook) in hooks.iter().enumerate() {
            let Some(invocation) = hook.matcher.concerns(&subject, Some(object), old)? else { continue };
            let place = Place { round: u8::from(rounds.is_second()), index };
            if rounds.is_second() && !rounds.webhooks.is_to_be_asked_again(&hook.id) {
                continue;
            }
            let shown = shown_as(cluster, attributes, &invocation, object).await?;
            let shown_old = converted(cluster, attributes, &invocation, old).await?;
            let about = Versioned { attributes, new: Some(&shown), old: shown_old.as_ref() };
            if !is_asked(cluster, hook, &invocation, &about).await? {
                continue;
            }
            let since = Instant::now();
            let answer = ask(cluster, hook, &invocation, &about, warnings).await;
            audit::spent(Layer::MutatingWebhook, since);
            let outcome = match answer {
                Ok(answer) => {
                    let outcome = apply(attributes, &invocation, &shown, &answer, &hook.name);
                    if matches!(outcome, Ok(Some(_))) {
                        annotate_patch(hook, place, answer.patch.as_deref().unwrap_or_default());
                    }
                    outcome
                }
                Err(failure) => judge(hook, failure, place).map(|()| None),
            };
            let mutated = matches!(&outcome, Ok(Some(patched)) if *patched != shown || has_fresh_owner(attributes, &shown));
            audit::annotate(&place.key("mutation"), || told_of(hook, "mutated", mutated.into()));
            if let Some(patched) = outcome?
                && mutated
            {
                *object = taken_back(cluster, attributes, &invocation, patched).await?;
                rounds.webhooks.require_again();
                rounds.note_change();
            }
            if hook.reinvoked {
                rounds.webhooks.may_ask_again(&hook.id);
            }
        }
        Ok(())
    }
}

/// Whether somebody has come to own fields by this very write. Upstream knows the time of that more exactly than JSON tells it, so to
/// upstream an object that went through JSON has changed.
fn has_fresh_owner(attributes: &Attributes<'_>, object: &Value) -> bool {
    let now = write::to_seconds(attributes.now).to_string();
    list_at(object, "/metadata/managedFields").iter().any(|entry| str_at(entry, "/time") == now)
}

/// What the audit log is told of a webhook.
fn told_of(hook: &Hook, what: &str, value: Value) -> String {
    json::to_string(&serde_json::json!({ "configuration": hook.configuration, "webhook": hook.name, what: value }))
}

/// Tells the audit log of a patch, if it is told of objects.
fn annotate_patch(hook: &Hook, place: Place, patch: &[u8]) {
    audit::annotate_from(Level::Request, &place.key("patch"), || {
        let mut told = told_of(hook, "patch", serde_json::from_slice(patch).unwrap_or_default());
        told.insert_str(told.len() - 1, ",\"patchType\":\"JSONPatch\"");
        told
    });
}

/// Whether the object is one of the resource's own kind, and not what a subresource takes.
pub fn is_of_kind(attributes: &Attributes<'_>, object: &Value) -> bool {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or("");
    kind.is_empty() || kind == &*attributes.resource.gvk.kind
}

/// The object after a webhook's patch, read again as the API reads it; `None` if there is no patch.
fn apply(
    attributes: &Attributes<'_>,
    invocation: &Invocation,
    object: &Value,
    answer: &Answer,
    hook: &str,
) -> Result<Option<Value>, Status> {
    let Some(patch) = &answer.patch else { return Ok(None) };
    let undecodable = |why: String| {
        Status::internal_error(&format!("failed calling webhook {hook:?}: received undecodable patch in webhook response: {why}"))
    };
    let (document, _) = json::parse(patch).map_err(|error| undecodable(error.to_string()))?;
    let (patch, _) = Patch::decode(&document, false).map_err(|error| undecodable(error.to_string()))?;
    if document.as_array().is_none_or(Vec::is_empty) {
        return Ok(None);
    }
    let patched = patch.apply(object).map_err(|error| Status::internal_error(&error.to_string()))?;
    settled(attributes, invocation, patched).map(Some).map_err(|why| Status::internal_error(&why))
}

/// A changed object, read again as the API reads it: checked against its type, defaulted, in canonical form.
pub fn settled(attributes: &Attributes<'_>, invocation: &Invocation, mut changed: Value) -> Result<Value, String> {
    if is_of_kind(attributes, &changed) {
        let resource = invocation.other.as_deref().unwrap_or(attributes.resource);
        resource.read(&mut changed)?;
        write::complete(resource, &mut changed);
    }
    Ok(changed)
}

/// Deletions have nothing to change, but those that change may still refuse them.
impl MutatingPlugin for MutatingWebhooks {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        cluster: &'a dyn Cluster,
        new: &'a mut Value,
        old: Option<&'a Value>,
        warnings: &'a mut Vec<String>,
        rounds: &'a mut Rounds,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(MutatingWebhooks::admit(self, attributes, cluster, new, old, warnings, rounds))
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        cluster: &'a dyn Cluster,
        _new: Option<&'a Value>,
        old: Option<&'a Value>,
        warnings: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if attributes.operation != Operation::Delete || is_exempt(attributes) {
                return Ok(());
            }
            let hooks = self.0.get(cluster, MUTATING);
            if hooks.is_empty() {
                return Ok(());
            }
            let subject = Subject::new(attributes, cluster);
            let old = old.map(|old| convert::from_storage(attributes.resource, old.clone()));
            for (index, hook) in hooks.iter().enumerate() {
                let Some(invocation) = hook.matcher.concerns(&subject, None, old.as_ref())? else { continue };
                let place = Place { round: 0, index };
                let shown = converted(cluster, attributes, &invocation, old.as_ref()).await?;
                let about = Versioned { attributes, new: None, old: shown.as_ref() };
                if !is_asked(cluster, hook, &invocation, &about).await? {
                    continue;
                }
                match ask(cluster, hook, &invocation, &about, warnings).await {
                    Ok(answer) if answer.patch.is_some() => {
                        let why = format!(
                            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                            hook.name
                        );
                        return Err(Status::internal_error(&why));
                    }
                    Ok(_) => {}
                    Err(failure) => judge(hook, failure, place)?,
                }
            }
            Ok(())
        })
    }
}

/// Asks a validating webhook, if it is to be asked, and says what that means for the write.
async fn validate_one(
    cluster: &dyn Cluster,
    (hook, place): (&Hook, Place),
    invocation: &Invocation,
    attributes: &Attributes<'_>,
    (new, old): (Option<&Value>, Option<&Value>),
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let new = converted(cluster, attributes, invocation, new).await?;
    let old = converted(cluster, attributes, invocation, old).await?;
    let about = Versioned { attributes, new: new.as_ref(), old: old.as_ref() };
    if !is_asked(cluster, hook, invocation, &about).await? {
        return Ok(());
    }
    let since = Instant::now();
    let answer = ask(cluster, hook, invocation, &about, warnings).await;
    audit::spent(Layer::ValidatingWebhook, since);
    answer.map(drop).or_else(|failure| judge(hook, failure, place))
}

/// The webhooks that may refuse what is written. They are asked at the same time.
pub struct ValidatingWebhooks(InForce);

impl ValidatingWebhooks {
    pub fn new(told: Option<&[u8]>) -> Result<ValidatingWebhooks, String> {
        InForce::new(told).map(ValidatingWebhooks)
    }
}

impl WaitingPlugin for ValidatingWebhooks {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        cluster: &'a dyn Cluster,
        new: Option<&'a Value>,
        old: Option<&'a Value>,
        warnings: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let hooks = self.0.get(cluster, VALIDATING);
            if hooks.is_empty() || is_exempt(attributes) {
                return Ok(());
            }
            let subject = Subject::new(attributes, cluster);
            let shown = |object: &Value| in_request_version(attributes, object.clone());
            let (new, old) = (new.map(shown), old.map(shown));
            let mut concerned = Vec::new();
            for hook in &*hooks {
                if let Some(invocation) = hook.matcher.concerns(&subject, new.as_ref(), old.as_ref())? {
                    concerned.push((hook, invocation));
                }
            }
            let (new, old) = (new.as_ref(), old.as_ref());
            let asked = concerned.iter().enumerate().map(|(index, (hook, invocation))| async move {
                let hook = (*hook, Place { round: 0, index });
                let mut warnings = Vec::new();
                let outcome = validate_one(cluster, hook, invocation, attributes, (new, old), &mut warnings).await;
                (outcome, warnings)
            });
            let mut refused = Ok(());
            let since = Instant::now();
            let outcomes = join_all(asked).await;
            tally::webhooks_took(since.elapsed());
            for (outcome, said) in outcomes {
                warnings.extend(said);
                refused = refused.and(outcome);
            }
            refused
        })
    }
}
