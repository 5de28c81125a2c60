//! Who signs service account tokens, and what is looked at beside the signature.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use kube::Client;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::signer::{Key, Signer, State};
use super::{ask, who, with_token};
use crate::process::Cluster;

const TIMEOUT: Duration = Duration::from_secs(30);
const ROBOT: &str = "system:serviceaccount:default:robot";

/// Makes the account that tokens are for; gives its uid.
async fn robot(admin: &Client) -> String {
    let object = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "robot" } });
    let (code, made) = ask(admin, "POST", "/api/v1/namespaces/default/serviceaccounts", &object).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    made["metadata"]["uid"].as_str().expect("a uid").to_owned()
}

/// Asks for a token that is good for so many seconds.
async fn request(admin: &Client, seconds: i64, query: &str) -> (StatusCode, Value) {
    let object = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "expirationSeconds": seconds } });
    ask(admin, "POST", &format!("/api/v1/namespaces/default/serviceaccounts/robot/token{query}"), &object).await
}

async fn token(admin: &Client) -> String {
    let (code, answer) = request(admin, 3600, "").await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    answer["status"]["token"].as_str().expect("a token").to_owned()
}

async fn name(cluster: &Cluster, token: &str) -> Result<String, u16> {
    who(&with_token(cluster, token).await).await.map(|user| user["username"].as_str().unwrap_or_default().to_owned())
}

/// A part of a token: the header or the payload.
fn part(token: &str, number: usize) -> Value {
    let text = token.split('.').nth(number).expect("a part");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64")).expect("JSON")
}

