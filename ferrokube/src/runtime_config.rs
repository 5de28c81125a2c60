//! `--runtime-config`: which APIs are served.
//!
//! Every API that is built in is served, and no other, so a setting is accepted if it says just that.

use std::str::FromStr;

use apimachinery::go_bool;
use apiserver::registry;

/// A setting that changes nothing.
#[derive(Clone, Debug)]
pub struct Setting;

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Setting, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let on = match value.trim() {
            "" => true,
            value => go_bool::parse(value).map_err(|error| format!("invalid value of {key}: {value}, err: {error}"))?,
        };
        let key = key.trim();
        let as_it_is = match key {
            "api/all" if !on => return Err("invalid runtime-config with only api/all=false".to_owned()),
            "api/all" => return Err("api/all=true: alpha and beta versions of APIs are not available".to_owned()),
            "api/ga" => true,
            "api/beta" | "api/alpha" => false,
            _ => is_served(key)?,
        };
        match (on, as_it_is) {
            (true, false) => Err(format!("{key} is not available")),
            (false, true) => Err(format!("{key} cannot be switched off")),
            _ => Ok(Setting),
        }
    }
}

/// Whether `v1`, `group/version` or `group/version/resource` is served; an error if no such group is known.
fn is_served(key: &str) -> Result<bool, String> {
    let parts: Vec<&str> = key.split('/').collect();
    let (group, version, resource) = match parts[..] {
        [version] | ["api", version] => ("", version, None),
        [group, version] => (group, version, None),
        [group, version, resource] => (group, version, Some(resource)),
        _ => return Err(format!("invalid key {key}")),
    };
    let definitions = registry::definitions();
    if !definitions.iter().any(|d| d.group == group) {
        return Err(format!("unknown api groups {group}/{version}"));
    }
    Ok(definitions.iter().any(|d| d.group == group && d.version == version && resource.is_none_or(|r| d.plural == r)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_so_already_is_accepted() {
        for text in [
            "v1=true",
            "v1",
            "apps/v1=true",
            "apps/v1/deployments=true",
            "api/ga=true",
            "api/beta=false",
            "api/alpha=false",
            "batch/v2alpha1=false",
        ] {
            assert!(text.parse::<Setting>().is_ok(), "{text}");
        }
        let cases = [
            ("api/all=true", "api/all=true: alpha and beta versions of APIs are not available"),
            ("api/all=false", "invalid runtime-config with only api/all=false"),
            ("api/beta=true", "api/beta is not available"),
            ("apps/v1=false", "apps/v1 cannot be switched off"),
            ("example.com/v1=true", "unknown api groups example.com/v1"),
            ("batch/v2alpha1=true", "batch/v2alpha1 is not available"),
            ("a/b/c/d=true", "invalid key a/b/c/d"),
            ("v1=yes", "invalid value of v1: yes, err: strconv.ParseBool: parsing \"yes\": invalid syntax"),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Setting>().unwrap_err(), expected, "{text}");
        }
    }
}
