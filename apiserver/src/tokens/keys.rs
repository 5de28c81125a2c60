//! The key that signs tokens and the keys that verify them: read from PEM files, or generated once and kept, or those of another program.
//!
//! RSA (RS256) and the curves P-256 (ES256), P-384 (ES384) and P-521 (ES512). Private keys never leave this file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::SigningKey;
use serde_json::{Value, json};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey as Parsed;

use super::external::External;
use super::jws;
use crate::nist_p521::{self, any_supported_type};
use crate::pki;

/// Bits of a generated key, as upstream's tools make them.
const GENERATED_BITS: usize = 2048;
/// How long relying parties may keep keys that never change.
const UNCHANGING: Duration = Duration::from_secs(3600);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Key { path: PathBuf, reason: String },
}

/// A signature algorithm of JOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    pub const ALL: [Algorithm; 4] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384, Algorithm::Es512];

    /// As `alg` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::Es512 => "ES512",
        }
    }

    /// Bytes of each of the two numbers in an ECDSA signature; 0 for RSA.
    pub const fn coordinate_bytes(self) -> usize {
        match self {
            Algorithm::Rs256 => 0,
            Algorithm::Es256 => 32,
            Algorithm::Es384 => 48,
            Algorithm::Es512 => nist_p521::BYTES,
        }
    }

    pub(super) const fn scheme(self) -> SignatureScheme {
        match self {
            Algorithm::Rs256 => SignatureScheme::RSA_PKCS1_SHA256,
            Algorithm::Es256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Algorithm::Es384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            Algorithm::Es512 => SignatureScheme::ECDSA_NISTP521_SHA512,
        }
    }
}

/// The key that signs.
pub struct Signer {
    pub(crate) key: Arc<dyn SigningKey>,
    pub algorithm: Algorithm,
    /// `kid`: the SHA-256 of the public key, in URL-safe base64.
    pub id: String,
}

/// A key that verifies.
#[derive(Clone, Debug)]
pub struct PublicKey {
    pub id: String,
    pub algorithm: Algorithm,
    /// The PKCS #1 public key, or the uncompressed point.
    pub(super) key: Box<[u8]>,
    /// The key as a JSON Web Key.
    pub jwk: Value,
    /// It verifies what was signed before; relying parties are not told of it.
    pub is_unpublished: bool,
}

impl PublicKey {
    /// The same key under another id.
    pub fn named(mut self, id: &str) -> PublicKey {
        self.jwk["kid"] = json!(id);
        PublicKey { id: id.to_owned(), ..self }
    }
}

/// All keys.
pub struct KeySet {
    /// Nothing where another program signs.
    signer: Option<Signer>,
    pub public: Vec<PublicKey>,
    /// Which set this is of those that there have been. What another set has verified is no matter of this one.
    pub generation: u64,
    /// When other keys will be looked for, if they can change.
    refresh_at: Option<Instant>,
}

/// The keys: this server's own, or the expectation of them while one is being generated, or those of another program.
#[derive(Clone)]
pub enum Keys {
    Own(watch::Receiver<Option<Arc<KeySet>>>),
    External(Arc<External>),
}

impl Keys {
    /// The configured keys; without a configured signing key `sa.key` and `sa.pub` in `pki_dir`. Where those are missing they are
    /// generated on a thread of their own, so that nothing but the first token waits for them.
    pub fn open(signing: Option<&Path>, verifying: &[PathBuf], pki_dir: &Path) -> Result<Keys, Error> {
        let mut public = Vec::new();
        for path in verifying {
            public.extend(read_public(path)?);
        }
        let own = pki_dir.join("sa.key");
        let path = signing.unwrap_or(&own);
        if signing.is_some() || path.exists() {
            let set = KeySet::new(signer(&read(path)?).map_err(|reason| Error::Key { path: path.to_owned(), reason })?, public);
            return Ok(Keys::Own(watch::channel(Some(Arc::new(set))).1));
        }
        let (sender, receiver) = watch::channel(None);
        let public_path = pki_dir.join("sa.pub");
        std::thread::spawn(move || match generate(&own, &public_path) {
            Ok(signer) => {
                let set = KeySet::new(signer, public);
                tracing::debug!(path = %own.display(), "generated the key that signs service account tokens");
                sender.send_replace(Some(Arc::new(set)));
            }
            Err(error) => tracing::error!(%error, "no key to sign service account tokens with"),
        });
        Ok(Keys::Own(receiver))
    }

    /// The keys, if they are there already.
    pub fn now(&self) -> Option<Arc<KeySet>> {
        match self {
            Keys::Own(keys) => keys.borrow().clone(),
            Keys::External(external) => Some(external.keys()),
        }
    }

    /// The keys, as soon as they are there. `None` if they could not be made.
    pub async fn ready(&self) -> Option<Arc<KeySet>> {
        match self {
            Keys::Own(keys) => keys.clone().wait_for(Option::is_some).await.ok().and_then(|set| set.clone()),
            Keys::External(external) => Some(external.keys()),
        }
    }

    /// A token with this payload.
    pub async fn sign(&self, payload: &Value) -> Result<String, String> {
        if let Keys::External(external) = self {
            return external.sign(payload).await;
        }
        let keys = self.ready().await;
        let signer = keys.as_ref().and_then(|keys| keys.signer.as_ref()).ok_or("there is no signing key")?;
        jws::sign(signer, payload)
    }
}

