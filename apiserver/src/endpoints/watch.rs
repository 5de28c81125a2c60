//! Watches: a stream of events from a cursor on the resource's log.
//!
//! A watch holds a place in the log and one frame at a time, never a queue. It ends when its time is over, when the
//! server shuts down, when the client goes, or when the log has moved on past it (410 Expired).

use std::sync::Arc;
use std::time::Duration;

use apimachinery::json;
use apimachinery::protobuf::{self, envelope};
use apimachinery::status::Status;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::StatusCode;
use rand::RngExt;
use serde_json::Value;

use super::negotiate::{Encoding, Form, Transform};
use super::options::{ListOptions, VersionMatch};
use super::present::{Presenter, include_object};
use super::select::Filter;
use super::{Answer, Call, list, negotiate, respond, versions};
use crate::api::Api;
use crate::flow_control::held::Held;
use crate::metrics::watches::Events;
use crate::registry::table::IncludeObject;
use crate::storage::{Cursor, Event, EventKind, Freshness, Object, Revision, Scope};

/// Bookmarks come about this often.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Bytes of events sent at a time when many are waiting.
const BATCH_BYTES: usize = 64 * 1024;

/// A watch without `timeoutSeconds` lives between `least` and twice that, so that watches do not all end at once.
fn lifetime(least: Duration) -> Duration {
    least.mul_f64(1.0 + rand::rng().random::<f64>())
}

/// Starts a watch and answers with its stream.
pub async fn watch(call: &mut Call, deprecated_path: bool) -> Answer {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), call.offer(negotiate::Offer::WATCH))?;
    let options = ListOptions::parse(&call.query, deprecated_path)?;
    let mut field_selector = options.field_selector.clone();
    if !call.name().is_empty() && !field_selector.contains("metadata.name=") {
        if !field_selector.is_empty() {
            field_selector.push(',');
        }
        field_selector.push_str(&format!("metadata.name={}", call.name()));
    }
    let filter = Filter::parse(&call.resource, call.namespace(), &options.label_selector, &field_selector)?;
    let include = include_object(&form, &options.include_object)?;
    let start = Start::open(call, &options, &filter).await?;
    let timeout = match options.timeout_seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => lifetime(call.api.told.min_request_timeout),
    };
    let seat = call.request.seat.take().filter(|_| !start.initial.is_empty());
    let mut stream = Watch::new(call, form.clone(), include, filter, start, options.allow_bookmarks, timeout);
    stream.seat = seat;
    let media_type = match form.encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    let mut response = respond::bytes(StatusCode::OK, media_type, Bytes::new());
    *response.body_mut() = Body::from_stream(stream::unfold(stream, |mut watch| async move {
        watch.chunk().await.map(|c| (Ok::<_, std::convert::Infallible>(c), watch))
    }));
    Ok(response)
}

/// Where a watch begins.
struct Start {
    /// Objects that are told as added before anything else.
    initial: Vec<Arc<Object>>,
    /// The revision of a bookmark that ends the initial events, if the client asked for it.
    end_bookmark: Option<Revision>,
    /// The error that the stream begins (and ends) with.
    error: Option<Status>,
    cursor: Option<Cursor>,
}

impl Start {
    async fn open(call: &Call, options: &ListOptions, filter: &Filter) -> Result<Start, Status> {
        let cache = call.cache()?;
        let revision = match options.resource_version.as_str() {
            "" => 0,
            text => text.parse().map_err(|_| Status::unknown(list::no_revision(text)))?,
        };
        let by_webhook = call.resource.webhook.is_some();
        let scope = scope(filter, by_webhook);
        let explicit = options.send_initial_events;
        let wants_state = explicit == Some(true) || (explicit.is_none() && revision == 0);
        if !wants_state {
            let from_now = revision == 0;
            if from_now {
                let (_, cursor) = cache.list_and_watch(scope);
                return Ok(Start { initial: Vec::new(), end_bookmark: None, error: None, cursor: Some(cursor) });
            }
            if explicit.is_some() && options.version_match == VersionMatch::NotOlderThan {
                call.api.storage.wait_until(Revision(revision)).await.map_err(|e| call.storage_error(e, ""))?;
            }
            return Ok(match cache.watch(scope, Revision(revision)) {
                Ok(cursor) => Start { initial: Vec::new(), end_bookmark: None, error: None, cursor: Some(cursor) },
                Err(expired) => {
                    let status = Status::watch_expired(expired.requested.0, expired.oldest.0);
                    Start { initial: Vec::new(), end_bookmark: None, error: Some(status), cursor: None }
                }
            });
        }
        let freshness = match (options.resource_version.as_str(), revision) {
            ("", _) => Freshness::Latest,
            (_, 0) => Freshness::Any,
            (_, revision) => Freshness::NotOlderThan(Revision(revision)),
        };
        // Waits for the freshness; the snapshot itself is taken together with the cursor.
        call.api.storage.list(cache, freshness).await.map_err(|e| call.storage_error(e, ""))?;
        let (snapshot, cursor) = cache.list_and_watch(scope);
        let range = filter.exact_namespace().unwrap_or("");
        let initial = if by_webhook {
            let candidates = snapshot.range(range, None).filter(|o| filter.may_match(o)).cloned().collect();
            let mut converted = versions::read_all(&call.api, &call.resource, candidates).await?;
            converted.retain(|o| filter.matches(o));
            converted
        } else {
            snapshot.range(range, None).filter(|o| filter.matches(o)).cloned().collect()
        };
        let ends = explicit == Some(true) && options.allow_bookmarks;
        Ok(Start { initial, end_bookmark: ends.then(|| snapshot.revision()), error: None, cursor: Some(cursor) })
    }
}

