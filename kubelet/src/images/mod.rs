//! Images: whether one is there, and pulling it if it is not.
//!
//! Tells events about pulls and knows the reasons of containers that wait for an image. What is pulled goes through one gate, so that
//! no more is pulled at once, and no faster, than the configuration says.

pub mod credentials;
pub mod gc;
pub mod provider_config;
pub mod providers;
pub mod pull_records;
pub mod reference;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::events::{self, Recorder};
use client::{Object, Reference};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::backoff::Backoff;
use crate::cri::{self, SharedRuntime, v1};
use crate::instruments::Instruments;
use crate::status::Waiting;
use credentials::{Credential, Keyring};
use providers::Providers;
use pull_records::{Access, PullRecords, Worth};

const FIRST_DELAY: Duration = Duration::from_secs(10);
const MOST_DELAY: Duration = Duration::from_secs(300);

/// How much is pulled at once and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// None means without limit.
    pub parallel: Option<usize>,
    /// Pulls per second, and how many may come at once; zero means without limit.
    pub qps: u32,
    pub burst: u32,
}

/// What is asked for.
pub struct Request<'a> {
    pub pod: &'a Pod,
    /// What events are about: the container, or the pod for image volumes.
    pub about: &'a Reference,
    pub image: &'a str,
    /// `imagePullPolicy`
    pub policy: &'a str,
    pub secrets: &'a [Arc<Secret>],
    pub sandbox: &'a v1::PodSandboxConfig,
    pub runtime_handler: &'a str,
}

type Key = (String, String);

struct Failures {
    backoff: Backoff<Key>,
    /// What the last failure of a key was.
    last: HashMap<Key, String>,
}

/// The images of this node. Clones are the same.
#[derive(Clone)]
pub struct Images {
    runtime: SharedRuntime,
    recorder: Recorder,
    node_keyring: Keyring,
    /// Plugins that give credentials, if there are any.
    providers: Option<Providers>,
    /// None where every pod may have every image that is there.
    records: Option<PullRecords>,
    metrics: Instruments,
    gate: Arc<Semaphore>,
    rate: Arc<Mutex<Rate>>,
    failures: Arc<Mutex<Failures>>,
}

/// A bucket of permissions to pull.
struct Rate {
    qps: f64,
    burst: f64,
    level: f64,
    filled: Instant,
}

impl Rate {
    fn take(&mut self, now: Instant) -> bool {
        if self.qps == 0.0 {
            return true;
        }
        self.level = (self.level + now.duration_since(self.filled).as_secs_f64() * self.qps).min(self.burst);
        self.filled = now;
        if self.level < 1.0 {
            return false;
        }
        self.level -= 1.0;
        true
    }
}

impl Images {
    pub fn new(runtime: SharedRuntime, recorder: Recorder, node_keyring: Keyring, limits: Limits) -> Images {
        let burst = f64::from(limits.burst);
        let rate = Rate { qps: f64::from(limits.qps), burst, level: burst, filled: Instant::now() };
        Images {
            runtime,
            recorder,
            node_keyring,
            providers: None,
            records: None,
            metrics: Instruments::default(),
            gate: Arc::new(Semaphore::new(limits.parallel.unwrap_or(Semaphore::MAX_PERMITS))),
            rate: Arc::new(Mutex::new(rate)),
            failures: Arc::new(Mutex::new(Failures { backoff: Backoff::new(FIRST_DELAY, MOST_DELAY), last: HashMap::new() })),
        }
    }

    /// Asks plugins for credentials too.
    pub fn with_providers(self, providers: Option<Providers>) -> Images {
        Images { providers, ..self }
    }

    /// Remembers who pulled what.
    pub fn with_records(self, records: Option<PullRecords>) -> Images {
        Images { records, ..self }
    }

    /// Measures pulls there.
    pub fn with_metrics(self, metrics: Instruments) -> Images {
        Images { metrics, ..self }
    }

    fn tell(&self, about: &Reference, kind: events::Type, reason: &str, message: String) {
        self.recorder.tell(events::Event::new(about, kind, reason, message));
    }

