//! Certificates and requests for them: what validation looks at, and the words for what is wrong.

use ring::digest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::nist_p521;

const EC: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";

/// What kind of key a request or certificate has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Ed25519,
    /// The curve's name.
    Ec(&'static str),
    /// The size of the modulus in bits.
    Rsa(usize),
    Unknown,
}

/// Reads the one request in `der`.
pub fn parse_request(der: &[u8]) -> Result<X509CertificationRequest<'_>, &'static str> {
    match X509CertificationRequest::from_der(der) {
        Ok(([], request)) => Ok(request),
        Ok(_) => Err("asn1: syntax error: trailing data"),
        Err(x509_parser::nom::Err::Incomplete(_)) => Err("asn1: syntax error: data truncated"),
        Err(_) => Err("asn1: structure error: malformed certificate request"),
    }
}

/// Whether a request is signed by its own key.
pub fn check_signature(request: &X509CertificationRequest<'_>) -> Result<(), &'static str> {
    let key = key(&request.certification_request_info.subject_pki);
    let is_good = if key == Key::Ec("P-521") { is_signed_on_p521(request) } else { request.verify_signature().is_ok() };
    if is_good {
        return Ok(());
    }
    Err(match key {
        Key::Rsa(_) => "crypto/rsa: verification error",
        Key::Ec(_) => "x509: ECDSA verification failure",
        Key::Ed25519 => "x509: Ed25519 verification failure",
        Key::Unknown => "x509: cannot verify signature: algorithm unimplemented",
    })
}

/// ring, and so the parser, does not know this curve.
fn is_signed_on_p521(request: &X509CertificationRequest<'_>) -> bool {
    let hash = match request.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.10045.4.3.2" => &digest::SHA256,
        "1.2.840.10045.4.3.3" => &digest::SHA384,
        "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return false,
    };
    let info = &request.certification_request_info;
    nist_p521::made_der(&info.subject_pki.subject_public_key.data, hash, info.raw, &request.signature_value.data)
}

/// The kind of a public key.
pub fn key(info: &SubjectPublicKeyInfo<'_>) -> Key {
    match info.algorithm.algorithm.to_id_string().as_str() {
        ED25519 => Key::Ed25519,
        EC => {
            let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            match curve.map(|oid| oid.to_id_string()).as_deref() {
                Some("1.3.132.0.33") => Key::Ec("P-224"),
                Some("1.2.840.10045.3.1.7") => Key::Ec("P-256"),
                Some("1.3.132.0.34") => Key::Ec("P-384"),
                Some("1.3.132.0.35") => Key::Ec("P-521"),
                _ => Key::Unknown,
            }
        }
        _ => match info.parsed() {
            // Whole bytes count, as they do upstream.
            Ok(PublicKey::RSA(rsa)) => Key::Rsa(rsa.key_size().div_ceil(8) * 8),
            _ => Key::Unknown,
        },
    }
}

/// Certificates in `der`, one after the other; the error as clients see it.
pub fn check_certificates(der: &[u8]) -> Result<(), &'static str> {
    let mut rest = der;
    while !rest.is_empty() {
        rest = x509_parser::parse_x509_certificate(rest).map_err(|_| "x509: malformed certificate")?.0;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    /// A request signed by a new key, DER.
    pub(in crate::registry::certificates) fn request() -> (KeyPair, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let der = request.der().to_vec();
        (key, der)
    }

    /// A certificate signed by its own key.
    pub(in crate::registry::certificates) fn certificate(is_ca: bool) -> rcgen::Certificate {
        let mut params = CertificateParams::default();
        params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_request_is_signed_by_its_own_key() {
        let (_, mut der) = request();
        let parsed = parse_request(&der).unwrap();
        assert_eq!(key(&parsed.certification_request_info.subject_pki), Key::Ec("P-256"));
        assert_eq!(check_signature(&parsed), Ok(()));
        let last = der.len() - 1;
        der[last] ^= 1;
        assert_eq!(check_signature(&parse_request(&der).unwrap()), Err("x509: ECDSA verification failure"));
        der.push(0);
        assert_eq!(parse_request(&der).err(), Some("asn1: syntax error: trailing data"));
    }

    /// Made by openssl: the same key on P-521, with a hash of its size and with a smaller one.
    const ON_P521: [&str; 2] = [
        "MIIBQTCBpQIBADAAMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBL/Y9SXecjuanUB6mMV9hySF7V49PpY8mZaTp9YQKTn0SlCi26kLNkICTcLOdX/7pmjKR2cYhC9GN8LyT/IcrnnoAMhUrIurtpliZubqTGfDfcoSmFkHxM8NQi4SPmDgnyhrCL8FiZBaTAEvyqX58YAF93/QiksD2LReMKImd84ieFCegADAKBggqhkjOPQQDBAOBigAwgYYCQQFqR08Pxft3YGjh4cNTCCgq9l1RmyQFJV2srSa4YbgW3gwNbmqN/t/Lp181ADOgTLGgcQhVDUKdIzMlqXphjRb9AkE/z57fTTKegmw6T9iq0na0WGza2NujcS1OYhtQ0Pa0PumhEieOa+x+Otekre0MyEx5buBuYVxCwWEIN+iIQM7Y9A==",
        "MIIBQjCBpQIBADAAMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBL/Y9SXecjuanUB6mMV9hySF7V49PpY8mZaTp9YQKTn0SlCi26kLNkICTcLOdX/7pmjKR2cYhC9GN8LyT/IcrnnoAMhUrIurtpliZubqTGfDfcoSmFkHxM8NQi4SPmDgnyhrCL8FiZBaTAEvyqX58YAF93/QiksD2LReMKImd84ieFCegADAKBggqhkjOPQQDAgOBiwAwgYcCQgGNEDiOR/jtKYVFWIq+5sx5jZlKGjxglUV2egsS+ELdnDsG9lCWBg1illXlypxCfF1VxSV02lIUDt1KGTBUg1hLXQJBXjLJLQILh9qTKM4yEc83LXogewhF4+aBZPC0wPJumCH7t0blczFDE4jm4wT+Qbii6+OYd4UJWOuVKp/1XiqJSZs=",
    ];

    #[test]
    fn a_request_on_the_widest_curve_is_signed_by_its_own_key() {
        for request in ON_P521 {
            let mut der = STANDARD.decode(request).unwrap();
            let parsed = parse_request(&der).unwrap();
            assert_eq!(key(&parsed.certification_request_info.subject_pki), Key::Ec("P-521"));
            assert_eq!(check_signature(&parsed), Ok(()));
            let last = der.len() - 1;
            der[last] ^= 1;
            assert_eq!(check_signature(&parse_request(&der).unwrap()), Err("x509: ECDSA verification failure"));
        }
    }

    #[test]
    fn certificates_may_follow_each_other() {
        let der = certificate(false).der().to_vec();
        assert_eq!(check_certificates(&[der.clone(), der].concat()), Ok(()));
        assert!(check_certificates(b"x").is_err());
    }
}
