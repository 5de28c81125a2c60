//! The signer: gives approved requests of the cluster's own signer names their certificates.
//!
//! A signer without a CA signs nothing. The CA's files are read for each signature, so that a new CA counts at once.

use client::clock;
use client::controller::Outcome;
use client::{Object, ObjectKey, Queue};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use super::authority::{self, Authority, Policy, duration};
use super::request::Request;
use super::rules::{API_SERVER_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, check};
use super::{Error, conditions, has_condition, issued, unless_overtaken};
use crate::config::{Config, SigningFiles};
use crate::manager::Context;

const WORKERS: usize = 5;

/// The files of a signer's CA. Once one signer has a CA of its own, the one for all is used for none.
fn files<'a>(config: &'a Config, signer: &str) -> Option<&'a SigningFiles> {
    let own = [
        (KUBELET_SERVING, &config.cluster_signing_kubelet_serving),
        (KUBELET_CLIENT, &config.cluster_signing_kubelet_client),
        (API_SERVER_CLIENT, &config.cluster_signing_kube_apiserver_client),
        (LEGACY_UNKNOWN, &config.cluster_signing_legacy_unknown),
    ];
    let (_, files) = own.iter().find(|(name, _)| *name == signer)?;
    let files = if own.iter().any(|(_, files)| !files.is_empty()) { *files } else { &config.cluster_signing };
    (!files.is_empty()).then_some(files)
}

pub async fn run(context: Context) {
    let signers = [KUBELET_SERVING, KUBELET_CLIENT, API_SERVER_CLIENT, LEGACY_UNKNOWN];
    if signers.iter().all(|signer| files(&context.config, signer).is_none()) {
        tracing::info!(controller = context.name, "no CA to sign with is given, nothing is signed");
        return;
    }
    let requests = context.informers.of::<CertificateSigningRequest>();
    let queue = Queue::named("certificate");
    let sink = queue.clone();
    requests.on_change(move |change| sink.add(change.object().key()));
    requests.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let (client, config, request) = (context.client.clone(), context.config.clone(), requests.get_key(&key));
        async move {
            if let Some(request) = request {
                sign(client, &config, &request).await?;
            }
            Ok::<_, Error>(Outcome::Done)
        }
    })
    .await;
}

/// Whether the request waits for a signature.
fn waits(request: &CertificateSigningRequest) -> bool {
    let failed = conditions(request).iter().any(|condition| condition.type_ == "Failed" && condition.status == "True");
    issued(request).is_none() && has_condition(request, "Approved") && !has_condition(request, "Denied") && !failed
}

async fn sign(client: Client, config: &Config, request: &CertificateSigningRequest) -> Result<(), Error> {
    let signer = request.spec.signer_name.as_str();
    if !waits(request) {
        return Ok(());
    }
    let Some(files) = files(config, signer) else { return Ok(()) };
    let parsed = |reason| Error::Request { name: Object::name(request).to_owned(), reason };
    let asked = Request::parse(&request.spec.request.0).map_err(parsed)?;
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    let mut signed = request.clone();
    let status = signed.status.get_or_insert_default();
    match check(signer, &asked, usages) {
        Err(reason) => status.conditions.get_or_insert_default().push(failed(reason, clock::now())),
        Ok(()) => {
            let asked = Request::parse_signed(&request.spec.request.0).map_err(authority::Error::Request)?;
            let authority = load(files).await?;
            let policy = Policy {
                usages,
                valid_for: duration(request.spec.expiration_seconds, config.cluster_signing_duration),
                now: clock::now(),
                serial: rand::random(),
            };
            status.certificate = Some(ByteString(authority.sign(&asked, &policy)?.into_bytes()));
        }
    }
    let api: Api<CertificateSigningRequest> = Api::all(client);
    unless_overtaken(api.replace_status(Object::name(request), &PostParams::default(), &signed).await)
}

async fn load(files: &SigningFiles) -> Result<Authority, authority::Error> {
    let (Some(certificate), Some(key)) = (&files.cert, &files.key) else {
        return Err(authority::Error::Request("a CA needs both a certificate and a key".to_owned()));
    };
    Authority::load(certificate, key).await
}

fn failed(reason: String, now: Timestamp) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: "Failed".to_owned(),
        status: "True".to_owned(),
        reason: Some("SignerValidationFailure".to_owned()),
        message: Some(reason),
        last_update_time: Some(Time(now)),
        ..CertificateSigningRequestCondition::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn one(name: &str) -> SigningFiles {
        SigningFiles { cert: Some(PathBuf::from(name)), key: Some(PathBuf::from(name)) }
    }

    #[test]
    fn one_ca_signs_for_all_unless_some_signer_has_its_own() {
        let all = Config { cluster_signing: one("ca"), ..Config::default() };
        assert_eq!(files(&all, KUBELET_SERVING), Some(&one("ca")));
        assert_eq!(files(&all, "example.com/other"), None);
        let some = Config { cluster_signing_kubelet_client: one("own"), ..all };
        assert_eq!(files(&some, KUBELET_CLIENT), Some(&one("own")));
        assert_eq!(files(&some, KUBELET_SERVING), None);
        assert_eq!(files(&Config::default(), LEGACY_UNKNOWN), None);
    }

    #[test]
    fn only_what_is_approved_and_not_denied_or_failed_waits() {
        let with = |kinds: &[&str]| {
            let mut request = CertificateSigningRequest::default();
            let condition = |kind: &&str| CertificateSigningRequestCondition {
                type_: (*kind).to_owned(),
                status: "True".to_owned(),
                ..CertificateSigningRequestCondition::default()
            };
            request.status.get_or_insert_default().conditions = Some(kinds.iter().map(condition).collect());
            request
        };
        assert!(waits(&with(&["Approved"])));
        for kinds in [&[][..], &["Denied"], &["Approved", "Denied"], &["Approved", "Failed"]] {
            assert!(!waits(&with(kinds)), "{kinds:?}");
        }
    }
}