impl KeySet {
    fn new((signer, own): (Signer, PublicKey), mut public: Vec<PublicKey>) -> KeySet {
        if !public.iter().any(|key| key.id == own.id) {
            public.insert(0, own);
        }
        KeySet { signer: Some(signer), public, generation: 0, refresh_at: None }
    }

    /// The keys that another program has told.
    pub(super) fn external(public: Vec<PublicKey>, generation: u64, refresh_at: Instant) -> KeySet {
        KeySet { signer: None, public, generation, refresh_at: Some(refresh_at) }
    }

    /// How long nobody needs to ask for the keys again.
    pub fn fresh_for(&self) -> Duration {
        self.refresh_at.map_or(UNCHANGING, |at| at.saturating_duration_since(Instant::now()))
    }

    /// The keys that relying parties are told of.
    pub fn published(&self) -> impl Iterator<Item = &PublicKey> {
        self.public.iter().filter(|key| !key.is_unpublished)
    }

    /// The keys that a token with this `kid` may be signed with; all of them for a token without one.
    pub fn candidates<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a PublicKey> {
        self.public.iter().filter(move |key| id.is_empty() || key.id == id)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn generate(private_path: &Path, public_path: &Path) -> Result<(Signer, PublicKey), Error> {
    let failed = |reason: String| Error::Key { path: private_path.to_owned(), reason };
    let key = rsa::PrivateKey::new(&mut rand::rng(), GENERATED_BITS).map_err(|e| failed(e.to_string()))?;
    let private = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| failed(e.to_string()))?;
    let public = key.to_public_key().to_public_key_pem(LineEnding::LF).map_err(|e| failed(e.to_string()))?;
    let made = signer(private.as_bytes()).map_err(failed)?;
    pki::write_file(public_path, &public, false).map_err(|e| failed(e.to_string()))?;
    pki::write_file(private_path, &private, true).map_err(|e| failed(e.to_string()))?;
    Ok(made)
}

/// The signer of a PEM private key (PKCS #8, PKCS #1 or SEC 1), with its public half.
pub(crate) fn signer(pem: &[u8]) -> Result<(Signer, PublicKey), String> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|e| e.to_string())?;
    let key = any_supported_type(&der).map_err(|e| e.to_string())?;
    let spki = key.public_key().ok_or("the key does not tell its public half")?;
    let public = public_key(&spki)?;
    if key.choose_scheme(&[public.algorithm.scheme()]).is_none() {
        return Err(format!("the key cannot sign {}", public.algorithm.name()));
    }
    Ok((Signer { key, algorithm: public.algorithm, id: public.id.clone() }, public))
}

/// The public keys of a PEM file that holds public keys, certificates or a private key.
fn read_public(path: &Path) -> Result<Vec<PublicKey>, Error> {
    let failed = |reason: String| Error::Key { path: path.to_owned(), reason };
    let pem = read(path)?;
    let mut found = Vec::new();
    for spki in SubjectPublicKeyInfoDer::pem_slice_iter(&pem) {
        found.push(public_key(&spki.map_err(|e| failed(e.to_string()))?).map_err(failed)?);
    }
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| failed(e.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|e| failed(e.to_string()))?;
        found.push(public_key(parsed.public_key().raw).map_err(failed)?);
    }
    if found.is_empty() {
        found.push(signer(&pem).map_err(failed)?.1);
    }
    Ok(found)
}

/// A key of a SubjectPublicKeyInfo.
pub(super) fn public_key(spki: &[u8]) -> Result<PublicKey, String> {
    let (_, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|e| e.to_string())?;
    let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, spki));
    let key: Box<[u8]> = info.subject_public_key.data.as_ref().into();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (algorithm, jwk) = match info.parsed().map_err(|e| e.to_string())? {
        Parsed::RSA(rsa) => {
            let (n, e) = (encode(unsigned(rsa.modulus)), encode(unsigned(rsa.exponent)));
            (Algorithm::Rs256, json!({ "use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": n, "e": e }))
        }
        Parsed::EC(_) => {
            let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            let (algorithm, curve) = match curve.map(|oid| oid.to_id_string()).unwrap_or_default().as_str() {
                "1.2.840.10045.3.1.7" => (Algorithm::Es256, "P-256"),
                "1.3.132.0.34" => (Algorithm::Es384, "P-384"),
                "1.3.132.0.35" => (Algorithm::Es512, "P-521"),
                other => return Err(format!("the curve {other} is not supported, P-256, P-384 and P-521 are")),
            };
            let coordinates =
                key.get(1..).filter(|c| c.len() == 2 * algorithm.coordinate_bytes()).ok_or("the point is not in its uncompressed form")?;
            let (x, y) = coordinates.split_at(algorithm.coordinate_bytes());
            let (x, y) = (encode(x), encode(y));
            (algorithm, json!({ "use": "sig", "kty": "EC", "kid": id, "crv": curve, "alg": algorithm.name(), "x": x, "y": y }))
        }
        _ => return Err("only RSA and EC keys are supported".to_owned()),
    };
    Ok(PublicKey { id, algorithm, key, jwk, is_unpublished: false })
}

/// Without the zero that keeps a DER integer positive.
fn unsigned(bytes: &[u8]) -> &[u8] {
    match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    }
}
