//! Who containers run as, and what they may do.

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::Api;
use serde_json::{Value, json};

use super::NODE;
use crate::node::place::{Place, named, one, phase, pod, say, waiting, why_waiting, with};

pub(super) async fn story(place: Place) {
    tokio::join!(
        users_and_groups(&place),
        capabilities_and_their_like(&place),
        groups_of_the_image(&place),
        users_of_its_own(&place),
        a_profile_of_the_node(&place),
        volumes_get_the_group_once_or_always(&place),
        who_must_not_be_root_is_not_started(&place),
        what_cannot_be_confined_is_refused(&place),
        sysctls(&place),
    );
}

fn sorted(groups: &str) -> Vec<&str> {
    let mut groups: Vec<&str> = groups.split_whitespace().collect();
    groups.sort_unstable();
    groups
}

async fn users_and_groups(place: &Place) {
    let data = json!({ "volumeMounts": [{ "name": "data", "mountPath": "/data" }] });
    let own = with(data.clone(), json!({ "securityContext": { "runAsUser": 1001, "runAsGroup": 2001, "runAsNonRoot": false } }));
    let shows = "id -u; id -g; id -G; stat -c '%g %a' /data; touch /data/$(id -u); stat -c '%u %g' /data/$(id -u)";
    let spec = json!({
        "securityContext": { "runAsUser": 1002, "runAsGroup": 2000, "runAsNonRoot": true, "supplementalGroups": [3000], "fsGroup": 4000 },
        "containers": [named("c", shows, data), named("own", shows, own)],
        "volumes": [{ "name": "data", "emptyDir": {} }],
    });
    place.succeeds("who", spec).await;
    for (container, user, group) in [("c", "1002", "2000"), ("own", "1001", "2001")] {
        let said = place.logs("who", container).await;
        let lines: Vec<&str> = said.lines().collect();
        let file = format!("{user} 4000");
        assert_eq!((lines[0], lines[1], lines[3], lines[4]), (user, group, "4000 2777", file.as_str()), "{container}");
        assert_eq!(sorted(lines[2]), sorted(&format!("{group} 3000 4000")), "{container}");
    }
}

async fn capabilities_and_their_like(place: &Place) {
    let shows = "sed -n 's/^\\(CapEff\\|NoNewPrivs\\|Seccomp\\):\\t//p' /proc/self/status; mount -t tmpfs none /tmp 2>/dev/null && echo mounted; touch /file 2>/dev/null || echo 'read-only'; (echo name > /proc/sys/kernel/domainname) 2>/dev/null && echo 'kernel'; true";
    let context = |context: Value| json!({ "securityContext": context });
    let spec = json!({
        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [
            named("c", shows, json!({})),
            named("few", shows, context(json!({ "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] }, "allowPrivilegeEscalation": false }))),
            named("more", shows, context(json!({ "capabilities": { "add": ["SYS_PTRACE"] }, "seccompProfile": { "type": "Unconfined" } }))),
            named("sealed", shows, context(json!({ "readOnlyRootFilesystem": true }))),
            named("all", shows, context(json!({ "privileged": true, "seccompProfile": { "type": "Unconfined" } }))),
        ],
    });
    place.succeeds("able", spec).await;
    let said = async |container| place.logs("able", container).await.lines().map(str::to_owned).collect::<Vec<_>>();
    // What containers have that say nothing: upstream's and containerd's fourteen.
    assert_eq!(said("c").await, ["00000000a80425fb", "0", "2"]);
    assert_eq!(said("few").await, ["0000000000000400", "1", "2"]);
    assert_eq!(said("more").await, ["00000000a80c25fb", "0", "0"]);
    assert_eq!(said("sealed").await, ["00000000a80425fb", "0", "2", "read-only"]);
    let all = said("all").await;
    let of = |text: &str| u64::from_str_radix(text, 16).unwrap_or_default();
    let (sys_admin, net_admin) = (1 << 21, 1 << 12);
    assert!(of(&all[0]) & sys_admin != 0 && of(&all[0]) & net_admin != 0, "{all:?}");
    assert_eq!(all[1..], ["0", "0", "mounted", "kernel"]);
}

/// With `Merge` a user is also in the groups that the image has him in; `Strict` leaves these out, where the runtime can.
async fn groups_of_the_image(place: &Place) {
    let spec = |policy: &str| {
        let context = json!({ "runAsUser": 1000, "supplementalGroups": [3000], "supplementalGroupsPolicy": policy });
        with(one("id -G", json!({})), json!({ "securityContext": context, "nodeName": NODE }))
    };
    let merged = place.output("merged", spec("Merge")).await;
    assert_eq!(sorted(&merged), ["1000", "3000", "5000"]);
    let node: Node = Api::all(place.client.clone()).get(NODE).await.expect("the node");
    if node.status.and_then(|status| status.features).and_then(|features| features.supplemental_groups_policy) == Some(true) {
        assert_eq!(sorted(&place.output("strict", spec("Strict")).await), ["1000", "3000"]);
        return;
    }
    place.create::<Pod>(pod("strict", spec("Strict"))).await;
    let refused = place.until_is("strict", "it is refused", |pod: &Pod| phase(pod) == "Failed").await;
    assert_eq!(refused.status.and_then(|status| status.reason).as_deref(), Some("SupplementalGroupsPolicyNotSupported"));
}

/// A pod with users of its own, where the runtime can give it any; elsewhere it does not start and says why.
async fn users_of_its_own(place: &Place) {
    let spec = with(one("cat /proc/self/uid_map", json!({})), json!({ "nodeName": NODE, "hostUsers": false }));
    if place.features_of(NODE).await.user_namespaces == Some(true) {
        let said = place.output("own-users", spec).await;
        let [inside, outside, length] = said.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{said}") };
        assert!(inside == "0" && outside != "0" && length == "65536", "{said}");
        return;
    }
    place.create::<Pod>(pod("own-users", spec)).await;
    let words = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
    place.is_told("own-users", "FailedCreatePodSandBox", words).await;
}

/// A seccomp profile that lies on the node: nobody may make a folder.
async fn a_profile_of_the_node(place: &Place) {
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }] });
    let writes = with(
        one(
            &format!("echo '{profile}' > /profiles/no-folders.json"),
            json!({ "volumeMounts": [{ "name": "profiles", "mountPath": "/profiles" }] }),
        ),
        json!({ "nodeName": NODE, "volumes": [{ "name": "profiles", "hostPath": { "path": "/var/lib/kubelet/seccomp", "type": "DirectoryOrCreate" } }] }),
    );
    place.succeeds("lawmaker", writes).await;
    let context = json!({ "securityContext": { "seccompProfile": { "type": "Localhost", "localhostProfile": "no-folders.json" } } });
    let confined = with(one("exec 2>&1; mkdir /folder || touch /file && echo file", context), json!({ "nodeName": NODE }));
    let said = place.output("confined", confined).await;
    assert!(said.contains("can't create directory '/folder': Operation not permitted") && said.ends_with("file"), "{said}");
}

