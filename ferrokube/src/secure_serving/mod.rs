//! The HTTPS server of a component: health for everybody, metrics and settings for those whom the API server allows to read them.

mod health;
mod reviews;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use apimachinery::status::Status;
use apiserver::endpoints::negotiate::Form;
use apiserver::endpoints::respond;
use apiserver::filters::authorization::forbidden;
use apiserver::filters::client_certificate::ClientCertificates;
use apiserver::filters::request_info::RequestInfo;
use apiserver::pki::Identity;
use apiserver::server::{self, Peer};
use apiserver::tls;
use axum::body::Body;
use clap::Args;
use client::Shutdown;
use http::{Method, Request, Response, StatusCode};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use health::{Check, Checks};
use reviews::Reviews;

/// The API server is asked for the CA of clients no longer than this.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Args, Clone, Debug)]
pub struct SecureServing {
    /// The address to listen on; 0.0.0.0 for all.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The port for HTTPS; 0 for no server.
    #[arg(long)]
    secure_port: Option<u16>,
    /// What to serve HTTPS with: a certificate and those that vouch for it; one that vouches for itself by default.
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// The key of --tls-cert-file.
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Where the certificate and key are if --tls-cert-file is not given, under the component's name.
    #[arg(long)]
    cert_dir: Option<PathBuf>,
    /// Who certifies users; what the API server publishes by default.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// The kubeconfig for asking who sends a request; the component's own by default.
    #[arg(long)]
    authentication_kubeconfig: Option<PathBuf>,
    /// The kubeconfig for asking what a user may do; the component's own by default.
    #[arg(long)]
    authorization_kubeconfig: Option<PathBuf>,
    /// Do not ask the API server who certifies users.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    authentication_skip_lookup: bool,
    /// Go on if the API server cannot say who certifies users.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    authentication_tolerate_lookup_failure: bool,
    /// Paths that everybody may read; a * at the end stands for whatever follows.
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    authorization_always_allow_paths: Vec<String>,
    /// Taken for compatibility: this server believes no front proxy.
    #[arg(long)]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Taken for compatibility: there are no profiles to read.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    profiling: Option<bool>,
    /// Taken for compatibility, as --profiling.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    contention_profiling: Option<bool>,
}

/// What a component shows of itself.
pub struct Shown {
    pub checks: Checks,
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// The settings in force, as JSON; a component that has none says so by an empty object.
    pub settings: serde_json::Value,
}

struct State {
    shown: Shown,
    reviews: Reviews,
    always_allowed: Vec<String>,
}

