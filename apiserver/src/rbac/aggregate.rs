//! Cluster roles that are put together from others by label.
//!
//! [`plan`] is pure; [`follow`] is the task that stands in for the controller manager's aggregation controller in a cluster
//! that has none.

use std::sync::Arc;

use apimachinery::selector::label::Selector;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::GROUP;
use crate::api::Api;
use crate::loopback::Loopback;
use crate::registry::read::{at, list_at, str_at};
use crate::storage::Scope;

/// The manager of the rules that are put together.
const MANAGER: &str = "clusterrole-aggregation-controller";

/// The rules that aggregated roles should have and do not, by name. `roles` are all cluster roles, sorted by name.
pub fn plan(roles: &[Value]) -> Vec<(String, Vec<Value>)> {
    let gathers = |role: &&Value| role.get("aggregationRule").is_some_and(Value::is_object);
    let differs = |role: &Value| {
        let rules = gathered(role, roles);
        (rules != list_at(role, "/rules")).then(|| (str_at(role, "/metadata/name").to_owned(), rules))
    };
    roles.iter().filter(gathers).filter_map(differs).collect()
}

fn gathered(role: &Value, roles: &[Value]) -> Vec<Value> {
    let mut rules: Vec<Value> = Vec::new();
    for selector in list_at(role, "/aggregationRule/clusterRoleSelectors") {
        let Ok(selector) = Selector::from_value(Some(selector)) else { return list_at(role, "/rules").to_vec() };
        for other in roles.iter().filter(|other| str_at(other, "/metadata/name") != str_at(role, "/metadata/name")) {
            let none = Map::new();
            let labels = at(other, "/metadata/labels").as_object().unwrap_or(&none);
            if !selector.matches(labels) {
                continue;
            }
            for rule in list_at(other, "/rules") {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

/// Keeps aggregated roles in step until the shutdown.
pub fn follow(api: &Arc<Api>, mut shutdown: watch::Receiver<bool>) {
    let api = api.clone();
    tokio::spawn(async move {
        let client = Loopback::new(&api).with_manager(MANAGER);
        let catalog = api.catalog.load_full();
        let Some(cache) = catalog.stored_resource(GROUP, "clusterroles").and_then(|s| s.cache()).cloned() else { return };
        loop {
            let (snapshot, mut cursor) = cache.list_and_watch(Scope::All);
            let roles: Vec<Value> = snapshot.range("", None).map(|object| object.value()).collect();
            for (name, rules) in plan(&roles) {
                let config =
                    json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": { "name": name }, "rules": rules });
                let path = format!("/apis/{GROUP}/v1/clusterroles/{name}");
                if let Err(status) = client.apply(&path, &config).await {
                    tracing::warn!(clusterrole = name, %status, "cannot put the role together");
                }
            }
            tokio::select! {
                // Whatever changed, all is looked at again: there are few cluster roles, and they seldom change.
                _ = cursor.next() => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, rules: Value) -> Value {
        json!({ "metadata": { "name": name, "labels": { label: "true" } }, "rules": rules })
    }

    #[test]
    fn a_role_gathers_the_rules_of_those_it_selects() {
        let (a, b) = (json!({ "verbs": ["get"] }), json!({ "verbs": ["list"] }));
        let mut all = role("all", "x", json!([]));
        all["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { "x": "true" } }] });
        let roles = [
            all.clone(),
            role("one", "x", json!([a, b])),
            role("other", "y", json!([{ "verbs": ["watch"] }])),
            role("two", "x", json!([b])),
        ];
        assert_eq!(plan(&roles), [("all".to_owned(), vec![a.clone(), b.clone()])]);
        all["rules"] = json!([a, b]);
        assert_eq!(plan(&[all, roles[1].clone()]), []);
    }
}
