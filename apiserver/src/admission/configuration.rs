//! `--admission-control-config-file`: what plugins are told beyond flags.
//!
//! Owns which text is for which plugin; what a text says is the plugin's to know.

use std::path::{Path, PathBuf};

use apimachinery::field::quote;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config_file::{self, DecodeError, Strictness};

const KINDS: [(&str, &str); 2] =
    [("apiserver.config.k8s.io/v1", "AdmissionConfiguration"), ("apiserver.k8s.io/v1alpha1", "AdmissionConfiguration")];
/// A file that is one of these plugins' configuration itself, as was the custom once: the member that shows it.
const BARE: [(&str, &str); 2] = [("imagePolicy", "ImagePolicyWebhook"), ("podNodeSelectorPluginConfig", "PodNodeSelector")];

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdmissionConfiguration {
    plugins: Option<Vec<PluginConfiguration>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct PluginConfiguration {
    name: String,
    path: String,
    configuration: Option<Value>,
}

impl AdmissionConfiguration {
    /// Reads the file. Relative paths in it start from where it is.
    pub fn read(path: &Path) -> Result<AdmissionConfiguration, String> {
        let shown = quote(&path.display().to_string());
        let text = read_file(path).map_err(|why| format!("unable to read admission control configuration from {shown} [{why}]"))?;
        let mut configuration = AdmissionConfiguration::parse(&text, path)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        for plugin in configuration.plugins.iter_mut().flatten().filter(|plugin| !plugin.path.is_empty()) {
            let path = std::path::absolute(directory.join(&plugin.path)).map_err(|error| in_gos_words(&error))?;
            plugin.path = path.display().to_string();
        }
        Ok(configuration)
    }

    fn parse(text: &[u8], path: &Path) -> Result<AdmissionConfiguration, String> {
        let error = match config_file::decode_any(text, &KINDS, Strictness::Strict) {
            Ok(configuration) => return Ok(configuration),
            Err(DecodeError::Malformed(why)) => return Err(why),
            Err(DecodeError::OtherKind(why)) => why,
        };
        let members = apimachinery::yaml::parse(text).map(|parsed| parsed.value).unwrap_or_default();
        if !BARE.iter().any(|(member, _)| members.get(member).is_some()) {
            return Err(error);
        }
        let whole =
            |(_, name): (&str, &str)| PluginConfiguration { name: name.to_owned(), path: path.display().to_string(), configuration: None };
        Ok(AdmissionConfiguration { plugins: Some(BARE.into_iter().map(whole).collect()) })
    }

    /// What a plugin is told, if anything. The first entry of its name counts.
    pub fn of(&self, plugin: &str) -> Result<Option<Vec<u8>>, String> {
        let Some(found) = self.plugins.iter().flatten().find(|entry| entry.name == plugin) else { return Ok(None) };
        if let Some(configuration) = &found.configuration {
            return Ok(Some(apimachinery::json::to_vec(configuration)));
        }
        if found.path.is_empty() {
            return Ok(None);
        }
        let text = read_file(&PathBuf::from(&found.path));
        text.map(Some).map_err(|why| format!("Couldn't open admission plugin configuration {}: {why}", found.path))
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| {
        let operation = if error.kind() == std::io::ErrorKind::IsADirectory { "read" } else { "open" };
        format!("{operation} {}: {}", path.display(), in_gos_words(&error))
    })
}

/// `no such file or directory` of `No such file or directory (os error 2)`.
fn in_gos_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admission.yaml");
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    fn told(configuration: &AdmissionConfiguration, plugin: &str) -> Option<String> {
        configuration.of(plugin).unwrap().map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_plugin_is_told_what_stands_in_the_file_or_beside_it() {
        let plugins = "plugins: [{name: A, configuration: {kind: K, size: 1}, path: nowhere}, {name: A, path: b}, {name: B, path: beside/b.yaml}, {name: C}]";
        let (directory, path) = written(&format!("{HEAD}{plugins}"));
        std::fs::create_dir(directory.path().join("beside")).unwrap();
        std::fs::write(directory.path().join("beside/b.yaml"), "b: 1").unwrap();
        let read = AdmissionConfiguration::read(&path).unwrap();
        assert_eq!(told(&read, "A").unwrap(), r#"{"kind":"K","size":1}"#);
        assert_eq!(told(&read, "B").unwrap(), "b: 1");
        assert_eq!((told(&read, "C"), told(&read, "D")), (None, None));
        std::fs::remove_file(directory.path().join("beside/b.yaml")).unwrap();
        let refusal = read.of("B").unwrap_err();
        assert!(refusal.starts_with("Couldn't open admission plugin configuration /"), "{refusal}");
        assert!(refusal.ends_with("/beside/b.yaml: no such file or directory"), "{refusal}");
    }

    #[test]
    fn a_file_that_is_none_is_refused_in_upstreams_words() {
        let refusal = AdmissionConfiguration::read(Path::new("/nonexistent/a")).unwrap_err();
        let expect =
            r#"unable to read admission control configuration from "/nonexistent/a" [open /nonexistent/a: no such file or directory]"#;
        assert_eq!(refusal, expect);
        let parse = |text: &str| AdmissionConfiguration::parse(text.as_bytes(), Path::new("f")).unwrap_err();
        assert_eq!(parse("a: b"), "Object 'Kind' is missing in 'a: b'");
        let unknown = parse(&format!("{HEAD}plugins: [{{name: A, config: {{}}}}]\nextra: 1"));
        assert_eq!(unknown, r#"strict decoding error: unknown field "extra", unknown field "plugins[0].config""#);
        let other = parse("apiVersion: apiserver.config.k8s.io/v1\nkind: Other");
        assert!(other.starts_with(r#"no kind "Other" is registered for version "apiserver.config.k8s.io/v1""#), "{other}");
    }

    #[test]
    fn a_file_may_be_the_configuration_of_an_old_plugin_itself() {
        for text in ["imagePolicy: {}", "podNodeSelectorPluginConfig: {}"] {
            let (_directory, path) = written(text);
            let read = AdmissionConfiguration::read(&path).unwrap();
            assert_eq!((told(&read, "ImagePolicyWebhook").as_deref(), told(&read, "PodNodeSelector").as_deref()), (Some(text), Some(text)));
            assert_eq!(told(&read, "EventRateLimit"), None);
        }
    }
}
