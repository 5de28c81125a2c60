//! TLS settings of the listener: our certificate, and client certificates that are asked for but not required.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pki::Identity;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("client CA: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("Cipher suite {0} not supported or doesn't exist")]
    UnknownSuite(String),
    #[error("curve preference {0} is out of range (must be 1-65535)")]
    CurveOutOfRange(i32),
    #[error("duplicate curve preference {0}")]
    DuplicateCurve(i32),
    #[error("curve preference {0} is not supported")]
    UnknownCurve(i32),
    #[error("none of the curve preferences is spoken by this server: it speaks 29 (X25519), 23 (P-256) and 24 (P-384)")]
    NoCurve,
    #[error("certificate: {0}")]
    Certificate(String),
}

/// Which versions and cipher suites a listener speaks; what rustls holds to be safe by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--tls-min-version`: nothing older than 1.3.
    pub only_tls13: bool,
    /// `--tls-cipher-suites`, as Go names them: those of TLS 1.2 that are spoken; all if empty. TLS 1.3 has no choice.
    pub cipher_suites: Vec<String>,
    /// `--tls-curve-preferences`: the groups of key exchange that are spoken, by their numbers; all if empty.
    pub curves: Vec<i32>,
}

/// A certificate for the names under which clients ask for it.
pub struct NamedIdentity {
    /// Those of the certificate if empty. `*` stands for one label.
    pub names: Vec<String>,
    pub identity: Identity,
}

/// Suites that Go speaks and this server does not: they may be named, and are never chosen.
const UNSUPPORTED_SUITES: [&str; 16] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// Curves that Go speaks and this server does not, by their numbers: they may be named, and are never chosen.
const UNSUPPORTED_CURVES: [u16; 4] = [25, 4587, 4588, 4589];

impl Settings {
    fn provider(&self) -> Result<CryptoProvider, Error> {
        let mut provider = crate::nist_p521::provider();
        self.choose_curves(&mut provider)?;
        if self.cipher_suites.is_empty() {
            return Ok(provider);
        }
        let supported: Vec<String> = provider.cipher_suites.iter().map(|suite| go_name(suite.suite())).collect();
        for wanted in &self.cipher_suites {
            let old_name = format!("{wanted}_SHA256");
            let is_known = supported.contains(wanted) || supported.contains(&old_name) || UNSUPPORTED_SUITES.contains(&wanted.as_str());
            if !is_known {
                return Err(Error::UnknownSuite(wanted.clone()));
            }
        }
        provider.cipher_suites.retain(|suite| {
            let name = go_name(suite.suite());
            let is_wanted = |wanted: &String| *wanted == name || format!("{wanted}_SHA256") == name;
            suite.tls13().is_some() || self.cipher_suites.iter().any(is_wanted)
        });
        Ok(provider)
    }

    fn choose_curves(&self, provider: &mut CryptoProvider) -> Result<(), Error> {
        let mut wanted: Vec<u16> = Vec::new();
        for curve in &self.curves {
            let number = u16::try_from(*curve).ok().filter(|number| *number > 0).ok_or(Error::CurveOutOfRange(*curve))?;
            if wanted.contains(&number) {
                return Err(Error::DuplicateCurve(*curve));
            }
            if !UNSUPPORTED_CURVES.contains(&number) && !provider.kx_groups.iter().any(|group| u16::from(group.name()) == number) {
                return Err(Error::UnknownCurve(*curve));
            }
            wanted.push(number);
        }
        if !wanted.is_empty() {
            provider.kx_groups.retain(|group| wanted.contains(&u16::from(group.name())));
        }
        if provider.kx_groups.is_empty() { Err(Error::NoCurve) } else { Ok(()) }
    }
}

/// `TLS13_AES_128_GCM_SHA256` is `TLS_AES_128_GCM_SHA256` to Go.
fn go_name(suite: rustls::CipherSuite) -> String {
    format!("{suite:?}").replacen("TLS13_", "TLS_", 1)
}

