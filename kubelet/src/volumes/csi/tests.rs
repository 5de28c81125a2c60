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
    BYTES, Capabilities, Capability, EXPAND_VOLUME, Expand, GET_VOLUME_STATS, INODES, NodeInfo, PluginInfo, Publish, RegistrationStatus,
    Rpc, STAGE_UNSTAGE_VOLUME, Stage, Stats, Undo, Usage, Usages,
};
use super::wanted::hashed;

/// What the driver was asked to do.
type Log = Arc<Mutex<Vec<String>>>;

const CSI_DRIVERS: &str = "/apis/storage.k8s.io/v1/csidrivers";
const CLAIMS: &str = "/api/v1/namespaces/n/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";

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
            let kinds = [STAGE_UNSTAGE_VOLUME, EXPAND_VOLUME, GET_VOLUME_STATS];
            Capabilities { capabilities: kinds.map(|kind| Capability { rpc: Some(Rpc { kind }) }).to_vec() }.encode_to_vec()
        }
        "NodeStageVolume" => {
            let request = Stage::decode(request).expect("it is well formed");
            log.lock().push(format!(
                "stage {} {} {}",
                request.volume_id,
                request.publish_context.get("device").map_or("", String::as_str),
                short(&request.staging_target_path).split('<').next().unwrap_or("")
            ));
            Vec::new()
        }
        "NodePublishVolume" => {
            let request = Publish::decode(request).expect("it is well formed");
            let capability = request.volume_capability.clone().unwrap_or_default();
            if capability.block.is_some() {
                assert!(capability.mount.is_none());
                let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
                let device = nix::sys::stat::makedev(7, 0);
                let made = nix::sys::stat::mknod(Path::new(&request.target_path), nix::sys::stat::SFlag::S_IFBLK, mode, device);
                made.expect("root may make devices");
            } else {
                std::fs::create_dir(&request.target_path).expect("its parent is there");
            }
            let pod = request.volume_context.get("csi.storage.k8s.io/pod.name").cloned().unwrap_or_default();
            log.lock().push(format!("publish {} {} {pod}", request.volume_id, short(&request.target_path)));
            Vec::new()
        }
        "NodeExpandVolume" => {
            let request = Expand::decode(request).expect("it is well formed");
            let bytes = request.capacity_range.unwrap_or_default().required_bytes;
            let kind = if request.volume_capability.unwrap_or_default().block.is_some() { "device" } else { "mount" };
            log.lock().push(format!("expand {} {bytes} {kind} {}", request.volume_id, short(&request.volume_path)));
            Vec::new()
        }
        "NodeGetVolumeStats" => {
            let request = Stats::decode(request).expect("it is well formed");
            log.lock().push(format!("stats {} {}", request.volume_id, short(&request.volume_path)));
            let usage = |total, used, unit| Usage { available: total - used, total, used, unit };
            Usages { usage: vec![usage(100, 40, BYTES), usage(10, 3, INODES)] }.encode_to_vec()
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
        recorder: client::events::Recorder::recording().0,
        metrics: Default::default(),
        shutdown: Shutdown::new(),
        simulated: false,
    });
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}],
        "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}))
    .expect("it is a pod");
    let missing = volumes.mount(&pod).await.expect_err("there is no driver");
    assert!(
        missing.events[0].message.ends_with("driver name d.example.com not found in the list of registered CSI drivers"),
        "{missing:?}"
    );

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
    let name = "csi-".to_owned() + &hashed("hd.example.comnode");
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

