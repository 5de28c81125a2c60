//! The ciphers of EncryptionConfiguration with static keys, in upstream's formats.
//!
//! Pure but for the randomness of nonces. What is read here may have been written by upstream, and the other way round.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};
use ring::rand::{SecureRandom, SystemRandom};

type Aes192Gcm = AesGcm<Aes192, U12>;

const BLOCK: usize = 16;
const GCM_NONCE: usize = 12;
const SECRETBOX_NONCE: usize = 24;
const SECRETBOX_OVERHEAD: usize = 16;
/// Of the extended nonce, the derived key and the least seed.
const EXTENDED: usize = 32;

const SHORT: &str = "the stored data was shorter than the required size";
/// What Go says of a tag that does not fit.
const NOT_AUTHENTIC: &str = "cipher: message authentication failed";

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system has no randomness".to_owned())?;
    Ok(bytes)
}

/// AES in Galois counter mode, which knows the key that a value lies at.
pub enum Gcm {
    Aes128(Box<Aes128Gcm>),
    Aes192(Box<Aes192Gcm>),
    Aes256(Box<Aes256Gcm>),
}

impl Gcm {
    pub fn new(key: &[u8]) -> Result<Gcm, String> {
        let wrong = |_| wrong_key_size(key);
        Ok(match key.len() {
            16 => Gcm::Aes128(Box::new(Aes128Gcm::new_from_slice(key).map_err(wrong)?)),
            24 => Gcm::Aes192(Box::new(Aes192Gcm::new_from_slice(key).map_err(wrong)?)),
            _ => Gcm::Aes256(Box::new(Aes256Gcm::new_from_slice(key).map_err(wrong)?)),
        })
    }

    /// The nonce, the text and the tag.
    pub fn seal(&self, plain: &[u8], at: &[u8]) -> Result<Vec<u8>, String> {
        let nonce: [u8; GCM_NONCE] = random()?;
        let payload = Payload { msg: plain, aad: at };
        let sealed = match self {
            Gcm::Aes128(cipher) => cipher.encrypt(&nonce.into(), payload),
            Gcm::Aes192(cipher) => cipher.encrypt(&nonce.into(), payload),
            Gcm::Aes256(cipher) => cipher.encrypt(&nonce.into(), payload),
        };
        let sealed = sealed.map_err(|_| "the value is too large to be encrypted".to_owned())?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    pub fn open(&self, sealed: &[u8], at: &[u8]) -> Result<Vec<u8>, String> {
        let (nonce, msg) = sealed.split_first_chunk::<GCM_NONCE>().ok_or(SHORT)?;
        let payload = Payload { msg, aad: at };
        let opened = match self {
            Gcm::Aes128(cipher) => cipher.decrypt(&(*nonce).into(), payload),
            Gcm::Aes192(cipher) => cipher.decrypt(&(*nonce).into(), payload),
            Gcm::Aes256(cipher) => cipher.decrypt(&(*nonce).into(), payload),
        };
        opened.map_err(|_| NOT_AUTHENTIC.to_owned())
    }
}

fn wrong_key_size(key: &[u8]) -> String {
    format!("crypto/aes: invalid key size {}", key.len())
}

/// AES in cipher block chaining, which authenticates nothing.
pub struct Cbc {
    key: Vec<u8>,
}

impl Cbc {
    pub fn new(key: Vec<u8>) -> Result<Cbc, String> {
        match key.len() {
            16 | 24 | 32 => Ok(Cbc { key }),
            _ => Err(wrong_key_size(&key)),
        }
    }

    /// The initialization vector and the padded text.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, String> {
        let iv: [u8; BLOCK] = random()?;
        let wrong = |_| wrong_key_size(&self.key);
        let sealed = match self.key.len() {
            16 => cbc::Encryptor::<Aes128>::new_from_slices(&self.key, &iv).map_err(wrong)?.encrypt_padded_vec::<Pkcs7>(plain),
            24 => cbc::Encryptor::<Aes192>::new_from_slices(&self.key, &iv).map_err(wrong)?.encrypt_padded_vec::<Pkcs7>(plain),
            _ => cbc::Encryptor::<Aes256>::new_from_slices(&self.key, &iv).map_err(wrong)?.encrypt_padded_vec::<Pkcs7>(plain),
        };
        Ok([iv.as_slice(), &sealed].concat())
    }

    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let (iv, text) = sealed.split_first_chunk::<BLOCK>().ok_or(SHORT)?;
        if !text.len().is_multiple_of(BLOCK) {
            return Err("the stored data is not a multiple of the block size".to_owned());
        }
        let wrong = |_| wrong_key_size(&self.key);
        let opened = match self.key.len() {
            16 => cbc::Decryptor::<Aes128>::new_from_slices(&self.key, iv).map_err(wrong)?.decrypt_padded_vec::<Pkcs7>(text),
            24 => cbc::Decryptor::<Aes192>::new_from_slices(&self.key, iv).map_err(wrong)?.decrypt_padded_vec::<Pkcs7>(text),
            _ => cbc::Decryptor::<Aes256>::new_from_slices(&self.key, iv).map_err(wrong)?.decrypt_padded_vec::<Pkcs7>(text),
        };
        opened.map_err(|_| "invalid padding on input".to_owned())
    }
}

/// XSalsa20 with Poly1305.
pub struct Secretbox(XSalsa20Poly1305);

