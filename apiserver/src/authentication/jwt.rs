//! Tokens of the issuers of an AuthenticationConfiguration: verified, mapped to users, and the configuration read again when it changes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::field::{self, Error as FieldError, ErrorList, Path, quote};
use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::claims::{check, untrusted_issuer, user_of};
use super::config::{self, AnonymousAuthConfig, AuthenticationConfiguration, JwtAuthenticator};
use super::provider::Provider;
use super::token_cache::{TokenCache, Ttl};
use super::validation::{self, Compiled, quoted_list};
use crate::config_file;
use crate::filters::authentication::{TokenVerifier, User, Verification, Verified};
use crate::registry::read::str_at;
use crate::tokens::jws::{self, Unverified};
use crate::webhook_client::Connections;
use crate::webhook_client::remote::Trust;

/// How long a token that was verified is not verified again, as upstream has it for all tokens.
const TTL: Ttl = Ttl { known: Duration::from_secs(10), unknown: Duration::ZERO };
/// A changed configuration takes effect when its issuers are known, within this time; else it is tried again.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);
const RELOAD_RETRY: Duration = Duration::from_secs(60);
/// A claim that lies elsewhere waits so long for who issues it.
const DISTRIBUTED_TIMEOUT: Duration = Duration::from_secs(10);
/// Issuers of claims that lie elsewhere.
const MAX_DISTRIBUTED: usize = 64;

/// What all issuers have in common.
#[derive(Clone)]
pub struct Common {
    /// How tokens may be signed.
    pub algorithms: Arc<[String]>,
    /// Who this server is to tokens: what tokens of other issuers count for.
    pub audiences: Arc<[String]>,
    /// The issuers of service account tokens, which nobody else may be.
    pub own_issuers: Arc<[String]>,
    pub connections: Arc<Connections>,
}

/// The issuers of the configuration of now.
pub struct JwtIssuers {
    common: Common,
    generation: ArcSwap<Generation>,
}

/// What was read at the start.
pub struct Read {
    pub data: Vec<u8>,
    /// This may not change.
    pub anonymous: Option<AnonymousAuthConfig>,
}

/// The issuers of one configuration.
struct Generation {
    issuers: Vec<Arc<JwtIssuer>>,
    cache: TokenCache,
}

struct JwtIssuer {
    authenticator: JwtAuthenticator,
    compiled: Compiled,
    algorithms: Arc<[String]>,
    provider: Arc<Provider>,
    /// Asks the issuer who it is, as long as this lives.
    _discovery: Task,
    distributed: Mutex<HashMap<String, (Arc<Provider>, Task)>>,
    trust: Trust,
    connections: Arc<Connections>,
}

/// A task that ends with what it is for.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn discover(provider: &Arc<Provider>) -> Task {
    let provider = provider.clone();
    Task(tokio::spawn(async move { provider.discover().await }))
}

impl Generation {
    fn new(config: &AuthenticationConfiguration, common: &Common) -> Result<Generation, ErrorList> {
        let issuers = config.jwt.iter().map(|authenticator| JwtIssuer::new(authenticator, common).map(Arc::new));
        Ok(Generation { issuers: issuers.collect::<Result<_, _>>()?, cache: TokenCache::new(TTL) })
    }
}

impl JwtIssuers {
    /// The issuers of a configuration that is valid.
    pub fn new(config: &AuthenticationConfiguration, common: Common) -> Result<Arc<JwtIssuers>, String> {
        let generation = Generation::new(config, &common).map_err(|errors| field::aggregate(&errors))?;
        Ok(Arc::new(JwtIssuers { common, generation: ArcSwap::from_pointee(generation) }))
    }

