//! What is done with an object that the graph wants examined: it is deleted, freed of references, or left alone.

use std::fmt;

use client::answer;
use client::controller::Outcome;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};

use super::Collector;
use super::graph::{FOREGROUND, Identity, Node, ORPHAN, Seen};
use crate::discovery::Metadata;

/// How often a finalizer is taken off an object that others write at the same time.
const CONFLICTS_MAX: u32 = 5;

#[derive(Debug)]
pub enum Error {
    /// The kind is not served, or was not when discovery was last asked.
    NotServed(Identity),
    /// An object without a namespace names an owner that has one, which cannot be.
    OwnerOutOfReach,
    /// The object is not seen by a watch yet.
    NotObserved,
    Request(kube::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotServed(identity) => write!(f, "no resource is served for {} {}", identity.api_version, identity.kind),
            Error::OwnerOutOfReach => f.write_str("cluster-scoped objects cannot refer to namespaced owners"),
            Error::NotObserved => f.write_str("the object has not been seen yet"),
            Error::Request(error) => error.fmt(f),
        }
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Error {
        Error::Request(error)
    }
}

/// What the owners of an object are.
#[derive(Debug, Default, PartialEq)]
struct Owners {
    /// They exist.
    solid: Vec<String>,
    /// They do not.
    dangling: Vec<String>,
    /// They wait for their dependents to be deleted.
    waiting: Vec<String>,
}

/// What an object's owners mean for it.
#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    /// Take these owners off.
    Release(Vec<String>),
    Delete(PropagationPolicy),
}

fn judge(owners: Owners, node: &Node) -> Verdict {
    if !owners.solid.is_empty() {
        let gone: Vec<String> = owners.dangling.into_iter().chain(owners.waiting).collect();
        return if gone.is_empty() { Verdict::Keep } else { Verdict::Release(gone) };
    }
    if !owners.waiting.is_empty() && node.has_dependents() {
        return Verdict::Delete(PropagationPolicy::Foreground);
    }
    // Whoever asked for the object's deletion before has said what becomes of its dependents.
    Verdict::Delete(match (node.orphan_finalizer, node.foreground_finalizer) {
        (true, _) => PropagationPolicy::Orphan,
        (false, true) => PropagationPolicy::Foreground,
        (false, false) => PropagationPolicy::Background,
    })
}

impl Collector {
    /// The objects of an identity's resource, where it is.
    fn api(&self, identity: &Identity) -> Result<Api<Metadata>, Error> {
        let resource = self.resource(&identity.api_version, &identity.kind);
        let Some(resource) = resource else {
            self.resources_changed();
            return Err(Error::NotServed(identity.clone()));
        };
        if resource.namespaced && identity.namespace.is_empty() {
            return Err(Error::OwnerOutOfReach);
        }
        Ok(resource.within(&self.client, &identity.namespace))
    }

    /// Examines an object, again later if it is not settled.
    pub(super) async fn examine(&self, uid: &str) -> Result<Outcome, Error> {
        let Some(node) = self.graph.lock().get(uid).cloned() else { return Ok(Outcome::Done) };
        match self.examine_node(&node).await {
            // No retry would change that.
            Err(Error::OwnerOutOfReach) => Ok(Outcome::Done),
            Err(error) => Err(error),
            // Only a watch, or the API server, can say what becomes of a virtual node.
            Ok(()) if self.graph.lock().get(uid).is_some_and(|node| node.is_virtual) => Err(Error::NotObserved),
            Ok(()) => Ok(Outcome::Done),
        }
    }

    async fn examine_node(&self, node: &Node) -> Result<(), Error> {
        if node.being_deleted && !node.deleting_dependents {
            return Ok(());
        }
        // What a watch showed is good enough for a decision: the deletion is refused if it is out of date. Not a second time.
        let known = !node.is_virtual && !node.deleting_dependents && self.examine.failures(&node.identity.uid) == 0;
        let mut node = node.clone();
        if !known {
            match self.api(&node.identity)?.get_opt(&node.identity.name).await? {
                Some(object) if object.metadata.uid.as_deref() == Some(&node.identity.uid) => {
                    let latest = Seen::new(&node.identity.api_version, &node.identity.kind, object.metadata);
                    node.owners = latest.owners;
                    node.resource_version = latest.resource_version;
                    node.orphan_finalizer = latest.orphan_finalizer;
                    node.foreground_finalizer = latest.foreground_finalizer;
                }
                _ => {
                    self.change(|graph| graph.verified_absent(&node.identity));
                    return Ok(());
                }
            }
        }
        if node.deleting_dependents {
            return self.finish_foreground(&node).await;
        }
        if node.owners.is_empty() {
            return Ok(());
        }
        let owners = self.classify(&node).await?;
        let unblocks = owners.solid.is_empty() && !owners.waiting.is_empty();
        match judge(owners, &node) {
            Verdict::Keep => Ok(()),
            Verdict::Release(owners) => self.release(&node.identity, &owners).await,
            Verdict::Delete(policy) => {
                if unblocks && self.waits_for_each_other(&node) {
                    self.unblock(&node).await?;
                    return self.delete(&node, policy, false).await;
                }
                self.delete(&node, policy, true).await
            }
        }
    }