    /// Makes sure that an image is there; the reference by which the runtime knows it.
    pub async fn ensure(&self, request: Request<'_>) -> Result<String, Waiting> {
        let image = request.image;
        let name = reference::with_default_tag(image).map_err(|error| {
            let message = format!("Failed to apply default image tag {image:?}: {error}");
            self.tell(request.about, events::Type::Warning, "InspectFailed", message.clone());
            waiting("InvalidImageName", message)
        })?;
        let spec = v1::ImageSpec {
            image: name,
            user_specified_image: image.to_owned(),
            annotations: request.pod.metadata.annotations.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            runtime_handler: request.runtime_handler.to_owned(),
        };
        if request.policy != "Always" {
            let found = self.find(&spec).await.map_err(|error| {
                let message = format!("Failed to inspect image {:?}: {error}", "");
                self.tell(request.about, events::Type::Warning, "InspectFailed", message.clone());
                waiting("ImageInspectError", message)
            })?;
            if let Some(found) = found
                && self.may_have(&request, &spec, &found).await.map_err(|error| waiting("ErrImagePull", error))?
            {
                let message = format!("Container image {image:?} already present on machine and can be accessed by the pod");
                self.tell(request.about, events::Type::Normal, "Pulled", message);
                return Ok(found);
            }
            // Whether an image is there that the pod may not have is not told.
            if request.policy == "Never" {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                self.tell(request.about, events::Type::Warning, "ErrImageNeverPull", message.clone());
                return Err(waiting("ErrImageNeverPull", message));
            }
        }
        self.pull(request, spec).await
    }

