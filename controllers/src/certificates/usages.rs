//! Usages of keys, as the API names them, and the extensions of a certificate that say them.

use super::der;

/// Bits of the extension for key usage.
const KEY_USAGES: [(&str, u16); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Purposes of the extension for extended key usage, in the order in which a certificate lists them.
const PURPOSES: [(&str, &[u32]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

/// What a certificate's key may be used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usages {
    /// Bits by number.
    pub key: u16,
    /// Object identifiers.
    pub purposes: Vec<&'static [u32]>,
}

impl Usages {
    /// Reads the API's words; the error lists those that mean nothing.
    pub fn parse(words: &[String]) -> Result<Usages, String> {
        let mut unknown: Vec<&str> = Vec::new();
        let mut usages = Usages::default();
        for word in words {
            if let Some((_, bit)) = KEY_USAGES.iter().find(|(name, _)| name == word) {
                usages.key |= 1 << bit;
            } else if !PURPOSES.iter().any(|(name, _)| name == word) {
                unknown.push(word);
            }
        }
        for (name, identifier) in PURPOSES {
            if words.iter().any(|word| word == name) && !usages.purposes.contains(&identifier) {
                usages.purposes.push(identifier);
            }
        }
        if unknown.is_empty() {
            return Ok(usages);
        }
        unknown.sort_unstable();
        Err(format!("unrecognized usage values: {}", super::listed(unknown.iter().map(|word| format!("{word:?}")))))
    }

    /// The content of the extension for extended key usage.
    pub fn purposes_der(&self) -> Vec<u8> {
        let identifiers: Vec<Vec<u8>> = self.purposes.iter().map(|arcs| der::object_identifier(arcs)).collect();
        der::value(der::SEQUENCE, &identifiers.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Usages, String> {
        Usages::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn words_become_bits_and_identifiers() {
        let usages = parse(&["client auth", "digital signature", "key encipherment", "server auth", "signing"]).unwrap();
        assert_eq!(usages.key, 0b101);
        assert_eq!(usages.purposes, [PURPOSES[1].1, PURPOSES[2].1]);
        assert_eq!(parse(&["s/mime", "email protection"]).unwrap().purposes.len(), 1);
    }

    #[test]
    fn words_that_mean_nothing_are_listed() {
        assert_eq!(parse(&["zzz", "client auth", "aaa"]).unwrap_err(), r#"unrecognized usage values: ["aaa" "zzz"]"#);
    }
}
