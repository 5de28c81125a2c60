//! Recorders against an API that keeps what it is sent, and can be out of reach.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event as CoreEvent, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::fake_api::{Answer, FakeApi, Seen};
use crate::object::Object;

fn pod(name: &str) -> Reference {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("d".to_owned());
    pod.metadata.uid = Some("u".to_owned());
    Object::reference(&pod)
}

/// An API that has every event that was created.
fn keeping() -> FakeApi {
    let kept: Arc<Mutex<Vec<Value>>> = Arc::default();
    FakeApi::new(move |seen: &Seen| {
        let mut kept = kept.lock();
        match seen.method.as_str() {
            "POST" => {
                kept.push(seen.body.clone());
                Answer::ok(seen.body.clone())
            }
            "PATCH" => {
                let name = seen.path.rsplit('/').next().unwrap_or("");
                let Some(object) = kept.iter_mut().find(|o| o["metadata"]["name"] == name) else { return Answer::not_found() };
                for (key, value) in seen.body.as_object().into_iter().flatten() {
                    object[key.as_str()] = value.clone();
                }
                Answer::ok(object.clone())
            }
            other => panic!("unexpected {other}"),
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_recorder_creates_an_event_and_counts_it_up() {
    let api = keeping();
    let recorder = Recorder::new(api.client(), "kubelet", "n1", Shutdown::new());
    recorder.normal(&pod("p"), "Pulled", "pulled it");
    recorder.normal(&pod("p"), "Pulled", "pulled it");
    let seen = api.wait_for(2).await;
    assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("POST", "/api/v1/namespaces/d/events"));
    let event: CoreEvent = serde_json::from_value(seen[0].body.clone()).unwrap();
    let name = event.metadata.name.unwrap();
    assert!(name.starts_with("p.") && u64::from_str_radix(&name[2..], 16).is_ok(), "{name}");
    assert_eq!((event.type_.as_deref(), event.reason.as_deref(), event.count), (Some("Normal"), Some("Pulled"), Some(1)));
    assert_eq!(event.source, Some(EventSource { component: Some("kubelet".into()), host: Some("n1".into()) }));
    assert_eq!((event.reporting_component.as_deref(), event.reporting_instance.as_deref()), (Some("kubelet"), Some("n1")));
    assert_eq!(event.involved_object.uid.as_deref(), Some("u"));
    assert_eq!((seen[1].method.as_str(), seen[1].path.clone()), ("PATCH", format!("/api/v1/namespaces/d/events/{name}")));
    assert_eq!((&seen[1].body["count"], &seen[1].body["message"]), (&json!(2), &json!("pulled it")));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_has_gone_is_created_anew() {
    let api = FakeApi::new(|seen: &Seen| if seen.method == "PATCH" { Answer::not_found() } else { Answer::ok(seen.body.clone()) });
    let recorder = Recorder::new(api.client(), "c", "", Shutdown::new());
    recorder.normal(&pod("p"), "R", "m");
    recorder.normal(&pod("p"), "R", "m");
    let seen = api.wait_for(3).await;
    assert_eq!(seen.iter().map(|s| s.method.as_str()).collect::<Vec<_>>(), ["POST", "PATCH", "POST"]);
    assert_eq!(seen[2].body["count"], 2);
}

#[tokio::test(start_paused = true)]
async fn while_the_server_is_out_of_reach_an_event_is_tried_again_and_when_it_refuses_dropped() {
    let tries = Arc::new(Mutex::new(0));
    let counted = tries.clone();
    let api = FakeApi::new(move |seen: &Seen| {
        *counted.lock() += 1;
        match *counted.lock() {
            1..=3 => Answer::unreachable(),
            4 => Answer::forbidden(),
            _ => Answer::ok(seen.body.clone()),
        }
    });
    let recorder = Recorder::new(api.client(), "c", "", Shutdown::new());
    recorder.normal(&pod("p"), "First", "m");
    recorder.normal(&pod("q"), "Second", "m");
    let start = tokio::time::Instant::now();
    let seen = api.wait_for(5).await;
    assert_eq!(seen.iter().map(|s| s.body["reason"].as_str().unwrap()).collect::<Vec<_>>(), ["First", "First", "First", "First", "Second"]);
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(20) && waited <= Duration::from_secs(31), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_happens_again_is_a_series_in_the_newer_api() {
    let api = keeping();
    let recorder = Recorder::with_actions(api.client(), "default-scheduler", "host", Shutdown::new());
    let event = Event::new(&pod("p"), Type::Warning, "FailedScheduling", "x".repeat(2000)).with_action("Scheduling");
    recorder.tell(event.clone());
    let created = api.wait_for(1).await.remove(0);
    assert_eq!(created.path, "/apis/events.k8s.io/v1/namespaces/d/events");
    assert_eq!(created.body["reportingInstance"], "default-scheduler-host");
    assert_eq!((&created.body["action"], created.body["note"].as_str().unwrap().len()), (&json!("Scheduling"), 1024));
    recorder.tell(event.clone());
    recorder.tell(event);
    let seen = api.wait_for(2).await;
    assert_eq!((seen[1].method.as_str(), &seen[1].body["series"]["count"]), ("PATCH", &json!(2)));
    // The third is told when the series is over.
    tokio::time::sleep(Duration::from_secs(31 * 60)).await;
    let seen = api.wait_for(3).await;
    assert_eq!(seen[2].body["series"]["count"], 3);
}
