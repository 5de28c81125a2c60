//! The storage version migrator: writes every object of a resource anew, as it is, so that all are stored in the version of today.
//!
//! Migrations of one resource run one after the other, the oldest first. A definition of custom resources is told when none of its
//! objects are stored in an older version any more.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::clock;
use client::controller::Outcome;
use client::{Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, GroupResource, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::discovery::{self, Resource};
use crate::failure;
use crate::manager::Context;

const RUNNING: &str = "Running";
const SUCCEEDED: &str = "Succeeded";
const FAILED: &str = "Failed";
const STORAGE_MIGRATING: &str = "StorageMigrating";
const FIELD_MANAGER: &str = "storage-version-migrator-controller";
const RUNNER: &str = "migration-runner-controller";
const VERBS: [&str; 3] = ["update", "patch", "list"];
/// How long a resource may take to be served.
const SERVED_WITHIN: SignedDuration = SignedDuration::from_secs(60);
const PAGE: u32 = 500;
const WORKERS: usize = 5;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("resource does not exist in rest mapper, requeuing to attempt again")]
    NotServed,
    #[error("objects are still stored in another version than the definition says, requeuing to attempt again")]
    Unsettled,
    #[error("{}", failure::message(.0))]
    Request(#[from] kube::Error),
}

struct Controller {
    client: Client,
    migrations: Informer<StorageVersionMigration>,
}

pub async fn run(context: Context) {
    let controller = Controller { client: context.client.clone(), migrations: context.informers.of() };
    let queue = Queue::named("storage-version-migrator-controller");
    let (sink, all) = (queue.clone(), controller.migrations.clone());
    controller.migrations.on_change(move |change| {
        // The end of one is the beginning of another.
        let resource = resource(change.object());
        all.list().iter().filter(|other| self::resource(other) == resource).for_each(|other| sink.add(other.key()));
    });
    controller.migrations.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| controller.sync(key)).await;
}

fn resource(migration: &StorageVersionMigration) -> Option<&GroupResource> {
    migration.spec.as_ref().map(|spec| &spec.resource)
}

fn is(migration: &StorageVersionMigration, kind: &str) -> bool {
    let conditions = migration.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn is_over(migration: &StorageVersionMigration) -> bool {
    is(migration, SUCCEEDED) || is(migration, FAILED)
}

fn set(migration: &mut StorageVersionMigration, kind: &str, value: bool, reason: &str, message: &str, now: Timestamp) {
    let value = if value { "True" } else { "False" };
    let conditions = migration.status.get_or_insert_default().conditions.get_or_insert_default();
    let old = conditions.iter().find(|condition| condition.type_ == kind && condition.status == value);
    let since = old.map_or(Time(now), |condition| condition.last_transition_time.clone());
    let condition = Condition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since,
        observed_generation: None,
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

/// Whether the migration's turn has come: it runs, or nobody else of its resource does and it is the oldest that waits.
fn is_next(migration: &StorageVersionMigration, all: &[std::sync::Arc<StorageVersionMigration>]) -> bool {
    let rank = |m: &StorageVersionMigration| (!is(m, RUNNING), m.metadata.creation_timestamp.clone(), m.name().to_owned());
    let rivals = all.iter().filter(|other| resource(other) == resource(migration) && (!is_over(other) || is(other, RUNNING)));
    rivals.into_iter().all(|other| other.name() == migration.name() || rank(migration) < rank(other))
}

fn running_message(left: usize, total: usize, error: Option<&str>) -> String {
    let progress = match (total, left) {
        (0, _) => String::new(),
        (total, 0) => format!(", {total} objects verified migrated"),
        (total, left) => format!(", {left}/{total} objects not yet migrated"),
    };
    let error = error.map_or_else(String::new, |error| format!("; transient error: {error}"));
    format!("The migration is running{progress}{error}")
}

/// Why objects of a resource cannot be written again.
fn unfit(served: &Resource) -> Option<String> {
    let lacks = !VERBS.iter().all(|verb| served.supports(verb));
    let name = format!("{}/{}, Resource={}", served.group, served.version, served.plural);
    lacks.then(|| format!("resource \"{name}\" does not support discovery operations: [{}]", VERBS.join(" ")))
}

/// Failures that pass.
fn is_transient(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 429 | 500 | 503 | 504),
        _ => true,
    }
}

/// How discovery tells of the version that objects are stored in.
fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{group}/{version}/{kind}").as_bytes());
    STANDARD.encode(&digest.as_ref()[..8])
}

