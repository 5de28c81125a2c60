//! What containers find in their environment, and what they are started with.

use base64::Engine as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde_json::{Value, json};

use super::{GUARDED, NODE};
use crate::node::place::{IMAGE, Place, named, one, pod, waiting, why_waiting, with};
use crate::node::registry::USER;

pub(super) async fn story(place: Place) {
    place.create::<ConfigMap>(json!({ "metadata": { "name": "map" }, "data": { "COLOUR": "green", "SIZE": "small" } })).await;
    place.create::<Secret>(json!({ "metadata": { "name": "secret" }, "stringData": { "WORD": "abracadabra" } })).await;
    tokio::join!(variables(&place), of_itself(&place), of_a_file(&place), what_is_missing(&place), commands(&place), pulls(&place));
}

fn from(name: &str, source: Value) -> Value {
    json!({ "name": name, "valueFrom": source })
}

async fn variables(place: &Place) {
    let env = json!([
        { "name": "FIRST", "value": "1" },
        { "name": "SECOND", "value": "$(FIRST)2 $$(FIRST) $(NONE)" },
        from("COLOUR_OF_MAP", json!({ "configMapKeyRef": { "name": "map", "key": "COLOUR" } })),
        from("WORD_OF_SECRET", json!({ "secretKeyRef": { "name": "secret", "key": "WORD" } })),
        from("NO_KEY", json!({ "configMapKeyRef": { "name": "map", "key": "none", "optional": true } })),
        from("NO_SECRET", json!({ "secretKeyRef": { "name": "none", "key": "none", "optional": true } })),
        { "name": "A_SIZE", "value": "own" },
    ]);
    let env_from = json!([
        { "prefix": "A_", "configMapRef": { "name": "map" } },
        { "secretRef": { "name": "secret" } },
        { "configMapRef": { "name": "none", "optional": true } },
        { "secretRef": { "name": "none", "optional": true } },
    ]);
    let said = place.output("variables", with(one("env", json!({ "env": env, "envFrom": env_from })), json!({}))).await;
    let lines: Vec<&str> = said.lines().collect();
    for line in [
        "FIRST=1",
        "SECOND=12 $(FIRST) $(NONE)",
        "COLOUR_OF_MAP=green",
        "WORD_OF_SECRET=abracadabra",
        "A_COLOUR=green",
        "A_SIZE=own",
        "WORD=abracadabra",
    ] {
        assert!(lines.contains(&line), "{line} is not in {said}");
    }
    assert!(!said.contains("NO_KEY") && !said.contains("NO_SECRET"), "{said}");
}

