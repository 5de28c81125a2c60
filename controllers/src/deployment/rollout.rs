//! One step of a Deployment: asks what is to be done and writes it.
//!
//! Each step writes little and relies on the changes to come back as events; decisions are made elsewhere.

use std::sync::Arc;

use client::controller::Outcome;
use client::{Object, answer};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use super::revision::{self, REVISION, Sets};
use super::scaling::{self, Step};
use super::status::{self, PROGRESSING};
use super::wanted::Wanted;
use super::{Error, Shell};
use crate::replica_set::Replicated;
use crate::{failure, template};

/// The longest name of an object.
const MAX_NAME: usize = 253;

/// A Deployment that is being worked on.
pub struct Rollout<'a> {
    pub shell: &'a Shell,
    /// As it was last read or written.
    pub deployment: Deployment,
    pub wanted: Wanted<'a>,
    pub sets: Sets,
    now: Timestamp,
}

impl<'a> Rollout<'a> {
    pub fn new(shell: &'a Shell, deployment: &Deployment, wanted: Wanted<'a>, sets: Vec<Arc<ReplicaSet>>, now: Timestamp) -> Rollout<'a> {
        let sets = Sets::sort(sets.iter().map(|set| (**set).clone()).collect(), wanted.template);
        Rollout { shell, deployment: deployment.clone(), wanted, sets, now }
    }

    /// Takes the next step.
    pub async fn advance(mut self) -> Result<Outcome, Error> {
        if self.deployment.is_terminating() {
            self.sync_revision().await?;
            return self.write_counts().await;
        }
        let mut paused = self.deployment.status.clone().unwrap_or_default();
        if status::note_pause(&self.wanted, &mut paused, self.now) {
            self.write_status(paused).await?;
        }
        if self.wanted.paused {
            self.sync_revision().await?;
            return self.follow_scale().await;
        }
        if let Some(revision) = super::rollback::asked_for(&self.deployment) {
            return self.roll_back(revision).await;
        }
        self.sync_revision().await?;
        if scaling::is_scaled(&self.wanted, &self.sets) {
            return self.follow_scale().await;
        }
        if self.wanted.rolling { self.roll().await } else { self.recreate().await }
    }

    async fn roll(mut self) -> Result<Outcome, Error> {
        self.ensure_new_set().await?;
        let Some(new) = &self.sets.new else { return Ok(Outcome::Done) };
        let size = scaling::new_set_size(&self.wanted, scaling::total(self.sets.all()), new.desired());
        let step = (new.name().to_owned(), size);
        if self.take(step, false).await? {
            return self.finish_step().await;
        }
        let steps = scaling::shrink_old(&self.wanted, &self.sets);
        if !steps.is_empty() {
            for step in steps {
                self.take(step, false).await?;
            }
            return self.finish_step().await;
        }
        self.clean_up_if_complete().await?;
        self.finish_step().await
    }

    async fn recreate(mut self) -> Result<Outcome, Error> {
        let steps: Vec<Step> = self.sets.old.iter().filter(|set| set.desired() > 0).map(|set| (set.name().to_owned(), 0)).collect();
        if !steps.is_empty() {
            for step in steps {
                self.take(step, false).await?;
            }
            return self.finish_step().await;
        }
        if self.shell.has_running_pods(self.sets.old.iter()) {
            return self.finish_step().await;
        }
        self.ensure_new_set().await?;
        let Some(new) = &self.sets.new else { return Ok(Outcome::Done) };
        let step = (new.name().to_owned(), self.wanted.replicas);
        self.take(step, false).await?;
        self.clean_up_if_complete().await?;
        self.finish_step().await
    }

    async fn follow_scale(mut self) -> Result<Outcome, Error> {
        let pods = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let scaling = scaling::follow_scale(&self.wanted, &self.sets, pods);
        for step in scaling.steps {
            self.take(step, scaling.always).await?;
        }
        if self.wanted.paused && super::rollback::asked_for(&self.deployment).is_none() {
            self.clean_up().await?;
        }
        self.write_counts().await
    }

    /// Brings the annotations of the new set, if there is one, and the Deployment's revision up to date.
    pub async fn sync_revision(&mut self) -> Result<(), Error> {
        let Some(mut new) = self.sets.new.clone() else { return Ok(()) };
        let annotated = revision::annotate(&self.deployment, &mut new, revision::highest(&self.sets.old) + 1);
        let delayed = new.spec.min_ready_seconds.unwrap_or(0) != self.wanted.min_ready_seconds.unwrap_or(0);
        if annotated || delayed {
            new.spec.min_ready_seconds = self.wanted.min_ready_seconds;
            self.sets.new = Some(self.replace_set(&new).await?);
            return Ok(());
        }
        let revised = self.note_revision(new.annotation(REVISION).unwrap_or("").to_owned());
        let mut changed = self.deployment.status.clone().unwrap_or_default();
        let untold = self.wanted.progress_deadline_seconds.is_some() && status::condition(&changed, PROGRESSING).is_none();
        if untold {
            let message = format!("Found new replica set \"{}\"", new.name());
            status::set_condition(&mut changed, status::new_condition(PROGRESSING, "True", status::FOUND, message, self.now));
        }
        if revised || untold {
            self.write_status(changed).await?;
        }
        Ok(())
    }

    fn note_revision(&mut self, revision: String) -> bool {
        let annotations = self.deployment.metadata.annotations.get_or_insert_default();
        annotations.insert(REVISION.to_owned(), revision.clone()) != Some(revision)
    }

    /// Creates the ReplicaSet of the present template if it is not there.
    pub async fn ensure_new_set(&mut self) -> Result<(), Error> {
        if self.sets.new.is_some() {
            return Ok(());
        }
        let revision = revision::highest(&self.sets.old) + 1;
        let set = self.new_set(revision)?;
        let key = self.deployment.key();
        self.shell.creations.expect(&key, 1, []);
        let posted = self.set_api().create(&PostParams::default(), &set).await;
        match &posted {
            Ok(created) => self.shell.creations.created(&key, created.uid()),
            Err(_) => self.shell.creations.not_created(&key),
        }
        let created = match posted {
            Ok(created) => created,
            Err(error) if answer::is_already_exists(&error) => {
                // The local copy lags, or the name belongs to another template.
                let existing = self.shell.sets.get(set.namespace(), set.name()).ok_or_else(|| Error::Unknown(set.name().to_owned()))?;
                let ours = existing.template().is_some_and(|existing| template::is_same(existing, self.wanted.template));
                if !(existing.is_controlled_by(self.deployment.uid()) && ours) {
                    return self.note_collision(set.name()).await;
                }
                self.sets.new = Some((*existing).clone());
                if self.note_revision(revision.to_string()) {
                    self.write_status(self.deployment.status.clone().unwrap_or_default()).await?;
                }
                return Ok(());
            }
            Err(source) => return self.tell_failed_creation(set.name(), source).await,
        };
        if created.desired() > 0 {
            let message = format!("Scaled up replica set {} from 0 to {}", created.name(), created.desired());
            self.shell.recorder.normal(&self.deployment.reference(), "ScalingReplicaSet", message);
        }
        let revised = self.note_revision(revision.to_string());
        let mut changed = self.deployment.status.clone().unwrap_or_default();
        let told = self.wanted.progress_deadline_seconds.is_some();
        if told {
            let message = format!("Created new replica set \"{}\"", created.name());
            status::set_condition(&mut changed, status::new_condition(PROGRESSING, "True", status::CREATED, message, self.now));
        }
        self.sets.new = Some(created);
        if revised || told {
            self.write_status(changed).await?;
        }
        Ok(())
    }

    fn new_set(&self, revision: i64) -> Result<ReplicaSet, Error> {
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = template::hash(self.wanted.template, collisions)?;
        let mut template = self.wanted.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(template::HASH_LABEL.to_owned(), hash.clone());
        let mut set = ReplicaSet::default();
        set.metadata.labels = Some(labels.clone());
        set.metadata.name = Some(set_name(self.deployment.name(), &hash));
        set.metadata.namespace = self.deployment.metadata.namespace.clone();
        set.metadata.owner_references = Some(vec![self.deployment.controller_reference()]);
        let spec = &mut set.spec;
        spec.replicas = Some(scaling::new_set_size(&self.wanted, scaling::total(&self.sets.old), 0));
        spec.min_ready_seconds = self.wanted.min_ready_seconds;
        spec.selector = self.deployment.spec.selector.clone();
        spec.selector.match_labels.get_or_insert_default().insert(template::HASH_LABEL.to_owned(), hash);
        spec.template = Some(template);
        revision::annotate(&self.deployment, &mut set, revision);
        revision::annotate_replicas(&mut set, &self.wanted);
        Ok(set)
    }

    async fn note_collision(&mut self, name: &str) -> Result<(), Error> {
        let mut changed = self.deployment.status.clone().unwrap_or_default();
        *changed.collision_count.get_or_insert(0) += 1;
        self.write_status(changed).await?;
        Err(Error::Collision(name.to_owned()))
    }

    async fn tell_failed_creation(&mut self, name: &str, source: kube::Error) -> Result<(), Error> {
        let error = Error::Set { name: name.to_owned(), source };
        let Error::Set { source, .. } = &error else { return Err(error) };
        if answer::is_namespace_terminating(source) {
            return Err(error);
        }
        let message = format!("Failed to create new replica set \"{name}\": {}", failure::message(source));
        if self.wanted.progress_deadline_seconds.is_some() {
            let mut changed = self.deployment.status.clone().unwrap_or_default();
            let told = status::new_condition(PROGRESSING, "False", status::FAILED_CREATE, message.clone(), self.now);
            status::set_condition(&mut changed, told);
            if let Err(error) = self.write_status(changed).await {
                tracing::debug!(deployment = %self.deployment.key(), %error, "the failed creation could not be noted");
            }
        }
        self.shell.recorder.warning(&self.deployment.reference(), status::FAILED_CREATE, message);
        Err(error)
    }

    /// Gives a set its new size; says whether it changed. `always` renews the annotations of a set whose size stays.
    async fn take(&mut self, (name, size): Step, always: bool) -> Result<bool, Error> {
        let Some(set) = self.sets.all().find(|set| set.name() == name) else { return Ok(false) };
        let old = set.desired();
        if old == size && !always {
            return Ok(false);
        }
        let mut changed = set.clone();
        changed.spec.replicas = Some(size);
        if !revision::annotate_replicas(&mut changed, &self.wanted) && old == size {
            return Ok(false);
        }
        let written = self.replace_set(&changed).await?;
        for set in self.sets.old.iter_mut().chain(&mut self.sets.new) {
            if set.name() == name {
                *set = written.clone();
            }
        }
        if old != size {
            let direction = if old < size { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {name} from {old} to {size}");
            self.shell.recorder.normal(&self.deployment.reference(), "ScalingReplicaSet", message);
        }
        Ok(old != size)
    }

    async fn clean_up_if_complete(&self) -> Result<(), Error> {
        let status = self.deployment.status.clone().unwrap_or_default();
        if status::is_complete(&self.deployment, &self.wanted, &status) { self.clean_up().await } else { Ok(()) }
    }

    async fn clean_up(&self) -> Result<(), Error> {
        let Some(limit) = self.wanted.history_limit else { return Ok(()) };
        for set in scaling::expendable(limit, &self.sets.old) {
            let deleted = self.set_api().delete(set.name(), &DeleteParams::default()).await;
            answer::or_absent(deleted).map_err(|source| Error::Set { name: set.name().to_owned(), source })?;
        }
        Ok(())
    }

    async fn finish_step(mut self) -> Result<Outcome, Error> {
        let status = status::of_rollout(&self.deployment, &self.wanted, &self.sets, self.now);
        if self.deployment.status.as_ref() == Some(&status) {
            let next = status::next_check(&self.deployment, &self.wanted, self.now);
            return Ok(next.map_or(Outcome::Done, Outcome::After));
        }
        self.write_status(status).await?;
        Ok(Outcome::Done)
    }

    async fn write_counts(mut self) -> Result<Outcome, Error> {
        let status = status::counted(&self.deployment, &self.wanted, &self.sets, self.now);
        if self.deployment.status.as_ref() != Some(&status) {
            self.write_status(status).await?;
        }
        Ok(Outcome::Done)
    }

    /// Writes the status, and the revision annotation with it.
    async fn write_status(&mut self, status: DeploymentStatus) -> Result<(), Error> {
        let mut changed = self.deployment.clone();
        changed.status = Some(status);
        let api = self.shell.api(&self.deployment);
        self.deployment = api.replace_status(self.deployment.name(), &PostParams::default(), &changed).await.map_err(Error::Write)?;
        self.shell.own_writes.note(&self.deployment);
        Ok(())
    }

    async fn replace_set(&self, set: &ReplicaSet) -> Result<ReplicaSet, Error> {
        let written = self.set_api().replace(set.name(), &PostParams::default(), set).await;
        let written = written.map_err(|source| Error::Set { name: set.name().to_owned(), source })?;
        self.shell.own_set_writes.note(&written);
        Ok(written)
    }

    fn set_api(&self) -> Api<ReplicaSet> {
        Api::namespaced(self.shell.client.clone(), self.deployment.namespace())
    }
}

/// The Deployment's name, shortened if need be, and the hash.
fn set_name(deployment: &str, hash: &str) -> String {
    let longest = MAX_NAME.saturating_sub(hash.len() + 1);
    let deployment = deployment.get(..longest).unwrap_or(deployment);
    format!("{deployment}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sets_are_cut_to_fit() {
        assert_eq!(set_name("web", "abc"), "web-abc");
        assert_eq!(set_name(&"a".repeat(253), "abc").len(), 253);
    }
}