/// A server that knows the node and the driver, the driver registered, and what it is asked.
async fn with_driver(root: &Path, spec: serde_json::Value) -> (Server, Volumes, tokio::sync::mpsc::Receiver<client::events::Event>, Log) {
    let server = Server::new();
    server.put("/api/v1/nodes", "node", json!({"kind": "Node", "apiVersion": "v1"}));
    let drivers = json!({"kind": "CSINode", "apiVersion": "storage.k8s.io/v1", "spec": {"drivers": []}});
    server.put("/apis/storage.k8s.io/v1/csinodes", "node", drivers);
    server.put(CSI_DRIVERS, "d.example.com", json!({"kind": "CSIDriver", "apiVersion": "storage.k8s.io/v1", "spec": spec}));
    let (recorder, told) = client::events::Recorder::recording();
    let volumes = Volumes::new(Config {
        root_dir: root.to_owned(),
        node_name: "node".to_owned(),
        client: server.client(),
        recorder,
        metrics: Default::default(),
        shutdown: Shutdown::new(),
        simulated: false,
    });
    std::fs::create_dir(root.join("plugins_registry")).expect("it can be made");
    let log = Log::default();
    serve(&root.join("plugins_registry/d.sock"), log.clone());
    volumes.shared.csi.look().await;
    log.lock().clear();
    (server, volumes, told, log)
}

fn put_claim(server: &Server, mode: &str, capacity: &str, status: serde_json::Value) {
    let mut status = status;
    status["phase"] = json!("Bound");
    let spec = json!({"volumeName": "pv", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": capacity}}});
    server.put(CLAIMS, "claim", json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "spec": spec, "status": status}));
    let source = json!({"driver": "d.example.com", "volumeHandle": "h"});
    let spec = json!({"claimRef": {"uid": "claim"}, "csi": source, "accessModes": ["ReadWriteOnce"], "volumeMode": mode, "capacity": {"storage": capacity}});
    server.put(VOLUMES, "pv", json!({"kind": "PersistentVolume", "apiVersion": "v1", "spec": spec}));
}

fn pod_with_device(uid: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": uid}, "spec": {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}],
        "containers": [{"name": "c", "volumeDevices": [{"name": "v", "devicePath": "/dev/xvda"}]}]}}))
    .expect("it is a pod")
}

#[test]
fn a_device_is_published_for_each_pod_and_unstaged_after_the_last() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    super::super::tests_with_mounts::isolated(nix::sched::CloneFlags::empty(), async {
        let root = tempfile::tempdir().expect("there is a directory for temporary files");
        let (server, volumes, _told, log) = with_driver(root.path(), json!({"attachRequired": false})).await;
        put_claim(&server, "Block", "1Gi", json!({"capacity": {"storage": "1Gi"}}));
        for uid in ["u", "w"] {
            let mounted = volumes.mount(&pod_with_device(uid)).await.expect("the driver publishes it");
            let link = root.path().join("pods").join(uid).join("volumeDevices/kubernetes.io~csi/pv");
            assert_eq!(mounted.by_name["v"].source, Source::Device(link.clone()));
            let device = std::fs::metadata(&link).expect("it leads to the device");
            assert!(std::os::unix::fs::FileTypeExt::is_block_device(&device.file_type()));
            let mapped = root.path().join("plugins/kubernetes.io/csi/volumeDevices/pv/dev").join(uid);
            assert!(super::super::mount_table::is_mount_point(&mapped).expect("the table is readable"));
        }
        let published = ["u", "w"].map(|uid| format!("publish h {uid}<pv<publish "));
        let expect = ["stage h  pv", &published[0], "stage h  pv", &published[1]];
        assert_eq!(std::mem::take(&mut *log.lock()), expect);

        volumes.unmount("u").await.expect("the driver undoes it");
        assert_eq!(std::mem::take(&mut *log.lock()), ["NodeUnpublishVolume h"]);
        // Whoever comes after a restart knows nothing of the pod but what is on the disk.
        let config = volumes.shared.config.clone();
        drop(volumes);
        let again = Volumes::new(config);
        again.shared.csi.look().await;
        log.lock().clear();
        again.unmount("w").await.expect("the driver undoes it");
        assert_eq!(std::mem::take(&mut *log.lock()), ["NodeUnpublishVolume h", "NodeUnstageVolume h"]);
        let devices = root.path().join("plugins/kubernetes.io/csi/volumeDevices");
        for (dir, left) in [("", 2), ("staging", 0), ("publish", 0)] {
            assert_eq!(std::fs::read_dir(devices.join(dir)).expect("it was made").count(), left, "{dir}");
        }
    });
}

