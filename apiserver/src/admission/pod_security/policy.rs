//! Levels, versions and the labels of a namespace that choose them.

use std::fmt;

use apimachinery::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::registry::read::at;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How strict; the order is that of strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    /// An error says what a level must be.
    pub fn parse(text: &str) -> Result<Level, &'static str> {
        match text {
            "privileged" => Ok(Level::Privileged),
            "baseline" => Ok(Level::Baseline),
            "restricted" => Ok(Level::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

/// The minor version whose rules apply; the newest is written `latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Minor(i64),
    Latest,
}

impl Version {
    /// An error says what a version must be.
    pub fn parse(text: &str) -> Result<Version, &'static str> {
        if text == "latest" {
            return Ok(Version::Latest);
        }
        let minor = text.strip_prefix("v1.").unwrap_or_default();
        let is_number = minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
        let minor = if is_number { minor.parse().ok() } else { None };
        minor.map(Version::Minor).ok_or("must be \"latest\" or \"v1.x\"")
    }
}

/// A level at a version: `baseline:latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Policy {
    pub fn is_fully_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }

    /// Whether nothing is treated differently by the other.
    pub fn is_equivalent(&self, other: &Policy) -> bool {
        let modes = [(self.enforce, other.enforce), (self.audit, other.audit), (self.warn, other.warn)];
        modes.into_iter().all(|(a, b)| a == b || (a.level == Level::Privileged && b.level == Level::Privileged))
    }
}

/// Whether the labels of one mode say something.
pub fn is_labelled(labels: &Value, mode: &str) -> bool {
    [format!("{PREFIX}{mode}"), format!("{PREFIX}{mode}-version")].iter().any(|key| labels.get(key).is_some())
}

/// Reads the labels of one mode, over what counts without. A level that cannot be read becomes `fallback`, a version the latest.
fn read_mode(
    labels: &Value,
    mode: &str,
    default: LevelVersion,
    fallback: Level,
    errors: &mut ErrorList,
) -> (LevelVersion, Option<bool>, bool) {
    let label = |suffix: &str| format!("{PREFIX}{mode}{suffix}");
    let value = |key: &str| labels.get(key).and_then(Value::as_str);
    let metadata = Path::new("metadata.labels");
    let mut policy = default;
    let key = label("");
    let level_is_valid = value(&key).map(|text| {
        let level = Level::parse(text);
        policy.level = level.unwrap_or(fallback);
        errors.extend(level.err().map(|why| Error::invalid(&metadata.key(&key), text, why)));
        level.is_ok()
    });
    let key = label("-version");
    let version = value(&key);
    if let Some(text) = version {
        let parsed = Version::parse(text);
        policy.version = parsed.unwrap_or(Version::Latest);
        errors.extend(parsed.err().map(|why| Error::invalid(&metadata.key(&key), text, why)));
    }
    (policy, level_is_valid, version.is_some())
}

/// The policy that a namespace's labels ask for, over the one that counts without. There always is one: enforcement fails closed, the rest
/// open.
pub fn policy_of(namespace: &Value, default: &Policy) -> (Policy, ErrorList) {
    let labels = at(namespace, "/metadata/labels");
    let mut errors = ErrorList::new();
    if labels.as_object().is_none_or(serde_json::Map::is_empty) {
        return (*default, errors);
    }
    let (enforce, enforce_is_valid, _) = read_mode(labels, "enforce", default.enforce, Level::Restricted, &mut errors);
    let (audit, _, _) = read_mode(labels, "audit", default.audit, Level::Privileged, &mut errors);
    let (mut warn, warn_is_valid, has_warn_version) = read_mode(labels, "warn", default.warn, Level::Privileged, &mut errors);
    // Whoever enforces something stricter wants controllers to be warned of it.
    if warn_is_valid.is_none() && enforce_is_valid == Some(true) && enforce.level > warn.level {
        warn.level = enforce.level;
        if !has_warn_version {
            warn.version = enforce.version;
        }
    }
    (Policy { enforce, audit, warn }, errors)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PRIVILEGED: LevelVersion = LevelVersion { level: Level::Privileged, version: Version::Latest };
    const NOTHING: Policy = Policy { enforce: PRIVILEGED, audit: PRIVILEGED, warn: PRIVILEGED };

    fn labelled(labels: &[(&str, &str)]) -> (Policy, Vec<String>) {
        let labels: serde_json::Map<String, Value> = labels.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).into())).collect();
        let (policy, errors) = policy_of(&json!({ "metadata": { "labels": labels } }), &NOTHING);
        (policy, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn labels_choose_the_policy() {
        let show = |labels: &[(&str, &str)]| {
            let (policy, errors) = labelled(labels);
            assert!(errors.is_empty(), "{errors:?}");
            format!("{} {} {}", policy.enforce, policy.audit, policy.warn)
        };
        assert_eq!(show(&[]), "privileged:latest privileged:latest privileged:latest");
        assert_eq!(show(&[("enforce", "baseline")]), "baseline:latest privileged:latest baseline:latest");
        assert_eq!(
            show(&[("enforce", "restricted"), ("enforce-version", "v1.20"), ("warn", "baseline")]),
            "restricted:v1.20 privileged:latest baseline:latest"
        );
        assert_eq!(show(&[("enforce", "baseline"), ("warn-version", "v1.9")]), "baseline:latest privileged:latest baseline:v1.9");
    }

    #[test]
    fn enforcement_fails_closed_and_the_rest_open() {
        let (policy, errors) = labelled(&[("enforce", "x"), ("warn", "y"), ("audit-version", "v1.01")]);
        assert_eq!(format!("{} {} {}", policy.enforce, policy.audit, policy.warn), "restricted:latest privileged:latest privileged:latest");
        assert_eq!(
            errors,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \"v1.01\": must be \"latest\" or \"v1.x\"",
                "metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"y\": must be one of privileged, baseline, restricted",
            ]
        );
    }

    #[test]
    fn labels_go_before_what_counts_without() {
        let baseline = LevelVersion { level: Level::Baseline, version: Version::Minor(20) };
        let default = Policy { enforce: baseline, audit: baseline, warn: PRIVILEGED };
        let show = |labels: Value| {
            let (policy, errors) = policy_of(&json!({ "metadata": { "labels": labels } }), &default);
            assert!(errors.is_empty(), "{errors:?}");
            format!("{} {} {}", policy.enforce, policy.audit, policy.warn)
        };
        assert_eq!(show(Value::Null), "baseline:v1.20 baseline:v1.20 privileged:latest");
        assert_eq!(show(json!({ "a": "b" })), "baseline:v1.20 baseline:v1.20 privileged:latest");
        let enforce = |text: &str| json!({ format!("{PREFIX}enforce"): text });
        assert_eq!(show(enforce("restricted")), "restricted:v1.20 baseline:v1.20 restricted:v1.20");
        assert_eq!(show(enforce("privileged")), "privileged:v1.20 baseline:v1.20 privileged:latest");
        assert!(default.is_equivalent(&default) && !default.is_equivalent(&NOTHING));
    }
}
