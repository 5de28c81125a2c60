//! Kubeconfig files that say where a webhook is and what it is shown, read as upstream's loader reads them.
//!
//! Knows the current context alone. What a program would have to be run for (exec, auth providers) is refused.

use std::path::{Path, PathBuf};

use apimachinery::field::quote;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::credentials::Shown;
use super::remote::{Endpoint, Trust};
use crate::pki::Identity;
use crate::registry::read::{at, bool_at, list_at, str_at};

/// What is said where no server is named.
pub const EMPTY: &str = "invalid configuration: no configuration has been provided, try setting KUBERNETES_MASTER environment variable";

/// Reads the server of a kubeconfig's current context.
pub fn read(path: &Path) -> Result<Endpoint, String> {
    endpoint(&load(path)?, path.parent().unwrap_or(Path::new("")))
}

/// Reads a kubeconfig as it stands.
pub fn load(path: &Path) -> Result<Value, String> {
    let text = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("stat {}: no such file or directory", path.display()),
        _ => format!("open {}: {error}", path.display()),
    })?;
    let parsed = apimachinery::yaml::parse(&text)
        .map_err(|error| format!("error loading config file {}: {error}", quote(&path.display().to_string())))?;
    Ok(parsed.value)
}

/// `directory` is what relative paths start from.
fn endpoint(config: &Value, directory: &Path) -> Result<Endpoint, String> {
    let context_name = str_at(config, "/current-context");
    let context = named(config, "/contexts", context_name);
    if !context_name.is_empty() && context.is_none() {
        return Err(format!(
            "invalid configuration: [context was not found for specified context: {context_name}, cluster has no server defined]"
        ));
    }
    let context = context.map(|entry| at(entry, "/context").clone()).unwrap_or_default();
    let entry = |list: &str, name: &str, field: &str| named(config, list, name).map(|entry| at(entry, field).clone()).unwrap_or_default();
    let cluster = entry("/clusters", str_at(&context, "/cluster"), "/cluster");
    let user = entry("/users", str_at(&context, "/user"), "/user");
    let url = str_at(&cluster, "/server");
    if url.is_empty() {
        return Err(EMPTY.to_owned());
    }
    // Nothing is shown to servers that prove nothing.
    let is_proven = url.starts_with("https://");
    let shown = if is_proven { shown(&user, str_at(&context, "/user"), directory)? } else { Shown::default() };
    let bytes = |object: &Value, field: &str| bytes(object, field, directory);
    let authority = bytes(&cluster, "certificate-authority")?;
    let trust = match (bool_at(&cluster, "/insecure-skip-tls-verify"), authority) {
        (true, Some(_)) => return Err("specifying a root certificates file with the insecure flag is not allowed".to_owned()),
        (true, None) => Trust::Anybody,
        (false, Some(pem)) => Trust::Bundle(pem),
        (false, None) => Trust::Machine,
    };
    Ok(Endpoint {
        url: url.to_owned(),
        trust,
        server_name: Some(str_at(&cluster, "/tls-server-name").to_owned()).filter(|name| !name.is_empty()),
        identity: shown.identity,
        authorization: shown.authorization,
    })
}

/// What a user shows. `name` is for messages.
pub fn shown(user: &Value, name: &str, directory: &Path) -> Result<Shown, String> {
    for unsupported in ["exec", "auth-provider"] {
        if !at(user, &format!("/{unsupported}")).is_null() {
            return Err(format!("users[{name}].{unsupported} is not supported here"));
        }
    }
    let bytes = |field: &str| bytes(user, field, directory);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| "a certificate or key is no PEM".to_owned());
    let identity = match (bytes("client-certificate")?, bytes("client-key")?) {
        (Some(certificate), Some(key)) => Some(Identity { certificate: text(certificate)?, key: text(key)? }),
        (None, None) => None,
        (Some(_), None) => {
            return Err("invalid configuration: client-key must be specified to use the clientCert authentication method.".to_owned());
        }
        (None, Some(_)) => {
            return Err("invalid configuration: client-cert must be specified to use the clientCert authentication method.".to_owned());
        }
    };
    Ok(Shown { identity, authorization: authorization(user, directory)? })
}

fn authorization(user: &Value, directory: &Path) -> Result<Option<String>, String> {
    let token_file = str_at(user, "/tokenFile");
    if !token_file.is_empty() {
        let path = directory.join(token_file);
        let token = std::fs::read_to_string(&path).map_err(|error| format!("open {}: {error}", path.display()))?;
        return Ok(Some(format!("Bearer {}", token.trim())));
    }
    let token = str_at(user, "/token");
    if !token.is_empty() {
        return Ok(Some(format!("Bearer {token}")));
    }
    let (name, password) = (str_at(user, "/username"), str_at(user, "/password"));
    Ok((!name.is_empty() || !password.is_empty()).then(|| format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))))
}

fn named<'a>(config: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    list_at(config, list).iter().find(|entry| str_at(entry, "/name") == name)
}

/// `<field>-data`, or the file that the field names.
fn bytes(object: &Value, field: &str, directory: &Path) -> Result<Option<Vec<u8>>, String> {
    let data = str_at(object, &format!("/{field}-data"));
    if !data.is_empty() {
        return STANDARD.decode(data).map(Some).map_err(|error| format!("{field}-data: {error}"));
    }
    let path: PathBuf = match str_at(object, &format!("/{field}")) {
        "" => return Ok(None),
        path => directory.join(path),
    };
    std::fs::read(&path).map(Some).map_err(|error| format!("unable to read {field} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(cluster: Value, user: Value) -> Value {
        json!({
            "current-context": "c",
            "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
            "clusters": [{ "name": "k", "cluster": cluster }],
            "users": [{ "name": "u", "user": user }],
        })
    }

    #[test]
    fn the_current_context_says_where_and_as_whom() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), "PEM").unwrap();
        let cluster = json!({ "server": "https://h:1/authz", "certificate-authority": "ca.pem", "tls-server-name": "other" });
        let read = endpoint(&config(cluster, json!({ "token": "t" })), directory.path()).unwrap();
        assert_eq!((read.url.as_str(), read.trust), ("https://h:1/authz", Trust::Bundle(b"PEM".to_vec())));
        assert_eq!((read.server_name.as_deref(), read.authorization.as_deref()), (Some("other"), Some("Bearer t")));
        let basic = endpoint(&config(json!({ "server": "https://h" }), json!({ "username": "a", "password": "b" })), directory.path());
        assert_eq!(basic.unwrap().authorization.as_deref(), Some("Basic YTpi"));
        let plain = endpoint(&config(json!({ "server": "http://h" }), json!({ "token": "t" })), directory.path());
        assert_eq!(plain.unwrap().authorization, None, "no secrets in the clear");
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let nowhere = Path::new("/nonexistent");
        let refusal = |cluster: Value, user: Value| endpoint(&config(cluster, user), nowhere).err().unwrap();
        assert_eq!(refusal(json!({}), json!({})), EMPTY);
        let insecure = json!({ "server": "https://h", "insecure-skip-tls-verify": true, "certificate-authority-data": "UEVN" });
        assert_eq!(refusal(insecure, json!({})), "specifying a root certificates file with the insecure flag is not allowed");
        assert_eq!(refusal(json!({ "server": "https://h" }), json!({ "exec": {} })), "users[u].exec is not supported here");
        assert!(
            refusal(json!({ "server": "https://h" }), json!({ "client-certificate-data": "UEVN" }))
                .contains("client-key must be specified")
        );
        assert_eq!(read(nowhere).err().unwrap(), "stat /nonexistent: no such file or directory");
    }
}
