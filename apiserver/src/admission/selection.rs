//! Which plugins run: upstream's defaults, and what the flags turn on and off.

use super::{Chain, Step, plugins};

/// What flags say about admission. Field names follow upstream's flags.
#[derive(Clone, Debug)]
pub struct Config {
    pub enable_admission_plugins: Vec<String>,
    pub disable_admission_plugins: Vec<String>,
    pub default_not_ready_toleration_seconds: i64,
    pub default_unreachable_toleration_seconds: i64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enable_admission_plugins: Vec::new(),
            disable_admission_plugins: Vec::new(),
            default_not_ready_toleration_seconds: 300,
            default_unreachable_toleration_seconds: 300,
        }
    }
}

/// Plugins that upstream has and this server does not: turning them off asks for nothing, turning them on is refused.
const ABSENT: [&str; 6] =
    ["EventRateLimit", "ImagePolicyWebhook", "NamespaceAutoProvision", "PodGroupProtection", "PodNodeSelector", "PodTolerationRestriction"];

/// Why the flags cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    #[error("enable-admission-plugins plugin {0:?} is unknown")]
    UnknownEnabled(String),
    #[error("enable-admission-plugins plugin {0:?} is not in this server")]
    Absent(String),
    #[error("disable-admission-plugins plugin {0:?} is unknown")]
    UnknownDisabled(String),
    #[error("[{0}] in enable-admission-plugins and disable-admission-plugins overlapped")]
    Both(String),
}

impl Config {
    /// The chain that the flags ask for.
    pub fn chain(&self) -> Result<Chain, SelectionError> {
        let all = plugins(self);
        let is_known = |name: &String| all.iter().any(|(step, _)| step.name() == name);
        if let Some(name) = self.enable_admission_plugins.iter().find(|name| !is_known(name)) {
            let absent = ABSENT.contains(&name.as_str());
            return Err(if absent { SelectionError::Absent(name.clone()) } else { SelectionError::UnknownEnabled(name.clone()) });
        }
        let unknown = |name: &&String| !is_known(name) && !ABSENT.contains(&name.as_str());
        if let Some(name) = self.disable_admission_plugins.iter().find(unknown) {
            return Err(SelectionError::UnknownDisabled(name.clone()));
        }
        let both: Vec<&str> =
            self.enable_admission_plugins.iter().filter(|name| self.disable_admission_plugins.contains(name)).map(String::as_str).collect();
        if !both.is_empty() {
            return Err(SelectionError::Both(both.join(" ")));
        }
        let has = |list: &[String], step: &Step| list.iter().any(|name| name == step.name());
        let wanted =
            |(step, on): &(Step, bool)| (*on || has(&self.enable_admission_plugins, step)) && !has(&self.disable_admission_plugins, step);
        Ok(Chain::new(all.into_iter().filter(wanted).map(|(step, _)| step).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(enable: &[&str], disable: &[&str]) -> Result<Vec<&'static str>, SelectionError> {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Config { enable_admission_plugins: list(enable), disable_admission_plugins: list(disable), ..Config::default() }
            .chain()
            .map(|chain| chain.names())
    }

    #[test]
    fn flags_add_to_the_defaults_and_take_from_them_in_upstreams_order() {
        let default = names(&[], &[]).unwrap();
        assert_eq!(default, Chain::default_chain().names());
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
        assert!(matches!(names(&["EventRateLimit"], &[]), Err(SelectionError::Absent(_))));
        assert!(matches!(names(&["Priority"], &["Priority"]), Err(SelectionError::Both(_))));
    }
}
