//! Metrics of controllers from outside: the text is well formed, has upstream's names, and follows what happens.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
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
