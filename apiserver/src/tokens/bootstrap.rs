//! Bootstrap tokens as credentials: `id.secret`, known by a Secret in `kube-system`, good for those who are to join the cluster.
//!
//! What is not good in any way is nobody's token here, never an error: nothing is told about tokens to those who have none.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;

use crate::catalog::{Catalog, Stored};
use crate::filters::authentication::{TokenVerifier, User, Verification, Verified};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";
const GROUP: &str = "system:bootstrappers";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
/// The longest name of an extra group after its prefix.
const GROUP_LENGTH: usize = 256;

/// Accepts the tokens of Secrets in memory.
pub struct Bootstrap {
    secrets: Option<Arc<Stored>>,
    /// Who this API server is to tokens; these are for it alone.
    audiences: Vec<String>,
}

impl Bootstrap {
    pub fn new(catalog: &Catalog, audiences: Vec<String>) -> Bootstrap {
        Bootstrap { secrets: catalog.stored_resource("", "secrets").cloned(), audiences }
    }

    fn secret(&self, id: &str) -> Option<Value> {
        Some(self.secrets.as_ref()?.cache()?.get(NAMESPACE, &format!("bootstrap-token-{id}"))?.value())
    }

    fn check(&self, token: &str, audiences: Option<&[String]>) -> Option<Verified> {
        let (id, secret) = parse(token)?;
        let wanted = audiences.unwrap_or(&self.audiences);
        let common: Vec<String> = self.audiences.iter().filter(|audience| wanted.contains(audience)).cloned().collect();
        if common.is_empty() {
            return None;
        }
        let user = user_of(&self.secret(id)?, id, secret, Timestamp::now())?;
        Some(Verified { user, audiences: common })
    }
}

impl TokenVerifier for Bootstrap {
    fn verify<'a>(&'a self, token: &'a str, audiences: Option<&'a [String]>) -> BoxFuture<'a, Verification> {
        Box::pin(std::future::ready(Ok(self.check(token, audiences))))
    }
}

fn is_made_of(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn parse(token: &str) -> Option<(&str, &str)> {
    token.split_once('.').filter(|(id, secret)| is_made_of(id, ID_LENGTH) && is_made_of(secret, SECRET_LENGTH))
}

/// The user that the token's Secret makes of whoever shows the token.
fn user_of(object: &Value, id: &str, secret: &str, now: Timestamp) -> Option<User> {
    let text = |key: &str| {
        let encoded = object["data"][key].as_str().unwrap_or("");
        STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    let of_type = object["type"] == TYPE && object["metadata"]["deletionTimestamp"].is_null();
    let is_known = text("token-id") == id && is_same(&text("token-secret"), secret);
    let expiration = text("expiration");
    let is_fresh = expiration.is_empty() || expiration.parse::<Timestamp>().is_ok_and(|at| at > now);
    if !of_type || !is_known || !is_fresh || text("usage-bootstrap-authentication") != "true" {
        return None;
    }
    let groups = groups(&text("auth-extra-groups"))?;
    Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

/// Compares every byte, so that the time that it takes says nothing about the secret.
fn is_same(known: &str, given: &str) -> bool {
    let difference = known.bytes().zip(given.bytes()).fold(0, |found, (a, b)| found | (a ^ b));
    known.len() == given.len() && difference == 0
}

/// The group of all bootstrappers with the extra ones; nothing if one of these is not for bootstrappers.
fn groups(extra: &str) -> Option<Vec<String>> {
    let is_good = |group: &str| {
        let name = group.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')).unwrap_or("");
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        name.len() <= GROUP_LENGTH
            && name.bytes().all(|byte| is_letter(byte) || matches!(byte, b':' | b'-'))
            && name.bytes().last().is_some_and(is_letter)
    };
    let mut groups = BTreeSet::from([GROUP.to_owned()]);
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        if !is_good(group) {
            return None;
        }
        groups.insert(group.to_owned());
    }
    Some(groups.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "abcdef";
    const SECRET: &str = "0123456789abcdef";

    /// The good one, with these values changed.
    fn object(changes: &[(&str, &str)]) -> Value {
        let good = [("token-id", ID), ("token-secret", SECRET), ("usage-bootstrap-authentication", "true")];
        let mut object = json!({ "type": TYPE, "metadata": { "name": "bootstrap-token-abcdef" }, "data": {} });
        for (key, value) in good.iter().chain(changes) {
            object["data"][*key] = json!(STANDARD.encode(value));
        }
        object
    }

    fn user(object: &Value) -> Option<User> {
        user_of(object, ID, SECRET, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_good_token_is_a_user_in_the_groups_of_bootstrappers() {
        let found = user(&object(&[("auth-extra-groups", "system:bootstrappers:z,system:bootstrappers:a-b")])).unwrap();
        assert_eq!(found.name, "system:bootstrap:abcdef");
        assert_eq!(found.groups, ["system:bootstrappers", "system:bootstrappers:a-b", "system:bootstrappers:z"]);
        assert_eq!(user(&object(&[("expiration", "2026-01-01T00:00:01Z")])).unwrap().groups, ["system:bootstrappers"]);
    }

    #[test]
    fn a_token_that_is_not_good_is_nobodys() {
        for change in [
            ("token-id", "aaaaaa"),
            ("token-secret", "0123456789abcdee"),
            ("token-secret", ""),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2026-01-01T00:00:00Z"),
            ("expiration", "tomorrow"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:"),
            ("auth-extra-groups", "system:bootstrappers:a-"),
        ] {
            assert_eq!(user(&object(&[change])), None, "{change:?}");
        }
        let mut other = object(&[]);
        other["type"] = json!("Opaque");
        assert_eq!(user(&other), None);
        let mut going = object(&[]);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(user(&going), None);
    }

    #[test]
    fn only_the_form_of_a_bootstrap_token_is_looked_at() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some((ID, SECRET)));
        for other in ["", "abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "a.b.c"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