async fn of_itself(place: &Place) {
    let field = |name: &str, path: &str| from(name, json!({ "fieldRef": { "apiVersion": "v1", "fieldPath": path } }));
    let resource =
        |name: &str, resource: &str, divisor: &str| from(name, json!({ "resourceFieldRef": { "resource": resource, "divisor": divisor } }));
    let env = json!([
        field("NAME", "metadata.name"),
        field("NAMESPACE", "metadata.namespace"),
        field("ID", "metadata.uid"),
        field("LABEL", "metadata.labels['app']"),
        field("NOTE", "metadata.annotations['test.ferrokube.dev/note']"),
        field("NODE", "spec.nodeName"),
        field("ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        field("POD_IP", "status.podIP"),
        field("POD_IPS", "status.podIPs"),
        resource("CPU", "limits.cpu", "1m"),
        resource("CPUS", "limits.cpu", "1"),
        resource("MEMORY", "requests.memory", "1Mi"),
        resource("DISK", "limits.ephemeral-storage", "1Ki"),
        from("OF_OTHER", json!({ "resourceFieldRef": { "containerName": "other", "resource": "requests.cpu", "divisor": "1m" } })),
    ]);
    let resources = json!({ "limits": { "cpu": "250m", "memory": "48Mi", "ephemeral-storage": "2Mi" }, "requests": { "memory": "24Mi" } });
    let spec = json!({
        "nodeName": NODE,
        "containers": [
            named("c", "env", json!({ "env": env, "resources": resources })),
            named("other", "true", json!({ "resources": { "requests": { "cpu": "17m" } } })),
        ],
    });
    let made = with(pod("itself", spec), json!({ "metadata": { "annotations": { "test.ferrokube.dev/note": "a note" } } }));
    place.create::<Pod>(made).await;
    let pod = place.until_is("itself", "it has ended", |pod: &Pod| crate::node::place::phase(pod) == "Succeeded").await;
    let said = place.logs("itself", "c").await;
    let status = pod.status.unwrap_or_default();
    let (pod_ip, host_ip) = (status.pod_ip.unwrap_or_default(), status.host_ip.unwrap_or_default());
    let wanted = [
        ("NAME", "itself"),
        ("NAMESPACE", &place.namespace),
        ("ID", pod.metadata.uid.as_deref().unwrap_or_default()),
        ("LABEL", "itself"),
        ("NOTE", "a note"),
        ("NODE", NODE),
        ("ACCOUNT", "default"),
        ("HOST_IP", &host_ip),
        ("POD_IP", &pod_ip),
        ("POD_IPS", &pod_ip),
        ("CPU", "250"),
        ("CPUS", "1"),
        ("MEMORY", "24"),
        ("DISK", "2048"),
        ("OF_OTHER", "17"),
    ];
    for (name, value) in wanted {
        assert!(!value.is_empty() && said.lines().any(|line| line == format!("{name}={value}")), "{name}={value} is not in {said}");
    }
}

/// A file that an init container writes, which no container has to mount to be told of what is in it.
async fn of_a_file(place: &Place) {
    let file = |key: &str, optional: bool| json!({ "fileKeyRef": { "volumeName": "made", "path": "a/settings", "key": key, "optional": optional } });
    let writes = named(
        "init",
        "mkdir /made/a && echo \"COLOUR='blue'\" > /made/a/settings",
        json!({ "volumeMounts": [{ "name": "made", "mountPath": "/made" }] }),
    );
    let spec = json!({
        "initContainers": [writes],
        "containers": [named("c", "env", json!({ "env": [from("OF_FILE", file("COLOUR", false)), from("NO_FILE", file("NONE", true))] }))],
        "volumes": [{ "name": "made", "emptyDir": {} }],
    });
    let said = place.output("of-file", spec).await;
    assert!(said.lines().any(|line| line == "OF_FILE=blue") && !said.contains("NO_FILE"), "{said}");
}

async fn what_is_missing(place: &Place) {
    let env = json!([from("NONE", json!({ "configMapKeyRef": { "name": "none", "key": "none" } }))]);
    place.create::<Pod>(pod("waits", one("env", json!({ "env": env })))).await;
    place
        .until_is("waits", "it says what is missing", |pod: &Pod| {
            waiting(pod).is_some_and(|waiting| waiting.message.as_deref() == Some("configmap \"none\" not found"))
        })
        .await;
    place.create::<ConfigMap>(json!({ "metadata": { "name": "none" }, "data": { "none": "now" } })).await;
    place.until_is("waits", "it goes on when that is there", |pod: &Pod| crate::node::place::phase(pod) == "Succeeded").await;
    assert!(place.logs("waits", "c").await.lines().any(|line| line == "NONE=now"));
}

/// An image that is there is asked for again, or one that is not is not asked for; the registry has none for strangers.
async fn pulls(place: &Place) {
    let guarded = format!("registry.test/{GUARDED}");
    for (name, image, policy, reasons) in [
        ("pulls-always", IMAGE, "Always", ["ErrImagePull", "ImagePullBackOff"].as_slice()),
        ("a-stranger", guarded.as_str(), "IfNotPresent", &["ErrImagePull", "ImagePullBackOff"]),
        ("never-pulls", "registry.test/test/none:1", "Never", &["ErrImageNeverPull"]),
    ] {
        let container = json!({ "name": "c", "image": image, "imagePullPolicy": policy });
        place.create::<Pod>(pod(name, json!({ "containers": [container] }))).await;
        place.until_is(name, "it says that there is no image", |pod: &Pod| reasons.contains(&why_waiting(pod))).await;
    }
    place.succeeds("has-image", json!({ "containers": [{ "name": "c", "image": IMAGE, "imagePullPolicy": "Never" }] })).await;

    let auth = base64::engine::general_purpose::STANDARD.encode(USER);
    let config = json!({ "auths": { "registry.test": { "auth": auth } } }).to_string();
    let secret =
        json!({ "metadata": { "name": "who" }, "type": "kubernetes.io/dockerconfigjson", "stringData": { ".dockerconfigjson": config } });
    place.create::<Secret>(secret).await;
    let container = json!({ "name": "c", "image": guarded, "command": ["cat", "/www/index.html"] });
    assert_eq!(
        place.output("a-friend", json!({ "imagePullSecrets": [{ "name": "who" }], "containers": [container] })).await,
        "for some alone"
    );
}

async fn commands(place: &Place) {
    // The image's own command is a shell, which has nothing to read.
    place.succeeds("image-command", json!({ "containers": [{ "name": "c", "image": IMAGE }] })).await;
    let only_arguments =
        json!({ "name": "c", "image": IMAGE, "args": ["echo", "$(WHAT)", "$$(WHAT)"], "env": [{ "name": "WHAT", "value": "this" }] });
    assert_eq!(place.output("only-arguments", json!({ "containers": [only_arguments] })).await, "this $(WHAT)");
    let both = json!({ "name": "c", "image": IMAGE, "command": ["sh", "-c", "pwd; echo $0 $1"], "args": ["a", "b"], "workingDir": "/www" });
    assert_eq!(place.output("both", json!({ "containers": [both] })).await, "/www\na b");
}
