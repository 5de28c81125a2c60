//! Public keys of issuers as they publish them (RFC 7517), and the signatures that they verify.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::Value;

use crate::nist_p521;
use crate::registry::read::{list_at, str_at};
use crate::tokens::jws::Unverified;

/// Keys of one issuer that are looked at.
const MAX_KEYS: usize = 256;
/// What the first byte of a point says that is written out in full.
const UNCOMPRESSED: u8 = 4;

/// A key that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    id: String,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ec { curve: Curve, point: Vec<u8> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

/// The algorithms that tokens may be signed with, as upstream lists them.
pub const ALGORITHMS: [&str; 9] = ["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

/// The keys of a set. Keys of types and curves that are not supported are left out.
pub fn parse_set(set: &Value) -> Vec<Key> {
    let keys = list_at(set, "/keys").iter().take(MAX_KEYS);
    keys.filter_map(|key| {
        let parsed = Key::parse(key);
        if parsed.is_none() {
            tracing::debug!(id = str_at(key, "/kid"), kind = str_at(key, "/kty"), curve = str_at(key, "/crv"), "a key of no use");
        }
        parsed
    })
    .collect()
}

impl Key {
    fn parse(key: &Value) -> Option<Key> {
        let bytes = |field: &str| URL_SAFE_NO_PAD.decode(str_at(key, field).trim_end_matches('=')).ok().filter(|bytes| !bytes.is_empty());
        let material = match str_at(key, "/kty") {
            "RSA" => Material::Rsa { n: significant(bytes("/n")?), e: significant(bytes("/e")?) },
            "EC" => {
                let (curve, width) = match str_at(key, "/crv") {
                    "P-256" => (Curve::P256, 32),
                    "P-384" => (Curve::P384, 48),
                    "P-521" => (Curve::P521, 66),
                    _ => return None,
                };
                let (x, y) = (bytes("/x")?, bytes("/y")?);
                if x.len() != width || y.len() != width {
                    return None;
                }
                Material::Ec { curve, point: [&[UNCOMPRESSED][..], &x, &y].concat() }
            }
            _ => return None,
        };
        Some(Key { id: str_at(key, "/kid").to_owned(), material })
    }

    /// Whether it may be the key that a token names.
    pub fn is_named(&self, id: &str) -> bool {
        id.is_empty() || self.id == id
    }

    /// Whether it made the signature of a token, by the algorithm that the token names.
    pub fn signed(&self, token: &Unverified<'_>) -> bool {
        let (message, made) = token.signed();
        match &self.material {
            Material::Rsa { n, e } => rsa_parameters(token.algorithm())
                .is_some_and(|parameters| RsaPublicKeyComponents { n, e }.verify(parameters, message, made).is_ok()),
            Material::Ec { curve, point } => {
                let algorithm: &dyn VerificationAlgorithm = match (curve, token.algorithm()) {
                    (Curve::P256, "ES256") => &signature::ECDSA_P256_SHA256_FIXED,
                    (Curve::P384, "ES384") => &signature::ECDSA_P384_SHA384_FIXED,
                    (Curve::P521, "ES512") => return nist_p521::made_fixed(point, message, made),
                    _ => return false,
                };
                UnparsedPublicKey::new(algorithm, point).verify(message, made).is_ok()
            }
        }
    }
}

fn rsa_parameters(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// Without the zeros before the first digit.
fn significant(bytes: Vec<u8>) -> Vec<u8> {
    bytes.iter().position(|byte| *byte != 0).map_or_else(Vec::new, |first| bytes[first..].to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tokens::{jws, keys};

    #[test]
    fn a_key_verifies_what_it_signed_by_its_own_algorithm_alone() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let made = || keys::signer(rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem().as_bytes()).unwrap();
            let ((signer, public), (_, other)) = (made(), made());
            let token = jws::sign(&signer, &json!({ "iss": "x" })).unwrap();
            let token = jws::parse(&token).unwrap();
            let parsed = |jwk: &Value| parse_set(&json!({ "keys": [jwk, { "kty": "OKP" }] }));
            let [key] = &parsed(&public.jwk)[..] else { panic!("one key") };
            assert!(key.signed(&token) && key.is_named("") && key.is_named(&public.id) && !key.is_named("other"));
            assert!(!parsed(&other.jwk)[0].signed(&token));
        }
    }

    #[test]
    fn the_widest_curve_verifies_too() {
        use p521::ecdsa::signature::Signer;
        use p521::ecdsa::{Signature, SigningKey};
        let signer = SigningKey::from_slice(&[7; 66].map(|byte: u8| byte & 1)).unwrap();
        let point = signer.verifying_key().to_sec1_point(false);
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({ "kty": "EC", "crv": "P-521", "kid": "k", "x": encoded(&point.as_bytes()[1..67]), "y": encoded(&point.as_bytes()[67..]) });
        let [key] = &parse_set(&json!({ "keys": [jwk] }))[..] else { panic!("one key") };
        let sign = |algorithm: &str| {
            let signed = format!("{}.{}", encoded(json!({ "alg": algorithm, "kid": "k" }).to_string().as_bytes()), encoded(b"{}"));
            let made: Signature = signer.sign(signed.as_bytes());
            format!("{signed}.{}", encoded(&made.to_bytes()))
        };
        assert!(key.signed(&jws::parse(&sign("ES512")).unwrap()));
        assert!(!key.signed(&jws::parse(&sign("ES256")).unwrap()), "by its own algorithm alone");
        let other = sign("ES512").replacen("e30", "e31", 1);
        assert!(!jws::parse(&other).is_some_and(|token| key.signed(&token)));
    }

    #[test]
    fn rsa_keys_verify_by_every_algorithm_that_they_are_for() {
        use rsa::pkcs8::EncodePrivateKey;
        use rustls::SignatureScheme;
        let pem = rsa::PrivateKey::new(&mut rand::rng(), 2048).unwrap().to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).unwrap();
        let (signer, public) = keys::signer(pem.as_bytes()).unwrap();
        let set = parse_set(&json!({ "keys": [public.jwk] }));
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        for (name, scheme) in [
            ("RS256", SignatureScheme::RSA_PKCS1_SHA256),
            ("RS384", SignatureScheme::RSA_PKCS1_SHA384),
            ("RS512", SignatureScheme::RSA_PKCS1_SHA512),
            ("PS256", SignatureScheme::RSA_PSS_SHA256),
            ("PS384", SignatureScheme::RSA_PSS_SHA384),
            ("PS512", SignatureScheme::RSA_PSS_SHA512),
        ] {
            let signed_as = |alg: &str| {
                let signed = format!("{}.{}", encode(json!({ "alg": alg })), encode(json!({ "iss": "x" })));
                let made = signer.key.choose_scheme(&[scheme]).unwrap().sign(signed.as_bytes()).unwrap();
                format!("{signed}.{}", URL_SAFE_NO_PAD.encode(made))
            };
            assert!(set[0].signed(&jws::parse(&signed_as(name)).unwrap()), "{name}");
            for other in ["none", "HS256", "ES256", if name == "RS256" { "PS256" } else { "RS256" }] {
                assert!(!set[0].signed(&jws::parse(&signed_as(other)).unwrap()), "{name} as {other}");
            }
        }
    }

    #[test]
    fn no_letter_of_a_token_may_change() {
        let (signer, public) = keys::signer(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
        let token = jws::sign(&signer, &json!({ "iss": "x", "sub": "ann" })).unwrap();
        let set = parse_set(&json!({ "keys": [public.jwk] }));
        let is_good = |token: &str| jws::parse(token).is_some_and(|token| set.iter().any(|key| key.signed(&token)));
        assert!(is_good(&token));
        for at in 0..token.len() {
            for other in ["A", "z", "_", ".", "=", "\0", ""] {
                if &token[at..=at] != other {
                    let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
                    assert!(!is_good(&changed), "{changed}");
                }
            }
        }
    }

    #[test]
    fn keys_that_are_none_are_left_out() {
        for key in [
            json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }),
            json!({ "kty": "EC", "crv": "P-521", "x": "AA", "y": "AA" }),
            json!({ "kty": "RSA", "n": "", "e": "AQAB" }),
            json!({ "kty": "oct", "k": "AAAA" }),
            json!(1),
        ] {
            assert!(parse_set(&json!({ "keys": [key] })).is_empty(), "{key}");
        }
    }
}
