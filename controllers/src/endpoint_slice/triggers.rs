//! When what the endpoints follow has changed: kube-proxy measures by it how long a change took to reach the network.

use std::collections::HashMap;

use client::{Object, ObjectKey};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

pub const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

#[derive(Default)]
struct Seen {
    service: Option<Timestamp>,
    /// By the pod's name.
    pods: HashMap<String, Timestamp>,
}

/// The trigger times that were seen with each service. It forgets services that are deleted.
#[derive(Default)]
pub struct Triggers {
    seen: Mutex<HashMap<ObjectKey, Seen>>,
}

impl Triggers {
    /// The earliest time of a change since the last call; for a new service, when it was created.
    pub fn since_last(&self, service: &Service, pods: &[impl AsRef<Pod>]) -> Option<Timestamp> {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let now = Seen {
            service: created,
            pods: pods.iter().filter_map(|pod| Some((pod.as_ref().name().to_owned(), ready_since(pod.as_ref())?))).collect(),
        };
        let mut seen = self.seen.lock();
        let Some(before) = seen.remove(&service.key()) else {
            seen.insert(service.key(), now);
            return created;
        };
        let pods = now.pods.iter().filter(|(name, time)| before.pods.get(*name).is_none_or(|old| old < time)).map(|(_, time)| *time);
        let earliest = pods.chain(created.filter(|time| before.service.is_none_or(|old| old < *time))).min();
        seen.insert(service.key(), now);
        earliest
    }

    pub fn forget(&self, service: &ObjectKey) {
        self.seen.lock().remove(service);
    }
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    Some(conditions.find(|condition| condition.type_ == "Ready")?.last_transition_time.as_ref()?.0)
}

/// Writes the time into the annotation, or takes the annotation off.
pub fn annotate(metadata: &mut ObjectMeta, trigger: Option<Timestamp>) {
    match trigger {
        Some(time) => {
            metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), time.to_string());
        }
        None => {
            if let Some(annotations) = &mut metadata.annotations {
                annotations.remove(ANNOTATION);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(name: &str, second: i64) -> Arc<Pod> {
        let condition = PodCondition { type_: "Ready".to_owned(), last_transition_time: Some(Time(at(second))), ..PodCondition::default() };
        let mut pod = Pod { status: Some(PodStatus { conditions: Some(vec![condition]), ..PodStatus::default() }), ..Pod::default() };
        pod.metadata.name = Some(name.to_owned());
        Arc::new(pod)
    }

    #[test]
    fn the_earliest_change_since_the_last_call_counts() {
        let triggers = Triggers::default();
        let mut service = Service::default();
        service.metadata.creation_timestamp = Some(Time(at(1)));
        assert_eq!(triggers.since_last(&service, &[pod("a", 5)]), Some(at(1)));
        assert_eq!(triggers.since_last(&service, &[pod("a", 5)]), None);
        assert_eq!(triggers.since_last(&service, &[pod("a", 9), pod("b", 7)]), Some(at(7)));
        triggers.forget(&service.key());
        assert_eq!(triggers.since_last(&service, &[pod("a", 9)]), Some(at(1)));
    }

    #[test]
    fn the_annotation_is_written_as_go_writes_times() {
        let mut metadata = ObjectMeta::default();
        annotate(&mut metadata, Some(at(1)));
        assert_eq!(metadata.annotations.as_ref().unwrap()[ANNOTATION], "1970-01-01T00:00:01Z");
        annotate(&mut metadata, None);
        assert!(metadata.annotations.unwrap().is_empty());
    }
}
