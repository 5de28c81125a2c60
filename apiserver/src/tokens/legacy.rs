//! Tokens that secrets hold (`kubernetes.io/service-account-token`): they name no audience and never expire, and are good for as long as
//! the secret has them. On which day a secret's token was last used stands in a label of it.
//!
//! The verdict is a function of the objects; the label is written by a task of its own, so that no request waits for it.

use std::sync::Arc;

use apimachinery::field::quote;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;

use super::claims;
use super::verify::Objects;
use crate::api::Api;
use crate::filters::authentication::User;
use crate::loopback::{Loopback, is_overtaken};
use crate::registry::read::{at, str_at};

/// What these tokens name as their issuer.
pub const ISSUER: &str = "kubernetes/serviceaccount";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Secrets whose label is about to be written; a use that finds no place is told by the next one.
const MAX_WAITING: usize = 256;

/// A secret whose token is used on a day that its label does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    namespace: String,
    name: String,
    uid: String,
    /// `2006-01-02`.
    day: String,
}

/// The user that a token stands for, and the secret whose label is to tell of it.
pub fn user_of(payload: &Value, token: &str, objects: &impl Objects, now: Timestamp) -> (Result<User, String>, Option<Used>) {
    match check(payload, token, objects) {
        Err(why) => (Err(why), None),
        Ok((user, secret)) => {
            let used = use_of(&secret, now);
            let since = label(&secret, INVALID_SINCE);
            if since.is_empty() {
                return (Ok(user), used);
            }
            let (namespace, name) = (str_at(&secret, "/metadata/namespace"), str_at(&secret, "/metadata/name"));
            let account = claims::split_user_name(&user.name).map_or("", |(_, name)| name);
            let why = format!(
                "the token in secret {namespace}/{name} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            );
            (Err(why), used)
        }
    }
}

/// Whether account and secret are there and the secret has this token.
fn check(payload: &Value, token: &str, objects: &impl Objects) -> Result<(User, Value), String> {
    let claim = |name: &str| payload.get(name).and_then(Value::as_str).unwrap_or("");
    let of_account = |name: &str| claim(&format!("kubernetes.io/serviceaccount/{name}"));
    let (subject, namespace, secret_name) = (claim("sub"), of_account("namespace"), of_account("secret.name"));
    let (account, uid) = (of_account("service-account.name"), of_account("service-account.uid"));
    for (value, what) in [
        (subject, "sub"),
        (namespace, "namespace"),
        (secret_name, "secretName"),
        (account, "serviceAccountName"),
        (uid, "serviceAccountUID"),
    ] {
        if value.is_empty() {
            return Err(format!("{what} claim is missing"));
        }
    }
    if claims::split_user_name(subject) != Some((namespace, account)) {
        return Err("sub claim is invalid".to_owned());
    }
    let is_deleted = |object: &Value| at(object, "/metadata/deletionTimestamp").is_string();
    let secret = objects.read("secrets", namespace, secret_name).filter(|secret| !is_deleted(secret));
    let secret = secret.ok_or("Token has been invalidated")?;
    let held = STANDARD.decode(str_at(&secret, "/data/token")).unwrap_or_default();
    if !is_equal(&held, token.as_bytes()) {
        return Err("Token does not match server's copy".to_owned());
    }
    let found = objects.read("serviceaccounts", namespace, account);
    let found = found.ok_or_else(|| format!("serviceaccounts {} not found", quote(account)))?;
    if is_deleted(&found) {
        return Err(format!("ServiceAccount {namespace}/{account} has been deleted"));
    }
    let is_uid = str_at(&found, "/metadata/uid");
    if is_uid != uid {
        return Err(format!("ServiceAccount UID ({is_uid}) does not match claim ({uid})"));
    }
    let user =
        User { name: claims::user_name(namespace, account), uid: uid.to_owned(), groups: claims::groups(namespace), extra: Vec::new() };
    Ok((user, secret))
}

/// Compares in a time that tells nothing of where the two differ.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn label<'a>(object: &'a Value, name: &str) -> &'a str {
    at(object, "/metadata/labels").get(name).and_then(Value::as_str).unwrap_or("")
}

/// What is to be written, if the label does not tell of today. One of tomorrow is another server's, whose clock is ahead.
fn use_of(secret: &Value, now: Timestamp) -> Option<Used> {
    const DAY_SECONDS: i64 = 24 * 60 * 60;
    let day = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    let today = day(now);
    let tomorrow = Timestamp::from_second(now.as_second() + DAY_SECONDS).map(day).unwrap_or_default();
    let told = label(secret, LAST_USED);
    if told == today || told == tomorrow {
        return None;
    }
    let text = |path: &str| str_at(secret, path).to_owned();
    Some(Used { namespace: text("/metadata/namespace"), name: text("/metadata/name"), uid: text("/metadata/uid"), day: today })
}

