//! Everything that a container is given, seen from inside: a containerd of the test's own runs a pod whose container looks around.
//!
//! Ignored unless asked for (`cargo test -p kubelet -- --ignored a_container_sees`): it takes root, containerd, runc, CNI plugins, a static
//! busybox, and some seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::cgroups::{self, Cgroups};
use crate::cri::SharedRuntime;
use crate::cri::remote::Remote;
use crate::stats;
use crate::volumes::tests_with_mounts::{Server, isolated};
use crate::volumes::{self, Volumes};

const IMAGE: &str = "registry.k8s.io/looking-around:1";

fn run(command: &mut Command) {
    let output = command.output().expect("it can be run");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An image of a busybox, as an archive that containerd imports.
fn image(dir: &Path) -> PathBuf {
    let root = dir.join("image-root");
    fs::create_dir_all(root.join("bin")).expect("it can be made");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("it is there");
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).expect("it can be made");
    let archive = dir.join("image");
    fs::create_dir_all(&archive).expect("it can be made");
    run(Command::new("tar").args(["-C".as_ref(), root.as_os_str(), "-cf".as_ref(), archive.join("layer.tar").as_os_str(), ".".as_ref()]));
    let layer = fs::read(archive.join("layer.tar")).expect("it was made");
    let digest: String = ring::digest::digest(&ring::digest::SHA256, &layer).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "1000"], "Env": ["PATH=/bin", "OF_IMAGE=yes"]}});
    fs::write(archive.join("config.json"), config.to_string()).expect("it can be written");
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(archive.join("manifest.json"), manifest.to_string()).expect("it can be written");
    let file = dir.join("image.tar");
    run(Command::new("tar").args(["-C".as_ref(), archive.as_os_str(), "-cf".as_ref(), file.as_os_str(), ".".as_ref()]));
    file
}

/// A containerd that ends with the test.
struct Containerd(Child);

