//! How long containers may take, and what is known of them when they have ended.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::node::asking::until;
use crate::node::place::{Place, named, one, phase, pod, with};

pub(super) async fn story(place: Place) {
    tokio::join!(messages(&place), a_deadline(&place), grace(&place), stop_signals(&place));
}

fn ended(pod: &Pod, container: &str) -> Option<ContainerStateTerminated> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == container)?.state.as_ref()?.terminated.clone()
}

async fn messages(place: &Place) {
    let from_logs = json!({ "terminationMessagePolicy": "FallbackToLogsOnError" });
    let spec = json!({
        "containers": [
            named("c", "echo a log; echo at the usual place > /dev/termination-log; exit 1", json!({})),
            named("elsewhere", "echo elsewhere > /dev/my-log", json!({ "terminationMessagePath": "/dev/my-log", "terminationMessagePolicy": "File" })),
            named("logs", "echo the last words; exit 2", from_logs.clone()),
            named("no-error", "echo the last words", from_logs),
        ],
    });
    place.create::<Pod>(pod("messages", spec)).await;
    let pod = place.until_is("messages", "it has ended", |pod: &Pod| phase(pod) == "Failed").await;
    let told = ["c", "elsewhere", "logs", "no-error"].map(|name| {
        let ended = ended(&pod, name).expect("it has ended");
        (ended.message.unwrap_or_default(), ended.exit_code, ended.reason.unwrap_or_default())
    });
    let wanted =
        [("at the usual place\n", 1, "Error"), ("elsewhere\n", 0, "Completed"), ("the last words\n", 2, "Error"), ("", 0, "Completed")];
    assert_eq!(told, wanted.map(|(message, code, reason)| (message.to_owned(), code, reason.to_owned())));
}

async fn a_deadline(place: &Place) {
    place
        .create::<Pod>(pod(
            "late",
            with(one("exec sleep 1000", json!({})), json!({ "activeDeadlineSeconds": 3, "restartPolicy": "Always" })),
        ))
        .await;
    let pod = place.until_is("late", "it has failed", |pod: &Pod| phase(pod) == "Failed").await;
    let status = pod.status.clone().unwrap_or_default();
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(status.message.as_deref(), Some("Pod was active on the node longer than the specified deadline"));
    until("its container is killed", async || ended(&place.get("late").await, "c").is_some_and(|ended| ended.exit_code == 137)).await;
}

async fn seconds_to_go(place: &Place, name: &str, how: &DeleteParams) -> u64 {
    let begin = std::time::Instant::now();
    place.delete::<Pod>(name, how).await;
    place.until_gone::<Pod>(name).await;
    begin.elapsed().as_secs()
}

/// A container that does not want to end is given its time, and no more.
async fn grace(place: &Place) {
    let stubborn = |seconds: i64| {
        with(one("trap '' TERM; while :; do sleep 0.1; done", json!({})), json!({ "terminationGracePeriodSeconds": seconds }))
    };
    place.runs("stubborn", stubborn(4)).await;
    place.runs("hurried", stubborn(300)).await;
    place
        .runs(
            "willing",
            with(one("trap 'exit 0' TERM; while :; do sleep 0.1; done", json!({})), json!({ "terminationGracePeriodSeconds": 300 })),
        )
        .await;
    let (usual, asked_for) = (DeleteParams::default(), DeleteParams::default().grace_period(2));
    let (stubborn, hurried, willing) = tokio::join!(
        seconds_to_go(place, "stubborn", &usual),
        seconds_to_go(place, "hurried", &asked_for),
        seconds_to_go(place, "willing", &usual)
    );
    assert!((4..60).contains(&stubborn) && (2..60).contains(&hurried) && willing < 60, "{stubborn} {hurried} {willing}");
}

/// A signal of its own needs a gate that is off, as upstream has it: the field is not kept.
async fn stop_signals(place: &Place) {
    let lifecycle = json!({ "lifecycle": { "preStop": { "sleep": { "seconds": 0 } }, "stopSignal": "SIGUSR1" } });
    let made: Value =
        serde_json::to_value(place.create::<Pod>(pod("signal", with(one("true", lifecycle), json!({ "os": { "name": "linux" } })))).await)
            .expect("JSON");
    assert_eq!(made["spec"]["containers"][0]["lifecycle"], json!({ "preStop": { "sleep": { "seconds": 0 } } }));
    place.until_is("signal", "it runs all the same", |pod: &Pod| phase(pod) == "Succeeded").await;
}
