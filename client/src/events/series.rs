//! Events of events.k8s.io/v1 as client-go's broadcaster makes them: what happens again is a series.
//!
//! Pure: time is an argument. A series is written when it begins, every half hour, and when it is over.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::recent::Recent;

/// Events that may become series.
const REMEMBERED: usize = 4096;
/// What has not happened for so long is over.
const OVER_AFTER: SignedDuration = SignedDuration::from_mins(6);

/// Everything that makes two events the same, which the note and the times are not.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    words: [Option<String>; 5],
    regarding: Vec<Option<String>>,
    related: Vec<Option<String>>,
}

/// The events told lately.
pub struct Series {
    told: Recent<Key, Event>,
}

impl Default for Series {
    fn default() -> Series {
        Series { told: Recent::new(REMEMBERED) }
    }
}

impl Series {
    /// What to write for an event: itself, or the series that begins with it; nothing for a later one.
    pub fn observe(&mut self, event: Event, now: Timestamp) -> Option<Event> {
        let key = key(&event);
        let Some(known) = self.told.get_mut(&key) else {
            self.told.insert(key, event.clone());
            return Some(event);
        };
        let last_observed_time = MicroTime(now);
        match &mut known.series {
            Some(series) => {
                series.count = series.count.saturating_add(1);
                series.last_observed_time = last_observed_time;
                None
            }
            None => {
                known.series = Some(EventSeries { count: 2, last_observed_time });
                Some(known.clone())
            }
        }
    }

    /// Forgets what is over; of series the last state is to be written.
    pub fn finish(&mut self, now: Timestamp) -> Vec<Event> {
        let is_over = |at: Timestamp| now.duration_since(at) > OVER_AFTER;
        let mut last = Vec::new();
        self.told.retain(|event| match &event.series {
            Some(series) if is_over(series.last_observed_time.0) => {
                last.push(event.clone());
                false
            }
            Some(_) => true,
            None => !event.event_time.as_ref().is_none_or(|at| is_over(at.0)),
        });
        last
    }

    /// The series that go on, to be written so that they do not expire.
    pub fn refresh(&self) -> Vec<Event> {
        self.told.values().filter(|event| event.series.is_some()).cloned().collect()
    }
}

fn parts(reference: Option<&ObjectReference>) -> Vec<Option<String>> {
    let Some(r) = reference else { return Vec::new() };
    let (api_version, kind, namespace, name) = (&r.api_version, &r.kind, &r.namespace, &r.name);
    [api_version, kind, namespace, name, &r.uid, &r.resource_version, &r.field_path].into_iter().cloned().collect()
}

fn key(event: &Event) -> Key {
    let words = [&event.type_, &event.action, &event.reason, &event.reporting_controller, &event.reporting_instance];
    Key { words: words.map(Clone::clone), regarding: parts(event.regarding.as_ref()), related: parts(event.related.as_ref()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn event(reason: &str, now: Timestamp) -> Event {
        Event { reason: Some(reason.to_owned()), event_time: Some(MicroTime(now)), ..Event::default() }
    }

    #[test]
    fn the_second_event_begins_a_series_and_later_ones_are_only_counted() {
        let mut series = Series::default();
        assert_eq!(series.observe(event("a", at(0)), at(0)).unwrap().series, None);
        let second = series.observe(event("a", at(1)), at(1)).unwrap();
        assert_eq!(second.series, Some(EventSeries { count: 2, last_observed_time: MicroTime(at(1)) }));
        assert_eq!(second.event_time, Some(MicroTime(at(0))));
        assert_eq!(series.observe(event("a", at(2)), at(2)), None);
        assert!(series.observe(event("b", at(2)), at(2)).is_some());
        let refreshed: Vec<i32> = series.refresh().iter().filter_map(|e| e.series.as_ref()).map(|s| s.count).collect();
        assert_eq!(refreshed, [3]);
    }

    #[test]
    fn what_has_not_happened_for_six_minutes_is_over() {
        let mut series = Series::default();
        for (reason, second) in [("a", 0), ("a", 10), ("b", 0), ("c", 300)] {
            series.observe(event(reason, at(second)), at(second));
        }
        let over = series.finish(at(371));
        assert_eq!(over.iter().map(|e| e.series.as_ref().map(|s| s.count)).collect::<Vec<_>>(), [Some(2)]);
        assert_eq!(series.told.len(), 1);
    }
}
