//! WebhookAdmissionConfiguration: what webhooks are shown.

use std::path::Path as FilePath;

use apimachinery::field::{Error, Path};
use serde::{Deserialize, Serialize};

use crate::admission::static_manifests;
use crate::config_file::{self, Strictness};
use crate::webhook_client::credentials::Credentials;

const KINDS: [(&str, &str); 1] = [("apiserver.config.k8s.io/v1", "WebhookAdmissionConfiguration")];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WebhookAdmissionConfiguration {
    kube_config_file: String,
    static_manifests_dir: String,
}

/// Reads a configuration and the kubeconfig that it names.
pub fn read(told: Option<&[u8]>) -> Result<Credentials, String> {
    let Some(text) = told else { return Ok(Credentials::default()) };
    let configuration: WebhookAdmissionConfiguration =
        config_file::decode_any(text, &KINDS, Strictness::Strict).map_err(|error| error.to_string())?;
    let file = configuration.kube_config_file.as_str();
    if !file.is_empty() && !FilePath::new(file).is_absolute() {
        return Err(Error::invalid(&Path::new("kubeConfigFile"), file, "must be an absolute file path").to_string());
    }
    static_manifests::check(&configuration.static_manifests_dir)?;
    if file.is_empty() { Ok(Credentials::default()) } else { Credentials::read(FilePath::new(file)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_a_kubeconfig() {
        let configured = |body: &str| {
            let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: WebhookAdmissionConfiguration\n{body}");
            read(Some(text.as_bytes()))
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, "users: [{name: h, user: {token: t}}]").unwrap();
        let credentials = configured(&format!("kubeConfigFile: {}", path.display())).unwrap();
        assert_eq!(credentials.of("h", 443).unwrap().unwrap().authorization.as_deref(), Some("Bearer t"));
        assert!(read(None).unwrap().of("h", 443).unwrap().is_none());
        for (body, expect) in [
            ("kubeConfigFile: a", "kubeConfigFile: Invalid value: \"a\": must be an absolute file path"),
            ("kubeConfigFile: /nonexistent", "stat /nonexistent: no such file or directory"),
            ("staticManifestsDir: /a", "staticManifestsDir: Forbidden: policies and webhooks in files are not supported here"),
            ("kubeconfigFile: /a", "strict decoding error: unknown field \"kubeconfigFile\""),
        ] {
            assert_eq!(configured(body).unwrap_err(), expect);
        }
    }
}
