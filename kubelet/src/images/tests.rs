use client::events::Recorder;
use serde_json::json;

use super::*;
use crate::cri::fake::{Fake, Simulation};

fn images(simulation: Simulation) -> (Images, tokio::sync::mpsc::Receiver<events::Event>) {
    let (recorder, told) = Recorder::recording();
    let limits = Limits { parallel: Some(1), qps: 0, burst: 0 };
    (Images::new(Arc::new(Fake::new(simulation)), recorder, Keyring::default(), limits), told)
}

async fn ensure(images: &Images, image: &str, policy: &str) -> Result<String, Waiting> {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b", "uid": "c"}})).expect("it is a pod");
    let sandbox = v1::PodSandboxConfig::default();
    let about = pod.reference();
    let request = Request { pod: &pod, about: &about, image, policy, secrets: &[], sandbox: &sandbox, runtime_handler: "" };
    images.ensure(request).await
}

fn told(events: &mut tokio::sync::mpsc::Receiver<events::Event>) -> Vec<String> {
    std::iter::from_fn(|| events.try_recv().ok()).map(|event| format!("{} {}", event.reason, event.message)).collect()
}

#[tokio::test]
async fn an_image_is_pulled_once() {
    let (images, mut events) = images(Simulation::default());
    let first = ensure(&images, "nginx", "IfNotPresent").await.expect("it can be pulled");
    let heard = told(&mut events);
    assert_eq!(heard[0], "Pulling Pulling image \"nginx\"");
    assert!(heard[1].starts_with("Pulled Successfully pulled image \"nginx\" in ") && heard[1].ends_with("Image size: 1048576 bytes."));
    assert_eq!(ensure(&images, "nginx", "Never").await, Ok(first));
    assert_eq!(told(&mut events), ["Pulled Container image \"nginx\" already present on machine and can be accessed by the pod"]);
}

#[tokio::test]
async fn a_failed_pull_waits_before_the_next() {
    let pull = Box::new(|_: &str| Err(cri::Error::new(cri::Code::NotFound, "no such image")));
    let (images, mut events) = images(Simulation { pull, ..Simulation::default() });
    let failure = ensure(&images, "nginx", "Always").await.expect_err("there is none");
    assert_eq!((failure.reason.as_str(), failure.message.as_str()), ("ErrImagePull", "rpc error: code = NotFound desc = no such image"));
    let failure = ensure(&images, "nginx", "Always").await.expect_err("it has to wait");
    assert_eq!(failure.reason, "ImagePullBackOff");
    assert_eq!(
        told(&mut events),
        [
            "Pulling Pulling image \"nginx\"",
            "Failed Failed to pull image \"nginx\": rpc error: code = NotFound desc = no such image",
            "BackOff Back-off pulling image \"nginx\": ErrImagePull: rpc error: code = NotFound desc = no such image",
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_pulled_is_told_by_its_reason() {
    let (images, _events) = images(Simulation::default());
    for (image, policy, reason) in [("A B", "Always", "InvalidImageName"), ("nginx", "Never", "ErrImageNeverPull")] {
        assert_eq!(ensure(&images, image, policy).await.map_err(|failure| failure.reason), Err(reason.to_owned()));
    }
}

fn pull_secret(password: &str) -> Arc<Secret> {
    let config = json!({"auths": {"r.io": {"username": "u", "password": password}}}).to_string();
    Arc::new(Secret {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some("pull".to_owned()),
            namespace: Some("b".to_owned()),
            uid: Some("pull".to_owned()),
            ..Default::default()
        },
        type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
        data: Some([(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(config.into_bytes()))].into()),
        ..Secret::default()
    })
}

#[tokio::test]
async fn an_image_that_a_secret_opened_is_not_given_to_those_who_have_none() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let (images, mut events) = images(Simulation::default());
    let records = PullRecords::open(root.path(), pull_records::Policy::Pulled, &[]).expect("it is writable");
    let images = images.with_records(Some(records));
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b", "uid": "c"}})).expect("it is a pod");
    let (sandbox, about) = (v1::PodSandboxConfig::default(), pod.reference());
    let ensure = async |secrets: &[Arc<Secret>], policy: &str| {
        let request = Request { pod: &pod, about: &about, image: "r.io/a", policy, secrets, sandbox: &sandbox, runtime_handler: "" };
        images.ensure(request).await.map_err(|failure| failure.reason)
    };
    let first = ensure(&[pull_secret("p")], "IfNotPresent").await.expect("it can be pulled");
    let hears = |events: &mut _| told(events).iter().map(|line| line.split(' ').next().unwrap_or("").to_owned()).collect::<Vec<_>>();
    assert_eq!(hears(&mut events), ["Pulling", "Pulled"]);
    assert_eq!(ensure(&[pull_secret("p")], "Never").await, Ok(first.clone()));
    assert_eq!(hears(&mut events), ["Pulled"]);
    assert_eq!(ensure(&[], "Never").await, Err("ErrImageNeverPull".to_owned()));
    assert_eq!(hears(&mut events), ["ErrImageNeverPull"]);
    // Whoever may not have what is there has to pull it, here successfully without any credentials: then it is everybody's.
    assert_eq!(ensure(&[], "IfNotPresent").await, Ok(first.clone()));
    assert_eq!(hears(&mut events), ["Pulling", "Pulled"]);
    assert_eq!(ensure(&[], "Never").await, Ok(first));
}

#[test]
fn permissions_to_pull_come_back_with_time() {
    let start = Instant::now();
    let mut rate = Rate { qps: 5.0, burst: 2.0, level: 2.0, filled: start };
    assert_eq!([rate.take(start), rate.take(start), rate.take(start)], [true, true, false]);
    assert!(rate.take(start + Duration::from_millis(200)));
}