#[tokio::test]
async fn a_volume_grows_while_a_pod_uses_it_and_its_use_is_told() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let (server, volumes, mut told, log) = with_driver(root.path(), json!({"attachRequired": false})).await;
    put_claim(&server, "Filesystem", "1Gi", json!({"capacity": {"storage": "1Gi"}}));
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}],
        "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}))
    .expect("it is a pod");
    volumes.mount(&pod).await.expect("the driver publishes it");
    assert!(!log.lock().iter().any(|line| line.starts_with("expand")));

    volumes.shared.measure_all().await;
    let (name, usage) = volumes.measured("u").remove(0);
    assert_eq!((name.as_str(), usage.capacity, usage.used, usage.inodes_free), ("v", 100, 40, 7));

    let pending = json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi"},
        "allocatedResourceStatuses": {"storage": "NodeResizePending"}, "conditions": [{"type": "FileSystemResizePending", "status": "True"}]});
    put_claim(&server, "Filesystem", "2Gi", pending);
    log.lock().clear();
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(31)).await;
    tokio::time::resume();
    volumes.mount(&pod).await.expect("it stays mounted");
    assert_eq!(std::mem::take(&mut *log.lock()), ["expand h 2147483648 mount mount<pv<kubernetes.io~csi"]);
    let status = server.get(CLAIMS, "claim")["status"].clone();
    assert_eq!((&status["capacity"]["storage"], &status["conditions"]), (&json!("2Gi"), &json!([])));
    assert_eq!(status["allocatedResourceStatuses"], json!({}));
    let event = told.recv().await.expect("it is told");
    assert_eq!((event.reason.as_str(), event.about.kind.as_deref()), ("FileSystemResizeSuccessful", Some("Pod")));
    assert_eq!(event.message, "MountVolume.NodeExpandVolume succeeded for volume \"pv\" node");
    assert_eq!(told.recv().await.expect("it is told").about.kind.as_deref(), Some("PersistentVolumeClaim"));

    volumes.unmount("u").await.expect("the driver undoes it");
    volumes.shared.measure_all().await;
    assert!(volumes.measured("u").is_empty());
    let expect = "csi_operations_seconds_count{driver_name=\"d.example.com\",method_name=\"/csi.v1.Node/NodeExpandVolume\",grpc_status_code=\"OK\",migrated=\"false\"} 1\n";
    assert!(volumes.shared.config.metrics.render().contains(expect));
}

#[tokio::test]
async fn an_inline_volume_needs_a_driver_that_is_meant_for_it_and_one_that_starts_anew_is_asked_again() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let (server, volumes, _told, log) = with_driver(root.path(), json!({"attachRequired": false})).await;
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
        "volumes": [{"name": "v", "csi": {"driver": "d.example.com"}}],
        "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}))
    .expect("it is a pod");
    let refused = volumes.mount(&pod).await.expect_err("the driver has persistent volumes alone");
    assert!(refused.events[0].message.ends_with("(only supports [\"Persistent\"])"), "{refused:?}");
    let spec = json!({"volumeLifecycleModes": ["Ephemeral"]});
    server.put(CSI_DRIVERS, "d.example.com", json!({"kind": "CSIDriver", "apiVersion": "storage.k8s.io/v1", "spec": spec}));
    volumes.retry_at_once("u");
    volumes.mount(&pod).await.expect("the driver publishes it");
    log.lock().clear();
    let socket = root.path().join("plugins_registry/d.sock");
    volumes.shared.csi.look().await;
    assert!(log.lock().is_empty());
    std::fs::remove_file(&socket).expect("it is there");
    serve(&socket, log.clone());
    volumes.shared.csi.look().await;
    assert_eq!(std::mem::take(&mut *log.lock()), ["registered true "]);
}
