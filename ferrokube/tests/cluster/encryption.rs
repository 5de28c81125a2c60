//! Encryption at rest: nothing is found on the disk, keys rotate under load, and what cannot be decrypted is told by its name.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::kms_plugin::Plugin;
use crate::process::Cluster;

const TIMEOUT: Duration = Duration::from_secs(60);
const MARKER: &str = "correct-horse-battery-staple";

fn secret(name: &str) -> Secret {
    let value = json!({ "metadata": { "name": name }, "stringData": { "password": format!("{MARKER}-{name}") } });
    serde_json::from_value(value).expect("a secret")
}

fn password(secret: &Secret) -> String {
    let data = secret.data.as_ref().and_then(|data| data.get("password")).expect("a password");
    String::from_utf8(data.0.clone()).expect("text")
}

/// Writes a configuration whose providers are as given.
pub fn configure(directory: &Path, providers: &str) -> String {
    let path = directory.join("encryption.yaml");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n{providers}\n"
    );
    // At once, as whoever changes configurations of a server that runs does it.
    let new = directory.join("encryption.new");
    std::fs::write(&new, text).expect("a file");
    std::fs::rename(new, &path).expect("a file");
    format!("--encryption-provider-config={}", path.display())
}

pub fn keys(provider: &str, keys: &[(&str, u8)]) -> String {
    let key = |(name, byte): &(&str, u8)| format!("{{name: {name}, secret: {}}}", STANDARD.encode([*byte; 32]));
    format!("  - {provider}: {{keys: [{}]}}", keys.iter().map(key).collect::<Vec<_>>().join(", "))
}