/// What a listener offers: HTTP/2 and HTTP/1.1, one certificate, and others by name.
///
/// Clients are asked for a certificate and need not have one; without authorities nobody is asked. That they hold its key is proved here; who certified it is for
/// [`crate::filters::client_certificate`] to find out, since a stranger's certificate is no reason to refuse a good token.
/// `authorities` tells clients which certificates are of use.
pub fn server_config(
    identity: &Identity,
    named: &[NamedIdentity],
    authorities: &RootCertStore,
    settings: &Settings,
) -> Result<ServerConfig, Error> {
    let provider = Arc::new(settings.provider()?);
    let verifier: Arc<dyn ClientCertVerifier> = match authorities.is_empty() {
        true => WebPkiClientVerifier::no_client_auth(),
        false => Arc::new(AnyCertificate { hints: authorities.subjects(), algorithms: provider.signature_verification_algorithms }),
    };
    let certified = |identity: &Identity| {
        let (chain, key) = self::identity(identity)?;
        Ok::<_, Error>(Arc::new(CertifiedKey::from_der(chain, key, &provider)?))
    };
    let mut by_name = HashMap::new();
    for one in named {
        let key = certified(&one.identity)?;
        let names = if one.names.is_empty() { names_of(&key)? } else { one.names.clone() };
        for name in names {
            // The first that was given for a name counts.
            by_name.entry(name.to_ascii_lowercase()).or_insert_with(|| key.clone());
        }
    }
    let resolver = ByName { default: certified(identity)?, by_name };
    let versions: &[&rustls::SupportedProtocolVersion] = if settings.only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A listener's acceptor that never changes.
pub fn acceptor(certificate_pem: &str, key_pem: &str, authorities: &RootCertStore) -> Result<TlsAcceptor, Error> {
    let identity = Identity { certificate: certificate_pem.to_owned(), key: key_pem.to_owned() };
    Ok(TlsAcceptor::from(Arc::new(server_config(&identity, &[], authorities, &Settings::default())?)))
}

/// The names that a certificate is for.
fn names_of(key: &CertifiedKey) -> Result<Vec<String>, Error> {
    let Some(certificate) = key.cert.first() else { return Ok(Vec::new()) };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| Error::Certificate(error.to_string()))?;
    let alternative = parsed.subject_alternative_name().map_err(|error| Error::Certificate(error.to_string()))?;
    let mut names: Vec<String> = Vec::new();
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        if let GeneralName::DNSName(name) = name {
            names.push((*name).to_owned());
        }
    }
    if names.is_empty() {
        names.extend(parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(str::to_owned));
    }
    Ok(names)
}

/// Certificates by the name that clients ask for.
#[derive(Debug)]
struct ByName {
    default: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    /// A wildcard stands for the labels that it is found at, from the first on.
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        if self.by_name.is_empty() {
            return None;
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(found) = self.by_name.get(&name) {
            return Some(found);
        }
        let mut labels: Vec<&str> = name.split('.').collect();
        (0..labels.len()).find_map(|at| {
            labels[at] = "*";
            self.by_name.get(&labels.join("."))
        })
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(hello.server_name().and_then(|name| self.find(name)).unwrap_or(&self.default).clone())
    }
}

/// The authorities of a PEM bundle.
pub fn roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

/// A private key and the chain that goes with it.
pub fn identity(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?))
}

/// Takes every certificate whose key the client holds.
#[derive(Debug)]
struct AnyCertificate {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Pki;

    #[test]
    fn suites_are_chosen_by_the_names_that_go_has() {
        let settings = |names: &[&str]| Settings { cipher_suites: names.iter().map(|n| (*n).to_owned()).collect(), ..Settings::default() };
        let chosen = |names: &[&str]| {
            let provider = settings(names).provider().unwrap();
            provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).map(|suite| go_name(suite.suite())).collect::<Vec<_>>()
        };
        assert_eq!(chosen(&[]).len(), 6);
        assert_eq!(chosen(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]), ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        assert_eq!(chosen(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]), ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]);
        assert!(chosen(&["TLS_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA"]).is_empty());
        let unknown = settings(&["TLS_MOON"]).provider().unwrap_err();
        assert_eq!(unknown.to_string(), "Cipher suite TLS_MOON not supported or doesn't exist");
    }

    #[test]
    fn curves_are_chosen_by_their_numbers() {
        let chosen = |curves: &[i32]| {
            let provider = Settings { curves: curves.to_vec(), ..Settings::default() }.provider().map_err(|error| error.to_string())?;
            Ok::<_, String>(provider.kx_groups.iter().map(|group| u16::from(group.name())).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]).map(|all| all.len()), Ok(3));
        assert_eq!(chosen(&[24, 4588, 23]), Ok(vec![23, 24]), "in the server's order");
        for (curves, why) in [
            (&[0][..], "curve preference 0 is out of range (must be 1-65535)"),
            (&[29, 29], "duplicate curve preference 29"),
            (&[999], "curve preference 999 is not supported"),
        ] {
            assert_eq!(chosen(curves), Err(why.to_owned()));
        }
        assert!(chosen(&[4588]).is_err(), "nothing would be left");
    }

    #[test]
    fn certificates_are_found_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let identity = pki.serving(&["a.example.com".to_owned(), "*.b.example.com".to_owned()], &[]).unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let (chain, key) = self::identity(&identity).unwrap();
        let key = Arc::new(CertifiedKey::from_der(chain, key, &provider).unwrap());
        assert_eq!(names_of(&key).unwrap(), ["a.example.com", "*.b.example.com"]);
        let by_name = names_of(&key).unwrap().into_iter().map(|name| (name, key.clone())).collect();
        let found = ByName { default: key.clone(), by_name };
        for (name, expect) in [("A.example.com", true), ("x.b.example.com", true), ("b.example.com", false), ("c.example.com", false)] {
            assert_eq!(found.find(name).is_some(), expect, "{name}");
        }
    }
}
