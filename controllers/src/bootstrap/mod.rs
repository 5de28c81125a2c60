//! Bootstrap tokens: Secrets in `kube-system` by which new nodes introduce themselves.
//!
//! [`signer`] lets those who hold a token trust what `kube-public/cluster-info` says; [`token_cleaner`] deletes tokens that have expired.

pub mod signer;
pub mod token_cleaner;

use client::Object;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE) && Object::namespace(secret) == NAMESPACE
}

/// A value of the secret; empty if there is none, or no text.
fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    secret.data.as_ref().and_then(|data| data.get(key)).and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or("")
}

/// Whether a token is good, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Validity {
    Always,
    For(SignedDuration),
    Expired,
}

/// What cannot be read counts as expired.
fn validity(secret: &Secret, now: Timestamp) -> Validity {
    let expiration = text(secret, "expiration");
    if expiration.is_empty() {
        return Validity::Always;
    }
    match expiration.parse::<Timestamp>() {
        Ok(at) if at > now => Validity::For(at.duration_since(now)),
        _ => Validity::Expired,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    pub fn token(id: &str, data: &[(&str, &str)]) -> Secret {
        let mut secret = Secret { type_: Some(TYPE.to_owned()), ..Secret::default() };
        secret.metadata.name = Some(format!("bootstrap-token-{id}"));
        secret.metadata.namespace = Some(NAMESPACE.to_owned());
        secret.data = Some(data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect());
        secret
    }

    #[test]
    fn a_token_expires_or_not() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |expiration: &str| validity(&token("abcdef", &[("expiration", expiration)]), now);
        assert_eq!(at(""), Validity::Always);
        assert_eq!(at("2026-01-01T00:00:30Z"), Validity::For(SignedDuration::from_secs(30)));
        assert_eq!(at("2026-01-01T02:00:30+02:00"), Validity::For(SignedDuration::from_secs(30)));
        assert_eq!(at("2025-01-01T00:00:00Z"), Validity::Expired);
        assert_eq!(at("tomorrow"), Validity::Expired);
    }
}
