//! Volumes for real: mounted in a mount namespace of the test's own, fed by an API server of a few lines. These need root; without it there
//! is nothing to see, and they say so.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use http::{Request, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;

/// Objects by the path of their kind and namespace, such as `/api/v1/namespaces/n/configmaps`, and then by name; and that something changed.
#[derive(Clone)]
pub(crate) struct Server {
    objects: Arc<Mutex<BTreeMap<(String, String), Value>>>,
    changed: watch::Sender<u64>,
}

impl Server {
    pub(crate) fn new() -> Server {
        Server { objects: Arc::default(), changed: watch::Sender::new(1) }
    }

    pub(crate) fn put(&self, path: &str, name: &str, mut object: Value) {
        self.changed.send_modify(|revision| *revision += 1);
        let revision = self.changed.borrow().to_string();
        object["metadata"] = json!({"name": name, "namespace": "n", "uid": name, "resourceVersion": revision});
        self.objects.lock().insert((path.to_owned(), name.to_owned()), object);
        self.changed.send_modify(|revision| *revision += 1);
    }

    pub(crate) fn get(&self, path: &str, name: &str) -> Value {
        self.objects.lock().get(&(path.to_owned(), name.to_owned())).cloned().unwrap_or_default()
    }

    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = http_body_util::BodyExt::collect(body).await.expect("it arrives").to_bytes();
                Ok::<_, std::convert::Infallible>(server.answer(&Request::from_parts(parts, body)))
            }
        });
        Client::new(service, "n")
    }

    fn answer(&self, request: &Request<bytes::Bytes>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or("").to_owned();
        if path.ends_with("/token") {
            let expires = Timestamp::now() + k8s_openapi::jiff::SignedDuration::from_hours(1);
            let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {}, "spec": {"audiences": [], "expirationSeconds": 3600},
                "status": {"token": format!("token of {path}"), "expirationTimestamp": expires.to_string()}});
            return Response::builder().status(201).body(Body::from(token.to_string().into_bytes())).expect("it is well formed");
        }
        if query.contains("watch=") {
            let name = query
                .split("metadata.name")
                .nth(1)
                .unwrap_or("")
                .trim_start_matches(['=', '%', '3', 'D'])
                .split('&')
                .next()
                .unwrap_or("")
                .to_owned();
            return Response::new(self.watch(path, name));
        }
        if let (&http::Method::PUT, Some((kind, name))) = (request.method(), path.rsplit_once('/')) {
            self.put(kind, name, serde_json::from_slice(request.body()).expect("it is an object"));
        }
        let path = match path.strip_suffix("/status") {
            Some(object) => {
                self.merge(object, &serde_json::from_slice(request.body()).expect("it is a patch"));
                object.to_owned()
            }
            None => path,
        };
        match path.rsplit_once('/').and_then(|(path, name)| self.objects.lock().get(&(path.to_owned(), name.to_owned())).cloned()) {
            Some(object) => Response::new(Body::from(object.to_string().into_bytes())),
            None => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": format!("{path} not found")});
                Response::builder().status(404).body(Body::from(status.to_string().into_bytes())).expect("it is well formed")
            }
        }
    }

    /// Merges a patch into an object.
    fn merge(&self, path: &str, patch: &Value) {
        fn lay_over(object: &mut Value, patch: &Value) {
            match (object, patch) {
                (Value::Object(fields), Value::Object(patch)) => {
                    for (key, value) in patch {
                        if value.is_null() {
                            fields.remove(key);
                        } else {
                            lay_over(fields.entry(key.clone()).or_insert(Value::Null), value);
                        }
                    }
                }
                (object, patch) => *object = patch.clone(),
            }
        }
        let Some((kind, name)) = path.rsplit_once('/') else { return };
        let mut objects = self.objects.lock();
        if let Some(object) = objects.get_mut(&(kind.to_owned(), name.to_owned())) {
            lay_over(object, patch);
        }
    }

    fn watch(&self, path: String, name: String) -> Body {
        let (server, changes) = (self.clone(), self.changed.subscribe());
        let (kind, version) = if path.ends_with("secrets") { ("Secret", "v1") } else { ("ConfigMap", "v1") };
        let stream = futures::stream::unfold(0, move |step| {
            let (server, path, name) = (server.clone(), path.clone(), name.clone());
            let mut changes = changes.clone();
            let first = step == 0;
            async move {
                if !first {
                    // Ends with the test.
                    let _ = changes.wait_for(|revision| *revision > step).await;
                }
                let revision = *changes.borrow();
                let object = server.objects.lock().get(&(path, name)).cloned();
                let mut lines: Vec<Value> =
                    object.into_iter().map(|object| json!({"type": if first { "ADDED" } else { "MODIFIED" }, "object": object})).collect();
                if first {
                    let metadata = json!({"resourceVersion": revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}});
                    lines.push(json!({"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": version, "metadata": metadata}}));
                }
                let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                Some((Ok::<_, std::io::Error>(bytes::Bytes::from(text)), revision.max(1)))
            }
        });
        Body::from_stream(stream)
    }
}

