//! ControllerRevisions: the templates that a StatefulSet or DaemonSet has had, so that it can go back to them.
//!
//! Pure but for [`History`], which reads the local copies and writes revisions. Two revisions are the same if they make the same
//! pods; names and hashes are opaque.

use std::sync::Arc;

use client::{Change, Informer, Object, answer};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::adoption::{self, Claimer};
use crate::{failure, owners, template};

/// The label of pods and, for DaemonSets, of revisions that tells them apart.
pub const REVISION_LABEL: &str = "controller-revision-hash";

/// An owner's name is cut to this length in the names of its revisions.
const MAX_PREFIX: usize = 223;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("revision {name} is not a template: {source}")]
    Unreadable { name: String, source: serde_json::Error },
    #[error("writing a template down: {0}")]
    Unwritable(#[from] serde_json::Error),
    #[error("claiming revisions: {0}")]
    Claim(#[from] adoption::Error),
    #[error("writing revision {name}: {}", failure::message(source))]
    Write { name: String, source: kube::Error },
    #[error("the name {0} belongs to another revision")]
    Collision(String),
}

/// What a revision keeps: a patch that puts the template back.
pub fn data_of(template: &PodTemplateSpec) -> Result<Value, serde_json::Error> {
    let mut template = serde_json::to_value(template)?;
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".to_owned(), "replace".into());
        fields.sort_keys();
    }
    Ok(json!({"spec": {"template": template}}))
}

/// The template that a revision keeps.
pub fn template_of(revision: &ControllerRevision) -> Result<PodTemplateSpec, Error> {
    let mut template = revision.data.0.pointer("/spec/template").cloned().unwrap_or_default();
    if let Some(fields) = template.as_object_mut() {
        fields.shift_remove("$patch");
    }
    serde_json::from_value(template).map_err(|source| Error::Unreadable { name: revision.name().to_owned(), source })
}

/// Whether a revision keeps this template. One that cannot be read keeps none.
pub fn keeps(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    template_of(revision).is_ok_and(|kept| template::is_same(&kept, template))
}

pub fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

/// Oldest first.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    let created = |revision: &ControllerRevision| revision.metadata.creation_timestamp.as_ref().map(|time| time.0);
    revisions.sort_by(|a, b| number(a).cmp(&number(b)).then_with(|| created(a).cmp(&created(b))).then_with(|| a.name().cmp(b.name())));
}

/// A revision of `owner` that is not written yet.
pub fn new_revision<O: Object>(
    owner: &O,
    template: &PodTemplateSpec,
    hash_label: &str,
    revision: i64,
    collisions: i32,
) -> Result<ControllerRevision, Error> {
    let data = data_of(template)?;
    let mut bytes = serde_json::to_vec(&data)?;
    bytes.extend(collisions.to_string().bytes());
    let hash = template::name_of(template::fnv1a(&bytes));
    let mut labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    labels.insert(hash_label.to_owned(), hash.clone());
    let prefix = owner.name().get(..MAX_PREFIX).unwrap_or(owner.name());
    let metadata = ObjectMeta {
        name: Some(format!("{prefix}-{hash}")),
        namespace: Some(owner.namespace().to_owned()),
        labels: Some(labels),
        annotations: k8s_openapi::Metadata::metadata(owner).annotations.clone(),
        owner_references: Some(vec![owner.controller_reference()]),
        ..ObjectMeta::default()
    };
    Ok(ControllerRevision { metadata, data: RawExtension(data), revision: Some(revision) })
}

/// Reads and writes revisions for one controller.
pub struct History {
    client: Client,
    revisions: Informer<ControllerRevision>,
}

impl History {
    pub fn new(client: Client, revisions: Informer<ControllerRevision>) -> History {
        revisions.index_controllers();
        owners::index_orphans(&revisions);
        History { client, revisions }
    }

    pub async fn synced(&self) {
        self.revisions.synced().await;
    }

