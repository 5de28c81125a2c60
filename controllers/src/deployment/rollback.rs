//! Rolling back by annotation, which old clients ask for; today's kubectl sends the old template itself.

use std::collections::BTreeMap;

use client::Object;
use client::controller::Outcome;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::api::PostParams;

use super::Error;
use super::revision::{self, ROLLBACK_TO};
use super::rollout::Rollout;
use crate::replica_set::Replicated;
use crate::template;

/// The revision to go back to; zero is the one before the present.
pub fn asked_for(deployment: &Deployment) -> Option<i64> {
    deployment.annotation(ROLLBACK_TO)?.parse().ok()
}

/// What going back to a revision comes to.
#[derive(Debug, PartialEq)]
enum Target<'a> {
    NoLast,
    NotFound,
    Unchanged,
    To(i64, &'a ReplicaSet),
}

impl Rollout<'_> {
    /// Takes over the template of an older revision, tells of it and clears the wish.
    pub async fn roll_back(mut self, wish: i64) -> Result<Outcome, Error> {
        self.sync_revision().await?;
        self.ensure_new_set().await?;
        let mut changed = self.deployment.clone();
        let name = self.deployment.name();
        let (warning, reason, message) = match target(&self, wish) {
            Target::NoLast => (true, "DeploymentRollbackRevisionNotFound", "Unable to find last revision.".to_owned()),
            Target::NotFound => (true, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to.".to_owned()),
            Target::Unchanged => {
                let message = format!("The rollback revision contains the same template as current deployment \"{name}\"");
                (true, "DeploymentRollbackTemplateUnchanged", message)
            }
            Target::To(revision, set) => {
                restore(&mut changed, set);
                (false, "DeploymentRollback", format!("Rolled back deployment \"{name}\" to revision {revision}"))
            }
        };
        if let Some(annotations) = &mut changed.metadata.annotations {
            annotations.remove(ROLLBACK_TO);
        }
        let api = self.shell.api(&self.deployment);
        if warning {
            self.shell.recorder.warning(&self.deployment.reference(), reason, message);
            api.replace(name, &PostParams::default(), &changed).await.map_err(Error::Write)?;
        } else {
            api.replace(name, &PostParams::default(), &changed).await.map_err(Error::Write)?;
            self.shell.recorder.normal(&self.deployment.reference(), reason, message);
        }
        Ok(Outcome::Done)
    }
}

fn target<'a>(rollout: &'a Rollout<'_>, wish: i64) -> Target<'a> {
    let wish = if wish == 0 { revision::previous(rollout.sets.all()) } else { wish };
    if wish == 0 {
        return Target::NoLast;
    }
    let Some(set) = rollout.sets.all().find(|set| revision::revision_of(set) == Some(wish)) else { return Target::NotFound };
    let unchanged = set.template().is_some_and(|old| template::is_same(old, rollout.wanted.template));
    if unchanged { Target::Unchanged } else { Target::To(wish, set) }
}

fn restore(deployment: &mut Deployment, set: &ReplicaSet) {
    let mut template = set.template().cloned().unwrap_or_default();
    if let Some(labels) = template.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
        labels.remove(template::HASH_LABEL);
    }
    deployment.spec.template = template;
    let own = deployment.metadata.annotations.take().unwrap_or_default().into_iter().filter(|(key, _)| revision::is_own(key));
    let copied = set.metadata.annotations.iter().flatten().filter(|(key, _)| !revision::is_own(key));
    let copied = copied.map(|(key, value)| (key.clone(), value.clone()));
    deployment.metadata.annotations = Some(own.chain(copied).collect::<BTreeMap<_, _>>());
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    use super::super::revision::REVISION;
    use super::super::wanted::tests::deployment;
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
        Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn template_and_annotations_are_those_of_the_old_set() {
        let mut deployment = deployment(1, IntOrString::Int(1), IntOrString::Int(0));
        deployment.metadata.annotations = annotations(&[(ROLLBACK_TO, "1"), ("note", "new"), (REVISION, "2")]);
        assert_eq!(asked_for(&deployment), Some(1));
        let mut set = ReplicaSet::default();
        set.metadata.annotations = annotations(&[("note", "old"), (REVISION, "1")]);
        let labels = annotations(&[("app", "old"), (template::HASH_LABEL, "x")]);
        set.spec.template.get_or_insert_default().metadata.get_or_insert_default().labels = labels;
        restore(&mut deployment, &set);
        assert_eq!(deployment.metadata.annotations, annotations(&[(ROLLBACK_TO, "1"), ("note", "old"), (REVISION, "2")]));
        let restored = deployment.spec.template.metadata.unwrap().labels;
        assert_eq!(restored, annotations(&[("app", "old")]));
    }
}
