//! EncryptionConfiguration (`apiserver.config.k8s.io/v1`): read, defaulted and checked in upstream's words.
//!
//! Pure. No message shows a secret.

use std::collections::BTreeSet;
use std::time::Duration;

use apimachinery::field::{self, ErrorList, Path};
use apimachinery::yaml;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";
const DEFAULT_KMS_TIMEOUT: Duration = Duration::from_secs(3);
const KMS_V1: &str = "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.  Set --feature-gates=KMSv1=true to use the deprecated KMSv1 feature.";
const NO_PROVIDER: &str = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";

/// Which providers a set of resources has.
#[derive(Debug)]
pub struct Rule {
    /// `secrets`, `deployments.apps`, `*.`, `*.apps` or `*.*`.
    pub resources: Vec<GroupResource>,
    /// The first writes.
    pub providers: Vec<Provider>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupResource {
    pub group: String,
    pub resource: String,
}

impl GroupResource {
    /// Everything before the first dot is the resource.
    pub fn parse(text: &str) -> GroupResource {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        GroupResource { group: group.to_owned(), resource: resource.to_owned() }
    }

    fn any() -> GroupResource {
        GroupResource { group: "*".to_owned(), resource: "*".to_owned() }
    }

    fn shown(&self) -> String {
        match (self.group.as_str(), self.resource.as_str()) {
            ("", "*") => "*.".to_owned(),
            ("", resource) => resource.to_owned(),
            (group, resource) => format!("{resource}.{group}"),
        }
    }
}

/// A key and the name that stands before what it has encrypted.
pub struct Key {
    pub name: String,
    pub secret: Vec<u8>,
}

/// Secrets are not shown.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub enum Provider {
    Identity,
    AesGcm(Vec<Key>),
    AesCbc(Vec<Key>),
    Secretbox(Vec<Key>),
    Kms(Kms),
}

/// A plugin that is asked over a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kms {
    pub name: String,
    /// The path of the socket.
    pub socket: String,
    pub timeout: Duration,
}

/// Reads a file that has been found at a path. `reload`: it will be read again as it changes.
pub fn parse(text: &[u8], path: &str, reload: bool) -> Result<Vec<Rule>, String> {
    let undecodable = |why: String| {
        format!("error while parsing file: error decoding encryption provider configuration file {}: {why}", field::quote(path))
    };
    if text.is_empty() {
        let path = field::quote(path);
        return Err(format!("error while parsing file: error while loading file: encryption provider configuration file {path} is empty"));
    }
    let parsed = yaml::parse(text).map_err(|error| undecodable(error.to_string()))?;
    if let Some(error) = &parsed.strict_error {
        return Err(undecodable(format!("strict decoding error: {error}")));
    }
    let value = parsed.value;
    let member = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("");
    if member("kind").is_empty() {
        return Err(undecodable("Object 'Kind' is missing".to_owned()));
    }
    if member("apiVersion").is_empty() {
        return Err(undecodable("Object 'apiVersion' is missing".to_owned()));
    }
    if (member("kind"), member("apiVersion")) != (KIND, API_VERSION) {
        let (kind, version) = (field::quote(member("kind")), field::quote(member("apiVersion")));
        return Err(undecodable(format!("no kind {kind} is registered for version {version} in scheme")));
    }
    let unknown = unknown_fields(&value);
    if !unknown.is_empty() {
        return Err(undecodable(format!("strict decoding error: {}", unknown.join(", "))));
    }
    let errors = validate(&value, reload);
    if !errors.is_empty() {
        return Err(format!("error while parsing file: {}", field::aggregate(&errors)));
    }
    let rules = rules(&value).map_err(|why| format!("error while building transformers: {why}"))?;
    check_masks(&rules).map_err(|why| format!("error while building transformers: {why}"))?;
    Ok(rules)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("")
}

fn texts<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    list(value, name).iter().filter_map(Value::as_str).collect()
}

fn unknown_fields(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |place: &str, value: &Value, known: &[&str]| {
        let names = value.as_object().into_iter().flat_map(serde_json::Map::keys);
        found.extend(names.filter(|name| !known.contains(&name.as_str())).map(|name| format!("unknown field \"{place}{name}\"")));
    };
    check("", value, &["kind", "apiVersion", "resources"]);
    for (at, rule) in list(value, "resources").iter().enumerate() {
        check(&format!("resources[{at}]."), rule, &["resources", "providers"]);
        for (of, provider) in list(rule, "providers").iter().enumerate() {
            let place = format!("resources[{at}].providers[{of}].");
            check(&place, provider, &PROVIDERS);
            for (name, settings) in provider.as_object().into_iter().flatten() {
                let known: &[&str] = match name.as_str() {
                    "kms" => &["apiVersion", "name", "cachesize", "endpoint", "timeout"],
                    "identity" => &[],
                    _ => &["keys"],
                };
                check(&format!("{place}{name}."), settings, known);
                for (key, settings) in list(settings, "keys").iter().enumerate() {
                    check(&format!("{place}{name}.keys[{key}]."), settings, &["name", "secret"]);
                }
            }
        }
    }
    found
}