    /// The object waits for its dependents: it goes when none of them blocks it, else they are examined.
    async fn finish_foreground(&self, node: &Node) -> Result<(), Error> {
        let blocking: Vec<(String, bool)> = {
            let graph = self.graph.lock();
            let Some(node) = graph.get(&node.identity.uid) else { return Ok(()) };
            graph.blocking_dependents(node).map(|d| (d.identity.uid.clone(), d.deleting_dependents)).collect()
        };
        if blocking.is_empty() {
            return self.remove_finalizer(&node.identity, FOREGROUND).await;
        }
        blocking.into_iter().filter(|(_, deleting)| !deleting).for_each(|(uid, _)| self.examine.add(uid));
        Ok(())
    }

    /// A dependent waits for its own dependents, this object may be among them, and nobody would ever go.
    fn waits_for_each_other(&self, node: &Node) -> bool {
        let graph = self.graph.lock();
        graph.get(&node.identity.uid).is_some_and(|node| graph.dependents(node).any(|dependent| dependent.deleting_dependents))
    }

    async fn classify(&self, node: &Node) -> Result<Owners, Error> {
        let mut owners = Owners::default();
        for reference in &node.owners {
            let uid = reference.uid.clone();
            match self.owner(reference, &node.identity).await? {
                None => owners.dangling.push(uid),
                Some(owner) if owner.is_terminating && owner.foreground_finalizer => owners.waiting.push(uid),
                Some(_) => owners.solid.push(uid),
            }
        }
        Ok(owners)
    }

    /// The owner as it is now; nothing if there is none.
    async fn owner(&self, reference: &OwnerReference, dependent: &Identity) -> Result<Option<Seen>, Error> {
        let (global, mut local) = (Identity::of_owner(reference, ""), Identity::of_owner(reference, &dependent.namespace));
        {
            let graph = self.graph.lock();
            if graph.is_absent(&global) || graph.is_absent(&local) {
                return Ok(None);
            }
        }
        let found = self.api(&local)?.get_opt(&reference.name).await?;
        match found {
            Some(object) if object.metadata.uid.as_ref() == Some(&reference.uid) => {
                Ok(Some(Seen::new(&reference.api_version, &reference.kind, object.metadata)))
            }
            _ => {
                if self.resource(&local.api_version, &local.kind).is_some_and(|resource| !resource.namespaced) {
                    local.namespace.clear();
                }
                self.graph.lock().note_absent(local);
                Ok(None)
            }
        }
    }

