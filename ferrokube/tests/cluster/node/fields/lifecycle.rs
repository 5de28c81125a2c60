//! The order in which containers start and end, and what is done when they do.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::NODE;
use crate::node::asking::until;
use crate::node::place::{IMAGE, Place, named, one, phase, pod, with};

pub(super) async fn story(place: Place) {
    tokio::join!(
        one_after_another(&place),
        beside_the_others(&place),
        for_somebody_who_looks(&place),
        again_in_place(&place),
        all_again(&place),
        hooks(&place),
        restart_policies(&place),
        a_terminal(&place),
        after_another_of_the_name(&place),
    );
}

fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).chain(&status.ephemeral_container_statuses);
    all.flatten().find(|status| status.name == container)
}

fn restarts(pod: &Pod, container: &str) -> i32 {
    status(pod, container).map_or(-1, |status| status.restart_count)
}

fn data() -> Value {
    json!({ "volumeMounts": [{ "name": "data", "mountPath": "/data" }] })
}

fn volumes() -> Value {
    json!([{ "name": "data", "emptyDir": {} }])
}

async fn one_after_another(place: &Place) {
    let spec = json!({
        "initContainers": [
            named("first", "sleep 0.5; echo first >> /data/order", data()),
            // Fails at its first try.
            named("second", "[ -e /data/tried ] || { touch /data/tried; exit 1; }; echo second >> /data/order", with(data(), json!({ "restartPolicy": null }))),
        ],
        "restartPolicy": "OnFailure",
        "containers": [named("c", "cat /data/order", data())],
        "volumes": volumes(),
    });
    let pod = place.succeeds("in-order", spec).await;
    assert_eq!(place.logs("in-order", "c").await, "first\nsecond\n");
    assert_eq!((restarts(&pod, "first"), restarts(&pod, "second")), (0, 1));
}

