//! The API server's flags that say whose tokens it accepts, under upstream's names and with upstream's meanings.

use std::path::PathBuf;
use std::time::Duration;

use apiserver::authentication::{Config, Oidc, TokenWebhook};
use clap::Args;

use crate::go_values::duration;

#[derive(Args, Clone, Debug)]
pub struct AuthenticationFlags {
    /// A file that says which issuers of tokens are believed and who may be anonymous (AuthenticationConfiguration).
    #[arg(long)]
    pub authentication_config: Option<PathBuf>,
    /// Let requests without credentials in as system:anonymous; on by default.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,
    /// The https URL of an OpenID issuer whose tokens are accepted.
    #[arg(long)]
    pub oidc_issuer_url: Option<String>,
    /// Whom the issuer's tokens must be for.
    #[arg(long)]
    pub oidc_client_id: Option<String>,
    /// Who certifies the issuer; those whom this machine trusts by default.
    #[arg(long)]
    pub oidc_ca_file: Option<PathBuf>,
    /// The claim that is the user's name; sub by default.
    #[arg(long)]
    pub oidc_username_claim: Option<String>,
    /// What users' names begin with: the issuer's URL and # by default, nothing for -.
    #[arg(long)]
    pub oidc_username_prefix: Option<String>,
    /// The claim that lists the user's groups.
    #[arg(long)]
    pub oidc_groups_claim: Option<String>,
    /// What groups' names begin with.
    #[arg(long)]
    pub oidc_groups_prefix: Option<String>,
    /// How tokens may be signed; RS256 by default.
    #[arg(long, value_delimiter = ',')]
    pub oidc_signing_algs: Vec<String>,
    /// A claim that tokens must have, and its value: key=value; may be repeated.
    #[arg(long, value_parser = key_value)]
    pub oidc_required_claim: Vec<(String, String)>,
    /// A kubeconfig that says where the webhook is which knows bearer tokens.
    #[arg(long)]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// The version of TokenReview that the webhook speaks.
    #[arg(long, default_value = "v1beta1")]
    pub authentication_token_webhook_version: String,
    /// How long what the webhook says is believed.
    #[arg(long, default_value = "2m0s", value_parser = duration)]
    pub authentication_token_webhook_cache_ttl: Duration,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("malformed pair, expect string=string: {text}"))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl AuthenticationFlags {
    pub fn config(&self) -> Config {
        Config {
            authentication_config: self.authentication_config.clone(),
            anonymous_auth: self.anonymous_auth,
            oidc: Oidc {
                issuer_url: self.oidc_issuer_url.clone(),
                client_id: self.oidc_client_id.clone(),
                ca_file: self.oidc_ca_file.clone(),
                username_claim: self.oidc_username_claim.clone(),
                username_prefix: self.oidc_username_prefix.clone(),
                groups_claim: self.oidc_groups_claim.clone(),
                groups_prefix: self.oidc_groups_prefix.clone(),
                signing_algs: self.oidc_signing_algs.clone(),
                required_claims: self.oidc_required_claim.clone(),
            },
            token_webhook: self.authentication_token_webhook_config_file.clone().map(|config_file| TokenWebhook {
                config_file,
                version: self.authentication_token_webhook_version.clone(),
                cache_ttl: self.authentication_token_webhook_cache_ttl,
            }),
        }
    }
}
