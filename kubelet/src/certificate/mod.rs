//! The certificates of a kubelet: the one that it shows the API server, asked for with somebody's credentials at first and renewed with
//! its own later, and the one that it serves with.
//!
//! [`request`] says what is asked for, [`issue`] asks and waits, [`store`] keeps what was given, [`rotation`] renews the first in time and
//! moves requests over to it, [`serving`] sees to the second. Who may have which certificate is decided by the cluster alone.

pub mod issue;
pub mod request;
pub mod rotation;
pub mod serving;
pub mod store;

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kube::Client;
use kube::config::Kubeconfig;

use issue::{Interval, obtain};
use request::{KeyPair, Named};
use store::{Pair, Store};

/// Somebody may have to approve a first request by hand.
const FIRST_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Unreadable { path: PathBuf, reason: String },
    #[error("certificate request: {0}")]
    Request(#[from] rcgen::Error),
    #[error("certificate: {0}")]
    Certificate(String),
    #[error("cannot create certificate signing request: {0}")]
    Create(#[source] kube::Error),
    #[error("cannot read certificate signing request {name}: {source}")]
    Read { name: String, source: kube::Error },
    #[error("retrieved csr is not compatible: {0} was made for another key, signer or usage")]
    Incompatible(String),
    #[error("certificate signing request is denied, reason: {reason}, message: {message}")]
    Denied { reason: String, message: String },
    #[error("certificate signing request failed, reason: {reason}, message: {message}")]
    Failed { reason: String, message: String },
    #[error("certificate signing request {name} was not approved and signed within {} s", timeout.as_secs())]
    Timeout { name: String, timeout: Duration },
    #[error("client: {0}")]
    Client(#[source] kube::Error),
}

/// Gets a node its first certificate with the bootstrap credentials of `client`, unless the store has one that is good.
///
/// The key is kept until then, so that whoever tries again asks for the same thing and no second request is made.
pub async fn bootstrap(client: Client, node_name: &str, store: &Store) -> Result<(), Error> {
    if store.current_if_good(node_name, Timestamp::now())?.is_some() {
        return Ok(());
    }
    let key: KeyPair = store.pending_key()?;
    let asked = request::client(node_name, &key, Named::ByContent)?;
    tracing::info!(node = node_name, request = asked.metadata.name, "asking for a client certificate");
    let certificate = obtain(&client, &asked, FIRST_TIMEOUT, Interval::FIRST).await?;
    store.update(&Pair::new(certificate, key.serialize_pem())?, Timestamp::now())?;
    store.forget_pending_key()
}

/// Whether a kubeconfig is there whose client certificates are all still valid, as a kubelet asks before it asks for a certificate.
pub fn is_good(kubeconfig: &Path, now: Timestamp) -> bool {
    let Ok(file) = Kubeconfig::read_from(kubeconfig) else { return false };
    let Some(user) = file.auth_infos.first().and_then(|named| named.auth_info.as_ref()) else { return false };
    let text = match (&user.client_certificate_data, &user.client_certificate) {
        (Some(data), _) => STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok()),
        (None, Some(path)) => std::fs::read_to_string(path).ok(),
        (None, None) => None,
    };
    let pair = text.and_then(|text| Pair::new(text, String::new()).ok());
    pair.is_some_and(|pair| pair.not_after > now)
}

#[cfg(test)]
mod tests {
    use super::store::tests::pair;
    use super::*;

    #[test]
    fn a_kubeconfig_is_good_as_long_as_its_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let (file, store) = (directory.path().join("kubelet.conf"), Store::new(directory.path()));
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(!is_good(&file, at("2026-01-02T00:00:00Z")), "there is none");
        store.update(&pair("a", at("2026-01-01T00:00:00Z"), at("2026-02-01T00:00:00Z")), at("2026-01-01T00:00:00Z")).unwrap();
        let path = store.current_path();
        let user = format!("users:\n- name: a\n  user: {{client-certificate: {0}, client-key: {0}}}\n", path.display());
        std::fs::write(&file, format!("apiVersion: v1\nkind: Config\n{user}")).unwrap();
        assert!(is_good(&file, at("2026-01-02T00:00:00Z")));
        assert!(!is_good(&file, at("2026-02-02T00:00:00Z")), "it has expired");
        std::fs::write(&file, "apiVersion: v1\nkind: Config\nusers:\n- name: a\n  user: {token: t}\n").unwrap();
        assert!(!is_good(&file, at("2026-01-02T00:00:00Z")), "a token is no certificate");
    }
}
