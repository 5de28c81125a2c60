//! POST serviceaccounts/<name>/token: a signed token for an account, possibly bound to an object.

use apimachinery::field::{self, Path, quote};
use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::posted::{self, Kind, Posted};
use super::{Answer, Call, meta, write};
use crate::audit;
use crate::registry::authentication::{self, GROUP};
use crate::registry::read::{at, int_at, list_at, str_at};
use crate::storage::{self, Freshness};
use crate::tokens::Issuer;
use crate::tokens::claims::{Claims, Ref, WARN_ONLY_EXPIRATION_SECONDS};

const KIND: &str = "TokenRequest";

/// Answers with the request, its status filled in.
pub async fn token_request(call: &mut Call) -> Answer {
    let kind = Kind::of(call)?;
    let mut posted = posted::read(call, kind).await?;
    let issuer = call.api.issuer.clone();
    let account = prepare(call, &mut posted, &issuer).await?;
    posted.validate(call).await?;
    let bound = bind(call, &posted.object).await?;
    if let Some(maximum) = issuer.max_expiration_seconds {
        let asked = int_at(&posted.object, "/spec/expirationSeconds");
        if asked > maximum {
            call.warnings.push(format!("requested expiration of {asked} seconds shortened to {maximum} seconds"));
            posted.object["spec"]["expirationSeconds"] = json!(maximum);
        }
    }
    let now = call.request.now.as_second();
    let seconds = int_at(&posted.object, "/spec/expirationSeconds");
    let claims = claims(&issuer, &posted.object, &call.request.info.namespace, account, bound, now);
    audit::annotate("authentication.kubernetes.io/issued-credential-id", || format!("JTI={}", claims.id));
    let signed = issuer.keys.sign(&claims.to_payload()).await;
    let token = signed.map_err(|why| Status::internal_error(&format!("failed to generate token: {why}")))?;
    let expires = Timestamp::from_second(now.saturating_add(seconds)).unwrap_or(Timestamp::MAX);
    posted.object["status"] = json!({ "token": token, "expirationTimestamp": format_seconds(expires) });
    posted.created(call)
}

/// Checks the request against its account and completes it; gives the account.
async fn prepare(call: &Call, posted: &mut Posted, issuer: &Issuer) -> Result<Ref, Status> {
    let name = call.name().to_owned();
    let object = &mut posted.object;
    let given = meta::text(object, "name");
    if !given.is_empty() && given != name {
        let error = field::Error::invalid(&Path::new("metadata.name"), given, "must match the service account name if specified");
        return Err(Status::invalid(GROUP, KIND, &name, &vec![error]));
    }
    let account = call.fresh_named().await?;
    let uid = account.uid().to_owned();
    let given = meta::text(object, "uid").to_owned();
    if !given.is_empty() && given != uid {
        let why = format!("the UID in the token request ({given}) does not match the UID of the service account ({uid})");
        return Err(Status::conflict(GROUP, KIND, &name, &why));
    }
    if list_at(object, "/spec/audiences").is_empty() {
        object["spec"]["audiences"] = json!(issuer.audiences);
    }
    meta::set_text(object, "name", &name);
    meta::set_text(object, "uid", &uid);
    meta::set_text(object, "creationTimestamp", &format_seconds(call.request.now));
    object["status"] = json!({});
    let errors = authentication::token_request::validate(object);
    if !errors.is_empty() {
        return Err(Status::invalid(GROUP, KIND, "", &errors));
    }
    Ok(Ref::new(&name, &uid))
}

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    pod: Option<Ref>,
    secret: Option<Ref>,
    node: Option<Ref>,
}

