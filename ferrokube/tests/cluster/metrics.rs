//! Metrics from outside, of controllers and of the API server: the text is well formed, has upstream's names, and follows what happens.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::components::{eventually, read, start_manager_at};
use crate::process::Cluster;

/// Samples of a text: the series with its labels, and its number.
pub type Samples = BTreeMap<String, f64>;

/// Reads the text format, as strict as a scraper, and stricter: a family comes in one piece, and each series once.
pub fn samples(text: &str) -> Samples {
    let (mut types, mut samples) = (BTreeMap::<&str, &str>::new(), Samples::new());
    let mut family = "";
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# ") {
            let mut words = head.splitn(3, ' ');
            let (kind, name, rest) = (words.next(), words.next().expect("a name"), words.next().unwrap_or(""));
            if kind == Some("TYPE") {
                assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                assert!(types.insert(name, rest).is_none(), "{name} is told twice");
                family = name;
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let name = series.split('{').next().unwrap_or("");
        let of =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).filter(|of| types.get(of) == Some(&"histogram"));
        assert_eq!(of.unwrap_or(name), family, "{line}");
        let number = value.replace("+Inf", "inf").parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(samples.insert(series.to_owned(), number).is_none(), "twice: {line}");
    }
    let mut below: Option<(String, f64, f64)> = None;
    for series in text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series) {
        // Buckets stand together, in the order of their bounds; each has what the one before has.
        let Some((rest, bound)) = series.split_once("_bucket{").and(series.rsplit_once("le=\"")) else { continue };
        let (bound, number) = (bound.trim_end_matches("\"}").replace("+Inf", "inf").parse().expect("a bound"), samples[series]);
        if let Some((_, low, count)) = below.take().filter(|(of, ..)| of == rest) {
            assert!(low < bound && count <= number, "{series} {number} has less than the bucket before, of {low}: {count}");
        }
        below = Some((rest.to_owned(), bound, number));
    }
    for (series, number) in &samples {
        // The last bucket has all that were counted.
        if let Some((name, labels)) = series.split_once("_bucket{").filter(|_| series.contains("le=\"+Inf\"")) {
            let labels = labels.trim_end_matches('}').trim_end_matches("le=\"+Inf\"").trim_end_matches(',');
            let count = if labels.is_empty() { format!("{name}_count") } else { format!("{name}_count{{{labels}}}") };
            assert_eq!(samples.get(&count), Some(number), "{series}");
        }
    }
    samples
}

fn names(samples: &Samples) -> BTreeSet<&str> {
    samples.keys().map(|series| series.split('{').next().unwrap_or("")).collect()
}

/// A workload for controllers to work on.
async fn add_work(client: &Client) {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    eventually("the default service account", || async { accounts.get_opt("default").await.expect("an answer") }).await;
    let pod = json!({ "containers": [{ "name": "c", "image": "example.com/i:1" }], "restartPolicy": "Never" });
    let job = json!({ "metadata": { "name": "j" }, "spec": { "template": { "spec": pod } } });
    let job: Job = serde_json::from_value(job).expect("a job");
    Api::<Job>::namespaced(client.clone(), "default").create(&PostParams::default(), &job).await.expect("a job is created");
    let labels = json!({ "app": "web" });
    let pod = json!({ "containers": [{ "name": "c", "image": "example.com/i:1" }] });
    let template = json!({ "metadata": { "labels": labels }, "spec": pod });
    let spec = json!({ "replicas": 2, "selector": { "matchLabels": labels }, "template": template });
    let web: Deployment = serde_json::from_value(json!({ "metadata": { "name": "web" }, "spec": spec })).expect("a deployment");
    Api::<Deployment>::namespaced(client.clone(), "default").create(&PostParams::default(), &web).await.expect("it is created");
}