    /// Reads the file again whenever it changes.
    pub async fn follow(self: Arc<Self>, path: PathBuf, read: Read, shutdown: watch::Receiver<bool>) {
        let Read { data: mut applied, anonymous } = read;
        let mut changes = config_file::changes(vec![path.clone()], shutdown);
        let mut pending = false;
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RELOAD_RETRY), if pending => {}
            }
            let data = match std::fs::read(&path) {
                Ok(data) => data,
                Err(error) => {
                    tracing::error!(%error, "failed to read authentication config file");
                    continue;
                }
            };
            if data == applied {
                continue;
            }
            let generation = self.read(&data, anonymous.as_ref());
            pending = false;
            match generation {
                // It will never be right; it is not looked at again before it changes.
                Err(error) => tracing::error!(error, "failed to load authentication config"),
                Ok(generation) => match ready(&generation).await {
                    Ok(()) => {
                        self.generation.store(Arc::new(generation));
                        tracing::info!("reloaded authentication config");
                    }
                    Err(error) => {
                        tracing::error!(error, "failed to update authentication config");
                        pending = true;
                        continue;
                    }
                },
            }
            applied = data;
        }
    }

    fn read(&self, data: &[u8], anonymous: Option<&AnonymousAuthConfig>) -> Result<Generation, String> {
        let config = config::decode(data)?;
        let mut errors = validation::validate(&config, &self.common.own_issuers);
        if config.anonymous.as_ref() != anonymous {
            errors.push(FieldError::forbidden(&Path::new("anonymous"), "changed from initial configuration file"));
        }
        if !errors.is_empty() {
            return Err(field::aggregate(&errors));
        }
        Generation::new(&config, &self.common).map_err(|errors| field::aggregate(&errors))
    }

    async fn check(&self, token: &str, audiences: Option<&[String]>) -> Verification {
        let Some(parsed) = jws::parse(token) else { return Ok(None) };
        let generation = self.generation.load_full();
        let named = untrusted_issuer(&parsed.payload);
        let Some(issuer) = generation.issuers.iter().find(|issuer| issuer.authenticator.issuer.url == named).cloned() else {
            return Ok(None);
        };
        let own = &self.common.audiences;
        let common: Vec<String> = own.iter().filter(|a| audiences.is_none_or(|wanted| wanted.contains(a))).cloned().collect();
        if common.is_empty() {
            return Ok(None);
        }
        let owned = token.to_owned();
        let found = generation.cache.find(token, &[], move || async move {
            let user = issuer.user(&owned).await?;
            Ok(Some(Verified { user, audiences: Vec::new() }))
        });
        Ok(found.await?.map(|verified| Verified { audiences: common, ..verified }))
    }
}

/// Waits until all issuers are known.
async fn ready(generation: &Generation) -> Result<(), String> {
    let waiting = generation.issuers.iter().map(|issuer| issuer.provider.ready(RELOAD_TIMEOUT));
    futures::future::try_join_all(waiting).await.map(drop)
}

impl TokenVerifier for JwtIssuers {
    fn verify<'a>(&'a self, token: &'a str, audiences: Option<&'a [String]>) -> BoxFuture<'a, Verification> {
        Box::pin(self.check(token, audiences))
    }
}

impl JwtIssuer {
    fn new(authenticator: &JwtAuthenticator, common: &Common) -> Result<JwtIssuer, ErrorList> {
        let (compiled, errors) = validation::compile(authenticator, &common.own_issuers, &Path::ROOT);
        if !errors.is_empty() {
            return Err(errors);
        }
        let issuer = &authenticator.issuer;
        let trust = match issuer.certificate_authority.as_str() {
            "" => Trust::Machine,
            pem => Trust::Bundle(pem.as_bytes().to_vec()),
        };
        let provider = Arc::new(Provider::new(&issuer.url, issuer.discovery_url(), trust.clone(), common.connections.clone()));
        Ok(JwtIssuer {
            _discovery: discover(&provider),
            authenticator: authenticator.clone(),
            compiled,
            algorithms: common.algorithms.clone(),
            provider,
            distributed: Mutex::default(),
            trust,
            connections: common.connections.clone(),
        })
    }

