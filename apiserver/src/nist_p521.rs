//! The curve P-521, which ring does not know: keys that sign and signatures that verify, in the forms that rustls and tokens want.
//!
//! Only P-521 is looked at here; whoever has another key asks ring first.

use std::sync::{Arc, LazyLock};

use p521::SecretKey;
use p521::ecdsa::signature::Signer as _;
use p521::ecdsa::signature::hazmat::PrehashVerifier;
use p521::ecdsa::{Signature, SigningKey, VerifyingKey};
use ring::digest;
use rustls::crypto::ring::default_provider;
use rustls::crypto::{CryptoProvider, KeyProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, alg_id,
};
use rustls::sign::Signer;
use rustls::{SignatureAlgorithm, SignatureScheme};

/// Bytes of a coordinate and of each number of a signature.
pub const BYTES: usize = 66;
/// What a SubjectPublicKeyInfo begins with before its uncompressed point: lengths, the algorithm and the curve.
const INFO: [u8; 25] = [
    0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23, 0x03,
    0x81, 0x86, 0x00,
];

/// A private key. It shows nothing of itself.
#[derive(Clone)]
struct Key(Arc<SigningKey>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("P-521")
    }
}

impl rustls::sign::SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ECDSA_NISTP521_SHA512).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let point = self.0.verifying_key().to_sec1_point(false);
        Some([&INFO[..], point.as_bytes()].concat().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let made: Signature = self.0.sign(message);
        Ok(made.to_der().as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}

/// The key of a PKCS #8 or SEC 1 document, whichever curve of ring's or this one it is on, or an RSA key.
pub fn any_supported_type(der: &PrivateKeyDer<'_>) -> Result<Arc<dyn rustls::sign::SigningKey>, rustls::Error> {
    let refused = match rustls::crypto::ring::sign::any_supported_type(der) {
        Ok(key) => return Ok(key),
        Err(error) => error,
    };
    let key = match der {
        PrivateKeyDer::Pkcs8(_) | PrivateKeyDer::Sec1(_) => SecretKey::from_der(der.secret_der()).ok(),
        _ => None,
    };
    Ok(Arc::new(Key(Arc::new(SigningKey::from(key.ok_or(refused)?)))))
}

/// Whether the key at `point` made a signature in the fixed form of tokens, with SHA-512.
pub fn made_fixed(point: &[u8], message: &[u8], made: &[u8]) -> bool {
    Signature::from_slice(made).is_ok_and(|made| made_hashed(point, &digest::SHA512, message, &made))
}

/// Whether the key at `point` made a signature in DER.
pub fn made_der(point: &[u8], hash: &'static digest::Algorithm, message: &[u8], made: &[u8]) -> bool {
    Signature::from_der(made).is_ok_and(|made| made_hashed(point, hash, message, &made))
}

fn made_hashed(point: &[u8], hash: &'static digest::Algorithm, message: &[u8], made: &Signature) -> bool {
    let hash = digest::digest(hash, message);
    // As a number the hash is the same with zeros before it, and shorter than half a scalar it is not taken.
    let mut number = [0; BYTES];
    number[BYTES - hash.as_ref().len()..].copy_from_slice(hash.as_ref());
    VerifyingKey::from_sec1_bytes(point).is_ok_and(|key| key.verify_prehash(&number, made).is_ok())
}

/// Signatures on this curve, as certificates and handshakes have them.
#[derive(Debug)]
struct Verifier {
    hash: &'static digest::Algorithm,
    signature: AlgorithmIdentifier,
}

impl SignatureVerificationAlgorithm for Verifier {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        if made_der(key, self.hash, message, signature) { Ok(()) } else { Err(InvalidSignature) }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

static WITH_SHA256: Verifier = Verifier { hash: &digest::SHA256, signature: alg_id::ECDSA_SHA256 };
static WITH_SHA384: Verifier = Verifier { hash: &digest::SHA384, signature: alg_id::ECDSA_SHA384 };
static WITH_SHA512: Verifier = Verifier { hash: &digest::SHA512, signature: alg_id::ECDSA_SHA512 };

/// Reads keys of this curve too.
#[derive(Debug)]
struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(&self, der: PrivateKeyDer<'static>) -> Result<Arc<dyn rustls::sign::SigningKey>, rustls::Error> {
        any_supported_type(&der)
    }
}

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

static IN_CERTIFICATES: [Algorithm; 3] = [&WITH_SHA256, &WITH_SHA384, &WITH_SHA512];
static IN_HANDSHAKES: [Algorithm; 1] = [&WITH_SHA512];

/// What ring verifies and this curve.
fn algorithms() -> WebPkiSupportedAlgorithms {
    static ALL: LazyLock<Vec<Algorithm>> = LazyLock::new(|| {
        let known = default_provider().signature_verification_algorithms.all;
        known.iter().chain(&IN_CERTIFICATES).copied().collect()
    });
    static MAPPING: LazyLock<Vec<(SignatureScheme, &'static [Algorithm])>> = LazyLock::new(|| {
        let known = default_provider().signature_verification_algorithms.mapping.iter().copied();
        known.chain([(SignatureScheme::ECDSA_NISTP521_SHA512, &IN_HANDSHAKES[..])]).collect()
    });
    WebPkiSupportedAlgorithms { all: &ALL, mapping: &MAPPING }
}

