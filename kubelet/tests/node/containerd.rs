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
    }
}

fn spec(command: &str) -> Value {
    json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 2, "automountServiceAccountToken": false,
        "containers": [{"name": "a", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", command],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_run_on_a_real_runtime() {
    let Some(containerd) = Containerd::start("run") else { return };
    let server = Server::default();
    let kubelet = start(&server, containerd.config(), None);
    until("a ready node", || {
        let node = server.get("nodes", "", "n1").unwrap_or(Value::Null);
        if condition(&node["status"], "Ready") == "True" { Ok(()) } else { Err(node) }
    })
    .await;
    let mut times = Vec::new();
    for round in 0..5 {
        let (name, began) = (format!("p{round}"), Instant::now());
        create(&server, &name, spec("sleep 1000")).await;
        let pod = pod_with(&server, &name, "a ready pod", |status| condition(status, "Ready") == "True").await;
        times.push(began.elapsed());
        assert!(pod["status"]["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.231.0.")), "{pod:#}");
    }
    times.sort();
    eprintln!("created to ready: {times:?}");
    let began = Instant::now();
    create(&server, "once", {
        let mut spec = spec("echo said > /dev/termination-log; exit 3");
        spec["restartPolicy"] = json!("Never");
        spec
    })
    .await;
    let pod = pod_with(&server, "once", "a failed pod", |status| status["phase"] == "Failed").await;
    eprintln!("created to failed: {:?}", began.elapsed());
    let terminated = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["message"]), (&json!(3), &json!("said\n")));
    for name in ["p0", "p1", "p2", "p3", "p4", "once"] {
        delete(&server, name).await;
    }
    let began = Instant::now();
    until("that all pods are gone", || {
        let left = server.list("pods");
        if left.is_empty() { Ok(()) } else { Err(json!({"left": left, "events": events(&server)})) }
    })
    .await;
    eprintln!("six pods deleted in {:?}", began.elapsed());
    kubelet.stop().await;
}
