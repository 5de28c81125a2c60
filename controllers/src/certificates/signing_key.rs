//! The private key of a CA: PEM in any of the forms in which CAs keep them, and signatures by it.

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};

use super::der;

const EC_PUBLIC_KEY: [u32; 6] = [1, 2, 840, 10_045, 2, 1];
const P256: [u32; 7] = [1, 2, 840, 10_045, 3, 1, 7];
const P384: [u32; 5] = [1, 3, 132, 0, 34];

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("no private key in PEM")]
    Absent,
    #[error("the private key cannot be used: {0}")]
    Rejected(String),
    #[error("signing failed")]
    Signing,
}

/// A key, by its algorithm.
pub enum SigningKey {
    Rsa(RsaKeyPair),
    /// Whose signatures are over SHA-256, or over SHA-384.
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// Reads `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY`, whichever comes first.
    pub fn from_pem(text: &[u8]) -> Result<SigningKey, Error> {
        for pem in x509_parser::pem::Pem::iter_from_buffer(text).map_while(Result::ok) {
            match pem.label.as_str() {
                "PRIVATE KEY" => return SigningKey::from_pkcs8(&pem.contents),
                "RSA PRIVATE KEY" => return RsaKeyPair::from_der(&pem.contents).map(SigningKey::Rsa).map_err(rejected),
                "EC PRIVATE KEY" => return SigningKey::from_sec1(&pem.contents),
                _ => {}
            }
        }
        Err(Error::Absent)
    }

    fn from_pkcs8(bytes: &[u8]) -> Result<SigningKey, Error> {
        let random = SystemRandom::new();
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, bytes, &random) {
            return Ok(SigningKey::P256(key));
        }
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, bytes, &random) {
            return Ok(SigningKey::P384(key));
        }
        if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
            return Ok(SigningKey::Ed25519(key));
        }
        RsaKeyPair::from_pkcs8(bytes).map(SigningKey::Rsa).map_err(rejected)
    }

    /// SEC 1 is what PKCS #8 has inside; the curve is said beside it.
    fn from_sec1(bytes: &[u8]) -> Result<SigningKey, Error> {
        let wrap = |curve: &[u32]| {
            let algorithm = der::sequence(&[&der::object_identifier(&EC_PUBLIC_KEY), &der::object_identifier(curve)]);
            der::sequence(&[&der::unsigned(&[0]), &algorithm, &der::value(der::OCTET_STRING, bytes)])
        };
        let random = SystemRandom::new();
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &wrap(&P256), &random) {
            return Ok(SigningKey::P256(key));
        }
        EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &wrap(&P384), &random).map(SigningKey::P384).map_err(rejected)
    }

    /// How signatures are made, as certificates say it.
    pub fn algorithm(&self) -> Vec<u8> {
        match self {
            SigningKey::Rsa(_) => {
                const NULL: [u8; 2] = [5, 0];
                der::sequence(&[&der::object_identifier(&[1, 2, 840, 113_549, 1, 1, 11]), &NULL])
            }
            SigningKey::P256(_) => der::sequence(&[&der::object_identifier(&[1, 2, 840, 10_045, 4, 3, 2])]),
            SigningKey::P384(_) => der::sequence(&[&der::object_identifier(&[1, 2, 840, 10_045, 4, 3, 3])]),
            SigningKey::Ed25519(_) => der::sequence(&[&der::object_identifier(&[1, 3, 101, 112])]),
        }
    }

    /// The public key's bits.
    pub fn public(&self) -> &[u8] {
        match self {
            SigningKey::Rsa(key) => key.public_key().as_ref(),
            SigningKey::P256(key) | SigningKey::P384(key) => key.public_key().as_ref(),
            SigningKey::Ed25519(key) => key.public_key().as_ref(),
        }
    }

    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let random = SystemRandom::new();
        match self {
            SigningKey::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| Error::Signing)?;
                Ok(signature)
            }
            SigningKey::P256(key) | SigningKey::P384(key) => {
                key.sign(&random, message).map(|signature| signature.as_ref().to_vec()).map_err(|_| Error::Signing)
            }
            SigningKey::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }
}

fn rejected(reason: ring::error::KeyRejected) -> Error {
    Error::Rejected(reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_form_are_read() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let read = SigningKey::from_pem(key.serialize_pem().as_bytes()).unwrap();
            assert_eq!(read.public(), key.public_key_raw());
            assert!(!read.sign(b"message").unwrap().is_empty());
        }
        assert_eq!(SigningKey::from_pem(b"").err(), Some(Error::Absent));
    }

    #[test]
    fn a_key_of_the_older_form_is_the_same_key() {
        let key = rcgen::KeyPair::generate().unwrap();
        // The octets inside of PKCS #8 are SEC 1.
        let pkcs8 = key.serialize_der();
        let at = pkcs8.windows(2).position(|pair| pair == [der::OCTET_STRING, 0x6d]).unwrap();
        let sec1 = &pkcs8[at + 2..];
        assert_eq!(SigningKey::from_sec1(sec1).unwrap().public(), key.public_key_raw());
    }
}
