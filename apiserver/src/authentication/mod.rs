//! Tokens that others issue: OpenID Connect by flags, structured authentication configuration, and webhooks that know tokens.
//!
//! [`config`] is the form, [`validation`] and [`claims`] are pure, [`provider`] and [`token_review`] ask others. What a user may do is for
//! others to say; service account tokens are for [`crate::tokens`].

pub mod claims;
pub mod config;
pub mod expression;
pub mod json_web_key;
pub mod jwt;
pub mod provider;
pub mod token_cache;
pub mod token_review;
pub mod validation;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::field::{self, quote};
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::filters::authentication::{Anonymous, TokenVerifier, Verification};
use crate::webhook_client::{Connections, kubeconfig, remote::Remote};
use config::{
    AnonymousAuthConfig, AuthenticationConfiguration, ClaimMappings, ClaimValidationRule, Issuer, JwtAuthenticator,
    PrefixedClaimOrExpression,
};
use json_web_key::ALGORITHMS;
use jwt::{Common, JwtIssuers};
use token_review::TokenReviewer;

/// How others' tokens are accepted; field names follow upstream's flags.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub authentication_config: Option<PathBuf>,
    /// On if absent.
    pub anonymous_auth: Option<bool>,
    pub oidc: Oidc,
    pub token_webhook: Option<TokenWebhook>,
}

/// One issuer, by `--oidc-` flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oidc {
    pub issuer_url: Option<String>,
    pub client_id: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub username_claim: Option<String>,
    pub username_prefix: Option<String>,
    pub groups_claim: Option<String>,
    pub groups_prefix: Option<String>,
    pub signing_algs: Vec<String>,
    pub required_claims: Vec<(String, String)>,
}

/// A webhook that knows tokens, by `--authentication-token-webhook-` flags.
#[derive(Clone, Debug)]
pub struct TokenWebhook {
    pub config_file: PathBuf,
    pub version: String,
    pub cache_ttl: Duration,
}

/// What the rest of the server is to authenticators.
pub struct Surroundings<'a> {
    /// The issuers of service account tokens, which nobody else may be.
    pub own_issuers: &'a [String],
    /// Who this server is to tokens.
    pub audiences: &'a [String],
    /// Everybody may do anything: then nobody may be anonymous.
    pub always_allow: bool,
    pub connections: &'a Arc<Connections>,
    pub shutdown: &'a watch::Receiver<bool>,
}

/// What the configuration comes to.
pub struct Settled {
    pub anonymous: Anonymous,
    pub verifiers: Vec<Box<dyn TokenVerifier>>,
}

/// The configuration is wrong, in upstream's words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Reads the configuration and starts to ask the issuers who they are.
pub fn start(config: &Config, around: &Surroundings<'_>) -> Result<Settled, Error> {
    let is_file = config.authentication_config.is_some();
    let oidc_is_set = config.oidc != Oidc::default();
    if is_file && oidc_is_set {
        return Err(Error("authentication-config file and oidc-* flags are mutually exclusive".to_owned()));
    }
    let ((configuration, data), algorithms) = match &config.authentication_config {
        Some(path) => {
            let failed =
                |why| Error(format!("failed to load authentication configuration from file {}: {why}", quote(&path.display().to_string())));
            (config::load(path).map_err(failed)?, ALGORITHMS.map(str::to_owned).to_vec())
        }
        None if oidc_is_set => {
            let (configuration, algorithms) = from_flags(&config.oidc)?;
            ((configuration, Vec::new()), algorithms)
        }
        None => Default::default(),
    };
    let anonymous = anonymous(&configuration, config.anonymous_auth, around.always_allow)?;
    let errors = validation::validate(&configuration, around.own_issuers);
    if !errors.is_empty() {
        return Err(Error(format!("invalid authentication configuration: {}", field::aggregate(&errors))));
    }
    if let Some(unknown) = algorithms.iter().find(|algorithm| !ALGORITHMS.contains(&algorithm.as_str())) {
        return Err(Error(format!("oidc: unsupported signing alg: {}", quote(unknown))));
    }
    let mut verifiers: Vec<Box<dyn TokenVerifier>> = Vec::new();
    if is_file || !configuration.jwt.is_empty() {
        let common = Common {
            algorithms: algorithms.into(),
            audiences: around.audiences.into(),
            own_issuers: around.own_issuers.into(),
            connections: around.connections.clone(),
        };
        let issuers = JwtIssuers::new(&configuration, common).map_err(Error)?;
        if let Some(path) = &config.authentication_config {
            let read = jwt::Read { data, anonymous: configuration.anonymous.clone() };
            tokio::spawn(issuers.clone().follow(path.clone(), read, around.shutdown.clone()));
        }
        verifiers.push(Box::new(Shared(issuers)));
    }
    if let Some(webhook) = &config.token_webhook {
        let endpoint = kubeconfig::read(&webhook.config_file).map_err(Error)?;
        let remote = Remote::new(&endpoint, around.connections.clone()).map_err(Error)?;
        let reviewer = TokenReviewer::new(remote, &webhook.version, webhook.cache_ttl, around.audiences.to_vec());
        verifiers.push(Box::new(reviewer.map_err(Error)?));
    }
    Ok(Settled { anonymous, verifiers })
}

