//! Creates and deletes pods for their controllers and tells of it in events.
//!
//! Decides nothing: which pods and how many is what controllers say.

use std::future::Future;

use client::events::Recorder;
use client::{Object, answer};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::failure;

/// How many objects are created at once at first; each batch that succeeds doubles the next.
pub const FIRST_BATCH: usize = 1;

/// Names may be as long as this, with the dash after a prefix.
const MAX_NAME: usize = 253;

/// Why a pod was not created or deleted, as events and conditions say it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unable to create pods, no labels")]
    NoLabels,
    #[error("{}", failure::message(.0))]
    Create(#[source] kube::Error),
    #[error("unable to delete pods: {}", failure::message(.0))]
    Delete(#[source] kube::Error),
}

impl Error {
    /// Nothing can be created any more, which is no reason to complain.
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(self, Error::Create(error) if answer::is_namespace_terminating(error))
    }
}

/// Writes pods in the name of one controller.
#[derive(Clone)]
pub struct PodControl {
    client: Client,
    recorder: Recorder,
}

impl PodControl {
    pub fn new(client: Client, recorder: Recorder) -> PodControl {
        PodControl { client, recorder }
    }

    pub fn api(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates a pod of `owner`.
    pub async fn create(&self, owner: &impl Object, pod: &Pod) -> Result<Pod, Error> {
        if pod.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) {
            return Err(Error::NoLabels);
        }
        match self.api(owner.namespace()).create(&PostParams::default(), pod).await {
            Ok(pod) => {
                self.recorder.normal(&owner.reference(), "SuccessfulCreate", format!("Created pod: {}", pod.name()));
                Ok(pod)
            }
            Err(error) => {
                if !answer::is_namespace_terminating(&error) {
                    let message = format!("Error creating: {}", failure::message(&error));
                    self.recorder.warning(&owner.reference(), "FailedCreate", message);
                }
                Err(Error::Create(error))
            }
        }
    }

    /// Deletes a pod of `owner`; says whether it was still there.
    pub async fn delete(&self, owner: &impl Object, name: &str) -> Result<bool, Error> {
        match answer::or_absent(self.api(owner.namespace()).delete(name, &DeleteParams::default()).await) {
            Ok(Some(_)) => {
                self.recorder.normal(&owner.reference(), "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                let message = format!("Error deleting: {}", failure::message(&error));
                self.recorder.warning(&owner.reference(), "FailedDelete", message);
                Err(Error::Delete(error))
            }
        }
    }
}

/// A pod as `owner`'s template wants it, to be named by the server.
pub fn pod_from_template(template: &PodTemplateSpec, owner: &impl Object) -> Pod {
    let wanted = template.metadata.clone().unwrap_or_default();
    let mut pod = Pod::default();
    pod.metadata.generate_name = Some(name_prefix(owner.name()));
    pod.metadata.namespace = Some(owner.namespace().to_owned());
    pod.metadata.labels = wanted.labels;
    pod.metadata.annotations = wanted.annotations;
    pod.metadata.finalizers = wanted.finalizers;
    pod.metadata.owner_references = Some(vec![owner.controller_reference()]);
    pod.spec = template.spec.clone();
    pod
}

fn name_prefix(owner: &str) -> String {
    if owner.len() < MAX_NAME { format!("{owner}-") } else { owner.to_owned() }
}

/// Does something `count` times: once, then twice at once, then four times, as long as all succeed. So what fails for a
/// reason that all share, such as a quota, fails a few times and not a thousand. Says how often it succeeded, and the first failure.
pub async fn slow_start<F, Fut, T, E>(count: usize, first: usize, action: F) -> (usize, Option<E>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let (mut done, mut batch) = (0, first);
    while done < count {
        let size = batch.min(count - done);
        let results = futures::future::join_all((done..done + size).map(&action)).await;
        let failures = results.iter().filter(|result| result.is_err()).count();
        if failures > 0 {
            return (done + size - failures, results.into_iter().find_map(Result::err));
        }
        done += size;
        batch = size * 2;
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use k8s_openapi::api::apps::v1::ReplicaSet;

    use super::*;

    #[tokio::test]
    async fn batches_double_until_one_fails() {
        let tries = AtomicUsize::new(0);
        let until = |limit: usize| {
            let tries = &tries;
            move |_| {
                let number = tries.fetch_add(1, Ordering::Relaxed);
                async move { if number < limit { Ok(()) } else { Err(number) } }
            }
        };
        assert_eq!(slow_start(10, 1, until(100)).await, (10, None));
        tries.store(0, Ordering::Relaxed);
        // 1, 2, then 4 of which the last two fail; the last 3 are not tried.
        assert_eq!(slow_start(10, 1, until(5)).await, (5, Some(5)));
        assert_eq!(tries.load(Ordering::Relaxed), 7);
        assert_eq!(slow_start(0, 1, until(0)).await, (0, None));
    }

    #[test]
    fn a_pod_takes_after_its_template() {
        let mut owner = ReplicaSet::default();
        owner.metadata.name = Some("web".to_owned());
        owner.metadata.namespace = Some("d".to_owned());
        owner.metadata.uid = Some("u".to_owned());
        let mut template = PodTemplateSpec::default();
        let metadata = template.metadata.get_or_insert_default();
        metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
        metadata.name = Some("ignored".to_owned());
        let pod = pod_from_template(&template, &owner);
        assert_eq!((pod.metadata.name.as_deref(), pod.metadata.generate_name.as_deref()), (None, Some("web-")));
        assert_eq!(pod.label("app"), Some("web"));
        assert!(pod.is_controlled_by("u"));
        assert_eq!(name_prefix(&"a".repeat(253)).len(), 253);
    }
}
