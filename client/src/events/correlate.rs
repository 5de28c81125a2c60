//! Events of core/v1 as client-go's correlator makes them: the same event again is counted, ten of a kind become one,
//! and a source that tells too much about an object is silenced.
//!
//! Pure: time is an argument, and what the server answered is told by [`Correlator::written`].

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Event, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::recent::Recent;

/// What is remembered of past events, per recorder and purpose.
const REMEMBERED: usize = 4096;
/// This many events that differ by their message alone become one.
const SIMILAR: usize = 10;
/// Unless so much time lies between two of them.
const SIMILAR_WITHIN_SECONDS: i64 = 600;
/// Events that a source may tell of an object at once, and the seconds in which it may tell one more.
const BURST: f64 = 25.0;
const SECONDS_PER_EVENT: f64 = 300.0;

/// Events of one kind.
struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

/// An event that the server has, or is about to have.
struct Seen {
    count: i32,
    first: Option<Time>,
    name: Option<String>,
}

/// What is left of a source's burst.
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// What is to be written.
#[derive(Debug, PartialEq)]
pub struct Write {
    /// To be created, or to be patched if there is a patch; created after all if that is not found.
    pub event: Event,
    pub patch: Option<Value>,
}

/// What a recorder knows of the events it has told.
pub struct Correlator {
    similar: Recent<Vec<String>, Similar>,
    seen: Recent<Vec<String>, Seen>,
    buckets: Recent<Vec<String>, Bucket>,
}

impl Default for Correlator {
    fn default() -> Correlator {
        Correlator { similar: Recent::new(REMEMBERED), seen: Recent::new(REMEMBERED), buckets: Recent::new(REMEMBERED) }
    }
}

impl Correlator {
    /// What to write for an event; nothing if its source has told too much.
    pub fn correlate(&mut self, event: Event, now: Timestamp) -> Option<Write> {
        let (event, key) = self.combine(event, now);
        let write = self.count(event, key);
        self.allows(&write.event, now).then_some(write)
    }

    /// The server has the event in this form now.
    pub fn written(&mut self, event: &Event) {
        self.seen.insert(exact_key(event), Seen::of(event));
    }

    /// The event itself, or what stands for it and those like it; and the key under which it is counted.
    fn combine(&mut self, event: Event, now: Timestamp) -> (Event, Vec<String>) {
        let key = similar_key(&event);
        let message = event.message.clone().unwrap_or_default();
        if self.similar.get_mut(&key).is_none_or(|s| now.as_second() - s.last.as_second() > SIMILAR_WITHIN_SECONDS) {
            self.similar.insert(key.clone(), Similar { messages: BTreeSet::new(), last: now });
        }
        let Some(similar) = self.similar.get_mut(&key) else {
            let exact = exact_key(&event);
            return (event, exact);
        };
        similar.messages.insert(message.clone());
        similar.last = now;
        if similar.messages.len() < SIMILAR {
            let exact = exact_key(&event);
            return (event, exact);
        }
        // The set grows no further, and the next distinct message is over the limit again.
        similar.messages.pop_first();
        let mut combined = Event {
            involved_object: event.involved_object,
            reason: event.reason,
            message: Some(format!("(combined from similar events): {message}")),
            type_: event.type_,
            source: event.source,
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            ..Event::default()
        };
        combined.metadata.name = Some(plain_name(&combined.involved_object, now));
        combined.metadata.namespace = event.metadata.namespace;
        (combined, key)
    }

