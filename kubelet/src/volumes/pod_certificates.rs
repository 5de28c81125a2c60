//! Certificates for pods: a key that never leaves the node, a PodCertificateRequest, and what its signer answers.
//!
//! Upstream: pkg/kubelet/podcertificate.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Object, Shutdown};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec, PodCertificateRequestStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use kube::runtime::watcher;
use kube::{Api, Client};
use p521::ecdsa::signature::Signer as _;
use p521::elliptic_curve::Generate;
use p521::elliptic_curve::sec1::ToSec1Point;
use parking_lot::Mutex;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rsa::pkcs8::{EncodePrivateKey, LineEnding};

use super::objects::Handlers;
use super::trust_bundles::certificates;

/// A request that is not to be found so long after it was made has been deleted.
const GIVEN_UP_AFTER: SignedDuration = SignedDuration::from_mins(10);
/// How long a pod waits for the first answer of the watch.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);
/// Refreshes are spread over so many seconds.
const MAX_JITTER_SECONDS: u32 = 300;

/// A key and the certificates for it, both as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub key: String,
    pub chain: String,
}

/// One source of one projected volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    pod_uid: String,
    volume: String,
    index: usize,
}

#[derive(Clone, Debug)]
struct Pending {
    key: String,
    namespace: String,
    name: String,
    since: Timestamp,
}

#[derive(Clone, Debug)]
struct Fresh {
    credentials: Credentials,
    refresh_at: Timestamp,
}

/// What is known of a source. A refusal is for good.
#[derive(Clone, Debug, Default)]
struct State {
    fresh: Option<Fresh>,
    pending: Option<Pending>,
    refused: Option<String>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Pending,
    Refused(String),
    Issued { chain: String, refresh_at: Timestamp },
}

/// The credentials of all pods; there are as many as their volumes ask for.
pub struct Certificates {
    client: Client,
    node_name: String,
    shutdown: Shutdown,
    handlers: Arc<Handlers>,
    states: Mutex<HashMap<Key, State>>,
    /// Started when a pod first wants a certificate.
    requests: Mutex<Option<Informer<PodCertificateRequest>>>,
}

impl Certificates {
    pub fn new(client: Client, node_name: &str, shutdown: Shutdown, handlers: Arc<Handlers>) -> Certificates {
        let node_name = node_name.to_owned();
        Certificates { client, node_name, shutdown, handlers, states: Mutex::default(), requests: Mutex::default() }
    }

    /// The credentials of a source; asks for them, or for new ones in time.
    pub async fn get(
        &self,
        pod: &Pod,
        volume: &str,
        index: usize,
        source: &PodCertificateProjection,
        now: Timestamp,
    ) -> Result<Credentials, String> {
        let key = Key { pod_uid: pod.uid().to_owned(), volume: volume.to_owned(), index };
        let requests = self.requests();
        if tokio::time::timeout(SYNC_TIMEOUT, requests.synced()).await.is_err() {
            return Err("failed to sync podcertificaterequest cache: timed out waiting for the condition".to_owned());
        }
        let mut state = self.states.lock().get(&key).cloned().unwrap_or_default();
        if let Some(pending) = state.pending.clone() {
            match requests.get(&pending.namespace, &pending.name) {
                Some(request) => settle(&mut state, pending, answer(request.status.as_ref())),
                None if now > pending.since + GIVEN_UP_AFTER => state.pending = None,
                None => {}
            }
        }
        let wanted = state.refused.is_none() && state.pending.is_none() && state.fresh.as_ref().is_none_or(|fresh| now >= fresh.refresh_at);
        let mut failed = None;
        if wanted {
            match self.request(pod, source, now).await {
                Ok(pending) => state.pending = Some(pending),
                Err(error) => failed = Some(error),
            }
        }
        self.states.lock().insert(key, state.clone());
        match (state.fresh, state.refused, failed) {
            (Some(fresh), None, _) => Ok(fresh.credentials),
            (_, Some(refused), _) => Err(refused),
            (None, None, Some(error)) => Err(error),
            (None, None, None) => Err("credential bundle is not issued yet".to_owned()),
        }
    }

