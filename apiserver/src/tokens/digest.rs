//! Tokens known again without being kept: a keyed digest of a token and of whom it was asked for.
//!
//! The key is made at the start and never leaves the process, so that a digest tells nothing and none can be made elsewhere.

pub type Digest = [u8; 32];

pub struct Digester(ring::hmac::Key);

impl Default for Digester {
    fn default() -> Digester {
        Digester(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()))
    }
}

impl Digester {
    pub fn of(&self, token: &str, audiences: &[String]) -> Digest {
        let mut context = ring::hmac::Context::with_key(&self.0);
        for text in std::iter::once(token).chain(audiences.iter().map(String::as_str)) {
            // With the lengths, no two lists of texts are the same bytes.
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let mut digest = Digest::default();
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_tokens_and_audiences_apart() {
        let digester = Digester::default();
        let list = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        assert_eq!(digester.of("t", &list(&["a"])), digester.of("t", &list(&["a"])));
        assert_ne!(digester.of("t", &list(&["ab"])), digester.of("t", &list(&["a", "b"])));
        assert_ne!(digester.of("ta", &[]), digester.of("t", &list(&["a"])));
        assert_ne!(digester.of("t", &[]), Digester::default().of("t", &[]), "another process, another digest");
    }
}