/// The API server, started where it is to end at once.
fn ended(directory: &Path, flags: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ferrokube"))
        .args(["apiserver", "--bind-address=127.0.0.1", "--secure-port=0", "--data-dir"])
        .arg(directory)
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let deadline = Instant::now() + TIMEOUT;
    while child.try_wait().expect("it can be asked").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it goes on with {flags:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("what it said")
}

fn refusal(directory: &Path, flags: &[&str]) -> String {
    let output = ended(directory, flags);
    assert!(!output.status.success());
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program_signs_tokens_and_tells_the_keys() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("signer.sock");
    let signer = Signer::start(&socket, State::default());
    let flags = [format!("--service-account-signing-endpoint={}", socket.display()), "--service-account-issuer=https://signer.test".into()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::api_server_with(&directory.path().join("data"), &flags);
    let admin = cluster.impatient_client().await;
    robot(&admin).await;

    let first = token(&admin).await;
    assert_eq!(part(&first, 0), json!({ "alg": "ES256", "kid": "first", "typ": "JWT" }));
    assert_eq!(part(&first, 1)["iss"], "https://signer.test");
    assert_eq!(name(&cluster, &first).await, Ok(ROBOT.to_owned()));
    let (_, cut) = request(&admin, 7200, "").await;
    assert_eq!(cut["spec"]["expirationSeconds"], 3600, "no longer than the signer allows");

    // Relying parties are told of the keys that sign, for as long as the signer has said.
    signer.change(|state| state.keys.insert(0, ("old", false, Key::new())));
    signer.change(|state| state.keys.push(("second", true, Key::new())));
    let second = token(&admin).await;
    assert_eq!(part(&second, 0)["kid"], "second");
    for token in [&first, &second] {
        assert_eq!(name(&cluster, token).await, Ok(ROBOT.to_owned()), "keys that are not known yet are looked for");
    }
    let request_keys = http::Request::get("/openid/v1/jwks").body(kube::client::Body::empty()).expect("a request");
    let answer = admin.send(request_keys).await.expect("an answer");
    let kept = answer.headers()["cache-control"].to_str().expect("text").to_owned();
    let seconds: u64 = kept.strip_prefix("public, max-age=").and_then(|text| text.parse().ok()).expect("seconds");
    assert!((1..=600).contains(&seconds), "{kept}");
    let keys: Value = serde_json::from_slice(&answer.into_body().collect_bytes().await.expect("a body")).expect("JSON");
    let ids: Vec<&str> = keys["keys"].as_array().expect("keys").iter().filter_map(|key| key["kid"].as_str()).collect();
    assert_eq!(ids, ["first", "second"]);

    // What the signer may not do, and what it says itself.
    let said = async |change: fn(&mut State)| {
        signer.change(change);
        let (code, answer) = request(&admin, 3600, "").await;
        assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
        answer["message"].as_str().expect("a message").to_owned()
    };
    let why = said(|state| state.header = json!({ "jku": "https://elsewhere" })).await;
    assert_eq!(
        why,
        "Internal error occurred: failed to generate token: while validating header: while parsing header JSON: json: unknown field \"jku\""
    );
    let why = said(|state| {
        state.header = json!({});
        state.keys.rotate_left(1);
    });
    assert_eq!(
        why.await,
        "Internal error occurred: failed to generate token: while validating header: key used for signing JWT (kid: old) is excluded from OIDC discovery docs"
    );
    let why = said(|state| state.refuses = Some((7, "not today"))).await;
    assert_eq!(
        why,
        "Internal error occurred: failed to generate token: while signing jwt: rpc error: code = PermissionDenied desc = not today"
    );
    let (_, metrics) = ask(&admin, "GET", "/metrics", &Value::Null).await;
    let metrics = metrics.as_str().expect("text");
    for line in [
        "apiserver_externaljwt_fetch_keys_data_timestamp 1700000000",
        "apiserver_externaljwt_sign_request_total{code=\"PermissionDenied\"} 1",
        "apiserver_externaljwt_sign_request_total{code=\"unknown-non-grpc\"} 2",
        "apiserver_externaljwt_request_duration_seconds_count{code=\"OK\",method=\"/v1.ExternalJWTSigner/Metadata\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }

    // Without the signer there are no new tokens; the rest goes on.
    drop(signer);
    // A call on the connection that breaks fails with it; those after it wait for another.
    let (mut code, _) = request(&admin, 3600, "?timeout=1s").await;
    if code == StatusCode::INTERNAL_SERVER_ERROR {
        code = request(&admin, 3600, "?timeout=1s").await.0;
    }
    assert_eq!(code, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(name(&cluster, &second).await, Ok(ROBOT.to_owned()));
    assert_eq!(ask(&admin, "GET", "/readyz", &Value::Null).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_its_signer_takes_back_opens_nothing_any_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("signer.sock");
    let signer = Signer::start(&socket, State { refresh_seconds: 1, ..State::default() });
    let flag = format!("--service-account-signing-endpoint={}", socket.display());
    let cluster = Cluster::api_server_with(&directory.path().join("data"), &[&flag]);
    let admin = cluster.impatient_client().await;
    robot(&admin).await;
    let first = token(&admin).await;
    assert_eq!(name(&cluster, &first).await, Ok(ROBOT.to_owned()));
    signer.change(|state| state.keys = vec![("second", true, Key::new())]);
    let deadline = Instant::now() + TIMEOUT;
    while name(&cluster, &first).await.is_ok() {
        assert!(Instant::now() < deadline, "the key is good for good");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(name(&cluster, &first).await, Err(401));
    assert_eq!(name(&cluster, &token(&admin).await).await, Ok(ROBOT.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_does_not_fit_the_flags_stops_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let socket = directory.path().join("signer.sock");
    let flag = format!("--service-account-signing-endpoint={}", socket.display());
    let signer = Signer::start(&socket, State { max_seconds: 599, ..State::default() });
    let refusal = |flags: &[&str]| tokio::task::block_in_place(|| refusal(&data, flags));
    for (flags, why) in [
        (
            &[&*flag, "--service-account-key-file=sa.pub"][..],
            "can't set `--service-account-signing-key-file` and/or `--service-account-key-file` with `--service-account-signing-endpoint` (They are mutually exclusive)",
        ),
        (
            &["--service-account-signing-endpoint=@a b"],
            "invalid value \"@a b\" passed for `--service-account-signing-endpoint`, when prefixed with @ must be a valid abstract socket name",
        ),
        (&[&*flag], "max token life supported by external-jwt-signer (599s) is less than acceptable (min 600s)"),
    ] {
        let said = refusal(flags);
        assert!(said.contains(why), "{said}");
    }
    signer.change(|state| state.max_seconds = 3600);
    let said = refusal(&[&flag, "--service-account-max-token-expiration=2h"]);
    let why = "service-account-max-token-expiration cannot be set longer than the token expiration supported by service-account-signing-endpoint: 2h0m0s > 1h0m0s";
    assert!(said.contains(why), "{said}");
    signer.change(|state| state.refresh_seconds = 0);
    let said = refusal(&[&flag]);
    let why = "while setting up external-jwt-signer: while initially filling key cache: while performing initial cache fill: while fetching token verification keys: found invalid refresh hint (0s)";
    assert!(said.contains(why), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_secrets_need_their_secret_unless_it_is_not_looked_up() {
    let directory = tempfile::tempdir().expect("a directory");
    let (data, key) = (directory.path().join("data"), Key::new());
    let file = directory.path().join("sa.key");
    std::fs::write(&file, key.pem()).expect("a file");
    let flag = format!("--service-account-signing-key-file={}", file.display());
    let claims = json!({
        "iss": "kubernetes/serviceaccount", "sub": ROBOT, "kubernetes.io/serviceaccount/namespace": "default",
        "kubernetes.io/serviceaccount/secret.name": "gone", "kubernetes.io/serviceaccount/service-account.name": "robot",
        "kubernetes.io/serviceaccount/service-account.uid": "1",
    });
    let of_secret = key.token(&json!({ "alg": "ES256" }), &claims);
    let cluster = Cluster::api_server_with(&data, &[&flag, "--service-account-lookup=false"]);
    assert_eq!(name(&cluster, &of_secret).await, Ok(ROBOT.to_owned()));
    let forged = Key::new().token(&json!({ "alg": "ES256" }), &claims);
    assert_eq!(name(&cluster, &forged).await, Err(401), "the signature counts all the same");

    // Tokens by request are bound to what is there, whatever the flag says.
    let admin = cluster.impatient_client().await;
    robot(&admin).await;
    let requested = token(&admin).await;
    assert_eq!(name(&cluster, &requested).await, Ok(ROBOT.to_owned()));
    ask(&admin, "DELETE", "/api/v1/namespaces/default/serviceaccounts/robot", &Value::Null).await;
    assert_eq!(name(&cluster, &requested).await, Err(401));
    cluster.kill();

    let cluster = Cluster::api_server_with(&data, &[&flag]);
    assert_eq!(name(&cluster, &of_secret).await, Err(401));
}

/// Files that openssl has made, as an administrator makes them: keys on P-521 and certificates for a hundred years.
fn on_p521(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/access/p521").join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_may_be_signed_on_the_widest_curve() {
    let directory = tempfile::tempdir().expect("a directory");
    let flag = format!("--service-account-signing-key-file={}", on_p521("account.key").display());
    let cluster = Cluster::api_server_with(&directory.path().join("data"), &[&flag]);
    let admin = cluster.impatient_client().await;
    robot(&admin).await;
    let token = token(&admin).await;
    assert_eq!(part(&token, 0)["alg"], "ES512");
    assert_eq!(name(&cluster, &token).await, Ok(ROBOT.to_owned()));
    let (_, configuration) = ask(&admin, "GET", "/.well-known/openid-configuration", &Value::Null).await;
    assert_eq!(configuration["id_token_signing_alg_values_supported"], json!(["ES512"]));
    let mut other = token.into_bytes();
    let last = other.len() - 5;
    other[last] = if other[last] == b'A' { b'B' } else { b'A' };
    assert_eq!(name(&cluster, &String::from_utf8(other).expect("text")).await, Err(401));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_may_have_certificates_on_the_widest_curve() {
    let directory = tempfile::tempdir().expect("a directory");
    let flags = [("tls-cert-file", "server.crt"), ("tls-private-key-file", "server.key"), ("client-ca-file", "ca.crt")];
    let flags = flags.map(|(flag, file)| format!("--{flag}={}", on_p521(file).display()));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::api_server_with(&directory.path().join("data"), &flags);
    let port = cluster.anonymous().await.cluster_url.port_u16().expect("a port");
    let certificate = |file: &str| CertificateDer::from_pem_file(on_p521(file)).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.crt")).expect("an authority");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(apiserver::nist_p521::provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).expect("a version");
        let key = PrivateKeyDer::from_pem_file(on_p521("client.key")).expect("a key");
        let config = builder.with_root_certificates(roots.clone()).with_client_auth_cert(vec![certificate("client.crt")], key);
        let connector = TlsConnector::from(Arc::new(config.expect("a key that is known")));
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
        let mut stream = connector.connect("localhost".try_into().expect("a name"), stream).await.expect("a handshake");
        let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" }).to_string();
        let head = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.1\r\nHost: localhost\r\nConnection: close";
        let request = format!("{head}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{review}", review.len());
        stream.write_all(request.as_bytes()).await.expect("it is sent");
        let mut answer = Vec::new();
        // Some servers end without a word of TLS.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let user: Value = answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()).expect(&answer);
        let user = &user["status"]["userInfo"];
        assert_eq!((&user["username"], &user["groups"]), (&json!("ann"), &json!(["dev", "system:authenticated"])), "{version:?}");
    }
}