impl Secretbox {
    pub fn new(key: &[u8]) -> Result<Secretbox, String> {
        let cipher = XSalsa20Poly1305::new_from_slice(key);
        Ok(Secretbox(cipher.map_err(|_| format!("expected key size 32 for secretbox provider, got {}", key.len()))?))
    }

    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, String> {
        let nonce: [u8; SECRETBOX_NONCE] = random()?;
        let sealed = self.0.encrypt(&nonce.into(), plain).map_err(|_| "the value is too large to be encrypted".to_owned())?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let (nonce, text) = sealed.split_first_chunk::<SECRETBOX_NONCE>().ok_or(SHORT)?;
        if text.len() < SECRETBOX_OVERHEAD {
            return Err(SHORT.to_owned());
        }
        // Upstream's words for a wrong key.
        self.0.decrypt(&(*nonce).into(), text).map_err(|_| "output array was not large enough for encryption".to_owned())
    }
}

/// AES-GCM with a key for each value, derived from a seed and 32 random bytes that stand before the value.
pub struct Seeded {
    seed: Prk,
}

impl Seeded {
    pub fn new(seed: &[u8]) -> Result<Seeded, String> {
        if seed.len() < EXTENDED {
            return Err(format!("invalid seed length {} used for key generation", seed.len()));
        }
        Ok(Seeded { seed: Prk::new_less_safe(HKDF_SHA256, seed) })
    }

    fn derived(&self, info: &[u8; EXTENDED]) -> Result<Gcm, String> {
        let failed = |_| "failed to KDF expand seed with info".to_owned();
        let mut key = [0; EXTENDED];
        let info = [info.as_slice()];
        self.seed.expand(&info, KeySize).and_then(|stream| stream.fill(&mut key)).map_err(failed)?;
        Gcm::new(&key)
    }

    pub fn seal(&self, plain: &[u8], at: &[u8]) -> Result<Vec<u8>, String> {
        let info: [u8; EXTENDED] = random()?;
        Ok([info.as_slice(), &self.derived(&info)?.seal(plain, at)?].concat())
    }

    pub fn open(&self, sealed: &[u8], at: &[u8]) -> Result<Vec<u8>, String> {
        let (info, sealed) = sealed.split_first_chunk::<EXTENDED>().ok_or(SHORT)?;
        self.derived(info)?.open(sealed, at)
    }
}

struct KeySize;

impl KeyType for KeySize {
    fn len(&self) -> usize {
        EXTENDED
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn what_is_sealed_can_be_opened_by_its_key_alone() {
        let plain = b"{\"kind\":\"Secret\"}";
        for size in [16, 24, 32] {
            let (gcm, other) = (Gcm::new(&vec![1; size]).unwrap(), Gcm::new(&vec![2; size]).unwrap());
            let sealed = gcm.seal(plain, b"/registry/secrets/a/b").unwrap();
            assert_eq!(sealed.len(), plain.len() + 28);
            assert_eq!(gcm.open(&sealed, b"/registry/secrets/a/b").unwrap(), plain);
            assert_eq!(gcm.open(&sealed, b"/registry/secrets/a/c").unwrap_err(), NOT_AUTHENTIC);
            assert_eq!(other.open(&sealed, b"/registry/secrets/a/b").unwrap_err(), NOT_AUTHENTIC);
            let cbc = Cbc::new(vec![1; size]).unwrap();
            let sealed = cbc.seal(plain).unwrap();
            assert_eq!(sealed.len(), 48);
            assert_eq!(cbc.open(&sealed).unwrap(), plain);
            assert_ne!(Cbc::new(vec![2; size]).unwrap().open(&sealed).ok().as_deref(), Some(plain.as_slice()));
        }
        let secretbox = Secretbox::new(&[1; 32]).unwrap();
        let sealed = secretbox.seal(plain).unwrap();
        assert_eq!(secretbox.open(&sealed).unwrap(), plain);
        assert!(Secretbox::new(&[2; 32]).unwrap().open(&sealed).is_err());
        let seeded = Seeded::new(&[1; 32]).unwrap();
        let sealed = seeded.seal(plain, b"k").unwrap();
        assert_eq!(sealed.len(), plain.len() + 28 + 32);
        assert_eq!(seeded.open(&sealed, b"k").unwrap(), plain);
        assert!(seeded.open(&sealed, b"l").is_err());
        assert!(Seeded::new(&[1; 31]).is_err() && Gcm::new(&[1; 5]).is_err() && Cbc::new(vec![1; 5]).is_err());
    }

    /// Made by upstream's transformers with the key 0, 1, 2, …, 31, of "plain text" at /registry/secrets/a/b.
    #[test]
    fn what_upstream_has_sealed_can_be_opened() {
        let key: Vec<u8> = (0..32).collect();
        let at = b"/registry/secrets/a/b";
        let sealed = |text: &str| STANDARD.decode(text).unwrap();
        let gcm = sealed("uan3ASYGzv32rqYKwKofqNJPQHnaYoHiTN7gWoLXXSaBjq8Iprw=");
        assert_eq!(Gcm::new(&key).unwrap().open(&gcm, at).unwrap(), b"plain text");
        let cbc = sealed("3qYMOfK9EliF9A2mWdGdynk8bRhc+/bA+QuyeIB0cbg=");
        assert_eq!(Cbc::new(key.clone()).unwrap().open(&cbc).unwrap(), b"plain text");
        let secretbox = sealed("ew7vk/BeZFiIX823lsifUAlGQinW5Icjh7if6JSooStIeWu7gAYUgBkjPNo5g3if43w=");
        assert_eq!(Secretbox::new(&key).unwrap().open(&secretbox).unwrap(), b"plain text");
        let seeded = sealed("zSZ8CHFqjQFqPQ7uB9vKNZSjJs9liaP4s/44M5fadWObzWkdkebPo1SAFopEfziHAFgO22ZtlC1V5AFHsYzDdjUPgKrl6Q==");
        assert_eq!(Seeded::new(&key).unwrap().open(&seeded, at).unwrap(), b"plain text");
    }
}
