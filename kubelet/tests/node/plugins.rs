//! A device plugin of our own beside a kubelet, whose runtime is simulated.

use std::path::Path;
use std::sync::Arc;

use client::Shutdown;
use futures::StreamExt;
use futures::future::BoxFuture;
use kubelet::cri::fake::{Fake, Script, Simulation};
use kubelet::cri::v1;
use kubelet::devices::messages::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, Device, DeviceSpec, Empty, HEALTHY, ListAndWatchResponse, Options,
    RegisterRequest, VERSION,
};
use kubelet::grpc::Socket;
use kubelet::grpc::server::{self, Answer, Service};
use parking_lot::Mutex;
use prost::Message;
use serde_json::{Value, json};

use crate::api::Server;
use crate::{condition, config, create, delete, pod_with, start, until};

const R: &str = "example.com/r";

/// Has one device.
struct Plugin;

impl Service for Plugin {
    fn call(self: Arc<Self>, path: String, request: bytes::Bytes) -> BoxFuture<'static, Answer> {
        Box::pin(async move {
            match path.strip_prefix("/v1beta1.DevicePlugin/").unwrap_or("") {
                "GetDevicePluginOptions" => server::one(&Options::default()),
                "ListAndWatch" => {
                    let device = Device { id: "1".to_owned(), health: HEALTHY.to_owned(), topology: None };
                    let list = ListAndWatchResponse { devices: vec![device] }.encode_to_vec();
                    Ok(futures::stream::once(async move { Ok(list) }).chain(futures::stream::pending()).boxed())
                }
                "Allocate" => {
                    let request: AllocateRequest = server::read(request)?;
                    let id = &request.container_requests[0].devices_ids[0];
                    let response = ContainerAllocateResponse {
                        envs: [("DEVICE".to_owned(), id.clone())].into(),
                        devices: vec![DeviceSpec {
                            container_path: "/dev/r".to_owned(),
                            host_path: "/dev/null".to_owned(),
                            permissions: "rw".to_owned(),
                        }],
                        ..Default::default()
                    };
                    server::one(&AllocateResponse { container_responses: vec![response] })
                }
                _ => server::unknown(&path),
            }
        })
    }
}

async fn register(root: &Path) {
    let request =
        RegisterRequest { version: VERSION.to_owned(), endpoint: "r.sock".to_owned(), resource_name: R.to_owned(), options: None };
    let kubelet = Socket::at(&root.join("device-plugins/kubelet.sock"));
    let _: Empty = kubelet.call("/v1beta1.Registration/Register", request, None).await.expect("it is as it shall be");
}

fn with_device() -> Value {
    json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 1, "containers": [{"name": "a", "image": "nginx",
        "resources": {"requests": {R: "1"}, "limits": {R: "1"}}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugins_device_is_given_to_one_pod_after_the_other() {
    let (server, directory) = (Server::default(), tempfile::tempdir().expect("there is a place"));
    let made: Arc<Mutex<Vec<v1::ContainerConfig>>> = Arc::default();
    let noted = made.clone();
    let script = Box::new(move |config: &v1::ContainerConfig| {
        noted.lock().push(config.clone());
        Script::default()
    });
    let fake = Fake::new(Simulation { script, ..Simulation::default() });
    let config = config(directory.path());
    let root = config.root_dir.clone();
    let kubelet = start(&server, config, Some(Arc::new(fake)));
    until("that plugins can register themselves", || {
        let listening = root.join("device-plugins/kubelet.sock").exists();
        listening.then_some(()).ok_or(Value::Null)
    })
    .await;
    let shutdown = Shutdown::new();
    let listener = server::listen(&root.join("device-plugins/r.sock")).expect("it can be bound");
    tokio::spawn(server::serve(listener, Arc::new(Plugin), shutdown.clone()));
    register(&root).await;
    until("the device in the node's status", || {
        let node = server.get("nodes", "", "n1").unwrap_or(Value::Null);
        let status = &node["status"];
        if status["capacity"][R] == "1" && status["allocatable"][R] == "1" { Ok(()) } else { Err(node) }
    })
    .await;

    create(&server, "p", with_device()).await;
    let pod = pod_with(&server, "p", "a ready pod", |status| condition(status, "Ready") == "True").await;
    let told = &pod["status"]["containerStatuses"][0]["allocatedResourcesStatus"];
    assert_eq!(*told, json!([{"name": R, "resources": [{"resourceID": "1", "health": "Healthy"}]}]));
    {
        let made = made.lock();
        assert!(made[0].envs.iter().any(|env| (env.key.as_str(), env.value.as_str()) == ("DEVICE", "1")));
        assert_eq!((made[0].devices[0].host_path.as_str(), made[0].devices[0].container_path.as_str()), ("/dev/null", "/dev/r"));
    }
    create(&server, "q", with_device()).await;
    let refused = pod_with(&server, "q", "a refusal", |status| status["phase"] == "Failed").await;
    assert_eq!(refused["status"]["reason"], "UnexpectedAdmissionError");
    let message = refused["status"]["message"].as_str().expect("it has one");
    assert!(
        message.ends_with("Allocate failed due to requested number of devices unavailable for example.com/r. Requested: 1, Available: 0, which is unexpected"),
        "{message}"
    );
    delete(&server, "p").await;
    until("that it is gone", || server.get("pods", "default", "p").map_or(Ok(()), Err)).await;
    create(&server, "r", with_device()).await;
    pod_with(&server, "r", "a ready pod", |status| condition(status, "Ready") == "True").await;
    shutdown.cancel();
    kubelet.stop().await;
}