/// Runs a test in a mount namespace of its own, which takes root.
pub(crate) fn isolated(also: nix::sched::CloneFlags, test: impl Future<Output = ()> + Send + 'static) {
    let run = move || {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | also).expect("root may have namespaces of its own");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("the namespace is ours");
        // Blocking work runs on threads that are made by this one, and so in the same namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it can be made");
        runtime.block_on(test);
    };
    std::thread::spawn(run).join().expect("the test passes");
}

fn volumes(root: &Path, server: &Server) -> Volumes {
    let config = Config {
        root_dir: root.to_owned(),
        node_name: "node".to_owned(),
        client: server.client(),
        recorder: Recorder::recording().0,
        metrics: Default::default(),
        shutdown: Shutdown::new(),
        simulated: false,
    };
    Volumes::new(config)
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "1"}}, "spec": spec}))
        .expect("it is a pod")
}

fn path_of(volumes: &PodVolumes, name: &str) -> PathBuf {
    match &volumes.by_name[name].source {
        Source::Path(path) => path.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| format!("{}: {error}", path.display()))
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/n/configmaps";
const SECRETS: &str = "/api/v1/namespaces/n/secrets";

#[test]
#[ignore = "needs root"]
fn a_pods_volumes_are_made_changed_and_taken_away() {
    isolated(nix::sched::CloneFlags::empty(), async {
        let (root, server) = (tempfile::tempdir().expect("there is a directory for temporary files"), Server::new());
        let root = std::fs::canonicalize(root.path()).map(|path| (root, path)).expect("it is there");
        let volumes = volumes(&root.1, &server);
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let teller = told.clone();
        volumes.on_change(move |uid| teller.lock().push(uid.to_owned()));
        server.put(SECRETS, "s", json!({"kind": "Secret", "apiVersion": "v1", "data": {"k": "dg=="}}));
        let mounts: Vec<Value> =
            ["cm", "s", "e", "m", "d", "t"].iter().map(|name| json!({"name": name, "mountPath": format!("/{name}")})).collect();
        let pod = pod(json!({"serviceAccountName": "default", "securityContext": {"fsGroup": 1234},
            "volumes": [
                {"name": "cm", "configMap": {"name": "c", "defaultMode": 0o600}},
                {"name": "s", "secret": {"secretName": "s"}},
                {"name": "e", "emptyDir": {}},
                {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "d", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
                {"name": "unused", "configMap": {"name": "none"}}],
            "containers": [{"name": "c", "volumeMounts": mounts}]}));
        let error = volumes.mount(&pod).await.expect_err("the config map is not there");
        assert_eq!(error.events[0].message, "MountVolume.SetUp failed for volume \"cm\" : configmap \"c\" not found");
        assert!(error.message.starts_with("unmounted volumes=[cm], "), "{error}");
        server.put(CONFIG_MAPS, "c", json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "1"}}));
        let mounted = loop {
            match volumes.mount(&pod).await {
                Ok(mounted) => break mounted,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        assert!(told.lock().contains(&"u".to_owned()));
        let at = |name: &str| path_of(&mounted, name);
        assert_eq!(read(at("cm").join("a")), "1");
        assert_eq!(read(at("s").join("k")), "v");
        assert_eq!(read(at("d").join("labels")), "a=\"1\"");
        assert_eq!(read(at("t").join("token")), "token of /api/v1/namespaces/n/serviceaccounts/default/token");
        assert!(mounted.by_name["cm"].read_only && !mounted.by_name["e"].read_only);
        assert!(!mounted.by_name.contains_key("unused"));
        for name in ["s", "m", "d", "t"] {
            assert!(mount_table::is_mount_point(&at(name)).expect("the table is readable"), "{name}");
        }
        let token = std::fs::metadata(at("t").join("token")).expect("it is there");
        assert_eq!((token.mode() & 0o777, token.gid()), (0o640, 1234));
        let empty = std::fs::metadata(at("e")).expect("it is there");
        assert_eq!((empty.mode() & 0o7777, empty.gid()), (0o2777, 1234));
        assert!(std::fs::write(at("m").join("big"), vec![0; 2 << 20]).is_err(), "it is limited");

        // A container's sub path is the very file that was there when it was made.
        let sub_path = SubPath { index: 0, volume: "cm".to_owned(), volume_path: at("cm"), path: "a".into() };
        let file = volumes.sub_path("u", "c", &sub_path).await.expect("it is inside");
        assert_eq!(read(file.clone()), "1");
        std::os::unix::fs::symlink("/", at("e").join("out")).expect("the pod may do that");
        let outside = SubPath { index: 1, volume: "e".to_owned(), volume_path: at("e"), path: "out/etc".into() };
        let refused = volumes.sub_path("u", "c", &outside).await;
        assert_eq!(refused, Err("failed to prepare subPath for volumeMount \"e\" of container \"c\"".to_owned()));

        server.put(CONFIG_MAPS, "c", json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "2"}}));
        while read(at("cm").join("a")) == "1" {
            volumes.mount(&pod).await.expect("nothing is missing");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!((read(at("cm").join("a")), read(file)), ("2".to_owned(), "1".to_owned()));
        let again = volumes.sub_path("u", "c", &sub_path).await.expect("it is inside");
        assert_eq!(read(again), "2");

        let errors = volumes.clean_orphans(&BTreeSet::new()).await;
        assert!(errors.is_empty() && volumes.pod_dir("u").exists(), "the pod is known");
        volumes.unmount("u").await.expect("nothing uses it");
        assert!(!volumes.pod_dir("u").exists());
        assert_eq!(mount_table::below(&root.1).expect("the table is readable"), Vec::<PathBuf>::new());
    });
}

