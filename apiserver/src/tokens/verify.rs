//! Tokens as credentials: signature, issuer, audience, time, and whether what the token is bound to still exists.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::field::quote;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;

use super::claims::{self, Claims, LEEWAY_SECONDS, Ref};
use super::digest::{Digest, Digester};
use super::legacy::{self, LastUsed};
use super::{Issuer, Keys, jws};
use crate::audit;
use crate::catalog::{Catalog, Stored};
use crate::expiring::Expiring;
use crate::filters::authentication::{TokenVerifier, User, Verification, Verified};

/// What is known of an object that a token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub uid: String,
    /// When it is (or was) to be gone, in seconds since 1970.
    pub deleted_at: Option<i64>,
}

/// Finds the objects that tokens name.
pub trait Objects: Send + Sync {
    /// `resource` is `serviceaccounts`, `pods`, `secrets` or `nodes`; `namespace` is empty for nodes.
    fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<Found>;

    /// An object as a whole, for the few tokens that need it.
    fn read(&self, resource: &str, namespace: &str, name: &str) -> Option<Value>;
}

/// The objects in memory.
pub struct Cached {
    stored: Vec<(&'static str, Arc<Stored>)>,
}

impl Cached {
    pub fn new(catalog: &Catalog) -> Cached {
        let find = |resource| Some((resource, catalog.stored_resource("", resource)?.clone()));
        Cached { stored: ["serviceaccounts", "pods", "secrets", "nodes"].into_iter().filter_map(find).collect() }
    }
}

impl Objects for Cached {
    fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<Found> {
        let (_, stored) = self.stored.iter().find(|(known, _)| *known == resource)?;
        let object = stored.cache()?.get(namespace, name)?;
        // Objects are not decoded on every request: one whose bytes do not even hold the word is not being deleted.
        let marked = object.json().windows(MARK.len()).any(|window| window == MARK);
        let deleted_at = marked.then(|| object.value()).and_then(|value| {
            let at = value.pointer("/metadata/deletionTimestamp")?.as_str()?.parse::<Timestamp>().ok()?;
            Some(at.as_second())
        });
        Some(Found { uid: object.uid().to_owned(), deleted_at })
    }

    fn read(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let (_, stored) = self.stored.iter().find(|(known, _)| *known == resource)?;
        Some(stored.cache()?.get(namespace, name)?.value())
    }
}

const MARK: &[u8] = b"\"deletionTimestamp\"";

/// Accepts the tokens of an issuer.
pub struct Verifier<O> {
    pub issuer: Arc<Issuer>,
    pub objects: O,
    /// Where the use of tokens that secrets hold is told.
    pub last_used: LastUsed,
    pub known: KnownSignatures,
}

/// Tokens whose signature was verified. What else makes a token good is looked at each time.
pub struct KnownSignatures {
    digester: Digester,
    /// With the generation of the keys that verified.
    digests: Expiring<Digest, u64>,
}

impl Default for KnownSignatures {
    fn default() -> KnownSignatures {
        KnownSignatures { digester: Digester::default(), digests: Expiring::new(MAX_KNOWN) }
    }
}

/// Signatures that are known to be good, for as long as the keys are the same.
const MAX_KNOWN: usize = 32 * 1024;
const KNOWN_FOR: Duration = Duration::from_secs(600);

impl<O: Objects> TokenVerifier for Verifier<O> {
    fn verify<'a>(&'a self, token: &'a str, audiences: Option<&'a [String]>) -> BoxFuture<'a, Verification> {
        Box::pin(async move {
            if let Keys::External(external) = &self.issuer.keys
                && let Some(parsed) = jws::parse(token)
                && self.is_own(&Claims::from_payload(&parsed.payload).issuer)
            {
                external.look_for(&parsed.key_id).await;
            }
            self.check(token, audiences)
        })
    }
}

impl<O: Objects> Verifier<O> {
    fn is_own(&self, issuer: &str) -> bool {
        issuer == legacy::ISSUER || self.issuer.issuers.iter().any(|own| own == issuer)
    }

