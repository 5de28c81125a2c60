//! Where pods are put, and which are put there first.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{APART, NODE, OTHER_NODE, TAINT};
use crate::node::asking::{object, until};
use crate::node::place::{Place, node_of, one, phase, pod, with};

pub(super) async fn story(place: Place) {
    tokio::join!(
        by_nodes(&place),
        by_pods(&place),
        tolerations(&place),
        spread(&place),
        not_yet(&place),
        by_somebody_else(&place),
        priorities(&place),
        classes_of_runtimes(&place)
    );
}

const HOST: &str = "kubernetes.io/hostname";
/// A taint that makes pods leave, and how long some may stay all the same.
const LEAVE: &str = "test.ferrokube.dev/leave";
const SECONDS: u64 = 4;

fn sleeps(spec: Value) -> Value {
    with(one("exec sleep 1000", json!({})), spec)
}

fn labelled(name: &str, labels: Value, spec: Value) -> Value {
    with(pod(name, sleeps(spec)), json!({ "metadata": { "labels": labels } }))
}

async fn is_on(place: &Place, name: &str, node: &str) {
    let pod = place.until_is(name, "it is put somewhere", |pod: &Pod| !node_of(pod).is_empty()).await;
    assert_eq!(node_of(&pod), node, "{name}");
}

async fn waits(place: &Place, name: &str, why: &str) {
    place.is_told(name, "FailedScheduling", why).await;
    assert_eq!(node_of(&place.get(name).await), "", "{name}");
}

async fn by_nodes(place: &Place) {
    let wanted =
        |node: &str| json!({ "nodeSelectorTerms": [{ "matchExpressions": [{ "key": HOST, "operator": "In", "values": [node] }] }] });
    let field = json!({ "nodeSelectorTerms": [{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [OTHER_NODE] }] }] });
    let required = |terms: Value| json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": terms } } });
    let preference = json!([{ "weight": 100, "preference": wanted(OTHER_NODE)["nodeSelectorTerms"][0] }]);
    for (name, spec, node) in [
        ("selected", json!({ "nodeSelector": { HOST: OTHER_NODE } }), OTHER_NODE),
        ("required", required(wanted(NODE)), NODE),
        ("by-field", required(field), OTHER_NODE),
        (
            "preferred",
            json!({ "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": preference } } }),
            OTHER_NODE,
        ),
    ] {
        place.create::<Pod>(pod(name, sleeps(spec))).await;
        is_on(place, name, node).await;
    }
    place.create::<Pod>(pod("nowhere", sleeps(required(wanted("none"))))).await;
    waits(place, "nowhere", "2 node(s) didn't match Pod's node affinity/selector").await;
}

/// Taints the node that is kept apart, in this way besides.
pub(super) async fn taint(client: &Client, besides: Value) {
    let mut taints = vec![json!({ "key": TAINT, "value": "a", "effect": "NoSchedule" })];
    taints.extend(besides.as_array().into_iter().flatten().cloned());
    let patch = json!({ "spec": { "taints": taints } });
    Api::<Node>::all(client.clone()).patch(APART, &PatchParams::default(), &Patch::Merge(patch)).await.expect("a taint");
}

/// Who gets onto a node that is tainted, and who has to leave it.
async fn tolerations(place: &Place) {
    let apart = |tolerations: Value| sleeps(json!({ "nodeSelector": { HOST: APART }, "tolerations": tolerations }));
    for (name, toleration) in [
        ("other-value", json!({ "key": TAINT, "operator": "Equal", "value": "b", "effect": "NoSchedule" })),
        ("other-effect", json!({ "key": TAINT, "operator": "Exists", "effect": "NoExecute" })),
        ("other-key", json!({ "key": "none", "operator": "Exists" })),
    ] {
        place.create::<Pod>(pod(name, apart(json!([toleration])))).await;
        waits(place, name, "1 node(s) had untolerated taint(s)").await;
    }
    let by_value = json!({ "key": TAINT, "operator": "Equal", "value": "a", "effect": "NoSchedule" });
    let for_a_while = json!({ "key": LEAVE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS });
    tokio::join!(
        place.runs("leaves", apart(json!([by_value]))),
        place.runs("leaves-later", apart(json!([{ "key": TAINT, "operator": "Exists" }, for_a_while]))),
        place.runs("stays", apart(json!([{ "operator": "Exists" }]))),
    );
    let begin = std::time::Instant::now();
    taint(&place.client, json!([{ "key": LEAVE, "effect": "NoExecute" }])).await;
    place.until_gone::<Pod>("leaves").await;
    place.until_gone::<Pod>("leaves-later").await;
    assert!(begin.elapsed().as_secs() >= SECONDS, "{:?}", begin.elapsed());
    assert!(crate::node::place::is_ready(&place.get("stays").await));
    taint(&place.client, json!([])).await;
}