/// The narrowest topic of the log that has every event which the filter can match. Where a webhook converts, the log knows the
/// fields of other versions.
fn scope(filter: &Filter, by_webhook: bool) -> Scope {
    if let Some(name) = filter.exact_name() {
        return Scope::Name(name.into());
    }
    if let (Some((n, value)), false) = (filter.exact_field(), by_webhook) {
        return Scope::Field(n, value.into());
    }
    match filter.exact_namespace() {
        Some(namespace) => Scope::Namespace(namespace.into()),
        None => Scope::All,
    }
}

/// A watch under way.
struct Watch {
    api: Arc<Api>,
    resource: Arc<crate::catalog::Resource>,
    form: Form,
    include: IncludeObject,
    filter: Filter,
    initial: std::vec::IntoIter<Arc<Object>>,
    end_bookmark: Option<Revision>,
    error: Option<Status>,
    cursor: Option<Cursor>,
    bookmarks: bool,
    deadline: tokio::time::Instant,
    next_bookmark: tokio::time::Instant,
    shutdown: tokio::sync::watch::Receiver<bool>,
    /// No Table has been sent yet, so that the first one brings the columns.
    first: bool,
    /// The right to run, kept until the initial events were taken.
    seat: Option<Held>,
    counted: Events,
}

/// What wakes a watch.
enum Wake {
    Events(Vec<Arc<Event>>),
    Expired(Status),
    Bookmark,
    End,
}

impl Watch {
    fn new(call: &Call, form: Form, include: IncludeObject, filter: Filter, start: Start, bookmarks: bool, timeout: Duration) -> Watch {
        let now = tokio::time::Instant::now();
        Watch {
            api: call.api.clone(),
            resource: call.resource.clone(),
            form,
            include,
            filter,
            initial: start.initial.into_iter(),
            end_bookmark: start.end_bookmark,
            error: start.error,
            cursor: start.cursor,
            bookmarks,
            deadline: now + timeout,
            next_bookmark: now + BOOKMARK_INTERVAL,
            shutdown: call.api.shutdown.clone(),
            first: true,
            seat: None,
            counted: call.api.metrics.watches.of(call.resource.group(), &call.resource.gvk.version, &call.resource.plural),
        }
    }

