//! `staticManifestsDir` of the plugins whose rules are objects: rules from files are not read here, so that naming a directory is refused
//! rather than passed over.

use apimachinery::field::{Error, Path};
use serde::{Deserialize, Serialize};

use crate::config_file::{self, Strictness};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PolicyConfiguration {
    static_manifests_dir: String,
}

/// Whether a directory may be named.
pub fn check(directory: &str) -> Result<(), String> {
    if directory.is_empty() {
        return Ok(());
    }
    Err(Error::forbidden(&Path::new("staticManifestsDir"), "policies and webhooks in files are not supported here").to_string())
}

/// Checks the configuration of a plugin of policies, which says nothing else.
pub fn check_policies(told: Option<&[u8]>, kind: &str) -> Result<(), String> {
    let Some(text) = told else { return Ok(()) };
    let known = [("apiserver.config.k8s.io/v1", kind)];
    let read: PolicyConfiguration = config_file::decode_any(text, &known, Strictness::Strict).map_err(|error| error.to_string())?;
    check(&read.static_manifests_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_refused_and_nothing_else_is_known() {
        let kind = "ValidatingAdmissionPolicyConfiguration";
        let check =
            |body: &str| check_policies(Some(format!("apiVersion: apiserver.config.k8s.io/v1\nkind: {kind}\n{body}").as_bytes()), kind);
        assert_eq!((check(""), check_policies(None, kind)), (Ok(()), Ok(())));
        let expect = "staticManifestsDir: Forbidden: policies and webhooks in files are not supported here";
        assert_eq!(check("staticManifestsDir: /a").unwrap_err(), expect);
        assert_eq!(check("kubeConfigFile: /a").unwrap_err(), "strict decoding error: unknown field \"kubeConfigFile\"");
    }
}