/// ring's provider, with this curve for keys and signatures (not for key exchange).
pub fn provider() -> CryptoProvider {
    CryptoProvider { signature_verification_algorithms: algorithms(), key_provider: &Keys, ..default_provider() }
}

#[cfg(test)]
pub mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// A key in PKCS #8, as openssl writes it.
    pub const PKCS8: &str = "-----BEGIN PRIVATE KEY-----\nMIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIAHfCZF+b+/tSgWNi9\nCRbDrTAgDWL8yWKvwHbLJUPWpxTNVyGBTS+udUUB3KZeJLd/TQUJo2WJlwCy2v+s\nNIJc0D2hgYkDgYYABAGL91KVSRLoKS4xvrfP0m7jGZBvNRWXCjD803BA5snx9Ed/\n/MzVl7R70me92Bhe3rl54TN970eYwEhwLmQuPqyEkgEyQb30cLmjZIXjRVSXcmtJ\n0gF+FK7mgAlrk5vFdgIPqdAm6z+6pYM5GJh5h593sVxr9iEKcdr9AaQKalsV4E8H\n5g==\n-----END PRIVATE KEY-----\n";
    /// The same key in SEC 1.
    pub const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----\nMIHcAgEBBEIAHfCZF+b+/tSgWNi9CRbDrTAgDWL8yWKvwHbLJUPWpxTNVyGBTS+u\ndUUB3KZeJLd/TQUJo2WJlwCy2v+sNIJc0D2gBwYFK4EEACOhgYkDgYYABAGL91KV\nSRLoKS4xvrfP0m7jGZBvNRWXCjD803BA5snx9Ed//MzVl7R70me92Bhe3rl54TN9\n70eYwEhwLmQuPqyEkgEyQb30cLmjZIXjRVSXcmtJ0gF+FK7mgAlrk5vFdgIPqdAm\n6z+6pYM5GJh5h593sVxr9iEKcdr9AaQKalsV4E8H5g==\n-----END EC PRIVATE KEY-----\n";

    #[test]
    fn what_a_key_signs_verifies_with_its_own_point_and_hash_alone() {
        let read = |pem: &str| any_supported_type(&PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let key = read(PKCS8);
        assert_eq!(key.public_key(), read(SEC1).public_key());
        assert!(key.choose_scheme(&[SignatureScheme::ECDSA_NISTP384_SHA384]).is_none());
        let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP521_SHA512]).unwrap();
        let made = signer.sign(b"message").unwrap();
        let info = key.public_key().unwrap();
        let point = &info[INFO.len()..];
        assert!(made_der(point, &digest::SHA512, b"message", &made));
        assert!(!made_der(point, &digest::SHA512, b"messages", &made));
        assert!(!made_der(point, &digest::SHA256, b"message", &made));
        assert!(!made_der(&point[1..], &digest::SHA512, b"message", &made));
        assert_eq!(format!("{key:?}"), "P-521");
    }

    #[test]
    fn keys_that_ring_reads_are_read_as_before() {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let key = any_supported_type(&PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        assert!(key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).is_some());
        assert!(any_supported_type(&PrivateKeyDer::Pkcs8(vec![1, 2, 3].into())).is_err());
    }
}
