//! A driver of a few lines, over real sockets, and an API server that has its claims.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use client::Shutdown;
use futures::StreamExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use prost::Message;
use serde_json::{Value, json};

use super::driver::Drivers;
use super::messages::{
    Claim, ClaimsRequest, Device, DeviceHealth, DeviceIdentifier, Health, PrepareResponse, Prepared, UnprepareResponse, Unprepared,
};
use super::{Claims, Metrics};
use crate::grpc::server::{self, Answer, Service};
use crate::plugin_watcher::Handler;
use crate::pod;

/// What the driver and the API server were asked.
type Log = Arc<Mutex<Vec<String>>>;

struct Driver {
    log: Log,
    fails: Arc<Mutex<String>>,
}

fn uids(claims: &[Claim]) -> String {
    claims.iter().map(|claim| claim.uid.as_str()).collect::<Vec<_>>().join(",")
}

impl Service for Driver {
    fn call(self: Arc<Self>, path: String, request: Bytes) -> BoxFuture<'static, Answer> {
        Box::pin(async move {
            let error = self.fails.lock().clone();
            match path.as_str() {
                "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources" => {
                    let request: ClaimsRequest = server::read(request)?;
                    self.log.lock().push(format!("prepare {}", uids(&request.claims)));
                    let prepared = |claim: &Claim| {
                        let device = Device {
                            request_names: vec!["r".to_owned()],
                            pool_name: "pool".to_owned(),
                            device_name: "1".to_owned(),
                            cdi_device_ids: vec![format!("example.com/d={}", claim.name)],
                            share_id: None,
                        };
                        (claim.uid.clone(), Prepared { devices: vec![device], error: error.clone() })
                    };
                    server::one(&PrepareResponse { claims: request.claims.iter().map(prepared).collect() })
                }
                "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources" => {
                    let request: ClaimsRequest = server::read(request)?;
                    self.log.lock().push(format!("undo {}", uids(&request.claims)));
                    let undone = |claim: &Claim| (claim.uid.clone(), Unprepared { error: error.clone() });
                    server::one(&UnprepareResponse { claims: request.claims.iter().map(undone).collect() })
                }
                "/v1.DRAResourceHealth/NodeWatchResources" => {
                    let device = Some(DeviceIdentifier { pool_name: "pool".to_owned(), device_name: "1".to_owned() });
                    let sick = DeviceHealth { device, health: 2, message: "hot".to_owned(), ..DeviceHealth::default() };
                    let told = Health { devices: vec![sick] }.encode_to_vec();
                    Ok(futures::stream::once(async move { Ok(told) }).chain(futures::stream::pending()).boxed())
                }
                _ => server::unknown(&path),
            }
        })
    }
}

/// A driver that runs until it is dropped.
struct Running {
    log: Log,
    fails: Arc<Mutex<String>>,
    shutdown: Shutdown,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn run_driver(path: &Path) -> Running {
    let (log, fails, shutdown) = (Log::default(), Arc::default(), Shutdown::new());
    let service = Arc::new(Driver { log: log.clone(), fails: Arc::clone(&fails) });
    tokio::spawn(server::serve(server::listen(path).expect("it can be bound"), service, shutdown.clone()));
    Running { log, fails, shutdown }
}

fn claim(name: &str) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}")}, "spec": {},
        "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "p"}, {"resource": "pods", "name": "q", "uid": "q"}],
            "allocation": {"devices": {"results": [{"driver": "d.example.com", "pool": "pool", "device": "1", "request": "r"}]}}}})
}

/// An API server that has claims of all names but `missing`, and notes what is deleted.
fn api(log: Log) -> kube::Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let log = log.clone();
        async move {
            let name = request.uri().path().rsplit('/').next().unwrap_or("").to_owned();
            let (status, answer) = match *request.method() {
                http::Method::DELETE => {
                    log.lock().push(format!("delete {name}?{}", request.uri().query().unwrap_or("")));
                    (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
                }
                _ if name == "missing" => (
                    404,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                    "code": 404, "message": "resourceclaims.resource.k8s.io \"missing\" not found"}),
                ),
                _ => (200, claim(&name)),
            };
            let body = Body::from(answer.to_string().into_bytes());
            Ok::<_, std::convert::Infallible>(Response::builder().status(status).body(body).expect("it is well formed"))
        }
    });
    kube::Client::new(service, "n")
}

fn pod_of(name: &str, claims: &[&str]) -> Pod {
    let of_pod: Vec<Value> = claims.iter().map(|claim| json!({"name": claim, "resourceClaimName": claim})).collect();
    let of_container: Vec<Value> = claims.iter().map(|claim| json!({"name": claim})).collect();
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {
        "resourceClaims": of_pod, "containers": [{"name": "c", "resources": {"claims": of_container}}]}}))
    .expect("it is a pod")
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time: {what}");
}

async fn claims(root: &Path, log: &Log) -> (Claims, Shutdown) {
    let (metrics, shutdown, client) = (Metrics::default(), Shutdown::new(), api(log.clone()));
    let drivers = Drivers::wiping_after(Duration::from_millis(200), client.clone(), "node", metrics.clone(), shutdown.clone());
    let claims = Claims::with(root, client, metrics, drivers);
    claims.start().await;
    (claims, shutdown)
}

const VERSIONS: [&str; 2] = ["v1beta1.DRAPlugin", "v1.DRAResourceHealth"];

async fn register(claims: &Claims, path: &Path) {
    let versions = VERSIONS.map(str::to_owned);
    claims.drivers().register("d.example.com", &path.to_string_lossy(), &versions).await.expect("it is as it shall be");
}

