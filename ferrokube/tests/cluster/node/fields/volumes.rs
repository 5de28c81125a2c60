//! What is in volumes, by whom they are made, and whose they are.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use serde_json::{Value, json};

use super::NODE;
use crate::node::place::{Place, container, one, pod, why_waiting, with};

pub(super) async fn story(place: Place) {
    place
        .create::<ConfigMap>(
            json!({ "metadata": { "name": "map" }, "data": { "one": "1", "two": "2" }, "binaryData": { "three": "Mw==" } }),
        )
        .await;
    place.create::<Secret>(json!({ "metadata": { "name": "secret" }, "stringData": { "word": "abracadabra", "other": "word" } })).await;
    tokio::join!(
        empty_directories(&place),
        places_of_the_node(&place),
        maps_and_secrets(&place),
        all_in_one(&place),
        claims(&place),
        images(&place),
        what_is_unknown_here(&place),
    );
}

/// A spec whose container runs this with these volumes, each at `/NAME`.
fn spec(command: &str, volumes: Value) -> Value {
    let mounts: Vec<Value> = volumes
        .as_array()
        .into_iter()
        .flatten()
        .map(|volume| json!({ "name": volume["name"], "mountPath": format!("/{}", volume["name"].as_str().unwrap_or_default()) }))
        .collect();
    with(one(command, json!({ "volumeMounts": mounts })), json!({ "volumes": volumes }))
}

async fn empty_directories(place: &Place) {
    let volumes = json!([
        { "name": "disk", "emptyDir": {} },
        { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "4Mi" } },
    ]);
    let shows = "stat -c %a /disk /memory; grep ' /memory ' /proc/mounts; grep -c ' /disk tmpfs' /proc/mounts; dd if=/dev/zero of=/memory/file bs=1M count=8 2>&1; true";
    let said = place.output("empty", spec(shows, volumes)).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0].ends_with("777"), lines[1].ends_with("777"), lines[3]), (true, true, "0"), "{said}");
    assert!(lines[2].starts_with("tmpfs /memory tmpfs ") && lines[2].contains("size=4096k"), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
}

async fn places_of_the_node(place: &Place) {
    let at = |name: &str, path: &str, kind: &str| json!({ "name": name, "hostPath": { "path": path, "type": kind } });
    let volumes = json!([
        at("any", "/usr", ""),
        at("device", "/dev/null", "CharDevice"),
        at("socket", "/run/containerd/containerd.sock", "Socket"),
        at("directory", "/var/lib/kubelet", "Directory"),
        at("made", "/var/lib/kubelet/made-by-test/a", "DirectoryOrCreate"),
        at("file", "/var/lib/kubelet/made-by-test-file", "FileOrCreate"),
    ]);
    let shows = "stat -c '%F' /any /device /socket /directory /made /file; stat -c %a /made /file";
    let said = place.output("node", with(spec(shows, volumes), json!({ "nodeName": NODE }))).await;
    let kinds = ["character special file", "socket", "directory", "directory", "regular empty file", "755", "644"];
    assert_eq!(said.lines().skip(1).collect::<Vec<_>>(), kinds);

    for (name, path, kind, words) in [
        ("no-block", "/dev/null", "BlockDevice", "hostPath type check failed: /dev/null is not a block device, it's a CharDevice"),
        ("no-file", "/var/lib/kubelet/none", "File", "/var/lib/kubelet/none is not a file"),
    ] {
        place.create::<Pod>(pod(name, with(spec("true", json!([at("wrong", path, kind)])), json!({ "nodeName": NODE })))).await;
        place.is_told(name, "FailedMount", words).await;
    }
}

async fn maps_and_secrets(place: &Place) {
    let volumes = json!([
        { "name": "map", "configMap": { "name": "map" } },
        { "name": "some", "configMap": { "name": "map", "defaultMode": 0o440, "items": [{ "key": "two", "path": "a/b" }, { "key": "one", "path": "c", "mode": 0o400 }] } },
        { "name": "none", "configMap": { "name": "none", "optional": true } },
        { "name": "secret", "secret": { "secretName": "secret" } },
        { "name": "part", "secret": { "secretName": "secret", "defaultMode": 0o440, "items": [{ "key": "word", "path": "d", "mode": 0o400 }, { "key": "other", "path": "e" }] } },
        { "name": "absent", "secret": { "secretName": "none", "optional": true } },
    ]);
    let shows = "cd /map && cat one two three; echo; cat /some/a/b /some/c; echo; stat -L -c %a /map/one /some/a/b /some/c; ls /none /absent | grep -v :; cat /secret/word /part/d /part/e; echo; stat -L -c %a /secret/word /part/d /part/e; grep -c ' /secret tmpfs' /proc/mounts";
    let said = place.output("maps", spec(shows, volumes)).await;
    let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, ["123", "21", "644", "440", "400", "abracadabraabracadabraword", "644", "400", "440", "1"]);
}

/// Part of a token, without checking it: the API server does so when it is shown.
fn claims_of(token: &str) -> Value {
    use base64::Engine as _;
    let part = token.split('.').nth(1).expect("a token has three parts");
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64");
    serde_json::from_slice(&text).expect("claims")
}

