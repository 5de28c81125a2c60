//! PodSecurityConfiguration: what counts where a namespace's labels say nothing, and who is exempt.

use std::collections::HashSet;

use apimachinery::field::{self, Error, ErrorList, Path};
use apimachinery::validation::{is_dns1123_label, is_dns1123_subdomain};
use serde::{Deserialize, Serialize};

use super::policy::{Level, LevelVersion, Policy, Version};
use crate::admission::Unfit;
use crate::config_file::{self, Strictness};

const KINDS: [(&str, &str); 3] = [
    ("pod-security.admission.config.k8s.io/v1", "PodSecurityConfiguration"),
    ("pod-security.admission.config.k8s.io/v1beta1", "PodSecurityConfiguration"),
    ("pod-security.admission.config.k8s.io/v1alpha1", "PodSecurityConfiguration"),
];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct PodSecurityConfiguration {
    defaults: Option<Defaults>,
    exemptions: Option<ExemptionLists>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ExemptionLists {
    usernames: Option<Vec<String>>,
    namespaces: Option<Vec<String>>,
    runtime_classes: Option<Vec<String>>,
}

/// Who is not held to any policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exemptions {
    usernames: HashSet<String>,
    namespaces: HashSet<String>,
    runtime_classes: HashSet<String>,
}

impl Exemptions {
    pub fn has_user(&self, name: &str) -> bool {
        !name.is_empty() && self.usernames.contains(name)
    }

    pub fn has_namespace(&self, name: &str) -> bool {
        !name.is_empty() && self.namespaces.contains(name)
    }

    pub fn has_runtime_class(&self, name: &str) -> bool {
        !name.is_empty() && self.runtime_classes.contains(name)
    }
}

/// Reads a configuration: the policy of namespaces that say nothing, and who is exempt.
pub fn read(told: Option<&[u8]>) -> Result<(Policy, Exemptions), Unfit> {
    let configuration: PodSecurityConfiguration = match told {
        None | Some([]) => PodSecurityConfiguration::default(),
        Some(text) => config_file::decode_any(text, &KINDS, Strictness::Strict).map_err(|error| Unfit::Unreadable(error.to_string()))?,
    };
    let defaults = configuration.defaults.unwrap_or_default();
    let policy = policy(&defaults).map_err(|why| Unfit::Senseless(format!("PodSecurity configuration error: {why}")))?;
    let lists = configuration.exemptions.unwrap_or_default();
    let mut errors = ErrorList::new();
    let mut set = |name: &str, list: Option<Vec<String>>, check: fn(&str) -> Vec<String>| {
        let root = Path::new("exemptions");
        let root = root.child(name);
        let mut seen = HashSet::new();
        for (at, item) in list.into_iter().flatten().enumerate() {
            let problems = check(&item);
            if !problems.is_empty() {
                errors.push(Error::invalid(&root.index(at), item, problems.join(", ")));
            } else if seen.contains(&item) {
                errors.push(Error::duplicate(&root.index(at), item));
            } else {
                seen.insert(item);
            }
        }
        seen
    };
    let namespaces = set("namespaces", lists.namespaces, is_dns1123_label);
    let runtime_classes = set("runtimeClasses", lists.runtime_classes, is_dns1123_subdomain);
    let usernames = set("usernames", lists.usernames, |name| match name {
        "" => vec!["username must not be empty".to_owned()],
        _ => Vec::new(),
    });
    if errors.is_empty() {
        return Ok((policy, Exemptions { usernames, namespaces, runtime_classes }));
    }
    Err(Unfit::Senseless(format!("PodSecurity invalid: {}", field::aggregate(&errors))))
}

fn policy(defaults: &Defaults) -> Result<Policy, String> {
    let mut problems: Vec<String> = Vec::new();
    let mut mode = |name: &str, level: &str, version: &str| {
        let level = if level.is_empty() { Ok(Level::Privileged) } else { Level::parse(level) };
        let version = if version.is_empty() { Ok(Version::Latest) } else { Version::parse(version) };
        problems.extend(level.err().map(|why| format!("{name}: {why}")));
        problems.extend(version.err().map(|why| format!("{name}-version: {why}")));
        LevelVersion { level: level.unwrap_or(Level::Restricted), version: version.unwrap_or(Version::Latest) }
    };
    let enforce = mode("enforce", &defaults.enforce, &defaults.enforce_version);
    let audit = mode("audit", &defaults.audit, &defaults.audit_version);
    let warn = mode("warn", &defaults.warn, &defaults.warn_version);
    match problems.as_slice() {
        [] => Ok(Policy { enforce, audit, warn }),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(body: &str) -> Result<(Policy, Exemptions), Unfit> {
        read(Some(format!("apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n{body}").as_bytes()))
    }

    #[test]
    fn a_configuration_has_defaults_and_exemptions() {
        let show = |policy: Policy| format!("{} {} {}", policy.enforce, policy.audit, policy.warn);
        assert_eq!(show(read(None).unwrap().0), "privileged:latest privileged:latest privileged:latest");
        let body = "defaults: {enforce: baseline, enforce-version: v1.20, warn: restricted}\nexemptions: {usernames: [ann], namespaces: [kube-system], runtimeClasses: [kata]}";
        let (policy, exemptions) = configured(body).unwrap();
        assert_eq!(show(policy), "baseline:v1.20 privileged:latest restricted:latest");
        assert!(exemptions.has_user("ann") && exemptions.has_namespace("kube-system") && exemptions.has_runtime_class("kata"));
        assert!(!exemptions.has_user("") && !exemptions.has_namespace("ann") && !exemptions.has_runtime_class(""));
    }

    #[test]
    fn a_configuration_is_checked() {
        let refusal = |body: &str| configured(body).unwrap_err();
        assert_eq!(
            refusal("defaults: {enforce: x, warn-version: z}"),
            Unfit::Senseless(
                "PodSecurity configuration error: [enforce: must be one of privileged, baseline, restricted, warn-version: must be \"latest\" or \"v1.x\"]"
                    .to_owned()
            )
        );
        assert_eq!(
            refusal("exemptions: {usernames: [''], namespaces: [a, a]}"),
            Unfit::Senseless(
                "PodSecurity invalid: [exemptions.namespaces[1]: Duplicate value: \"a\", exemptions.usernames[0]: Invalid value: \"\": username must not be empty]"
                    .to_owned()
            )
        );
        assert_eq!(
            refusal("defaults: {enforced: x}"),
            Unfit::Unreadable("strict decoding error: unknown field \"defaults.enforced\"".to_owned())
        );
    }
}
