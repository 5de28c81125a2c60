//! AuthorizationConfiguration: who is asked what a user may do, in which order. Its form, and whether it makes sense, in upstream's words.

use std::collections::{BTreeSet, HashSet};
use std::path::Path as FilePath;
use std::time::Duration;

use apimachinery::field::{self, Error, ErrorList, Path, quote};
use apimachinery::time::{format_duration, parse_duration};
use apimachinery::validation::is_dns1123_subdomain;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use super::Mode;
use super::match_condition::Condition;
use crate::config_file;

/// The versions of the configuration; they are read alike.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
const MAX_CONDITIONS: usize = 64;
const SECOND: i64 = 1_000_000_000;
pub const KUBECONFIG_FILE: &str = "KubeConfigFile";
const IN_CLUSTER: &str = "InClusterConfig";

/// Nanoseconds, written as Go writes durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoDuration(pub i64);

impl GoDuration {
    pub fn get(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<GoDuration, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        let parsed = if text.is_empty() { Ok(0) } else { parse_duration(&text) };
        parsed.map(GoDuration).map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthorizationConfiguration {
    pub authorizers: Vec<AuthorizerConfiguration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthorizerConfiguration {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub webhook: Option<WebhookConfiguration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WebhookConfiguration {
    #[serde(rename = "authorizedTTL")]
    pub authorized_ttl: GoDuration,
    pub cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    pub unauthorized_ttl: GoDuration,
    pub cache_unauthorized_requests: Option<bool>,
    pub timeout: GoDuration,
    pub subject_access_review_version: String,
    pub match_condition_subject_access_review_version: String,
    pub failure_policy: String,
    pub connection_info: ConnectionInfo,
    pub match_conditions: Vec<MatchCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionInfo {
    #[serde(rename = "type")]
    pub kind: String,
    pub kube_config_file: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MatchCondition {
    pub expression: String,
}

impl WebhookConfiguration {
    fn set_defaults(&mut self) {
        if self.authorized_ttl.0 == 0 {
            self.authorized_ttl = GoDuration(300 * SECOND);
        }
        if self.unauthorized_ttl.0 == 0 {
            self.unauthorized_ttl = GoDuration(30 * SECOND);
        }
        self.cache_authorized_requests.get_or_insert(true);
        self.cache_unauthorized_requests.get_or_insert(true);
    }

    /// How long a permission is believed.
    pub fn allowed_for(&self) -> Duration {
        if self.cache_authorized_requests == Some(true) { self.authorized_ttl.get() } else { Duration::ZERO }
    }

    /// How long anything else is believed.
    pub fn refused_for(&self) -> Duration {
        if self.cache_unauthorized_requests == Some(true) { self.unauthorized_ttl.get() } else { Duration::ZERO }
    }
}

/// Reads a configuration and says what is wrong with it. `required` types must be there.
pub fn load(data: &[u8], required: &BTreeSet<Mode>) -> Result<AuthorizationConfiguration, String> {
    let decoded: Result<AuthorizationConfiguration, String> = match data {
        [] => Ok(AuthorizationConfiguration::default()),
        data => config_file::decode(data, "AuthorizationConfiguration", &VERSIONS),
    };
    let mut config = decoded.map_err(|why| format!("failed to load AuthorizationConfiguration from file: {why}"))?;
    config.authorizers.iter_mut().filter_map(|authorizer| authorizer.webhook.as_mut()).for_each(WebhookConfiguration::set_defaults);
    let errors = validate(&config);
    if !errors.is_empty() {
        return Err(field::aggregate(&errors));
    }
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for authorizer in &config.authorizers {
        let Ok(mode) = authorizer.kind.parse::<Mode>() else { continue };
        if mode == Mode::Webhook {
            continue;
        }
        seen.insert(mode);
        let expected = mode.authorizer_name();
        if authorizer.name != expected {
            problems.push(format!("expected name {expected} for authorizer {} instead of {}", authorizer.kind, authorizer.name));
        }
    }
    let missing: Vec<&str> = required.difference(&seen).map(|mode| mode.name()).collect();
    if !missing.is_empty() {
        problems.push(format!("missing required types: [{}]", missing.join(" ")));
    }
    match problems.as_slice() {
        [] => Ok(config),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// All that is wrong with a configuration.
pub fn validate(config: &AuthorizationConfiguration) -> ErrorList {
    let mut errors = ErrorList::new();
    let root = Path::new("authorizers");
    if config.authorizers.is_empty() {
        errors.push(Error::required(&root, "at least one authorization mode must be defined"));
    }
    let (mut kinds, mut names) = (HashSet::new(), HashSet::new());
    for (at, authorizer) in config.authorizers.iter().enumerate() {
        let path = root.index(at);
        let type_path = path.child("type");
        let kind = authorizer.kind.as_str();
        if kind.is_empty() {
            errors.push(Error::required(&type_path, ""));
            continue;
        }
        if kind.parse::<Mode>().is_err() {
            let mut known = Mode::ALL.map(Mode::name);
            known.sort_unstable();
            errors.push(Error::not_supported(&type_path, kind, &known));
            continue;
        }
        if !kinds.insert(kind) && kind != Mode::Webhook.name() {
            errors.push(Error::duplicate(&type_path, kind));
            continue;
        }
        let (name, name_path) = (authorizer.name.as_str(), path.child("name"));
        if name.is_empty() {
            errors.push(Error::required(&name_path, ""));
        } else if names.contains(name) {
            errors.push(Error::duplicate(&name_path, name));
        } else {
            let problems = is_dns1123_subdomain(name);
            if !problems.is_empty() {
                errors.push(Error::invalid(&name_path, name, format!("authorizer name is invalid: {}", problems.join(", "))));
            }
        }
        names.insert(name);
        match (&authorizer.webhook, kind == Mode::Webhook.name()) {
            (None, true) => errors.push(Error::required(&path.child("webhook"), "required when type=Webhook")),
            (Some(webhook), true) => validate_webhook(webhook, &path, &mut errors),
            (Some(_), false) => errors.push(Error::invalid(&path.child("webhook"), "non-null", "may only be specified when type=Webhook")),
            (None, false) => {}
        }
    }
    errors
}

fn validate_webhook(webhook: &WebhookConfiguration, path: &Path<'_>, errors: &mut ErrorList) {
    let mut duration = |name: &str, value: GoDuration, max: i64, why: &str| match value.0 {
        0 => errors.push(Error::required(&path.child(name), "")),
        n if n < 0 || n > max => errors.push(Error::invalid(&path.child(name), format_duration(n), why)),
        _ => {}
    };
    duration("timeout", webhook.timeout, 30 * SECOND, "must be > 0s and <= 30s");
    duration("authorizedTTL", webhook.authorized_ttl, i64::MAX, "must be > 0s");
    duration("unauthorizedTTL", webhook.unauthorized_ttl, i64::MAX, "must be > 0s");
    one_of(&webhook.subject_access_review_version, &["v1", "v1beta1"], Some(""), &path.child("subjectAccessReviewVersion"), errors);
    let wanted = (!webhook.match_conditions.is_empty()).then_some("required if match conditions are specified");
    let version = &webhook.match_condition_subject_access_review_version;
    one_of(version, &["v1"], wanted, &path.child("matchConditionSubjectAccessReviewVersion"), errors);
    one_of(&webhook.failure_policy, &["NoOpinion", "Deny"], Some(""), &path.child("failurePolicy"), errors);
    validate_connection(&webhook.connection_info, path, errors);
    errors.extend(compile(&webhook.match_conditions, path).err().unwrap_or_default());
}

/// `why_required`: why it may not be empty, if it may not.
fn one_of(value: &str, known: &[&str], why_required: Option<&str>, path: &Path<'_>, errors: &mut ErrorList) {
    match (value, why_required) {
        ("", Some(why)) => errors.push(Error::required(path, why)),
        ("", None) => {}
        (value, _) if known.contains(&value) => {}
        (value, _) => errors.push(Error::not_supported(path, value, known)),
    }
}

fn validate_connection(info: &ConnectionInfo, parent: &Path<'_>, errors: &mut ErrorList) {
    let parent = parent.child("connectionInfo");
    let (kind_path, path) = (parent.child("type"), parent.child("kubeConfigFile"));
    match (info.kind.as_str(), &info.kube_config_file) {
        ("", _) => errors.push(Error::required(&kind_path, "")),
        (IN_CLUSTER, Some(file)) => errors.push(Error::invalid(&path, file.as_str(), "can only be set when type=KubeConfigFile")),
        // An API server has no cluster around it that it could ask.
        (IN_CLUSTER, None) => errors.push(Error::invalid(&kind_path, IN_CLUSTER, "an API server needs type=KubeConfigFile")),
        (KUBECONFIG_FILE, None) => errors.push(Error::required(&path, "")),
        (KUBECONFIG_FILE, Some(file)) if file.is_empty() => errors.push(Error::required(&path, "")),
        (KUBECONFIG_FILE, Some(file)) => {
            let problem = match std::fs::metadata(file) {
                _ if !FilePath::new(file).is_absolute() => Some("must be an absolute path".to_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    Some(format!("error loading file: stat {file}: no such file or directory"))
                }
                Err(error) => Some(format!("error loading file: stat {file}: {error}")),
                Ok(found) => (!found.is_file()).then(|| "must be a regular file".to_owned()),
            };
            errors.extend(problem.map(|why| Error::invalid(&path, file.as_str(), why)));
        }
        _ => {
            // Upstream shows its own structure.
            let shown = json!({ "Type": info.kind, "KubeConfigFile": info.kube_config_file });
            errors.push(Error::not_supported(&kind_path, shown, &[IN_CLUSTER, KUBECONFIG_FILE]));
        }
    }
}

/// The conditions, ready to be evaluated.
pub fn compile(conditions: &[MatchCondition], path: &Path<'_>) -> Result<Vec<Condition>, ErrorList> {
    let root = path.child("matchConditions");
    if conditions.len() > MAX_CONDITIONS {
        return Err(vec![Error::too_many(&root, conditions.len(), MAX_CONDITIONS)]);
    }
    let (mut compiled, mut errors, mut seen) = (Vec::new(), ErrorList::new(), HashSet::new());
    for (at, condition) in conditions.iter().enumerate() {
        let item = root.index(at);
        let (text, path) = (condition.expression.as_str(), item.child("expression"));
        if text.trim().is_empty() {
            errors.push(Error::required(&path, ""));
        } else if !seen.insert(text) {
            errors.push(Error::duplicate(&path, text));
        } else {
            match Condition::compile(text) {
                Ok(condition) => compiled.push(condition),
                Err(why) => errors.push(Error::invalid(&path, text, why)),
            }
        }
    }
    if errors.is_empty() { Ok(compiled) } else { Err(errors) }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        let found = Mode::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| format!("authorization-mode {} is not a valid mode", quote(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(authorizers: &str) -> Result<AuthorizationConfiguration, String> {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: {authorizers}");
        load(text.as_bytes(), &BTreeSet::new())
    }

    fn webhook(change: &str) -> String {
        format!(
            "[{{type: Webhook, name: w, webhook: {{timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {{type: KubeConfigFile, kubeConfigFile: /dev/null}}, {change}}}}}]"
        )
    }

    #[test]
    fn authorizers_have_a_type_and_its_name() {
        assert_eq!(load_text("[{type: Node, name: node}, {type: RBAC, name: rbac}]").unwrap().authorizers.len(), 2);
        for (authorizers, expect) in [
            ("[]", "authorizers: Required value: at least one authorization mode must be defined"),
            ("[{name: a}]", "authorizers[0].type: Required value"),
            (
                "[{type: Moon, name: a}]",
                r#"authorizers[0].type: Unsupported value: "Moon": supported values: "ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook""#,
            ),
            ("[{type: RBAC, name: rbac}, {type: RBAC, name: b}]", r#"authorizers[1].type: Duplicate value: "RBAC""#),
            ("[{type: RBAC, name: other}]", "expected name rbac for authorizer RBAC instead of other"),
            (
                "[{type: RBAC, name: rbac, webhook: {}}]",
                r#"authorizers[0].webhook: Invalid value: "non-null": may only be specified when type=Webhook"#,
            ),
            ("[{type: Webhook, name: w}]", "authorizers[0].webhook: Required value: required when type=Webhook"),
        ] {
            assert_eq!(load_text(authorizers).unwrap_err(), expect, "{authorizers}");
        }
        let data = b"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{type: RBAC, name: rbac}]";
        let missing = load(data, &BTreeSet::from([Mode::Node, Mode::Rbac])).unwrap_err();
        assert_eq!(missing, "missing required types: [Node]");
    }

    /// What kube-apiserver v1.37.2 said of this file.
    #[test]
    fn many_mistakes_are_told_in_upstreams_order() {
        let authorizers = "[{type: Webhook, name: w, webhook: {timeout: 40s, subjectAccessReviewVersion: v2, failurePolicy: x, connectionInfo: {type: moon}}}, {type: Moon, name: a}, {type: RBAC, name: B_}]";
        let expect = [
            r#"authorizers[0].timeout: Invalid value: "40s": must be > 0s and <= 30s"#,
            r#"authorizers[0].subjectAccessReviewVersion: Unsupported value: "v2": supported values: "v1", "v1beta1""#,
            r#"authorizers[0].failurePolicy: Unsupported value: "x": supported values: "NoOpinion", "Deny""#,
            r#"authorizers[0].connectionInfo.type: Unsupported value: {"Type":"moon","KubeConfigFile":null}: supported values: "InClusterConfig", "KubeConfigFile""#,
            r#"authorizers[1].type: Unsupported value: "Moon": supported values: "ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook""#,
            r#"authorizers[2].name: Invalid value: "B_": authorizer name is invalid: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#,
        ];
        assert_eq!(load_text(authorizers).unwrap_err(), format!("[{}]", expect.join(", ")));
    }

    #[test]
    fn webhooks_say_all_that_they_must() {
        let errors = |text: &str| load_text(text).unwrap_err();
        assert!(errors(&webhook("")).contains("must be a regular file"), "a device is none");
        let bare = errors("[{type: Webhook, name: w, webhook: {}}]");
        for expect in [
            "timeout: Required value",
            "subjectAccessReviewVersion: Required value",
            "failurePolicy: Required value",
            "connectionInfo.type: Required value",
        ] {
            assert!(bare.contains(expect), "{bare}");
        }
        assert!(!bare.contains("TTL"), "they have defaults: {bare}");
        for (change, expect) in [
            ("authorizedTTL: -1s", r#"authorizedTTL: Invalid value: "-1s": must be > 0s"#),
            (
                "matchConditions: [{expression: 'true'}]",
                "matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified",
            ),
            (
                "matchConditionSubjectAccessReviewVersion: v1, matchConditions: [{expression: 'request.user'}]",
                r#"matchConditions[0].expression: Invalid value: "request.user": must evaluate to bool but got string"#,
            ),
        ] {
            let refused = errors(&webhook(change));
            assert!(refused.contains(expect), "{refused}");
        }
    }
}