    /// As [`Informer::on_change`].
    pub fn on_change(&self, handler: impl Fn(&Change<ControllerRevision>) + Send + Sync + 'static) {
        self.revisions.on_change(handler);
    }

    fn api(&self, namespace: &str) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The owner's revisions, oldest first; orphans that match become its own.
    pub async fn of<O>(&self, owner: &O, matches: impl Fn(&ControllerRevision) -> bool) -> Result<Vec<Arc<ControllerRevision>>, Error>
    where
        O: Object + kube::Resource<Scope = NamespaceResourceScope>,
    {
        let known = owners::owned_or_orphaned(&self.revisions, owner);
        let claimer = Claimer { client: &self.client, owner, finalizer: None };
        let mut revisions = claimer.claim(known, matches).await?;
        sort(&mut revisions);
        Ok(revisions)
    }

    /// Creates a revision. One of the same name that keeps the same template is as good.
    pub async fn create(&self, revision: &ControllerRevision, template: &PodTemplateSpec) -> Result<ControllerRevision, Error> {
        let failed = |source| Error::Write { name: revision.name().to_owned(), source };
        let api = self.api(revision.namespace());
        match api.create(&PostParams::default(), revision).await {
            Ok(created) => Ok(created),
            Err(error) if answer::is_already_exists(&error) => {
                let existing = api.get(revision.name()).await.map_err(failed)?;
                if keeps(&existing, template) { Ok(existing) } else { Err(Error::Collision(revision.name().to_owned())) }
            }
            Err(error) => Err(failed(error)),
        }
    }

    pub async fn replace(&self, revision: &ControllerRevision) -> Result<ControllerRevision, Error> {
        let written = self.api(revision.namespace()).replace(revision.name(), &PostParams::default(), revision).await;
        written.map_err(|source| Error::Write { name: revision.name().to_owned(), source })
    }

    pub async fn delete(&self, revision: &ControllerRevision) -> Result<(), Error> {
        let deleted = self.api(revision.namespace()).delete(revision.name(), &DeleteParams::default()).await;
        answer::or_absent(deleted).map_err(|source| Error::Write { name: revision.name().to_owned(), source })?;
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;

    use super::*;

    pub fn template(node: &str) -> PodTemplateSpec {
        let mut template = PodTemplateSpec::default();
        template.metadata.get_or_insert_default().labels = Some([("app".to_owned(), "web".to_owned())].into());
        template.spec.get_or_insert_default().node_name = Some(node.to_owned());
        template
    }

    fn owner() -> StatefulSet {
        let mut owner = StatefulSet::default();
        owner.metadata.name = Some("web".to_owned());
        owner.metadata.namespace = Some("d".to_owned());
        owner
    }

    pub fn revision(node: &str, revision: i64) -> ControllerRevision {
        new_revision(&owner(), &template(node), REVISION_LABEL, revision, 0).unwrap()
    }

    #[test]
    fn a_revision_gives_its_template_back() {
        let one = revision("one", 1);
        assert_eq!(one.data.0.pointer("/spec/template/$patch"), Some(&json!("replace")));
        assert_eq!(template_of(&one).unwrap(), template("one"));
        assert!(keeps(&one, &template("one")) && !keeps(&one, &template("two")));
        let hash = one.label(REVISION_LABEL).unwrap();
        assert_eq!(one.name(), format!("web-{hash}"));
        assert_eq!(one.label("app"), Some("web"));
    }

    #[test]
    fn another_number_of_collisions_gives_another_name() {
        let other = new_revision(&owner(), &template("one"), REVISION_LABEL, 1, 1).unwrap();
        assert_ne!(other.name(), revision("one", 1).name());
    }

    #[test]
    fn revisions_sort_by_number() {
        let mut revisions = [revision("c", 3), revision("a", 1), revision("b", 2)].map(Arc::new);
        sort(&mut revisions);
        assert_eq!(revisions.iter().map(|r| number(r)).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
