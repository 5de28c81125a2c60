//! Certificates and authorities that change while the server runs: the next connection meets the new ones.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use serde_json::Value;

use super::{ask, who};
use crate::process::Cluster;

/// A changed file is seen within seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Somebody who certifies others.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

fn parameters(name: &str) -> rcgen::CertificateParams {
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    parameters
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut parameters = parameters(name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Authority { certificate, issuer: rcgen::Issuer::new(parameters, key) }
    }

    /// A certificate and its key, PEM, for a user, or for the server if it has names.
    fn certify(&self, name: &str, dns_names: &[&str]) -> (String, String) {
        let mut parameters = parameters(name);
        parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        if !dns_names.is_empty() {
            parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
            parameters.subject_alt_names.push(rcgen::SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
            for name in dns_names {
                parameters.subject_alt_names.push(rcgen::SanType::DnsName((*name).try_into().expect("a name")));
            }
        }
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// A client that believes servers of this authority alone, and shows a certificate if it has one.
async fn client(cluster: &Cluster, authority: &Authority, name: Option<&str>, shown: Option<&(String, String)>) -> Client {
    let mut config = cluster.anonymous().await;
    config.root_cert = Some(vec![authority.certificate.der().to_vec()]);
    config.tls_server_name = name.map(str::to_owned);
    if let Some((certificate, key)) = shown {
        config.auth_info.client_certificate_data = Some(STANDARD.encode(certificate));
        config.auth_info.client_key_data = Some(STANDARD.encode(key).into());
    }
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// The administrator's client, who believes the server by another authority than the kubeconfig's.
async fn client_of_administrator(cluster: &Cluster, authority: &Authority) -> Client {
    let mut config = cluster.administrator().await;
    config.root_cert = Some(vec![authority.certificate.der().to_vec()]);
    Client::try_from(config).expect("a client")
}

async fn answers(client: &Client) -> bool {
    let request = http::Request::get("/livez").body(kube::client::Body::empty()).expect("a request");
    client.send(request).await.is_ok_and(|answer| answer.status().is_success())
}

fn write(directory: &Path, name: &str, (certificate, key): &(String, String)) {
    std::fs::write(directory.join(format!("{name}.key")), key).expect("a file");
    std::fs::write(directory.join(format!("{name}.crt")), certificate).expect("a file");
}

#[tokio::test]
async fn certificates_and_authorities_change_without_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    write(directory.path(), "serving", &first.certify("apiserver", &["localhost"]));
    write(directory.path(), "sni", &second.certify("other", &["api.example.com"]));
    std::fs::write(path("users.pem"), first.certificate.pem()).expect("a file");
    let flags = [
        format!("--tls-cert-file={}", path("serving.crt")),
        format!("--tls-private-key-file={}", path("serving.key")),
        format!("--tls-sni-cert-key={},{}", path("sni.crt"), path("sni.key")),
        format!("--client-ca-file={}", path("users.pem")),
        "--tls-min-version=VersionTLS13".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::start_with(&directory.path().join("cluster"), &flags);

    assert!(answers(&client(&cluster, &first, None, None).await).await);
    assert!(!answers(&client(&cluster, &second, None, None).await).await);
    assert!(answers(&client(&cluster, &second, Some("api.example.com"), None).await).await, "by the name that was asked for");
    let (ann, bob) = (first.certify("ann", &[]), second.certify("bob", &[]));
    assert_eq!(who(&client(&cluster, &first, None, Some(&ann)).await).await.expect("a user")["username"], "ann");
    assert_eq!(who(&client(&cluster, &first, None, Some(&bob)).await).await, Err(401));
    let standing = client(&cluster, &first, None, None).await;
    assert!(answers(&standing).await);

    write(directory.path(), "serving", &second.certify("apiserver", &["localhost"]));
    std::fs::write(path("users.pem"), second.certificate.pem()).expect("a file");
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let serves = answers(&client(&cluster, &second, None, None).await).await;
        if serves && who(&client(&cluster, &second, None, Some(&bob)).await).await.is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "the changed files take no effect");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(who(&client(&cluster, &second, None, Some(&ann)).await).await, Err(401), "who certified ann counts no more");
    let trust = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let admin = client_of_administrator(&cluster, &second).await;
    loop {
        let published = ask(&admin, "GET", trust, &Value::Null).await.1["data"]["client-ca-file"].clone();
        let lines = published.as_str().unwrap_or_default().lines().collect::<String>();
        if lines.contains(&STANDARD.encode(second.certificate.der())) {
            break;
        }
        assert!(Instant::now() < deadline, "the new authority is not published: {published}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!answers(&client(&cluster, &first, None, None).await).await);
    assert_eq!(ask(&standing, "GET", "/livez", &Value::Null).await.0, 200, "a connection that stands goes on");
}
