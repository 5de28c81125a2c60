//! The API server's flags that say who decides what users may do, under upstream's names and with upstream's meanings.

use std::path::PathBuf;
use std::time::Duration;

use apiserver::authorization::{Config, Mode, WebhookFlags};
use clap::Args;

use crate::go_values::duration;

#[derive(Args, Clone, Debug)]
pub struct AuthorizationFlags {
    /// Who decides what users may do, asked in this order: Node, RBAC, ABAC, Webhook, AlwaysAllow, AlwaysDeny; Node,RBAC by default.
    #[arg(long, value_delimiter = ',')]
    pub authorization_mode: Vec<Mode>,
    /// The policies of mode ABAC, one JSON object a line.
    #[arg(long)]
    pub authorization_policy_file: Option<PathBuf>,
    /// A kubeconfig that says where the webhook of mode Webhook is.
    #[arg(long)]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// The version of SubjectAccessReview that the webhook speaks; v1beta1 by default.
    #[arg(long)]
    pub authorization_webhook_version: Option<String>,
    /// How long a permission by the webhook is believed; 5m0s by default.
    #[arg(long, value_parser = duration)]
    pub authorization_webhook_cache_authorized_ttl: Option<Duration>,
    /// How long anything else that the webhook says is believed; 30s by default.
    #[arg(long, value_parser = duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Option<Duration>,
    /// A file that says who is asked instead (AuthorizationConfiguration).
    #[arg(long)]
    pub authorization_config: Option<PathBuf>,
}

impl AuthorizationFlags {
    pub fn config(&self) -> Config {
        Config {
            authorization_mode: self.authorization_mode.clone(),
            authorization_policy_file: self.authorization_policy_file.clone(),
            webhook: WebhookFlags {
                config_file: self.authorization_webhook_config_file.clone(),
                version: self.authorization_webhook_version.clone(),
                cache_authorized_ttl: self.authorization_webhook_cache_authorized_ttl,
                cache_unauthorized_ttl: self.authorization_webhook_cache_unauthorized_ttl,
            },
            authorization_config: self.authorization_config.clone(),
        }
    }
}
