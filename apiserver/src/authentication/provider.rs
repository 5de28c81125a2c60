//! An issuer as it describes itself: where its keys are, and the keys, fetched when a token asks for one that is not known.
//!
//! Knows signatures and nothing of claims. Fetches happen one at a time, and no faster than tokens of strangers may make them.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use apimachinery::field::quote;
use http::header::{AUTHORIZATION, CACHE_CONTROL, LOCATION};
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::json_web_key::{Key, parse_set};
use crate::registry::read::str_at;
use crate::tokens::jws::Unverified;
use crate::webhook_client::Connections;
use crate::webhook_client::remote::{Endpoint, Remote, Trust};

const WELL_KNOWN: &str = "/.well-known/openid-configuration";
/// A document must be there by then.
const TIMEOUT: Duration = Duration::from_secs(30);
/// An issuer that does not describe itself is asked again after so long.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Keys that are to expire within this time count as expired.
const EXPIRY_DELTA: Duration = Duration::from_secs(30);
/// Fetches of keys within [`FETCH_WINDOW`]; what more tokens ask for is not known.
const MAX_FETCHES: usize = 30;
const FETCH_WINDOW: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 10;
/// How long keys may be kept at most, whatever the issuer says.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
const NOT_SIGNED: &str = "failed to verify id token signature";

/// What an issuer is, as configured.
pub struct Provider {
    issuer: String,
    discovery_url: String,
    trust: Trust,
    connections: Arc<Connections>,
    /// Where the keys are, once it is known.
    keys_url: OnceLock<String>,
    keys: Mutex<Cached>,
    fetching: tokio::sync::Mutex<VecDeque<Instant>>,
    /// Why it is not known yet.
    problem: watch::Sender<Option<String>>,
}

#[derive(Clone)]
struct Cached {
    keys: Arc<Vec<Key>>,
    expiry: Instant,
}

impl Provider {
    /// `discovery_url`: where the issuer describes itself, if not at the usual place.
    pub fn new(issuer: &str, discovery_url: &str, trust: Trust, connections: Arc<Connections>) -> Provider {
        let discovery_url = match discovery_url {
            "" => format!("{}{WELL_KNOWN}", issuer.strip_suffix('/').unwrap_or(issuer)),
            url => url.to_owned(),
        };
        let problem = format!("oidc: authenticator for issuer {} is not initialized", quote(issuer));
        Provider {
            issuer: issuer.to_owned(),
            discovery_url,
            trust,
            connections,
            keys_url: OnceLock::new(),
            keys: Mutex::new(Cached { keys: Arc::default(), expiry: Instant::now() }),
            fetching: tokio::sync::Mutex::default(),
            problem: watch::Sender::new(Some(problem)),
        }
    }

    /// Asks the issuer until it has described itself.
    pub async fn discover(&self) {
        loop {
            match self.describe().await {
                Ok(url) => {
                    // Nobody else sets it.
                    let _ = self.keys_url.set(url);
                    self.problem.send_replace(None);
                    return;
                }
                Err(error) => {
                    tracing::error!(issuer = self.issuer, error, "oidc authenticator: initializing plugin");
                    self.problem.send_replace(Some(error));
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Waits until the issuer is known; the error says why it was not.
    pub async fn ready(&self, timeout: Duration) -> Result<(), String> {
        let mut problem = self.problem.subscribe();
        if tokio::time::timeout(timeout, problem.wait_for(Option::is_none)).await.is_ok() {
            return Ok(());
        }
        let why = problem.borrow().clone().unwrap_or_default();
        Err(format!("oidc: authenticator for issuer {} is not healthy: {why}", quote(&self.issuer)))
    }

    /// Whether the issuer is known.
    pub fn is_known(&self) -> bool {
        self.keys_url.get().is_some()
    }

    async fn describe(&self) -> Result<String, String> {
        let document = self.read(&self.discovery_url, HeaderMap::new()).await?.1;
        let found = str_at(&document, "/issuer");
        if found != self.issuer {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {} got {}",
                quote(&self.issuer),
                quote(found)
            ));
        }
        match str_at(&document, "/jwks_uri") {
            "" => Err("provider did not return JWKS URL".to_owned()),
            url => Ok(url.to_owned()),
        }
    }

    /// A JSON document, and how long it may be kept.
    async fn read(&self, url: &str, headers: HeaderMap) -> Result<(Duration, Value), String> {
        let (age, body) = self.fetch(url, headers).await?;
        let document =
            serde_json::from_slice(&body).map_err(|error| format!("oidc: failed to decode provider discovery object: {error}"))?;
        Ok((age, document))
    }

    /// A document, wherever redirections lead.
    async fn fetch(&self, url: &str, mut headers: HeaderMap) -> Result<(Duration, bytes::Bytes), String> {
        let mut url = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            let endpoint = Endpoint { url: url.clone(), trust: self.trust.clone(), ..Endpoint::default() };
            let reply = Remote::new(&endpoint, self.connections.clone())?.get(headers.clone(), TIMEOUT).await?;
            if reply.status.is_redirection()
                && let Some(location) = reply.headers.get(LOCATION).and_then(|value| value.to_str().ok())
            {
                let next = resolve(&url, location);
                if url.starts_with("https://") && !next.starts_with("https://") {
                    return Err(format!("Get {}: redirected away from https", quote(&url)));
                }
                // Credentials are for the server that was named.
                headers.clear();
                url = next;
                continue;
            }
            if reply.status != http::StatusCode::OK {
                return Err(format!("{}: {}", reply.status, String::from_utf8_lossy(&reply.body)));
            }
            return Ok((max_age(&reply.headers), reply.body));
        }
        Err(format!("Get {}: stopped after {MAX_REDIRECTS} redirects", quote(&url)))
    }

    /// What a claims endpoint says: a token.
    pub async fn distributed(&self, url: &str, access_token: &str) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        if !access_token.is_empty() {
            let value = HeaderValue::from_str(&format!("Bearer {access_token}")).map_err(|error| error.to_string())?;
            headers.insert(AUTHORIZATION, value);
        }
        let (_, body) = self.fetch(url, headers).await.map_err(|why| format!("error while getting distributed claim JWT: {why}"))?;
        String::from_utf8(body.to_vec()).map_err(|_| "could not decode distributed claim response".to_owned())
    }

