//! A StatefulSet: its pods start one after another with names, addresses and volumes of their own that outlive them, take a new form in
//! reverse order and as far as the partition lets them, and their claims go when the retention policy says so.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::node::asking::{name, until};
use crate::node::place::{Place, container, is_ready, phase, uid, variable, with};

/// Its first pod is ready when somebody makes the file `/data/go`; all write their name where nobody has.
fn set() -> Value {
    let writes = "[ -e /data/name ] || hostname > /data/name; exec sleep 1000";
    let readiness = "[ $(hostname) != db-0 ] || test -e /data/go";
    json!({
        "metadata": { "name": "db" },
        "spec": {
            "serviceName": "db",
            "replicas": 3,
            "selector": { "matchLabels": { "app": "db" } },
            "persistentVolumeClaimRetentionPolicy": { "whenScaled": "Delete", "whenDeleted": "Delete" },
            "template": {
                "metadata": { "labels": { "app": "db" } },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [with(container(writes), json!({
                        "env": [{ "name": "VERSION", "value": "1" }],
                        "readinessProbe": { "exec": { "command": ["sh", "-c", readiness] }, "periodSeconds": 1, "timeoutSeconds": 20 },
                        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                    }))],
                },
            },
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } },
            }],
        },
    })
}

/// Name, version and whether it is ready, in the order of names.
async fn pods(place: &Place) -> Vec<(String, String, bool)> {
    let pods: Vec<Pod> = place.list("app=db").await;
    let mut pods: Vec<_> =
        pods.iter().map(|pod| (name(pod).to_owned(), variable(pod, "VERSION").unwrap_or_default(), is_ready(pod))).collect();
    pods.sort();
    pods
}

fn are(pods: &[(String, String, bool)], versions: &[&str]) -> bool {
    pods.len() == versions.len()
        && pods
            .iter()
            .zip(versions)
            .enumerate()
            .all(|(n, ((name, version, is_ready), wanted))| *name == format!("db-{n}") && version == wanted && *is_ready)
}

async fn set_version(place: &Place, version: &str, partition: i32) {
    let mut template = set()["spec"]["template"].clone();
    template["spec"]["containers"][0]["env"][0]["value"] = json!(version);
    let strategy = json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": partition } });
    place.merge::<StatefulSet>("db", json!({ "spec": { "updateStrategy": strategy, "template": template } })).await;
}

async fn claims(place: &Place) -> Vec<String> {
    let claims: Vec<PersistentVolumeClaim> = place.list("").await;
    let is_kept = |claim: &&PersistentVolumeClaim| claim.metadata.deletion_timestamp.is_none();
    let mut claims: Vec<String> = claims.iter().filter(is_kept).filter_map(|claim| claim.metadata.name.clone()).collect();
    claims.sort();
    claims
}

async fn volumes_of(place: &Place) -> usize {
    let volumes = Api::<PersistentVolume>::all(place.client.clone()).list(&kube::api::ListParams::default()).await.expect("volumes");
    let claim_of = |volume: &PersistentVolume| volume.spec.as_ref()?.claim_ref.as_ref()?.namespace.clone();
    volumes.iter().filter(|volume| claim_of(volume).as_deref() == Some(place.namespace.as_str())).count()
}

pub(super) async fn story(place: Place) {
    let service =
        json!({ "metadata": { "name": "db" }, "spec": { "clusterIP": "None", "selector": { "app": "db" }, "ports": [{ "port": 80 }] } });
    place.create::<k8s_openapi::api::core::v1::Service>(service).await;
    place.create::<StatefulSet>(set()).await;
    starts_in_order(&place).await;
    has_names(&place).await;
    updates_as_far_as_the_partition(&place).await;
    updates_in_reverse(&place).await;
    scales_down_and_lets_claims_go(&place).await;
}

async fn starts_in_order(place: &Place) {
    place.until_is("db-0", "it runs", |pod: &Pod| phase(pod) == "Running").await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(pods(place).await, [("db-0".to_owned(), "1".to_owned(), false)], "nobody comes before the first is ready");
    until("the first is told to be ready", async || place.says("db-0", "touch /data/go && echo done").await == "done").await;
    until("all are ready", async || are(&pods(place).await, &["1", "1", "1"])).await;
    assert_eq!(claims(place).await, ["data-db-0", "data-db-1", "data-db-2"]);
}