/// Finds the object that the request wants its token bound to.
async fn bind(call: &Call, object: &Value) -> Result<Bound, Status> {
    let reference = at(object, "/spec/boundObjectRef");
    if reference.is_null() {
        return Ok(Bound::default());
    }
    let (kind, api_version, name) = (str_at(reference, "/kind"), str_at(reference, "/apiVersion"), str_at(reference, "/name"));
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let namespace = call.request.info.namespace.as_str();
    let mut bound = Bound::default();
    let uid = match (group, kind) {
        ("", "Pod") => {
            let pod = find(call, "pods", namespace, name).await?;
            let value = pod.value();
            if str_at(&value, "/spec/serviceAccountName") != call.name() {
                let why = format!(
                    "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
                    quote(call.name())
                );
                return Err(Status::bad_request(why));
            }
            let node = str_at(&value, "/spec/nodeName");
            if !node.is_empty() {
                // A node that is not there (any more) is named all the same.
                let uid = match find(call, "nodes", "", node).await {
                    Ok(object) => object.uid().to_owned(),
                    Err(status) if status.reason == "NotFound" => String::new(),
                    Err(status) => return Err(status),
                };
                bound.node = Some(Ref::new(node, &uid));
            }
            bound.pod = Some(Ref::new(name, pod.uid()));
            pod.uid().to_owned()
        }
        ("", "Node") => {
            let node = find(call, "nodes", "", name).await?;
            bound.node = Some(Ref::new(name, node.uid()));
            node.uid().to_owned()
        }
        ("", "Secret") => {
            let secret = find(call, "secrets", namespace, name).await?;
            bound.secret = Some(Ref::new(name, secret.uid()));
            secret.uid().to_owned()
        }
        _ => {
            // Tokens for webhooks are an alpha feature of v1.37, and off.
            let is_webhook = matches!(kind, "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration");
            let gate = if is_webhook && api_version == "admissionregistration.k8s.io/v1" {
                " (feature gate APIServerWebhookAuthenticationToken is disabled)"
            } else {
                ""
            };
            return Err(Status::bad_request(format!("cannot bind token to object of type {}{gate}", shown_kind(api_version, kind))));
        }
    };
    let wanted = str_at(reference, "/uid");
    if !wanted.is_empty() && wanted != uid {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(group, kind, name, &why));
    }
    Ok(bound)
}

/// `apps/v1, Kind=Deployment`; the core group is empty before the slash.
fn shown_kind(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

async fn find(call: &Call, resource: &str, namespace: &str, name: &str) -> Result<std::sync::Arc<storage::Object>, Status> {
    let catalog = call.api.catalog.load_full();
    let missing = || Status::not_found("", resource, name);
    let stored = catalog.stored_resource("", resource).ok_or_else(missing)?;
    match call.api.storage.get(write::cache_of(stored)?, namespace, name, Freshness::Latest).await {
        Ok(object) => Ok(object),
        Err(storage::Error::NotFound) => Err(missing()),
        Err(error) => Err(Status::internal_error(&error.to_string())),
    }
}

fn claims(issuer: &Issuer, object: &Value, namespace: &str, account: Ref, bound: Bound, now: i64) -> Claims {
    let audiences: Vec<String> = list_at(object, "/spec/audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    let seconds = int_at(object, "/spec/expirationSeconds");
    let for_this_server = audiences.iter().all(|a| issuer.audiences.contains(a));
    let extended = issuer.extend_expiration && bound.pod.is_some() && seconds == WARN_ONLY_EXPIRATION_SECONDS && for_this_server;
    let lifetime = if extended { issuer.extended_expiration_seconds } else { seconds };
    Claims {
        issuer: issuer.name().to_owned(),
        audiences,
        id: uuid::Uuid::new_v4().to_string(),
        issued_at: now,
        not_before: now,
        expires_at: now.saturating_add(lifetime),
        namespace: namespace.to_owned(),
        account,
        pod: bound.pod,
        secret: bound.secret,
        node: bound.node,
        warn_after: extended.then(|| now.saturating_add(seconds)),
    }
}

fn format_seconds(at: Timestamp) -> String {
    apimachinery::time::format_time(at)
}
