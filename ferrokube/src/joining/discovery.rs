//! Finding out whether a server is the cluster that a token is of, before anything secret is said to it.
//!
//! `kube-public/cluster-info` is read without trust. It is believed if it is signed with the token's secret and names a CA whose
//! public key has the hash that the operator was given; then the server must prove that this CA certified it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use controllers::bootstrap::signer::{SIGNATURE_PREFIX, detached_signature};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::Kubeconfig;
use kube::{Api, Client, Config};
use ring::digest;
use x509_parser::pem::Pem;

use super::policy::{CLUSTER_INFO, KUBECONFIG_KEY, PUBLIC_NAMESPACE};
use super::token::Token;

/// A new token's signature takes a moment, a server that starts takes longer.
const TIMEOUT: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(2);
const HASH_PREFIX: &str = "sha256:";

/// `sha256:<hex>` of a CA's public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaHash(String);

impl std::str::FromStr for CaHash {
    type Err = String;

    fn from_str(text: &str) -> Result<CaHash, String> {
        let hex = text.strip_prefix(HASH_PREFIX).ok_or("only sha256:HEX is understood")?;
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("there must be 64 hexadecimal digits after sha256:".to_owned());
        }
        Ok(CaHash(text.to_ascii_lowercase()))
    }
}

impl std::fmt::Display for CaHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl CaHash {
    /// Of each certificate in a PEM text.
    pub fn of_all(pem: &str) -> anyhow::Result<Vec<CaHash>> {
        let hash = |pem: Result<Pem, _>| {
            let pem: Pem = pem.context("the CA is no PEM")?;
            let certificate = pem.parse_x509().context("the CA is no certificate")?;
            let sum = digest::digest(&digest::SHA256, certificate.public_key().raw);
            let hex: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            anyhow::Ok(CaHash(format!("{HASH_PREFIX}{hex}")))
        };
        Pem::iter_from_buffer(pem.as_bytes()).map(hash).collect()
    }
}

/// The CA of a cluster that is what it says. A cluster that cannot be asked yet, or has not signed for the token yet, is waited for; one
/// that is not believed is not.
pub async fn discover(server: &http::Uri, token: &Token, hashes: &[CaHash]) -> anyhow::Result<String> {
    let started = Instant::now();
    let data = loop {
        let waiting = match read(server, None).await {
            Ok(data) if data.contains_key(&signature_key(token)) => break data,
            Ok(_) => anyhow::anyhow!("it is not signed for token {}: has the token expired?", token.id),
            Err(error) => error,
        };
        if started.elapsed() > TIMEOUT {
            return Err(waiting);
        }
        tracing::info!("waiting for the cluster: {waiting:#}");
        tokio::time::sleep(RETRY).await;
    };
    let ca = believe(&data, token, hashes)?;
    // Once more, by a connection that only the holder of a certificate of this CA can have.
    let again =
        read(server, Some(&ca)).await.context("the server is not certified by the CA that it names; see --tls-san of ferrokube up")?;
    if again.get(KUBECONFIG_KEY) != data.get(KUBECONFIG_KEY) {
        bail!("the server and the one that was asked first do not say the same");
    }
    Ok(ca)
}

fn signature_key(token: &Token) -> String {
    format!("{SIGNATURE_PREFIX}{}", token.id)
}

/// What is published, asked for by anybody.
async fn read(server: &http::Uri, ca: Option<&str>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut config = Config::new(server.clone());
    match ca {
        Some(ca) => config.root_cert = Some(certificates(ca)?),
        None => config.accept_invalid_certs = true,
    }
    let maps: Api<ConfigMap> = Api::namespaced(Client::try_from(config)?, PUBLIC_NAMESPACE);
    let map = maps.get(CLUSTER_INFO).await.with_context(|| format!("cannot read {PUBLIC_NAMESPACE}/{CLUSTER_INFO} of {server}"))?;
    Ok(map.data.unwrap_or_default())
}

/// The certificates of a PEM text, as a client wants its roots.
pub fn certificates(pem: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    Pem::iter_from_buffer(pem.as_bytes()).map(|pem| Ok(pem.context("the CA is no PEM")?.contents)).collect()
}

