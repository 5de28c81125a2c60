//! Images: whether one is there, and pulling it if it is not.
//!
//! Tells events about pulls and knows the reasons of containers that wait for an image. What is pulled goes through one gate, so that
//! no more is pulled at once, and no faster, than the configuration says.

pub mod credentials;
pub mod gc;
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
use crate::status::Waiting;
use credentials::Keyring;

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
            gate: Arc::new(Semaphore::new(limits.parallel.unwrap_or(Semaphore::MAX_PERMITS))),
            rate: Arc::new(Mutex::new(rate)),
            failures: Arc::new(Mutex::new(Failures { backoff: Backoff::new(FIRST_DELAY, MOST_DELAY), last: HashMap::new() })),
        }
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
            if let Some(found) = found {
                let message = format!("Container image {image:?} already present on machine and can be accessed by the pod");
                self.tell(request.about, events::Type::Normal, "Pulled", message);
                return Ok(found);
            }
            if request.policy == "Never" {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                self.tell(request.about, events::Type::Warning, "ErrImageNeverPull", message.clone());
                return Err(waiting("ErrImageNeverPull", message));
            }
        }
        self.pull(request, spec).await
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
        self.tell(request.about, events::Type::Normal, "Pulling", format!("Pulling image {image:?}"));
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
        match result {
            Ok(reference) => {
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

    async fn pull_with_credentials(&self, request: &Request<'_>, spec: &v1::ImageSpec) -> Result<String, String> {
        if !self.rate.lock().take(Instant::now()) {
            return Err("pull QPS exceeded".to_owned());
        }
        let repository = reference::parse(&spec.image).map_err(|error| error.to_string())?.repository;
        let mut auths = Keyring::from_secrets(request.secrets.iter().map(Arc::as_ref)).lookup(&repository);
        auths.extend(self.node_keyring.lookup(&repository));
        let tries: Vec<Option<v1::AuthConfig>> = if auths.is_empty() { vec![None] } else { auths.into_iter().map(Some).collect() };
        let mut errors: Vec<String> = Vec::new();
        for auth in tries {
            match self.runtime.pull_image(spec.clone(), auth, Some(request.sandbox.clone())).await {
                Ok(reference) => return Ok(reference),
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
