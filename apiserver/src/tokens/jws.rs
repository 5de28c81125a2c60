//! JSON Web Signatures in their compact form: `header.payload.signature`, each in URL-safe base64.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::{Value, json};

use super::keys::{Algorithm, PublicKey, Signer};
use crate::nist_p521;

/// Signs a payload.
pub fn sign(signer: &Signer, payload: &Value) -> Result<String, String> {
    let header = json!({ "alg": signer.algorithm.name(), "kid": signer.id });
    let mut token = format!("{}.{}", encode(header.to_string().as_bytes()), encode(payload.to_string().as_bytes()));
    let chosen = signer.key.choose_scheme(&[signer.algorithm.scheme()]).ok_or("the key does not sign this way")?;
    let mut signature = chosen.sign(token.as_bytes()).map_err(|e| e.to_string())?;
    if signer.algorithm.coordinate_bytes() > 0 {
        signature = fixed(&signature, signer.algorithm.coordinate_bytes()).ok_or("the signature is not of the form that was expected")?;
    }
    token.push('.');
    token.push_str(&encode(&signature));
    Ok(token)
}

/// A token that has been taken apart and believed in nothing yet.
pub struct Unverified<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: String,
    pub key_id: String,
    pub payload: Value,
}

/// Takes a token apart; `None` if it is no JWS of JSON objects.
pub fn parse(token: &str) -> Option<Unverified<'_>> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
    let payload: Value = serde_json::from_slice(&decode(payload)?).ok()?;
    let text = |name: &str| header.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let (algorithm, key_id) = (text("alg"), text("kid"));
    payload.is_object().then_some(())?;
    // Extensions that must be understood are not.
    header.get("crit").is_none().then_some(())?;
    Some(Unverified { signed, signature: decode(signature)?, algorithm, key_id, payload })
}

impl Unverified<'_> {
    /// What the token says that it was signed by.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// What was signed, and the signature.
    pub fn signed(&self) -> (&[u8], &[u8]) {
        (self.signed.as_bytes(), &self.signature)
    }

    /// Whether the key made the signature, by the key's own algorithm.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match key.algorithm {
            Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &ECDSA_P384_SHA384_FIXED,
            Algorithm::Es512 => {
                let is_named = self.algorithm == key.algorithm.name();
                return is_named && nist_p521::made_fixed(&key.key, self.signed.as_bytes(), &self.signature);
            }
        };
        self.algorithm == key.algorithm.name()
            && UnparsedPublicKey::new(algorithm, &key.key).verify(self.signed.as_bytes(), &self.signature).is_ok()
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// The two numbers of an ECDSA signature in DER (a sequence of two integers), each padded to `width` bytes. The numbers' lengths
/// fit one byte for the curves that are supported, the sequence's takes two on P-521.
fn fixed(der: &[u8], width: usize) -> Option<Vec<u8>> {
    let rest = der.strip_prefix(&[0x30])?;
    let (_, body) = rest.strip_prefix(&[0x81]).unwrap_or(rest).split_first()?;
    let mut out = Vec::with_capacity(2 * width);
    let mut rest = body;
    for _ in 0..2 {
        let (length, after) = rest.strip_prefix(&[0x02])?.split_first()?;
        let number = after.get(..usize::from(*length))?;
        rest = &after[usize::from(*length)..];
        let significant = &number[number.iter().take_while(|b| **b == 0).count()..];
        out.resize(out.len() + width.checked_sub(significant.len())?, 0);
        out.extend_from_slice(significant);
    }
    rest.is_empty().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::keys;

    #[test]
    fn what_a_key_signs_it_verifies_and_nothing_else() {
        let made = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem();
        let widest = nist_p521::tests::PKCS8.to_owned();
        for pem in [made(&rcgen::PKCS_ECDSA_P256_SHA256), made(&rcgen::PKCS_ECDSA_P384_SHA384), widest] {
            let (signer, public) = keys::signer(pem.as_bytes()).unwrap();
            let token = sign(&signer, &json!({ "iss": "x" })).unwrap();
            let parsed = parse(&token).unwrap();
            assert_eq!((parsed.key_id.as_str(), &parsed.payload["iss"]), (public.id.as_str(), &json!("x")));
            assert!(parsed.is_signed_by(&public));
            let (head, signature) = token.rsplit_once('.').unwrap();
            let (header, _) = head.split_once('.').unwrap();
            let forged = format!("{header}.{}.{signature}", encode(br#"{"iss":"y"}"#));
            assert!(!parse(&forged).unwrap().is_signed_by(&public));
        }
    }

    #[test]
    fn texts_that_are_no_tokens_are_none() {
        for text in ["", "a", "a.b", "a.b.c", "e30.W10.", "eyJhbGciOiJub25lIn0..", "....", "é.é.é"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