#[test]
#[ignore = "needs root"]
fn a_local_volume_outlives_its_pod_and_the_kubelet_a_restart() {
    isolated(nix::sched::CloneFlags::empty(), async {
        let (root, server) = (tempfile::tempdir().expect("there is a directory for temporary files"), Server::new());
        let data = root.path().join("data");
        std::fs::create_dir(&data).expect("it can be made");
        std::fs::write(data.join("file"), "kept").expect("it is writable");
        let claim =
            json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
        server.put("/api/v1/namespaces/n/persistentvolumeclaims", "claim", claim);
        let volume =
            json!({"kind": "PersistentVolume", "apiVersion": "v1", "spec": {"claimRef": {"uid": "claim"}, "local": {"path": data}}});
        server.put("/api/v1/persistentvolumes", "pv", volume);
        let pod = pod(json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}],
            "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}));
        let first = volumes(root.path(), &server);
        let mounted = first.mount(&pod).await.expect("all is there");
        assert_eq!(read(path_of(&mounted, "v").join("file")), "kept");
        drop(first);
        let second = volumes(root.path(), &server);
        assert_eq!(second.mount(&pod).await.expect("all is there"), mounted);
        drop(second);
        let third = volumes(root.path(), &server);
        let errors = third.clean_orphans(&BTreeSet::new()).await;
        assert!(errors.is_empty(), "{errors:?}");
        assert!(!third.pod_dir("u").exists());
        assert_eq!(read(data.join("file")), "kept");
    });
}
