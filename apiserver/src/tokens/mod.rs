//! Service account tokens: what they say, how they are signed, and who stands behind one.
//!
//! Owns the keys and the form of the tokens; the key that signs may be another program's. It never decides what an account may do, and it never stores a token: a token
//! is good for as long as its account and the object that it is bound to exist.

pub mod bootstrap;
pub mod claims;
pub mod digest;
pub mod discovery;
pub mod external;
pub mod external_metrics;
pub mod jws;
pub mod keys;
pub mod legacy;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use external::External;
pub use keys::Keys;

use self::claims::{EXTENDED_EXPIRATION_SECONDS, WARN_ONLY_EXPIRATION_SECONDS};

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
    /// The socket of a program that signs and tells the keys; there are no others then.
    pub service_account_signing_endpoint: Option<String>,
    /// Tokens of secrets are good only as long as secret and account are there.
    pub service_account_lookup: bool,
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
            service_account_signing_endpoint: None,
            service_account_lookup: true,
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
    /// How long tokens live that are extended.
    pub extended_expiration_seconds: i64,
    /// Whether tokens of secrets need their secret and account.
    pub lookup: bool,
}

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Keys(#[from] keys::Error),
    #[error(transparent)]
    External(#[from] external::Error),
}

impl Issuer {
    /// Reads the configured keys, or the key of this data directory; a missing one is made in the background. A program that signs must
    /// have told its keys first.
    pub async fn start(config: &Config, pki_dir: &Path) -> Result<Arc<Issuer>, Error> {
        let mut issuers = config.service_account_issuer.clone();
        if issuers.is_empty() {
            issuers.push(DEFAULT_ISSUER.to_owned());
        }
        let audiences = if config.api_audiences.is_empty() { issuers.clone() } else { config.api_audiences.clone() };
        let mut max_expiration_seconds = config.service_account_max_token_expiration_seconds.filter(|s| *s > 0);
        let mut extended_expiration_seconds = EXTENDED_EXPIRATION_SECONDS;
        let keys = match &config.service_account_signing_endpoint {
            Some(socket) => {
                let (external, longest) = External::start(socket).await?;
                max_expiration_seconds = Some(external::max_expiration_seconds(max_expiration_seconds, longest)?);
                extended_expiration_seconds = longest.min(EXTENDED_EXPIRATION_SECONDS);
                Keys::External(external)
            }
            None => Keys::open(config.service_account_signing_key_file.as_deref(), &config.service_account_key_file, pki_dir)?,
        };
        if let Some(longest) = max_expiration_seconds.filter(|_| config.service_account_extend_token_expiration) {
            warn_of(longest);
        }
        Ok(Arc::new(Issuer {
            issuers,
            audiences,
            keys,
            jwks_uri: config.service_account_jwks_uri.clone(),
            max_expiration_seconds,
            extend_expiration: config.service_account_extend_token_expiration,
            extended_expiration_seconds,
            lookup: config.service_account_lookup,
        }))
    }

    /// What tokens name as their issuer.
    pub fn name(&self) -> &str {
        self.issuers.first().map_or(DEFAULT_ISSUER, String::as_str)
    }
}

/// Tells what a longest validity in seconds does to tokens that are to be extended.
fn warn_of(longest: i64) {
    if longest < WARN_ONLY_EXPIRATION_SECONDS {
        tracing::warn!(
            longest,
            least = WARN_ONLY_EXPIRATION_SECONDS,
            "no token is extended: kubelets do not get the validity that marks those"
        );
    }
    if longest < EXTENDED_EXPIRATION_SECONDS {
        tracing::warn!(
            longest,
            extended = EXTENDED_EXPIRATION_SECONDS,
            "extended tokens are not bound to the longest validity of a token, but to a year or to what the external signer allows"
        );
    }
}
