//! Bootstrap tokens: an id that may be known, and a secret that may not; and the Secret that a cluster knows one by.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use ring::rand::SecureRandom;

pub const TYPE: &str = "bootstrap.kubernetes.io/token";
pub const NAMESPACE: &str = "kube-system";
/// Whom tokens of joining nodes stand for; what kubeadm's do.
pub const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
const PREFIX: &str = "bootstrap-token-";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// `abcdef.0123456789abcdef`
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub id: String,
    pub secret: String,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

/// The secret stays out of logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.…", self.id)
    }
}

fn is_made_of(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Token, String> {
        match text.split_once('.') {
            Some((id, secret)) if is_made_of(id, ID_LENGTH) && is_made_of(secret, SECRET_LENGTH) => {
                Ok(Token { id: id.to_owned(), secret: secret.to_owned() })
            }
            _ => Err(r#"it is not of the form "[a-z0-9]{6}.[a-z0-9]{16}""#.to_owned()),
        }
    }
}

/// Whether a text can be the first half of a token.
pub fn is_id(text: &str) -> bool {
    is_made_of(text, ID_LENGTH)
}

impl Token {
    /// A new one, of what the random source gives.
    pub fn generate(random: &dyn SecureRandom) -> anyhow::Result<Token> {
        let text = letters(random, ID_LENGTH + SECRET_LENGTH)?;
        let (id, secret) = text.split_at(ID_LENGTH);
        Ok(Token { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// What the cluster is told of it.
    pub fn to_secret(&self, expires: Option<Timestamp>, description: &str) -> Secret {
        let mut data = BTreeMap::from([
            ("token-id", self.id.clone()),
            ("token-secret", self.secret.clone()),
            ("usage-bootstrap-authentication", "true".to_owned()),
            ("usage-bootstrap-signing", "true".to_owned()),
            ("auth-extra-groups", GROUP.to_owned()),
        ]);
        if let Some(expires) = expires {
            data.insert("expiration", expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
        if !description.is_empty() {
            data.insert("description", description.to_owned());
        }
        Secret {
            metadata: ObjectMeta { name: Some(secret_name(&self.id)), namespace: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() },
            type_: Some(TYPE.to_owned()),
            data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).collect()),
            ..Secret::default()
        }
    }
}

/// What the Secret of a token is called.
pub fn secret_name(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// Letters of the alphabet, each as likely as any other.
fn letters(random: &dyn SecureRandom, count: usize) -> anyhow::Result<String> {
    // Bytes from here on would make the first letters likelier.
    let fair = u8::try_from(256 / ALPHABET.len() * ALPHABET.len()).unwrap_or(u8::MAX);
    let mut text = String::with_capacity(count);
    let mut bytes = [0; 64];
    while text.len() < count {
        random.fill(&mut bytes).map_err(|_| anyhow::anyhow!("the machine gives no random numbers"))?;
        let chosen = bytes.iter().filter(|byte| **byte < fair).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
        text.extend(chosen.take(count - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;

    #[test]
    fn a_token_is_two_words_of_small_letters_and_digits() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        assert_eq!((token.id.as_str(), token.secret.as_str()), ("abcdef", "0123456789abcdef"));
        assert_eq!(token.to_string(), "abcdef.0123456789abcdef");
        assert_eq!(format!("{token:?}"), "abcdef.…");
        for bad in
            ["", "abcdef", "abcde.0123456789abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef0", "abcdef.0123456789abcde!"]
        {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }

    #[test]
    fn new_tokens_differ_and_are_well_formed() {
        let random = SystemRandom::new();
        let (first, second) = (Token::generate(&random).unwrap(), Token::generate(&random).unwrap());
        assert_ne!(first, second);
        assert_eq!(first.to_string().parse::<Token>().unwrap(), first);
    }

    #[test]
    fn the_secret_says_what_the_token_is_for_and_until_when() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        let secret = token.to_secret(Some("2026-01-02T03:04:05.6Z".parse().unwrap()), "");
        let data: BTreeMap<&str, &str> =
            secret.data.iter().flatten().map(|(key, value)| (key.as_str(), std::str::from_utf8(&value.0).unwrap())).collect();
        let expected = BTreeMap::from([
            ("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token"),
            ("expiration", "2026-01-02T03:04:05Z"),
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("usage-bootstrap-signing", "true"),
        ]);
        assert_eq!(data, expected);
        assert_eq!(secret.metadata.name.as_deref(), Some("bootstrap-token-abcdef"));
        assert!(!token.to_secret(None, "").data.unwrap().contains_key("expiration"));
    }
}