    fn check(&self, token: &str, audiences: Option<&[String]>) -> Verification {
        let Some(parsed) = jws::parse(token) else { return Ok(None) };
        let claims = Claims::from_payload(&parsed.payload);
        if !self.is_own(&claims.issuer) {
            return Ok(None);
        }
        let digest = self.known.digester.of(token, &[]);
        let keys = self.issuer.keys.now();
        let generation = keys.as_ref().map_or(0, |keys| keys.generation);
        if self.known.digests.get(&digest) != Some(generation) {
            let mut candidates = keys.iter().flat_map(|keys| keys.candidates(&parsed.key_id)).peekable();
            if candidates.peek().is_none() {
                return Err("invalid signature, no keys found".to_owned());
            }
            if !candidates.any(|key| parsed.is_signed_by(key)) {
                return Err("go-jose/go-jose: error in cryptographic primitive".to_owned());
            }
            self.known.digests.keep(digest, generation, KNOWN_FOR);
        }
        let (own, wanted) = (&self.issuer.audiences, audiences.unwrap_or(&self.issuer.audiences));
        let has = if claims.audiences.is_empty() { own } else { &claims.audiences };
        let common: Vec<String> = has.iter().filter(|a| wanted.contains(a)).cloned().collect();
        if common.is_empty() {
            return Err(format!("token audiences {} is invalid for the target audiences {}", list(has), list(wanted)));
        }
        let now = Timestamp::now();
        let subject = || parsed.payload.get("sub").and_then(serde_json::Value::as_str).unwrap_or("").to_owned();
        if claims.audiences.is_empty() {
            audit::annotate("authentication.k8s.io/legacy-token", subject);
        }
        let is_legacy = claims.issuer == legacy::ISSUER;
        let user = if is_legacy && !self.issuer.lookup {
            legacy::claimed(&parsed.payload)?
        } else if is_legacy {
            let (user, used) = legacy::user_of(&parsed.payload, token, &self.objects, now);
            if let Some(used) = used {
                self.last_used.note(used);
            }
            user?
        } else {
            let user = user_of(&claims, &self.objects, now.as_second())?;
            if let Some(late) = claims.warn_after.map(|at| now.as_second() - at).filter(|late| *late > 0) {
                let told = || format!("subject: {}, seconds after warning threshold: {late}", subject());
                audit::annotate("authentication.k8s.io/stale-token", told);
            }
            user
        };
        Ok(Some(Verified { user, audiences: common }))
    }
}

/// The user that a token's claims stand for at `now`, if all that they name is still there.
pub fn user_of(claims: &Claims, objects: &impl Objects, now: i64) -> Result<User, String> {
    claims.check_time(now)?;
    let (namespace, account) = (&claims.namespace, &claims.account);
    let gone = |found: &Found| found.deleted_at.is_some_and(|at| at < now.saturating_sub(LEEWAY_SECONDS));
    let found = objects
        .find("serviceaccounts", namespace, &account.name)
        .ok_or_else(|| format!("serviceaccounts {} not found", quote(&account.name)))?;
    if found.uid != account.uid {
        return Err(format!("service account UID ({}) does not match claim ({})", found.uid, account.uid));
    }
    if gone(&found) {
        return Err(format!("service account {namespace}/{} has been deleted", account.name));
    }
    // A reference to an object that was deleted, or made anew under the same name, is no longer good.
    let bound = |kind: &str, namespace: &str, reference: &Ref| {
        let found = objects.find(&format!("{kind}s"), namespace, &reference.name);
        match found {
            Some(found) if found.uid != reference.uid => {
                Err(format!("{kind} UID ({}) does not match service account {kind} ref claim ({})", found.uid, reference.uid))
            }
            Some(found) if !gone(&found) => Ok(()),
            _ => Err("service account token has been invalidated".to_owned()),
        }
    };
    if let Some(secret) = &claims.secret {
        bound("secret", namespace, secret)?;
    }
    // The node of a pod's token is told but not checked: it is the pod's existence that counts.
    if let (Some(node), None) = (&claims.node, &claims.pod) {
        bound("node", "", node)?;
    }
    if let Some(pod) = &claims.pod {
        bound("pod", namespace, pod)?;
    }
    Ok(User {
        name: claims::user_name(namespace, &account.name),
        uid: account.uid.clone(),
        groups: claims::groups(namespace),
        extra: extra(claims),
    })
}