    /// The next bytes, or `None` at the end.
    async fn chunk(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while let Some(object) = self.initial.next() {
            self.event(&mut out, EventKind::Added, &object);
            if out.len() >= BATCH_BYTES {
                return Some(out.freeze());
            }
        }
        self.seat = None;
        if let Some(revision) = self.end_bookmark.take() {
            self.bookmark(&mut out, revision, true);
        }
        if !out.is_empty() {
            return Some(out.freeze());
        }
        if let Some(status) = self.error.take() {
            self.cursor = None;
            return Some(self.error_frame(&status));
        }
        loop {
            match self.wake().await {
                Wake::Events(events) => {
                    let events = if self.resource.webhook.is_some() { self.converted(events).await? } else { events };
                    for event in events {
                        if let Some((kind, object)) = event.seen_by(|o| self.filter.matches(o)) {
                            let object = object.clone();
                            self.event(&mut out, kind, &object);
                        }
                    }
                }
                Wake::Bookmark => {
                    self.next_bookmark += BOOKMARK_INTERVAL;
                    if let Some(revision) = self.cursor.as_mut().and_then(Cursor::bookmark) {
                        self.bookmark(&mut out, revision, false);
                    }
                }
                Wake::Expired(status) => {
                    self.cursor = None;
                    return Some(self.error_frame(&status));
                }
                Wake::End => return None,
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
            if let Some(status) = self.error.take() {
                self.cursor = None;
                return Some(self.error_frame(&status));
            }
        }
    }

    /// Events as a webhook converts them, in their order. `None` if the watch ends meanwhile. After an event that cannot be converted
    /// the watch ends with an error: its client has seen all before, and goes on from there.
    async fn converted(&mut self, events: Vec<Arc<Event>>) -> Option<Vec<Arc<Event>>> {
        let (events, failure) = tokio::select! {
            biased;
            _ = self.shutdown.wait_for(|stop| *stop) => return None,
            () = tokio::time::sleep_until(self.deadline) => return None,
            converted = versions::read_events(&self.api, &self.resource, &self.filter, events) => converted,
        };
        if failure.is_some() {
            self.error = failure;
        }
        Some(events)
    }

    async fn wake(&mut self) -> Wake {
        let Some(cursor) = &mut self.cursor else { return Wake::End };
        let bookmark_at = if self.bookmarks { self.next_bookmark } else { self.deadline };
        tokio::select! {
            biased;
            _ = self.shutdown.wait_for(|stop| *stop) => Wake::End,
            () = tokio::time::sleep_until(self.deadline) => Wake::End,
            events = cursor.next() => match events {
                Ok(events) => Wake::Events(events),
                Err(expired) => Wake::Expired(Status::watch_expired(expired.requested.0, expired.oldest.0)),
            },
            () = tokio::time::sleep_until(bookmark_at), if self.bookmarks => Wake::Bookmark,
        }
    }

    fn presenter(&self) -> Presenter<'_> {
        Presenter { resource: &self.resource, form: &self.form, include_object: self.include, now: jiff::Timestamp::now() }
    }

    fn event(&mut self, out: &mut BytesMut, kind: EventKind, object: &Object) {
        let name = match kind {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
        };
        match self.presenter().event_object(object, self.first) {
            Ok(body) => self.frame(out, name, &body),
            Err(status) => self.error = Some(status),
        }
        self.first = false;
    }

    fn frame(&self, out: &mut BytesMut, kind: &str, object: &[u8]) {
        let before = out.len();
        if self.form.encoding == Encoding::Protobuf {
            out.extend_from_slice(&envelope::watch_frame(kind, object));
        } else {
            out.extend_from_slice(b"{\"type\":\"");
            out.extend_from_slice(kind.as_bytes());
            out.extend_from_slice(b"\",\"object\":");
            out.extend_from_slice(object);
            out.extend_from_slice(b"}\n");
        }
        self.counted.told(out.len() - before);
    }

    /// A bookmark: an empty object of the resource's kind with a resourceVersion.
    fn bookmark(&mut self, out: &mut BytesMut, revision: Revision, ends_initial: bool) {
        let mut metadata = serde_json::Map::new();
        metadata.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
        if ends_initial {
            metadata.insert("annotations".to_owned(), serde_json::json!({ "k8s.io/initial-events-end": "true" }));
        }
        let mut object = serde_json::json!({
            "kind": &*self.resource.gvk.kind,
            "apiVersion": self.resource.api_version(),
            "metadata": metadata,
        });
        apimachinery::schema::canonical::canonicalize(
            &self.resource.types,
            self.resource.type_id,
            &mut object,
            apimachinery::schema::canonical::Empties::Drop,
        );
        match self.presenter().event_value(&object, self.first) {
            Ok(body) => self.frame(out, "BOOKMARK", &body),
            Err(status) => self.error = Some(status),
        }
        if matches!(self.form.transform, Transform::Table(_)) {
            self.first = false;
        }
    }

    fn error_frame(&self, status: &Status) -> Bytes {
        let value = status.to_value();
        let mut out = BytesMut::new();
        match self.form.encoding {
            Encoding::Protobuf => match protobuf::builtin().encode_object(&value) {
                Ok(body) => self.frame(&mut out, "ERROR", &body),
                Err(error) => tracing::error!(%error, "a Status could not be encoded"),
            },
            _ => self.frame(&mut out, "ERROR", &json::to_vec(&value)),
        }
        out.freeze()
    }
}
