//! Calls of webhooks (admission, conversion): where one is, who it must prove to be, and what it answers.
//!
//! A service is called at one of its ready endpoints, not at its cluster IP, so that a control plane needs no proxy. Knows nothing
//! of what is asked. Errors are in the words of Go's HTTP client, which people know from upstream.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apimachinery::field::quote;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rand::RngExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::admission::Lookup;
use crate::backend;
use crate::endpoints::subresources::location::{self, Target};
use crate::registry::read::{at, list_at, str_at};

/// Bytes of an answer; more is no answer.
const MAX_ANSWER_BYTES: usize = 3 * 1024 * 1024;
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const DEFAULT_PORT: i64 = 443;

/// A webhook's `clientConfig`.
#[derive(Clone, Debug)]
pub struct Webhook {
    address: Address,
    /// PEM; the system's authorities count without.
    ca_bundle: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Address {
    Url(Uri),
    Service { namespace: String, name: String, port: i64, path: String },
}

/// Where one call goes.
struct Destination {
    target: Target,
    /// As the webhook's certificate has it.
    server_name: String,
    authority: String,
    path: String,
}

impl Webhook {
    /// Reads a `clientConfig` that validation has let pass.
    pub fn read(config: &Value) -> Result<Webhook, String> {
        let service = at(config, "/service");
        let address = if service.is_object() {
            let path = str_at(service, "/path");
            Address::Service {
                namespace: str_at(service, "/namespace").to_owned(),
                name: str_at(service, "/name").to_owned(),
                port: at(service, "/port").as_i64().unwrap_or(DEFAULT_PORT),
                path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            }
        } else {
            let url = str_at(config, "/url");
            Address::Url(url.parse().map_err(|error| format!("parse {}: {error}", quote(url)))?)
        };
        let ca_bundle = match str_at(config, "/caBundle") {
            "" => None,
            text => Some(STANDARD.decode(text).map_err(|error| format!("the CA bundle is not base64: {error}"))?),
        };
        Ok(Webhook { address, ca_bundle })
    }

    /// Sends a JSON document and gives the JSON document that comes back.
    pub async fn post(&self, lookup: &dyn Lookup, body: Bytes, timeout: Duration) -> Result<Value, String> {
        let shown = |what: String| format!("Post {}: {what}", quote(&self.url(timeout)));
        match tokio::time::timeout(timeout, self.exchange(lookup, body, timeout)).await {
            Ok(Ok((status, answer))) => read_answer(status, &answer),
            Ok(Err(error)) => Err(shown(error)),
            Err(_) => Err(shown("context deadline exceeded".to_owned())),
        }
    }

    /// The address that messages show.
    fn url(&self, timeout: Duration) -> String {
        let timeout = timeout_query(timeout);
        match &self.address {
            Address::Url(url) => with_query(&url.to_string(), &timeout),
            Address::Service { namespace, name, port, path } => {
                with_query(&format!("https://{name}.{namespace}.svc:{port}{path}"), &timeout)
            }
        }
    }

    fn destination(&self, lookup: &dyn Lookup) -> Result<Destination, String> {
        match &self.address {
            Address::Url(url) => {
                let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let port = url.port_u16().map_or_else(String::new, |port| port.to_string());
                let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
                let target = location::anybody("https", &host, port);
                Ok(Destination { authority: target.authority(), target, server_name: host, path })
            }
            Address::Service { namespace, name, port, path } => {
                let (host, endpoint_port) = endpoint(lookup, namespace, name, *port)?;
                Ok(Destination {
                    target: location::anybody("https", &host, endpoint_port),
                    server_name: format!("{name}.{namespace}.svc"),
                    authority: format!("{name}.{namespace}.svc:{port}"),
                    path: path.clone(),
                })
            }
        }
    }

