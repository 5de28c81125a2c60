//! The shell: takes events from a recorder's queue, writes them, and tries again while the server is not to be reached.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event as CoreEvent, EventSource};
use k8s_openapi::api::events::v1::Event as SeriesEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Error};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, interval_at};

use super::correlate::{Correlator, Write, plain_name};
use super::series::Series;
use super::{Event, Type};
use crate::Shutdown;
use crate::answer::{is_already_exists, is_not_found};
use crate::chance;
use crate::clock;

/// How often an event is tried to be written, and the wait between two tries.
const MAX_TRIES: usize = 12;
const RETRY_DELAY: Duration = Duration::from_secs(10);
/// Events of the newer kind that are being written at once.
const MAX_IN_FLIGHT: usize = 16;
const FINISH_PERIOD: Duration = Duration::from_secs(6 * 60);
const REFRESH_PERIOD: Duration = Duration::from_secs(30 * 60);
/// Bytes of a note that the API takes.
const NOTE_LIMIT: usize = 1024;

/// An event and when it was told.
pub type Told = (Event, Timestamp);

fn type_name(kind: Type) -> String {
    match kind {
        Type::Normal => "Normal".to_owned(),
        Type::Warning => "Warning".to_owned(),
    }
}

/// The name of an event. Objects may have names that events cannot have.
fn name(event: &Event, now: Timestamp) -> String {
    let name = plain_name(&event.about, now);
    if apimachinery::validation::name_is_dns_subdomain(&name, false).is_empty() { name } else { chance::unique_name() }
}

/// Where an event lives: with its object, and for objects without a namespace in `default`.
fn namespace(event: &Event) -> String {
    event.about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned())
}

/// Writes core/v1 events, one after another.
pub async fn core(client: Client, source: EventSource, mut told: Receiver<Told>, shutdown: Shutdown) {
    let mut correlator = Correlator::default();
    loop {
        let next = tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            next = told.recv() => next,
        };
        let Some((event, at)) = next else { return };
        tracing::debug!(
            object = %crate::ObjectKey::new(event.about.namespace.as_deref().unwrap_or(""), event.about.name.as_deref().unwrap_or("")),
            kind = event.about.kind.as_deref().unwrap_or(""),
            r#type = type_name(event.kind),
            reason = event.reason,
            message = event.message,
            "event occurred"
        );
        let Some(write) = correlator.correlate(core_event(event, &source, at), at) else { continue };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            written = persistently(|| write_core(&client, &write)) => {
                if let Some(event) = written {
                    correlator.written(&event);
                }
            }
        }
    }
}

fn core_event(event: Event, source: &EventSource, at: Timestamp) -> CoreEvent {
    let mut made = CoreEvent {
        count: Some(1),
        first_timestamp: Some(Time(at)),
        last_timestamp: Some(Time(at)),
        reporting_component: Some(source.component.clone().unwrap_or_default()),
        reporting_instance: Some(source.host.clone().unwrap_or_default()),
        source: Some(source.clone()),
        type_: Some(type_name(event.kind)),
        ..CoreEvent::default()
    };
    made.metadata.name = Some(name(&event, at));
    made.metadata.namespace = Some(namespace(&event));
    made.metadata.annotations = (!event.annotations.is_empty()).then_some(event.annotations);
    made.reason = Some(event.reason);
    made.message = Some(event.message);
    made.involved_object = event.about;
    made
}

async fn write_core(client: &Client, write: &Write) -> Result<CoreEvent, Error> {
    let Write { event, patch } = write;
    let api: Api<CoreEvent> = Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
    if let (Some(patch), Some(name)) = (patch, &event.metadata.name) {
        match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(error) if is_not_found(&error) => {}
            answered => return answered,
        }
    }
    api.create(&PostParams::default(), event).await
}

/// Writes events.k8s.io/v1 events, several at once.
pub async fn series(client: Client, controller: String, instance: String, mut told: Receiver<Told>, shutdown: Shutdown) {
    let mut series = Series::default();
    let slots = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let start = Instant::now();
    let mut finish = interval_at(start + FINISH_PERIOD, FINISH_PERIOD);
    let mut refresh = interval_at(start + REFRESH_PERIOD, REFRESH_PERIOD);
    loop {
        let to_write = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = finish.tick() => series.finish(clock::now()),
            _ = refresh.tick() => series.refresh(),
            next = told.recv() => match next {
                Some((event, at)) => series.observe(series_event(event, &controller, &instance, at), at).into_iter().collect(),
                None => return,
            },
        };
        for event in to_write {
            let slot = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                slot = slots.clone().acquire_owned() => slot,
            };
            let (client, shutdown) = (client.clone(), shutdown.clone());
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => {}
                    _ = persistently(|| write_series(&client, &event)) => {}
                }
                drop(slot);
            });
        }
    }
}

fn series_event(event: Event, controller: &str, instance: &str, at: Timestamp) -> SeriesEvent {
    let mut made = SeriesEvent {
        event_time: Some(MicroTime(at)),
        reporting_controller: Some(controller.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(type_name(event.kind)),
        ..SeriesEvent::default()
    };
    made.metadata.name = Some(name(&event, at));
    made.metadata.namespace = Some(namespace(&event));
    made.metadata.annotations = (!event.annotations.is_empty()).then_some(event.annotations);
    made.action = Some(event.action);
    made.reason = Some(event.reason);
    made.note = Some(shortened(event.message));
    made.regarding = Some(event.about);
    made.related = event.related;
    made
}

/// The note cut to what the API takes, with a sign that it was cut.
fn shortened(mut note: String) -> String {
    const CUT: &str = " ...";
    if note.len() > NOTE_LIMIT {
        note.truncate(note.floor_char_boundary(NOTE_LIMIT - CUT.len()));
        note.push_str(CUT);
    }
    note
}

async fn write_series(client: &Client, event: &SeriesEvent) -> Result<SeriesEvent, Error> {
    let api: Api<SeriesEvent> = Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
    let (Some(series), Some(name)) = (&event.series, &event.metadata.name) else {
        return api.create(&PostParams::default(), event).await;
    };
    let patch = json!({ "series": series });
    match api.patch(name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
        Err(error) if is_not_found(&error) => {}
        answered => return answered,
    }
    match api.create(&PostParams::default(), event).await {
        // The first of the series was on its way just now.
        Err(error) if is_already_exists(&error) => api.patch(name, &PatchParams::default(), &Patch::Strategic(&patch)).await,
        answered => answered,
    }
}

/// Tries until the server has answered, whatever it says, or patience ends. Nothing if it does not have the event.
async fn persistently<T, F>(mut write: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<T, Error>>,
{
    for tries in 1..=MAX_TRIES {
        match write().await {
            Ok(written) => return Some(written),
            Err(Error::Api(status)) => {
                tracing::debug!(reason = status.reason, message = status.message, "server rejected event, it is dropped");
                return None;
            }
            Err(error) => {
                tracing::debug!(%error, tries, "unable to write event");
                // The first wait is of any length, so that clients of a server that was gone do not all come back at once.
                let part = if tries == 1 { chance::fraction() } else { 1.0 };
                tokio::time::sleep(RETRY_DELAY.mul_f64(part)).await;
            }
        }
    }
    tracing::warn!("unable to write event, retry limit exceeded");
    None
}