    fn requests(&self) -> Informer<PodCertificateRequest> {
        let mut requests = self.requests.lock();
        if let Some(informer) = &*requests {
            return informer.clone();
        }
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node_name)).streaming_lists();
        let informer = Informer::start(Api::all(self.client.clone()), config, self.shutdown.clone());
        let handlers = self.handlers.clone();
        informer.on_change(move |change: &client::Change<PodCertificateRequest>| handlers.tell(&change.object().spec.pod_uid));
        requests.insert(informer).clone()
    }

    async fn request(&self, pod: &Pod, source: &PodCertificateProjection, now: Timestamp) -> Result<Pending, String> {
        let namespace = pod.namespace();
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let account_uid =
            accounts.get(&account).await.map_err(|error| format!("while fetching service account: {}", super::message(&error)))?;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = nodes.get(&self.node_name).await.map_err(|error| format!("while getting node object: {}", super::message(&error)))?;
        let kind = source.key_type.clone();
        // An RSA key takes a while to find.
        let (key, stub) = super::blocking(move || key_and_proof(&kind).map_err(std::io::Error::other))
            .await
            .map_err(|error| format!("while generating keypair: {error}"))?;
        let request = PodCertificateRequest {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                generate_name: Some("req-".to_owned()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Pod".to_owned(),
                    name: pod.name().to_owned(),
                    uid: pod.uid().to_owned(),
                    ..Default::default()
                }]),
                ..Default::default()
            },
            spec: PodCertificateRequestSpec {
                signer_name: source.signer_name.clone(),
                pod_name: pod.name().to_owned(),
                pod_uid: pod.uid().to_owned(),
                service_account_name: account,
                service_account_uid: account_uid.uid().to_owned(),
                node_name: self.node_name.clone(),
                node_uid: node.uid().to_owned(),
                max_expiration_seconds: source.max_expiration_seconds,
                stub_pkc_s10_request: ByteString(stub),
                unverified_user_annotations: source.user_annotations.clone(),
            },
            status: None,
        };
        let requests: Api<PodCertificateRequest> = Api::namespaced(self.client.clone(), namespace);
        let made = requests.create(&PostParams::default(), &request).await;
        let made = made.map_err(|error| format!("while creating on API: {}", super::message(&error)))?;
        Ok(Pending { key, namespace: namespace.to_owned(), name: made.name().to_owned(), since: now })
    }

    /// The pods that have certificates to be refreshed.
    pub fn due(&self, now: Timestamp) -> Vec<String> {
        let states = self.states.lock();
        let due = |state: &State| state.pending.is_none() && state.fresh.as_ref().is_some_and(|fresh| now >= fresh.refresh_at);
        let mut pods: Vec<String> = states.iter().filter(|(_, state)| due(state)).map(|(key, _)| key.pod_uid.clone()).collect();
        pods.sort();
        pods.dedup();
        pods
    }

    /// The pod is gone.
    pub fn forget(&self, pod_uid: &str) {
        self.states.lock().retain(|key, _| key.pod_uid != pod_uid);
    }
}

fn settle(state: &mut State, pending: Pending, answer: Answer) {
    match answer {
        Answer::Pending => {}
        Answer::Refused(why) => *state = State { refused: Some(why), ..State::default() },
        Answer::Issued { chain, refresh_at } => {
            let jitter = SignedDuration::from_secs(i64::from(rand::random::<u32>() % MAX_JITTER_SECONDS));
            let credentials = Credentials { key: pending.key, chain };
            *state = State { fresh: Some(Fresh { credentials, refresh_at: refresh_at + jitter }), ..State::default() };
        }
    }
}

fn answer(status: Option<&PodCertificateRequestStatus>) -> Answer {
    let Some(status) = status else { return Answer::Pending };
    for condition in status.conditions.iter().flatten() {
        let why = |what: &str| {
            let (reason, message) = (&condition.reason, &condition.message);
            Answer::Refused(format!("PodCertificateRequest was permanently {what}: reason={reason:?} message={message:?}"))
        };
        match condition.type_.as_str() {
            "Denied" => return why("denied"),
            "Failed" => return why("failed"),
            "Issued" => {
                let chain = certificates(status.certificate_chain.as_deref().unwrap_or("")).concat();
                let end = status.begin_refresh_at.as_ref().or(status.not_after.as_ref());
                return Answer::Issued { chain, refresh_at: end.map_or(Timestamp::MAX - SignedDuration::from_hours(1), |time| time.0) };
            }
            _ => {}
        }
    }
    Answer::Pending
}