fn revision(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(known) = self.migrations.get_key(&key) else { return Ok(Outcome::Done) };
        let mut migration = known.as_ref().clone();
        if is_over(&migration) {
            if is(&migration, RUNNING) {
                self.release(&migration).await?;
                set(&mut migration, RUNNING, false, "MigrationCompleted", "Migration completed", clock::now());
                self.write(&migration).await?;
            }
            return Ok(Outcome::Done);
        }
        if !is_next(&migration, &self.migrations.list()) {
            return Ok(Outcome::Done);
        }
        if !is(&migration, RUNNING) {
            self.claim(&migration).await?;
            set(&mut migration, RUNNING, true, "MigrationRunning", &running_message(0, 0, None), clock::now());
            self.write(&migration).await?;
            return Ok(Outcome::Done);
        }
        let has_begun = migration.status.as_ref().is_some_and(|status| status.resource_version.as_deref().is_some_and(|v| !v.is_empty()));
        let Some(served) = self.served(&migration).await? else {
            let age = migration.metadata.creation_timestamp.as_ref().map_or(SERVED_WITHIN, |time| clock::now().duration_since(time.0));
            if age < SERVED_WITHIN {
                return Err(Error::NotServed);
            }
            let why = if has_begun {
                "migration encountered unhandled error: unable to obtain GVR from discovery"
            } else {
                "resource does not exist in discovery"
            };
            return self.fail(migration, why).await;
        };
        if !has_begun {
            if let Some(why) = unfit(&served) {
                return self.fail(migration, &why).await;
            }
            let list = served.everywhere(&self.client).list(&ListParams::default().limit(1)).await?;
            migration.status.get_or_insert_default().resource_version = list.metadata.resource_version;
            self.write(&migration).await?;
            return Ok(Outcome::Done);
        }
        if !self.is_settled(&migration, &served).await? {
            return Err(Error::Unsettled);
        }
        self.migrate(migration, &served).await
    }

    async fn write(&self, migration: &StorageVersionMigration) -> Result<(), kube::Error> {
        let api: Api<StorageVersionMigration> = Api::all(self.client.clone());
        answer::or_absent(api.replace_status(migration.name(), &PostParams::default(), migration).await).map(|_| ())
    }

    async fn fail(&self, mut migration: StorageVersionMigration, message: &str) -> Result<Outcome, Error> {
        set(&mut migration, FAILED, true, "StorageVersionMigrationFailed", message, clock::now());
        self.write(&migration).await?;
        Ok(Outcome::Done)
    }

    async fn served(&self, migration: &StorageVersionMigration) -> Result<Option<Resource>, kube::Error> {
        let Some(wanted) = resource(migration) else { return Ok(None) };
        let found = discovery::discover(&self.client).await?.resources;
        Ok(found.into_iter().find(|served| served.group == wanted.group && served.plural == wanted.resource))
    }

    /// Writes what was stored up to the migration's revision; what is newer is in today's version already.
    async fn migrate(&self, mut migration: StorageVersionMigration, served: &Resource) -> Result<Outcome, Error> {
        let limit = revision(migration.status.as_ref().and_then(|status| status.resource_version.as_deref()));
        let mut objects = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = served.everywhere(&self.client).list(&page).await?;
            objects.extend(list.items.into_iter().map(|object| object.metadata));
            match list.metadata.continue_ {
                Some(token) if !token.is_empty() => page = page.continue_token(&token),
                _ => break,
            }
        }
        let total = objects.len();
        objects.retain(|object| revision(object.resource_version.as_deref()) <= limit);
        let mut left = objects.len();
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        for object in objects {
            let api = served.within(&self.client, object.namespace.as_deref().unwrap_or(""));
            let same = json!({
                "apiVersion": served.api_version(), "kind": served.kind, "metadata": {"resourceVersion": object.resource_version},
            });
            match api.patch(object.name.as_deref().unwrap_or(""), &params, &Patch::Merge(same)).await {
                Ok(_) => {}
                // Somebody has written it meanwhile, or deleted it.
                Err(error) if answer::is_conflict(&error) || answer::is_not_found(&error) => {}
                Err(error) if is_transient(&error) => {
                    let message = running_message(left, total, Some(&failure::message(&error)));
                    set(&mut migration, RUNNING, true, "MigrationRunning", &message, clock::now());
                    self.write(&migration).await?;
                    return Err(error.into());
                }
                Err(error) => {
                    let now = clock::now();
                    set(&mut migration, RUNNING, true, "MigrationRunning", &running_message(left, total, None), now);
                    let why = failure::message(&error);
                    let message = format!("{left}/{total} not yet migrated. migration encountered unhandled error: {why}");
                    return self.fail(migration, &message).await;
                }
            }
            left -= 1;
        }
        let now = clock::now();
        set(&mut migration, RUNNING, true, "MigrationRunning", &running_message(left, total, None), now);
        set(&mut migration, SUCCEEDED, true, "StorageVersionMigrationSucceeded", "Migration completed", now);
        self.write(&migration).await?;
        Ok(Outcome::Done)
    }

    /// Whether objects are written in the version that the definition says. The server follows its definitions, a moment behind: what was written
    /// again before would lie there in the old version, which then would be forgotten.
    async fn is_settled(&self, migration: &StorageVersionMigration, served: &Resource) -> Result<bool, kube::Error> {
        let Some(definition) = self.definition(migration).await? else { return Ok(true) };
        let stored = definition.spec.versions.iter().find(|version| version.storage).map_or("", |version| version.name.as_str());
        let expected = storage_version_hash(&served.group, stored, &served.kind);
        let told = self.client.list_api_group_resources(&served.api_version()).await?.resources;
        let own = told.into_iter().find(|resource| resource.name == served.plural);
        Ok(own.is_some_and(|resource| resource.storage_version_hash.is_some_and(|hash| hash == expected)))
    }

    /// The definition of the migration's resource, if it is a custom one.
    async fn definition(&self, migration: &StorageVersionMigration) -> Result<Option<CustomResourceDefinition>, kube::Error> {
        let Some(resource) = resource(migration).filter(|resource| !resource.group.is_empty()) else { return Ok(None) };
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        api.get_opt(&format!("{}.{}", resource.resource, resource.group)).await
    }

    async fn tell(
        &self,
        definition: &CustomResourceDefinition,
        value: bool,
        reason: &str,
        message: &str,
        stored: Option<&str>,
    ) -> Result<(), kube::Error> {
        let condition = json!({
            "type": STORAGE_MIGRATING, "status": if value { "True" } else { "False" }, "reason": reason, "message": message,
            "lastTransitionTime": clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "observedGeneration": definition.metadata.generation,
        });
        let mut status = json!({"conditions": [condition]});
        if let Some(stored) = stored {
            status["storedVersions"] = json!([stored]);
        }
        let apply = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": definition.name(), "resourceVersion": definition.metadata.resource_version}, "status": status,
        });
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let params = PatchParams::apply(RUNNER).force();
        answer::or_absent(api.patch_status(definition.name(), &params, &Patch::Apply(apply)).await).map(|_| ())
    }

    async fn claim(&self, migration: &StorageVersionMigration) -> Result<(), kube::Error> {
        let Some(definition) = self.definition(migration).await? else { return Ok(()) };
        self.tell(&definition, true, "MigrationRunning", &format!("Migration {} is running", migration.name()), None).await
    }

    /// Says that the migration is over, and if the definition is still the one of its beginning, which version is stored.
    async fn release(&self, migration: &StorageVersionMigration) -> Result<(), kube::Error> {
        let Some(definition) = self.definition(migration).await? else { return Ok(()) };
        if !is(migration, SUCCEEDED) {
            return self.tell(&definition, false, "MigrationFailed", "The migration has failed", None).await;
        }
        let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let begun = conditions.into_iter().find(|condition| condition.type_ == STORAGE_MIGRATING);
        let same = begun.is_some_and(|condition| condition.observed_generation == definition.metadata.generation);
        let stored = definition.spec.versions.iter().find(|version| version.storage).map(|version| version.name.as_str());
        let message = if same {
            "The migration has succeeded and the stored versions have been updated"
        } else {
            "The migration has succeeded but the stored versions have not been updated due to a generation mismatch"
        };
        self.tell(&definition, false, "MigrationSucceeded", message, stored.filter(|_| same)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn migration(name: &str, created: &str, conditions: &[&str]) -> Arc<StorageVersionMigration> {
        let condition = |kind: &&str| json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let conditions: Vec<_> = conditions.iter().map(condition).collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "creationTimestamp": created},
                "spec": {"resource": {"group": "g", "resource": "r"}}, "status": {"conditions": conditions},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn the_oldest_goes_first_and_one_at_a_time() {
        let old = migration("old", "2026-01-01T00:00:00Z", &[]);
        let new = migration("new", "2026-01-02T00:00:00Z", &[]);
        let all = [old.clone(), new.clone()];
        assert!(is_next(&old, &all) && !is_next(&new, &all));
        let running = migration("new", "2026-01-02T00:00:00Z", &[RUNNING]);
        let all = [old.clone(), running.clone()];
        assert!(!is_next(&old, &all) && is_next(&running, &all));
        let over = migration("new", "2026-01-02T00:00:00Z", &[SUCCEEDED]);
        assert!(is_next(&old, &[old.clone(), over]));
        let closing = migration("new", "2026-01-02T00:00:00Z", &[RUNNING, SUCCEEDED]);
        assert!(!is_next(&old, &[old.clone(), closing]));
    }

    #[test]
    fn what_cannot_be_listed_and_written_is_not_migrated() {
        let served = |verbs: &[&str]| Resource {
            group: String::new(),
            version: "v1".to_owned(),
            plural: "bindings".to_owned(),
            singular: String::new(),
            kind: "Binding".to_owned(),
            namespaced: true,
            verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        };
        assert_eq!(unfit(&served(&["get", "list", "patch", "update"])), None);
        let why = "resource \"/v1, Resource=bindings\" does not support discovery operations: [update patch list]";
        assert_eq!(unfit(&served(&["create"])).as_deref(), Some(why));
    }

    #[test]
    fn stored_versions_are_told_as_discovery_tells_them() {
        assert_eq!(storage_version_hash("svm.example.com", "v2", "Gear"), "naz0byDvtVo=");
    }

    #[test]
    fn progress_is_told() {
        assert_eq!(running_message(0, 0, None), "The migration is running");
        assert_eq!(running_message(2, 5, None), "The migration is running, 2/5 objects not yet migrated");
        assert_eq!(running_message(0, 5, Some("x")), "The migration is running, 5 objects verified migrated; transient error: x");
    }
}