/// A verifier that others hold too.
struct Shared<V>(Arc<V>);

impl<V: TokenVerifier> TokenVerifier for Shared<V> {
    fn verify<'a>(&'a self, token: &'a str, audiences: Option<&'a [String]>) -> BoxFuture<'a, Verification> {
        self.0.verify(token, audiences)
    }
}

fn anonymous(configuration: &AuthenticationConfiguration, flag: Option<bool>, always_allow: bool) -> Result<Anonymous, Error> {
    let from_file = |told: &AnonymousAuthConfig| Anonymous {
        enabled: told.enabled,
        paths: told.conditions.iter().map(|condition| condition.path.clone()).collect(),
    };
    match (&configuration.anonymous, flag) {
        (Some(_), Some(_)) => {
            let why = "--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file";
            Err(Error(field::Error::forbidden(&field::Path::new("anonymous"), why).to_string()))
        }
        (Some(told), None) => Ok(from_file(told)),
        (None, flag) => {
            let wanted = flag.unwrap_or(true);
            if wanted && always_allow {
                tracing::warn!(
                    "AnonymousAuth is not allowed with the AlwaysAllow authorizer. Resetting AnonymousAuth to false. You should use a different authorizer"
                );
            }
            Ok(Anonymous::everywhere(wanted && !always_allow))
        }
    }
}

/// The configuration that `--oidc-` flags stand for, and the algorithms that they allow.
fn from_flags(flags: &Oidc) -> Result<(AuthenticationConfiguration, Vec<String>), Error> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (url, client_id) = (text(&flags.issuer_url), text(&flags.client_id));
    if url.is_empty() || client_id.is_empty() {
        return Err(Error("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set".to_owned()));
    }
    let claim = flags.username_claim.clone().unwrap_or_else(|| "sub".to_owned());
    let prefix = match flags.username_prefix.as_deref().unwrap_or_default() {
        "-" => String::new(),
        // Whatever is no address could be anybody's elsewhere.
        "" if claim != "email" => format!("{url}#"),
        prefix => prefix.to_owned(),
    };
    let certificate_authority = match &flags.ca_file {
        Some(path) => std::fs::read_to_string(path).map_err(|error| Error(format!("open {}: {error}", path.display())))?,
        None => String::new(),
    };
    let groups_claim = text(&flags.groups_claim);
    let groups = if groups_claim.is_empty() {
        PrefixedClaimOrExpression::default()
    } else {
        PrefixedClaimOrExpression { claim: groups_claim, prefix: Some(text(&flags.groups_prefix)), expression: String::new() }
    };
    let required = flags.required_claims.iter();
    let authenticator = JwtAuthenticator {
        issuer: Issuer { url, audiences: vec![client_id], certificate_authority, ..Issuer::default() },
        claim_validation_rules: required
            .map(|(claim, value)| ClaimValidationRule {
                claim: claim.clone(),
                required_value: value.clone(),
                ..ClaimValidationRule::default()
            })
            .collect(),
        claim_mappings: ClaimMappings {
            username: PrefixedClaimOrExpression { claim, prefix: Some(prefix), expression: String::new() },
            groups,
            ..ClaimMappings::default()
        },
        ..JwtAuthenticator::default()
    };
    let algorithms = if flags.signing_algs.is_empty() { vec!["RS256".to_owned()] } else { flags.signing_algs.clone() };
    Ok((AuthenticationConfiguration { jwt: vec![authenticator], anonymous: None }, algorithms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(username_claim: Option<&str>, username_prefix: Option<&str>) -> Oidc {
        let owned = |text: &str| Some(text.to_owned());
        Oidc {
            issuer_url: owned("https://i"),
            client_id: owned("c"),
            username_claim: username_claim.and_then(owned),
            username_prefix: username_prefix.and_then(owned),
            ..Oidc::default()
        }
    }

    #[test]
    fn user_names_are_told_apart_by_their_issuer() {
        for (claim, prefix, expect) in [
            (None, None, "https://i#"),
            (Some("email"), None, ""),
            (Some("name"), Some("o:"), "o:"),
            (None, Some("-"), ""),
            (Some("email"), Some("o:"), "o:"),
        ] {
            let (config, algorithms) = from_flags(&flags(claim, prefix)).unwrap();
            assert_eq!(config.jwt[0].claim_mappings.username.prefix.as_deref(), Some(expect), "{claim:?} {prefix:?}");
            assert_eq!(algorithms, ["RS256"]);
        }
        let alone = from_flags(&Oidc { issuer_url: None, ..flags(None, None) }).unwrap_err();
        assert!(alone.to_string().starts_with("oidc-issuer-url and oidc-client-id must be specified together"));
    }

    #[test]
    fn nobody_is_anonymous_where_anybody_may_do_anything() {
        let config = AuthenticationConfiguration::default();
        assert!(anonymous(&config, None, false).unwrap().enabled);
        assert!(!anonymous(&config, Some(true), true).unwrap().enabled);
        let told = AuthenticationConfiguration { anonymous: Some(AnonymousAuthConfig { enabled: true, conditions: Vec::new() }), ..config };
        let both = anonymous(&told, Some(true), false).unwrap_err();
        assert!(both.to_string().starts_with("anonymous: Forbidden: --anonymous-auth flag cannot be set"), "{both}");
    }
}