    /// Works with the records, if there are any, where that holds nobody up.
    async fn recorded<T: Send + 'static>(&self, work: impl FnOnce(&PullRecords) -> T + Send + 'static) -> Result<Option<T>, String> {
        let Some(records) = self.records.clone() else { return Ok(None) };
        tokio::task::spawn_blocking(move || work(&records)).await.map(Some).map_err(|error| error.to_string())
    }

    /// Whether the pod may have an image that is there without pulling it.
    async fn may_have(&self, request: &Request<'_>, spec: &v1::ImageSpec, found: &str) -> Result<bool, String> {
        let (image, image_ref) = (request.image.to_owned(), found.to_owned());
        let access = self.recorded(move |records| records.access(&image, &image_ref)).await?;
        let known = match access {
            None | Some(Access::Granted) => return Ok(true),
            Some(Access::Refused) => return Ok(false),
            Some(Access::Depends(known)) => known,
        };
        match known.worth(&self.credentials(request, spec).await?) {
            Worth::Refused => Ok(false),
            Worth::Granted { learnt } => {
                if let Some(credential) = learnt {
                    let (image, image_ref) = (request.image.to_owned(), found.to_owned());
                    if let Some(Err(error)) = self.recorded(move |records| records.learn(&image, &image_ref, &credential)).await? {
                        tracing::warn!(image = request.image, %error, "cannot remember who may have an image");
                    }
                }
                Ok(true)
            }
        }
    }

    /// What may be shown to the image's registry: the pod's secrets, the node's own, and what plugins give.
    async fn credentials(&self, request: &Request<'_>, spec: &v1::ImageSpec) -> Result<Vec<Credential>, String> {
        let repository = reference::parse(&spec.image).map_err(|error| error.to_string())?.repository;
        let mut found = Keyring::from_secrets(request.secrets.iter().map(Arc::as_ref)).lookup(&repository);
        found.extend(self.node_keyring.lookup(&repository));
        if let Some(providers) = &self.providers {
            found.extend(providers.lookup(&repository, request.pod).await);
        }
        Ok(found)
    }

    async fn find(&self, spec: &v1::ImageSpec) -> Result<Option<String>, cri::Error> {
        Ok(self.runtime.image_status(spec.clone(), false).await?.image.map(|image| image.id))
    }

    /// The user that an image says its containers run as.
    pub async fn user(&self, image_ref: &str) -> Result<(Option<i64>, String), cri::Error> {
        let spec = v1::ImageSpec { image: image_ref.to_owned(), ..Default::default() };
        let image = self.runtime.image_status(spec, false).await?.image.unwrap_or_default();
        // Upstream takes an image that says nothing for one that runs as root.
        Ok(match image.uid {
            Some(uid) => (Some(uid.value), String::new()),
            None if image.username.is_empty() => (Some(0), String::new()),
            None => (None, image.username),
        })
    }

    async fn pull(&self, request: Request<'_>, spec: v1::ImageSpec) -> Result<String, Waiting> {
        let image = request.image;
        let key = (request.pod.uid().to_owned(), image.to_owned());
        if let Some(message) = self.backing_off(&key, image) {
            self.tell(request.about, events::Type::Normal, "BackOff", message.clone());
            return Err(waiting("ImagePullBackOff", message));
        }
        let intended = image.to_owned();
        if let Some(Err(error)) =
            self.recorded(move |records| records.begin(&intended)).await.map_err(|error| waiting("ErrImagePull", error))?
        {
            let message = format!("Failed to record image pull intent for container image {image:?}: {error}");
            return Err(waiting("ErrImagePull", message));
        }
        self.tell(request.about, events::Type::Normal, "Pulling", format!("Pulling image {image:?}"));
        self.metrics.pulling(request.pod.uid());
        let asked = Instant::now();
        // The semaphore is never closed.
        let permit = self.gate.acquire().await.ok();
        let began = Instant::now();
        let result = self.pull_with_credentials(&request, &spec).await;
        let size = match &result {
            Ok(_) => self.size(&spec).await,
            Err(_) => 0,
        };
        let (took, with_waiting) = (began.elapsed(), asked.elapsed());
        drop(permit);
        let (ended, pulled) = (image.to_owned(), result.as_ref().ok().cloned());
        let recorded =
            self.recorded(move |records| records.end(&ended, pulled.as_ref().map(|(image_ref, used)| (image_ref.as_str(), used.as_ref()))));
        if let Ok(Some(Err(error))) = recorded.await {
            tracing::warn!(image, %error, "cannot write down how a pull ended");
        }
        match result {
            Ok((reference, _)) => {
                self.metrics.pulled(request.pod.uid(), size, with_waiting);
                let message = format!(
                    "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {size} bytes.",
                    milliseconds(took),
                    milliseconds(with_waiting),
                );
                self.tell(request.about, events::Type::Normal, "Pulled", message);
                Ok(reference)
            }
            Err(error) => {
                self.tell(request.about, events::Type::Warning, "Failed", format!("Failed to pull image {image:?}: {error}"));
                let failure = classify(image, &error);
                let now = Timestamp::now();
                let mut failures = self.failures.lock();
                failures.backoff.failed(&key, now, now);
                failures.last.insert(key, format!("{}: {}", failure.reason, failure.message));
                Err(failure)
            }
        }
    }

    fn backing_off(&self, key: &Key, image: &str) -> Option<String> {
        let mut failures = self.failures.lock();
        if failures.backoff.waits(key, Timestamp::now()).is_none() {
            failures.last.remove(key);
            return None;
        }
        let message = format!("Back-off pulling image {image:?}");
        Some(match failures.last.get(key) {
            Some(last) => format!("{message}: {last}"),
            None => message,
        })
    }

    async fn size(&self, spec: &v1::ImageSpec) -> u64 {
        let status = self.runtime.image_status(spec.clone(), false).await;
        status.ok().and_then(|response| response.image).map_or(0, |image| image.size)
    }

    /// The reference of the image, and what opened it.
    async fn pull_with_credentials(&self, request: &Request<'_>, spec: &v1::ImageSpec) -> Result<(String, Option<Credential>), String> {
        if !self.rate.lock().take(Instant::now()) {
            return Err("pull QPS exceeded".to_owned());
        }
        let found = self.credentials(request, spec).await?;
        let tries: Vec<Option<Credential>> = if found.is_empty() { vec![None] } else { found.into_iter().map(Some).collect() };
        let mut errors: Vec<String> = Vec::new();
        for credential in tries {
            let auth = credential.as_ref().map(|credential| credential.auth.clone());
            match self.runtime.pull_image(spec.clone(), auth, Some(request.sandbox.clone())).await {
                Ok(reference) => return Ok((reference, credential)),
                Err(error) => {
                    let text = error.to_string();
                    if !errors.contains(&text) {
                        errors.push(text);
                    }
                }
            }
        }
        Err(if errors.len() == 1 { errors.swap_remove(0) } else { format!("[{}]", errors.join(", ")) })
    }

    /// Forgets what is recorded of images that are not among these.
    pub async fn prune(&self, images: Vec<v1::Image>, listed: Timestamp) {
        match self.recorded(move |records| records.prune(&images, listed)).await {
            Ok(Some(Err(error))) => tracing::warn!(%error, "cannot forget records of images that are gone"),
            Err(error) => tracing::warn!(error, "cannot forget records of images that are gone"),
            Ok(_) => {}
        }
    }

    /// The pod is gone: its failures count no more.
    pub fn forget(&self, pod_uid: &str) {
        let mut failures = self.failures.lock();
        failures.backoff.retain(|(uid, _)| uid != pod_uid);
        failures.last.retain(|(uid, _), _| uid != pod_uid);
    }
}

fn waiting(reason: &str, message: String) -> Waiting {
    Waiting { reason: reason.to_owned(), message }
}

/// A duration as Go prints one that was cut to milliseconds.
fn milliseconds(duration: Duration) -> String {
    let whole = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 1_000_000);
    apimachinery::time::format_duration(whole.saturating_mul(1_000_000))
}

/// Runtimes begin some errors with a word of the interface, which then is the reason.
fn classify(image: &str, error: &str) -> Waiting {
    for (word, because) in
        [("RegistryUnavailable", "the registry is unavailable"), ("SignatureValidationFailed", "the signature validation failed")]
    {
        if let Some(rest) = error.strip_prefix(word) {
            return waiting(word, format!("image pull failed for {image} because {because}{rest}"));
        }
    }
    waiting("ErrImagePull", error.to_owned())
}

#[cfg(test)]
mod tests;
