//! Who says what users may do: the authorizers of `--authorization-mode` or of a configuration file, which is read again when it changes.
//!
//! [`config`] and [`match_condition`] are pure, [`webhook`] asks others. The authorizers of every cluster are elsewhere: [`crate::rbac`],
//! [`crate::node_authorizer`].

pub mod abac;
pub mod config;
pub mod match_condition;
pub mod webhook;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::field::{self, Path, quote};
use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config_file;
use crate::filters::authentication::User;
use crate::filters::authorization::{AlwaysAllow, AlwaysDeny, Answer, Authorizer, Decision, Member, Rules, SystemMasters, Union};
use crate::filters::request_info::RequestInfo;
use crate::node_authorizer::NodeAuthorizer;
use crate::rbac::Rbac;
use crate::webhook_client::{Connections, kubeconfig, remote::Remote};
use abac::Abac;
use config::{AuthorizationConfiguration, AuthorizerConfiguration, ConnectionInfo, GoDuration, KUBECONFIG_FILE, WebhookConfiguration};
use webhook::{Settings, WebhookAuthorizer};

/// A source of permissions, as `--authorization-mode` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Abac,
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Webhook,
}

impl Mode {
    pub const ALL: [Mode; 6] = [Mode::Abac, Mode::AlwaysAllow, Mode::AlwaysDeny, Mode::Node, Mode::Rbac, Mode::Webhook];

    pub const fn name(self) -> &'static str {
        match self {
            Mode::Abac => "ABAC",
            Mode::AlwaysAllow => "AlwaysAllow",
            Mode::AlwaysDeny => "AlwaysDeny",
            Mode::Node => "Node",
            Mode::Rbac => "RBAC",
            Mode::Webhook => "Webhook",
        }
    }

    /// What an authorizer of the mode is called.
    pub fn authorizer_name(self) -> String {
        self.name().to_ascii_lowercase()
    }
}

/// Who is asked; field names follow upstream's flags.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Asked in this order; Node and RBAC if there are none.
    pub authorization_mode: Vec<Mode>,
    pub authorization_policy_file: Option<PathBuf>,
    pub webhook: WebhookFlags,
    /// Instead of all others.
    pub authorization_config: Option<PathBuf>,
}

/// `--authorization-webhook-` flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookFlags {
    pub config_file: Option<PathBuf>,
    pub version: Option<String>,
    pub cache_authorized_ttl: Option<Duration>,
    pub cache_unauthorized_ttl: Option<Duration>,
}

const DEFAULT_MODES: [Mode; 2] = [Mode::Node, Mode::Rbac];
const DEFAULT_WEBHOOK_VERSION: &str = "v1beta1";
const DEFAULT_AUTHORIZED_TTL: Duration = Duration::from_secs(5 * 60);
const DEFAULT_UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);
const FLAG_TIMEOUT: Duration = Duration::from_secs(30);
/// Of the webhook that flags name.
const DEFAULT_WEBHOOK_NAME: &str = "default";

/// The configuration is wrong, in upstream's words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// What authorizers are made of.
pub struct Parts {
    pub rbac: Rbac,
    pub nodes: NodeAuthorizer,
    pub connections: Arc<Connections>,
}

/// The authorizers of now, as one.
pub struct Chain {
    parts: Parts,
    abac: Option<Arc<Abac>>,
    /// What was there at the start. Others cannot come later, and these cannot go.
    modes: BTreeSet<Mode>,
    current: ArcSwap<Union>,
}

/// Reads the configuration and makes the authorizers.
pub fn start(config: &Config, parts: Parts, shutdown: &watch::Receiver<bool>) -> Result<Arc<Chain>, Error> {
    let (configuration, data) = settle(config)?;
    let modes: BTreeSet<Mode> = configuration.authorizers.iter().filter_map(|authorizer| authorizer.kind.parse().ok()).collect();
    let abac = match (modes.contains(&Mode::Abac), &config.authorization_policy_file) {
        (false, _) => None,
        (true, Some(path)) => Some(Arc::new(Abac::read(path).map_err(Error)?)),
        (true, None) => return Err(Error("authorization-mode ABAC's authorization policy file not passed".to_owned())),
    };
    let mut chain = Chain { parts, abac, modes, current: ArcSwap::from_pointee(Union(Vec::new())) };
    chain.current = ArcSwap::from_pointee(chain.union(&configuration).map_err(Error)?);
    let chain = Arc::new(chain);
    if let Some(path) = &config.authorization_config {
        tokio::spawn(chain.clone().follow(path.clone(), configuration, data, shutdown.clone()));
    }
    Ok(chain)
}

