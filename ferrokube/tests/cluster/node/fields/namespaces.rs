//! Which namespaces of the node a pod shares, what it is called, and whom it asks for names.

use std::net::Ipv4Addr;
use std::path::Path;

use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use super::NODE;
use crate::node::asking::until;
use crate::node::place::{Place, named, one, with};

pub(super) async fn story(place: Place, node: Ipv4Addr) {
    let service = json!({ "metadata": { "name": "other" }, "spec": { "selector": { "app": "nobody" }, "ports": [{ "port": 80 }] } });
    place.create::<Service>(service).await;
    tokio::join!(
        a_full_name(&place),
        names_of_its_own(&place),
        nothing_special(&place),
        the_node_itself(&place, node),
        all_together(&place)
    );
}

/// The lines of a file in a pod that say something, with single spaces.
fn lines(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

async fn a_full_name(place: &Place) {
    let spec = with(
        one("hostname; cat /etc/hosts", json!({})),
        json!({ "hostname": "web", "subdomain": "sub", "setHostnameAsFQDN": true, "hostAliases": [{ "ip": "10.1.2.3", "hostnames": ["one.test", "two.test"] }] }),
    );
    let said = lines(&place.output("full", spec).await);
    let name = format!("web.sub.{}.svc.cluster.local", place.namespace);
    assert_eq!(said[0], name);
    assert!(said.iter().any(|line| line.ends_with(&format!(" {name} web"))), "{said:?}");
    assert!(said.contains(&"10.1.2.3 one.test two.test".to_owned()), "{said:?}");
}

async fn names_of_its_own(place: &Place) {
    let config = json!({ "nameservers": ["192.0.2.1"], "searches": ["one.test"], "options": [{ "name": "ndots", "value": "2" }, { "name": "edns0" }] });
    let none = with(
        one("hostname; cat /etc/resolv.conf", json!({})),
        json!({ "hostname": "web", "subdomain": "sub", "dnsPolicy": "None", "dnsConfig": config }),
    );
    let said = lines(&place.output("own-resolver", none).await);
    assert_eq!(said, ["web", "search one.test", "nameserver 192.0.2.1", "options ndots:2 edns0"]);

    let renamed = with(one("hostname; cat /etc/hosts", json!({})), json!({ "hostnameOverride": "some.other.name" }));
    let said = lines(&place.output("renamed", renamed).await);
    assert_eq!(said[0], "some.other.name");
    assert!(said.iter().any(|line| line.ends_with(" some.other.name")), "{said:?}");
}

async fn nothing_special(place: &Place) {
    let shows = "cat /etc/resolv.conf; ls /var/run/secrets/kubernetes.io/serviceaccount; env | grep ^OTHER_ | sort";
    let said = place.output("usual", with(one(shows, json!({})), json!({ "dnsConfig": { "searches": ["one.test"] } }))).await;
    let namespace = &place.namespace;
    let search = format!("search {namespace}.svc.cluster.local svc.cluster.local cluster.local");
    let said = lines(&said);
    let line = said.iter().find(|line| line.starts_with("search ")).expect("a line");
    assert!(line.starts_with(&search) && line.ends_with(" one.test"), "{line}");
    assert!(said.contains(&"options ndots:5".to_owned()), "{said:?}");
    for word in ["token", "ca.crt", "namespace", "OTHER_SERVICE_PORT=80"] {
        assert!(said.iter().any(|line| line == word), "{word} is not in {said:?}");
    }

    let without = json!({ "dnsPolicy": "Default", "enableServiceLinks": false, "automountServiceAccountToken": false });
    let said = place.output("unusual", with(one(&format!("{shows}; true"), json!({})), without)).await;
    assert!(!said.contains("cluster.local") && !said.contains("token") && !said.contains("OTHER_"), "{said}");
}

/// A namespace of this process, such as `ipc:[4026531839]`: nodes share it.
fn of_machine(kind: &str) -> String {
    std::fs::read_link(Path::new("/proc/self/ns").join(kind)).expect("a namespace").display().to_string()
}

async fn the_node_itself(place: &Place, node: Ipv4Addr) {
    let shows = "readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc; ip -4 -o addr; cat /etc/resolv.conf";
    let host = json!({ "nodeName": NODE, "hostNetwork": true, "hostPID": true, "hostIPC": true, "dnsPolicy": "ClusterFirstWithHostNet" });
    let pod = place.succeeds("of-node", with(one(shows, json!({})), host)).await;
    let said = place.logs("of-node", "c").await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], [of_machine("pid"), of_machine("ipc")]);
    assert!(said.contains(&format!(" {node}/")), "{said}");
    assert!(said.contains("svc.cluster.local"), "{said}");
    assert_eq!(pod.status.and_then(|status| status.pod_ip), Some(node.to_string()));

    let said = place.output("apart", with(one(shows, json!({})), json!({ "nodeName": NODE }))).await;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0] != of_machine("pid") && lines[1] != of_machine("ipc"), "{lines:?}");
    assert!(!said.contains(&format!(" {node}/")), "{said}");
}

async fn all_together(place: &Place) {
    let containers = |name: &str| [named("c", "exec sleep 1001", json!({})), named(name, "exec sleep 1002", json!({}))];
    let seen = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '";
    place.runs("together", json!({ "shareProcessNamespace": true, "containers": containers("other") })).await;
    place.runs("each-alone", json!({ "containers": containers("other") })).await;
    for (pod, sees_all) in [("together", true), ("each-alone", false)] {
        until("it can be asked", async || place.says(pod, seen).await.contains("sleep 1001")).await;
        assert_eq!(place.says(pod, seen).await.contains("sleep 1002"), sees_all, "{pod}");
    }
}
