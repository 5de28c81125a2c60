//! How to reach an etcd, as flags say it: servers, prefix and certificate files.
//!
//! Owns the reading of those files and the patience at start. It never makes a request but the first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, Identity, TlsOptions};

use super::super::store::StoreError;
use super::{Etcd, Options};

/// How often an etcd that does not answer is tried at start, and the pause between: upstream's patience.
const ATTEMPTS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);
/// One attempt takes no longer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// `--etcd-servers` and its kin.
#[derive(Clone, Debug, Default)]
pub struct Address {
    /// `scheme://host:port`; without a scheme, whether certificates are given decides.
    pub servers: Vec<String>,
    pub prefix: String,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// The longest that keys which live for a time share a lease.
    pub lease_reuse_seconds: i64,
}

impl Address {
    /// Connects, waiting for an etcd that is only starting. What is wrong with the files is told at once.
    pub async fn connect(&self) -> Result<Etcd, StoreError> {
        let options = self.options()?;
        let mut left = ATTEMPTS;
        loop {
            let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, Etcd::connect(options.clone())).await;
            let error = match attempt {
                Ok(Ok(etcd)) => return Ok(etcd),
                Ok(Err(error)) => error,
                Err(_) => StoreError::Unavailable("no answer".to_owned()),
            };
            left -= 1;
            let servers = self.servers.join(",");
            if left == 0 {
                return Err(StoreError::Unavailable(format!("etcd at {servers}: {error}")));
            }
            tracing::warn!(%error, servers, "etcd does not answer yet; will try again");
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn options(&self) -> Result<Options, StoreError> {
        let mut tls = None;
        if let Some(path) = &self.ca_file {
            tls = Some(TlsOptions::new().ca_certificate(Certificate::from_pem(read(path)?)));
        }
        if let (Some(certificate), Some(key)) = (&self.cert_file, &self.key_file) {
            let identity = Identity::from_pem(read(certificate)?, read(key)?);
            tls = Some(tls.unwrap_or_default().identity(identity));
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = |server: &String| if server.contains("://") { server.clone() } else { format!("{scheme}://{server}") };
        let endpoints: Vec<String> = self.servers.iter().map(url).collect();
        if tls.is_some() && endpoints.iter().any(|e| e.starts_with("http://")) {
            return Err(StoreError::Unavailable("--etcd-servers has http servers, but certificates are for https".to_owned()));
        }
        Ok(Options { endpoints, prefix: self.prefix.clone(), tls, lease_reuse_seconds: self.lease_reuse_seconds })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|e| StoreError::Unavailable(format!("{}: {e}", path.display())))
}