    /// Counts the event up if it was seen before.
    fn count(&mut self, mut event: Event, key: Vec<String>) -> Write {
        let mut patch = None;
        if let Some(seen) = self.seen.get_mut(&key).filter(|seen| seen.count > 0) {
            event.metadata.name = seen.name.clone();
            event.first_timestamp = seen.first.clone();
            event.count = Some(seen.count.saturating_add(1));
            patch = Some(json!({ "count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message }));
        }
        self.seen.insert(key, Seen::of(&event));
        Write { event, patch }
    }

    fn allows(&mut self, event: &Event, now: Timestamp) -> bool {
        let key = source_key(event);
        if self.buckets.get_mut(&key).is_none() {
            self.buckets.insert(key.clone(), Bucket { tokens: BURST, at: now });
        }
        let Some(bucket) = self.buckets.get_mut(&key) else { return true };
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / SECONDS_PER_EVENT).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

impl Seen {
    fn of(event: &Event) -> Seen {
        Seen { count: event.count.unwrap_or(0), first: event.first_timestamp.clone(), name: event.metadata.name.clone() }
    }
}

/// `<object>.<nanoseconds in hex>`.
pub fn plain_name(about: &ObjectReference, now: Timestamp) -> String {
    format!("{}.{:x}", about.name.as_deref().unwrap_or(""), now.as_nanosecond())
}

fn source(event: &Event) -> [Option<&String>; 2] {
    let source = event.source.as_ref();
    [source.and_then(|s| s.component.as_ref()), source.and_then(|s| s.host.as_ref())]
}

fn key<'a>(parts: impl IntoIterator<Item = Option<&'a String>>) -> Vec<String> {
    parts.into_iter().map(|part| part.cloned().unwrap_or_default()).collect()
}

/// The same thing told again.
fn exact_key(event: &Event) -> Vec<String> {
    let about = &event.involved_object;
    let rest = [
        about.kind.as_ref(),
        about.namespace.as_ref(),
        about.name.as_ref(),
        about.field_path.as_ref(),
        about.uid.as_ref(),
        about.api_version.as_ref(),
        event.type_.as_ref(),
        event.reason.as_ref(),
        event.message.as_ref(),
    ];
    key(source(event).into_iter().chain(rest))
}

/// The same thing but for what it says in detail.
fn similar_key(event: &Event) -> Vec<String> {
    let about = &event.involved_object;
    let rest = [
        about.kind.as_ref(),
        about.namespace.as_ref(),
        about.name.as_ref(),
        about.uid.as_ref(),
        about.api_version.as_ref(),
        event.type_.as_ref(),
        event.reason.as_ref(),
        event.reporting_component.as_ref(),
        event.reporting_instance.as_ref(),
    ];
    key(source(event).into_iter().chain(rest))
}

/// Anything of this type that this source tells of this object.
fn source_key(event: &Event) -> Vec<String> {
    let about = &event.involved_object;
    let rest = [
        about.kind.as_ref(),
        about.namespace.as_ref(),
        about.name.as_ref(),
        about.uid.as_ref(),
        about.api_version.as_ref(),
        event.type_.as_ref(),
    ];
    key(source(event).into_iter().chain(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn event(reason: &str, message: &str, now: Timestamp) -> Event {
        let mut event = Event {
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            count: Some(1),
            type_: Some("Normal".to_owned()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            ..Event::default()
        };
        event.involved_object.name = Some("p".to_owned());
        event.metadata.name = Some(plain_name(&event.involved_object, now));
        event
    }

    #[test]
    fn the_same_event_again_is_counted_by_a_patch() {
        let mut correlator = Correlator::default();
        let first = correlator.correlate(event("Pulled", "m", at(0)), at(0)).unwrap();
        assert_eq!(first.patch, None);
        correlator.written(&first.event);
        let second = correlator.correlate(event("Pulled", "m", at(5)), at(5)).unwrap();
        assert_eq!(second.event.metadata.name, first.event.metadata.name);
        assert_eq!(second.event.first_timestamp, first.event.first_timestamp);
        let expect = json!({ "count": 2, "lastTimestamp": "1970-01-12T13:46:45Z", "message": "m" });
        assert_eq!(second.patch.unwrap(), expect);
        let other = correlator.correlate(event("Pulled", "another", at(6)), at(6)).unwrap();
        assert_eq!((other.patch, other.event.count), (None, Some(1)));
    }

    #[test]
    fn the_tenth_of_a_kind_within_ten_minutes_stands_for_all() {
        let mut correlator = Correlator::default();
        for n in 0..9 {
            let write = correlator.correlate(event("Failed", &n.to_string(), at(n)), at(n)).unwrap();
            assert_eq!(write.event.message.as_deref(), Some(n.to_string().as_str()));
        }
        let tenth = correlator.correlate(event("Failed", "9", at(9)), at(9)).unwrap();
        assert_eq!(tenth.event.message.as_deref(), Some("(combined from similar events): 9"));
        assert_eq!((tenth.patch, tenth.event.count), (None, Some(1)));
        let next = correlator.correlate(event("Failed", "10", at(10)), at(10)).unwrap();
        assert_eq!(next.event.metadata.name, tenth.event.metadata.name);
        assert_eq!(next.patch.unwrap()["message"], "(combined from similar events): 10");
        let later = correlator.correlate(event("Failed", "11", at(700)), at(700)).unwrap();
        assert_eq!(later.event.message.as_deref(), Some("11"));
    }

    #[test]
    fn a_source_may_tell_25_events_of_an_object_and_then_one_in_five_minutes() {
        let mut correlator = Correlator::default();
        let told = (0..40).filter(|n| correlator.correlate(event(&format!("R{n}"), "m", at(0)), at(0)).is_some()).count();
        assert_eq!(told, 25);
        assert_eq!(correlator.correlate(event("X", "m", at(299)), at(299)), None);
        assert!(correlator.correlate(event("Y", "m", at(301)), at(301)).is_some());
        assert_eq!(correlator.correlate(event("Z", "m", at(302)), at(302)), None);
    }

    #[test]
    fn names_are_the_object_and_nanoseconds() {
        let about = ObjectReference { name: Some("web-0".to_owned()), ..ObjectReference::default() };
        assert_eq!(plain_name(&about, Timestamp::from_nanosecond(0x18a5_b2c3_d4e5_f607).unwrap()), "web-0.18a5b2c3d4e5f607");
    }
}