    /// The user of a token that names this issuer.
    async fn user(&self, token: &str) -> Result<User, String> {
        if !self.provider.is_known() {
            return Err("oidc: authenticator not initialized".to_owned());
        }
        let parsed = jws::parse(token).ok_or("oidc: verify token: oidc: malformed jwt")?;
        self.verified(&self.provider, &self.authenticator.issuer.url, &parsed).await.map_err(|why| format!("oidc: verify token: {why}"))?;
        let mut claims = parsed.payload;
        let groups = &self.authenticator.claim_mappings.groups.claim;
        if !groups.is_empty() && claims.get(groups).is_none() {
            let expanded = self.distributed_claim(&claims, groups).await;
            if let Some(value) = expanded.map_err(|why| format!("oidc: could not expand distributed claims: {why}"))? {
                claims[groups.as_str()] = value;
            }
        }
        user_of(&claims, &self.authenticator, &self.compiled)
    }

    async fn verified(&self, provider: &Provider, issuer: &str, token: &Unverified<'_>) -> Result<(), String> {
        if !self.algorithms.iter().any(|algorithm| algorithm == token.algorithm()) {
            let expected = quoted_list(&self.algorithms);
            let found = quote(token.algorithm());
            return Err(format!("oidc: id token signed with unsupported algorithm, expected {expected} got {found}"));
        }
        provider.verify(token).await.map_err(|why| format!("failed to verify signature: {why}"))?;
        check(&token.payload, issuer, &self.authenticator.issuer.audiences, Timestamp::now().as_second())
    }

    /// A claim that the token says is to be had elsewhere (OpenID Connect Core 1.0, section 5.6.2).
    async fn distributed_claim(&self, claims: &Value, claim: &str) -> Result<Option<Value>, String> {
        let Some(names) = claims.get("_claim_names") else { return Ok(None) };
        let Some(names) = names.as_object() else { return Err("oidc: error parsing distributed claim names".to_owned()) };
        let Some(sources) = claims.get("_claim_sources") else { return Err("oidc: no claim sources".to_owned()) };
        let Some(sources) = sources.as_object() else { return Err("oidc: could not parse claim sources".to_owned()) };
        let Some(source) = names.get(claim).and_then(Value::as_str) else { return Ok(None) };
        let Some(endpoint) = sources.get(source) else {
            return Err(format!("id token _claim_names contained a source {source} missing in _claims_sources"));
        };
        let url = str_at(endpoint, "/endpoint");
        if url.is_empty() {
            return Ok(None);
        }
        let token = self.provider.distributed(url, str_at(endpoint, "/access_token")).await;
        let token = token.map_err(|why| format!("while getting distributed claim {}: {why}", quote(claim)))?;
        let Some(parsed) = jws::parse(token.trim()) else {
            return Err(format!("getting untrusted issuer from endpoint {url} failed for claim {}: malformed token", quote(claim)));
        };
        let issuer = untrusted_issuer(&parsed.payload).to_owned();
        let provider = self.issuer_of_claims(&issuer)?;
        let unknown = |_| format!("verifying untrusted issuer {issuer} failed: verifier not initialized for issuer: {}", quote(&issuer));
        provider.ready(DISTRIBUTED_TIMEOUT).await.map_err(unknown)?;
        self.verified(&provider, &issuer, &parsed).await.map_err(|why| format!("verify distributed claim token: {why}"))?;
        match parsed.payload.get(claim) {
            Some(value) => Ok(Some(value.clone())),
            None => Err(format!("jwt returned by distributed claim endpoint {} did not contain claim: {claim}", quote(url))),
        }
    }

    fn issuer_of_claims(&self, issuer: &str) -> Result<Arc<Provider>, String> {
        let mut all = self.distributed.lock();
        if let Some((known, _)) = all.get(issuer) {
            return Ok(known.clone());
        }
        if all.len() >= MAX_DISTRIBUTED {
            return Err("too many issuers of distributed claims".to_owned());
        }
        let provider = Arc::new(Provider::new(issuer, "", self.trust.clone(), self.connections.clone()));
        let task = discover(&provider);
        all.insert(issuer.to_owned(), (provider.clone(), task));
        Ok(provider)
    }
}