#[tokio::test]
async fn claims_are_prepared_for_pods_and_undone_after_the_last() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let (root, asked) = (root.path(), Log::default());
    let socket = root.join("d.sock");
    let (first, second) = (pod_of("p", &["a", "b"]), pod_of("q", &["a"]));
    let container = |pod: &Pod| pod::containers(pod)[0].clone();
    {
        let (claims, shutdown) = claims(root, &asked).await;
        eventually("what was offered before is deleted", || *asked.lock() == ["delete resourceslices?&fieldSelector=spec.nodeName%3Dnode"])
            .await;
        let error = claims.prepare(&first).await.expect_err("there is no driver");
        assert_eq!(error, "prepare dynamic resources: DRA driver d.example.com is not registered");
        let running = run_driver(&socket);
        register(&claims, &socket).await;
        let error = claims.prepare(&pod_of("p", &["missing"])).await.expect_err("there is no such claim");
        assert!(error.starts_with("prepare dynamic resources: fetch ResourceClaim missing: "), "{error}");
        let error = claims.prepare(&pod_of("x", &["a"])).await.expect_err("it may not");
        assert_eq!(error, "prepare dynamic resources: pod x (x) is not allowed to use ResourceClaim a (uid-a)");
        *running.fails.lock() = "no power".to_owned();
        let error = claims.prepare(&first).await.expect_err("the driver fails");
        assert!(
            error.starts_with("prepare dynamic resources: NodePrepareResources failed for ResourceClaim ") && error.ends_with(": no power")
        );
        running.fails.lock().clear();
        claims.prepare(&first).await.expect("the driver is well");
        claims.prepare(&second).await.expect("one is prepared already");
        assert_eq!(*running.log.lock(), ["prepare uid-a,uid-b", "prepare uid-a,uid-b"]);
        assert_eq!(claims.cdi_devices(&first, &container(&first)), Ok(vec!["example.com/d=a".to_owned(), "example.com/d=b".to_owned()]));
        let told = claims.of_container(&second, &container(&second));
        assert_eq!((told.len(), told[0].claim_name.as_str()), (1, "a"));
        assert_eq!(told[0].claim_resources[0].cdi_devices[0].name, "example.com/d=a");
        let page = claims.shared.metrics.render();
        for line in [
            "dra_resource_claims_in_use{driver_name=\"<any>\"} 2",
            "dra_resource_claims_in_use{driver_name=\"d.example.com\"} 2",
            "dra_operations_duration_seconds_count{operation_name=\"PrepareResources\",is_error=\"true\"} 4",
            "grpc_status_code=\"OK\"} 2",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
        shutdown.cancel();
    }
    // The next kubelet knows all of it.
    let (claims, _shutdown) = claims(root, &asked).await;
    let running = run_driver(&socket);
    register(&claims, &socket).await;
    assert_eq!(claims.cdi_devices(&second, &container(&second)), Ok(vec!["example.com/d=a".to_owned()]));
    claims.unprepare(&second).await.expect("another pod uses it");
    assert!(running.log.lock().is_empty());
    *running.fails.lock() = "busy".to_owned();
    let error = claims.unprepare(&first).await.expect_err("the driver fails");
    assert!(error.ends_with(": busy"), "{error}");
    running.fails.lock().clear();
    // A pod that nobody knows any more is looked after too.
    claims.reconcile(&BTreeSet::new()).await;
    assert_eq!(*running.log.lock(), ["undo uid-a,uid-b", "undo uid-a,uid-b"]);
    claims.unprepare(&first).await.expect("there is nothing left to undo");
    assert_eq!(running.log.lock().len(), 2);
    assert!(claims.cdi_devices(&first, &container(&first)).is_err());
}

#[tokio::test]
async fn health_is_told_and_what_a_driver_offers_goes_with_it() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let (root, asked) = (root.path(), Log::default());
    let socket = root.join("d.sock");
    let (claims, _shutdown) = claims(root, &asked).await;
    let told: Log = Log::default();
    let heard = told.clone();
    claims.on_change(Arc::new(move |uid| heard.lock().push(uid.to_owned())));
    let running = run_driver(&socket);
    register(&claims, &socket).await;
    let first = pod_of("p", &["a"]);
    claims.prepare(&first).await.expect("the driver is well");
    let status = || {
        let mut status: PodStatus = serde_json::from_value(json!({"containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0}]}))
        .expect("it is a status");
        claims.add_health(&first, &mut status);
        serde_json::to_value(&status.container_statuses.expect("it is there")[0].allocated_resources_status).expect("it is well formed")
    };
    let sick = json!([{"name": "claim:a", "resources": [{"resourceID": "example.com/d=a", "health": "Unhealthy", "message": "hot"}]}]);
    eventually("the driver tells", || status() == sick).await;
    assert_eq!(
        claims.drivers().register("d.example.com", &socket.to_string_lossy(), &VERSIONS.map(str::to_owned)).await,
        Err(format!("endpoint {} already registered for DRA driver plugin d.example.com", socket.display()))
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(asked.lock().iter().filter(|line| line.contains("d.example.com")).count(), 0);
    drop(running);
    let wiped = "delete resourceslices?&fieldSelector=spec.nodeName%3Dnode%2Cspec.driver%3Dd.example.com";
    eventually("what it offered is deleted", || asked.lock().iter().any(|line| line == wiped)).await;
    assert_eq!(status()[0]["resources"][0]["health"], "Unknown");
    claims.drivers().deregister("d.example.com", &socket.to_string_lossy()).await;
    assert_eq!(claims.unprepare(&first).await, Err("unprepare dynamic resources: DRA driver d.example.com is not registered".to_owned()));
}
