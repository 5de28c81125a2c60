//! Pods on a containerd of its own: real sandboxes, networks and processes. Needs root; says so and does nothing without.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::Server;
use crate::{condition, config, create, delete, events, pod_with, start, until};

const IMAGE: &str = "docker.io/library/busybox:1";
const PAUSE: &str = "registry.k8s.io/pause:3.10";

/// A containerd below a temporary directory, in a network namespace of its own. Ends with the value.
struct Containerd {
    child: Child,
    directory: tempfile::TempDir,
    namespace: String,
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// An archive of an image that is busybox and nothing else.
fn image(directory: &Path, name: &str, command: &[&str]) -> PathBuf {
    let root = directory.join("rootfs");
    std::fs::create_dir_all(root.join("bin")).expect("it can be made");
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox is there");
    for applet in ["sh", "sleep", "cat", "echo", "true", "false", "test", "touch", "wget", "httpd", "ls"] {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
    }
    for empty in ["tmp", "etc", "proc", "sys", "dev"] {
        std::fs::create_dir_all(root.join(empty)).expect("it can be made");
    }
    let layer = directory.join("layer.tar");
    let (layer_path, root_path) = (layer.display().to_string(), root.display().to_string());
    run("tar", &["-C", &root_path, "-cf", &layer_path, "."]);
    let sum = run("sha256sum", &[&layer_path]);
    let diff = sum.split_whitespace().next().expect("there is a sum");
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]}});
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    std::fs::write(directory.join("config.json"), config.to_string()).expect("it can be written");
    std::fs::write(directory.join("manifest.json"), manifest.to_string()).expect("it can be written");
    let archive = directory.join("image.tar");
    let (archive_path, directory_path) = (archive.display().to_string(), directory.display().to_string());
    run("tar", &["-C", &directory_path, "-cf", &archive_path, "manifest.json", "config.json", "layer.tar"]);
    archive
}

