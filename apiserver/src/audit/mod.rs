//! Audit: who did what when, told to a log or to a webhook as a policy wants it.
//!
//! `filters/audit.rs` sees requests come and go. Whoever has something to add to what is told of the request that is being served does
//! so by [`annotate`] and the other functions here, which do nothing where nothing is told.

pub mod backend;
pub mod bodies;
pub mod context;
mod counters;
pub mod event;
mod log_file;
mod policy;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::backend::{Backend, Batching, Format, Handed, Mode, Writer};
use self::bodies::compact;
pub use self::context::{Context, Layer, Seen};
use self::counters::Counters;
use self::event::{Event, Level};
use self::log_file::LogFile;
pub use self::log_file::Rotation;
use self::policy::Policy;
use self::webhook::Webhook;
use crate::filters::authentication::User;
use crate::filters::request_info::RequestInfo;

/// How long a server that ends waits for events that are still to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// What the API server is told of auditing. Field names follow upstream's flags.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Nothing is told without.
    pub policy_file: Option<PathBuf>,
    pub log: Option<LogConfig>,
    pub webhook: Option<WebhookConfig>,
}

#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `-` is standard output.
    pub path: PathBuf,
    pub rotation: Rotation,
    pub format: Format,
    pub sending: Sending,
}

#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// A kubeconfig.
    pub file: PathBuf,
    pub initial_backoff: Duration,
    pub sending: Sending,
}

/// What both backends are told.
#[derive(Clone, Debug)]
pub struct Sending {
    pub mode: Mode,
    pub batching: Batching,
    /// Bytes of an event, from which on it goes without its objects.
    pub max_event_size: Option<usize>,
}

/// Why auditing could not start, in upstream's words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("loading audit policy file: failed to read file path {}: open {}: {source}", apimachinery::field::quote(path), path)]
    ReadPolicy { path: String, source: std::io::Error },
    #[error("loading audit policy file: {why}: from file {path}")]
    Policy { path: String, why: String },
    #[error("ensureLogFile: open {path}: {source}")]
    Log { path: String, source: std::io::Error },
    #[error("initializing audit webhook: {0}")]
    Webhook(String),
}