/// A new key as PEM, and a request without content that proves possession of it.
fn key_and_proof(kind: &str) -> Result<(String, Vec<u8>), String> {
    let text = |error: rcgen::Error| error.to_string();
    let key = match kind {
        "ECDSAP256" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(text)?,
        "ECDSAP384" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).map_err(text)?,
        "ED25519" => KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(text)?,
        "ECDSAP521" => return key_and_proof_on_p521(),
        "RSA3072" => rsa_key(3072)?,
        "RSA4096" => rsa_key(4096)?,
        other => return Err(format!("unknown key type {other:?}")),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(text)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

/// The same on the curve that ring, and so rcgen, does not know.
fn key_and_proof_on_p521() -> Result<(String, Vec<u8>), String> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    const EC_ON_P521: [u8; 18] =
        [0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
    const ECDSA_WITH_SHA512: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];
    /// Version 1, and a subject without a name.
    const NOBODY: [u8; 5] = [0x02, 0x01, 0x00, 0x30, 0x00];
    const NO_ATTRIBUTES: [u8; 2] = [0xa0, 0x00];
    let key = p521::SecretKey::generate_from_rng(&mut rand::rng());
    let point = key.public_key().to_sec1_point(false);
    let public = der(SEQUENCE, &[&EC_ON_P521, &der(BIT_STRING, &[&[0], point.as_bytes()])]);
    let info = der(SEQUENCE, &[&NOBODY, &public, &NO_ATTRIBUTES]);
    let signature: p521::ecdsa::Signature = p521::ecdsa::SigningKey::from(&key).sign(&info);
    let request = der(SEQUENCE, &[&info, &ECDSA_WITH_SHA512, &der(BIT_STRING, &[&[0], signature.to_der().as_bytes()])]);
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| error.to_string())?;
    Ok((pem.to_string(), request))
}

/// One DER element of less than 64 KiB.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let [.., high, low] = length.to_be_bytes();
    let mut out = match length {
        0..0x80 => vec![tag, low],
        0x80..0x100 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

fn rsa_key(bits: usize) -> Result<KeyPair, String> {
    let key = rsa::PrivateKey::new(&mut rand::rng(), bits).map_err(|error| error.to_string())?;
    let der = key.to_pkcs8_der().map_err(|error| error.to_string())?;
    KeyPair::try_from(der.as_bytes()).map_err(|error| error.to_string())
}

/// The files that the projection asks for.
pub fn files(source: &PodCertificateProjection, credentials: &Credentials) -> Vec<(String, String)> {
    let Credentials { key, chain } = credentials;
    let wanted = [
        (&source.credential_bundle_path, format!("{key}{chain}")),
        (&source.key_path, key.clone()),
        (&source.certificate_chain_path, chain.clone()),
    ];
    wanted.into_iter().filter_map(|(path, data)| Some((path.clone().filter(|path| !path.is_empty())?, data))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_what_the_conditions_say() {
        let of = |value: serde_json::Value| answer(Some(&serde_json::from_value(value).expect("it is a status")));
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        assert_eq!(answer(None), Answer::Pending);
        let refused = "PodCertificateRequest was permanently denied: reason=\"R\" message=\"m\"";
        assert_eq!(of(json!({"conditions": [condition("Denied")]})), Answer::Refused(refused.to_owned()));
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let issued = of(json!({"conditions": [condition("Issued")], "certificateChain": pem, "beginRefreshAt": "2026-01-01T00:00:00Z"}));
        assert_eq!(issued, Answer::Issued { chain: pem.to_owned(), refresh_at: "2026-01-01T00:00:00Z".parse().expect("it is a time") });
    }

    #[test]
    fn a_proof_is_signed_by_its_key() {
        for kind in ["ECDSAP256", "ECDSAP384", "ED25519"] {
            let (key, stub) = key_and_proof(kind).expect("the kind is known");
            assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
            let (_, request) =
                <x509_parser::certification_request::X509CertificationRequest<'_> as x509_parser::prelude::FromDer<_>>::from_der(&stub)
                    .expect("it is a request");
            request.verify_signature().expect("it is signed");
            assert_eq!(request.certification_request_info.subject.iter().count(), 0);
        }
        assert!(key_and_proof("DSA").is_err());
    }

    #[test]
    fn a_proof_on_p521_is_signed_by_its_key_too() {
        use p521::ecdsa::signature::Verifier;
        use rsa::pkcs8::DecodePrivateKey;
        let (key, stub) = key_and_proof("ECDSAP521").expect("the kind is known");
        let key = p521::SecretKey::from_pkcs8_pem(&key).expect("it is a key");
        let (rest, request) =
            <x509_parser::certification_request::X509CertificationRequest<'_> as x509_parser::prelude::FromDer<_>>::from_der(&stub)
                .expect("it is a request");
        assert!(rest.is_empty());
        let info = &request.certification_request_info;
        assert_eq!(info.subject.iter().count(), 0);
        let point = key.public_key().to_sec1_point(false);
        assert_eq!(&*info.subject_pki.subject_public_key.data, point.as_bytes());
        let made = p521::ecdsa::Signature::from_der(&request.signature_value.data).expect("it is a signature");
        p521::ecdsa::VerifyingKey::from(key.public_key()).verify(info.raw, &made).expect("it is signed");
    }
}
