//! The pictures of static pods in the API server, so that everybody can see them. Made and removed here; never run.

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Object, Shutdown, answer};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use tokio::sync::Notify;

use crate::pod;
use crate::pods::Pods;

/// How often all is looked at if nothing is heard.
const PERIOD: Duration = Duration::from_secs(5);

pub struct Mirrors {
    pub client: Client,
    pub node_name: String,
    pub nodes: Informer<Node>,
    pub pods: Pods,
    pub changed: Arc<Notify>,
}

/// Whether this is the picture of that pod.
fn is_picture(mirror: &Pod, pod: &Pod) -> bool {
    mirror.namespace() == pod.namespace()
        && mirror.name() == pod.name()
        && mirror.annotation(pod::MIRROR_ANNOTATION) == pod.annotation(pod::HASH_ANNOTATION)
}

impl Mirrors {
    /// Keeps mirrors as their pods are, until shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        loop {
            self.reconcile().await;
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = self.changed.notified() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn reconcile(&self) {
        let statics: Vec<Arc<Pod>> = self.pods.all().into_iter().filter(|pod| pod::is_static(pod)).collect();
        for mirror in self.pods.mirrors() {
            let of = statics.iter().find(|pod| pod.namespace() == mirror.namespace() && pod.name() == mirror.name());
            // One that somebody deletes comes back as long as its pod is there.
            let fits = of.is_some_and(|pod| is_picture(&mirror, pod)) && !mirror.is_terminating();
            if !fits && let Err(error) = self.delete(&mirror).await {
                tracing::warn!(pod = %pod::describe(&mirror), %error, "cannot delete a mirror pod");
            }
        }
        let Some(node) = self.nodes.get("", &self.node_name).filter(|node| !node.is_terminating()) else { return };
        for pod in statics {
            if self.pods.mirror(pod.namespace(), pod.name()).is_some() {
                continue;
            }
            match self.create(&pod, &node).await {
                Ok(()) => {}
                Err(error) if answer::is_already_exists(&error) => {}
                Err(error) => tracing::warn!(pod = %pod::describe(&pod), %error, "cannot create a mirror pod"),
            }
        }
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), pod.namespace())
    }

    async fn create(&self, pod: &Pod, node: &Node) -> Result<(), kube::Error> {
        let mut mirror = pod.clone();
        mirror.metadata.uid = None;
        let hash = pod.annotation(pod::HASH_ANNOTATION).unwrap_or("").to_owned();
        mirror.metadata.annotations.get_or_insert_default().insert(pod::MIRROR_ANNOTATION.to_owned(), hash);
        mirror.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node_name.clone(),
            uid: node.uid().to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        }]);
        self.api(pod).create(&PostParams::default(), &mirror).await.map(|_| ())
    }

    async fn delete(&self, mirror: &Pod) -> Result<(), kube::Error> {
        let preconditions = Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None };
        let parameters = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..Default::default() };
        match self.api(mirror).delete(mirror.name(), &parameters).await {
            Err(error) if answer::is_conflict(&error) => Ok(()),
            other => answer::or_absent(other).map(|_| ()),
        }
    }
}
