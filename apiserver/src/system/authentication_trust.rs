//! The ConfigMap kube-system/extension-apiserver-authentication: what extension API servers trust callers by.
//!
//! API servers of one cluster share it: each adds what it has and takes nothing away, but certificates that have expired.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::{Map, json};
use x509_parser::pem::Pem;

use super::Settings;
use super::watched::Watched;
use crate::api::Api;
use crate::loopback::{Loopback, is_overtaken};
use crate::registry::read::str_at;

const NAME: &str = "extension-apiserver-authentication";
const NAMESPACE: &str = "kube-system";
const COLLECTION: &str = "/api/v1/namespaces/kube-system/configmaps";
const CLIENT_CA: &str = "client-ca-file";
/// Changes are gathered for this long.
const PAUSE: Duration = Duration::from_secs(1);

/// What may change the object.
pub fn watched(api: &Arc<Api>) -> Watched {
    Watched::named(api, &[("", "configmaps")], NAME)
}

/// Goes on ensuring. Never returns; dropped at the end.
pub async fn keep(client: &Loopback, settings: &Settings, mut watched: Watched) {
    loop {
        watched.changed().await;
        tokio::time::sleep(PAUSE).await;
        if let Err(status) = ensure(client, settings).await {
            tracing::warn!(error = status.message, "{NAMESPACE}/{NAME} is not as it should be");
        }
    }
}

/// Creates the object, or adds this server's CA to it.
pub async fn ensure(client: &Loopback, settings: &Settings) -> Result<(), Status> {
    if settings.client_ca.is_empty() || !client.serves("", "configmaps") {
        return Ok(());
    }
    let current = client.get("", "configmaps", NAMESPACE, NAME);
    let has = current.as_ref().map_or("", |c| str_at(c, "/data/client-ca-file"));
    let bundle = combine(has, &settings.client_ca, Timestamp::now());
    let Some(mut object) = current else {
        let mut data = Map::new();
        data.insert(CLIENT_CA.to_owned(), bundle.into());
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": NAME, "namespace": NAMESPACE },
            "data": data,
        });
        return client.ensure(COLLECTION, object).await.map(|_| ());
    };
    if bundle == str_at(&object, "/data/client-ca-file") {
        return Ok(());
    }
    object["data"][CLIENT_CA] = bundle.into();
    match client.replace(&format!("{COLLECTION}/{NAME}"), object).await {
        Err(status) if !is_overtaken(&status) => Err(status),
        _ => Ok(()),
    }
}

/// The certificates of both bundles, each once, without those that have expired.
fn combine(first: &str, second: &str, now: Timestamp) -> String {
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut bundle = String::new();
    for pem in [first, second].iter().flat_map(|text| Pem::iter_from_buffer(text.as_bytes())).flatten() {
        let expired = pem.parse_x509().map_or(true, |certificate| certificate.validity().not_after.timestamp() < now.as_second());
        if pem.label != "CERTIFICATE" || expired || seen.contains(&pem.contents) {
            continue;
        }
        encode(&pem.contents, &mut bundle);
        seen.push(pem.contents);
    }
    bundle
}

fn encode(der: &[u8], out: &mut String) {
    use base64::Engine;
    const LINE: usize = 64;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str("-----END CERTIFICATE-----\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params.self_signed(&key).unwrap().pem().replace("\r\n", "\n")
    }

    #[test]
    fn bundles_are_joined_without_repeats_and_expired_certificates() {
        let (a, b) = (certificate("a"), certificate("b"));
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(combine("", &a, now), a);
        assert_eq!(combine(&a, &a, now), a);
        assert_eq!(combine(&a, &b, now), format!("{a}{b}"));
        assert_eq!(combine(&format!("rubbish\n{a}"), &b, now), format!("{a}{b}"));
        assert_eq!(combine(&a, &b, Timestamp::from_second(2_000_000_000).unwrap()), "");
    }
}
