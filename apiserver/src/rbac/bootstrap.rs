//! Makes the roles and bindings that every cluster has, and gives back what was taken from them.
//!
//! [`reconciled`] is pure. What an administrator added stays; an object annotated with
//! `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

use std::sync::Arc;

use apimachinery::status::Status;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Value, json};

use super::GROUP;
use super::policy::{self, Entry};
use super::rule::{self, Rule};
use crate::api::Api;
use crate::loopback::Loopback;
use crate::registry::read::{at, list_at};

/// Writes under way at once, so that they share a flush.
const CONCURRENT: usize = 64;

/// Brings the cluster's roles and bindings up to the policy.
pub async fn run(api: &Arc<Api>) -> Result<(), Status> {
    stream::iter(policy::entries()).map(|entry| bring_up(api, entry)).buffer_unordered(CONCURRENT).try_collect::<()>().await
}

async fn bring_up(api: &Arc<Api>, entry: Entry) -> Result<(), Status> {
    let within = if entry.namespace.is_empty() { String::new() } else { format!("namespaces/{}/", entry.namespace) };
    let collection = format!("/apis/{GROUP}/v1/{within}{}", entry.resource);
    let client = Loopback::new(api);
    let catalog = api.catalog.load_full();
    let cache = catalog.stored_resource(GROUP, entry.resource).and_then(|s| s.cache());
    let existing = cache.and_then(|cache| cache.get(entry.namespace, entry.name));
    let Some(existing) = existing else { return client.ensure(&collection, entry.object).await.map(|_| ()) };
    let value = existing.value();
    if at(&value, "/metadata/annotations").get("rbac.authorization.kubernetes.io/autoupdate").and_then(Value::as_str) == Some("false") {
        return Ok(());
    }
    // What a binding refers to cannot be changed, so that one is made anew.
    if at(&value, "/roleRef") != at(&entry.object, "/roleRef") {
        if let Some(cache) = cache {
            api.storage
                .delete(cache, entry.namespace, entry.name, Some(existing.revision()))
                .await
                .map_err(|e| Status::internal_error(&e.to_string()))?;
        }
        return client.ensure(&collection, entry.object).await.map(|_| ());
    }
    match reconciled(&value, &entry.object) {
        Some(object) => client.replace(&format!("{collection}/{}", entry.name), object).await.map(|_| ()),
        None => Ok(()),
    }
}

/// The existing object with what it lacks of the expected one; `None` if it lacks nothing.
pub fn reconciled(existing: &Value, expected: &Value) -> Option<Value> {
    let mut object = existing.clone();
    for field in ["annotations", "labels"] {
        let wanted = at(expected, &format!("/metadata/{field}")).as_object();
        for (key, value) in wanted.into_iter().flatten() {
            if at(existing, &format!("/metadata/{field}")).get(key).is_none() {
                object["metadata"][field][key] = value.clone();
            }
        }
    }
    let own: Vec<Rule> = list_at(existing, "/rules").iter().map(Rule::parse).collect();
    let wanted: Vec<Rule> = list_at(expected, "/rules").iter().map(Rule::parse).collect();
    let own: Vec<&Rule> = own.iter().collect();
    append(&mut object, "/rules", rule::missing_atoms(&own, wanted.iter()).iter().map(Rule::to_value).collect());
    let subjects = list_at(existing, "/subjects");
    append(&mut object, "/subjects", list_at(expected, "/subjects").iter().filter(|s| !has_subject(subjects, s)).cloned().collect());
    if expected.get("aggregationRule").is_none() {
        if let Some(map) = object.as_object_mut() {
            map.shift_remove("aggregationRule");
        }
    } else {
        let pointer = "/aggregationRule/clusterRoleSelectors";
        let own = list_at(existing, pointer);
        append(&mut object, pointer, list_at(expected, pointer).iter().filter(|s| !own.contains(s)).cloned().collect());
    }
    (object != *existing).then_some(object)
}

/// Subjects are the same whatever the order of their fields.
fn has_subject(subjects: &[Value], wanted: &Value) -> bool {
    let fields = |s: &Value| ["kind", "apiGroup", "namespace", "name"].map(|f| s.get(f).and_then(Value::as_str).unwrap_or("").to_owned());
    subjects.iter().any(|subject| fields(subject) == fields(wanted))
}

fn append(object: &mut Value, pointer: &str, items: Vec<Value>) {
    if items.is_empty() {
        return;
    }
    let mut place = object;
    for field in pointer.split('/').skip(1) {
        place = &mut place[field];
    }
    match place {
        Value::Array(list) => list.extend(items),
        other => *other = json!(items),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_back_and_what_was_added_stays() {
        let rule = |verbs: &[&str], resource: &str| json!({ "verbs": verbs, "apiGroups": [""], "resources": [resource] });
        let expected = json!({ "metadata": { "labels": { "a": "1", "b": "2" } }, "rules": [rule(&["get", "list"], "pods")] });
        assert_eq!(reconciled(&expected, &expected), None);
        let existing = json!({ "metadata": { "labels": { "a": "mine" } }, "rules": [rule(&["get"], "pods"), rule(&["get"], "nodes")] });
        let made = reconciled(&existing, &expected).unwrap();
        assert_eq!(made["metadata"]["labels"], json!({ "a": "mine", "b": "2" }));
        assert_eq!(made["rules"], json!([rule(&["get"], "pods"), rule(&["get"], "nodes"), rule(&["list"], "pods")]));
    }

    #[test]
    fn subjects_and_selectors_are_given_back() {
        let expected = json!({ "subjects": [{ "kind": "User", "apiGroup": GROUP, "name": "u" }] });
        let made = reconciled(&json!({}), &expected).unwrap();
        assert_eq!(made["subjects"], expected["subjects"]);
        let expected = json!({ "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] } });
        assert_eq!(reconciled(&json!({}), &expected).unwrap()["aggregationRule"], expected["aggregationRule"]);
        assert_eq!(reconciled(&expected, &json!({})), Some(json!({})));
    }
}