/// What a token tells of itself, as extra attributes of its user, sorted.
fn extra(claims: &Claims) -> Vec<(String, Vec<String>)> {
    let mut extra = Vec::new();
    let mut tell = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.push((format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]));
        }
    };
    if !claims.id.is_empty() {
        tell("credential-id", &format!("JTI={}", claims.id));
    }
    if let Some(node) = &claims.node {
        tell("node-name", &node.name);
        tell("node-uid", &node.uid);
    }
    if let Some(pod) = &claims.pod {
        tell("pod-name", &pod.name);
        tell("pod-uid", &pod.uid);
    }
    extra
}

/// `["a" "b"]`, as Go prints a quoted list.
fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|t| quote(t)).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Table(Vec<(&'static str, &'static str, &'static str, Option<i64>)>);

    impl Objects for Table {
        fn find(&self, resource: &str, _namespace: &str, name: &str) -> Option<Found> {
            let row = self.0.iter().find(|(r, n, ..)| *r == resource && *n == name)?;
            Some(Found { uid: row.2.to_owned(), deleted_at: row.3 })
        }

        fn read(&self, _resource: &str, _namespace: &str, _name: &str) -> Option<Value> {
            None
        }
    }

    #[test]
    fn a_token_is_good_while_what_it_names_is_there() {
        let claims = Claims {
            namespace: "ns".into(),
            id: "j".into(),
            account: Ref::new("sa", "u1"),
            pod: Some(Ref::new("p", "u2")),
            expires_at: 5000,
            ..Claims::default()
        };
        let account = ("serviceaccounts", "sa", "u1", None);
        let outcome = |rows, now| user_of(&claims, &Table(rows), now).map(|u| u.name);
        assert_eq!(outcome(vec![account, ("pods", "p", "u2", None)], 1000), Ok("system:serviceaccount:ns:sa".to_owned()));
        assert_eq!(outcome(vec![account, ("pods", "p", "u2", Some(990))], 1000), Ok("system:serviceaccount:ns:sa".to_owned()));
        for (rows, now, error) in [
            (vec![], 1000, "serviceaccounts \"sa\" not found"),
            (vec![("serviceaccounts", "sa", "u9", None)], 1000, "service account UID (u9) does not match claim (u1)"),
            (vec![("serviceaccounts", "sa", "u1", Some(900))], 1000, "service account ns/sa has been deleted"),
            (vec![account], 1000, "service account token has been invalidated"),
            (vec![account, ("pods", "p", "u2", Some(900))], 1000, "service account token has been invalidated"),
            (vec![account, ("pods", "p", "u3", None)], 1000, "pod UID (u3) does not match service account pod ref claim (u2)"),
            (vec![account, ("pods", "p", "u2", None)], 6000, "service account token has expired"),
        ] {
            assert_eq!(outcome(rows, now), Err(error.to_owned()));
        }
    }

    #[test]
    fn a_tokens_user_tells_what_it_is_bound_to() {
        let claims = Claims {
            namespace: "ns".into(),
            id: "j".into(),
            account: Ref::new("sa", "u1"),
            pod: Some(Ref::new("p", "u2")),
            node: Some(Ref::new("n", "")),
            ..Claims::default()
        };
        let user = user_of(&claims, &Table(vec![("serviceaccounts", "sa", "u1", None), ("pods", "p", "u2", None)]), 1000).unwrap();
        let keys: Vec<&str> = user.extra.iter().map(|(k, _)| k.trim_start_matches("authentication.kubernetes.io/")).collect();
        assert_eq!(keys, ["credential-id", "node-name", "pod-name", "pod-uid"]);
    }
}