/// `OnRootMismatch` looks at the volume's own directory alone, `Always` at everything in it.
async fn volumes_get_the_group_once_or_always(place: &Place) {
    let claim = json!({ "metadata": { "name": "data" }, "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } } });
    place.create::<PersistentVolumeClaim>(claim).await;
    let spec = |command: &str, policy: &str| {
        with(
            one(command, json!({ "volumeMounts": [{ "name": "data", "mountPath": "/data" }] })),
            json!({
                "securityContext": { "fsGroup": 4000, "fsGroupChangePolicy": policy },
                "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }],
            }),
        )
    };
    place.succeeds("first", spec("touch /data/file && chgrp 0 /data/file", "Always")).await;
    assert_eq!(place.output("second", spec("stat -c %g /data /data/file", "OnRootMismatch")).await, "4000\n0");
    assert_eq!(place.output("third", spec("stat -c %g /data /data/file", "Always")).await, "4000\n4000");
}

async fn who_must_not_be_root_is_not_started(place: &Place) {
    place.create::<Pod>(pod("root", one("true", json!({ "securityContext": { "runAsNonRoot": true } })))).await;
    let words = "container has runAsNonRoot and image will run as root (pod: \"root_";
    place
        .until_is("root", "it says why it does not start", |pod: &Pod| {
            let message = waiting(pod).and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
            why_waiting(pod) == "CreateContainerConfigError" && message.contains(words)
        })
        .await;
}

async fn what_cannot_be_confined_is_refused(place: &Place) {
    if std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        say("==> SKIPPED pods that AppArmor cannot confine: the kernel has AppArmor");
        return;
    }
    let asks = |kind: &str| with(one("true", json!({})), json!({ "securityContext": { "appArmorProfile": { "type": kind } } }));
    place.succeeds("unconfined", asks("Unconfined")).await;
    place.create::<Pod>(pod("armored", asks("RuntimeDefault"))).await;
    let refused = place.until_is("armored", "it is refused", |pod: &Pod| phase(pod) == "Failed").await.status.unwrap_or_default();
    assert_eq!(refused.reason.as_deref(), Some("AppArmor"));
    assert!(refused.message.unwrap_or_default().contains("Cannot enforce AppArmor: AppArmor is not enabled on the host"));
}

async fn sysctls(place: &Place) {
    let set = |name: &str, value: &str| json!({ "securityContext": { "sysctls": [{ "name": name, "value": value }] } });
    let safe = with(one("cat /proc/sys/net/ipv4/ip_local_port_range", json!({})), set("net.ipv4.ip_local_port_range", "2048 4096"));
    assert_eq!(place.output("safe", safe).await.split_whitespace().collect::<Vec<_>>(), ["2048", "4096"]);
    place.create::<Pod>(pod("unsafe", with(one("true", json!({})), set("kernel.msgmax", "65536")))).await;
    let refused = place.until_is("unsafe", "it is refused", |pod: &Pod| phase(pod) == "Failed").await.status.unwrap_or_default();
    assert_eq!(refused.reason.as_deref(), Some("SysctlForbidden"));
}