    async fn exchange(&self, lookup: &dyn Lookup, body: Bytes, timeout: Duration) -> Result<(StatusCode, Bytes), String> {
        let Destination { target, server_name, authority, path } = self.destination(lookup)?;
        let request = Request::post(with_query(&path, &timeout_query(timeout)))
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .header(header::CONTENT_LENGTH, body.len())
            .body(Body::from(body))
            .map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(self.trust()?);
        let name = ServerName::try_from(server_name.clone()).map_err(|_| format!("{server_name} is no server name"))?;
        let response = backend::send_verified(&target, &connector, name, request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        Ok((status, read_body(response.into_body()).await?))
    }

    fn trust(&self) -> Result<Arc<ClientConfig>, String> {
        let Some(bundle) = &self.ca_bundle else { return system_trust() };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle) {
            let certificate = certificate.map_err(|error| format!("unable to load root certificates: {error:?}"))?;
            roots.add(certificate).map_err(|error| format!("unable to load root certificates: {error}"))?;
        }
        if roots.is_empty() {
            return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
        }
        client_config(roots)
    }
}

/// A ready endpoint of a service's port.
fn endpoint(lookup: &dyn Lookup, namespace: &str, name: &str, port: i64) -> Result<(String, String), String> {
    let service = lookup.get("", "services", namespace, name).ok_or_else(|| format!("service {} not found", quote(name)))?;
    let port_name = location::service_port_name(&service, name, port).map_err(|status| status.message)?;
    let mut slices = lookup.list("discovery.k8s.io", "endpointslices", namespace);
    slices.retain(|slice| at(slice, "/metadata/labels").get(SERVICE_NAME_LABEL).and_then(Value::as_str) == Some(name));
    // An unnamed port has no name in the slices either.
    for port in slices.iter_mut().filter_map(|slice| slice.get_mut("ports").and_then(Value::as_array_mut)).flatten() {
        if let Some(port) = port.as_object_mut() {
            port.entry("name").or_insert_with(|| Value::String(String::new()));
        }
    }
    let preferred = list_at(&service, "/spec/ipFamilies").first().and_then(Value::as_str).unwrap_or("IPv4");
    let any = |_: &Value| true;
    location::endpoint(name, &slices, &port_name, preferred, any, |n| rand::rng().random_range(0..n.max(1)))
        .map_err(|status| status.message)
}

async fn read_body(mut body: Incoming) -> Result<Bytes, String> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > MAX_ANSWER_BYTES {
                return Err(format!("the answer has more than {MAX_ANSWER_BYTES} bytes"));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

fn read_answer(status: StatusCode, body: &[u8]) -> Result<Value, String> {
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|error| format!("couldn't get version/kind; json parse error: {error}"));
    }
    let text = String::from_utf8_lossy(body);
    Err(match status {
        StatusCode::NOT_FOUND => "the server could not find the requested resource".to_owned(),
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST if !text.trim().is_empty() => text.trim().to_owned(),
        _ => format!("an error on the server ({}) has prevented the request from succeeding", quote(text.trim())),
    })
}

fn timeout_query(timeout: Duration) -> String {
    format!("timeout={}s", timeout.as_secs())
}

fn with_query(path: &str, query: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}{query}")
}

fn client_config(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Whom this machine trusts, read once.
fn system_trust() -> Result<Arc<ClientConfig>, String> {
    static SYSTEM: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if ignored > 0 {
            tracing::debug!(ignored, "authorities of this machine that cannot be read");
        }
        client_config(roots)
    };
    SYSTEM.get_or_init(read).clone()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_webhook_is_shown_as_go_shows_it() {
        let service = json!({ "service": { "namespace": "n", "name": "s", "path": "check", "port": 8443 } });
        let webhook = Webhook::read(&service).unwrap();
        assert_eq!(webhook.url(Duration::from_secs(10)), "https://s.n.svc:8443/check?timeout=10s");
        let url = Webhook::read(&json!({ "url": "https://h:1/a?b=c" })).unwrap();
        assert_eq!(url.url(Duration::from_secs(3)), "https://h:1/a?b=c&timeout=3s");
        assert!(Webhook::read(&json!({ "url": "https://h", "caBundle": "?" })).is_err());
    }

    #[test]
    fn answers_that_are_none_are_explained() {
        assert_eq!(read_answer(StatusCode::OK, b"{}"), Ok(json!({})));
        assert!(read_answer(StatusCode::OK, b"<html>").unwrap_err().starts_with("couldn't get version/kind; json parse error"));
        let error = read_answer(StatusCode::INTERNAL_SERVER_ERROR, b"broken\n").unwrap_err();
        assert_eq!(error, "an error on the server (\"broken\") has prevented the request from succeeding");
    }
}