async fn by_pods(place: &Place) {
    place.runs("first", sleeps(json!({ "nodeSelector": { HOST: OTHER_NODE } }))).await;
    let namespace = json!({ "matchLabels": { "kubernetes.io/metadata.name": place.namespace } });
    let term = |over: Value| with(json!({ "topologyKey": HOST, "labelSelector": { "matchLabels": { "app": "first" } } }), over);
    let affinity = |kind: &str, how: &str, terms: Value| json!({ "affinity": { kind: { how: terms } } });
    let (required, preferred) = ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
    let weighted = |term: Value| json!([{ "weight": 100, "podAffinityTerm": term }]);
    for (name, spec, node) in [
        ("near", affinity("podAffinity", required, json!([term(json!({ "namespaces": [place.namespace] }))])), OTHER_NODE),
        ("rather-near", affinity("podAffinity", preferred, weighted(term(json!({ "namespaceSelector": namespace })))), OTHER_NODE),
        ("apart", affinity("podAntiAffinity", required, json!([term(json!({}))])), NODE),
        ("rather-apart", affinity("podAntiAffinity", preferred, weighted(term(json!({})))), NODE),
    ] {
        place.create::<Pod>(pod(name, sleeps(spec))).await;
        is_on(place, name, node).await;
    }
    // Those of one version stay apart, whatever others do.
    let by_version = |keys: &str| {
        affinity(
            "podAntiAffinity",
            required,
            json!([{ "topologyKey": HOST, "labelSelector": { "matchLabels": { "app": "versions" } }, keys: ["version"] }]),
        )
    };
    for (name, version) in [("v1-a", "1"), ("v1-b", "1"), ("v2-a", "2"), ("v2-b", "2")] {
        place.create::<Pod>(labelled(name, json!({ "app": "versions", "version": version }), by_version("matchLabelKeys"))).await;
    }
    for version in ["v1", "v2"] {
        let mut nodes = Vec::new();
        for half in ["a", "b"] {
            nodes.push(
                node_of(&place.until_is(&format!("{version}-{half}"), "it is put somewhere", |pod: &Pod| !node_of(pod).is_empty()).await)
                    .to_owned(),
            );
        }
        assert_ne!(nodes[0], nodes[1], "{version}");
    }
    // And here of any version but one's own.
    let tenant = |name: &str| json!({ "app": "tenants", "tenant": name });
    let alone = json!({ "affinity": { "podAntiAffinity": { required: [{ "topologyKey": HOST, "labelSelector": { "matchLabels": { "app": "tenants" } }, "mismatchLabelKeys": ["tenant"] }] } } });
    place.create::<Pod>(labelled("tenant-a", tenant("a"), with(alone.clone(), json!({ "nodeSelector": { HOST: NODE } })))).await;
    is_on(place, "tenant-a", NODE).await;
    for (name, of) in [("tenant-b", "b"), ("tenant-b-too", "b")] {
        place.create::<Pod>(labelled(name, tenant(of), alone.clone())).await;
        is_on(place, name, OTHER_NODE).await;
    }
}