/// What every controller manager tells after [`add_work`], whatever else.
const WORKED: [(&str, f64); 5] = [
    ("workqueue_adds_total{name=\"deployment\"}", 1.0),
    ("workqueue_work_duration_seconds_count{name=\"replicaset\"}", 1.0),
    ("job_controller_job_pods_creation_total{reason=\"new\",status=\"succeeded\"}", 1.0),
    ("job_controller_job_syncs_total{completion_mode=\"NonIndexed\",result=\"success\",action=\"pods_created\"}", 1.0),
    ("root_ca_cert_publisher_sync_total{code=\"200\"}", 1.0),
];

/// Families that are there whatever happens.
const NAMES: [&str; 14] = [
    "workqueue_depth",
    "workqueue_longest_running_processor_seconds",
    "workqueue_queue_duration_seconds_bucket",
    "workqueue_unfinished_work_seconds",
    "cronjob_controller_job_creation_skew_duration_seconds_count",
    "device_taint_eviction_controller_pod_deletions_total",
    "endpoint_slice_controller_num_endpoint_slices",
    "endpoint_slice_mirroring_controller_endpoints_sync_duration_count",
    "ephemeral_volume_controller_create_total",
    "garbagecollector_controller_resources_sync_error_total",
    "horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers",
    "node_collector_update_all_nodes_health_duration_seconds_count",
    "taint_eviction_controller_pod_deletion_duration_seconds_sum",
    "ttl_after_finished_controller_job_deletion_duration_seconds_bucket",
];

fn has_worked(samples: &Samples) -> bool {
    WORKED.iter().all(|(series, least)| samples.get(*series).is_some_and(|number| number >= least))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_a_whole_cluster_tells_what_its_controllers_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(&directory.path().join("data"));
    let client = cluster.client().await;
    add_work(&client).await;
    let told = eventually("metrics of the work", || async {
        let told = samples(&read(&client, "/metrics").await.expect("the administrator may"));
        has_worked(&told).then_some(told)
    })
    .await;
    let names = names(&told);
    for name in NAMES.into_iter().chain(["apiserver_request_total", "scheduler_pending_pods"]) {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
    assert!(told.keys().any(|series| series.starts_with("rest_client_requests_total{code=\"201\",method=\"POST\",host=\"in-process\"")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_of_its_own_tells_what_its_controllers_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(&directory.path().join("data"));
    let (_manager, manager) = start_manager_at(directory.path(), &cluster).await;
    add_work(&cluster.client().await).await;
    let told = eventually("metrics of the work", || async {
        let told = samples(&read(&manager, "/metrics").await.ok()?);
        has_worked(&told).then_some(told)
    })
    .await;
    let names = names(&told);
    for name in NAMES.into_iter().chain(["process_resident_memory_bytes", "rest_client_request_duration_seconds_bucket"]) {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
    assert_eq!(told.get("leader_election_master_status{name=\"kube-controller-manager\"}"), Some(&1.0));
    let host = |series: &&String| series.starts_with("rest_client_requests_total{code=\"201\",method=\"POST\",host=\"127.0.0.1:");
    assert!(told.keys().any(|series| host(&series)), "{told:?}");
}

/// The sum of the series of a family that have these labels, whatever others they have.
fn sum(samples: &Samples, family: &str, labels: &[(&str, &str)]) -> f64 {
    let has = |series: &str| labels.iter().all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")));
    let of_family = |series: &str| series.split('{').next() == Some(family);
    // Not what an iterator adds up to: nothing is -0 then.
    samples.iter().filter(|(series, _)| of_family(series) && has(series)).fold(0.0, |sum, (_, number)| sum + number)
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "a": "b" } })).expect("a config map")
}

