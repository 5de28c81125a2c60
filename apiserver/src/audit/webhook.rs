//! The audit webhook: batches of events posted to the server that a kubeconfig names, again and again if need be.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use kube::Client;
use kube::client::Body;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use rand::RngExt;

use super::event::Event;

/// Times a batch is posted, and how much longer each pause is than the one before.
const ATTEMPTS: u32 = 5;
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where events are posted.
pub struct Webhook {
    client: Client,
    initial_backoff: Duration,
}

impl Webhook {
    pub async fn open(path: &Path, initial_backoff: Duration) -> Result<Webhook, String> {
        let kubeconfig = Kubeconfig::read_from(path).map_err(|error| error.to_string())?;
        let mut config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(|error| error.to_string())?;
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| error.to_string())?;
        Ok(Webhook { client, initial_backoff })
    }

    /// Posts events as one list. The error is that of the last attempt.
    pub async fn post(&self, events: &[Arc<Event>]) -> Result<(), String> {
        let body = list(events);
        let mut pause = self.initial_backoff;
        let mut attempt = 1;
        loop {
            let why = match self.once(body.clone()).await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            if attempt == ATTEMPTS {
                return Err(why);
            }
            tracing::debug!(attempt, why, "audit events were not taken");
            let jitter = JITTER * rand::rng().random::<f64>();
            tokio::time::sleep(pause.mul_f64(1.0 + jitter)).await;
            pause = pause.mul_f64(FACTOR);
            attempt += 1;
        }
    }

    async fn once(&self, body: Bytes) -> Result<(), String> {
        let request = Request::post("").header(CONTENT_TYPE, "application/json").header("accept", "application/json, */*");
        let request = request.body(Body::from(body.to_vec())).map_err(|error| error.to_string())?;
        match tokio::time::timeout(TIMEOUT, self.client.send(request)).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(format!("the server answered {}", response.status())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("context deadline exceeded".to_owned()),
        }
    }
}

fn list(events: &[Arc<Event>]) -> Bytes {
    let mut out = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&event.item());
    }
    out.extend_from_slice(b"]}\n");
    out.into()
}