/// Tells of requests what the policy wants to be told.
pub struct Auditor {
    policy: Policy,
    backends: Vec<Backend>,
    counters: Arc<Counters>,
    stop: watch::Sender<bool>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl Auditor {
    /// `None` where nothing is to be told, or to nobody.
    pub async fn start(config: &Config) -> Result<Option<Arc<Auditor>>, Error> {
        let Some(path) = &config.policy_file else {
            if config.log.is_some() || config.webhook.is_some() {
                tracing::info!("No audit policy file provided, no events will be recorded");
            }
            return Ok(None);
        };
        let shown = path.display().to_string();
        let text = std::fs::read(path).map_err(|source| Error::ReadPolicy { path: shown.clone(), source })?;
        let policy = Policy::parse(&text).map_err(|why| Error::Policy { path: shown, why })?;
        let (stop, stopping) = watch::channel(false);
        let counters = Arc::new(Counters::default());
        let mut auditor = Auditor { policy, backends: Vec::new(), counters, stop, workers: Mutex::default() };
        if let Some(log) = &config.log {
            let failed = |source| Error::Log { path: log.path.display().to_string(), source };
            let file = LogFile::open(&log.path, log.rotation.clone()).map_err(failed)?;
            auditor.add(Writer::Log { file, format: log.format }, &log.sending, stopping.clone());
        }
        if let Some(webhook) = &config.webhook {
            let writer = Webhook::open(&webhook.file, webhook.initial_backoff).await.map_err(Error::Webhook)?;
            auditor.add(Writer::Webhook(writer), &webhook.sending, stopping);
        }
        Ok((!auditor.backends.is_empty()).then(|| Arc::new(auditor)))
    }

    fn add(&mut self, writer: Writer, sending: &Sending, stopping: watch::Receiver<bool>) {
        let (backend, worker) = Backend::new(writer, sending.mode, sending.batching, sending.max_event_size, &self.counters, stopping);
        self.backends.push(backend);
        self.workers.lock().extend(worker);
    }

    /// Tells of an event. False if that had to succeed and did not.
    async fn tell(&self, event: Arc<Event>) -> bool {
        self.counters.event();
        let mut well = true;
        for backend in &self.backends {
            well &= match backend.hand(&event, &self.counters) {
                Handed::Done(well) => well,
                Handed::Pending(later) => later.await,
            };
        }
        well
    }

    /// The same from where nobody can wait.
    fn tell_without_waiting(&self, event: Arc<Event>) {
        self.counters.event();
        for backend in &self.backends {
            if let Handed::Pending(later) = backend.hand(&event, &self.counters)
                && let Ok(runtime) = tokio::runtime::Handle::try_current()
            {
                runtime.spawn(later);
            }
        }
    }

    /// Writes what stands in queues, within a bound.
    pub async fn flush(&self) {
        self.stop.send_replace(true);
        let workers = std::mem::take(&mut *self.workers.lock());
        let all = futures::future::join_all(workers);
        if tokio::time::timeout(FLUSH_TIMEOUT, all).await.is_err() {
            tracing::warn!("audit events were still to be written when the server ended");
        }
    }

    pub fn render(&self, out: &mut String) {
        self.counters.render(out);
    }
}

tokio::task_local! {
    static CURRENT: Arc<Context>;
}

/// Runs what serves a request, which may add to what is told of it.
pub async fn scope<F: Future>(context: Arc<Context>, serving: F) -> F::Output {
    CURRENT.scope(context, serving).await
}

/// What is told of the request that this task serves. Whoever keeps it keeps the request from having ended.
pub fn current() -> Option<Arc<Context>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Decides what is told of the request; `user` is `None` for those whom nobody knows. False if it must not go on.
pub async fn decide(user: Option<&User>, info: &RequestInfo) -> bool {
    match current() {
        Some(context) => context.decide(user, info).await,
        None => true,
    }
}

/// Adds to what is told of the request.
pub fn annotate(key: &str, value: impl FnOnce() -> String) {
    annotate_from(Level::None, key, value);
}

/// The same, if at least so much is told.
pub fn annotate_from(level: Level, key: &str, value: impl FnOnce() -> String) {
    if let Some(context) = current().filter(|context| context.level() >= level) {
        context.annotate(key, value());
    }
}

/// Tells as whom the sender acts, and in which constrained mode.
pub fn impersonated(user: &User, constraint: &str) {
    if let Some(context) = current() {
        context.impersonated(user, constraint);
    }
}

/// Somebody else answers the request.
pub fn passed_on() {
    if let Some(context) = current() {
        context.pass_on();
    }
}

/// Counts time that is spent in a layer.
pub fn spent(layer: Layer, since: std::time::Instant) {
    if let Some(context) = current() {
        context.spent(layer, since.elapsed());
    }
}

/// Tells what is posted or put; `complete` makes of it what the API would have read.
pub fn request_object(object: &Value, complete: impl FnOnce(&mut Value)) {
    let Some(context) = current().filter(|context| context.level() >= Level::Metadata) else { return };
    let text = (context.level() >= Level::Request).then(|| {
        let mut object = object.clone();
        complete(&mut object);
        compact(object, context.omits_managed_fields())
    });
    context.request_object(object.get("metadata").unwrap_or(&Value::Null), text);
}

/// Tells a patch, which is JSON or YAML.
pub fn request_patch(patch: &Bytes) {
    let Some(context) = current().filter(|context| context.level() >= Level::Request) else { return };
    let value = serde_json::from_slice(patch).ok().or_else(|| Some(apimachinery::yaml::parse(patch).ok()?.value));
    if let Some(value) = value {
        context.request_patch(compact(value, false));
    }
}
