//! core/v1 Secret: its types and what each must contain.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_config_map_key, name_is_dns_subdomain};
use apimachinery::view::view;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Map, Value};

use super::config_map::MAX_DATA_BYTES;
use crate::registry::defaulting::{nested, set_if_empty};
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, str_at};
use crate::registry::strategy::set_field;
use crate::registry::{ALL_VERBS, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

const TYPE: &str = "io.k8s.api.core.v1.Secret";
const IMMUTABLE: &str = "field is immutable when `immutable` is set";
const REDACTED: &str = "<secret contents redacted>";
const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "secrets",
    singular: "secret",
    kind: "Secret",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: TYPE,
    name: name_is_dns_subdomain,
    strategy: &SecretStrategy,
    subresources: &[],
    selectable: &[("type", |secret| str_at(secret, "/type").into())],
    printer: Printer {
        columns: &[
            NAME,
            printer::text("Type", Description::Field(TYPE, "type")),
            printer::text("Data", Description::Field(TYPE, "data")),
            AGE,
        ],
        cells: |object, now| {
            let count = at(object, "/data").as_object().map_or(0, serde_json::Map::len);
            vec![printer::name(object), str_at(object, "/type").into(), count.into(), printer::object_age(object, now)]
        },
    },
    reset_fields: &[],
};

/// What was given as text becomes data; a secret without a type is opaque.
pub fn default_secret(secret: &mut Map<String, Value>) {
    set_if_empty(secret, "type", "Opaque");
    let Some(Value::Object(texts)) = secret.shift_remove("stringData") else { return };
    if texts.is_empty() {
        return;
    }
    let Some(data) = nested(secret, "data") else { return };
    for (key, text) in texts {
        data.insert(key, STANDARD.encode(text.as_str().unwrap_or("")).into());
    }
}

struct SecretStrategy;

impl UpdateStrategy for SecretStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if str_at(new, "/type").is_empty() {
            set_field(new, "type", str_at(old, "/type"));
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let (new, old): (Secret, Secret) = (view(new), view(old));
        let mut errors = ErrorList::new();
        if new.type_ != old.type_ {
            errors.push(Error::invalid(&Path::new("type"), new.type_.as_deref().unwrap_or(""), "field is immutable"));
        }
        if old.immutable == Some(true) {
            if new.immutable != Some(true) {
                errors.push(Error::forbidden(&Path::new("immutable"), IMMUTABLE));
            }
            if new.data != old.data {
                errors.push(Error::forbidden(&Path::new("data"), IMMUTABLE));
            }
        }
        errors.extend(validate(&new));
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings(&view(new))
    }
}

impl Strategy for SecretStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(new))
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(&view(new))
    }
}

fn validate(secret: &Secret) -> ErrorList {
    let nothing = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&nothing);
    let path = Path::new("data");
    let mut errors = ErrorList::new();
    for key in data.keys() {
        errors.extend(is_config_map_key(key).into_iter().map(|message| Error::invalid(&path.key(key), key.as_str(), message)));
    }
    if data.values().map(|value| value.0.len()).sum::<usize>() > MAX_DATA_BYTES {
        errors.push(Error::too_long(&path, MAX_DATA_BYTES));
    }
    let mut require = |key: &str| errors.push(Error::required(&path.key(key), ""));
    match secret.type_.as_deref().unwrap_or("") {
        "kubernetes.io/service-account-token" => {
            let annotation = secret.metadata.annotations.as_ref().and_then(|a| a.get(SERVICE_ACCOUNT_NAME));
            if annotation.is_none_or(String::is_empty) {
                let metadata = Path::new("metadata");
                errors.push(Error::required(&metadata.child("annotations").key(SERVICE_ACCOUNT_NAME), ""));
            }
        }
        "kubernetes.io/dockercfg" => errors.extend(validate_json_object(data, ".dockercfg")),
        "kubernetes.io/dockerconfigjson" => errors.extend(validate_json_object(data, ".dockerconfigjson")),
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => require("ssh-privatekey"),
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !data.contains_key(key) {
                    require(key);
                }
            }
        }
        _ => {}
    }
    errors
}

/// The value of `key` must be the text of a JSON object (or null, which Go reads into a map too).
fn validate_json_object(data: &BTreeMap<String, ByteString>, key: &str) -> Option<Error> {
    let path = Path::new("data");
    let path = path.key(key);
    let Some(text) = data.get(key) else {
        return Some(Error::required(&path, ""));
    };
    let problem = match apimachinery::json::parse(&text.0) {
        Err(error) => error.to_string(),
        Ok((Value::Object(_) | Value::Null, _)) => return None,
        Ok((other, _)) => {
            let kind = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Number(_) => "number",
                _ => "bool",
            };
            format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
        }
    };
    Some(Error::invalid(&path, REDACTED, problem))
}

