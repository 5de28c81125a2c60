//! Carries out the plan of a StatefulSet: writes pods and claims and tells of it in events.
//!
//! Decides nothing but whether a claim has to wait for the one before it to go.

use client::events::Recorder;
use client::{Informer, Object, answer};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};

use super::plan::Action;
use super::{identity, retention};
use crate::failure;
use crate::own_writes::OwnWrites;
use crate::pod_control::{FIRST_BATCH, slow_start};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", failure::message(.0))]
    Pod(#[source] kube::Error),
    #[error("failed to create PVC {name}: {}", failure::message(source))]
    CreateClaim { name: String, source: kube::Error },
    #[error("pvc {0} is being deleted")]
    ClaimIsGoing(String),
    #[error("could not update claim {name} for delete policy ownerRefs: {}", failure::message(source))]
    UpdateClaim { name: String, source: kube::Error },
}

/// Writes pods and claims in the name of the controller.
pub struct Pods {
    client: Client,
    recorder: Recorder,
    claims: Informer<PersistentVolumeClaim>,
    /// Pods whose deletion was asked for.
    pub own_writes: OwnWrites,
}

impl Pods {
    pub fn new(client: Client, recorder: Recorder, claims: Informer<PersistentVolumeClaim>) -> Pods {
        Pods { client, recorder, claims, own_writes: OwnWrites::default() }
    }

    pub async fn synced(&self) {
        self.claims.synced().await;
    }

    fn api(&self, set: &StatefulSet) -> Api<Pod> {
        Api::namespaced(self.client.clone(), set.namespace())
    }

