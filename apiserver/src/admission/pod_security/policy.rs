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
    fn parse(text: &str) -> Option<Level> {
        Some(match text {
            "privileged" => Level::Privileged,
            "baseline" => Level::Baseline,
            "restricted" => Level::Restricted,
            _ => return None,
        })
    }
}

/// The minor version whose rules apply; the newest is written `latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Minor(i64),
    Latest,
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let is_number = minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
        if is_number { minor.parse().ok().map(Version::Minor) } else { None }
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

/// What a namespace asks for. Audit events are not made yet, so what is to be audited is only checked for its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Policy {
    const PRIVILEGED: LevelVersion = LevelVersion { level: Level::Privileged, version: Version::Latest };

    pub fn is_fully_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }
}

/// Reads the labels of one mode. A level that cannot be read becomes `fallback`, a version the latest.
fn read_mode(labels: &Value, mode: &str, fallback: Level, errors: &mut ErrorList) -> (LevelVersion, Option<bool>, bool) {
    let label = |suffix: &str| format!("{PREFIX}{mode}{suffix}");
    let value = |key: &str| labels.get(key).and_then(Value::as_str);
    let metadata = Path::new("metadata.labels");
    let mut policy = Policy::PRIVILEGED;
    let key = label("");
    let level_is_valid = value(&key).map(|text| {
        let level = Level::parse(text);
        policy.level = level.unwrap_or(fallback);
        if level.is_none() {
            errors.push(Error::invalid(&metadata.key(&key), text, "must be one of privileged, baseline, restricted"));
        }
        level.is_some()
    });
    let key = label("-version");
    let version = value(&key);
    if let Some(text) = version {
        let parsed = Version::parse(text);
        policy.version = parsed.unwrap_or(Version::Latest);
        if parsed.is_none() {
            errors.push(Error::invalid(&metadata.key(&key), text, "must be \"latest\" or \"v1.x\""));
        }
    }
    (policy, level_is_valid, version.is_some())
}

/// The policy that a namespace's labels ask for. There always is one: enforcement fails closed, the rest open.
pub fn policy_of(namespace: &Value) -> (Policy, ErrorList) {
    let labels = at(namespace, "/metadata/labels");
    let mut errors = ErrorList::new();
    let (enforce, enforce_is_valid, _) = read_mode(labels, "enforce", Level::Restricted, &mut errors);
    let (audit, _, _) = read_mode(labels, "audit", Level::Privileged, &mut errors);
    let (mut warn, warn_is_valid, has_warn_version) = read_mode(labels, "warn", Level::Privileged, &mut errors);
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

    fn labelled(labels: &[(&str, &str)]) -> (Policy, Vec<String>) {
        let labels: serde_json::Map<String, Value> = labels.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).into())).collect();
        let (policy, errors) = policy_of(&json!({ "metadata": { "labels": labels } }));
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
}