/// A TLS secret whose pair cannot be read is accepted with a warning.
fn warnings(secret: &Secret) -> Vec<String> {
    if secret.type_.as_deref() != Some("kubernetes.io/tls") {
        return Vec::new();
    }
    let bytes = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |value| &value.0);
    certificate_problem(bytes("tls.crt")).or_else(|| key_problem(bytes("tls.key"))).into_iter().collect()
}

/// The labels of the PEM blocks before the first that `wanted` accepts, and that block's content if there is one.
fn first_block(input: &[u8], wanted: fn(&str) -> bool) -> (Vec<String>, Option<Vec<u8>>) {
    let mut skipped = Vec::new();
    for block in x509_parser::pem::Pem::iter_from_buffer(input).map_while(Result::ok) {
        if wanted(&block.label) {
            return (skipped, Some(block.contents));
        }
        skipped.push(block.label);
    }
    (skipped, None)
}

fn certificate_problem(input: &[u8]) -> Option<String> {
    let (skipped, block) = first_block(input, |label| label == "CERTIFICATE");
    match (block, skipped.as_slice()) {
        (Some(der), _) => match x509_parser::parse_x509_certificate(&der) {
            Ok(_) => None,
            Err(_) => Some("x509: malformed certificate".to_owned()),
        },
        (None, []) => Some("tls: failed to find any PEM data in certificate input".to_owned()),
        (None, [only]) if only.ends_with("PRIVATE KEY") => Some(
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched"
                .to_owned(),
        ),
        (None, labels) => Some(format!(
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]",
            labels.join(" ")
        )),
    }
}

fn key_problem(input: &[u8]) -> Option<String> {
    let (skipped, block) = first_block(input, |label| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY"));
    match (block, skipped.as_slice()) {
        (Some(_), _) => None,
        (None, []) => Some("tls: failed to find any PEM data in key input".to_owned()),
        (None, [only]) if only == "CERTIFICATE" => {
            Some("tls: found a certificate rather than a key in the PEM for the private key".to_owned())
        }
        (None, labels) => Some(format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
            labels.join(" ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::{cx, messages};

    #[test]
    fn each_type_wants_its_keys() {
        let cases = [
            ("kubernetes.io/tls", vec!["data[tls.crt]: Required value", "data[tls.key]: Required value"]),
            ("kubernetes.io/ssh-auth", vec!["data[ssh-privatekey]: Required value"]),
            ("kubernetes.io/basic-auth", vec!["data[username]: Required value", "data[password]: Required value"]),
            ("kubernetes.io/dockercfg", vec!["data[.dockercfg]: Required value"]),
            ("kubernetes.io/dockerconfigjson", vec!["data[.dockerconfigjson]: Required value"]),
            ("kubernetes.io/service-account-token", vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value"]),
            ("example.com/any", vec![]),
        ];
        for (kind, want) in cases {
            assert_eq!(messages(&SecretStrategy.validate(&cx(), &json!({"metadata": {}, "type": kind}))), want, "{kind}");
        }
    }

    #[test]
    fn a_docker_configuration_is_a_json_object() {
        let secret = json!({"metadata": {}, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "W10="}});
        assert_eq!(
            messages(&SecretStrategy.validate(&cx(), &secret)),
            [
                "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": json: cannot unmarshal array into Go value of type map[string]interface {}"
            ]
        );
    }

    #[test]
    fn text_becomes_data() {
        let mut secret = json!({"data": {"a": "YQ==", "b": "Yg=="}, "stringData": {"b": "x"}});
        default_secret(secret.as_object_mut().unwrap());
        assert_eq!(secret, json!({"data": {"a": "YQ==", "b": "eA=="}, "type": "Opaque"}));
    }

    #[test]
    fn the_type_never_changes() {
        let old = json!({"metadata": {}, "type": "Opaque"});
        let new = json!({"metadata": {}, "type": "x/y"});
        assert_eq!(messages(&SecretStrategy.validate_update(&cx(), &new, &old)), ["type: Invalid value: \"x/y\": field is immutable"]);
        let mut without = json!({"metadata": {}});
        SecretStrategy.prepare_for_update(&cx(), &mut without, &old);
        assert_eq!(without["type"], "Opaque");
    }

    #[test]
    fn an_unreadable_pair_is_warned_about() {
        let secret = json!({"metadata": {}, "type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}});
        assert_eq!(SecretStrategy.warnings_on_create(&cx(), &secret), ["tls: failed to find any PEM data in certificate input"]);
    }
}
