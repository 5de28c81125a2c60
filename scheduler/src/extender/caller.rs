//! Sends questions to extenders, and brings back what they answer, or why they did not. Decides nothing.

use std::time::Duration;

use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Call;
use crate::config::{EXTENDER_TIMEOUT, Extender};

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// Why an extender cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("extender {url:?} has no usable address")]
    Address { url: String },
    #[error("specifying a root certificates file with the insecure flag is not allowed")]
    InsecureWithAuthority,
    #[error("the certificates of extender {url:?} cannot be read")]
    Certificates { url: String, source: KubeconfigError },
    #[error("no connection can be made to extender {url:?}")]
    Client { url: String, source: kube::Error },
}

struct Caller {
    /// The address that verbs are added to.
    prefix: String,
    client: kube::Client,
    timeout: Duration,
}

/// The extenders, ready to be asked.
pub struct Callers(Vec<Caller>);

impl Callers {
    /// `extenders` are [`super::ordered`].
    pub async fn new(extenders: &[Extender]) -> Result<Callers, Error> {
        let mut callers = Vec::new();
        for extender in extenders {
            callers.push(caller(extender).await?);
        }
        Ok(Callers(callers))
    }

    /// What an extender answers.
    pub async fn ask(&self, call: Call) -> Result<Value, String> {
        let Some(caller) = self.0.get(call.extender) else { return Err(format!("there is no extender {}", call.extender)) };
        let url = format!("{}/{}", caller.prefix, call.verb);
        match tokio::time::timeout(caller.timeout, caller.send(&url, call)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("Post {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)")),
        }
    }
}

impl Caller {
    async fn send(&self, url: &str, call: Call) -> Result<Value, String> {
        let failed = |error: &dyn std::fmt::Display| format!("Post {url:?}: {error}");
        let address = url.parse::<Uri>().map_err(|error| failed(&error))?;
        let path = address.path_and_query().map_or("/", |path| path.as_str());
        let authority = address.authority().map_or("", |authority| authority.as_str());
        let request = Request::post(path).header("content-type", "application/json").body(Body::from(call.body));
        let request = request.map_err(|error| failed(&error))?;
        let response = self.client.send(request).await.map_err(|error| failed(&reason(&error, authority)))?;
        if response.status() != StatusCode::OK {
            let (verb, code) = (&call.verb, response.status().as_u16());
            return Err(format!("failed {verb} with extender at URL {url}, code {code}"));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?.to_bytes();
        // What stands after the first value is not read, as in Go.
        match serde_json::Deserializer::from_slice(&body).into_iter().next() {
            Some(value) => value.map_err(|error| error.to_string()),
            None => Err("EOF".to_owned()),
        }
    }
}

/// The innermost reason of a failed request; the layers around it only say that there was one.
fn reason(error: &kube::Error, authority: &str) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match innermost.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => format!("dial tcp {authority}: connect: connection refused"),
        Some(std::io::ErrorKind::ConnectionReset) => "connection reset by peer".to_owned(),
        _ => innermost.to_string(),
    }
}

async fn caller(extender: &Extender) -> Result<Caller, Error> {
    let url = || extender.url_prefix.clone();
    let parsed: Uri = extender.url_prefix.parse().map_err(|_| Error::Address { url: url() })?;
    let (Some(scheme), Some(authority)) = (parsed.scheme_str(), parsed.authority()) else {
        return Err(Error::Address { url: url() });
    };
    let kubeconfig = kubeconfig(extender, &format!("{scheme}://{authority}"))?;
    let kubeconfig = Kubeconfig::deserialize(kubeconfig).map_err(|_| Error::Address { url: url() })?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|source| Error::Certificates { url: url(), source })?;
    // Whether to ask again is up to the next attempt.
    config.default_retry = false;
    let client = kube::Client::try_from(config).map_err(|source| Error::Client { url: url(), source })?;
    let timeout = if extender.http_timeout.is_zero() { EXTENDER_TIMEOUT } else { extender.http_timeout };
    Ok(Caller { prefix: extender.url_prefix.trim_end_matches('/').to_owned(), client, timeout })
}

/// A kubeconfig that says how the extender is reached: it has the same words for certificates.
fn kubeconfig(extender: &Extender, server: &str) -> Result<Value, Error> {
    let tls = extender.tls_config.clone().unwrap_or_default();
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let has_authority = given(&tls.ca_file) || given(&tls.ca_data);
    if tls.insecure && has_authority {
        return Err(Error::InsecureWithAuthority);
    }
    let insecure = tls.insecure || (extender.enable_https && !has_authority);
    let fields = |pairs: [(&str, &Option<String>); 4]| -> Map<String, Value> {
        pairs.into_iter().filter(|(_, value)| given(value)).map(|(key, value)| (key.to_owned(), json!(value))).collect()
    };
    let mut cluster = fields([
        ("certificate-authority", &tls.ca_file),
        ("certificate-authority-data", &tls.ca_data),
        ("tls-server-name", &tls.server_name),
        ("", &None),
    ]);
    cluster.insert("server".to_owned(), json!(server));
    cluster.insert("insecure-skip-tls-verify".to_owned(), json!(insecure));
    let user = fields([
        ("client-certificate", &tls.cert_file),
        ("client-certificate-data", &tls.cert_data),
        ("client-key", &tls.key_file),
        ("client-key-data", &tls.key_data),
    ]);
    Ok(json!({
        "clusters": [{"name": "extender", "cluster": cluster}],
        "users": [{"name": "extender", "user": user}],
        "contexts": [{"name": "extender", "context": {"cluster": "extender", "user": "extender"}}],
        "current-context": "extender",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_authority_https_trusts_everybody() {
        for (config, insecure) in [
            (json!({}), json!(false)),
            (json!({"enableHTTPS": true}), json!(true)),
            (json!({"enableHTTPS": true, "tlsConfig": {"caData": "eA=="}}), json!(false)),
            (json!({"tlsConfig": {"insecure": true}}), json!(true)),
        ] {
            let made = kubeconfig(&serde_json::from_value(config.clone()).unwrap(), "https://e").unwrap();
            assert_eq!(made["clusters"][0]["cluster"]["insecure-skip-tls-verify"], insecure, "{config}");
        }
        let both = json!({"tlsConfig": {"insecure": true, "caFile": "f", "certFile": "c"}});
        assert!(matches!(kubeconfig(&serde_json::from_value(both).unwrap(), "https://e"), Err(Error::InsecureWithAuthority)));
    }

    #[tokio::test]
    async fn an_extender_without_an_address_is_refused() {
        for prefix in ["", "nowhere", "/path"] {
            let extender = Extender { url_prefix: prefix.to_owned(), ..Extender::default() };
            assert!(matches!(Callers::new(&[extender]).await, Err(Error::Address { .. })), "{prefix}");
        }
    }
}