impl Drop for Containerd {
    fn drop(&mut self) {
        // A test that fails has other worries.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn containerd(dir: &Path) -> Containerd {
    let path = |name: &str| dir.join(name).display().to_string();
    let network = json!({"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "ptp", "ipMasq": false,
        "ipam": {"type": "host-local", "dataDir": path("ipam"), "ranges": [[{"subnet": "10.99.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]});
    fs::create_dir_all(dir.join("cni")).expect("it can be made");
    fs::write(dir.join("cni/10-n.conflist"), network.to_string()).expect("it can be written");
    let config = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\n[grpc]\naddress = \"{}\"\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\n\
         restrict_oom_score_adj = true\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"{}\"\n",
        path("root"),
        path("state"),
        path("containerd.sock"),
        path("cni")
    );
    fs::write(dir.join("containerd.toml"), config).expect("it can be written");
    let log = fs::File::create(dir.join("containerd.log")).expect("it can be made");
    let child = Command::new("containerd").arg("--config").arg(dir.join("containerd.toml")).stdout(Stdio::null()).stderr(log).spawn();
    Containerd(child.expect("it is installed"))
}

fn pod() -> Pod {
    let look = "env; echo hosts; cat /etc/hosts; echo resolv; cat /etc/resolv.conf; hostname; id; grep -E 'NoNewPrivs|CapEff' /proc/self/status; \
        cat /cm/a /sub/file; ls -l /secret/; touch /root-fs || echo readonly; touch /empty/x && ls -ln /empty; cat /proc/self/oom_score_adj; echo last words > /dev/termination-log; sleep 1000";
    let object = json!({
        "metadata": {"name": "looking", "namespace": "n", "uid": "0b6f8f1e-0000-0000-0000-00000000test", "labels": {"app": "x"}},
        "spec": {
            "nodeName": "node", "hostname": "inside", "subdomain": "sub", "dnsPolicy": "ClusterFirst", "serviceAccountName": "default",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["alias"]}],
            "securityContext": {"fsGroup": 555, "runAsUser": 1000, "runAsGroup": 1001, "supplementalGroups": [777]},
            "volumes": [{"name": "cm", "configMap": {"name": "c"}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}}, {"name": "e", "emptyDir": {"medium": "Memory"}}],
            "containers": [{"name": "c", "image": IMAGE, "command": ["/bin/sh", "-c"], "args": [look], "workingDir": "/empty",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(C)"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "a"}}},
                    {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}],
                "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "cm", "mountPath": "/cm"}, {"name": "cm", "mountPath": "/sub/file", "subPath": "a"},
                    {"name": "s", "mountPath": "/secret"}, {"name": "e", "mountPath": "/empty"}]}]}});
    serde_json::from_value(object).expect("it is a pod")
}

#[test]
#[ignore = "starts a containerd"]
fn a_container_sees_what_its_pod_says() {
    isolated(nix::sched::CloneFlags::CLONE_NEWNET, async {
        let dir = tempfile::tempdir().expect("there is a directory for temporary files");
        let dir = fs::canonicalize(dir.path()).map(|path| (dir, path)).expect("it is there");
        let dir = &dir.1;
        let archive = image(dir);
        let _containerd = containerd(dir);
        let socket = dir.join("containerd.sock").display().to_string();
        let runtime: SharedRuntime = Arc::new(Remote::connect(&format!("unix://{socket}"), Duration::from_secs(60)));
        while runtime.version().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        run(Command::new("ctr").args(["-a", &socket, "-n", "k8s.io", "images", "import"]).arg(&archive));

        let server = Server::new();
        server.put(
            "/api/v1/namespaces/n/configmaps",
            "c",
            json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "of config map\n"}}),
        );
        server.put("/api/v1/namespaces/n/secrets", "s", json!({"kind": "Secret", "apiVersion": "v1", "data": {"k": "dg=="}}));
        let volumes = Volumes::new(volumes::Config {
            root_dir: dir.join("kubelet"),
            node_name: "node".to_owned(),
            client: server.client(),
            recorder: client::events::Recorder::recording().0,
            metrics: Default::default(),
            shutdown: client::Shutdown::new(),
            simulated: false,
        });
        let root = format!("/ferrokube-test-{}", std::process::id());
        let cgroups = Cgroups::new(cgroups::Config {
            mount_point: "/sys/fs/cgroup".into(),
            root: root.clone(),
            cpu_cfs_quota: true,
            cpu_cfs_quota_period_us: 100_000,
            pod_pids_limit: None,
        })
        .expect("there are cgroups");
        cgroups.ensure_node(None, None).expect("they can be written");
        let pod = pod();
        let uid = pod.metadata.uid.clone().expect("it has one");
        cgroups.ensure_pod(&pod).expect("they can be written");
        let node = Node {
            cluster_dns: vec!["10.96.0.10".to_owned()],
            cluster_domain: "cluster.local".to_owned(),
            pod_logs_dir: dir.join("logs"),
            ..Node::of_this_host("node", &dir.join("kubelet"))
        };
        let mounted = volumes.mount(&pod).await.expect("all is there");
        let (sandbox, _) = sandbox_config(&pod, &node, 0, &cgroups.pod_parent(&pod)).expect("it is valid");
        let sandbox_id = runtime.run_pod_sandbox(sandbox.clone(), String::new()).await.expect("it starts");
        let status = runtime.pod_sandbox_status(sandbox_id.clone(), false).await.expect("it is there").status.expect("it has one");
        let ip = status.network.expect("it has one").ip;
        let inputs = Inputs {
            pod: &pod,
            container: &pod.spec.as_ref().expect("it has one").containers[0],
            node: &node,
            pod_ips: std::slice::from_ref(&ip),
            volumes: &mounted,
            image: &Image { reference: IMAGE.to_owned(), ..Image::default() },
            image_volumes: &BTreeMap::new(),
            restart_count: 0,
            target_id: None,
            services: &[],
        };
        let prepared = prepare(&volumes, inputs).await.expect("it is valid");
        let log = Path::new(&sandbox.log_directory).join(&prepared.config.log_path);
        let words = prepared
            .config
            .mounts
            .iter()
            .find(|mount| mount.container_path == "/dev/termination-log")
            .expect("it is mounted")
            .host_path
            .clone();
        let id = runtime.create_container(sandbox_id.clone(), prepared.config, sandbox, prepared.extension).await.expect("it can be made");
        runtime.start_container(id.clone()).await.expect("it starts");
        let mut seen = String::new();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let text = fs::read_to_string(&log).unwrap_or_default();
            seen = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(|line| format!("{line}\n")).collect();
            if fs::read_to_string(&words).is_ok_and(|words| !words.is_empty()) {
                break;
            }
        }
        let provider = stats::Provider::new(
            stats::Config {
                node_name: "node".to_owned(),
                root_dir: dir.join("kubelet"),
                pod_logs_dir: dir.join("logs"),
                cgroups: Some(cgroups.clone()),
                memory_capacity: node.memory_capacity,
                volumes: None,
            },
            runtime.clone(),
        );
        let summary = provider.summary(&[Arc::new(pod.clone())], false).await.expect("it can be gathered");
        let page = provider.cadvisor_metrics(&[Arc::new(pod.clone())]).await.expect("it can be gathered");

        runtime.stop_container(id.clone(), 0).await.expect("it stops");
        runtime.stop_pod_sandbox(sandbox_id.clone()).await.expect("it stops");
        runtime.remove_pod_sandbox(sandbox_id).await.expect("it goes");
        volumes.unmount(&uid).await.expect("nothing uses them");
        cgroups.remove_pod(&uid).expect("nothing is in it");
        cgroups.hierarchies().remove(&root).expect("nothing is in it");

        for expect in [
            "A=1\n",
            "B=1-$(C)\n",
            "KEY=of config map\n",
            "LIMIT=64\n",
            "OF_IMAGE=yes\n",
            "HOSTNAME=inside\n",
            &format!("IP={ip}\n"),
            &format!("{ip}\tinside.sub.n.svc.cluster.local\tinside\n"),
            "1.2.3.4\talias\n",
            "nameserver 10.96.0.10\n",
            "search n.svc.cluster.local svc.cluster.local cluster.local",
            "options ndots:5\n",
            "\ninside\n",
            "uid=1000 gid=1001 groups=555,777,1001\n",
            "CapEff:\t0000000000000000\n",
            "NoNewPrivs:\t1\n",
            "of config map\nof config map\n",
            "readonly\n",
            // A burstable pod with 32Mi of gigabytes.
            "\n99",
        ] {
            assert!(seen.contains(expect), "{expect:?} is not in:\n{seen}");
        }
        assert!(seen.contains(" 555 "), "the volume belongs to the group:\n{seen}");
        let value: Value = serde_json::to_value(&summary).expect("it serializes");
        let stats = &value["pods"][0];
        assert_eq!((stats["podRef"]["name"].as_str(), stats["containers"][0]["name"].as_str()), (Some("looking"), Some("c")), "{value}");
        assert!(stats["containers"][0]["memory"]["workingSetBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{value}");
        assert!(stats["containers"][0]["cpu"]["usageCoreNanoSeconds"].as_u64().is_some_and(|nanos| nanos > 0), "{value}");
        assert!(stats["network"]["rxBytes"].is_u64(), "{value}");
        assert!(stats["process_stats"]["process_count"].as_u64().is_some_and(|count| count >= 2), "{value}");
        assert!(value["node"]["runtime"]["imageFs"]["usedBytes"].is_u64(), "{value}");
        assert!(page.contains("container_memory_working_set_bytes{container=\"c\""), "{page}");
    });
}
