//! Tells the API server the statuses of pods, and deletes those that are through.
//!
//! Holds the last status of each pod; what it sends is the difference to what the server has. Never decides what a status is.

use std::collections::HashMap;
use std::sync::Arc;

use client::controller::Outcome;
use client::{Object, Queue, Shutdown, answer};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus as ApiStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::pod;
use crate::status::{self, patch};

/// Requests under way at once.
const WORKERS: usize = 8;
/// The length of all termination messages of a pod together.
const TERMINATION_MESSAGES_BYTES: usize = 12 << 10;

struct Entry {
    namespace: String,
    name: String,
    status: Arc<ApiStatus>,
    /// Whether containers may still be running.
    could_run: bool,
    /// Whether nothing is left of the pod on this node.
    finished: bool,
    /// The pod as the server answered last.
    answered: Option<Arc<Pod>>,
}

/// The pod that the API server has for one of ours: itself, or the mirror of a static one.
type ApiPodOf = Box<dyn Fn(&str) -> Option<Arc<Pod>> + Send + Sync>;

struct Shared {
    client: Client,
    api_pod_of: ApiPodOf,
    /// Bounded by the pods on this node.
    entries: Mutex<HashMap<String, Entry>>,
    queue: Queue<String>,
}

/// The statuses of this node's pods. Clones are the same.
#[derive(Clone)]
pub struct StatusManager {
    shared: Arc<Shared>,
}

impl StatusManager {
    pub fn new(client: Client, api_pod_of: impl Fn(&str) -> Option<Arc<Pod>> + Send + Sync + 'static) -> StatusManager {
        let shared = Shared { client, api_pod_of: Box::new(api_pod_of), entries: Mutex::default(), queue: Queue::default() };
        StatusManager { shared: Arc::new(shared) }
    }

    /// Sends what there is to send, until shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let queue = self.shared.queue.clone();
        client::controller::run("pod-status", queue, WORKERS, shutdown, |uid: String| {
            let shared = self.shared.clone();
            async move { shared.send(&uid).await.map(|()| Outcome::Done) }
        })
        .await;
    }

    /// What was last told of a pod.
    pub fn get(&self, uid: &str) -> Option<Arc<ApiStatus>> {
        self.shared.entries.lock().get(uid).map(|entry| entry.status.clone())
    }

    /// Tells a status; gives what it became, and whether that is news.
    pub fn set(&self, pod: &Pod, new: ApiStatus, could_run: bool) -> (Arc<ApiStatus>, bool) {
        // Asked before the lock is taken: whoever holds the pods asks for statuses, so nobody who holds statuses may ask for pods.
        let own = (self.shared.api_pod_of)(pod.uid());
        let mut entries = self.shared.entries.lock();
        let known = entries.get(pod.uid());
        let own = || own.and_then(|pod| pod.status.clone()).or_else(|| pod.status.clone());
        let before = known.map(|entry| entry.status.clone()).unwrap_or_else(|| Arc::new(own().unwrap_or_default()));
        let finished = known.is_some_and(|entry| entry.finished);
        let status = Arc::new(complete(pod, new, &before, Timestamp::now()));
        let news = known.is_none_or(|entry| entry.status != status || entry.could_run != could_run);
        if news {
            let answered = entries.remove(pod.uid()).and_then(|entry| entry.answered);
            let entry = Entry {
                namespace: pod.namespace().to_owned(),
                name: pod.name().to_owned(),
                status: status.clone(),
                could_run: could_run && !finished,
                finished,
                answered,
            };
            entries.insert(pod.uid().to_owned(), entry);
            drop(entries);
            self.shared.queue.add(pod.uid().to_owned());
        }
        (status, news)
    }

    /// Nothing is left of the pod: its status is final, and it may be deleted once that is asked for.
    pub fn finish(&self, pod: &Pod) {
        let status = self.get(pod.uid()).or_else(|| pod.status.clone().map(Arc::new)).unwrap_or_default();
        let ended = ended(pod, (*status).clone());
        self.set(pod, ended, false);
        if let Some(entry) = self.shared.entries.lock().get_mut(pod.uid()) {
            entry.finished = true;
            entry.could_run = false;
        }
        self.shared.queue.add(pod.uid().to_owned());
    }

    /// The API server has another state of the pod: it may have to be told again.
    pub fn look_again(&self, uid: &str) {
        if self.shared.entries.lock().contains_key(uid) {
            self.shared.queue.add(uid.to_owned());
        }
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.shared.entries.lock().remove(uid);
    }
}

