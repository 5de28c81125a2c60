//! The names of chains, which are upstream's: people and tools know them.

use std::fmt;
use std::net::SocketAddr;

use ring::digest::{SHA256, digest};

use crate::frontend::PortName;

pub const SERVICES: &str = "KUBE-SERVICES";
pub const EXTERNAL_SERVICES: &str = "KUBE-EXTERNAL-SERVICES";
pub const NODE_PORTS: &str = "KUBE-NODEPORTS";
pub const POSTROUTING: &str = "KUBE-POSTROUTING";
pub const MARK_MASQ: &str = "KUBE-MARK-MASQ";
pub const FORWARD: &str = "KUBE-FORWARD";
pub const PROXY_FIREWALL: &str = "KUBE-PROXY-FIREWALL";
pub const CANARY: &str = "KUBE-PROXY-CANARY";
/// The kubelet has this chain too, with the same rule in it.
pub const KUBELET_FIREWALL: &str = "KUBE-FIREWALL";

/// Prefixes of the chains that belong to one port of a Service, or to one of its endpoints.
const OF_SERVICES: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-"];

/// Whether the chain is one that some Service had.
pub fn is_of_service(name: &str) -> bool {
    OF_SERVICES.iter().any(|prefix| name.starts_with(prefix))
}

/// So many characters of the hash stand in a name; iptables allows 28 in all.
const HASH_CHARACTERS: usize = 16;

/// A hash as chains' names carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Hash([u8; HASH_CHARACTERS]);

/// The first characters of the SHA-256 in base 32. Ten bytes make sixteen characters.
fn hash(text: &str) -> Hash {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = digest(&SHA256, text.as_bytes());
    let mut out = [0; HASH_CHARACTERS];
    for (bytes, characters) in digest.as_ref().chunks_exact(5).zip(out.chunks_exact_mut(8)) {
        let bits = bytes.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for (place, character) in characters.iter_mut().enumerate() {
            *character = ALPHABET[(bits >> (35 - 5 * place) & 31) as usize];
        }
    }
    Hash(out)
}

/// The hash of a text, as names of both modes carry it.
pub fn hash_text(text: &str) -> String {
    String::from_utf8_lossy(&hash(text).0).into_owned()
}

/// A chain of one port of a Service, or of one of its endpoints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    prefix: &'static str,
    hash: Hash,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix)?;
        f.write_str(std::str::from_utf8(&self.hash.0).unwrap_or_default())
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The chains of one port of a Service.
#[derive(Clone, Debug)]
pub struct Chains {
    /// What the hashes of endpoints begin with.
    text: String,
    hash: Hash,
}

impl Chains {
    pub fn new(port: &PortName) -> Chains {
        let text = format!("{port}{}", port.protocol.lower());
        let hash = hash(&text);
        Chains { text, hash }
    }

    /// Leads to the endpoints for the traffic policy `Cluster`.
    pub fn cluster(&self) -> Chain {
        Chain { prefix: "KUBE-SVC-", hash: self.hash }
    }

    /// Leads to the endpoints for the traffic policy `Local`.
    pub fn local(&self) -> Chain {
        Chain { prefix: "KUBE-SVL-", hash: self.hash }
    }

    /// Lets those through to a load balancer's address who may use it.
    pub fn firewall(&self) -> Chain {
        Chain { prefix: "KUBE-FW-", hash: self.hash }
    }

    /// Takes in what comes from outside.
    pub fn external(&self) -> Chain {
        Chain { prefix: "KUBE-EXT-", hash: self.hash }
    }

    /// Leads to one endpoint.
    pub fn endpoint(&self, endpoint: SocketAddr) -> Chain {
        Chain { prefix: "KUBE-SEP-", hash: hash(&format!("{}{endpoint}", self.text)) }
    }
}

#[cfg(test)]
mod tests {
    use client::ObjectKey;

    use super::*;
    use crate::frontend::Protocol;

    #[test]
    fn names_are_those_of_the_reference() {
        let port = PortName { service: ObjectKey::new("ns1", "svc1"), port: "p80".to_owned(), protocol: Protocol::Tcp };
        let chains = Chains::new(&port);
        assert_eq!(chains.cluster().to_string(), "KUBE-SVC-XPGD46QRK7WJZT7O");
        assert_eq!(chains.external().to_string(), "KUBE-EXT-XPGD46QRK7WJZT7O");
        assert_eq!(chains.endpoint("10.180.0.1:80".parse().unwrap()).to_string(), "KUBE-SEP-SXIVWICOYRO3J4NJ");
        assert!(is_of_service("KUBE-FW-XPGD46QRK7WJZT7O") && !is_of_service(SERVICES));
    }
}
