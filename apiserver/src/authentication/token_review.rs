//! Bearer tokens that a webhook knows: it is asked by TokenReview.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::field::quote;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::token_cache::{TokenCache, Ttl};
use crate::filters::authentication::{TokenVerifier, User, Verification, Verified};
use crate::registry::read::{at, bool_at, list_at, str_at};
use crate::webhook_client::remote::Remote;

/// An answer, its body included, must be there by then.
const TIMEOUT: Duration = Duration::from_secs(30);
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// The webhook, and what it has said.
pub struct TokenReviewer {
    webhook: Arc<Webhook>,
    cache: TokenCache,
    /// Who this server is to tokens.
    audiences: Vec<String>,
}

struct Webhook {
    remote: Remote,
    api_version: String,
}

impl TokenReviewer {
    /// `ttl`: how long what the webhook says is believed.
    pub fn new(remote: Remote, version: &str, ttl: Duration, audiences: Vec<String>) -> Result<TokenReviewer, String> {
        if !VERSIONS.contains(&version) {
            let known = VERSIONS.map(quote).join(", ");
            return Err(format!("unsupported authentication webhook version {}, supported versions are {known}", quote(version)));
        }
        let webhook = Arc::new(Webhook { remote, api_version: format!("authentication.k8s.io/{version}") });
        Ok(TokenReviewer { webhook, cache: TokenCache::new(Ttl { known: ttl, unknown: ttl }), audiences })
    }
}

impl TokenVerifier for TokenReviewer {
    fn verify<'a>(&'a self, token: &'a str, audiences: Option<&'a [String]>) -> BoxFuture<'a, Verification> {
        Box::pin(async move {
            let wanted = audiences.unwrap_or(&self.audiences);
            let (webhook, token_text, wanted_list, own) = (self.webhook.clone(), token.to_owned(), wanted.to_vec(), self.audiences.clone());
            let look = move || async move { webhook.review(&token_text, &wanted_list, &own).await };
            self.cache.find(token, wanted, look).await
        })
    }
}

impl Webhook {
    async fn review(&self, token: &str, wanted: &[String], own: &[String]) -> Verification {
        let review = json!({
            "kind": "TokenReview",
            "apiVersion": self.api_version,
            "metadata": { "creationTimestamp": null },
            "spec": { "token": token, "audiences": wanted },
            "status": { "user": {} },
        });
        let answer = self.remote.post(&review, TIMEOUT).await;
        let answer = answer.inspect_err(|error| tracing::error!(error, "Failed to make webhook authenticator request"))?;
        if str_at(&answer, "/kind") != "TokenReview" {
            return Err(format!("the webhook answered with the kind {} instead of a TokenReview", quote(str_at(&answer, "/kind"))));
        }
        verdict(at(&answer, "/status"), wanted, own)
    }
}

/// What a review's status says of a token that is to be for one of the wanted audiences.
fn verdict(status: &Value, wanted: &[String], own: &[String]) -> Verification {
    let texts = |value: &[Value]| value.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let told = texts(list_at(status, "/audiences"));
    let found = if told.is_empty() { own } else { &told };
    let audiences: Vec<String> = wanted.iter().filter(|audience| found.contains(audience)).cloned().collect();
    if audiences.is_empty() {
        return Ok(None);
    }
    if !bool_at(status, "/authenticated") {
        return match str_at(status, "/error") {
            "" => Ok(None),
            error => Err(error.to_owned()),
        };
    }
    let extra = at(status, "/user/extra").as_object().into_iter().flatten();
    let mut extra: Vec<(String, Vec<String>)> =
        extra.map(|(key, values)| (key.clone(), texts(values.as_array().map_or(&[], Vec::as_slice)))).collect();
    extra.sort();
    let user = User {
        name: str_at(status, "/user/username").to_owned(),
        uid: str_at(status, "/user/uid").to_owned(),
        groups: texts(list_at(status, "/user/groups")),
        extra,
    };
    Ok(Some(Verified { user, audiences }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_says_who_it_is_and_for_whom() {
        let list = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let user = json!({ "username": "ann", "uid": "1", "groups": ["g"], "extra": { "b": ["2"], "a": ["1"] } });
        let judge = |status: Value, wanted: &[&str]| verdict(&status, &list(wanted), &list(&["api"]));
        let found = judge(json!({ "authenticated": true, "user": user }), &["other", "api"]).unwrap().unwrap();
        assert_eq!((found.user.name.as_str(), found.audiences), ("ann", list(&["api"])));
        assert_eq!(found.user.extra[0].0, "a");
        for (status, wanted, expect) in [
            (json!({ "authenticated": true, "user": user }), "other", Ok(None)),
            (json!({ "authenticated": true, "user": user, "audiences": ["vault"] }), "api", Ok(None)),
            (json!({ "authenticated": false }), "api", Ok(None)),
            (json!({ "authenticated": false, "error": "expired" }), "api", Err("expired".to_owned())),
            (json!({}), "api", Ok(None)),
        ] {
            assert_eq!(judge(status, &[wanted]), expect);
        }
    }
}