    fn claim_api(&self, set: &StatefulSet) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), set.namespace())
    }

    /// Whether the owners of the pod's claims are as the policy wants; claims that are not there are.
    pub fn claims_match(&self, set: &StatefulSet, pod: &Pod) -> bool {
        self.claims_of(set, pod).all(|claim| retention::is_up_to_date(&claim, set, pod))
    }

    fn claims_of<'a>(&'a self, set: &'a StatefulSet, pod: &Pod) -> impl Iterator<Item = std::sync::Arc<PersistentVolumeClaim>> + 'a {
        let ordinal = identity::ordinal(pod);
        let names = identity::claim_templates(set).filter_map(move |template| Some(identity::claim_name(set, template, ordinal?)));
        names.filter_map(|name| self.claims.get(set.namespace(), &name))
    }

    /// Takes the actions: in order, or in growing batches if they need not wait for each other. Says how many pods were deleted for an
    /// update, and what went wrong.
    pub async fn execute(&self, set: &StatefulSet, actions: Vec<Action>, parallel: bool) -> (usize, Option<Error>) {
        let is_update = |action: &Action| matches!(action, Action::Update(_));
        let (updates, others): (Vec<Action>, Vec<Action>) = actions.into_iter().partition(is_update);
        if parallel {
            let (_, failure) = slow_start(others.len(), FIRST_BATCH, |i| self.take(set, &others[i])).await;
            if failure.is_some() {
                return (0, failure);
            }
        } else {
            for action in &others {
                if let Err(error) = self.take(set, action).await {
                    return (0, Some(error));
                }
            }
        }
        for (done, action) in updates.iter().enumerate() {
            if let Err(error) = self.take(set, action).await {
                return (done, Some(error));
            }
        }
        (updates.len(), None)
    }

    async fn take(&self, set: &StatefulSet, action: &Action) -> Result<(), Error> {
        match action {
            Action::DeleteEnded(pod) | Action::Condemn(pod) | Action::Update(pod) => self.delete(set, pod).await,
            Action::Create(pod) => self.create(set, pod).await,
            Action::CreateClaims(pod) => {
                self.create_claims(set, pod).await?;
                self.update_claims(set, pod).await
            }
            Action::Repair(pod) => self.repair(set, pod).await,
            Action::RepairClaims(pod) => self.update_claims(set, pod).await,
        }
    }

    async fn create(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        if retention::may_be_stale(set) && self.claims_of(set, pod).any(|claim| retention::has_stale_owner(&claim, pod)) {
            // The claims of the pod that had this name are about to go: the new one must not get hold of them.
            return Ok(());
        }
        if let Err(error) = self.create_claims(set, pod).await {
            self.tell(set, pod, "Create", Some(&error));
            return Err(error);
        }
        match self.api(set).create(&PostParams::default(), pod).await {
            Ok(created) => {
                let updated = self.update_claims(set, &created).await;
                match &updated {
                    Ok(()) => self.tell(set, pod, "Create", None),
                    Err(error) => self.tell(set, pod, "Update", Some(error)),
                }
                updated
            }
            // The local copy lags: it will be seen.
            Err(error) if answer::is_already_exists(&error) => Err(Error::Pod(error)),
            Err(error) => {
                let error = Error::Pod(error);
                self.tell(set, pod, "Create", Some(&error));
                Err(error)
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        // The next pod has the same name: it is not meant.
        let only = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        match self.api(set).delete(pod.name(), &DeleteParams::default().preconditions(only)).await {
            Ok(answer) => {
                if let Some(going) = answer.left() {
                    self.own_writes.note(&going);
                }
            }
            Err(error) if answer::is_not_found(&error) || answer::is_conflict(&error) => {}
            Err(error) => {
                let error = Error::Pod(error);
                self.tell(set, pod, "Delete", Some(&error));
                return Err(error);
            }
        }
        self.tell(set, pod, "Delete", None);
        Ok(())
    }

    async fn repair(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let Some(ordinal) = identity::ordinal(pod) else { return Ok(()) };
        let mut changed = pod.clone();
        if !identity::identity_matches(set, pod) {
            identity::set_identity(set, &mut changed, ordinal);
        }
        let repaired = async {
            if !identity::storage_matches(set, pod) {
                identity::set_storage(set, &mut changed, ordinal);
                self.create_claims(set, pod).await?;
            }
            self.update_claims(set, pod).await?;
            if changed == *pod {
                return Ok(false);
            }
            self.api(set).replace(pod.name(), &PostParams::default(), &changed).await.map_err(Error::Pod)?;
            Ok(true)
        };
        match repaired.await {
            Ok(changed) => {
                if changed {
                    self.tell(set, pod, "Update", None);
                }
                Ok(())
            }
            Err(error) => {
                self.tell(set, pod, "Update", Some(&error));
                Err(error)
            }
        }
    }

    /// Creates the claims that are not there. All are tried; the first failure is told.
    async fn create_claims(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let Some(ordinal) = identity::ordinal(pod) else { return Ok(()) };
        let mut failure = None;
        for claim in identity::claims(set, ordinal) {
            let name = claim.name().to_owned();
            match self.claims.get(set.namespace(), &name) {
                Some(known) if known.is_terminating() => failure = failure.or(Some(Error::ClaimIsGoing(name))),
                Some(_) => {}
                None => match self.claim_api(set).create(&PostParams::default(), &claim).await {
                    Ok(_) => self.tell_claim(set, pod, &name, None),
                    Err(error) if answer::is_already_exists(&error) => {}
                    Err(source) => {
                        self.tell_claim(set, pod, &name, Some(&failure::message(&source)));
                        failure = failure.or(Some(Error::CreateClaim { name, source }));
                    }
                },
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Gives the pod's claims the owners that the policy wants.
    async fn update_claims(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let claims: Vec<_> = self.claims_of(set, pod).collect();
        for claim in claims {
            if retention::has_other_manager(&claim, set, pod) {
                let message = format!(
                    "PersistentVolumeClaim {} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim",
                    claim.name()
                );
                self.recorder.warning(&set.reference(), "ConflictingController", message);
            }
            if !retention::is_up_to_date(&claim, set, pod) {
                let changed = retention::updated(&claim, set, pod);
                let written = self.claim_api(set).replace(claim.name(), &PostParams::default(), &changed).await;
                written.map_err(|source| Error::UpdateClaim { name: claim.name().to_owned(), source })?;
            }
        }
        Ok(())
    }

    fn tell(&self, set: &StatefulSet, pod: &Pod, verb: &str, error: Option<&Error>) {
        let what = format!("{verb} Pod {} in StatefulSet {}", pod.name(), set.name());
        match error {
            None => self.recorder.normal(&set.reference(), &format!("Successful{verb}"), format!("{what} successful")),
            Some(error) => self.recorder.warning(&set.reference(), &format!("Failed{verb}"), format!("{what} failed error: {error}")),
        }
    }

    fn tell_claim(&self, set: &StatefulSet, pod: &Pod, claim: &str, error: Option<&str>) {
        let (pod, name) = (pod.name(), set.name());
        match error {
            None => {
                let message = format!("Create Claim {claim} Pod {pod} in StatefulSet {name} success");
                self.recorder.normal(&set.reference(), "SuccessfulCreate", message);
            }
            Some(error) => {
                let message = format!("Create Claim {claim} for Pod {pod} in StatefulSet {name} failed error: {error}");
                self.recorder.warning(&set.reference(), "FailedCreate", message);
            }
        }
    }
}