const PROVIDERS: [&str; 5] = ["aesgcm", "aescbc", "secretbox", "identity", "kms"];

fn validate(value: &Value, reload: bool) -> ErrorList {
    let root = Path::new("resources");
    if list(value, "resources").is_empty() {
        return vec![field::Error::required(&root, "at least one resources is required")];
    }
    let mut errors = ErrorList::new();
    let mut names = BTreeSet::new();
    for (at, rule) in list(value, "resources").iter().enumerate() {
        let at = root.index(at);
        let (resources, providers) = (at.child("resources"), at.child("providers"));
        let given = texts(rule, "resources");
        if given.is_empty() {
            errors.push(field::Error::required(&resources, format!("at least one {resources} is required")));
        }
        errors.extend(validate_overlap(&given, &resources));
        errors.extend(given.iter().enumerate().filter_map(|(of, name)| validate_resource(name, &resources.index(of))));
        if list(rule, "providers").is_empty() {
            errors.push(field::Error::required(&providers, format!("at least one {providers} is required")));
        }
        for (of, provider) in list(rule, "providers").iter().enumerate() {
            errors.extend(validate_provider(provider, &providers.index(of), &mut names, reload));
        }
    }
    errors
}

fn validate_overlap(resources: &[&str], path: &Path<'_>) -> ErrorList {
    let parsed: Vec<GroupResource> = resources.iter().map(|text| GroupResource::parse(text)).collect();
    let (mut overlaps, mut repeats) = (false, false);
    for (i, one) in parsed.iter().enumerate() {
        for other in parsed.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, other)| other) {
            if one == other && !repeats {
                repeats = true;
                continue;
            }
            overlaps |= *one == GroupResource::any() || (one.group == other.group && (one.resource == "*" || other.resource == "*"));
        }
    }
    let shown: Vec<String> = resources.iter().map(|text| (*text).to_owned()).collect();
    let mut errors = ErrorList::new();
    if repeats {
        errors.push(field::Error::invalid(path, shown.clone(), "the same resource cannot be specified multiple times"));
    }
    if overlaps {
        let why = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
        errors.push(field::Error::invalid(path, shown, why));
    }
    errors
}

fn validate_resource(name: &str, path: &Path<'_>) -> Option<field::Error> {
    let parsed = GroupResource::parse(name);
    let why = if name.to_lowercase() != name {
        "resource name should not contain capital letters"
    } else if name == "*" {
        "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
    } else if ["apiserveripinfo", "serviceipallocations", "servicenodeportallocations"].contains(&name) {
        "resources which do not have REST API/s cannot be encrypted"
    } else if parsed.group == "events.k8s.io" {
        "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"
    } else if parsed.group == "extensions" {
        "'extensions' group has been removed and cannot be used for encryption"
    } else if parsed.group == "*" && parsed.resource != "*" {
        "encrypting the same resource across groups is not supported"
    } else {
        return None;
    };
    Some(field::Error::invalid(path, name, why))
}

fn validate_provider(provider: &Value, path: &Path<'_>, names: &mut BTreeSet<String>, reload: bool) -> ErrorList {
    let given: Vec<&str> = PROVIDERS.into_iter().filter(|name| provider.get(name).is_some_and(|value| !value.is_null())).collect();
    // Upstream shows the structure; here it could hold secrets.
    let wrong = |why: &str| vec![field::Error::invalid(path, "REDACTED", why)];
    let [one] = given.as_slice() else {
        return wrong(if given.is_empty() {
            NO_PROVIDER
        } else {
            "more than one provider specified in a single element, should split into different list elements"
        });
    };
    let settings = provider.get(one).unwrap_or(&Value::Null);
    let within = path.child(one);
    match *one {
        "kms" => validate_kms(settings, &within, names, reload),
        "identity" => ErrorList::new(),
        "secretbox" => validate_keys(list(settings, "keys"), &within.child("keys"), &[32]),
        _ => validate_keys(list(settings, "keys"), &within.child("keys"), &[16, 24, 32]),
    }
}

