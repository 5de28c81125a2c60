//! What containers and pods may use: as the kernel has it, and as it is changed while they run.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::NODE;
use crate::node::asking::until;
use crate::node::place::{Place, named, one, uid, with};

pub(super) async fn story(place: Place) {
    tokio::join!(limits(&place), resizing(&place), of_the_whole_pod(&place), classes(&place));
}

/// Prints quota and weight of the processor and the limit of memory, in the form of either version of cgroups.
const SHOWS: &str = "cd /sys/fs/cgroup; if [ -d cpu ]; then cat cpu/cpu.cfs_quota_us cpu/cpu.shares memory/memory.limit_in_bytes; else cut -d' ' -f1 cpu.max; cat cpu.weight memory.max; fi";

fn is_unified() -> bool {
    !Path::new("/sys/fs/cgroup/cpu").exists()
}

async fn limits(place: &Place) {
    let resources = json!({ "resources": { "requests": { "cpu": "100m", "memory": "16Mi" }, "limits": { "cpu": "250m", "memory": "32Mi", "ephemeral-storage": "64Mi" } } });
    let said = place.output("limited", one(SHOWS, resources)).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[2]), ("25000", "33554432"), "{said}");
    if !is_unified() {
        assert_eq!(lines[1], "102");
    }
}

fn status(pod: &Pod) -> ContainerStatus {
    pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first().cloned()).unwrap_or_default()
}

fn limit(pod: &Pod, name: &str) -> Option<String> {
    status(pod).resources?.limits?.get(name).map(|amount| amount.0.clone())
}

/// More processor while it runs; more memory with a restart, as its policy says.
async fn resizing(place: &Place) {
    let sized =
        |cpu: &str, memory: &str| json!({ "requests": { "cpu": "50m", "memory": "16Mi" }, "limits": { "cpu": cpu, "memory": memory } });
    let policies = json!([{ "resourceName": "cpu", "restartPolicy": "NotRequired" }, { "resourceName": "memory", "restartPolicy": "RestartContainer" }]);
    let spec = with(
        one("exec sleep 1000", json!({ "resources": sized("100m", "32Mi"), "resizePolicy": policies })),
        json!({ "restartPolicy": "Always" }),
    );
    let before = place.runs("resized", spec).await;
    let resize = async |cpu: &str, memory: &str| {
        let patch = json!({ "spec": { "containers": [{ "name": "c", "resources": sized(cpu, memory) }] } });
        place
            .api::<Pod>()
            .patch_subresource("resize", "resized", &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .expect("another size");
    };
    resize("200m", "32Mi").await;
    let after = place.until_is("resized", "it has more processor", |pod: &Pod| limit(pod, "cpu").as_deref() == Some("200m")).await;
    assert_eq!((status(&after).container_id, status(&after).restart_count), (status(&before).container_id, 0));
    assert!(place.says("resized", SHOWS).await.starts_with("20000\n"));
    resize("200m", "48Mi").await;
    place
        .until_is("resized", "it has more memory, after a restart", |pod: &Pod| {
            limit(pod, "memory").as_deref() == Some("48Mi") && status(pod).restart_count == 1
        })
        .await;
    until("the kernel knows", async || place.says("resized", SHOWS).await.ends_with("50331648")).await;
}

/// The folder of a pod's cgroup on this machine, where the processor is counted.
fn cgroup_of(uid: &str) -> Option<PathBuf> {
    fn find(folder: &Path, name: &str, depth: usize) -> Option<PathBuf> {
        let entries = std::fs::read_dir(folder).ok()?;
        let folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        let found = folders.iter().find(|path| path.file_name().is_some_and(|file| file == name)).cloned();
        found.or_else(|| folders.iter().filter(|_| depth > 0).find_map(|path| find(path, name, depth - 1)))
    }
    let root = if is_unified() { "/sys/fs/cgroup/ferrokube" } else { "/sys/fs/cgroup/cpu/ferrokube" };
    find(Path::new(root), &format!("pod{uid}"), 6)
}

async fn of_the_whole_pod(place: &Place) {
    let spec = json!({
        "resources": { "requests": { "cpu": "100m", "memory": "32Mi" }, "limits": { "cpu": "300m", "memory": "64Mi" } },
        "containers": [named("c", "exec sleep 1000", json!({})), named("other", "exec sleep 1000", json!({ "resources": { "limits": { "cpu": "50m" } } }))],
    });
    let pod = place.runs("whole", spec).await;
    assert_eq!(pod.status.as_ref().and_then(|status| status.qos_class.as_deref()), Some("Burstable"));
    let folder = cgroup_of(&uid(&pod)).expect("the pod's cgroup");
    let file = |name: &str| {
        std::fs::read_to_string(folder.join(name)).unwrap_or_default().split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(file(if is_unified() { "cpu.max" } else { "cpu.cfs_quota_us" }), "30000", "{}", folder.display());
    let of_memory = PathBuf::from(folder.display().to_string().replacen("/cpu/", "/memory/", 1));
    let limit = of_memory.join(if is_unified() { "memory.max" } else { "memory.limit_in_bytes" });
    assert_eq!(std::fs::read_to_string(&limit).unwrap_or_default().trim(), "67108864", "{}", limit.display());

    let patch = json!({ "spec": { "resources": { "limits": { "cpu": "400m" } } } });
    place.api::<Pod>().patch_subresource("resize", "whole", &PatchParams::default(), &Patch::Strategic(patch)).await.expect("another size");
    until("the whole pod has more", async || file(if is_unified() { "cpu.max" } else { "cpu.cfs_quota_us" }) == "40000").await;
}

async fn classes(place: &Place) {
    let all = json!({ "cpu": "50m", "memory": "16Mi" });
    let kinds: [(&str, Value); 3] = [
        ("Guaranteed", json!({ "resources": { "limits": all, "requests": all } })),
        ("Burstable", json!({ "resources": { "requests": { "cpu": "10m" } } })),
        ("BestEffort", json!({})),
    ];
    for (class, fields) in kinds {
        let name = class.to_lowercase();
        let pod = place.runs(&name, with(one("exec sleep 1000", fields), json!({ "nodeName": NODE }))).await;
        assert_eq!(pod.status.as_ref().and_then(|status| status.qos_class.as_deref()), Some(class));
        let folder = cgroup_of(&uid(&pod)).expect("the pod's cgroup").display().to_string();
        assert_eq!(
            (folder.contains("burstable"), folder.contains("besteffort")),
            (class == "Burstable", class == "BestEffort"),
            "{folder}"
        );
        let score = place.says(&name, "cat /proc/1/oom_score_adj").await;
        // A machine that lets nobody have less than this process has more than the kubelet asks for.
        let score: i32 = score.parse().expect("a number");
        assert!(if class == "BestEffort" { score == 1000 } else { score < 1000 }, "{class}: {score}");
    }
}
