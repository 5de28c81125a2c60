//! Which objects belong to a controller: those that name it as their managing owner and match its selector. Orphans that match
//! are adopted, owned ones that no longer match are released.
//!
//! The decision is pure; the shell sends the patches and never touches objects that other owners manage.

use std::sync::Arc;

use client::{Object, answer};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// What to do about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Keep,
    Ignore,
    Adopt,
    Release,
}

/// Decides for one object whether it is, becomes, or ceases to be the owner's. `matches` is what the owner's selector says of it.
pub fn claim<K: Object>(owner: &impl Object, object: &K, matches: bool) -> Claim {
    match object.controller() {
        Some(reference) if reference.uid != owner.uid() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        // Who is being deleted releases nothing: the garbage collector is at work.
        Some(_) if owner.is_terminating() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if !matches || owner.is_terminating() || object.is_terminating() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Why claiming failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot adopt or release {object}")]
    Patch { object: String, source: kube::Error },
    #[error("cannot read the owner before adopting")]
    Owner(#[source] kube::Error),
    #[error("{kind} {owner} has just been deleted at {at}")]
    OwnerIsTerminating { kind: &'static str, owner: String, at: String },
    #[error("original {kind} {owner} is gone")]
    OwnerIsGone { kind: &'static str, owner: String },
}

/// Claims objects for one owner.
pub struct Claimer<'a, O> {
    pub client: &'a Client,
    pub owner: &'a O,
    /// A finalizer that adopted objects get and released ones lose.
    pub finalizer: Option<&'static str>,
}

impl<O: Object + kube::Resource<Scope = NamespaceResourceScope>> Claimer<'_, O> {
    /// The objects that are the owner's after adopting and releasing. All are tried; the first failure is told.
    pub async fn claim<K>(&self, objects: Vec<Arc<K>>, matches: impl Fn(&K) -> bool) -> Result<Vec<Arc<K>>, Error>
    where
        K: Object + kube::Resource<Scope = NamespaceResourceScope>,
    {
        let (mut claimed, mut failure, mut may_adopt) = (Vec::with_capacity(objects.len()), None, false);
        for object in objects {
            let outcome = match claim(self.owner, &*object, matches(&object)) {
                Claim::Keep => Ok(true),
                Claim::Ignore => Ok(false),
                Claim::Release => self.release(&*object).await.map(|()| false),
                Claim::Adopt => {
                    if !may_adopt {
                        // Adopting for an owner that is gone would give the object to the garbage collector: ask the server, once.
                        self.recheck_owner().await?;
                        may_adopt = true;
                    }
                    self.adopt(&*object).await
                }
            };
            match outcome {
                Ok(true) => claimed.push(object),
                Ok(false) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(claimed), Err)
    }

    async fn recheck_owner(&self) -> Result<(), Error> {
        let owner = self.owner;
        let kind = <O as k8s_openapi::Resource>::KIND;
        let api = Api::<O>::namespaced(self.client.clone(), owner.namespace());
        let fresh = api.get(owner.name()).await.map_err(Error::Owner)?;
        if fresh.uid() != owner.uid() {
            return Err(Error::OwnerIsGone { kind, owner: owner.key().to_string() });
        }
        match &k8s_openapi::Metadata::metadata(&fresh).deletion_timestamp {
            Some(at) => Err(Error::OwnerIsTerminating { kind, owner: owner.key().to_string(), at: at.0.to_string() }),
            None => Ok(()),
        }
    }

    async fn adopt<K: Object + kube::Resource<Scope = NamespaceResourceScope>>(&self, object: &K) -> Result<bool, Error> {
        let patch = adoption_patch(&self.owner.controller_reference(), object.uid(), self.finalizer);
        Ok(answer::or_absent(self.patch(object, patch).await).map_err(|source| failed(object, source))?.is_some())
    }

    async fn release<K: Object + kube::Resource<Scope = NamespaceResourceScope>>(&self, object: &K) -> Result<(), Error> {
        let patch = release_patch(self.owner.uid(), object.uid(), self.finalizer);
        match self.patch(object, patch).await {
            Ok(_) => Ok(()),
            // Invalid: the object has no owners, or is another one of the same name. Either way it is not ours.
            Err(error) if answer::is_not_found(&error) || answer::is_invalid(&error) => Ok(()),
            Err(source) => Err(failed(object, source)),
        }
    }

    async fn patch<K: Object + kube::Resource<Scope = NamespaceResourceScope>>(&self, object: &K, patch: Value) -> kube::Result<K> {
        let api = Api::<K>::namespaced(self.client.clone(), object.namespace());
        api.patch(object.name(), &PatchParams::default(), &Patch::Strategic(patch)).await
    }
}

fn failed(object: &impl Object, source: kube::Error) -> Error {
    Error::Patch { object: object.key().to_string(), source }
}

/// The uid makes the patch fail on another object of the same name.
fn adoption_patch(owner: &OwnerReference, uid: &str, finalizer: Option<&str>) -> Value {
    let mut patch = json!({"metadata": {"uid": uid, "ownerReferences": [owner]}});
    if let Some(finalizer) = finalizer {
        patch["metadata"]["finalizers"] = json!([finalizer]);
    }
    patch
}

fn release_patch(owner_uid: &str, uid: &str, finalizer: Option<&str>) -> Value {
    let mut patch = json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}});
    if let Some(finalizer) = finalizer {
        patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    patch
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::pod_state::tests::{at, pod};

    fn owner(uid: &str, terminating: bool) -> ReplicaSet {
        let mut owner = ReplicaSet::default();
        owner.metadata.uid = Some(uid.to_owned());
        owner.metadata.name = Some("rs".to_owned());
        owner.metadata.deletion_timestamp = terminating.then(|| Time(at(0)));
        owner
    }

    fn owned_by(uid: &str) -> Pod {
        let mut pod = pod("p", None);
        pod.metadata.owner_references = Some(vec![owner(uid, false).controller_reference()]);
        pod
    }

    #[test]
    fn objects_are_kept_adopted_released_or_let_alone() {
        let mut dying = pod("p", None);
        dying.metadata.deletion_timestamp = Some(Time(at(0)));
        let cases = [
            ("owned and matching", owned_by("u"), true, false, Claim::Keep),
            ("owned and matching, owner going", owned_by("u"), true, true, Claim::Keep),
            ("owned and no longer matching", owned_by("u"), false, false, Claim::Release),
            ("owned and no longer matching, owner going", owned_by("u"), false, true, Claim::Ignore),
            ("another's", owned_by("v"), true, false, Claim::Ignore),
            ("orphan", pod("p", None), true, false, Claim::Adopt),
            ("orphan, owner going", pod("p", None), true, true, Claim::Ignore),
            ("orphan that does not match", pod("p", None), false, false, Claim::Ignore),
            ("orphan that is going", dying, true, false, Claim::Ignore),
        ];
        for (name, object, matches, terminating, want) in cases {
            assert_eq!(claim(&owner("u", terminating), &object, matches), want, "{name}");
        }
    }

    #[test]
    fn patches_name_the_object_by_uid() {
        let reference = owner("u", false).controller_reference();
        assert_eq!(
            adoption_patch(&reference, "p", Some("f")),
            json!({"metadata": {"uid": "p", "finalizers": ["f"], "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": true, "blockOwnerDeletion": true}]}})
        );
        assert_eq!(
            release_patch("u", "p", Some("f")),
            json!({"metadata": {"uid": "p", "ownerReferences": [{"$patch": "delete", "uid": "u"}], "$deleteFromPrimitiveList/finalizers": ["f"]}})
        );
    }
}