fn validate_keys(keys: &[Value], path: &Path<'_>, sizes: &[usize]) -> ErrorList {
    if keys.is_empty() {
        return vec![field::Error::required(path, "at least one keys is required")];
    }
    let mut errors = ErrorList::new();
    for (at, key) in keys.iter().enumerate() {
        let at = path.index(at);
        let secret = at.child("secret");
        if text(key, "name").is_empty() {
            errors.push(field::Error::required(&at.child("name"), "name is a mandatory field for a key"));
        }
        if text(key, "secret").is_empty() {
            errors.push(field::Error::required(&secret, "secret is a mandatory field for a key"));
            continue;
        }
        match STANDARD.decode(text(key, "secret")) {
            Err(_) => errors.push(field::Error::invalid(&secret, "REDACTED", "secrets must be base64 encoded")),
            Ok(decoded) if !sizes.contains(&decoded.len()) => {
                let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
                let why = format!("secret is not of the expected length, got {}, expected one of [{}]", decoded.len(), sizes.join(" "));
                errors.push(field::Error::invalid(&secret, "REDACTED", why));
            }
            Ok(_) => {}
        }
    }
    errors
}

/// `v1` if nothing is said.
fn kms_version(settings: &Value) -> &str {
    match text(settings, "apiVersion") {
        "" => "v1",
        version => version,
    }
}

fn timeout(settings: &Value) -> Result<i64, String> {
    match text(settings, "timeout") {
        "" => Ok(i64::try_from(DEFAULT_KMS_TIMEOUT.as_nanos()).unwrap_or(i64::MAX)),
        given => apimachinery::time::parse_duration(given),
    }
}

fn validate_kms(settings: &Value, path: &Path<'_>, names: &mut BTreeSet<String>, reload: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let (version, name, endpoint) = (kms_version(settings), text(settings, "name"), text(settings, "endpoint"));
    let at = path.child("name");
    if name.is_empty() {
        errors.push(field::Error::required(&at, "name is a mandatory field for a provider"));
    }
    if version != "v1" && name.contains(':') {
        errors.push(field::Error::invalid(&at, name, format!("invalid KMS provider name {name}, must not contain ':'")));
    }
    if (reload || version != "v1") && names.contains(name) {
        errors.push(field::Error::invalid(&at, name, format!("duplicate KMS provider name {name}, names must be unique")));
    }
    names.insert(name.to_owned());
    let at = path.child("timeout");
    match timeout(settings) {
        Ok(nanoseconds) if nanoseconds > 0 => {}
        Ok(nanoseconds) => {
            let shown = apimachinery::time::format_duration(nanoseconds);
            errors.push(field::Error::invalid(&at, shown, "timeout should be a positive value"));
        }
        Err(why) => errors.push(field::Error::invalid(&at, text(settings, "timeout"), why)),
    }
    let at = path.child("endpoint");
    if endpoint.is_empty() {
        errors.push(field::Error::invalid(&at, "", "endpoint is a mandatory field for a kms"));
    } else if !endpoint.starts_with("unix:") {
        let scheme = endpoint.split_once(':').map_or("", |(scheme, _)| scheme);
        let why = format!("unsupported scheme {} for KMS provider, only unix is supported", field::quote(scheme));
        errors.push(field::Error::invalid(&at, endpoint, why));
    }
    let at = path.child("cachesize");
    match settings.get("cachesize").filter(|size| !size.is_null()) {
        Some(size) if version != "v1" => errors.push(field::Error::invalid(&at, size.clone(), "cachesize is not supported in v2")),
        Some(size) if size.as_i64() == Some(0) => {
            errors.push(field::Error::invalid(&at, size.clone(), "cachesize should be a positive value, or negative to disable"));
        }
        _ => {}
    }
    if !["v1", "v2"].contains(&version) {
        let why = format!("unsupported apiVersion {} for KMS provider, only v1 and v2 are supported", "apiVersion");
        errors.push(field::Error::invalid(&path.child("apiVersion"), version, why));
    }
    errors
}

/// The rules of a file that has been checked.
fn rules(value: &Value) -> Result<Vec<Rule>, String> {
    let rule = |rule: &Value| {
        let providers: Result<_, String> = list(rule, "providers").iter().map(provider).collect();
        Ok(Rule { resources: texts(rule, "resources").into_iter().map(GroupResource::parse).collect(), providers: providers? })
    };
    list(value, "resources").iter().map(rule).collect()
}

fn provider(value: &Value) -> Result<Provider, String> {
    let keys = |name: &str| -> Option<Vec<Key>> {
        let settings = value.get(name).filter(|settings| !settings.is_null())?;
        let key = |key: &Value| Some(Key { name: text(key, "name").to_owned(), secret: STANDARD.decode(text(key, "secret")).ok()? });
        list(settings, "keys").iter().map(key).collect()
    };
    if let Some(keys) = keys("aesgcm") {
        return Ok(Provider::AesGcm(keys));
    }
    if let Some(keys) = keys("aescbc") {
        return Ok(Provider::AesCbc(keys));
    }
    if let Some(keys) = keys("secretbox") {
        return Ok(Provider::Secretbox(keys));
    }
    let Some(settings) = value.get("kms").filter(|settings| !settings.is_null()) else { return Ok(Provider::Identity) };
    if kms_version(settings) == "v1" {
        return Err(KMS_V1.to_owned());
    }
    let endpoint = text(settings, "endpoint");
    let socket = endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    // `@` names a socket that is no file; upstream takes it behind a slash.
    let socket = socket.strip_prefix('/').filter(|rest| rest.starts_with('@')).unwrap_or(socket);
    let timeout =
        timeout(settings).ok().and_then(|nanoseconds| u64::try_from(nanoseconds).ok()).map_or(DEFAULT_KMS_TIMEOUT, Duration::from_nanos);
    Ok(Provider::Kms(Kms { name: text(settings, "name").to_owned(), socket: socket.to_owned(), timeout }))
}