/// The CA that the map names, if the map is signed with the token and the CA is one of those that are known by their hashes.
fn believe(data: &BTreeMap<String, String>, token: &Token, hashes: &[CaHash]) -> anyhow::Result<String> {
    let content = data.get(KUBECONFIG_KEY).context("there is no kubeconfig in it")?;
    let signature = data.get(&signature_key(token)).with_context(|| format!("it is not signed for token {}", token.id))?;
    if *signature != detached_signature(content, &token.id, &token.secret) {
        bail!("it is not signed with this token's secret");
    }
    let kubeconfig = Kubeconfig::from_yaml(content).context("it is no kubeconfig")?;
    let cluster = kubeconfig.clusters.first().and_then(|named| named.cluster.as_ref()).context("it names no cluster")?;
    let encoded = cluster.certificate_authority_data.as_deref().context("it names no CA")?;
    let ca = String::from_utf8(STANDARD.decode(encoded).context("its CA is not encoded in base64")?).context("its CA is no text")?;
    let found = CaHash::of_all(&ca)?;
    if found.is_empty() || !found.iter().all(|hash| hashes.contains(hash)) {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        bail!("the public key of its CA has another hash than was given: {}", found.join(", "));
    }
    Ok(ca)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn ca() -> String {
        CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn info(ca: &str, token: &Token) -> BTreeMap<String, String> {
        let content = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: https://a\n    certificate-authority-data: {}\n",
            STANDARD.encode(ca)
        );
        let signature = detached_signature(&content, &token.id, &token.secret);
        BTreeMap::from([(KUBECONFIG_KEY.to_owned(), content), (format!("{SIGNATURE_PREFIX}{}", token.id), signature)])
    }

    #[test]
    fn what_is_signed_and_has_the_known_ca_is_believed() {
        let (ca, token): (_, Token) = (ca(), "abcdef.0123456789abcdef".parse().unwrap());
        let hashes = CaHash::of_all(&ca).unwrap();
        assert_eq!(believe(&info(&ca, &token), &token, &hashes).unwrap(), ca);
    }

    #[test]
    fn anything_else_is_not() {
        let (ca, other, token): (_, _, Token) = (ca(), ca(), "abcdef.0123456789abcdef".parse().unwrap());
        let hashes = CaHash::of_all(&ca).unwrap();
        let refusal = |data: &BTreeMap<String, String>, token: &Token| format!("{:#}", believe(data, token, &hashes).unwrap_err());
        assert!(refusal(&info(&other, &token), &token).starts_with("the public key of its CA has another hash"));
        let guess: Token = "abcdef.0000000000000000".parse().unwrap();
        assert_eq!(refusal(&info(&ca, &token), &guess), "it is not signed with this token's secret");
        let unknown: Token = "aaaaaa.0123456789abcdef".parse().unwrap();
        assert!(refusal(&info(&ca, &token), &unknown).starts_with("it is not signed for token aaaaaa"));
        let mut changed = info(&ca, &token);
        changed.get_mut(KUBECONFIG_KEY).unwrap().push('#');
        assert_eq!(refusal(&changed, &token), "it is not signed with this token's secret");
        // A second CA beside the known one would be believed too.
        assert!(refusal(&info(&format!("{ca}{other}"), &token), &token).starts_with("the public key of its CA has another hash"));
        assert_eq!(refusal(&info("", &token), &token), "it names no CA");
        assert_eq!(refusal(&info("\n", &token), &token), "the public key of its CA has another hash than was given: ");
    }

    #[test]
    fn a_hash_is_of_sha256() {
        assert!("sha256:00".parse::<CaHash>().is_err());
        assert!(format!("md5:{}", "0".repeat(64)).parse::<CaHash>().is_err());
        let upper = format!("sha256:{}", "AB".repeat(32)).parse::<CaHash>().unwrap();
        assert_eq!(upper.to_string(), format!("sha256:{}", "ab".repeat(32)));
    }
}