    /// Whether a token is signed with a key of the issuer.
    pub async fn verify(&self, token: &Unverified<'_>) -> Result<(), String> {
        let cached = self.keys.lock().clone();
        if is_signed(token, &cached.keys) {
            return Ok(());
        }
        if Instant::now() + EXPIRY_DELTA <= cached.expiry {
            return Err(NOT_SIGNED.to_owned());
        }
        let keys = self.refreshed(&cached.keys).await.map_err(|why| format!("fetching keys {why}"))?;
        if is_signed(token, &keys) { Ok(()) } else { Err(NOT_SIGNED.to_owned()) }
    }

    /// Newer keys than these.
    async fn refreshed(&self, seen: &Arc<Vec<Key>>) -> Result<Arc<Vec<Key>>, String> {
        let Some(url) = self.keys_url.get() else { return Err("oidc: authenticator not initialized".to_owned()) };
        let mut fetches = self.fetching.lock().await;
        let current = self.keys.lock().keys.clone();
        if !Arc::ptr_eq(&current, seen) {
            // Somebody else has just fetched them.
            return Ok(current);
        }
        let now = Instant::now();
        while fetches.front().is_some_and(|first| now.duration_since(*first) > FETCH_WINDOW) {
            fetches.pop_front();
        }
        if fetches.len() >= MAX_FETCHES {
            return Err("oidc: keys were asked for too often".to_owned());
        }
        fetches.push_back(now);
        let (age, set) = self.read(url, HeaderMap::new()).await.map_err(|why| format!("oidc: get keys failed {why}"))?;
        let keys = Arc::new(parse_set(&set));
        tracing::debug!(issuer = self.issuer, keys = keys.len(), "read the keys of an issuer");
        *self.keys.lock() = Cached { keys: keys.clone(), expiry: Instant::now() + age };
        Ok(keys)
    }
}

fn is_signed(token: &Unverified<'_>, keys: &[Key]) -> bool {
    keys.iter().any(|key| key.is_named(&token.key_id) && key.signed(token))
}

/// How long a document may be kept; not at all if it does not say.
fn max_age(headers: &HeaderMap) -> Duration {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    if directives.iter().any(|d| d.eq_ignore_ascii_case("no-store") || d.eq_ignore_ascii_case("no-cache")) {
        return Duration::ZERO;
    }
    let seconds = directives.iter().find_map(|d| d.strip_prefix("max-age=")).and_then(|text| text.trim_matches('"').parse().ok());
    let age = headers.get(http::header::AGE).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()).unwrap_or(0);
    Duration::from_secs(seconds.unwrap_or(0_u64).saturating_sub(age)).min(MAX_AGE)
}

/// Where a redirection leads.
fn resolve(from: &str, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let origin = from.match_indices('/').nth(2).map_or(from, |(at, _)| &from[..at]);
    format!("{origin}/{}", location.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_as_long_as_the_issuer_says() {
        for (value, seconds) in [
            ("max-age=300", 300),
            ("public, max-age=60, must-revalidate", 60),
            ("no-store, max-age=60", 0),
            ("private", 0),
            ("max-age=99999999", 86400),
        ] {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(value))]);
            assert_eq!(max_age(&headers), Duration::from_secs(seconds), "{value}");
        }
        assert_eq!(max_age(&HeaderMap::new()), Duration::ZERO);
    }

    #[test]
    fn redirections_are_resolved() {
        assert_eq!(resolve("https://a:1/b/c", "/d"), "https://a:1/d");
        assert_eq!(resolve("https://a", "https://b/d"), "https://b/d");
    }
}