/// The configuration of a file, with the text that it was read from, or of flags.
fn settle(config: &Config) -> Result<(AuthorizationConfiguration, Vec<u8>), Error> {
    if let Some(path) = &config.authorization_config {
        if !config.authorization_mode.is_empty() || config.webhook != WebhookFlags::default() {
            let why =
                "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined";
            return Err(Error(why.to_owned()));
        }
        let data = std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error(format!("open {}: no such file or directory", path.display())),
            _ => Error(format!("open {}: {error}", path.display())),
        })?;
        return config::load(&data, &BTreeSet::new()).map(|loaded| (loaded, data)).map_err(Error);
    }
    let modes = if config.authorization_mode.is_empty() { DEFAULT_MODES.to_vec() } else { config.authorization_mode.clone() };
    let has = |mode| modes.contains(&mode);
    let mut problems = Vec::new();
    if has(Mode::Abac) && config.authorization_policy_file.is_none() {
        problems.push("authorization-mode ABAC's authorization policy file not passed".to_owned());
    }
    if has(Mode::Webhook) && config.webhook.config_file.is_none() {
        problems.push("authorization-mode Webhook's authorization config file not passed".to_owned());
    }
    if config.authorization_policy_file.is_some() && !has(Mode::Abac) {
        problems.push("cannot specify --authorization-policy-file without mode ABAC".to_owned());
    }
    if config.webhook.config_file.is_some() && !has(Mode::Webhook) {
        problems.push("cannot specify --authorization-webhook-config-file without mode Webhook".to_owned());
    }
    if modes.iter().collect::<BTreeSet<_>>().len() != modes.len() {
        let shown: Vec<String> = modes.iter().map(|mode| quote(mode.name())).collect();
        problems.push(format!("authorization-mode [{}] has mode specified more than once", shown.join(" ")));
    }
    if !problems.is_empty() {
        return Err(Error(if let [one] = problems.as_slice() { one.clone() } else { format!("[{}]", problems.join(", ")) }));
    }
    let authorizers = modes.iter().map(|mode| of_mode(*mode, &config.webhook)).collect();
    Ok((AuthorizationConfiguration { authorizers }, Vec::new()))
}

fn of_mode(mode: Mode, flags: &WebhookFlags) -> AuthorizerConfiguration {
    let duration =
        |given: Option<Duration>, default: Duration| GoDuration(i64::try_from(given.unwrap_or(default).as_nanos()).unwrap_or(i64::MAX));
    let webhook = || WebhookConfiguration {
        authorized_ttl: duration(flags.cache_authorized_ttl, DEFAULT_AUTHORIZED_TTL),
        cache_authorized_requests: Some(true),
        unauthorized_ttl: duration(flags.cache_unauthorized_ttl, DEFAULT_UNAUTHORIZED_TTL),
        cache_unauthorized_requests: Some(true),
        timeout: duration(None, FLAG_TIMEOUT),
        subject_access_review_version: flags.version.clone().unwrap_or_else(|| DEFAULT_WEBHOOK_VERSION.to_owned()),
        failure_policy: "NoOpinion".to_owned(),
        connection_info: ConnectionInfo {
            kind: KUBECONFIG_FILE.to_owned(),
            kube_config_file: flags.config_file.as_ref().map(|path| path.display().to_string()),
        },
        ..WebhookConfiguration::default()
    };
    let (name, webhook) = match mode {
        Mode::Webhook => (DEFAULT_WEBHOOK_NAME.to_owned(), Some(webhook())),
        other => (other.authorizer_name(), None),
    };
    AuthorizerConfiguration { kind: mode.name().to_owned(), name, webhook }
}

impl Chain {
    /// Whether a mode is among the authorizers.
    pub fn has(&self, mode: Mode) -> bool {
        self.modes.contains(&mode)
    }

