//! Keys on P-521 and requests that they sign, which the library for all other kinds does not make.

use p521::SecretKey;
use p521::ecdsa::signature::Signer;
use p521::ecdsa::{Signature, SigningKey};
use p521::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
/// Version 0, and an empty name.
const VERSION_AND_SUBJECT: [u8; 5] = [0x02, 1, 0, SEQUENCE, 0];
const NO_ATTRIBUTES: [u8; 2] = [0xa0, 0];
/// ecdsa-with-SHA512, 1.2.840.10045.4.3.4.
const ALGORITHM: [u8; 12] = [SEQUENCE, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];
/// The scalar's first byte has one bit alone.
const FIRST_BYTE: u8 = 1;

/// A new key as PEM, and an empty request that it has signed, DER.
pub fn key_and_request() -> Result<(String, Vec<u8>), String> {
    let secret = loop {
        let mut scalar = [0_u8; 66];
        rand::fill(&mut scalar[..]);
        scalar[0] &= FIRST_BYTE;
        // One in 2^260 is no key.
        if let Ok(secret) = SecretKey::from_slice(&scalar) {
            break secret;
        }
    };
    let public = secret.public_key().to_public_key_der().map_err(|error| error.to_string())?;
    let info = der(SEQUENCE, &[&VERSION_AND_SUBJECT, public.as_bytes(), &NO_ATTRIBUTES]);
    let made: Signature = SigningKey::from(&secret).sign(&info);
    let signature = der(BIT_STRING, &[&[0], made.to_der().as_bytes()]);
    let pem = secret.to_pkcs8_pem(LineEnding::LF).map_err(|error| error.to_string())?;
    Ok((pem.to_string(), der(SEQUENCE, &[&info, &ALGORITHM, &signature])))
}

/// One value of less than 64 KiB.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = match content.len() {
        short @ 0..=0x7f => vec![short as u8],
        medium @ 0x80..=0xff => vec![0x81, medium as u8],
        long => vec![0x82, (long >> 8) as u8, long as u8],
    };
    [&[tag], &length[..], &content].concat()
}

#[cfg(test)]
mod tests {
    use p521::ecdsa::VerifyingKey;
    use p521::ecdsa::signature::Verifier;
    use p521::pkcs8::{DecodePrivateKey, DecodePublicKey};
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn a_request_is_signed_by_its_key() {
        let (pem, request) = key_and_request().expect("a key");
        let key = SecretKey::from_pkcs8_pem(&pem).expect("a private key");
        let (rest, request) = X509CertificationRequest::from_der(&request).expect("a request");
        assert!(rest.is_empty());
        let info = &request.certification_request_info;
        assert_eq!(info.subject.iter().count(), 0);
        let public = p521::PublicKey::from_public_key_der(info.subject_pki.raw).expect("a public key");
        assert_eq!(public, key.public_key());
        let public = VerifyingKey::from(&public);
        let signature = Signature::from_der(&request.signature_value.data).expect("a signature");
        assert!(public.verify(info.raw, &signature).is_ok());
        assert_eq!(request.signature_algorithm.algorithm.to_id_string(), "1.2.840.10045.4.3.4");
    }
}
