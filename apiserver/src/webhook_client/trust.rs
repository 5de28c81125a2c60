//! Whom a webhook must have been certified by: the authorities of its CA bundle, or else the machine's.
//!
//! As with Go, a certificate that stands in the bundle itself is trusted as it is, be it an authority's or not: many webhooks have one
//! self-signed certificate for both.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Who trusts the authorities in a bundle (PEM), or those of this machine.
pub fn client_config(bundle: Option<&[u8]>) -> Result<Arc<ClientConfig>, String> {
    static MACHINE: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    match bundle {
        Some(_) => config(verifier(bundle)?),
        None => MACHINE.get_or_init(|| config(of_machine()?)).clone(),
    }
}

/// The same trust, for those who show something themselves.
pub fn verifier(bundle: Option<&[u8]>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    match bundle {
        Some(bundle) => of_bundle(bundle),
        None => of_machine(),
    }
}

fn of_bundle(bundle: &[u8]) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let unable = |why: &dyn std::fmt::Display| format!("unable to load root certificates: {why}");
    let mut roots = RootCertStore::empty();
    let mut own = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|error| format!("unable to load root certificates: {error:?}"))?;
        roots.add(certificate.clone()).map_err(|error| unable(&error))?;
        own.push(certificate);
    }
    if roots.is_empty() {
        return Err(unable(&"unable to parse bytes as PEM block"));
    }
    trusting(roots, own)
}

/// Whom this machine trusts, read once.
fn of_machine() -> Result<Arc<dyn ServerCertVerifier>, String> {
    static MACHINE: OnceLock<Result<Arc<dyn ServerCertVerifier>, String>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if ignored > 0 {
            tracing::debug!(ignored, "authorities of this machine that cannot be read");
        }
        if roots.is_empty() {
            return Err("tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned());
        }
        trusting(roots, Vec::new())
    };
    MACHINE.get_or_init(read).clone()
}

fn trusting(roots: RootCertStore, own: Vec<CertificateDer<'static>>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let provider = Arc::new(crate::nist_p521::provider());
    let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok(Arc::new(Verifier { authorities: authorities.map_err(|error| error.to_string())?, own }))
}

fn config(verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(crate::nist_p521::provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Verifier {
    authorities: Arc<WebPkiServerVerifier>,
    /// The certificates of the bundle.
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.own.contains(end_entity) {
            return self.authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        is_valid(end_entity, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Whether a certificate counts at this time.
fn is_valid(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn verify(bundle: &str, certificate: &CertificateDer<'static>, name: &str, at: u64) -> Result<(), Error> {
        let roots = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let mut store = RootCertStore::empty();
        roots.iter().for_each(|root| store.add(root.clone()).unwrap());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at));
        Verifier { authorities, own: roots }.verify_server_cert(certificate, &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_self_signed_authority_in_the_bundle_may_serve_under_its_name() {
        let mut parameters = CertificateParams::new(vec!["hook.default.svc".to_owned()]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let made = || parameters.clone().self_signed(&KeyPair::generate().unwrap()).unwrap();
        let (own, other) = (made(), made());
        let in_2026 = 1_780_000_000;
        assert_eq!(verify(&own.pem(), own.der(), "hook.default.svc", in_2026), Ok(()));
        assert!(verify(&own.pem(), own.der(), "other.default.svc", in_2026).is_err());
        assert_eq!(verify(&own.pem(), own.der(), "hook.default.svc", 1_900_000_000), Err(CertificateError::Expired.into()));
        assert!(verify(&other.pem(), own.der(), "hook.default.svc", in_2026).is_err());
    }
}
