//! A kubelet that has nothing but a bootstrap token gets itself a certificate. Neither root nor a container runtime is needed for that.

use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use super::process::{Cluster, Component};

const TIMEOUT: Duration = Duration::from_secs(60);

fn token_command(data_dir: &std::path::Path, words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ferrokube"))
        .arg("token")
        .args(words)
        .arg("--data-dir")
        .arg(data_dir)
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "token {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn a_kubelet_with_a_bootstrap_token_gets_itself_a_certificate() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(&directory.path().join("cluster"));
    let data_dir = cluster.kubeconfig().parent().expect("a directory");
    let token = token_command(data_dir, &["create", "--ttl", "1h", "--description", "a test"]).trim().to_owned();
    assert!(token_command(data_dir, &["list"]).contains(&token));

    // The administrator's kubeconfig with the token in the place of the certificate.
    let mut bootstrap = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let user = bootstrap.auth_infos[0].auth_info.as_mut().expect("a user");
    (user.client_certificate_data, user.client_key_data) = (None, None);
    user.token = Some(token.clone().into());
    let path = |name: &str| directory.path().join(name).display().to_string();
    let text = serde_json::to_string(&bootstrap).expect("JSON");
    std::fs::write(path("bootstrap.conf"), text).expect("a file");
    let kubelet = Component::start(
        directory.path(),
        "kubelet",
        &[
            &format!("--bootstrap-kubeconfig={}", path("bootstrap.conf")),
            &format!("--kubeconfig={}", path("kubelet.conf")),
            &format!("--root-dir={}", path("kubelet-root")),
            "--hostname-override=n1",
            "--rotate-certificates",
            "--container-runtime-endpoint=unix:///nowhere",
        ],
    );
    let deadline = Instant::now() + TIMEOUT;
    while !directory.path().join("kubelet.conf").exists() {
        assert!(Instant::now() < deadline, "no kubeconfig was written");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(kubelet);

    // Whoever has it is the node.
    let written = Kubeconfig::read_from(path("kubelet.conf")).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(written, &KubeConfigOptions::default()).await.expect("a usable kubeconfig");
    let node = Client::try_from(config).expect("a client");
    let review = Api::<SelfSubjectReview>::all(node).create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let user = review.expect("a review").status.and_then(|status| status.user_info).expect("a user");
    assert_eq!(user.username.as_deref(), Some("system:node:n1"));
    assert!(user.groups.unwrap_or_default().contains(&"system:nodes".to_owned()));
    let client = cluster.client().await;
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let requests = requests.list(&ListParams::default()).await.expect("requests").items;
    assert_eq!(requests.len(), 1);
    assert!(requests[0].metadata.name.as_deref().unwrap_or_default().starts_with("node-csr-"));

    // A token that is deleted is nobody's, and nothing of it is left.
    token_command(data_dir, &["delete", &token]);
    let mut config = cluster.anonymous().await;
    config.auth_info.token = Some(token.into());
    let refused = Client::try_from(config).expect("a client").apiserver_version().await.expect_err("the token is refused");
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 401), "{refused}");
    let secrets: Api<Secret> = Api::namespaced(client, "kube-system");
    let left = secrets.list(&ListParams::default().fields("type=bootstrap.kubernetes.io/token")).await.expect("secrets").items;
    assert!(left.is_empty());
}
