//! How many pods the controllers of a budget's pods want, whatever kind these are.

use std::collections::HashMap;
use std::sync::Arc;

use client::{Informer, Object, answer};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};

use crate::discovery;
use crate::failure;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("found no controllers for pod {0:?}")]
    NoController(String),
    #[error("no matches for kind {kind:?} in version {version:?}")]
    UnknownKind { kind: String, version: String },
    #[error("{0} does not implement the scale subresource")]
    NoScale(String),
    #[error("{}", failure::message(.0))]
    Request(#[from] kube::Error),
}

pub struct Scales {
    pub client: Client,
    pub replication_controllers: Informer<ReplicationController>,
    pub replica_sets: Informer<ReplicaSet>,
    pub deployments: Informer<Deployment>,
    pub stateful_sets: Informer<StatefulSet>,
}

/// The sum of what the controllers want, and the pods that have none.
pub struct Total {
    pub replicas: i32,
    pub unmanaged: Vec<String>,
}

fn is(owner: &OwnerReference, kind: &str, groups: &[&str]) -> bool {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    owner.kind == kind && groups.contains(&group)
}

impl Scales {
    pub async fn synced(&self) {
        self.replication_controllers.synced().await;
        self.replica_sets.synced().await;
        self.deployments.synced().await;
        self.stateful_sets.synced().await;
    }

    pub async fn total(&self, pods: &[Arc<Pod>]) -> Result<Total, Error> {
        let mut known = HashMap::<String, i32>::new();
        let mut unmanaged = Vec::new();
        for pod in pods {
            let Some(owner) = pod.controller() else {
                unmanaged.push(pod.name().to_owned());
                continue;
            };
            if known.contains_key(&owner.uid) {
                continue;
            }
            let found = match self.known_kind(owner, pod.namespace()) {
                Some(found) => Some(found),
                None => self.by_subresource(owner, pod.namespace()).await?,
            };
            let (uid, replicas) = found.ok_or_else(|| Error::NoController(pod.name().to_owned()))?;
            known.insert(uid, replicas);
        }
        Ok(Total { replicas: known.values().sum(), unmanaged })
    }

    /// The controller's uid and scale if it is of a kind that is watched. A ReplicaSet counts as its Deployment.
    fn known_kind(&self, owner: &OwnerReference, namespace: &str) -> Option<(String, i32)> {
        let scale = |uid: &str, replicas: Option<i32>| (uid.to_owned(), replicas.unwrap_or(1));
        if is(owner, "ReplicationController", &[""]) {
            let found = self.replication_controllers.get(namespace, &owner.name).filter(|found| found.uid() == owner.uid)?;
            return Some(scale(found.uid(), found.spec.as_ref().and_then(|spec| spec.replicas)));
        }
        if is(owner, "ReplicaSet", &["apps", "extensions"]) {
            let found = self.replica_sets.get(namespace, &owner.name).filter(|found| found.uid() == owner.uid)?;
            if let Some(owner) = found.controller().filter(|owner| is(owner, "Deployment", &["apps", "extensions"])) {
                let found = self.deployments.get(namespace, &owner.name).filter(|found| found.uid() == owner.uid)?;
                return Some(scale(found.uid(), found.spec.replicas));
            }
            return Some(scale(found.uid(), found.spec.replicas));
        }
        if is(owner, "StatefulSet", &["apps"]) {
            let found = self.stateful_sets.get(namespace, &owner.name).filter(|found| found.uid() == owner.uid)?;
            return Some(scale(found.uid(), found.spec.replicas));
        }
        None
    }

    /// The scale of any other kind, as its subresource tells.
    async fn by_subresource(&self, owner: &OwnerReference, namespace: &str) -> Result<Option<(String, i32)>, Error> {
        let served = discovery::discover(&self.client).await?.every;
        let resource = served.into_iter().find(|resource| resource.kind == owner.kind && resource.api_version() == owner.api_version);
        let Some(resource) = resource else {
            return Err(Error::UnknownKind { kind: owner.kind.clone(), version: owner.api_version.clone() });
        };
        let name = resource.group_resource();
        let described = ApiResource {
            api_version: resource.api_version(),
            group: resource.group,
            version: resource.version,
            kind: resource.kind,
            plural: resource.plural,
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &described);
        match api.get_scale(&owner.name).await {
            Ok(scale) if scale.metadata.uid.as_ref() == Some(&owner.uid) => {
                let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
                Ok(Some((owner.uid.clone(), replicas)))
            }
            Ok(_) => Ok(None),
            Err(error) if answer::is_not_found(&error) => match answer::or_absent(api.get_metadata(&owner.name).await)? {
                Some(_) => Err(Error::NoScale(name)),
                None => Ok(None),
            },
            Err(error) => Err(error.into()),
        }
    }
}