/// A rule that an earlier one leaves nothing for is a mistake.
fn check_masks(rules: &[Rule]) -> Result<(), String> {
    let mut seen: BTreeSet<&GroupResource> = BTreeSet::new();
    for resource in rules.iter().flat_map(|rule| &rule.resources) {
        let whole_group = GroupResource { group: resource.group.clone(), resource: "*".to_owned() };
        for mask in [whole_group, GroupResource::any()] {
            if seen.contains(&mask) {
                let (resource, mask) = (field::quote(&resource.shown()), field::quote(&mask.shown()));
                return Err(format!("resource {resource} is masked by earlier rule {mask}"));
            }
        }
        seen.insert(resource);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(resources: &str) -> Result<Vec<Rule>, String> {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{resources}");
        parse(text.as_bytes(), "f", false)
    }

    #[test]
    fn providers_come_in_the_order_in_which_they_are_tried() {
        let key = STANDARD.encode([7; 32]);
        let rules = read(&format!(
            "- resources: [secrets, '*.apps']\n  providers:\n  - kms: {{apiVersion: v2, name: k, endpoint: 'unix:///run/k.sock'}}\n  - aescbc: {{keys: [{{name: a, secret: {key}}}]}}\n  - identity: {{}}\n"
        ))
        .unwrap();
        assert_eq!(rules[0].resources, [GroupResource::parse("secrets"), GroupResource { group: "apps".into(), resource: "*".into() }]);
        let kms = Kms { name: "k".into(), socket: "/run/k.sock".into(), timeout: Duration::from_secs(3) };
        match rules[0].providers.as_slice() {
            [Provider::Kms(given), Provider::AesCbc(keys), Provider::Identity] => {
                assert_eq!((given, keys[0].name.as_str(), keys[0].secret.len()), (&kms, "a", 32));
            }
            other => panic!("{other:?}"),
        }
        assert!(!format!("{rules:?}").contains(&key));
    }

    #[test]
    fn mistakes_are_told_in_upstreams_words() {
        let key = STANDARD.encode([7; 32]);
        let identity = "  providers: [{identity: {}}]";
        for (resources, expect) in [
            ("[]".to_owned(), "resources: Required value: at least one resources is required"),
            (
                "- resources: [secrets]".to_owned(),
                "resources[0].providers: Required value: at least one resources[0].providers is required",
            ),
            (
                format!("- resources: ['*']\n{identity}"),
                "resources[0].resources[0]: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
            ),
            (
                format!("- resources: [secrets, '*.']\n{identity}"),
                "resources[0].resources: Invalid value: [\"secrets\",\"*.\"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked",
            ),
            (
                "- resources: [secrets]\n  providers: [{aesgcm: {keys: [{name: a, secret: YWJj}]}}]".to_owned(),
                "resources[0].providers[0].aesgcm.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 3, expected one of [16 24 32]",
            ),
            (
                "- resources: [secrets]\n  providers: [{kms: {name: k, endpoint: 'unix:///k'}}]".to_owned(),
                "error while building transformers: KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.  Set --feature-gates=KMSv1=true",
            ),
            (
                "- resources: [secrets]\n  providers: [{kms: {apiVersion: v2, name: k, endpoint: 'tcp://k'}}]".to_owned(),
                "resources[0].providers[0].kms.endpoint: Invalid value: \"tcp://k\": unsupported scheme \"tcp\" for KMS provider, only unix is supported",
            ),
            (
                format!("- resources: ['*.*']\n{identity}\n- resources: [secrets]\n{identity}"),
                "error while building transformers: resource \"secrets\" is masked by earlier rule \"*.*\"",
            ),
            (
                format!("- resources: [secrets]\n  providers: [{{aesgmc: {{keys: [{{name: a, secret: {key}}}]}}}}]"),
                "unknown field \"resources[0].providers[0].aesgmc\"",
            ),
        ] {
            let said = read(&resources).map(drop).unwrap_err();
            assert!(said.contains(expect), "{said}");
            assert!(!said.contains(&key));
        }
    }
}
