//! The versions of a DaemonSet: the revision of its present template, made if it is not there, and the old ones.

use std::sync::Arc;

use apimachinery::selector::label::Selector;
use client::Object;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::{DEFAULT_HISTORY, Error, Shell};
use crate::controller_history::{self, REVISION_LABEL};

/// The revisions of a set.
pub struct Versions {
    current: Arc<ControllerRevision>,
    /// Oldest first.
    old: Vec<Arc<ControllerRevision>>,
}

impl Versions {
    /// What pods of the present version are labelled with.
    pub fn hash(&self) -> &str {
        self.current.label(REVISION_LABEL).unwrap_or("")
    }

    /// Old revisions beyond the limit that no pod is of.
    fn expendable(&self, limit: i32, pods: &[Arc<Pod>]) -> Vec<&Arc<ControllerRevision>> {
        let surplus = self.old.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        let is_live = |hash: Option<&str>| hash.is_some_and(|hash| pods.iter().any(|pod| pod.label(REVISION_LABEL) == Some(hash)));
        self.old.iter().filter(|revision| !is_live(revision.label(REVISION_LABEL))).take(surplus).collect()
    }
}

impl Shell {
    /// Finds the set's revisions; brings the number of the present one up and makes it if need be.
    pub async fn versions(&self, set: &DaemonSet, selector: &Selector, pods: &[Arc<Pod>]) -> Result<Versions, Error> {
        let known = self.history.of(set, |revision| selector.matches(&revision.metadata.labels)).await?;
        let mut labelled = Vec::with_capacity(known.len());
        for revision in known {
            labelled.push(if revision.label(REVISION_LABEL).is_some() { revision } else { self.label(&revision).await? });
        }
        let (mut same, old): (Vec<_>, Vec<_>) =
            labelled.into_iter().partition(|revision| controller_history::keeps(revision, &set.spec.template));
        let number = old.iter().map(|revision| controller_history::number(revision)).max().unwrap_or(0) + 1;
        let Some(newest) = same.pop() else {
            return Ok(Versions { current: Arc::new(self.snapshot(set, number).await?), old });
        };
        self.drop_duplicates(set, &newest, &same, pods).await?;
        if controller_history::number(&newest) < number {
            let mut raised = (*newest).clone();
            raised.revision = Some(number);
            self.history.replace(&raised).await?;
        }
        Ok(Versions { current: newest, old })
    }

    /// Revisions of old had no label; their name serves.
    async fn label(&self, revision: &ControllerRevision) -> Result<Arc<ControllerRevision>, Error> {
        let mut labelled = revision.clone();
        labelled.metadata.labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), revision.name().to_owned());
        Ok(Arc::new(self.history.replace(&labelled).await?))
    }

    async fn snapshot(&self, set: &DaemonSet, number: i64) -> Result<ControllerRevision, Error> {
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let revision = controller_history::new_revision(set, &set.spec.template, REVISION_LABEL, number, collisions)?;
        let created = self.history.create(&revision, &set.spec.template).await;
        if matches!(created, Err(controller_history::Error::Collision(_))) {
            // The next try takes another name.
            let api = Api::<DaemonSet>::namespaced(self.client.clone(), set.namespace());
            let mut fresh = api.get(set.name()).await.map_err(Error::Status)?;
            let status = fresh.status.get_or_insert_default();
            if status.collision_count.unwrap_or(0) == collisions {
                status.collision_count = Some(collisions + 1);
                api.replace_status(set.name(), &PostParams::default(), &fresh).await.map_err(Error::Status)?;
            }
        }
        Ok(created?)
    }

    /// Of several revisions of the same template only the newest stays; pods of the others become its own.
    async fn drop_duplicates(
        &self,
        set: &DaemonSet,
        newest: &ControllerRevision,
        others: &[Arc<ControllerRevision>],
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        if others.is_empty() {
            return Ok(());
        }
        let hash = newest.label(REVISION_LABEL);
        for pod in pods.iter().filter(|pod| pod.label(REVISION_LABEL) != hash) {
            let patch = json!({"metadata": {"labels": {REVISION_LABEL: hash}}});
            let api = self.pod_control.api(set.namespace());
            let patched = api.patch(pod.name(), &PatchParams::default(), &Patch::Merge(patch)).await;
            patched.map_err(|source| Error::Label { name: pod.name().to_owned(), source })?;
        }
        for revision in others.iter().filter(|revision| revision.name() != newest.name()) {
            self.history.delete(revision).await?;
        }
        Ok(())
    }

    /// Deletes old revisions beyond the limit.
    pub async fn clean_up_history(&self, set: &DaemonSet, versions: &Versions, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let limit = set.spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY);
        for revision in versions.expendable(limit, pods) {
            self.history.delete(revision).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller_history::tests::revision;
    use crate::pod_state::tests::pod;

    #[test]
    fn old_revisions_go_unless_a_pod_is_of_them() {
        let old: Vec<_> = ["a", "b", "c"].into_iter().zip(1..).map(|(node, number)| Arc::new(revision(node, number))).collect();
        let mut live = pod("p", None);
        live.metadata.labels = Some([(REVISION_LABEL.to_owned(), old[0].label(REVISION_LABEL).unwrap().to_owned())].into());
        let versions = Versions { current: Arc::new(revision("d", 4)), old: old.clone() };
        let names = |limit| versions.expendable(limit, &[Arc::new(live.clone())]).iter().map(|r| r.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(2), [old[1].name()]);
        assert_eq!(names(0), [old[1].name(), old[2].name()]);
        assert_eq!(names(10), [""; 0]);
    }
}
