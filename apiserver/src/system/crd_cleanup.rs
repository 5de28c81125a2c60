//! The end of a CustomResourceDefinition: its objects are deleted, then its finalizer is taken off.

use std::time::Duration;

use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::Value;

use super::crd_names::{COLLECTION, ESTABLISHED, GROUP, PLURAL};
use super::keyed::{self, Next, Reconciler, Source};
use super::watched::cache;
use crate::crd::summary::Summary;
use crate::endpoints::deletion::CUSTOM_RESOURCE_CLEANUP;
use crate::loopback::{Loopback, is_overtaken};
use crate::registry::conditions::{Condition, is_true};
use crate::registry::read::{bool_at, list_at, str_at};

const TERMINATING: &str = "Terminating";
/// Objects that wait for their own finalizers are looked at again after this time.
const RECHECK: Duration = Duration::from_secs(5);
/// Built-in resources whose storage a definition of the same name would share.
const OVERLAPPING: [(&str, &str); 2] = [("apiregistration.k8s.io", "apiservices"), (GROUP, PLURAL)];

/// Starts the controller.
pub fn spawn(client: &Loopback) {
    if client.serves(GROUP, PLURAL) {
        keyed::spawn(client, "crd-cleanup", vec![Source::own(GROUP, PLURAL)], Cleanup { client: client.clone() });
    }
}

struct Cleanup {
    client: Loopback,
}

impl Reconciler for Cleanup {
    async fn reconcile(&mut self, name: &str) -> Result<Next, Status> {
        let definition = cache(self.client.api(), GROUP, PLURAL).and_then(|definitions| definitions.get("", name));
        let Some(definition) = definition.filter(|definition| Summary::read(definition).is_being_deleted()) else {
            return Ok(Next::default());
        };
        let mut definition = definition.value();
        if !has_finalizer(&definition) {
            return Ok(Next::default());
        }
        let path = format!("{COLLECTION}/{name}/status");
        let begun = Condition::new(TERMINATING, "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
        begun.set(&mut definition, Timestamp::now());
        let mut definition = self.client.replace(&path, definition).await?;
        let (outcome, retry) = self.clean(&definition).await;
        outcome.set(&mut definition, Timestamp::now());
        if retry {
            self.client.replace(&path, definition).await?;
            return Ok(Next { after: Some(RECHECK), ..Next::default() });
        }
        take_off_finalizer(&mut definition);
        self.client.replace(&path, definition).await?;
        Ok(Next::default())
    }
}

impl Cleanup {
    /// Deletes the objects of a definition; says what came of it, and whether it has to be tried again.
    async fn clean(&self, definition: &Value) -> (Condition, bool) {
        let ended = |reason, message| (Condition::new(TERMINATING, "False", reason, message), false);
        let group = str_at(definition, "/spec/group");
        let plural = str_at(definition, "/spec/names/plural");
        if OVERLAPPING.contains(&(group, plural)) {
            return ended("OverlappingBuiltInResource", "instances overlap with built-in resources in storage");
        }
        if !is_true(definition, ESTABLISHED) {
            return ended("NeverEstablished", "resource was never established");
        }
        if let Err(status) = self.delete_objects(definition, group, plural).await {
            let message = format!("could not issue all deletes: {}", status.message);
            return (Condition::new(TERMINATING, "True", "InstanceDeletionFailed", message), true);
        }
        let left = cache(self.client.api(), group, plural).is_some_and(|objects| !objects.snapshot().is_empty());
        if left {
            let message = "could not confirm zero CustomResources remaining: timed out waiting for the condition";
            return (Condition::new(TERMINATING, "True", "InstanceDeletionCheck", message), true);
        }
        ended("InstanceDeletionCompleted", "removed all instances")
    }

    async fn delete_objects(&self, definition: &Value, group: &str, plural: &str) -> Result<(), Status> {
        let Some(objects) = cache(self.client.api(), group, plural) else { return Ok(()) };
        let stored = list_at(definition, "/spec/versions").iter().find(|v| bool_at(v, "/storage"));
        let version = stored.map_or("", |v| str_at(v, "/name"));
        for object in objects.snapshot().range("", None) {
            let place = if object.namespace().is_empty() { String::new() } else { format!("namespaces/{}/", object.namespace()) };
            let path = format!("/apis/{group}/{version}/{place}{plural}/{}", object.name());
            match self.client.delete(&path, object.uid()).await {
                Err(status) if !is_overtaken(&status) => return Err(status),
                _ => {}
            }
        }
        Ok(())
    }
}

fn has_finalizer(definition: &Value) -> bool {
    list_at(definition, "/metadata/finalizers").iter().any(|f| f == CUSTOM_RESOURCE_CLEANUP)
}

fn take_off_finalizer(definition: &mut Value) {
    if let Some(finalizers) = definition.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
        finalizers.retain(|f| f != CUSTOM_RESOURCE_CLEANUP);
    }
}