    /// The authorizers of a configuration, after the one that none turns off.
    fn union(&self, config: &AuthorizationConfiguration) -> Result<Union, String> {
        let mut members = vec![Member::local("kubernetes.io/system-privileged-group", SystemMasters)];
        for authorizer in &config.authorizers {
            let mode: Mode = authorizer.kind.parse()?;
            if mode != Mode::Webhook && !self.modes.contains(&mode) && matches!(mode, Mode::Abac | Mode::Node | Mode::Rbac) {
                return Err(format!("authorizer type {} is not allowed if it was not enabled at initial server startup", mode.name()));
            }
            let name = &authorizer.name;
            members.push(match mode {
                Mode::AlwaysAllow => Member::local(name, AlwaysAllow),
                Mode::AlwaysDeny => Member::local(name, AlwaysDeny),
                Mode::Node => Member::local(name, self.parts.nodes.clone()),
                Mode::Rbac => Member::local(name, self.parts.rbac.clone()),
                Mode::Abac => Member::local(name, Listed(self.abac.clone())),
                Mode::Webhook => {
                    let webhook = authorizer.webhook.as_ref().ok_or("required when type=Webhook")?;
                    Member { name: name.clone(), authorizer: Box::new(self.webhook(webhook)?), asks_others: true }
                }
            });
        }
        Ok(Union(members))
    }

    fn webhook(&self, config: &WebhookConfiguration) -> Result<WebhookAuthorizer, String> {
        let path = config.connection_info.kube_config_file.clone().unwrap_or_default();
        let endpoint = kubeconfig::read(std::path::Path::new(&path))?;
        let settings = Settings {
            version: config.subject_access_review_version.clone(),
            timeout: config.timeout.get(),
            allowed_for: config.allowed_for(),
            refused_for: config.refused_for(),
            deny_on_error: config.failure_policy == "Deny",
            conditions: config::compile(&config.match_conditions, &Path::ROOT).map_err(|errors| field::aggregate(&errors))?,
        };
        WebhookAuthorizer::new(Remote::new(&endpoint, self.parts.connections.clone())?, settings)
    }

    /// Reads the file again whenever it changes.
    async fn follow(
        self: Arc<Self>,
        path: PathBuf,
        mut applied: AuthorizationConfiguration,
        mut seen: Vec<u8>,
        shutdown: watch::Receiver<bool>,
    ) {
        let mut required = self.modes.clone();
        required.remove(&Mode::Webhook);
        let mut changes = config_file::changes(vec![path.clone()], shutdown);
        while changes.changed().await.is_ok() {
            match std::fs::read(&path) {
                Ok(data) if data == seen => continue,
                Ok(data) => seen = data,
                Err(error) => {
                    tracing::error!(%error, "reloading authorization config");
                    continue;
                }
            }
            let reload = || -> Result<Option<(AuthorizationConfiguration, Union)>, String> {
                let config = config::load(&seen, &required)?;
                if config == applied {
                    return Ok(None);
                }
                let union = self.union(&config)?;
                Ok(Some((config, union)))
            };
            match reload() {
                Ok(None) => {}
                Ok(Some((config, union))) => {
                    self.current.store(Arc::new(union));
                    applied = config;
                    tracing::info!("reloaded authz config");
                }
                Err(error) => tracing::error!(error, "reloading authorization config"),
            }
        }
    }
}

impl Authorizer for Chain {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        self.current.load().authorize(user, request)
    }

    fn ask<'a>(&'a self, user: &'a User, request: &'a RequestInfo) -> Answer<'a> {
        let union = self.current.load_full();
        if !union.asks_others() {
            return Answer::Now(union.authorize(user, request));
        }
        Answer::Later(Box::pin(async move { union.ask(user, request).wait().await }))
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        self.current.load().rules(user, namespace)
    }
}

/// Policies that several chains share.
struct Listed(Option<Arc<Abac>>);

impl Authorizer for Listed {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        self.0.as_ref().map_or_else(|| Decision::NoOpinion(String::new()), |abac| abac.authorize(user, request))
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        self.0.as_ref().map(|abac| abac.rules(user, namespace)).unwrap_or_default()
    }
}