/// Asks for config maps in every way that is counted apart; in the end there is one, `kept`.
async fn ask_for_config_maps(client: &Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let post = PostParams::default();
    for name in ["kept", "gone"] {
        maps.create(&post, &config_map(name)).await.expect("it is created");
    }
    maps.create(&PostParams { dry_run: true, ..post.clone() }, &config_map("tried")).await.expect("it could be created");
    maps.patch("kept", &PatchParams::default(), &Patch::Merge(json!({ "data": { "c": "d" } }))).await.expect("it is patched");
    let applied = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "kept" }, "data": { "e": "f" } });
    maps.patch("kept", &PatchParams::apply("test"), &Patch::Apply(applied)).await.expect("it is applied");
    maps.get("kept").await.expect("it is there");
    maps.list(&ListParams::default()).await.expect("a list");
    maps.delete("gone", &DeleteParams::default()).await.expect("it is deleted");
    assert!(maps.get_opt("gone").await.expect("an answer").is_none());
    let nowhere: Api<ConfigMap> = Api::namespaced(client.clone(), "nowhere");
    nowhere.create(&post, &config_map("kept")).await.expect_err("there is no such namespace");
}

/// What [`ask_for_config_maps`] is counted as: verb, dry run, scope, code, and how often.
const ASKED: [(&str, &str, &str, &str, f64); 9] = [
    ("POST", "", "resource", "201", 2.0),
    ("POST", "All", "resource", "201", 1.0),
    ("POST", "", "resource", "404", 1.0),
    ("PATCH", "", "resource", "200", 1.0),
    ("APPLY", "", "resource", "200", 1.0),
    ("GET", "", "resource", "200", 1.0),
    ("GET", "", "resource", "404", 1.0),
    ("LIST", "", "namespace", "200", 1.0),
    ("DELETE", "", "resource", "200", 1.0),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_tells_what_was_asked_of_it() {
    const MAPS: [(&str, &str); 3] = [("group", ""), ("version", "v1"), ("resource", "configmaps")];
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(&directory.path().join("data"));
    let client = cluster.client().await;
    let told = async || samples(&read(&client, "/metrics").await.expect("the administrator may"));
    let before = told().await;
    ask_for_config_maps(&client).await;
    let after = told().await;
    let more = |family: &str, labels: &[(&str, &str)]| sum(&after, family, labels) - sum(&before, family, labels);
    for (verb, dry_run, scope, code, times) in ASKED {
        let labels = [&MAPS[..], &[("verb", verb), ("dry_run", dry_run), ("scope", scope), ("code", code)]].concat();
        assert_eq!(more("apiserver_request_total", &labels), times, "{labels:?}");
    }
    for verb in ["POST", "PATCH", "APPLY", "GET", "LIST", "DELETE"] {
        let labels = [&MAPS[..], &[("verb", verb)]].concat();
        assert_eq!(more("apiserver_request_duration_seconds_count", &labels), more("apiserver_request_total", &labels), "{verb}");
    }
    let posts = [&MAPS[..], &[("verb", "POST")]].concat();
    assert_eq!(more("apiserver_request_sli_duration_seconds_count", &posts), 3.0, "what is only tried is not meant");
    assert!(more("apiserver_response_sizes_sum", &[&MAPS[..], &[("verb", "LIST")]].concat()) > 100.0);

    let created = [("operation", "CREATE"), ("type", "admit")];
    let lifecycle = [&created[..], &[("name", "NamespaceLifecycle")]].concat();
    for (rejected, times) in [("false", 3.0), ("true", 1.0)] {
        let plugin = [&lifecycle[..], &[("rejected", rejected)]].concat();
        let step = [&created[..], &[("rejected", rejected)]].concat();
        // The server may have made something of its own meanwhile.
        assert!(more("apiserver_admission_controller_admission_duration_seconds_count", &plugin) >= times, "{rejected}");
        assert!(more("apiserver_admission_step_admission_duration_seconds_count", &step) >= times, "{rejected}");
    }

    let kind = [("group", ""), ("resource", "configmaps")];
    assert_eq!(more("apiserver_resource_objects", &kind), 1.0);
    assert_eq!(more("apiserver_storage_list_total", &kind), 1.0);
    assert!(more("apiserver_storage_list_returned_objects_total", &kind) >= 1.0);
    assert!(sum(&after, "apiserver_storage_size_bytes", &[("storage_cluster_id", "etcd-0")]) > 0.0);
    assert!(sum(&after, "apiserver_current_inflight_requests", &[("request_kind", "readOnly")]) >= 1.0, "this one");
    // Who reads the metrics shows a certificate, and may do everything.
    assert!(more("authentication_attempts", &[("result", "success")]) >= 10.0);
    assert!(more("authorization_attempts_total", &[("result", "allowed")]) >= 10.0);
    assert!(more("apiserver_client_certificate_expiration_seconds_count", &[]) >= 10.0);
    let names = names(&after);
    for name in
        ["kubernetes_build_info", "kubernetes_feature_enabled", "process_start_time_seconds", "apiserver_flowcontrol_nominal_limit_seats"]
    {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_tells_of_watches_and_of_what_was_refused() {
    const WATCHES: [(&str, &str); 3] = [("verb", "WATCH"), ("resource", "configmaps"), ("scope", "namespace")];
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(&directory.path().join("data"));
    let client = cluster.client().await;
    let told = async || samples(&read(&client, "/metrics").await.expect("the administrator may"));
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let before = told().await;
    let mut events = maps.watch(&WatchParams::default(), "0").await.expect("a watch").boxed();
    maps.create(&PostParams::default(), &config_map("seen")).await.expect("it is created");
    while let Some(event) = events.next().await {
        if let kube::api::WatchEvent::Added(map) = event.expect("an event")
            && map.metadata.name.as_deref() == Some("seen")
        {
            break;
        }
    }
    let during = told().await;
    let running = |samples: &Samples| sum(samples, "apiserver_longrunning_requests", &WATCHES);
    let ended = |samples: &Samples| sum(samples, "apiserver_request_total", &WATCHES);
    assert_eq!((running(&during) - running(&before), ended(&during) - ended(&before)), (1.0, 0.0));
    let seen = sum(&during, "apiserver_watch_events_total", &[("resource", "configmaps")]);
    assert!(seen >= 1.0 && sum(&during, "apiserver_watch_events_sizes_count", &[("resource", "configmaps")]) == seen);
    drop(events);
    eventually("the watch to have ended", || async {
        let after = told().await;
        (running(&after) == running(&before) && ended(&after) == ended(&before) + 1.0).then_some(())
    })
    .await;

    let anybody = Client::try_from(cluster.anonymous().await).expect("a client");
    read(&anybody, "/api/v1/namespaces/default/endpoints").await.expect_err("nobody in particular may not");
    read(&anybody, "/apis/made.up/v1/things").await.expect_err("nor that");
    read(&client, "/apis/made.up/v1/things").await.expect_err("there is no such thing");
    read(&client, "/api/v1/namespaces/default/endpoints").await.expect("the administrator may");
    assert_eq!(read(&anybody, "/livez").await.expect("everybody may"), "ok");
    let text = read(&client, "/metrics").await.expect("the administrator may");
    assert!(!text.contains("made.up"), "what is not there has no name");
    let after = samples(&text);
    assert_eq!(sum(&after, "apiserver_request_total", &[("resource", "endpoints"), ("verb", "LIST"), ("code", "403")]), 1.0);
    assert_eq!(sum(&after, "authorization_attempts_total", &[("result", "no-opinion")]), 2.0);
    assert!(sum(&after, "apiserver_flowcontrol_request_wait_duration_seconds_count", &[("execute", "true")]) >= 2.0);
    let deprecated = [("group", ""), ("version", "v1"), ("resource", "endpoints"), ("removed_release", "")];
    assert_eq!(sum(&after, "apiserver_requested_deprecated_apis", &deprecated), 1.0);
    assert_eq!(sum(&after, "apiserver_request_total", &[("subresource", "/livez"), ("code", "200")]), 1.0);
    let slis = samples(&read(&client, "/metrics/slis").await.expect("the administrator may"));
    assert_eq!(slis.get("kubernetes_healthcheck{name=\"ping\",type=\"livez\"}"), Some(&1.0));
    assert_eq!(slis.get("kubernetes_healthchecks_total{name=\"etcd\",status=\"success\",type=\"livez\"}"), Some(&1.0));
}
