//! Who the kubelet is to a registry: the pull secrets of a pod, what the node's own docker configuration says, and what plugins give.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Object;
use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};

use crate::cri::v1::AuthConfig;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

/// An object of the cluster that credentials are of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Coordinates {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

/// Whose credentials are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The node's, so that all its pods may have what they open.
    Node,
    Secret(Coordinates),
    /// Given by a plugin for a token of this account.
    ServiceAccount(Coordinates),
}

/// What a registry is shown, and whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    pub auth: AuthConfig,
    pub source: Source,
}

impl Credential {
    /// What stands for the credentials where they are not to be read: as upstream has it, so that either kubelet knows the other's.
    pub fn hash(&self) -> String {
        let fields = [("username", &self.auth.username), ("password", &self.auth.password)];
        let fields: serde_json::Map<String, serde_json::Value> =
            fields.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (key.to_owned(), value.clone().into())).collect();
        let text = serde_json::Value::Object(fields).to_string();
        // Go escapes what means something in HTML.
        let text = text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Credentials by the registry (and path) that they are for.
#[derive(Clone, Default)]
pub struct Keyring {
    /// The longest place first.
    entries: Vec<(Place, Credential)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    host: String,
    path: String,
}

impl Place {
    /// From a key such as `https://registry.example.com/v1/`.
    fn parse(key: &str) -> Place {
        let bare = key.trim_start_matches("https://").trim_start_matches("http://");
        let (host, path) = bare.split_once('/').map_or((bare, ""), |(host, path)| (host, path));
        let path = path.trim_end_matches('/');
        // The versions of the protocol are no part of an image's name.
        let path = if matches!(path, "v1" | "v2") { "" } else { path };
        let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
        Place { host: host.to_owned(), path: path.to_owned() }
    }

    fn holds(&self, repository: &str) -> bool {
        let (host, path) = repository.split_once('/').unwrap_or((repository, ""));
        let below = |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        host_matches(&self.host, host) && (self.path.is_empty() || below(&self.path))
    }

    fn length(&self) -> usize {
        self.host.len() + self.path.len()
    }
}

/// Whether an image's repository is one that a pattern of a plugin's configuration means: the host part by part, the path by its beginning.
pub fn url_matches(pattern: &str, repository: &str) -> bool {
    let bare = pattern.trim_start_matches("https://").trim_start_matches("http://");
    let (pattern_host, pattern_path) = bare.split_once('/').unwrap_or((bare, ""));
    let (host, path) = repository.split_once('/').unwrap_or((repository, ""));
    host_matches(pattern_host, host) && path.starts_with(pattern_path)
}

/// Part by part, where `*` stands for any characters of one part.
fn host_matches(pattern: &str, host: &str) -> bool {
    let port = |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_owned());
    if port(pattern) != port(host) {
        return false;
    }
    let parts = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (pattern, host) = (parts(pattern), parts(host));
    pattern.len() == host.len() && pattern.iter().zip(&host).all(|(pattern, part)| glob(pattern, part))
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => {
            let Some(after) = text.strip_prefix(start) else { return false };
            (0..=after.len()).any(|at| after.is_char_boundary(at) && glob(rest, &after[at..]))
        }
    }
}

impl Keyring {
    /// What these secrets say; those that are no docker configuration say nothing.
    pub fn from_secrets<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Keyring {
        let mut keyring = Keyring::default();
        for secret in secrets {
            let Some(data) = &secret.data else { continue };
            let of = |key: &str| data.get(key).map(|bytes| bytes.0.as_slice());
            let source = Source::Secret(Coordinates {
                uid: secret.uid().to_owned(),
                namespace: secret.namespace().to_owned(),
                name: secret.name().to_owned(),
            });
            match secret.type_.as_deref() {
                Some("kubernetes.io/dockerconfigjson") => {
                    let config = of(".dockerconfigjson").and_then(|json| serde_json::from_slice::<DockerConfig>(json).ok());
                    keyring.add(config.map(|config| config.auths).unwrap_or_default(), &source);
                }
                Some("kubernetes.io/dockercfg") => {
                    let config = of(".dockercfg").and_then(|json| serde_json::from_slice(json).ok());
                    keyring.add(config.unwrap_or_default(), &source);
                }
                _ => {}
            }
        }
        keyring
    }

