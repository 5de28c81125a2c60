//! How volumes are mounted: a part of one, read-only, and with what others mount below.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::NODE;
use crate::node::asking::until;
use crate::node::place::{Place, named, one, pod, why_waiting, with};

pub(super) async fn story(place: Place) {
    tokio::join!(parts(&place), what_others_mount(&place), read_only_to_the_bottom(&place));
}

async fn parts(place: &Place) {
    let mount = |path: &str, over: Value| with(json!({ "name": "data", "mountPath": path }), over);
    let makes = named(
        "init",
        "mkdir -p /data/a/b && echo deep > /data/a/b/file && echo of-pod > /data/parts",
        json!({ "volumeMounts": [mount("/data", json!({}))] }),
    );
    let shows = "exec 2>&1; cat /b/file; cat /etc/one-file; touch /sealed/file || echo no; touch /own/file; ls /data; cat /b/none; true";
    let container = json!({
        "env": [{ "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        "volumeMounts": [
            mount("/data", json!({})),
            mount("/b", json!({ "subPath": "a/b" })),
            mount("/etc/one-file", json!({ "subPath": "parts" })),
            mount("/sealed", json!({ "readOnly": true })),
            mount("/own", json!({ "subPathExpr": "of-$(NAME)" })),
        ],
    });
    let spec =
        json!({ "initContainers": [makes], "containers": [named("c", shows, container)], "volumes": [{ "name": "data", "emptyDir": {} }] });
    let said = place.output("parts", spec).await;
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("touch:") && !line.starts_with("cat:")).collect();
    assert_eq!(lines, ["deep", "of-pod", "no", "a", "of-parts", "parts"], "{said}");

    let escapes = with(
        one("true", json!({ "volumeMounts": [mount("/out", json!({ "subPath": "out/etc" }))] })),
        json!({
            "initContainers": [named("init", "ln -s / /data/out", json!({ "volumeMounts": [mount("/data", json!({}))] }))],
            "volumes": [{ "name": "data", "emptyDir": {} }],
        }),
    );
    place.create::<Pod>(pod("escapes", escapes)).await;
    place.until_is("escapes", "it is not let out of its volume", |pod: &Pod| why_waiting(pod) == "CreateContainerConfigError").await;
}

/// A privileged container mounts something; those that want to see it do.
async fn what_others_mount(place: &Place) {
    let mount =
        |propagation: &str| json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/shared", "mountPropagation": propagation }] });
    let privileged = json!({ "securityContext": { "privileged": true } });
    let mounts = "until [ -e /tmp/go ]; do sleep 0.1; done; mkdir -p /shared/below && mount -t tmpfs none /shared/below && touch /shared/below/file && touch /tmp/done && sleep 1000 & trap 'umount /shared/below; exit 0' TERM; wait; while :; do sleep 0.1; done";
    let spec = json!({
        "nodeName": NODE,
        "terminationGracePeriodSeconds": 3,
        "containers": [
            named("c", mounts, with(mount("Bidirectional"), privileged)),
            named("sees", "exec sleep 1000", mount("HostToContainer")),
            named("does-not", "exec sleep 1000", mount("None")),
        ],
        "volumes": [{ "name": "shared", "hostPath": { "path": "/var/lib/kubelet/shared-by-test", "type": "DirectoryOrCreate" } }],
    });
    place.runs("mounts", spec).await;
    // What is there when a container starts it sees in any case.
    until("it is told to mount", async || place.says("mounts", "mkdir -p /shared/below && touch /tmp/go && echo done").await == "done")
        .await;
    until("it is mounted", async || place.says("mounts", "ls /tmp/done").await == "/tmp/done").await;
    let seen = async |container| place.says_in("mounts", container, "ls /shared/below && echo asked").await;
    until("it is seen", async || seen("sees").await == "file\nasked").await;
    assert_eq!(seen("does-not").await, "asked");
    place.delete::<Pod>("mounts", &kube::api::DeleteParams::default()).await;
    place.until_gone::<Pod>("mounts").await;
    // What was mounted for all is taken away by who mounted it, or its folder could not be.
    let host = json!({ "name": "shared", "hostPath": { "path": "/var/lib/kubelet/shared-by-test" } });
    let spec = with(
        one("ls /shared/below", json!({ "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }] })),
        json!({ "nodeName": NODE, "volumes": [host] }),
    );
    assert_eq!(place.output("after", spec).await, "");
}

/// Whether what is mounted below a read-only volume is read-only too is the runtime's to say.
async fn read_only_to_the_bottom(place: &Place) {
    let can = place.features_of(NODE).await.recursive_read_only_mounts == Some(true);
    let spec = |how: &str| {
        let mount = json!({ "name": "data", "mountPath": "/data", "readOnly": true, "recursiveReadOnly": how });
        with(
            one("touch /data/file 2>&1 || echo no", json!({ "volumeMounts": [mount] })),
            json!({ "nodeName": NODE, "volumes": [{ "name": "data", "emptyDir": {} }] }),
        )
    };
    let possible = place.succeeds("if-possible", spec("IfPossible")).await;
    assert!(place.logs("if-possible", "c").await.ends_with("no\n"));
    let statuses = possible.status.and_then(|status| status.container_statuses).unwrap_or_default();
    let told = statuses[0]
        .volume_mounts
        .iter()
        .flatten()
        .find(|mount| mount.mount_path == "/data")
        .and_then(|mount| mount.recursive_read_only.clone());
    assert_eq!(told.as_deref(), Some(if can { "Enabled" } else { "Disabled" }));
    if can {
        place.succeeds("always", spec("Enabled")).await;
        return;
    }
    place.create::<Pod>(pod("always", spec("Enabled"))).await;
    place.until_is("always", "it is not started without", |pod: &Pod| why_waiting(pod) == "CreateContainerConfigError").await;
}
