//! The ConfigMap kube-system/extension-apiserver-authentication: what extension API servers trust callers by.
//!
//! API servers of one cluster share it: each adds what it has and takes nothing away, but certificates that have expired.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use x509_parser::pem::Pem;

use super::Settings;
use super::watched::Watched;
use crate::api::Api;
use crate::filters::front_proxy;
use crate::loopback::{Loopback, is_overtaken};

const NAME: &str = "extension-apiserver-authentication";
const NAMESPACE: &str = "kube-system";
const COLLECTION: &str = "/api/v1/namespaces/kube-system/configmaps";
const CLIENT_CA: &str = "client-ca-file";
const PROXY_CA: &str = "requestheader-client-ca-file";
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
        if let Err(status) = ensure(client, &settings.client_ca, &settings.front_proxies).await {
            tracing::warn!(error = status.message, "{NAMESPACE}/{NAME} is not as it should be");
        }
    }
}

/// Creates the object, or adds what this server believes to it.
pub async fn ensure(client: &Loopback, client_ca: &str, front_proxies: &front_proxy::Config) -> Result<(), Status> {
    if !client.serves("", "configmaps") {
        return Ok(());
    }
    let current = client.get("", "configmaps", NAMESPACE, NAME);
    let has = current.as_ref().and_then(|c| c.get("data")).and_then(Value::as_object).cloned().unwrap_or_default();
    let data = combined(&has, client_ca, front_proxies, Timestamp::now())?;
    let Some(mut object) = current else {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": NAME, "namespace": NAMESPACE },
            "data": data,
        });
        return client.ensure(COLLECTION, object).await.map(|_| ());
    };
    if data == has {
        return Ok(());
    }
    object["data"] = data.into();
    match client.replace(&format!("{COLLECTION}/{NAME}"), object).await {
        Err(status) if !is_overtaken(&status) => Err(status),
        _ => Ok(()),
    }
}

/// What the map is to hold, given what it has: certificates and names of both, and nothing else.
fn combined(
    has: &Map<String, Value>,
    client_ca: &str,
    proxies: &front_proxy::Config,
    now: Timestamp,
) -> Result<Map<String, Value>, Status> {
    let text = |key: &str| has.get(key).and_then(Value::as_str).unwrap_or("");
    let mut data = Map::new();
    let bundle = combine(text(CLIENT_CA), client_ca, now);
    if !bundle.is_empty() {
        data.insert(CLIENT_CA.to_owned(), bundle.into());
    }
    let bundle = combine(text(PROXY_CA), &proxies.client_ca, now);
    if bundle.is_empty() {
        return Ok(data);
    }
    let mut lists = [
        ("requestheader-allowed-names", &proxies.allowed_names),
        ("requestheader-extra-headers-prefix", &proxies.extra_headers_prefix),
        ("requestheader-group-headers", &proxies.group_headers),
        ("requestheader-uid-headers", &proxies.uid_headers),
        ("requestheader-username-headers", &proxies.username_headers),
    ]
    .into_iter()
    .map(|(key, own)| Ok((key, union(key, text(key), own)?)))
    .collect::<Result<Vec<_>, Status>>()?;
    // A server that knows no header for uids says nothing of them.
    lists.retain(|(key, names)| *key != "requestheader-uid-headers" || !names.is_empty());
    data.insert(PROXY_CA.to_owned(), bundle.into());
    data.extend(lists.into_iter().map(|(key, names)| (key.to_owned(), json!(names).to_string().into())));
    data.sort_keys();
    Ok(data)
}

/// The names of a JSON list and of our own, each once.
fn union(key: &str, has: &str, own: &[String]) -> Result<Vec<String>, Status> {
    let mut names: Vec<String> = match has {
        "" => Vec::new(),
        text => serde_json::from_str(text).map_err(|error| Status::internal_error(&format!("{NAME}: {key}: {error}")))?,
    };
    for name in own {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    Ok(names)
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
    fn the_map_holds_what_its_servers_believe() {
        let (ca, proxies) = (certificate("ca"), certificate("proxies"));
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let config = front_proxy::Config::standard(proxies.clone(), vec!["mine".to_owned()]);
        let first = combined(&Map::new(), &ca, &config, now).unwrap();
        let expected = json!({
            "client-ca-file": ca,
            "requestheader-allowed-names": "[\"mine\"]",
            "requestheader-client-ca-file": proxies,
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
        });
        assert_eq!(Value::Object(first.clone()), expected);
        assert_eq!(combined(&first, &ca, &config, now).unwrap(), first);
        let other = front_proxy::Config { allowed_names: vec!["theirs".to_owned()], uid_headers: Vec::new(), ..config.clone() };
        let both = combined(&first, &ca, &other, now).unwrap();
        assert_eq!(both["requestheader-allowed-names"], "[\"mine\",\"theirs\"]");
        let broken = Map::from_iter([("requestheader-group-headers".to_owned(), Value::from("x"))]);
        assert!(combined(&broken, &ca, &config, now).is_err());
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
