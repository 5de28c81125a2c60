//! Which plugins run: upstream's defaults, and what the flags turn on and off.

use std::path::PathBuf;
use std::sync::Arc;

use super::configuration::AdmissionConfiguration;
use super::{Chain, Entry, PLUGINS, Parts, Unfit};
use crate::webhook_client::Connections;

/// What flags say about admission. Field names follow upstream's flags.
#[derive(Clone, Debug)]
pub struct Config {
    pub enable_admission_plugins: Vec<String>,
    pub disable_admission_plugins: Vec<String>,
    pub admission_control_config_file: Option<PathBuf>,
    pub default_not_ready_toleration_seconds: i64,
    pub default_unreachable_toleration_seconds: i64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enable_admission_plugins: Vec::new(),
            disable_admission_plugins: Vec::new(),
            admission_control_config_file: None,
            default_not_ready_toleration_seconds: 300,
            default_unreachable_toleration_seconds: 300,
        }
    }
}

/// Why the flags cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    #[error("enable-admission-plugins plugin {0:?} is unknown")]
    UnknownEnabled(String),
    #[error("disable-admission-plugins plugin {0:?} is unknown")]
    UnknownDisabled(String),
    #[error("[{0}] in enable-admission-plugins and disable-admission-plugins overlapped")]
    Both(String),
    #[error("failed to apply admission: failed to read plugin config: {0}")]
    File(String),
    #[error("failed to apply admission: {0}")]
    PluginFile(String),
    #[error("failed to apply admission: couldn't init admission plugin {plugin:?}: {why}")]
    Unreadable { plugin: &'static str, why: String },
    #[error("failed to apply admission: failed to initialize admission plugin {plugin:?}: {why}")]
    Senseless { plugin: &'static str, why: String },
}

impl Config {
    /// The plugins that the flags ask for.
    fn wanted(&self) -> Result<Vec<&'static Entry>, SelectionError> {
        let is_known = |name: &String| PLUGINS.iter().any(|entry| entry.name == name);
        if let Some(name) = self.enable_admission_plugins.iter().find(|name| !is_known(name)) {
            return Err(SelectionError::UnknownEnabled(name.clone()));
        }
        if let Some(name) = self.disable_admission_plugins.iter().find(|name| !is_known(name)) {
            return Err(SelectionError::UnknownDisabled(name.clone()));
        }
        let both: Vec<&str> =
            self.enable_admission_plugins.iter().filter(|name| self.disable_admission_plugins.contains(name)).map(String::as_str).collect();
        if !both.is_empty() {
            return Err(SelectionError::Both(both.join(" ")));
        }
        let has = |list: &[String], entry: &Entry| list.iter().any(|name| name == entry.name);
        let wanted =
            |entry: &&Entry| (entry.on || has(&self.enable_admission_plugins, entry)) && !has(&self.disable_admission_plugins, entry);
        Ok(PLUGINS.iter().filter(wanted).collect())
    }

    /// The chain that the flags and the configuration file ask for. Plugins that ask others do it by these connections.
    pub fn chain(&self, connections: &Arc<Connections>) -> Result<Chain, SelectionError> {
        let wanted = self.wanted()?;
        let file = self.admission_control_config_file.as_deref();
        let file = file.map(AdmissionConfiguration::read).transpose().map_err(SelectionError::File)?.unwrap_or_default();
        let make = |entry: &Entry| {
            let told = file.of(entry.name).map_err(SelectionError::PluginFile)?;
            let parts = Parts { config: self, told: told.as_deref(), connections };
            let plugin = entry.name;
            (entry.make)(&parts).map_err(|unfit| match unfit {
                Unfit::Unreadable(why) => SelectionError::Unreadable { plugin, why },
                Unfit::Senseless(why) => SelectionError::Senseless { plugin, why },
            })
        };
        Ok(Chain::new(wanted.into_iter().map(make).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(enable: &[&str], disable: &[&str]) -> Result<Vec<&'static str>, SelectionError> {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Config { enable_admission_plugins: list(enable), disable_admission_plugins: list(disable), ..Config::default() }
            .chain(&Arc::default())
            .map(|chain| chain.names())
    }

    #[test]
    fn flags_add_to_the_defaults_and_take_from_them_in_upstreams_order() {
        let default = names(&[], &[]).unwrap();
        assert_eq!(default, Chain::default_chain().unwrap().names());
        assert!(default.contains(&"PodSecurity") && !default.contains(&"NodeRestriction"));
        let changed = names(&["NodeRestriction"], &["PodSecurity", "ValidatingAdmissionWebhook"]).unwrap();
        let at = |name| changed.iter().position(|n| *n == name);
        assert!(at("ServiceAccount") < at("NodeRestriction") && at("NodeRestriction") < at("TaintNodesByCondition"));
        assert_eq!(at("PodSecurity"), None);
        assert_eq!(changed.last(), Some(&"ResourceQuota"));
    }

    #[test]
    fn names_that_cannot_be_followed_are_refused() {
        assert_eq!(names(&["Nope"], &[]).unwrap_err().to_string(), "enable-admission-plugins plugin \"Nope\" is unknown");
        assert_eq!(names(&[], &["Nope"]).unwrap_err().to_string(), "disable-admission-plugins plugin \"Nope\" is unknown");
        assert!(matches!(names(&["Priority"], &["Priority"]), Err(SelectionError::Both(_))));
    }

    /// The chain with these plugins beside the default ones, and this list of configurations in the file.
    fn with_file(enable: &[&str], plugins: &str) -> Result<Vec<&'static str>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admission.yaml");
        std::fs::write(&path, format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins: {plugins}")).unwrap();
        let enable_admission_plugins = enable.iter().map(|name| (*name).to_owned()).collect();
        let config = Config { enable_admission_plugins, admission_control_config_file: Some(path), ..Config::default() };
        config.chain(&Arc::default()).map(|chain| chain.names()).map_err(|error| error.to_string())
    }

    #[test]
    fn plugins_bear_their_names_and_stand_in_upstreams_order() {
        let limits =
            "{apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: [{type: Server, qps: 1, burst: 1}]}";
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        let text =
            "current-context: c\ncontexts: [{name: c, context: {cluster: k}}]\nclusters: [{name: k, cluster: {server: 'https://h'}}]";
        std::fs::write(&kubeconfig, text).unwrap();
        let images = format!("{{imagePolicy: {{kubeConfigFile: {}}}}}", kubeconfig.display());
        let plugins = format!("[{{name: EventRateLimit, configuration: {limits}}}, {{name: ImagePolicyWebhook, configuration: {images}}}]");
        let off: Vec<&str> = PLUGINS.iter().filter(|entry| !entry.on).map(|entry| entry.name).collect();
        let all: Vec<&str> = PLUGINS.iter().map(|entry| entry.name).collect();
        assert_eq!(with_file(&off, &plugins).unwrap(), all);
        assert_eq!(all.len(), 39);
    }

    #[test]
    fn what_the_file_says_must_be_what_its_plugins_understand() {
        let refusal = |enable: &[&str], plugins: &str| with_file(enable, plugins).unwrap_err();
        assert_eq!(
            refusal(&["EventRateLimit"], "[]"),
            "failed to apply admission: couldn't init admission plugin \"EventRateLimit\": limits: Invalid value: null: must not be empty"
        );
        assert_eq!(
            refusal(&["ImagePolicyWebhook"], "[{name: Other, path: nowhere}]"),
            "failed to apply admission: couldn't init admission plugin \"ImagePolicyWebhook\": no config specified"
        );
        assert_eq!(
            refusal(&[], "[{name: PodSecurity, path: /nonexistent/a}]"),
            "failed to apply admission: Couldn't open admission plugin configuration /nonexistent/a: open /nonexistent/a: no such file or directory"
        );
        let unknown = "[{name: PodSecurity, configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforce: x}}}]";
        assert_eq!(
            refusal(&[], unknown),
            "failed to apply admission: failed to initialize admission plugin \"PodSecurity\": PodSecurity configuration error: enforce: must be one of privileged, baseline, restricted"
        );
        assert!(refusal(&[], "[{nme: A}]").starts_with("failed to apply admission: failed to read plugin config: strict decoding error:"));
        with_file(&[], "[{name: EventRateLimit, path: /nonexistent/a}, {name: Unheard}]").unwrap();
    }
}
