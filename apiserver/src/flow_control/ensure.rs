//! Keeps the flow control objects that every cluster has: created at start, and set right within a minute of a change.
//!
//! A mandatory object is always set right. A suggested one belongs to the API server until its annotation or its
//! generation says that an administrator has taken it over; then it is left alone.

use std::time::Duration;

use apimachinery::go_bool;
use apimachinery::status::Status;
use serde_json::Value;
use tokio::time::Instant;

use super::{COLLECTIONS, GROUP, LEVELS, SCHEMAS, bootstrap};
use crate::loopback::{Loopback, is_overtaken};
use crate::registry::read::{int_at, str_at};
use crate::system::watched::Watched;

/// Who creates the objects.
const MANAGER: &str = "api-priority-and-fairness-config-producer-v1";
/// Changes are looked at this long after the last look at the latest, as upstream does.
const PERIOD: Duration = Duration::from_secs(60);
const ANNOTATION: &str = "/metadata/annotations/apf.kubernetes.io~1autoupdate-spec";

/// Creates what is missing and sets right what differs, once.
pub async fn ensure(client: &Loopback) -> Result<(), Status> {
    let client = client.with_manager(MANAGER);
    ensure_all(&client, LEVELS, bootstrap::suggested_levels(), false).await?;
    ensure_all(&client, SCHEMAS, bootstrap::suggested_schemas(), false).await?;
    ensure_all(&client, LEVELS, bootstrap::mandatory_levels(), true).await?;
    ensure_all(&client, SCHEMAS, bootstrap::mandatory_schemas(), true).await?;
    remove_unwanted(&client, SCHEMAS, bootstrap::schemas()).await?;
    remove_unwanted(&client, LEVELS, bootstrap::levels()).await
}

/// Goes on ensuring. Never returns; dropped at the end.
pub async fn keep(client: &Loopback, mut watched: Watched) {
    loop {
        let last = Instant::now();
        watched.changed().await;
        tokio::time::sleep_until(last + PERIOD).await;
        if let Err(status) = ensure(client).await {
            tracing::warn!(error = status.message, "flow control objects are not as they should be");
        }
    }
}

async fn ensure_all(client: &Loopback, plural: &str, objects: impl Iterator<Item = Value>, mandatory: bool) -> Result<(), Status> {
    let collection = format!("{COLLECTIONS}/{plural}");
    let each = objects.map(|object| ensure_one(client, plural, &collection, object, mandatory));
    futures::future::try_join_all(each).await.map(|_| ())
}

async fn ensure_one(client: &Loopback, plural: &str, collection: &str, wanted: Value, mandatory: bool) -> Result<(), Status> {
    let name = str_at(&wanted, "/metadata/name").to_owned();
    let Some(current) = client.get(GROUP, plural, "", &name) else {
        return client.ensure(collection, wanted).await.map(|_| ());
    };
    let Some(revised) = revise(&current, &wanted, mandatory) else { return Ok(()) };
    match client.replace(&format!("{collection}/{name}"), revised).await {
        Err(status) if !is_overtaken(&status) => Err(status),
        _ => Ok(()),
    }
}

/// The object as it should be, if it is not.
fn revise(current: &Value, wanted: &Value, mandatory: bool) -> Option<Value> {
    let update_spec = mandatory || may_update(current);
    let annotate = go_bool::parse(str_at(current, ANNOTATION)) != Ok(update_spec);
    let respec = update_spec && current.get("spec") != wanted.get("spec");
    if !annotate && !respec {
        return None;
    }
    let mut revised = current.clone();
    if respec {
        revised["spec"] = wanted["spec"].clone();
    }
    if annotate {
        revised["metadata"]["annotations"][bootstrap::AUTO_UPDATE] = update_spec.to_string().into();
    }
    Some(revised)
}

/// Whether the spec is still the API server's: the annotation says so, or nobody has edited it.
fn may_update(current: &Value) -> bool {
    go_bool::parse(str_at(current, ANNOTATION)).unwrap_or_else(|_| int_at(current, "/metadata/generation") == 1)
}

/// Deletes what an earlier version created and this one does not have.
async fn remove_unwanted(client: &Loopback, plural: &str, wanted: impl Iterator<Item = Value>) -> Result<(), Status> {
    let wanted: Vec<String> = wanted.map(|w| str_at(&w, "/metadata/name").to_owned()).collect();
    for object in client.list(GROUP, plural) {
        let name = str_at(&object, "/metadata/name");
        if wanted.iter().any(|w| w == name) || go_bool::parse(str_at(&object, ANNOTATION)) != Ok(true) {
            continue;
        }
        client.delete(&format!("{COLLECTIONS}/{plural}/{name}"), "").await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(annotation: Option<&str>, generation: i64, spec: i64) -> Value {
        let mut object = json!({"metadata": {"name": "a", "generation": generation}, "spec": {"n": spec}});
        if let Some(text) = annotation {
            object["metadata"]["annotations"] = json!({ bootstrap::AUTO_UPDATE: text });
        }
        object
    }

    #[test]
    fn a_suggested_object_is_left_to_whoever_edited_it() {
        let wanted = object(Some("true"), 0, 1);
        for (current, mandatory, expect) in [
            (object(Some("true"), 1, 1), false, None),
            (object(Some("true"), 2, 2), false, Some(("true", 1))),
            (object(Some("false"), 2, 2), false, None),
            (object(None, 2, 2), false, Some(("false", 2))),
            (object(None, 1, 2), false, Some(("true", 1))),
            (object(Some("false"), 2, 2), true, Some(("true", 1))),
        ] {
            let revised = revise(&current, &wanted, mandatory);
            let seen = revised.as_ref().map(|r| (str_at(r, ANNOTATION), r["spec"]["n"].as_i64().unwrap()));
            assert_eq!(seen, expect, "{current}");
        }
    }
}
