//! Semantic versions, as strict as the library that Kubernetes uses.

use std::cmp::Ordering;
use std::sync::Arc;

use super::Row;
use crate::value::{EvalError, Evaluated, Value};

pub(super) const ROWS: &[Row] = &[
    ("semver", "string_to_semver", "(string) -> kubernetes.Semver", to_semver),
    ("semver", "string_bool_to_semver", "(string, bool) -> kubernetes.Semver", to_semver),
    ("isSemver", "is_semver_string", "(string) -> bool", is_semver),
    ("isSemver", "is_semver_string_bool", "(string, bool) -> bool", is_semver),
    ("isGreaterThan", "semver_is_greater_than", "kubernetes.Semver.(kubernetes.Semver) -> bool", is_greater),
    ("isLessThan", "semver_is_less_than", "kubernetes.Semver.(kubernetes.Semver) -> bool", is_less),
    ("compareTo", "semver_compare_to", "kubernetes.Semver.(kubernetes.Semver) -> int", compare_to),
    ("major", "semver_major", "kubernetes.Semver.() -> int", major),
    ("minor", "semver_minor", "kubernetes.Semver.() -> int", minor),
    ("patch", "semver_patch", "kubernetes.Semver.() -> int", patch),
];

/// A version. Build metadata is checked and dropped: it has no place in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    numbers: [u64; 3],
    pre_release: Vec<Identifier>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    /// Numbers come before words.
    Number(u64),
    Word(String),
}

impl Version {
    pub fn parse(text: &str) -> Result<Version, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let parts: Vec<&str> = text.splitn(3, '.').collect();
        let [major, minor, rest] = parts[..] else { return Err("No Major.Minor.Patch elements found".to_owned()) };
        let (major, minor) = (number("major", "Major", major)?, number("minor", "Minor", minor)?);
        let (rest, build) = rest.split_once('+').map_or((rest, None), |(rest, build)| (rest, Some(build)));
        let (patch, pre) = rest.split_once('-').map_or((rest, None), |(patch, pre)| (patch, Some(pre)));
        let patch = number("patch", "Patch", patch)?;
        let pre_release = pre.map_or(Ok(Vec::new()), |pre| pre.split('.').map(identifier).collect())?;
        for part in build.into_iter().flat_map(|build| build.split('.')) {
            if part.is_empty() {
                return Err("Build meta data is empty".to_owned());
            }
            if !is_word(part) {
                return Err(format!("Invalid character(s) found in build meta data {part:?}"));
            }
        }
        Ok(Version { numbers: [major, minor, patch], pre_release })
    }

    /// Takes a leading `v`, leading zeros and missing parts.
    fn parse_normalized(text: &str) -> Result<Version, String> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text.splitn(3, '.').map(str::to_owned).collect();
        for part in &mut parts {
            if part.len() > 1 {
                let stripped = part.trim_start_matches('0');
                *part = if stripped.starts_with(|c: char| c.is_ascii_digit()) { stripped.to_owned() } else { format!("0{stripped}") };
            }
        }
        if parts.len() < 3 {
            if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
                return Err("short version cannot contain PreRelease/Build meta data".to_owned());
            }
            parts.resize(3, "0".to_owned());
        }
        Version::parse(&parts.join("."))
    }

    pub fn cmp_precedence(&self, other: &Version) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre_release.is_empty(), other.pre_release.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre_release.cmp(&other.pre_release),
        })
    }
}

fn number(name: &str, title: &str, text: &str) -> Result<u64, String> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {name} number {text:?}"));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{title} number must not contain leading zeroes {text:?}"));
    }
    parse_uint(text)
}

fn parse_uint(text: &str) -> Result<u64, String> {
    let why = if text.is_empty() { "invalid syntax" } else { "value out of range" };
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: {why}"))
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn identifier(text: &str) -> Result<Identifier, String> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {text:?}"));
        }
        return parse_uint(text).map(Identifier::Number);
    }
    if is_word(text) { Ok(Identifier::Word(text.to_owned())) } else { Err(format!("Invalid character(s) found in prerelease {text:?}")) }
}

fn parsed(args: &[Value<'_>]) -> Result<Version, EvalError> {
    let text = args[0].as_str().ok_or_else(EvalError::no_such_overload)?;
    let normalize = args.get(1).and_then(Value::as_bool).unwrap_or(false);
    let version = if normalize { Version::parse_normalized(text) } else { Version::parse(text) };
    version.map_err(EvalError::new)
}

fn version<'v, 'a>(value: &'v Value<'a>) -> Result<&'v Version, EvalError> {
    match value {
        Value::Semver(version) => Ok(version),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_semver<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    parsed(args).map(|version| Value::Semver(Arc::new(version)))
}

fn is_semver<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(parsed(args).is_ok()))
}

fn compare(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    Ok(version(&args[0])?.cmp_precedence(version(&args[1])?))
}

fn is_greater<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    compare(args).map(|ordering| Value::Bool(ordering.is_gt()))
}

fn is_less<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    compare(args).map(|ordering| Value::Bool(ordering.is_lt()))
}

fn compare_to<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    compare(args).map(|ordering| Value::Int(ordering as i64))
}

fn part<'a>(args: &[Value<'a>], index: usize) -> Evaluated<'a> {
    Ok(Value::Int(version(&args[0])?.numbers[index] as i64))
}

fn major<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, 0)
}

fn minor<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, 1)
}

fn patch<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    part(args, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered_as_their_specification_says() {
        let order = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0", "1.0.1"];
        for pair in order.windows(2) {
            let (a, b) = (Version::parse(pair[0]).unwrap(), Version::parse(pair[1]).unwrap());
            assert_eq!(a.cmp_precedence(&b), Ordering::Less, "{pair:?}");
        }
        assert_eq!(Version::parse("1.2"), Err("No Major.Minor.Patch elements found".to_owned()));
        assert_eq!(Version::parse_normalized("v01.2"), Version::parse("1.2.0"));
        assert_eq!(Version::parse("v1.0.0"), Err("Invalid character(s) found in major number \"v1\"".to_owned()));
    }
}
