//! Tokens as old Secrets hold them: signed with the cluster's key, without an end. Knows no object.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use p521::ecdsa::signature::Signer as _;
use p521::elliptic_curve::sec1::ToSec1Point;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no private key in PEM form")]
    NoKey,
    #[error("the private key is none that tokens are signed with: {0}")]
    Key(String),
    #[error("the token could not be signed")]
    Sign,
}

enum Key {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
    /// ring does not know the curve.
    P521(Box<p521::ecdsa::SigningKey>),
}

/// Signs tokens with one key.
pub struct Signer {
    key: Key,
    algorithm: &'static str,
    /// The SHA-256 of the public key.
    id: String,
}

/// The label and the bytes of the first private key in a PEM text.
fn private_key(pem: &str) -> Option<(&str, Vec<u8>)> {
    pem.split("-----BEGIN ").skip(1).find_map(|block| {
        let (label, rest) = block.split_once("-----")?;
        let body = rest.split("-----END ").next()?;
        let text: String = body.split_whitespace().collect();
        label.ends_with("PRIVATE KEY").then(|| STANDARD.decode(text).ok()).flatten().map(|der| (label, der))
    })
}

/// One DER element.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    if length < 0x80 {
        out.push(u8::try_from(length).unwrap_or(0x7f));
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        out.push(0x80 | u8::try_from(bytes.len()).unwrap_or(8));
        out.extend(bytes);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A public key as certificates have it, by which keys are named.
fn public_key_info(algorithm: &[&[u8]], key: &[u8]) -> Vec<u8> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    der(SEQUENCE, &[&der(SEQUENCE, algorithm), &der(BIT_STRING, &[&[0], key])])
}

const RSA_ENCRYPTION: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const NULL: &[u8] = &[0x05, 0x00];
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];

impl Signer {
    /// Reads a key: PKCS #1 or PKCS #8 for RSA, PKCS #8 for elliptic curves (SEC 1 too for P-521).
    pub fn from_pem(pem: &str) -> Result<Signer, Error> {
        let (label, bytes) = private_key(pem).ok_or(Error::NoKey)?;
        let rsa = if label == "RSA PRIVATE KEY" { RsaKeyPair::from_der(&bytes) } else { RsaKeyPair::from_pkcs8(&bytes) };
        let refused = match rsa {
            Ok(key) => {
                let info = public_key_info(&[RSA_ENCRYPTION, NULL], key.public_key().as_ref());
                return Ok(Signer::new(Key::Rsa(Box::new(key)), "RS256", &info));
            }
            Err(error) => error.to_string(),
        };
        if let Ok(key) = p521::SecretKey::from_der(&bytes) {
            let info = public_key_info(&[EC_PUBLIC_KEY, P521], key.public_key().to_sec1_point(false).as_bytes());
            return Ok(Signer::new(Key::P521(Box::new(key.into())), "ES512", &info));
        }
        let random = SystemRandom::new();
        for (algorithm, name, curve) in
            [(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256", P256), (&ECDSA_P384_SHA384_FIXED_SIGNING, "ES384", P384)]
        {
            if let Ok(key) = EcdsaKeyPair::from_pkcs8(algorithm, &bytes, &random) {
                let info = public_key_info(&[EC_PUBLIC_KEY, curve], key.public_key().as_ref());
                return Ok(Signer::new(Key::Ecdsa(Box::new(key)), name, &info));
            }
        }
        Err(Error::Key(refused))
    }

    fn new(key: Key, algorithm: &'static str, info: &[u8]) -> Signer {
        let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, info));
        Signer { key, algorithm, id }
    }

    pub fn sign(&self, payload: &Value) -> Result<String, Error> {
        let header = json!({"alg": self.algorithm, "kid": self.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&header), encode(payload));
        let random = SystemRandom::new();
        let signature = match &self.key {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature).map_err(|_| Error::Sign)?;
                signature
            }
            Key::P521(key) => {
                let signature: p521::ecdsa::Signature = key.sign(text.as_bytes());
                signature.to_bytes().to_vec()
            }
            Key::Ecdsa(key) => key.sign(&random, text.as_bytes()).map_err(|_| Error::Sign)?.as_ref().to_vec(),
        };
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// What a Secret's token says.
pub fn claims(namespace: &str, account: &str, account_uid: &str, secret: &str) -> Value {
    json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret,
        "kubernetes.io/serviceaccount/service-account.name": account,
        "kubernetes.io/serviceaccount/service-account.uid": account_uid,
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
    })
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_token_is_signed_by_the_key_that_it_names() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let signer = Signer::from_pem(&pair.serialize_pem()).unwrap();
        let token = signer.sign(&claims("n", "a", "u", "s")).unwrap();
        let (text, signature) = token.rsplit_once('.').unwrap();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key_raw());
        assert!(key.verify(text.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).is_ok());
        let part = |index: usize| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.split('.').nth(index).unwrap()).unwrap()).unwrap()
        };
        let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &rcgen::PublicKeyData::subject_public_key_info(&pair)));
        assert_eq!(part(0), json!({"alg": "ES256", "kid": id}));
        assert_eq!(part(1)["sub"], "system:serviceaccount:n:a");
    }

    #[test]
    fn the_widest_curve_signs_too() {
        use p521::ecdsa::signature::Verifier;
        use p521::elliptic_curve::Generate;
        use p521::pkcs8::EncodePrivateKey;
        let key = p521::SecretKey::generate_from_rng(&mut rand::rng());
        let der = STANDARD.encode(key.to_pkcs8_der().unwrap().as_bytes());
        let signer = Signer::from_pem(&format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n")).unwrap();
        let token = signer.sign(&claims("n", "a", "u", "s")).unwrap();
        let (text, signature) = token.rsplit_once('.').unwrap();
        let signature = p521::ecdsa::Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        p521::ecdsa::VerifyingKey::from(key.public_key()).verify(text.as_bytes(), &signature).unwrap();
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.split('.').next().unwrap()).unwrap()).unwrap();
        assert_eq!(header["alg"], "ES512");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(matches!(Signer::from_pem("nothing"), Err(Error::NoKey)));
        assert!(matches!(Signer::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"), Err(Error::Key(_))));
    }
}