/// Where uses are told.
#[derive(Clone)]
pub struct LastUsed(mpsc::Sender<Used>);

/// Takes what is told, until [`write`] writes it.
pub struct Waiting(mpsc::Receiver<Used>);

/// The two ends.
pub fn last_used() -> (LastUsed, Waiting) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    (LastUsed(sender), Waiting(receiver))
}

impl LastUsed {
    /// Never waits.
    pub fn note(&self, used: Used) {
        if self.0.try_send(used).is_err() {
            tracing::debug!("the use of a token is not written down now");
        }
    }
}

/// Writes the labels, until the server is told to stop.
pub async fn write(api: Arc<Api>, mut waiting: Waiting) {
    let client = Loopback::new(&api);
    let mut shutdown = api.shutdown.clone();
    loop {
        let used = tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return,
            used = waiting.0.recv() => used,
        };
        let Some(used) = used else { return };
        let Some(mut secret) = client.get("", "secrets", &used.namespace, &used.name) else { continue };
        if str_at(&secret, "/metadata/uid") != used.uid || label(&secret, LAST_USED) == used.day {
            continue;
        }
        if !secret["metadata"]["labels"].is_object() {
            secret["metadata"]["labels"] = Value::Object(serde_json::Map::new());
        }
        secret["metadata"]["labels"][LAST_USED] = used.day.clone().into();
        let path = format!("/api/v1/namespaces/{}/secrets/{}", used.namespace, used.name);
        match client.replace(&path, secret).await {
            Err(status) if !is_overtaken(&status) => {
                tracing::warn!(
                    namespace = used.namespace,
                    secret = used.name,
                    error = status.message,
                    "the use of its token is not written down"
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::verify::Found;
    use super::*;

    struct Table {
        secret: Option<Value>,
        account: Option<Value>,
    }

    impl Objects for Table {
        fn find(&self, _resource: &str, _namespace: &str, _name: &str) -> Option<Found> {
            None
        }

        fn read(&self, resource: &str, _namespace: &str, _name: &str) -> Option<Value> {
            if resource == "secrets" { self.secret.clone() } else { self.account.clone() }
        }
    }

    fn payload() -> Value {
        json!({
            "iss": ISSUER, "sub": "system:serviceaccount:ns:sa", "kubernetes.io/serviceaccount/namespace": "ns",
            "kubernetes.io/serviceaccount/secret.name": "s", "kubernetes.io/serviceaccount/service-account.name": "sa",
            "kubernetes.io/serviceaccount/service-account.uid": "u1",
        })
    }

    fn secret(token: &str, labels: Value) -> Option<Value> {
        Some(
            json!({"metadata": {"namespace": "ns", "name": "s", "uid": "u2", "labels": labels}, "data": {"token": STANDARD.encode(token)}}),
        )
    }

    #[test]
    fn a_token_is_good_while_its_secret_has_it() {
        let account = || Some(json!({"metadata": {"uid": "u1"}}));
        let now = Timestamp::from_second(86_400).unwrap();
        let verdict = |payload: Value, secret, account| user_of(&payload, "t", &Table { secret, account }, now);
        let (user, used) = verdict(payload(), secret("t", json!({})), account());
        assert_eq!(user.unwrap().name, "system:serviceaccount:ns:sa");
        assert_eq!(used.map(|u| u.day), Some("1970-01-02".to_owned()));
        for told in ["1970-01-02", "1970-01-03"] {
            assert_eq!(verdict(payload(), secret("t", json!({LAST_USED: told})), account()).1, None);
        }
        let mut other_subject = payload();
        other_subject["sub"] = "system:serviceaccount:ns:other".into();
        let mut nameless = payload();
        nameless["kubernetes.io/serviceaccount/secret.name"] = "".into();
        for (payload, secret, account, error) in [
            (payload(), None, account(), "Token has been invalidated"),
            (payload(), secret("x", json!({})), account(), "Token does not match server's copy"),
            (payload(), secret("t", json!({})), None, "serviceaccounts \"sa\" not found"),
            (
                payload(),
                secret("t", json!({})),
                Some(json!({"metadata": {"uid": "u9"}})),
                "ServiceAccount UID (u9) does not match claim (u1)",
            ),
            (other_subject, secret("t", json!({})), account(), "sub claim is invalid"),
            (nameless, secret("t", json!({})), account(), "secretName claim is missing"),
        ] {
            assert_eq!(verdict(payload, secret, account).0, Err(error.to_owned()));
        }
        let (refused, used) = verdict(payload(), secret("t", json!({INVALID_SINCE: "1970-01-01"})), account());
        assert!(refused.unwrap_err().starts_with("the token in secret ns/s for service account ns/sa has been marked invalid."));
        assert!(used.is_some(), "its use is told all the same");
    }
}
