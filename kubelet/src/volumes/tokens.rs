//! Service account tokens that are bound to pods: asked for once, kept, and asked for anew long before they end.
//!
//! Upstream: pkg/kubelet/token/token_manager.go.

use std::collections::HashMap;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

/// No token is used for longer.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// Refreshes are spread over so many seconds.
const MAX_JITTER_SECONDS: i64 = 10;
/// What the API server takes for a request that says nothing.
const DEFAULT_SECONDS: i64 = 3600;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    pod_uid: String,
    namespace: String,
    account: String,
    audience: String,
    seconds: i64,
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    /// When it ends, and how long it lives altogether.
    expires: Timestamp,
    seconds: i64,
    jitter: SignedDuration,
}

impl Token {
    fn is_expired(&self, now: Timestamp) -> bool {
        now > self.expires
    }

    /// Due when a fifth of its life is left, or after a day.
    fn is_due(&self, now: Timestamp) -> bool {
        let issued = self.expires - SignedDuration::from_secs(self.seconds);
        now > issued + MAX_AGE - self.jitter || now > self.expires - SignedDuration::from_secs(self.seconds * 20 / 100) - self.jitter
    }
}

/// The tokens of all pods; there are as many as their volumes ask for.
pub struct Tokens {
    client: Client,
    cache: Mutex<HashMap<Key, Token>>,
}

impl Tokens {
    pub fn new(client: Client) -> Tokens {
        Tokens { client, cache: Mutex::default() }
    }

    /// A token for the pod's service account. An old one that is still good serves if there is no new one to be had.
    pub async fn get(&self, pod: &Pod, audience: &str, seconds: Option<i64>, now: Timestamp) -> Result<String, String> {
        self.get_with_end(pod, audience, seconds, now).await.map(|(text, _)| text)
    }

    /// A token and when it ends.
    pub async fn get_with_end(
        &self,
        pod: &Pod,
        audience: &str,
        seconds: Option<i64>,
        now: Timestamp,
    ) -> Result<(String, Timestamp), String> {
        let metadata = &pod.metadata;
        let of = |field: &Option<String>| field.clone().unwrap_or_default();
        let key = Key {
            pod_uid: of(&metadata.uid),
            namespace: of(&metadata.namespace),
            account: pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
            audience: audience.to_owned(),
            seconds: seconds.unwrap_or(DEFAULT_SECONDS),
        };
        let known = self.cache.lock().get(&key).cloned();
        if let Some(token) = known.as_ref().filter(|token| !token.is_due(now)) {
            return Ok((token.text.clone(), token.expires));
        }
        match (self.request(pod, &key, seconds).await, known) {
            (Ok(token), _) => {
                let told = (token.text.clone(), token.expires);
                self.cache.lock().insert(key, token);
                Ok(told)
            }
            (Err(error), None) => Err(format!("failed to fetch token: {error}")),
            (Err(error), Some(old)) if old.is_expired(now) => {
                Err(format!("token {:?}/{:?} expired and refresh failed: {error}", key.account, key.namespace))
            }
            (Err(error), Some(old)) => {
                tracing::warn!(
                    namespace = key.namespace,
                    account = key.account,
                    error,
                    "cannot refresh a token, the old one is still good"
                );
                Ok((old.text, old.expires))
            }
        }
    }

    async fn request(&self, pod: &Pod, key: &Key, seconds: Option<i64>) -> Result<Token, String> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!key.audience.is_empty()).then(|| vec![key.audience.clone()]),
                expiration_seconds: seconds,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: Some(key.pod_uid.clone()),
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
        let answer = accounts.create_token_request(&key.account, &PostParams::default(), &request).await;
        let answer = answer.map_err(|error| super::message(&error))?;
        let status = answer.status.unwrap_or_default();
        let (Some(text), Some(expires)) = (status.token, status.expiration_timestamp) else {
            return Err("the answer has no token".to_owned());
        };
        let lifetime = answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(key.seconds);
        let jitter = SignedDuration::from_secs(i64::from(rand::random::<u8>()) * MAX_JITTER_SECONDS / 256);
        Ok(Token { text, expires: expires.0, seconds: lifetime, jitter })
    }

    /// The pods that have tokens to be refreshed.
    pub fn due(&self, now: Timestamp) -> Vec<String> {
        let cache = self.cache.lock();
        let mut pods: Vec<String> = cache.iter().filter(|(_, token)| token.is_due(now)).map(|(key, _)| key.pod_uid.clone()).collect();
        pods.sort();
        pods.dedup();
        pods
    }

    /// The pod is gone.
    pub fn forget(&self, pod_uid: &str) {
        self.cache.lock().retain(|key, _| key.pod_uid != pod_uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_due_with_a_fifth_of_its_life_left_or_after_a_day() {
        let at = |seconds: i64| Timestamp::from_second(seconds).expect("it is a time");
        let token = |seconds: i64| Token { text: String::new(), expires: at(seconds), seconds, jitter: SignedDuration::ZERO };
        let hour = token(3600);
        assert!(!hour.is_due(at(2880)));
        assert!(hour.is_due(at(2881)));
        assert!(!hour.is_expired(at(3600)) && hour.is_expired(at(3601)));
        let year = token(365 * 86400);
        assert!(!year.is_due(at(86400)));
        assert!(year.is_due(at(86401)));
    }
}
