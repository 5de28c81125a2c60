//! AuthenticationConfiguration: whose tokens are believed, and what of them becomes a user.
//!
//! The form alone; [`super::validation`] says whether it makes sense.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config_file;

/// The versions of the configuration; they are read alike.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthenticationConfiguration {
    pub jwt: Vec<JwtAuthenticator>,
    pub anonymous: Option<AnonymousAuthConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnonymousAuthConfig {
    pub enabled: bool,
    pub conditions: Vec<AnonymousAuthCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnonymousAuthCondition {
    pub path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JwtAuthenticator {
    pub issuer: Issuer,
    pub claim_validation_rules: Vec<ClaimValidationRule>,
    pub claim_mappings: ClaimMappings,
    pub user_validation_rules: Vec<UserValidationRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Issuer {
    pub url: String,
    #[serde(rename = "discoveryURL")]
    pub discovery_url: Option<String>,
    /// PEM.
    pub certificate_authority: String,
    pub audiences: Vec<String>,
    pub audience_match_policy: String,
    pub egress_selector_type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimValidationRule {
    pub claim: String,
    pub required_value: String,
    pub expression: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimMappings {
    pub username: PrefixedClaimOrExpression,
    pub groups: PrefixedClaimOrExpression,
    pub uid: ClaimOrExpression,
    pub extra: Vec<ExtraMapping>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrefixedClaimOrExpression {
    pub claim: String,
    pub prefix: Option<String>,
    pub expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimOrExpression {
    pub claim: String,
    pub expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExtraMapping {
    pub key: String,
    pub value_expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserValidationRule {
    pub expression: String,
    pub message: String,
}

impl Issuer {
    /// Where the issuer describes itself; empty for the usual place.
    pub fn discovery_url(&self) -> &str {
        self.discovery_url.as_deref().unwrap_or_default()
    }
}

/// Reads a configuration.
pub fn decode(data: &[u8]) -> Result<AuthenticationConfiguration, String> {
    if data.is_empty() {
        return Err("empty config data".to_owned());
    }
    config_file::decode(data, "AuthenticationConfiguration", &VERSIONS)
}

/// Reads a configuration file; with the configuration comes the text that it was read from.
pub fn load(path: &Path) -> Result<(AuthenticationConfiguration, Vec<u8>), String> {
    let data = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("open {}: no such file or directory", path.display()),
        _ => format!("open {}: {error}", path.display()),
    });
    data.and_then(|data| decode(&data).map(|config| (config, data)))
}