    /// Deletes the object unless somebody gave it other owners meanwhile.
    async fn delete(&self, node: &Node, policy: PropagationPolicy, guarded: bool) -> Result<(), Error> {
        let api = self.api(&node.identity)?;
        let name = &node.identity.name;
        let params = |resource_version: Option<String>| DeleteParams {
            propagation_policy: Some(policy.clone()),
            preconditions: Some(Preconditions { uid: Some(node.identity.uid.clone()), resource_version }),
            ..DeleteParams::default()
        };
        let version = Some(node.resource_version.clone()).filter(|version| guarded && !version.is_empty());
        let mut result = api.delete(name, &params(version.clone())).await.map(|_| ());
        if result.as_ref().is_err_and(answer::is_conflict) && version.is_some() {
            // Others may write the object all the time; only its owners matter.
            let live = api.get_opt(name).await?;
            match live {
                None => result = api.delete(name, &params(None)).await.map(|_| ()),
                Some(live) if live.metadata.uid.as_ref() != Some(&node.identity.uid) => {
                    self.change(|graph| graph.verified_absent(&node.identity));
                    return Ok(());
                }
                Some(live) if live.metadata.owner_references.clone().unwrap_or_default() == node.owners => {
                    result = api.delete(name, &params(None)).await.map(|_| ());
                }
                Some(_) => {}
            }
        }
        match result {
            Err(error) if answer::is_not_found(&error) => {
                self.change(|graph| graph.verified_absent(&node.identity));
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Takes owners off an object.
    async fn release(&self, identity: &Identity, owners: &[String]) -> Result<(), Error> {
        let references: Vec<Value> = owners.iter().map(|uid| json!({"$patch": "delete", "uid": uid})).collect();
        let patch = json!({"metadata": {"uid": identity.uid, "ownerReferences": references}});
        self.patch_owners(identity, patch, |reference| (!owners.contains(&reference.uid)).then_some(reference)).await
    }

    /// Makes an object block none of its owners.
    async fn unblock(&self, node: &Node) -> Result<(), Error> {
        let unblocked = |reference: OwnerReference| OwnerReference { block_owner_deletion: Some(false), ..reference };
        let blocking = node.owners.iter().filter(|reference| reference.block_owner_deletion == Some(true));
        let references: Vec<OwnerReference> = blocking.cloned().map(unblocked).collect();
        let patch = json!({"metadata": {"uid": node.identity.uid, "ownerReferences": references}});
        self.patch_owners(&node.identity, patch, |reference| Some(unblocked(reference))).await
    }

    /// Custom resources know no strategic merge patch: for these, `each` says what becomes of each owner.
    async fn patch_owners(
        &self,
        identity: &Identity,
        strategic: Value,
        each: impl Fn(OwnerReference) -> Option<OwnerReference>,
    ) -> Result<(), Error> {
        let api = self.api(identity)?;
        match api.patch(&identity.name, &PatchParams::default(), &Patch::Strategic(strategic)).await {
            Err(kube::Error::Api(status)) if status.code == 415 => {}
            other => return Ok(other.map(|_| ())?),
        }
        let object = api.get(&identity.name).await?;
        let references: Vec<OwnerReference> = object.metadata.owner_references.into_iter().flatten().filter_map(each).collect();
        let patch = json!({"metadata": {"resourceVersion": object.metadata.resource_version, "ownerReferences": references}});
        api.patch(&identity.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Frees the dependents of an object that is deleted without them, then lets it go.
    pub(super) async fn orphan(&self, uid: &str) -> Result<Outcome, Error> {
        let (owner, dependents) = {
            let graph = self.graph.lock();
            let Some(node) = graph.get(uid) else { return Ok(Outcome::Done) };
            let dependents: Vec<Identity> = graph.dependents(node).map(|dependent| dependent.identity.clone()).collect();
            (node.identity.clone(), dependents)
        };
        let owners = [owner.uid.clone()];
        for dependent in &dependents {
            match self.release(dependent, &owners).await {
                Err(Error::Request(error)) if answer::is_not_found(&error) => {}
                other => other?,
            }
        }
        self.remove_finalizer(&owner, ORPHAN).await?;
        Ok(Outcome::Done)
    }

    async fn remove_finalizer(&self, identity: &Identity, finalizer: &str) -> Result<(), Error> {
        let api = self.api(identity)?;
        let mut conflicts = 0;
        loop {
            let Some(object) = api.get_opt(&identity.name).await? else { return Ok(()) };
            let mut finalizers = object.metadata.finalizers.unwrap_or_default();
            let before = finalizers.len();
            finalizers.retain(|f| f != finalizer);
            if object.metadata.uid.as_ref() != Some(&identity.uid) || finalizers.len() == before {
                return Ok(());
            }
            let patch = json!({"metadata": {"resourceVersion": object.metadata.resource_version, "finalizers": finalizers}});
            match api.patch(&identity.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(error) if answer::is_conflict(&error) && conflicts < CONFLICTS_MAX => conflicts += 1,
                Err(error) if answer::is_not_found(&error) => return Ok(()),
                other => return Ok(other.map(|_| ())?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(solid: &[&str], dangling: &[&str], waiting: &[&str]) -> Owners {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Owners { solid: list(solid), dangling: list(dangling), waiting: list(waiting) }
    }

    #[test]
    fn an_object_with_an_owner_left_stays_and_loses_the_others() {
        let node = Node::default();
        assert_eq!(judge(owners(&["a"], &[], &[]), &node), Verdict::Keep);
        assert_eq!(judge(owners(&["a"], &["b"], &["c"]), &node), Verdict::Release(vec!["b".to_owned(), "c".to_owned()]));
    }

    #[test]
    fn an_object_without_owners_is_deleted_as_was_asked_for_before() {
        let plain = Node::default();
        let (mut orphan, mut foreground) = (Node::default(), Node::default());
        orphan.orphan_finalizer = true;
        foreground.foreground_finalizer = true;
        assert_eq!(judge(owners(&[], &["a"], &[]), &plain), Verdict::Delete(PropagationPolicy::Background));
        assert_eq!(judge(owners(&[], &["a"], &[]), &orphan), Verdict::Delete(PropagationPolicy::Orphan));
        assert_eq!(judge(owners(&[], &["a"], &[]), &foreground), Verdict::Delete(PropagationPolicy::Foreground));
        assert_eq!(judge(owners(&[], &[], &["a"]), &plain), Verdict::Delete(PropagationPolicy::Background));
    }
}
