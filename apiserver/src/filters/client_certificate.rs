//! Whom a client certificate is of, if an authority that counts has certified it.
//!
//! The handshake has proved that the client holds the key ([`crate::tls`]); here the chain is verified, and what was found is kept for a
//! while, since clients send many requests with one certificate. Never decides what a user may do.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::metrics::{Buckets, Histogram, Series, head};
use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authentication::User;
use crate::expiring::Expiring;

/// Chains whose verdict is kept.
const MAX_KNOWN: usize = 2048;
/// How long a verdict is kept: an expired certificate is found out so much later at most.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// The element of a name that holds a user's uid.
const UID: x509_parser::der_parser::Oid<'static> = x509_parser::der_parser::oid!(1.3.6.1.4.1.57683.2);
const LIFETIMES: Buckets = Buckets::Listed(&[
    0.0,
    1800.0,
    3600.0,
    7200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
]);
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// What a verified certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    organizations: Vec<String>,
    uids: Vec<String>,
    /// SHA-256 of the certificate, in hexadecimal.
    fingerprint: String,
    /// When the certificate ends, in seconds of Unix time.
    not_after: i64,
}

impl Subject {
    /// The common name is the user, organizations are groups; nobody without a name.
    pub fn user(&self) -> Result<Option<User>, String> {
        if self.common_name.is_empty() {
            return Ok(None);
        }
        let uid = match self.uids.as_slice() {
            [] => String::new(),
            [one] if one.is_empty() => return Err("UID cannot be an empty string".to_owned()),
            [one] => one.clone(),
            many => return Err(format!("expected 1 UID, but found multiple: [{}]", many.join(" "))),
        };
        let extra = vec![(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={}", self.fingerprint)])];
        Ok(Some(User { name: self.common_name.clone(), uid, groups: self.organizations.clone(), extra }))
    }
}

type Verdict = Result<Arc<Subject>, String>;

/// Verifies chains against some authorities.
pub struct ClientCertificates {
    verifier: ArcSwap<Arc<dyn ClientCertVerifier>>,
    known: Expiring<Vec<u8>, Verdict>,
    /// How long certificates still had when somebody showed them, in seconds.
    lifetimes: Histogram,
}

impl ClientCertificates {
    /// `None` without authorities: then no certificate counts.
    pub fn certified_by(authorities: RootCertStore) -> Result<Option<ClientCertificates>, rustls::server::VerifierBuilderError> {
        if authorities.is_empty() {
            return Ok(None);
        }
        Ok(Some(ClientCertificates {
            verifier: ArcSwap::from_pointee(verifier(authorities)?),
            known: Expiring::new(MAX_KNOWN),
            lifetimes: Histogram::of(LIFETIMES),
        }))
    }

    /// From now on, other authorities count. Nothing that was found out before does.
    pub fn replace(&self, authorities: RootCertStore) -> Result<(), rustls::server::VerifierBuilderError> {
        self.verifier.store(Arc::new(verifier(authorities)?));
        self.known.clear();
        Ok(())
    }

    /// Whom a chain, the client's certificate first, is of. The chain must not be empty.
    pub fn check(&self, chain: &[CertificateDer<'static>]) -> Verdict {
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        chain.iter().for_each(|certificate| digest.update(certificate));
        let digest = digest.finish().as_ref().to_vec();
        let verdict = self.known.get(&digest).unwrap_or_else(|| {
            let verdict = self.verify(chain);
            self.known.keep(digest, verdict.clone(), KNOWN_FOR);
            verdict
        });
        if let Ok(subject) = &verdict {
            self.lifetimes.observe(subject.not_after as f64 - UnixTime::now().as_secs() as f64);
        }
        verdict
    }

    /// Writes what was counted (Prometheus text format).
    pub fn render(&self, out: &mut String) {
        let name = "apiserver_client_certificate_expiration_seconds";
        head(out, name, "histogram", "[ALPHA] How many seconds the certificates of clients still had when a request came.");
        self.lifetimes.write(out, name, "");
    }

    fn verify(&self, chain: &[CertificateDer<'static>]) -> Verdict {
        let [certificate, intermediates @ ..] = chain else { return Err("x509: no certificate".to_owned()) };
        self.verifier.load().verify_client_cert(certificate, intermediates, UnixTime::now()).map_err(|error| refusal(&error))?;
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| format!("x509: {error}"))?;
        let subject = parsed.subject();
        let texts = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
        Ok(Arc::new(Subject {
            // The last one counts, as Go reads names.
            common_name: subject.iter_common_name().last().and_then(texts).unwrap_or_default(),
            organizations: subject.iter_organization().filter_map(texts).collect(),
            uids: subject.iter_by_oid(&UID).filter_map(texts).collect(),
            not_after: parsed.validity().not_after.timestamp(),
            fingerprint: ring::digest::digest(&ring::digest::SHA256, certificate).as_ref().iter().map(|b| format!("{b:02x}")).collect(),
        }))
    }
}

fn verifier(authorities: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, rustls::server::VerifierBuilderError> {
    let provider = Arc::new(crate::nist_p521::provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider).build()?;
    Ok(verifier)
}

/// In Go's words, for the log.
fn refusal(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "x509: certificate has expired or is not yet valid".to_owned()
        }
        other => format!("x509: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::pki::Pki;
    use crate::tls;

    #[test]
    fn a_certificate_counts_if_its_authority_does() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let client = pki.client("client", "ann", &["dev"]).unwrap();
        let chain = [CertificateDer::from_pem_slice(client.certificate.as_bytes()).unwrap()];
        let certified_by = |ca: String| ClientCertificates::certified_by(tls::roots(&ca).unwrap()).unwrap().unwrap();
        let user = certified_by(pki.ca().unwrap()).check(&chain).unwrap().user().unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("ann", ["dev".to_owned()].as_slice()));
        assert!(user.extra[0].1[0].starts_with("X509SHA256="), "{:?}", user.extra);
        let other = certified_by(pki.front_proxy_ca().unwrap());
        assert_eq!(other.check(&chain).unwrap_err(), "x509: certificate signed by unknown authority");
        assert_eq!(other.check(&chain).unwrap_err(), "x509: certificate signed by unknown authority", "from what is known");
        assert!(ClientCertificates::certified_by(RootCertStore::empty()).unwrap().is_none());
    }

    #[test]
    fn a_uid_stands_there_once_or_not_at_all() {
        let subject = |uids: &[&str]| Subject {
            common_name: "ann".to_owned(),
            uids: uids.iter().map(|u| (*u).to_owned()).collect(),
            ..Subject::default()
        };
        assert_eq!(subject(&["7"]).user().unwrap().unwrap().uid, "7");
        assert_eq!(subject(&["7", "8"]).user().unwrap_err(), "expected 1 UID, but found multiple: [7 8]");
        assert_eq!(subject(&[""]).user().unwrap_err(), "UID cannot be an empty string");
        assert_eq!(Subject::default().user().unwrap(), None);
    }
}
