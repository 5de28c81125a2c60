//! A driver of a few lines registers itself, mounts, and unmounts.

use std::path::Path;
use std::sync::Arc;

use client::Shutdown;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use prost::Message;
use serde_json::json;
use tokio::net::UnixListener;
use tonic::body::Body;

use super::super::tests_with_mounts::Server;
use super::super::{Config, Source, Volumes};
use super::messages::{
    Capabilities, Capability, NodeInfo, PluginInfo, Publish, RegistrationStatus, Rpc, STAGE_UNSTAGE_VOLUME, Stage, Undo,
};

/// What the driver was asked to do.
type Log = Arc<Mutex<Vec<String>>>;

/// One answer with its trailers, as gRPC frames it.
fn framed(message: Vec<u8>) -> http::Response<Body> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).expect("it is short").to_be_bytes());
    bytes.extend(message);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames =
        [Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes::Bytes::from(bytes))), Ok(http_body::Frame::trailers(trailers))];
    let body = http_body_util::StreamBody::new(futures::stream::iter(frames));
    http::Response::builder().header("content-type", "application/grpc").body(Body::new(body)).expect("it is well formed")
}

fn answer(path: &str, request: &[u8], endpoint: &str, log: &Log) -> Vec<u8> {
    let short = |path: &str| {
        Path::new(path).components().rev().take(3).map(|part| part.as_os_str().to_string_lossy().into_owned()).collect::<Vec<_>>().join("<")
    };
    match path.rsplit('/').next().unwrap_or("") {
        "GetInfo" => PluginInfo {
            kind: "CSIPlugin".to_owned(),
            name: "d.example.com".to_owned(),
            endpoint: endpoint.to_owned(),
            supported_versions: vec!["1.0.0".to_owned()],
        }
        .encode_to_vec(),
        "NotifyRegistrationStatus" => {
            let status = RegistrationStatus::decode(request).expect("it is well formed");
            log.lock().push(format!("registered {} {}", status.plugin_registered, status.error));
            Vec::new()
        }
        "NodeGetInfo" => NodeInfo { node_id: "id".to_owned(), ..NodeInfo::default() }.encode_to_vec(),
        "NodeGetCapabilities" => {
            let rpc = Some(Rpc { kind: STAGE_UNSTAGE_VOLUME });
            Capabilities { capabilities: vec![Capability { rpc }] }.encode_to_vec()
        }
        "NodeStageVolume" => {
            let request = Stage::decode(request).expect("it is well formed");
            log.lock().push(format!(
                "stage {} {} {}",
                request.volume_id,
                request.publish_context["device"],
                short(&request.staging_target_path).split('<').next().unwrap_or("")
            ));
            Vec::new()
        }
        "NodePublishVolume" => {
            let request = Publish::decode(request).expect("it is well formed");
            std::fs::create_dir(&request.target_path).expect("its parent is there");
            let pod = request.volume_context.get("csi.storage.k8s.io/pod.name").cloned().unwrap_or_default();
            log.lock().push(format!("publish {} {} {pod}", request.volume_id, short(&request.target_path)));
            Vec::new()
        }
        other => {
            let request = Undo::decode(request).expect("it is well formed");
            log.lock().push(format!("{other} {}", request.volume_id));
            Vec::new()
        }
    }
}

fn serve(socket: &Path, log: Log) {
    let listener = UnixListener::bind(socket).expect("it can be bound");
    let endpoint = socket.display().to_string();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let (endpoint, log) = (endpoint.clone(), log.clone());
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (endpoint, log) = (endpoint.clone(), log.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    let body = http_body_util::BodyExt::collect(request.into_body()).await.expect("it arrives").to_bytes();
                    Ok::<_, std::convert::Infallible>(framed(answer(&path, &body[5..], &endpoint, &log)))
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            tokio::spawn(connection.serve_connection(hyper_util::rt::TokioIo::new(stream), service));
        }
    });
}

#[tokio::test]
async fn a_drivers_volume_is_staged_published_and_undone() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let server = Server::new();
    server.put("/api/v1/nodes", "node", json!({"kind": "Node", "apiVersion": "v1"}));
    server.put(
        "/apis/storage.k8s.io/v1/csinodes",
        "node",
        json!({"kind": "CSINode", "apiVersion": "storage.k8s.io/v1", "spec": {"drivers": []}}),
    );
    let driver = json!({"kind": "CSIDriver", "apiVersion": "storage.k8s.io/v1", "spec": {"podInfoOnMount": true}});
    server.put("/apis/storage.k8s.io/v1/csidrivers", "d.example.com", driver);
    let claim = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
    server.put("/api/v1/namespaces/n/persistentvolumeclaims", "claim", claim);
    let source = json!({"driver": "d.example.com", "volumeHandle": "h"});
    let volume = json!({"kind": "PersistentVolume", "apiVersion": "v1", "spec": {"claimRef": {"uid": "claim"}, "csi": source, "accessModes": ["ReadWriteOnce"]}});
    server.put("/api/v1/persistentvolumes", "pv", volume);
    let volumes = Volumes::new(Config {
        root_dir: root.path().to_owned(),
        node_name: "node".to_owned(),
        client: server.client(),
        shutdown: Shutdown::new(),
        simulated: false,
    });
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}],
        "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}))
    .expect("it is a pod");
    let missing = volumes.mount(&pod).await.expect_err("there is no driver");
    assert!(missing.events[0].ends_with("driver name d.example.com not found in the list of registered CSI drivers"), "{missing:?}");

    std::fs::create_dir(root.path().join("plugins_registry")).expect("it can be made");
    let log = Log::default();
    serve(&root.path().join("plugins_registry/d.sock"), log.clone());
    volumes.shared.csi.look().await;
    assert_eq!(std::mem::take(&mut *log.lock()), ["registered true "]);
    assert_eq!(server.get("/apis/storage.k8s.io/v1/csinodes", "node")["spec"]["drivers"][0]["nodeID"], "id");

    volumes.retry_at_once("u");
    let unattached = volumes.mount(&pod).await.expect_err("it is not attached");
    assert_eq!(unattached.events.len(), 1);
    assert_eq!(volumes.in_use(), ["kubernetes.io/csi/d.example.com^h"]);
    let attachment = json!({"kind": "VolumeAttachment", "apiVersion": "storage.k8s.io/v1", "spec": {"attacher": "d.example.com", "nodeName": "node", "source": {}},
        "status": {"attached": true, "attachmentMetadata": {"device": "/dev/x"}}});
    // The hash of handle, driver and node.
    let name = "csi-".to_owned() + &super::mount::tests::hashed_for_tests("hd.example.comnode");
    server.put("/apis/storage.k8s.io/v1/volumeattachments", &name, attachment);
    volumes.retry_at_once("u");
    let mounted = volumes.mount(&pod).await.expect("all is there");
    let target = root.path().join("pods/u/volumes/kubernetes.io~csi/pv/mount");
    assert_eq!(mounted.by_name["v"].source, Source::Path(target));
    assert_eq!(std::mem::take(&mut *log.lock()), ["stage h /dev/x globalmount", "publish h mount<pv<kubernetes.io~csi p"]);

    volumes.unmount("u").await.expect("the driver undoes it");
    assert_eq!(std::mem::take(&mut *log.lock()), ["NodeUnpublishVolume h", "NodeUnstageVolume h"]);
    assert!(!volumes.pod_dir("u").exists());
    assert!(volumes.in_use().is_empty());
    let left = std::fs::read_dir(root.path().join("plugins/kubernetes.io/csi/d.example.com")).expect("it was made").count();
    assert_eq!(left, 0);
}