async fn has_names(place: &Place) {
    let second: Pod = place.get("db-1").await;
    let address = second.status.and_then(|status| status.pod_ip).expect("an address");
    assert_eq!(place.says("db-1", "hostname").await, "db-1");
    until("the name is known", async || {
        let told = place.says("db-0", &format!("nslookup db-1.db.{}.svc.cluster.local", place.namespace)).await;
        told.lines().any(|line| line.trim() == format!("Address: {address}"))
    })
    .await;
}

async fn updates_as_far_as_the_partition(place: &Place) {
    let untouched = [uid(&place.get("db-0").await), uid(&place.get("db-1").await)];
    set_version(place, "2", 2).await;
    until("the last is new", async || are(&pods(place).await, &["1", "1", "2"])).await;
    let set = place
        .until_is("db", "it says so", |set: &StatefulSet| {
            let Some(status) = &set.status else { return false };
            status.observed_generation == set.metadata.generation
                && status.updated_replicas == Some(1)
                && status.current_replicas == Some(2)
        })
        .await;
    let status = set.status.expect("a status");
    assert_ne!(status.current_revision, status.update_revision);
    assert_eq!([uid(&place.get("db-0").await), uid(&place.get("db-1").await)], untouched);
    // One before the partition that is replaced has the old form again.
    place.delete::<Pod>("db-1", &DeleteParams::default()).await;
    until("it is back", async || {
        let pod = place.api::<Pod>().get_opt("db-1").await.expect("an answer");
        pod.is_some_and(|pod| is_ready(&pod) && uid(&pod) != untouched[1] && variable(&pod, "VERSION").as_deref() == Some("1"))
    })
    .await;
}

async fn updates_in_reverse(place: &Place) {
    let claim: PersistentVolumeClaim = place.get("data-db-0").await;
    set_version(place, "3", 0).await;
    let mut seen = Vec::new();
    until("all are new", async || {
        let now = pods(place).await;
        let new: Vec<&str> = now.iter().filter(|(_, version, _)| version == "3").map(|(name, ..)| name.as_str()).collect();
        let is_suffix = [&[][..], &["db-2"], &["db-1", "db-2"], &["db-0", "db-1", "db-2"]].contains(&new.as_slice());
        assert!(is_suffix, "{now:?} is not the reverse order");
        // Nobody else goes before the one that went is back.
        assert!(now.iter().filter(|(_, _, is_ready)| *is_ready).count() >= 2, "{now:?}");
        if seen.last() != Some(&new.len()) {
            seen.push(new.len());
        }
        are(&now, &["3", "3", "3"])
    })
    .await;
    assert_eq!(seen, [0, 1, 2, 3], "every step was seen");
    place
        .until_is("db", "the new form is the current one", |set: &StatefulSet| {
            set.status
                .as_ref()
                .is_some_and(|status| status.current_revision == status.update_revision && status.updated_replicas == Some(3))
        })
        .await;
    let same: PersistentVolumeClaim = place.get("data-db-0").await;
    assert_eq!(claim.metadata.uid, same.metadata.uid);
    for pod in ["db-0", "db-1", "db-2"] {
        assert_eq!(place.says(pod, "cat /data/name").await, pod, "it has what its predecessor wrote");
    }
}

async fn scales_down_and_lets_claims_go(place: &Place) {
    place.merge::<StatefulSet>("db", json!({ "spec": { "replicas": 1 } })).await;
    until("one is left", async || {
        let now: Vec<String> = pods(place).await.into_iter().map(|(name, ..)| name).collect();
        let is_prefix = [&["db-0"][..], &["db-0", "db-1"], &["db-0", "db-1", "db-2"]]
            .contains(&now.iter().map(String::as_str).collect::<Vec<_>>().as_slice());
        assert!(is_prefix, "{now:?}: the last goes first");
        now == ["db-0"]
    })
    .await;
    until("the claims of those that went are gone", async || claims(place).await == ["data-db-0"] && volumes_of(place).await == 1).await;
    place.delete::<StatefulSet>("db", &DeleteParams::default()).await;
    until("nothing is left", async || pods(place).await.is_empty() && claims(place).await.is_empty() && volumes_of(place).await == 0).await;
}
