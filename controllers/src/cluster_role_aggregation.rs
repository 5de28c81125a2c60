//! The aggregation controller: a ClusterRole with an aggregation rule has the rules of those that its selectors find.
//!
//! It writes rules alone, as their owner. What a role gathers from may gather itself: each change is looked at again until nothing changes.

use std::collections::BTreeMap;

use apimachinery::selector::label::{Selector, StructuredError};
use client::controller::Outcome;
use client::{Object, ObjectKey, Queue, answer};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::manager::Context;

const FIELD_MANAGER: &str = "clusterrole-aggregation-controller";
const WORKERS: usize = 5;

/// Why a role could not be put together.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("selector: {0}")]
    Selector(#[from] StructuredError),
    #[error(transparent)]
    Write(#[from] kube::Error),
}

pub async fn run(context: Context) {
    let roles = context.informers.of::<ClusterRole>();
    let queue = Queue::named("ClusterRoleAggregator");
    let (sink, all) = (queue.clone(), roles.clone());
    // Whatever changed, every gathering role is looked at: there are few, and who gathers from whom is not known beforehand.
    roles.on_change(move |_| all.list().iter().filter(|role| role.aggregation_rule.is_some()).for_each(|role| sink.add(role.key())));
    roles.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let every = roles.list();
        let wanted = roles.get_key(&key).map(|role| decide(&role, every.iter().map(AsRef::as_ref)));
        let api: Api<ClusterRole> = Api::all(context.client.clone());
        async move {
            if let Some(rules) = wanted.transpose()?.flatten() {
                let mut config = json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": key.name},
                });
                if !rules.is_empty() {
                    config["rules"] = json!(rules);
                }
                let params = PatchParams::apply(FIELD_MANAGER).force();
                answer::or_absent(api.patch(&key.name, &params, &Patch::Apply(config)).await)?;
            }
            Ok::<_, Error>(Outcome::Done)
        }
    })
    .await;
}

/// The rules that the role is to have; nothing if it has them, or gathers none.
fn decide<'a>(role: &ClusterRole, every: impl Iterator<Item = &'a ClusterRole>) -> Result<Option<Vec<PolicyRule>>, StructuredError> {
    let Some(aggregation) = &role.aggregation_rule else { return Ok(None) };
    let mut others: Vec<&ClusterRole> = every.filter(|other| other.name() != role.name()).collect();
    others.sort_by_key(|other| other.name());
    let none = BTreeMap::new();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in aggregation.cluster_role_selectors.iter().flatten() {
        let selector = Selector::from_label_selector(Some(selector))?;
        for other in others.iter().filter(|other| selector.matches(other.metadata.labels.as_ref().unwrap_or(&none))) {
            for rule in other.rules.iter().flatten() {
                if !rules.iter().any(|known| is_same(known, rule)) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    let has = role.rules.as_deref().unwrap_or_default();
    let unchanged = has.len() == rules.len() && has.iter().zip(&rules).all(|(a, b)| is_same(a, b));
    Ok((!unchanged).then_some(rules))
}

/// An empty list says what none says.
fn is_same(a: &PolicyRule, b: &PolicyRule) -> bool {
    let lists = |rule: &PolicyRule| {
        [&rule.api_groups, &rule.resources, &rule.resource_names, &rule.non_resource_urls].map(|list| list.clone().unwrap_or_default())
    };
    a.verbs == b.verbs && lists(a) == lists(b)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn role(name: &str, label: &str, rules: Value) -> ClusterRole {
        serde_json::from_value(json!({ "metadata": { "name": name, "labels": { label: "true" } }, "rules": rules })).unwrap()
    }

    fn gathering(name: &str, label: &str, from: &[&str], rules: Value) -> ClusterRole {
        let selectors: Vec<Value> = from.iter().map(|label| json!({ "matchLabels": { *label: "true" } })).collect();
        let aggregation = serde_json::from_value(json!({ "clusterRoleSelectors": selectors })).unwrap();
        ClusterRole { aggregation_rule: Some(aggregation), ..role(name, label, rules) }
    }

    fn decided(role: &ClusterRole, others: &[ClusterRole]) -> Option<Value> {
        decide(role, others.iter().chain([role])).unwrap().map(|rules| json!(rules))
    }

    #[test]
    fn a_role_gathers_the_rules_of_those_it_selects_each_once() {
        let (a, b, c) = (json!({ "verbs": ["get"] }), json!({ "verbs": ["list"] }), json!({ "verbs": ["watch"] }));
        let others = [role("two", "x", json!([b, c])), role("one", "x", json!([a, b])), role("other", "z", json!([{ "verbs": ["*"] }]))];
        assert_eq!(decided(&gathering("all", "", &["x"], json!([])), &others), Some(json!([a, b, c])));
        assert_eq!(decided(&gathering("all", "", &["x"], json!([a, b, c])), &others), None);
        assert_eq!(decided(&gathering("all", "", &["x"], json!([c, a, b])), &others), Some(json!([a, b, c])), "by name");
        assert_eq!(decided(&gathering("all", "", &["z", "x"], json!(null)), &others), Some(json!([{ "verbs": ["*"] }, a, b, c])));
    }

    #[test]
    fn a_role_does_not_gather_from_itself_and_may_end_with_nothing() {
        let rules = json!([{ "verbs": ["get"] }]);
        assert_eq!(decided(&gathering("all", "x", &["x"], rules.clone()), &[]), Some(json!([])));
        assert_eq!(decided(&gathering("all", "x", &["x"], json!(null)), &[]), None);
        assert_eq!(decided(&role("plain", "x", rules.clone()), &[role("one", "x", json!([]))]), None);
    }

    #[test]
    fn an_empty_list_is_no_change() {
        let others = [role("one", "x", json!([{ "verbs": ["get"], "resources": ["pods"], "resourceNames": [] }]))];
        assert_eq!(decided(&gathering("all", "", &["x"], json!([{ "verbs": ["get"], "resources": ["pods"] }])), &others), None);
    }

    #[test]
    fn a_selector_that_cannot_be_read_is_an_error() {
        let mut bad = gathering("all", "", &["x"], json!([]));
        bad.aggregation_rule =
            serde_json::from_value(json!({ "clusterRoleSelectors": [{ "matchExpressions": [{ "key": "x", "operator": "Near" }] }] }))
                .unwrap();
        assert!(decide(&bad, std::iter::empty()).is_err());
    }
}