/// Whether a text stands in any file of a directory.
fn found(directory: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").path()).any(|path| {
        if path.is_dir() {
            return found(&path, text);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

async fn text(client: &Client, path: &str) -> Result<String, kube::Error> {
    client.request_text(http::Request::get(path).body(Vec::new()).expect("a request")).await
}

pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_under_load_and_nothing_is_found_on_the_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let flag = configure(directory.path(), &keys("aesgcm", &[("key1", 1)]));
    let flags = [&*flag, "--encryption-provider-config-automatic-reload", "--disable=kube-controller-manager"];
    let cluster = Cluster::start_with(&data, &flags);
    let client = cluster.client().await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let plain = json!({ "metadata": { "name": "plain" }, "data": { "text": "nobody-hides-this" } });
    maps.create(&PostParams::default(), &serde_json::from_value(plain).expect("a config map")).await.expect("created");

    // A writer goes on all the while.
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writer = tokio::spawn({
        let (secrets, stop, written) = (secrets.clone(), stop.clone(), written.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                let n = written.load(Ordering::Relaxed);
                secrets.create(&PostParams::default(), &secret(&format!("s{n}"))).await.expect("created");
                written.store(n + 1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    eventually("secrets are written", async || written.load(Ordering::Relaxed) > 20).await;
    assert!(found(&data, "k8s:enc:aesgcm:v1:key1:"));

    // A configuration that is wrong changes nothing; a good one is taken.
    configure(directory.path(), "  - aesgcm: {keys: []}");
    let counted = async |line: &str| text(&client, "/metrics").await.expect("metrics").contains(line);
    let reloads = |status: &str, count: usize| {
        format!("apiserver_encryption_config_controller_automatic_reloads_total{{status=\"{status}\"}} {count}\n")
    };
    let failed = "apiserver_encryption_config_controller_automatic_reloads_total{status=\"failure\"}";
    eventually("the wrong configuration is looked at", async || counted(failed).await).await;
    configure(directory.path(), &keys("aesgcm", &[("key2", 2), ("key1", 1)]));
    eventually("the new configuration is taken", async || counted(&reloads("success", 1)).await).await;
    let before = written.load(Ordering::Relaxed);
    eventually("secrets are written", async || written.load(Ordering::Relaxed) > before + 20).await;
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("every write was taken");

    // What lies there by the old key is written by the new one, although nothing changes.
    let (mut moved, mut kept) = (0, 0);
    for old in secrets.list(&ListParams::default()).await.expect("a list") {
        let (name, version) = (old.name_any(), old.resource_version());
        let new = secrets.replace(&name, &PostParams::default(), &old).await.expect("replaced");
        if new.resource_version() == version { kept += 1 } else { moved += 1 }
    }
    assert!(moved > 20 && kept > 20, "{moved} were moved, {kept} lay there by the new key already");
    cluster.kill();

    // The old key is gone, and nothing is lost.
    let flag = configure(directory.path(), &keys("aesgcm", &[("key2", 2)]));
    let cluster = Cluster::start_with(&data, &[&flag, "--disable=kube-controller-manager"]);
    let secrets: Api<Secret> = Api::namespaced(cluster.client().await, "default");
    let all = secrets.list(&ListParams::default()).await.expect("a list").items;
    assert_eq!(all.len(), written.load(Ordering::Relaxed));
    assert!(all.iter().all(|secret| password(secret) == format!("{MARKER}-{}", secret.name_any())));
    assert!(found(&data, "nobody-hides-this"), "what is not encrypted is found");
    assert!(!found(&data, MARKER) && !found(&data, &STANDARD.encode(MARKER)[..30]), "secrets are found on the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_told_with_the_name_of_the_object() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    for provider in ["secretbox", "aescbc"] {
        let flag = configure(directory.path(), &keys(provider, &[("a", 1)]));
        let cluster = Cluster::start_with(&data, &[&flag, "--disable=kube-controller-manager"]);
        let secrets: Api<Secret> = Api::namespaced(cluster.client().await, "default");
        secrets.create(&PostParams::default(), &secret(provider)).await.expect("created");
        cluster.kill();
        assert!(found(&data, &format!("k8s:enc:{provider}:v1:a:")));

        let flag = configure(directory.path(), &keys(provider, &[("b", 1)]));
        let cluster = Cluster::start_with(&data, &[&flag, "--disable=kube-controller-manager"]);
        let secrets: Api<Secret> = Api::namespaced(cluster.impatient_client().await, "default");
        let expect =
            format!("unable to transform key \"/registry/secrets/default/{provider}\": no matching key was found for the provided");
        for refused in [
            secrets.get(provider).await.map(drop),
            secrets.list(&ListParams::default()).await.map(drop),
            secrets.delete(provider, &Default::default()).await.map(drop),
        ] {
            let refused = refused.expect_err("it cannot be read").to_string();
            assert!(refused.contains(&expect), "{refused}");
        }
        secrets.create(&PostParams::default(), &secret(provider)).await.expect_err("it is there");
        cluster.kill();

        let cluster = Cluster::start_with(&data, &["--disable=kube-controller-manager"]);
        let secrets: Api<Secret> = Api::namespaced(cluster.impatient_client().await, "default");
        let refused = secrets.get(provider).await.expect_err("it cannot be read").to_string();
        assert!(refused.contains("identity transformer tried to read encrypted data"), "{refused}");
        cluster.kill();

        let flag = configure(directory.path(), &format!("  - identity: {{}}\n{}", keys(provider, &[("a", 1)])));
        let cluster = Cluster::start_with(&data, &[&flag, "--disable=kube-controller-manager"]);
        let secrets: Api<Secret> = Api::namespaced(cluster.client().await, "default");
        assert_eq!(password(&secrets.get(provider).await.expect("readable again")), format!("{MARKER}-{provider}"));
        secrets.delete(provider, &Default::default()).await.expect("deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kms_plugin_may_die_and_come_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let socket = directory.path().join("kms.sock");
    let provider = format!("  - kms: {{apiVersion: v2, name: plugin, endpoint: \"unix://{}\", timeout: 1s}}", socket.display());
    let flag = configure(directory.path(), &provider);
    let flags = [&*flag, "--disable=kube-controller-manager"];
    let plugin = Plugin::start(&socket);
    let cluster = Cluster::start_with(&data, &flags);
    let client = cluster.impatient_client().await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    for n in 0..10 {
        secrets.create(&PostParams::default(), &secret(&format!("s{n}"))).await.expect("created");
    }
    assert_eq!(plugin.calls.encrypt.load(Ordering::Relaxed), 1, "there is one seed");
    assert!(text(&client, "/healthz?verbose").await.expect("healthy").contains("[+]kms-providers ok"));

    // For a while nobody misses it.
    drop(plugin);
    secrets.create(&PostParams::default(), &secret("late")).await.expect("created");
    assert_eq!(secrets.list(&ListParams::default()).await.expect("a list").items.len(), 11);
    cluster.kill();
    assert!(found(&data, "k8s:enc:kms:v2:plugin:") && !found(&data, MARKER));

    // A server that starts without it says so, and what it cannot do.
    let cluster = Cluster::start_with(&data, &flags);
    let client = cluster.impatient_client().await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let refused = secrets.get("s1").await.expect_err("it cannot be read").to_string();
    assert!(refused.contains("unable to transform key \"/registry/secrets/default/s1\""), "{refused}");
    let refused = secrets.create(&PostParams::default(), &secret("new")).await.expect_err("it cannot be written").to_string();
    assert!(refused.contains("unable to transform key \"/registry/secrets/default/new\""), "{refused}");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    maps.create(&PostParams::default(), &serde_json::from_value(json!({ "metadata": { "name": "m" } })).expect("a config map"))
        .await
        .expect("others are not concerned");
    text(&client, "/readyz").await.expect_err("not ready");

    let plugin = Plugin::start(&socket);
    eventually("the server is ready again", async || text(&client, "/readyz").await.is_ok()).await;
    secrets.create(&PostParams::default(), &secret("new")).await.expect("created");
    eventually("what lies there can be read again", async || secrets.list(&ListParams::default()).await.is_ok()).await;
    let all = secrets.list(&ListParams::default()).await.expect("a list").items;
    assert_eq!(all.len(), 12);
    assert!(all.iter().all(|secret| password(secret) == format!("{MARKER}-{}", secret.name_any())));
    assert!(plugin.calls.decrypt.load(Ordering::Relaxed) <= 2, "seeds are remembered");
}
