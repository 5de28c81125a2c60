//! What cluster DNS is told: where to listen, which domain is the cluster's, and who answers for the rest of the world.

use std::net::SocketAddr;
use std::path::PathBuf;

/// How long clients may keep an answer about the cluster, in seconds, unless they are told otherwise.
const DEFAULT_TTL_S: u32 = 5;

/// The configuration of [`crate::run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where questions are taken, over UDP and TCP both.
    pub bind: Vec<SocketAddr>,
    /// The cluster's domain, without the dot at its end: `cluster.local`.
    pub domain: String,
    /// How long answers about the cluster may be kept, in seconds.
    pub ttl_s: u32,
    /// Who answers for all other names; if empty, they are read from `resolv_conf`.
    pub upstream: Vec<SocketAddr>,
    /// Where `nameserver` lines are read from when `upstream` is empty. A file without any, or no file, means that
    /// names outside of the cluster are refused.
    pub resolv_conf: PathBuf,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            bind: vec![SocketAddr::from(([0, 0, 0, 0], 53))],
            domain: "cluster.local".to_owned(),
            ttl_s: DEFAULT_TTL_S,
            upstream: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}
