//! Signs the kubeconfig in `kube-public/cluster-info` with each bootstrap token, so that whoever holds one can tell that it is genuine.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::clock;
use client::controller::Outcome;
use client::{Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use ring::hmac;

use super::{Validity, is_token, text, validity};
use crate::manager::Context;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
/// A signature's key ends with the id of the token that it was made with.
pub const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";
const SECRET_PREFIX: &str = "bootstrap-token-";
const ID_LENGTH: usize = 6;
const WORKERS: usize = 1;

pub async fn run(context: Context) {
    let (secrets, maps) = (context.informers.of::<Secret>(), context.informers.of::<ConfigMap>());
    let key = ObjectKey::new(NAMESPACE, NAME);
    let queue = Queue::named("bootstrap_signer_queue");
    let (sink, only) = (queue.clone(), key.clone());
    maps.on_change(move |change| {
        if change.object().key() == only {
            sink.add(only.clone());
        }
    });
    let (sink, only) = (queue.clone(), key.clone());
    secrets.on_change(move |change| {
        if is_token(change.object()) {
            sink.add(only.clone());
        }
    });
    secrets.synced().await;
    maps.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let known = secrets.list_namespace(super::NAMESPACE);
        let signed = maps.get_key(&key).and_then(|map| sign(&map, known.iter().map(|secret| &**secret), clock::now()));
        let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), NAMESPACE);
        async move {
            let Some(signed) = signed else { return Ok(Outcome::Done) };
            match api.replace(NAME, &PostParams::default(), &signed).await {
                Err(error) if answer::is_conflict(&error) || answer::is_not_found(&error) => Ok(Outcome::Done),
                written => written.map(|_| Outcome::Done),
            }
        }
    })
    .await;
}

/// The map with the signatures of all tokens and no others; nothing if it is so already, or has no content to sign.
fn sign<'a>(map: &ConfigMap, secrets: impl Iterator<Item = &'a Secret>, now: Timestamp) -> Option<ConfigMap> {
    let data = map.data.as_ref()?;
    let content = data.get(CONTENT)?;
    let mut wanted: BTreeMap<String, String> =
        data.iter().filter(|(key, _)| !key.starts_with(SIGNATURE_PREFIX)).map(|(key, value)| (key.clone(), value.clone())).collect();
    for (id, secret) in secrets.filter_map(|secret| signing_token(secret, now)) {
        wanted.insert(format!("{SIGNATURE_PREFIX}{id}"), detached_signature(content, id, secret));
    }
    (wanted != *data).then(|| ConfigMap { data: Some(wanted), ..map.clone() })
}

/// The id and the secret part of a token, if it is good and may sign.
fn signing_token(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let id = Object::name(secret).strip_prefix(SECRET_PREFIX)?;
    let well_formed = id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let value = text(secret, "token-secret");
    let good = is_token(secret)
        && well_formed
        && text(secret, "token-id") == id
        && !value.is_empty()
        && text(secret, "usage-bootstrap-signing") == "true"
        && validity(secret, now) != Validity::Expired;
    good.then_some((id, value))
}

/// A JSON web signature (HS256) without the content itself, RFC 7515 appendix F.
pub fn detached_signature(content: &str, id: &str, secret: &str) -> String {
    // Ids are letters and digits, so that nothing needs quoting.
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::token;
    use super::*;

    fn good(id: &str) -> Secret {
        token(id, &[("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")])
    }

    fn map(data: &[(&str, &str)]) -> ConfigMap {
        ConfigMap { data: Some(data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()), ..ConfigMap::default() }
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_signature_is_what_the_reference_makes() {
        let expect = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
        assert_eq!(
            detached_signature("Hello from the other side. I must have called a thousand times.", "joshua", "my voice is my passcode"),
            expect
        );
    }

    #[test]
    fn every_good_token_signs_and_stale_signatures_go() {
        let unsigned = map(&[("kubeconfig", "content"), ("jws-kubeconfig-gone00", "x")]);
        let (a, b) = (good("aaaaaa"), token("bbbbbb", &[("token-id", "bbbbbb"), ("token-secret", "s")]));
        let signed = sign(&unsigned, [&a, &b].into_iter(), now()).unwrap();
        let keys: Vec<&str> = signed.data.as_ref().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-aaaaaa", "kubeconfig"]);
        assert_eq!(sign(&signed, [&a, &b].into_iter(), now()), None);
        assert_eq!(sign(&map(&[("other", "x")]), [&a].into_iter(), now()), None);
    }

    #[test]
    fn a_token_that_is_not_what_its_name_says_does_not_sign() {
        for (secret, why) in [
            (token("aaaaaa", &[("token-id", "bbbbbb"), ("token-secret", "s"), ("usage-bootstrap-signing", "true")]), "another id"),
            (token("AAAAAA", &[("token-id", "AAAAAA"), ("token-secret", "s"), ("usage-bootstrap-signing", "true")]), "a malformed id"),
            (token("aaaaaa", &[("token-id", "aaaaaa"), ("usage-bootstrap-signing", "true")]), "no secret"),
        ] {
            assert_eq!(signing_token(&secret, now()), None, "{why}");
        }
        assert_eq!(signing_token(&good("aaaaaa"), now()), Some(("aaaaaa", "0123456789abcdef")));
    }
}