async fn spread(place: &Place) {
    let constraint = |over: Value| {
        with(
            json!({ "maxSkew": 1, "topologyKey": HOST, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": { "matchLabels": { "app": "spread" } } }),
            over,
        )
    };
    let on_both = json!({ "nodeAffinityPolicy": "Honor", "nodeTaintsPolicy": "Honor", "matchLabelKeys": ["version"] });
    let mut nodes = Vec::new();
    for n in 0..4 {
        let name = format!("spread-{n}");
        place
            .create::<Pod>(labelled(
                &name,
                json!({ "app": "spread", "version": "1" }),
                json!({ "topologySpreadConstraints": [constraint(on_both.clone())] }),
            ))
            .await;
        nodes.push(node_of(&place.until_is(&name, "it is put somewhere", |pod: &Pod| !node_of(pod).is_empty()).await).to_owned());
    }
    assert_eq!(nodes.iter().filter(|node| *node == NODE).count(), 2, "{nodes:?}");
    // A node that a pod does not select counts for nothing, or it does.
    for (policy, name) in [("Honor", "honors"), ("Ignore", "ignores")] {
        let here = json!({ "nodeAffinityPolicy": policy, "labelSelector": { "matchLabels": { "app": name } } });
        let spec = json!({ "nodeSelector": { HOST: NODE }, "topologySpreadConstraints": [constraint(here)] });
        for n in 0..2 {
            place.create::<Pod>(labelled(&format!("{name}-{n}"), json!({ "app": name }), spec.clone())).await;
        }
    }
    for name in ["honors-0", "honors-1"] {
        is_on(place, name, NODE).await;
    }
    until("one that ignores it has no place", async || {
        let waiting = ["ignores-0", "ignores-1"].map(|name| place.told(name, "FailedScheduling"));
        let told = futures::future::join_all(waiting).await;
        told.iter().flatten().any(|message| message.contains("1 node(s) didn't match pod topology spread constraints"))
    })
    .await;
    // Three places of its kind are not to be had.
    let three = json!({ "minDomains": 3, "nodeTaintsPolicy": "Honor", "labelSelector": { "matchLabels": { "app": "three" } } });
    let three = json!({ "topologySpreadConstraints": [constraint(three)] });
    for n in 0..2 {
        place.create::<Pod>(labelled(&format!("three-{n}"), json!({ "app": "three" }), three.clone())).await;
        place.until_is(&format!("three-{n}"), "it is put somewhere", |pod: &Pod| !node_of(pod).is_empty()).await;
    }
    place.create::<Pod>(labelled("three-2", json!({ "app": "three" }), three)).await;
    waits(place, "three-2", "2 node(s) didn't match pod topology spread constraints").await;
}

async fn not_yet(place: &Place) {
    let made = place.create::<Pod>(pod("gated", sleeps(json!({ "schedulingGates": [{ "name": "test.ferrokube.dev/gate" }] })))).await;
    assert_eq!(made.spec.and_then(|spec| spec.scheduling_gates).map(|gates| gates.len()), Some(1));
    place
        .until_is("gated", "it says why it waits", |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().any(|condition| condition.reason.as_deref() == Some("SchedulingGated"))
        })
        .await;
    place.merge::<Pod>("gated", json!({ "spec": { "schedulingGates": null } })).await;
    place.until_is("gated", "it runs", |pod: &Pod| phase(pod) == "Running").await;
}

async fn by_somebody_else(place: &Place) {
    place.create::<Pod>(pod("not-ours", sleeps(json!({ "schedulerName": "nobody" })))).await;
    // By a name and around every scheduler.
    place.create::<Pod>(pod("bound", sleeps(json!({ "nodeName": OTHER_NODE, "schedulerName": "nobody" })))).await;
    place.until_is("bound", "it runs", |pod: &Pod| phase(pod) == "Running").await;
    let untouched: Pod = place.get("not-ours").await;
    assert_eq!(node_of(&untouched), "");
    assert_eq!(untouched.status.and_then(|status| status.conditions), None);
    place.create::<Pod>(pod("other-system", sleeps(json!({ "os": { "name": "linux" } })))).await;
    place.until_is("other-system", "it runs", |pod: &Pod| phase(pod) == "Running").await;
    place.create::<Pod>(pod("no-system", with(one("true", json!({})), json!({ "nodeName": NODE, "os": { "name": "windows" } })))).await;
    let refused = place.until_is("no-system", "it is refused", |pod: &Pod| phase(pod) == "Failed").await;
    assert_eq!(refused.status.and_then(|status| status.reason).as_deref(), Some("PodOSNotSupported"));
}

/// One that matters more takes the place of one that matters less, unless it is told not to.
async fn priorities(place: &Place) {
    let classes: Api<PriorityClass> = Api::all(place.client.clone());
    for (name, value, policy) in
        [("test-low", 10, "PreemptLowerPriority"), ("test-high", 1000, "PreemptLowerPriority"), ("test-polite", 1000, "Never")]
    {
        let class = json!({ "metadata": { "name": name }, "value": value, "preemptionPolicy": policy });
        classes.create(&PostParams::default(), &object(class)).await.expect("a class");
    }
    // Host ports, of which a node has one of each number, are what they quarrel about.
    let wants = |class: &str| {
        let ports = json!({ "ports": [{ "containerPort": 8080, "hostPort": 18081 }] });
        with(one("exec sleep 1000", ports), json!({ "priorityClassName": class, "nodeSelector": { HOST: NODE } }))
    };
    let low = place.runs("low", wants("test-low")).await;
    assert_eq!(low.spec.and_then(|spec| spec.priority), Some(10));
    let polite = place.create::<Pod>(pod("polite", wants("test-polite"))).await.spec.expect("a spec");
    assert_eq!((polite.priority, polite.preemption_policy.as_deref()), (Some(1000), Some("Never")));
    waits(place, "polite", "not eligible due to preemptionPolicy=Never").await;
    place.delete::<Pod>("polite", &DeleteParams::default()).await;
    place.create::<Pod>(pod("high", wants("test-high"))).await;
    place.until_gone::<Pod>("low").await;
    is_on(place, "high", NODE).await;
    for name in ["test-low", "test-high", "test-polite"] {
        classes.delete(name, &DeleteParams::default()).await.expect("the class goes");
    }
}

async fn classes_of_runtimes(place: &Place) {
    let classes: Api<RuntimeClass> = Api::all(place.client.clone());
    let class = json!({ "metadata": { "name": "test-heavy" }, "handler": "test-handler", "overhead": { "podFixed": { "cpu": "7m" } } });
    classes.create(&PostParams::default(), &object(class)).await.expect("a class");
    let made = place.create::<Pod>(pod("heavy", sleeps(json!({ "runtimeClassName": "test-heavy" })))).await;
    let overhead = made.spec.and_then(|spec| spec.overhead).unwrap_or_default();
    assert_eq!(overhead.get("cpu").map(|amount| amount.0.as_str()), Some("7m"));
    until("it runs", async || phase(&place.get("heavy").await) == "Running").await;
    classes.delete("test-heavy", &DeleteParams::default()).await.expect("the class goes");
}