impl Containerd {
    fn start(name: &str) -> Option<Containerd> {
        let is_root = nix::unistd::geteuid().is_root();
        if !is_root || !Path::new("/usr/bin/containerd").exists() || !Path::new("/usr/lib/cni/ptp").exists() {
            tracing::warn!("skipped: needs root, containerd and network plugins");
            return None;
        }
        let directory = tempfile::tempdir().expect("there is a place");
        let place = |name: &str| directory.path().join(name).display().to_string();
        let namespace = format!("kt-{name}-{}", std::process::id());
        run("ip", &["netns", "add", &namespace]);
        run("ip", &["-n", &namespace, "link", "set", "lo", "up"]);
        std::fs::create_dir_all(place("cni")).expect("it can be made");
        let network = json!({"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "ptp",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.231.0.0/24"}]], "dataDir": place("ipam")}}]});
        std::fs::write(place("cni/10-test.conflist"), network.to_string()).expect("it can be written");
        let settings = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#,
            root = place("root"),
            state = place("state"),
            socket = place("containerd.sock"),
            cni = place("cni"),
        );
        std::fs::write(place("containerd.toml"), settings).expect("it can be written");
        let log = std::fs::File::create(place("containerd.log")).expect("it can be made");
        let child = Command::new("nsenter")
            .args([&format!("--net=/run/netns/{namespace}"), "containerd", "--config", &place("containerd.toml")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it can be started");
        let containerd = Containerd { child, directory, namespace };
        containerd.wait();
        for (tag, command) in [(PAUSE, ["/bin/sleep", "1000000"]), (IMAGE, ["/bin/sleep", "1000000"])] {
            let build = tempfile::tempdir().expect("there is a place");
            let archive = image(build.path(), tag, &command).display().to_string();
            run("ctr", &["-a", &containerd.socket(), "-n", "k8s.io", "images", "import", &archive]);
        }
        Some(containerd)
    }

    fn socket(&self) -> String {
        self.directory.path().join("containerd.sock").display().to_string()
    }

    fn wait(&self) {
        let began = Instant::now();
        while !Command::new("ctr").args(["-a", &self.socket(), "version"]).output().is_ok_and(|output| output.status.success()) {
            let log = std::fs::read_to_string(self.directory.path().join("containerd.log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(20), "containerd does not answer: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn config(&self) -> kubelet::Config {
        let mut config = config(self.directory.path());
        config.configuration.container_runtime_endpoint = format!("unix://{}", self.socket());
        config.configuration.cgroup_root = format!("/kt-{}", std::process::id());
        config
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let pods = Command::new("ctr").args(["-a", &self.socket(), "-n", "k8s.io", "tasks", "ls", "-q"]).output();
        for id in pods.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default().lines() {
            let _ = Command::new("ctr").args(["-a", &self.socket(), "-n", "k8s.io", "tasks", "rm", "-f", id]).output();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = self.directory.path().display().to_string();
        let points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| at.starts_with(&below)).collect();
        for point in points.iter().rev() {
            let _ = nix::mount::umount2(*point, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).output();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let root = hierarchy.path().join(format!("kt-{}", std::process::id()));
            // Groups can be removed only when there are none below them.
            for group in walk(&root).iter().rev() {
                let _ = std::fs::remove_dir(group);
            }
            let _ = std::fs::remove_dir(root);
        }
    }
}

fn spec(command: &str) -> Value {
    json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 2, "automountServiceAccountToken": false,
        "containers": [{"name": "a", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", command],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}]})
}

/// Everything on one containerd, one after another: starting one takes longer than most of this.
#[test]
fn pods_run_on_a_real_runtime() {
    let Some(containerd) = Containerd::start("run") else { return };
    let namespace = std::fs::File::open(format!("/run/netns/{}", containerd.namespace)).expect("it is there");
    let namespace = std::sync::Arc::new(namespace);
    // The kubelet lives where its pods can be reached.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(move || nix::sched::setns(&*namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter it"))
        .build()
        .expect("it can be built");
    runtime.block_on(async { tokio::spawn(everything(containerd)).await.expect("it does not panic") });
}

async fn everything(containerd: Containerd) {
    let server = Server::default();
    let kubelet = start(&server, containerd.config(), None);
    until("a ready node", || {
        let node = server.get("nodes", "", "n1").unwrap_or(Value::Null);
        if condition(&node["status"], "Ready") == "True" { Ok(()) } else { Err(node) }
    })
    .await;
    start_and_stop(&server).await;
    ends(&server).await;
    probes(&server).await;
    hooks(&server).await;
    sidecars(&server).await;
    configuration(&server).await;
    resize(&server).await;
    let before = running(&server, "stays", spec("sleep 1000")).await;
    kubelet.stop().await;
    let kubelet = start(&server, containerd.config(), None);
    running(&server, "after", spec("sleep 1000")).await;
    let after = server.get("pods", "default", "stays").expect("it is there");
    let container = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
    assert_eq!(container(&after), container(&before));
    gone(&server, &["stays", "after"]).await;
    kubelet.stop().await;
    let cgroups = format!("/sys/fs/cgroup/cpu/kt-{}", std::process::id());
    let left: Vec<_> = walk(Path::new(&cgroups)).into_iter().filter(|path| path.contains("/pod")).collect();
    assert!(left.is_empty(), "cgroups of pods are left: {left:?}");
}

fn walk(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    directories.flat_map(|path| std::iter::once(path.display().to_string()).chain(walk(&path))).collect()
}

async fn running(server: &Server, name: &str, spec: Value) -> Value {
    create(server, name, spec).await;
    pod_with(server, name, "a ready pod", |status| condition(status, "Ready") == "True").await
}

async fn gone(server: &Server, names: &[&str]) {
    for name in names {
        delete(server, name).await;
    }
    until("that pods are gone", || {
        let left: Vec<Value> =
            server.list("pods").into_iter().filter(|pod| names.iter().any(|name| pod["metadata"]["name"] == *name)).collect();
        if left.is_empty() { Ok(()) } else { Err(json!({"left": left, "events": events(server)})) }
    })
    .await;
}

async fn start_and_stop(server: &Server) {
    let mut times = Vec::new();
    for round in 0..5 {
        let began = Instant::now();
        let pod = running(server, &format!("p{round}"), spec("sleep 1000")).await;
        times.push(began.elapsed());
        assert!(pod["status"]["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.231.0.")), "{pod:#}");
    }
    times.sort();
    tracing::info!(?times, "from created to ready");
    println_times("created to ready", &times);
    let began = Instant::now();
    gone(server, &["p0", "p1", "p2", "p3", "p4"]).await;
    println_times("deleted to gone", &[began.elapsed()]);
}

/// Figures for whoever runs this with `--nocapture`.
fn println_times(what: &str, times: &[Duration]) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{what}: {times:?}");
}

async fn ends(server: &Server) {
    let once = |command: &str, policy: &str| {
        let mut spec = spec(command);
        spec["restartPolicy"] = json!("Never");
        spec["containers"][0]["terminationMessagePolicy"] = json!(policy);
        spec
    };
    create(server, "file", once("echo said > /dev/termination-log; exit 3", "File")).await;
    create(server, "log", once("echo logged; exit 4", "FallbackToLogsOnError")).await;
    create(server, "good", once("true", "File")).await;
    for (name, phase, code, message) in
        [("file", "Failed", 3, json!("said\n")), ("log", "Failed", 4, json!("logged\n")), ("good", "Succeeded", 0, Value::Null)]
    {
        let pod = pod_with(server, name, "a final phase", |status| status["phase"] == phase).await;
        let terminated = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&terminated["exitCode"], &terminated["message"]), (&json!(code), &message), "{pod:#}");
    }
    let mut bad = spec("sleep 1");
    bad["containers"][0]["image"] = json!("docker.io/library/nothing:1");
    bad["containers"][0]["imagePullPolicy"] = json!("Never");
    create(server, "bad", bad).await;
    pod_with(server, "bad", "a pull error", |status| status["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull")
        .await;
    gone(server, &["file", "log", "good", "bad"]).await;
}

async fn probes(server: &Server) {
    let mut spec = spec("mkdir -p /www; sleep 1; touch /tmp/ok; echo hi > /www/index.html; httpd -f -p 8080 -h /www");
    spec["containers"][0]["ports"] = json!([{"name": "web", "containerPort": 8080}]);
    spec["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/index.html", "port": "web"}, "periodSeconds": 1});
    spec["containers"][0]["startupProbe"] =
        json!({"exec": {"command": ["test", "-e", "/tmp/ok"]}, "periodSeconds": 1, "failureThreshold": 30});
    spec["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
    let pod = running(server, "probed", spec).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    let mut dying = self::spec("touch /tmp/ok; sleep 2; rm /tmp/ok; sleep 1000");
    dying["containers"][0]["livenessProbe"] =
        json!({"exec": {"command": ["cat", "/tmp/ok"]}, "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1});
    create(server, "dying", dying).await;
    let pod = pod_with(server, "dying", "a restart", |status| status["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    let told = events(server);
    for expected in [
        "Unhealthy: Liveness probe failed: cat: can't open '/tmp/ok': No such file or directory\n",
        "Killing: Container a failed liveness probe, will be restarted",
    ] {
        assert!(told.iter().any(|event| event == expected), "{expected} is not among {told:#?}");
    }
    gone(server, &["probed", "dying"]).await;
}

async fn hooks(server: &Server) {
    let share = tempfile::tempdir().expect("there is a place");
    let mut spec = spec("sleep 1000");
    spec["volumes"] = json!([{"name": "v", "hostPath": {"path": share.path().display().to_string()}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    spec["containers"][0]["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["touch", "/v/started"]}}, "preStop": {"exec": {"command": ["touch", "/v/stopping"]}}});
    running(server, "hooked", spec).await;
    assert!(share.path().join("started").exists());
    gone(server, &["hooked"]).await;
    assert!(share.path().join("stopping").exists());
    let mut failing = self::spec("sleep 1000");
    failing["containers"][0]["lifecycle"] = json!({"postStart": {"exec": {"command": ["false"]}}});
    create(server, "failing", failing).await;
    let pod = pod_with(server, "failing", "a failed hook", |status| {
        ["PostStartHookError", "CrashLoopBackOff"].iter().any(|word| status["containerStatuses"][0]["state"]["waiting"]["reason"] == *word)
    })
    .await;
    assert_eq!(pod["status"]["phase"], "Running");
    gone(server, &["failing"]).await;
}

async fn sidecars(server: &Server) {
    let mut spec = spec("sleep 1; exit 0");
    let other = |name: &str, command: &str| {
        let mut container = spec["containers"][0].clone();
        container["name"] = json!(name);
        container["command"] = json!(["sh", "-c", command]);
        container
    };
    let (mut sidecar, init) = (other("side", "trap 'exit 0' TERM; while true; do sleep 0.1; done"), other("init", "exit 0"));
    sidecar["restartPolicy"] = json!("Always");
    spec["initContainers"] = json!([sidecar, init]);
    spec["restartPolicy"] = json!("Never");
    create(server, "sided", spec).await;
    pod_with(server, "sided", "a running pod", |status| status["phase"] == "Running" && condition(status, "Initialized") == "True").await;
    let pod = pod_with(server, "sided", "a pod that succeeded", |status| status["phase"] == "Succeeded").await;
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0, "{pod:#}");
    gone(server, &["sided"]).await;
}

async fn configuration(server: &Server) {
    let client = server.client();
    let config_map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}, "data": {"key": "value"}});
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> = kube::Api::namespaced(client, "default");
    let mut spec = spec("test \"$A\" = value -a \"$(cat /c/key)\" = value -a \"$IP\" != '' -a \"$NAME\" = configured");
    spec["restartPolicy"] = json!("Never");
    spec["volumes"] = json!([{"name": "c", "configMap": {"name": "c"}}, {"name": "e", "emptyDir": {}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "c", "mountPath": "/c"}, {"name": "e", "mountPath": "/e"}]);
    spec["containers"][0]["env"] = json!([
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "key"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    create(server, "configured", spec).await;
    until("a failed mount", || {
        let told = events(server);
        if told.iter().any(|event| event.starts_with("FailedMount: ")) { Ok(()) } else { Err(json!(told)) }
    })
    .await;
    maps.create(&Default::default(), &serde_json::from_value(config_map).expect("it is one")).await.expect("it can be created");
    pod_with(server, "configured", "a pod that succeeded", |status| status["phase"] == "Succeeded").await;
    gone(server, &["configured"]).await;
}

async fn resize(server: &Server) {
    let mut spec = spec("sleep 1000");
    spec["containers"][0]["resources"] =
        json!({"requests": {"cpu": "100m", "memory": "20Mi"}, "limits": {"cpu": "200m", "memory": "40Mi"}});
    let before = running(server, "sized", spec).await;
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(server.client(), "default");
    let patch = json!({"metadata": {"generation": 2}, "spec": {"containers": [{"name": "a",
        "resources": {"requests": {"cpu": "150m", "memory": "20Mi"}, "limits": {"cpu": "300m", "memory": "50Mi"}}}]}});
    pods.patch("sized", &Default::default(), &kube::api::Patch::Strategic(patch)).await.expect("it can be patched");
    let after = pod_with(server, "sized", "other limits", |status| {
        let resources = &status["containerStatuses"][0]["resources"];
        resources["limits"] == json!({"cpu": "300m", "memory": "50Mi"}) && condition(status, "PodResizeInProgress").is_empty()
    })
    .await;
    let container = |pod: &Value| {
        (pod["status"]["containerStatuses"][0]["containerID"].clone(), pod["status"]["containerStatuses"][0]["restartCount"].clone())
    };
    assert_eq!(container(&after), container(&before));
    let id = after["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .and_then(|id| id.rsplit('/').next())
        .expect("it has one")
        .to_owned();
    let quotas = walk(Path::new(&format!("/sys/fs/cgroup/cpu/kt-{}", std::process::id())));
    let group = quotas.iter().find(|path| path.contains(&id)).expect("it has a cgroup");
    let quota = std::fs::read_to_string(Path::new(group).join("cpu.cfs_quota_us")).expect("it can be read");
    assert_eq!(quota.trim(), "30000");
    gone(server, &["sized"]).await;
}