impl Shared {
    async fn send(&self, uid: &str) -> Result<(), kube::Error> {
        let Some((key, status, could_run, finished, answered)) = self.entries.lock().get(uid).map(|entry| {
            let key = (entry.namespace.clone(), entry.name.clone());
            (key, entry.status.clone(), entry.could_run, entry.finished, entry.answered.clone())
        }) else {
            return Ok(());
        };
        let Some(mut known) = (self.api_pod_of)(uid) else { return Ok(()) };
        if let Some(answered) = answered.filter(|answered| answered.uid() == known.uid() && revision(answered) > revision(&known)) {
            known = answered;
        }
        let (namespace, name) = key;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let wanted = patch::merge(&known, &status, could_run);
        let patch = patch::diff(&known, &wanted).map_err(kube::Error::SerdeError)?;
        if let Some(patch) = patch {
            let sent = pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            // Another pod of that name, or none: its own events will tell.
            let sent = match sent {
                Err(error) if answer::is_conflict(&error) => {
                    tracing::debug!(pod = %format!("{namespace}/{name}"), %error, "the pod of this status is another by now");
                    None
                }
                other => answer::or_absent(other)?,
            };
            let Some(pod) = sent else { return Ok(()) };
            known = Arc::new(pod);
            if let Some(entry) = self.entries.lock().get_mut(uid) {
                entry.answered = Some(known.clone());
            }
        }
        if finished && known.is_terminating() && !pod::is_mirror(&known) && pod::is_terminal_phase(pod::phase(&known)) {
            let preconditions = Preconditions { uid: known.metadata.uid.clone(), resource_version: None };
            let parameters = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..Default::default() };
            match pods.delete(&name, &parameters).await {
                Ok(_) => {}
                Err(error) if answer::is_conflict(&error) || answer::is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// Times, and limits on what is told.
fn complete(pod: &Pod, new: ApiStatus, before: &ApiStatus, now: Timestamp) -> ApiStatus {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut status = status::with_transition_times(new, before, now);
    status.start_time = before.start_time.clone().or(status.start_time).or(Some(Time(now)));
    status.observed_generation = status.observed_generation.max(before.observed_generation);
    let containers = pod::containers(pod).len() + pod::init_containers(pod).len();
    let most = TERMINATION_MESSAGES_BYTES / containers.max(1);
    for container in status.container_statuses.iter_mut().chain(&mut status.init_container_statuses).flatten() {
        for state in [&mut container.state, &mut container.last_state].into_iter().flatten() {
            let message = state.terminated.as_mut().and_then(|terminated| terminated.message.as_mut());
            if let Some(message) = message.filter(|message| message.len() > most) {
                let cut = (0..=most).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
                message.truncate(cut);
            }
        }
    }
    status
}

/// No container runs any more, whatever is known of it, and the pod is over.
fn ended(pod: &Pod, mut status: ApiStatus) -> ApiStatus {
    let is_over = |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    let end = |status: &mut ContainerStatus| {
        let terminated = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            ..ContainerStateTerminated::default()
        };
        status.state = Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
    };
    let initialized = pod::init_containers(pod).is_empty() || status.container_statuses.iter().flatten().any(has_run);
    if initialized {
        status.container_statuses.iter_mut().flatten().filter(|status| !is_over(status)).for_each(end);
    }
    // Of the init containers those up to the last that has run.
    let last = status.init_container_statuses.as_deref().unwrap_or(&[]).iter().rposition(has_run).map_or(0, |at| at + 1);
    status.init_container_statuses.iter_mut().flatten().take(last).filter(|status| !is_over(status)).for_each(end);
    if !pod::is_static(pod) && !status.phase.as_deref().is_some_and(pod::is_terminal_phase) {
        status.phase = Some("Failed".to_owned());
    }
    status
}

fn has_run(status: &ContainerStatus) -> bool {
    let told = |state: &Option<ContainerState>| state.as_ref().is_some_and(|state| state.terminated.is_some() || state.running.is_some());
    told(&status.state) || told(&status.last_state)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_is_through_has_no_container_that_waits() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b", "uid": "c"},
            "spec": {"containers": [{"name": "x"}]}}))
        .expect("it is a pod");
        let status: ApiStatus = serde_json::from_value(json!({"phase": "Pending", "containerStatuses": [
            {"name": "x", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]}))
        .expect("it is a status");
        let ended = ended(&pod, status);
        assert_eq!(ended.phase.as_deref(), Some("Failed"));
        let state = ended.container_statuses.expect("there is one")[0].state.clone().expect("it has one");
        assert_eq!(state.terminated.map(|terminated| terminated.exit_code), Some(137));
    }

    #[tokio::test]
    async fn pods_are_asked_for_while_no_status_is_held() {
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("there is no server"))
        });
        let client = Client::new(nobody, "default");
        let manager: Arc<std::sync::OnceLock<StatusManager>> = Arc::default();
        let asked = manager.clone();
        let made = StatusManager::new(client, move |_| {
            let free = asked.get().is_some_and(|manager| manager.shared.entries.try_lock().is_some());
            assert!(free, "the statuses are held, and whoever holds the pods would wait for them for ever");
            None
        });
        manager.set(made.clone()).ok().expect("it is set once");
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b", "uid": "c"}})).expect("it is a pod");
        assert!(made.set(&pod, ApiStatus::default(), true).1);
        assert!(!made.set(&pod, ApiStatus::default(), true).1);
    }

    #[test]
    fn long_termination_messages_are_cut() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [{"name": "x"}, {"name": "y"}]}})).expect("it is a pod");
        let message = "a".repeat(20_000);
        let status: ApiStatus = serde_json::from_value(json!({"containerStatuses": [{"name": "x", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 1, "message": message}}}]}))
        .expect("it is a status");
        let complete = complete(&pod, status, &ApiStatus::default(), Timestamp::now());
        let state = complete.container_statuses.expect("there is one")[0].state.clone().expect("it has one");
        assert_eq!(state.terminated.and_then(|terminated| terminated.message).map(|message| message.len()), Some(6 << 10));
    }
}
