//! Certificates on request: approving those of kubelets, signing what is approved, and clearing away what is done with.
//!
//! The request itself is read in [`request`], a certificate is made in [`authority`]; each controller is a file of its own.

pub mod approving;
pub mod authority;
pub mod cleaner;
mod der;
pub mod pod_request_cleaner;
mod request;
mod rules;
pub mod signing;
mod signing_key;
pub mod trust_bundle_publisher;
mod usages;

use std::fmt;

use client::answer;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

/// Why a request could not be dealt with this time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("unable to parse csr {name:?}: {reason}")]
    Request { name: String, reason: String },
    #[error("error auto signing csr: {0}")]
    Signing(#[from] authority::Error),
    #[error("recognized csr {name:?} as {tried:?} but subject access review was not approved")]
    NotPermitted { name: String, tried: Vec<&'static str> },
}

/// A stale or deleted object is no failure: its change is a trigger of its own.
fn unless_overtaken<T>(result: Result<T, kube::Error>) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if answer::is_conflict(&error) || answer::is_not_found(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has_condition(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).iter().any(|condition| condition.type_ == kind)
}

/// The certificate, if there is one.
fn issued(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = &request.status.as_ref()?.certificate.as_ref()?.0;
    (!certificate.is_empty()).then_some(certificate.as_slice())
}

/// Words as Go prints a list of them.
fn listed<T: fmt::Display>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    format!("[{}]", words.join(" "))
}