    /// What the node's own files say, in the directories where docker's configuration is looked for.
    pub async fn of_node(directories: &[&Path]) -> Keyring {
        let mut keyring = Keyring::default();
        for directory in directories {
            let Ok(json) = tokio::fs::read(directory.join("config.json")).await else { continue };
            match serde_json::from_slice::<DockerConfig>(&json) {
                Ok(config) => keyring.add(config.auths, &Source::Node),
                Err(error) => tracing::warn!(directory = %directory.display(), %error, "config.json is no docker configuration"),
            }
        }
        keyring
    }

    /// Adds a name and password for a registry (and path), as a plugin gives them.
    pub fn add_pair(&mut self, key: &str, username: String, password: String, source: Source) {
        let auth = AuthConfig { username, password, ..AuthConfig::default() };
        self.entries.push((Place::parse(key), Credential { auth, source }));
        self.entries.sort_by_key(|(place, _)| std::cmp::Reverse(place.length()));
    }

    fn add(&mut self, auths: BTreeMap<String, Entry>, source: &Source) {
        for (key, entry) in auths {
            let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.and_then(|text| text.split_once(':').map(|(user, word)| (user.to_owned(), word.to_owned())));
            let (username, password) = pair.unwrap_or((entry.username, entry.password));
            let auth = AuthConfig { username, password, identity_token: entry.identitytoken, ..AuthConfig::default() };
            self.entries.push((Place::parse(&key), Credential { auth, source: source.clone() }));
        }
        self.entries.sort_by_key(|(place, _)| std::cmp::Reverse(place.length()));
    }

    /// What may be tried to pull from a repository, the most specific first.
    pub fn lookup(&self, repository: &str) -> Vec<Credential> {
        self.entries.iter().filter(|(place, _)| place.holds(repository)).map(|(_, credential)| credential.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(json: &str) -> Secret {
        Secret {
            type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
            data: Some(BTreeMap::from([(".dockerconfigjson".to_owned(), ByteString(json.as_bytes().to_vec()))])),
            ..Secret::default()
        }
    }

    #[test]
    fn the_most_specific_credentials_come_first() {
        let secret = secret(
            r#"{"auths": {"https://index.docker.io/v1/": {"username": "hub", "password": "p"},
                "r.io": {"auth": "YTpi"}, "r.io/team": {"username": "team", "password": "t"}, "*.x.io": {"username": "any"}}}"#,
        );
        let keyring = Keyring::from_secrets([&secret]);
        let users = |repository: &str| keyring.lookup(repository).into_iter().map(|found| found.auth.username).collect::<Vec<_>>();
        assert_eq!(users("docker.io/library/nginx"), ["hub"]);
        assert_eq!(users("r.io/team/a"), ["team", "a"]);
        assert_eq!(users("r.io/teams/a"), ["a"]);
        assert_eq!(users("a.x.io/b"), ["any"]);
        assert_eq!(users("a.b.x.io/b"), [""; 0]);
        assert_eq!(keyring.lookup("r.io/b")[0].auth.password, "b");
    }

    #[test]
    fn patterns_mean_hosts_by_their_parts_and_paths_by_their_beginnings() {
        for (pattern, repository, expect) in [
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu.amazonaws.com/a", true),
            ("*.amazonaws.com", "1.dkr.amazonaws.com/a", false),
            ("r.io/team", "r.io/teams/a", true),
            ("r.io/team", "r.io/a", false),
            ("r.io:8080/", "r.io:8080/a", true),
            ("r.io", "r.io:8080/a", false),
            ("*.registry.io:8080/path", "x.registry.io:8080/path/b", true),
        ] {
            assert_eq!(url_matches(pattern, repository), expect, "{pattern} {repository}");
        }
    }

    #[test]
    fn a_hash_stands_for_name_and_password() {
        let auth = AuthConfig { username: "u".to_owned(), password: "p<".to_owned(), ..AuthConfig::default() };
        let hash = Credential { auth, source: Source::Node }.hash();
        let expect = ring::digest::digest(&ring::digest::SHA256, br#"{"username":"u","password":"p\u003c"}"#);
        assert_eq!(hash, expect.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
}
