//! The certificate that a kubelet shows the API server: asked for with somebody's credentials at first, renewed with its own later.
//!
//! [`request`] says what is asked for, [`issue`] asks and waits, [`store`] keeps what was given, [`rotation`] renews it in time and
//! moves requests over to it. Who may have which certificate is decided by the cluster alone.

pub mod issue;
pub mod request;
pub mod rotation;
pub mod store;

use std::path::PathBuf;
use std::time::Duration;

use kube::Client;

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
    if store.current_if_good(node_name, jiff::Timestamp::now())?.is_some() {
        return Ok(());
    }
    let key: KeyPair = store.pending_key()?;
    let asked = request::client(node_name, &key, Named::ByContent)?;
    tracing::info!(node = node_name, request = asked.metadata.name, "asking for a client certificate");
    let certificate = obtain(&client, &asked, FIRST_TIMEOUT, Interval::FIRST).await?;
    store.update(&Pair::new(certificate, key.serialize_pem())?, jiff::Timestamp::now())?;
    store.forget_pending_key()
}