/// A sidecar is there before the others and after them; the pod ends with them all the same.
async fn beside_the_others(place: &Place) {
    let sidecar =
        "sleep 1; touch /data/ready; trap 'echo sidecar >> /data/order; cat /data/order; exit 0' TERM; while :; do sleep 0.1; done";
    let startup = json!({ "startupProbe": { "exec": { "command": ["test", "-e", "/data/ready"] }, "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 60 }, "restartPolicy": "Always" });
    let spec = json!({
        "terminationGracePeriodSeconds": 20,
        "initContainers": [named("sidecar", sidecar, with(data(), startup)), named("init", "test -e /data/ready", data())],
        "containers": [named("c", "test -e /data/ready && echo main >> /data/order", data())],
        "volumes": volumes(),
    });
    let pod = place.succeeds("sidecar", spec).await;
    assert_eq!(place.logs("sidecar", "sidecar").await, "main\nsidecar\n");
    let ended = status(&pod, "sidecar").and_then(|status| status.state.as_ref()?.terminated.as_ref()).map(|ended| ended.exit_code);
    assert_eq!((ended, restarts(&pod, "sidecar")), (Some(0), 0));
}

async fn for_somebody_who_looks(place: &Place) {
    place.runs("looked-at", one("exec sleep 1003", json!({}))).await;
    let debugger = json!({ "name": "debugger", "image": IMAGE, "command": ["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; echo; exec sleep 1000"], "targetContainerName": "c" });
    let patch = json!({ "spec": { "ephemeralContainers": [debugger] } });
    place.api::<Pod>().patch_ephemeral_containers("looked-at", &PatchParams::default(), &Patch::Strategic(patch)).await.expect("one more");
    let runs = |pod: &Pod| status(pod, "debugger").and_then(|status| status.state.as_ref()).is_some_and(|state| state.running.is_some());
    place.until_is("looked-at", "the debugger runs", runs).await;
    until("it sees the other's processes", async || place.logs("looked-at", "debugger").await.contains("sleep 1003")).await;
}

/// A rule lets one container run again in a pod whose others never do.
async fn again_in_place(place: &Place) {
    let rules = json!({
        "restartPolicy": "Never",
        "restartPolicyRules": [{ "action": "Restart", "exitCodes": { "operator": "In", "values": [42] } }],
    });
    let spec = json!({
        "containers": [
            named("c", "[ -e /data/tried ] && exit 0; touch /data/tried; exit 42", with(data(), rules.clone())),
            named("ends", "exit 0", json!({})),
        ],
        "volumes": volumes(),
    });
    let ended = place.succeeds("again", spec).await;
    assert_eq!((restarts(&ended, "c"), restarts(&ended, "ends")), (1, 0));
    place.create::<Pod>(pod("not-again", one("exit 41", rules))).await;
    let pod = place.until_is("not-again", "it has failed", |pod: &Pod| phase(pod) == "Failed").await;
    assert_eq!(restarts(&pod, "c"), 0);
}

async fn all_again(place: &Place) {
    let rules = json!({
        "restartPolicy": "Never",
        "restartPolicyRules": [{ "action": "RestartAllContainers", "exitCodes": { "operator": "NotIn", "values": [0] } }],
    });
    let spec = json!({
        "initContainers": [named("init", "echo init >> /data/order", data())],
        "containers": [
            named("c", "[ $(grep -c init /data/order) = 2 ] && exit 0; until grep -q other /data/order; do sleep 0.1; done; exit 42", with(data(), rules)),
            named("other", "echo other >> /data/order; until [ $(grep -c other /data/order) = 2 ]; do sleep 0.1; done", data()),
        ],
        "volumes": volumes(),
    });
    place.succeeds("all-again", spec).await;
}

async fn hooks(place: &Place) {
    // What runs after a container has started and before it is told to end; the server of both is another container.
    let server = "mkdir /tmp/www && echo ok > /tmp/www/started && exec httpd -f -p 8080 -h /tmp/www";
    place
        .runs("server", with(one(server, json!({ "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 } })), json!({})))
        .await;
    let server: Pod = place.get("server").await;
    let address = server.status.and_then(|status| status.pod_ip).expect("an address");
    let http = json!({ "httpGet": { "host": address, "port": 8080, "path": "/started", "scheme": "HTTP", "httpHeaders": [{ "name": "X-Test", "value": "1" }] } });
    let says = "echo before >> /data/order; sleep 0.2";
    let main = "trap 'echo told >> /data/order; exit 0' TERM; while :; do sleep 0.1; done";
    let spec = json!({
        "terminationGracePeriodSeconds": 30,
        "containers": [
            named("c", main, with(data(), json!({ "lifecycle": { "postStart": { "exec": { "command": ["sh", "-c", "echo started >> /data/order"] } }, "preStop": { "exec": { "command": ["sh", "-c", says] } } } }))),
            named("asks", "exec sleep 1000", json!({ "lifecycle": { "postStart": http, "preStop": { "sleep": { "seconds": 1 } } } })),
            // What the others have done is read by one that ends after them.
            named("reader", "trap 'until grep -q told /data/order; do sleep 0.1; done; cat /data/order; exit 0' TERM; while :; do sleep 0.1; done", data()),
        ],
        "volumes": volumes(),
    });
    place.runs("hooked", spec).await;
    until("it has done what it does after a start", async || place.says("hooked", "cat /data/order").await == "started").await;
    for (name, hook) in [
        // Any answer will do, but there must be one.
        ("refused", json!({ "httpGet": { "host": address, "port": 8081, "path": "/started" } })),
        // A field that the API kept, and no kubelet runs.
        ("by-connection", json!({ "tcpSocket": { "host": address, "port": 8080 } })),
    ] {
        place.create::<Pod>(pod(name, one("exec sleep 1000", json!({ "lifecycle": { "postStart": hook } })))).await;
        place.is_told(name, "FailedPostStartHook", "PostStartHook failed").await;
    }

    let follow = kube::api::LogParams { container: Some("reader".to_owned()), follow: true, ..kube::api::LogParams::default() };
    let log = place.api::<Pod>().log_stream("hooked", &follow).await.expect("a log");
    let begin = std::time::Instant::now();
    // The one that does nothing when it is told to end has the sleep of its hook and then the rest of the time.
    place.delete::<Pod>("hooked", &DeleteParams::default().grace_period(8)).await;
    let mut text = String::new();
    futures::AsyncReadExt::read_to_string(&mut Box::pin(log), &mut text).await.expect("text");
    assert_eq!(text, "started\nbefore\ntold\n");
    place.until_gone::<Pod>("hooked").await;
    assert!(begin.elapsed().as_secs() >= 7, "{:?}: it had eight seconds", begin.elapsed());
}

async fn restart_policies(place: &Place) {
    let with_policy = |policy: &str, command: &str| with(one(command, json!({})), json!({ "restartPolicy": policy }));
    place.create::<Pod>(pod("always", with_policy("Always", "exit 0"))).await;
    place.create::<Pod>(pod("on-failure", with_policy("OnFailure", "exit 1"))).await;
    place.succeeds("not-on-success", with_policy("OnFailure", "exit 0")).await;
    for name in ["always", "on-failure"] {
        place.until_is(name, "it runs again", |pod: &Pod| restarts(pod, "c") > 0).await;
    }
    place.create::<Pod>(pod("never", with_policy("Never", "exit 1"))).await;
    let pod = place.until_is("never", "it has failed", |pod: &Pod| phase(pod) == "Failed").await;
    assert_eq!(restarts(&pod, "c"), 0);
}

/// Somebody talks to a container whose input ends with him, and one that has a terminal.
async fn a_terminal(place: &Place) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    place.runs("talks", one("read -r word; echo \"you said $word\"; tty; cat", json!({ "stdin": true, "stdinOnce": true }))).await;
    let parameters = kube::api::AttachParams::default().stdin(true).stdout(true).stderr(false);
    let mut attached = place.api::<Pod>().attach("talks", &parameters).await.expect("attached");
    attached.stdin().expect("input").write_all(b"hello\n").await.expect("input is taken");
    let mut output = attached.stdout().expect("output");
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("not a tty") {
        let mut buffer = [0; 256];
        let read = output.read(&mut buffer).await.expect("output");
        assert!(read > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..read]);
    }
    assert!(String::from_utf8_lossy(&text).contains("you said hello"));
    drop(output);
    drop(attached);
    place.until_is("talks", "its input has ended", |pod: &Pod| phase(pod) == "Succeeded").await;

    assert_eq!(place.output("terminal", one("tty", json!({ "stdin": true, "tty": true }))).await, "/dev/pts/0");
}

/// A pod that was deleted at once is still being ended on its node when another of its name runs there: who asks the name means the other.
async fn after_another_of_the_name(place: &Place) {
    let names = ["again-0", "again-1", "again-2", "again-3"];
    // Gone from the API, it still has its own time on the node, and takes it: a first process does not hear the signal unless it listens.
    let spec = |says: &str| {
        with(
            one(&format!("echo {says} > /tmp/says; exec sleep 1000"), json!({})),
            json!({ "nodeName": NODE, "terminationGracePeriodSeconds": 15 }),
        )
    };
    join_all(names.map(|name| place.runs(name, spec("first")))).await;
    for name in names {
        place.delete::<Pod>(name, &DeleteParams::default().grace_period(0)).await;
    }
    join_all(names.map(|name| place.runs(name, spec("second")))).await;
    for name in names {
        assert_eq!(place.says(name, "cat /tmp/says").await, "second", "{name}");
    }
}