impl SecureServing {
    /// Serves until shutdown. `name` is the component's; `port` where it listens by default.
    pub async fn serve(&self, name: &str, port: u16, client: &Client, shown: Shown, shutdown: Shutdown) -> anyhow::Result<()> {
        let port = self.secure_port.unwrap_or(port);
        if port == 0 {
            shutdown.cancelled().await;
            return Ok(());
        }
        let (certificate, key) = self.identity(name)?;
        let authorities = tls::roots(&self.client_ca(client).await?).context("client CA")?;
        let identity = Identity { certificate, key };
        let serving = tls::server_config(&identity, &[], &authorities, &tls::Settings::default()).context("serving HTTPS")?;
        let certificates = ClientCertificates::certified_by(authorities).context("client CA")?;
        let address = SocketAddr::new(self.bind_address, port);
        let listener = TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))?;
        tracing::info!(%address, "serving securely");
        let delegate = async |kubeconfig: &Option<PathBuf>| match kubeconfig {
            Some(path) => crate::client_flags::connect(path, name).await,
            None => Ok(client.clone()),
        };
        let authentication = delegate(&self.authentication_kubeconfig).await?;
        let reviews = Reviews::new(authentication, delegate(&self.authorization_kubeconfig).await?, certificates);
        let state = Arc::new(State { shown, reviews, always_allowed: self.authorization_always_allow_paths.clone() });
        let handler = move |request: Request<hyper::body::Incoming>, peer: Peer| {
            let state = state.clone();
            async move { answer(&state, &request, &peer).await }
        };
        server::serve(listener, server::Tls::new(serving), server::Settings::default(), handler, signal(shutdown)).await;
        Ok(())
    }

    /// The certificate and key to serve with.
    fn identity(&self, name: &str) -> anyhow::Result<(String, String)> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        if let (Some(certificate), Some(key)) = (&self.tls_cert_file, &self.tls_private_key_file) {
            return Ok((read(certificate)?, read(key)?));
        }
        if let Some(directory) = &self.cert_dir {
            let (certificate, key) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
            if certificate.exists() && key.exists() {
                return Ok((read(&certificate)?, read(&key)?));
            }
        }
        let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
        let names = vec![host, "localhost".to_owned(), self.bind_address.to_string(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).context("making a certificate")?;
        Ok((made.cert.pem(), made.signing_key.serialize_pem()))
    }

    /// Who certifies users: the file, or what the API server publishes. Empty if nobody does.
    async fn client_ca(&self, client: &Client) -> anyhow::Result<String> {
        if let Some(path) = &self.client_ca_file {
            return std::fs::read_to_string(path).with_context(|| path.display().to_string());
        }
        if self.authentication_skip_lookup {
            return Ok(String::new());
        }
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
        let looked_up = match tokio::time::timeout(LOOKUP_TIMEOUT, maps.get("extension-apiserver-authentication")).await {
            Ok(Ok(map)) => return Ok(map.data.and_then(|mut data| data.remove("client-ca-file")).unwrap_or_default()),
            Ok(Err(error)) => anyhow::Error::from(error),
            Err(_) => anyhow::anyhow!("no answer in time"),
        };
        let looked_up = looked_up.context("unable to get configmap/extension-apiserver-authentication in kube-system");
        if self.authentication_tolerate_lookup_failure {
            tracing::warn!("{looked_up:#}; going on without it: client certificates are not accepted");
            return Ok(String::new());
        }
        Err(looked_up)
    }
}

/// The signal to stop in the form that the listener takes it.
fn signal(shutdown: Shutdown) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        shutdown.cancelled().await;
        sender.send_replace(true);
    });
    receiver
}

async fn answer(state: &State, request: &Request<hyper::body::Incoming>, peer: &Peer) -> Response<Body> {
    let path = request.uri().path();
    if !is_always_allowed(&state.always_allowed, path)
        && let Err(refusal) = admit(state, request, peer).await
    {
        return respond::status(&refusal, &Form::JSON);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    }
    let query = request.uri().query().unwrap_or("");
    if let Some(answer) = state.shown.checks.answer(path, query) {
        return answer;
    }
    match path {
        "/metrics" => respond::text(StatusCode::OK, (state.shown.metrics)()),
        "/configz" => respond::text(StatusCode::OK, state.shown.settings.to_string()),
        _ => respond::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn is_always_allowed(allowed: &[String], path: &str) -> bool {
    let path = path.trim_start_matches('/');
    allowed.iter().map(|a| a.trim_start_matches('/')).any(|a| match a.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == a,
    })
}

/// Asks the API server who sends this and whether they may.
async fn admit(state: &State, request: &Request<hyper::body::Incoming>, peer: &Peer) -> Result<(), Status> {
    let user = state.reviews.user(request.headers(), &peer.certificates, request.uri().path()).await?;
    let info = RequestInfo::parse(request.method(), request.uri().path(), request.uri().query().unwrap_or(""));
    let verb = request.method().as_str().to_ascii_lowercase();
    match state.reviews.allows(&user, request.uri().path(), &verb).await? {
        Ok(()) => Ok(()),
        Err(reason) => Err(forbidden(&user, &info, &reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_open_by_name_or_by_what_they_begin_with() {
        let allowed: Vec<String> = ["/healthz", "/open/*"].map(str::to_owned).to_vec();
        for (path, expect) in [("/healthz", true), ("/healthz/ping", false), ("/metrics", false), ("/open/a", true), ("/open", false)] {
            assert_eq!(is_always_allowed(&allowed, path), expect, "{path}");
        }
    }
}
