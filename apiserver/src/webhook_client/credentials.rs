//! What webhooks are shown, by where they are: the users of a kubeconfig whose names are hosts with ports, or `*` with what they end with.
//!
//! Files that the kubeconfig names are read once, when it is read. What a program would have to be run for is refused where it is needed.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::kubeconfig;
use crate::pki::Identity;
use crate::registry::read::{at, list_at, str_at};

/// What is shown.
#[derive(Clone, Default)]
pub struct Shown {
    pub identity: Option<Identity>,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
}

/// Secrets are not printed.
impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

/// The users by name; for whom there is none, nothing is shown.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    users: HashMap<String, Result<Arc<Shown>, String>>,
    /// The user of the current context.
    current: Option<String>,
}

impl Credentials {
    pub fn read(path: &Path) -> Result<Credentials, String> {
        let config = kubeconfig::load(path)?;
        Ok(Credentials::of_config(&config, path.parent().unwrap_or(Path::new(""))))
    }

    fn of_config(config: &Value, directory: &Path) -> Credentials {
        let user = |entry: &Value| {
            let name = str_at(entry, "/name").to_owned();
            let shown = kubeconfig::shown(at(entry, "/user"), &name, directory).map(Arc::new);
            (name, shown)
        };
        let context = str_at(config, "/current-context");
        let context = list_at(config, "/contexts").iter().find(|entry| !context.is_empty() && str_at(entry, "/name") == context);
        let current = context.map(|entry| str_at(entry, "/context/user").to_owned()).filter(|name| !name.is_empty());
        Credentials { users: list_at(config, "/users").iter().map(user).collect(), current }
    }

    /// What is shown to a webhook at a host and port.
    pub fn of(&self, host: &str, port: u16) -> Result<Option<Arc<Shown>>, String> {
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let found = self.named(&target).or_else(|| if port == 443 { self.named(host) } else { None });
        let found = found.or_else(|| self.users.get("*")).or_else(|| self.users.get(self.current.as_ref()?));
        found.cloned().transpose()
    }

    /// The user of this very name, or of the longest end of it after a star.
    fn named(&self, target: &str) -> Option<&Result<Arc<Shown>, String>> {
        let mut ends = target.match_indices('.').map(|(at, _)| format!("*{}", &target[at..]));
        self.users.get(target).or_else(|| ends.find_map(|end| self.users.get(&end)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_closest_name_counts() {
        let names = ["hook.ns.svc:8443", "*.ns.svc:8443", "plain.ns.svc", "*.svc", "[::1]:443"];
        let user = |name: &&str| json!({ "name": name, "user": { "token": name } });
        let mut users: Vec<Value> = names.iter().map(user).collect();
        users.push(json!({ "name": "program", "user": { "exec": {} } }));
        let contexts = json!([{ "name": "c", "context": { "user": "program" } }]);
        let mut config = json!({ "users": users, "contexts": contexts });
        let shown = |config: &Value, host: &str, port: u16| {
            let found = Credentials::of_config(config, Path::new("/nonexistent")).of(host, port)?;
            Ok::<_, String>(found.and_then(|shown| shown.authorization.clone()))
        };
        let bearer = |name: &str| Ok(Some(format!("Bearer {name}")));
        for (host, port, name) in [
            ("hook.ns.svc", 8443, "hook.ns.svc:8443"),
            ("other.ns.svc", 8443, "*.ns.svc:8443"),
            ("plain.ns.svc", 443, "plain.ns.svc"),
            ("other.ns.svc", 443, "*.svc"),
            ("::1", 443, "[::1]:443"),
        ] {
            assert_eq!(shown(&config, host, port), bearer(name), "{host}:{port}");
        }
        assert_eq!(shown(&config, "other.ns.svc", 8080), Ok(None));
        config["current-context"] = json!("c");
        assert!(shown(&config, "other.ns.svc", 8080).unwrap_err().contains("exec"));
        config["users"].as_array_mut().unwrap().push(user(&"*"));
        assert_eq!(shown(&config, "other.ns.svc", 8080), bearer("*"));
    }
}