async fn all_in_one(place: &Place) {
    let field = |path: &str, of: &str| json!({ "path": path, "fieldRef": { "fieldPath": of } });
    let sources = json!([
        { "configMap": { "name": "map", "items": [{ "key": "one", "path": "map/one", "mode": 0o400 }] } },
        { "configMap": { "name": "none", "optional": true } },
        { "secret": { "name": "secret", "items": [{ "key": "word", "path": "secret/word" }] } },
        { "secret": { "name": "none", "optional": true } },
        { "downwardAPI": { "items": [
            field("name", "metadata.name"),
            { "path": "cpu", "mode": 0o444, "resourceFieldRef": { "containerName": "c", "resource": "limits.cpu", "divisor": "1m" } },
        ] } },
        { "serviceAccountToken": { "path": "token", "audience": "vault.test", "expirationSeconds": 1200 } },
    ]);
    let volumes = json!([
        { "name": "all", "projected": { "defaultMode": 0o440, "sources": sources } },
        { "name": "itself", "downwardAPI": { "defaultMode": 0o440, "items": [
            field("labels", "metadata.labels"),
            { "path": "memory", "mode": 0o400, "resourceFieldRef": { "containerName": "c", "resource": "requests.memory", "divisor": "1Mi" } },
        ] } },
    ]);
    let shows = "cd /all; cat map/one; echo; cat secret/word; echo; cat name; echo; cat cpu; echo; stat -L -c %a map/one secret/word name cpu; cat /itself/labels; echo; cat /itself/memory; echo; stat -L -c %a /itself/labels /itself/memory; cat token";
    let resources = json!({ "resources": { "limits": { "cpu": "125m", "memory": "32Mi" } } });
    let mut made = spec(shows, volumes);
    made["containers"][0] = with(made["containers"][0].clone(), resources);
    let said = place.output("all", made).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..12], ["1", "abracadabra", "all", "125", "400", "440", "440", "444", "app=\"all\"", "32", "440", "400"], "{said}");
    let claims = claims_of(lines[12]);
    assert_eq!(claims["aud"], json!(["vault.test"]));
    assert_eq!(claims["sub"], format!("system:serviceaccount:{}:default", place.namespace));
    assert_eq!(claims["exp"].as_i64().zip(claims["iat"].as_i64()).map(|(end, start)| end - start), Some(1200));
}

async fn claims(place: &Place) {
    let claim = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } });
    place.create::<PersistentVolumeClaim>(json!({ "metadata": { "name": "claim" }, "spec": claim })).await;
    let volumes = |read_only: bool| json!([{ "name": "claim", "persistentVolumeClaim": { "claimName": "claim", "readOnly": read_only } }]);
    place.succeeds("writes", spec("echo written > /claim/file", volumes(false))).await;
    let said = place.output("reads", spec("cat /claim/file; touch /claim/other 2>&1 || echo no", volumes(true))).await;
    assert!(said.starts_with("written") && said.ends_with("no") && said.contains("Read-only file system"), "{said}");

    // One that goes with its pod.
    let template = json!({ "metadata": { "labels": { "of": "pod" } }, "spec": claim });
    let volumes = json!([{ "name": "own", "ephemeral": { "volumeClaimTemplate": template } }]);
    place.succeeds("ephemeral", spec("echo written > /own/file", volumes)).await;
    let made: PersistentVolumeClaim = place.get("ephemeral-own").await;
    let owner = made.metadata.owner_references.iter().flatten().next().map(|owner| (owner.kind.as_str(), owner.name.as_str()));
    assert_eq!(owner, Some(("Pod", "ephemeral")));
    place.delete::<Pod>("ephemeral", &kube::api::DeleteParams::default()).await;
    place.until_gone::<PersistentVolumeClaim>("ephemeral-own").await;
}

/// An image as a volume needs containerd 2: with an older one the container does not start.
async fn images(place: &Place) {
    let volumes = json!([{ "name": "image", "image": { "reference": crate::node::place::IMAGE, "pullPolicy": "IfNotPresent" } }]);
    let node: k8s_openapi::api::core::v1::Node = kube::Api::all(place.client.clone()).get(NODE).await.expect("the node");
    let version = node.status.and_then(|status| status.node_info).map(|info| info.container_runtime_version).unwrap_or_default();
    if version.starts_with("containerd://1.") {
        place.create::<Pod>(pod("image", spec("true", volumes))).await;
        place.until_is("image", "it says that it cannot start", |pod: &Pod| why_waiting(pod) == "CreateContainerError").await;
        return;
    }
    let said = place.output("image", spec("cat /image/www/index.html; touch /image/file 2>&1 || echo no", volumes)).await;
    assert!(said.starts_with("page") && said.ends_with("no"), "{said}");
}

/// A volume that nothing here mounts keeps its pod waiting, and says so.
async fn what_is_unknown_here(place: &Place) {
    let volumes = [
        json!({ "name": "v", "iscsi": { "targetPortal": "192.0.2.1:3260", "iqn": "iqn.2001-04.com.example:storage", "lun": 0 } }),
        json!({ "name": "v", "fc": { "targetWWNs": ["50060e801049cfd1"], "lun": 0 } }),
        json!({ "name": "v", "flexVolume": { "driver": "example/driver" } }),
        json!({ "name": "v", "glusterfs": { "endpoints": "none", "path": "none" } }),
    ];
    let containers = json!([with(container("true"), json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }))]);
    let wait = volumes.into_iter().enumerate().map(async |(n, volume)| {
        let name = format!("unknown-{n}");
        place.create::<Pod>(pod(&name, json!({ "containers": containers, "volumes": [volume] }))).await;
        place.is_told(&name, "FailedMount", "no volume plugin matched").await;
    });
    let git = json!({ "name": "v", "gitRepo": { "repository": "https://example.com/none.git" } });
    place.create::<Pod>(pod("git", json!({ "containers": containers, "volumes": [git] }))).await;
    place.is_told("git", "FailedMount", "git-repo volume plugin has been disabled").await;
    futures::future::join_all(wait).await;
}
