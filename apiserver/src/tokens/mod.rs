//! Service account tokens: what they say, how they are signed, and who stands behind one.
//!
//! Owns the signing key and the form of the tokens. It never decides what an account may do, and it never stores a token: a token
//! is good for as long as its account and the object that it is bound to exist.

pub mod bootstrap;
pub mod claims;
pub mod digest;
pub mod discovery;
pub mod jws;
pub mod keys;
pub mod legacy;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use keys::Keys;

/// The issuer where none is configured.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc";

/// How tokens are issued and accepted; field names follow upstream's flags.
#[derive(Clone, Debug)]
pub struct Config {
    /// The first is put into tokens, all are accepted.
    pub service_account_issuer: Vec<String>,
    /// Who this API server is to tokens; the issuer where empty.
    pub api_audiences: Vec<String>,
    /// Keys that verify.
    pub service_account_key_file: Vec<PathBuf>,
    /// The key that signs; generated and kept with the certificates where absent.
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Where relying parties find the keys, if not at this server's address.
    pub service_account_jwks_uri: Option<String>,
    /// The longest validity in seconds that a request gets.
    pub service_account_max_token_expiration_seconds: Option<i64>,
    /// Tokens that kubelets project for the API server live for a year, with a warning after the hour they were asked for.
    pub service_account_extend_token_expiration: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            service_account_issuer: Vec::new(),
            api_audiences: Vec::new(),
            service_account_key_file: Vec::new(),
            service_account_signing_key_file: None,
            service_account_jwks_uri: None,
            service_account_max_token_expiration_seconds: None,
            service_account_extend_token_expiration: true,
        }
    }
}

/// What issues tokens and knows its own.
pub struct Issuer {
    /// Never empty.
    pub issuers: Vec<String>,
    /// Never empty.
    pub audiences: Vec<String>,
    pub keys: Keys,
    pub jwks_uri: Option<String>,
    pub max_expiration_seconds: Option<i64>,
    pub extend_expiration: bool,
}

impl Issuer {
    /// Reads the configured keys, or the key of this data directory; a missing one is made in the background.
    pub fn start(config: &Config, pki_dir: &Path) -> Result<Arc<Issuer>, keys::Error> {
        let mut issuers = config.service_account_issuer.clone();
        if issuers.is_empty() {
            issuers.push(DEFAULT_ISSUER.to_owned());
        }
        let audiences = if config.api_audiences.is_empty() { issuers.clone() } else { config.api_audiences.clone() };
        let keys = Keys::open(config.service_account_signing_key_file.as_deref(), &config.service_account_key_file, pki_dir)?;
        Ok(Arc::new(Issuer {
            issuers,
            audiences,
            keys,
            jwks_uri: config.service_account_jwks_uri.clone(),
            max_expiration_seconds: config.service_account_max_token_expiration_seconds.filter(|s| *s > 0),
            extend_expiration: config.service_account_extend_token_expiration,
        }))
    }

    /// What tokens name as their issuer.
    pub fn name(&self) -> &str {
        self.issuers.first().map_or(DEFAULT_ISSUER, String::as_str)
    }
}
