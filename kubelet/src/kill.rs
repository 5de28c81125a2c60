//! Stopping containers and sandboxes: hooks first, in order where there is one, never faster than the pod's grace allows.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use client::events::Type;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Lifecycle, LifecycleHandler, Pod, PodSpec};
use tokio::sync::watch;

use crate::container_config::labels;
use crate::core::Core;
use crate::cri::{self, or_gone};
use crate::hooks;
use crate::pod;
use crate::runtime_status::{self, PodStatus};
use crate::sync_pod::KillReason;

/// No container has less than this between the signal and its end.
const MIN_GRACE_SECONDS: i64 = 2;

/// Kills all running containers of a pod and stops its sandboxes. `pod` is none if only the runtime knows it.
pub async fn kill_pod(core: &Core, pod: Option<&Pod>, status: &PodStatus, grace: Option<i64>) -> Result<(), String> {
    let running: Vec<&runtime_status::Container> = status.running().collect();
    let order = Order::new(pod, &running);
    let kills = running.iter().map(|container| async {
        let reason = KillReason::Other;
        let result = kill_container(core, pod, container, &status.ips, "", reason, grace, Some(&order)).await;
        order.ended(&container.name);
        result
    });
    let mut problems: Vec<String> = join_all(kills).await.into_iter().filter_map(Result::err).collect();
    let stops = status.sandboxes.iter().map(|sandbox| async { or_gone(core.runtime.stop_pod_sandbox(sandbox.id.clone()).await) });
    for stopped in join_all(stops).await {
        if let Err(error) = stopped {
            problems.push(format!("failed to \"KillPodSandbox\" for {:?} with KillPodSandboxError: {:?}", status.uid, error.to_string()));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(join(problems)) }
}

/// Several errors as Go prints them.
pub fn join(mut problems: Vec<String>) -> String {
    if problems.len() == 1 { problems.swap_remove(0) } else { format!("[{}]", problems.join(", ")) }
}

/// Kills one container. `message` is what the event says.
#[expect(clippy::too_many_arguments, reason = "each of them decides how long the container has")]
pub async fn kill_container(
    core: &Core,
    pod: Option<&Pod>,
    known: &runtime_status::Container,
    pod_ips: &[String],
    message: &str,
    reason: KillReason,
    grace: Option<i64>,
    order: Option<&Order>,
) -> Result<(), String> {
    let restored;
    let pod = match pod {
        Some(pod) => pod,
        None => {
            restored = restore(known);
            &restored
        }
    };
    let Some(spec) = pod::find_container(pod, &known.name) else {
        let pod = pod::describe(pod);
        return Err(format!(
            "failed to get containerSpec {:?} (id={:?}) in pod {pod:?} when killing container for reason {message:?}",
            known.name, known.id
        ));
    };
    let message = if message.is_empty() { format!("Stopping container {}", known.name) } else { message.to_owned() };
    core.tell_container(pod, &known.name, &known.id, Type::Normal, "Killing", &message);
    let mut left = grace.unwrap_or_else(|| grace_of(pod, &spec, reason));
    if let Some(hook) = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()).filter(|_| left > 0) {
        let began = Instant::now();
        let run = hooks::run(&*core.runtime, &core.recorder, pod, &spec, &known.id, pod_ips, hook);
        match tokio::time::timeout(seconds(left), run).await {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => {
                tracing::info!(pod = %pod::describe(pod), container = %known.name, problem, "PreStop hook failed");
                core.tell_container(pod, &known.name, &known.id, Type::Warning, "FailedPreStopHook", "PreStopHook failed");
            }
            Err(_) => {
                tracing::info!(pod = %pod::describe(pod), container = %known.name, "PreStop hook did not end within the grace period")
            }
        }
        left -= whole_seconds(began);
    }
    if let Some(order) = order.filter(|_| left > 0) {
        let began = Instant::now();
        // When the time is up its turn has come all the same.
        let _ = tokio::time::timeout(seconds(left), order.turn(&known.name)).await;
        left -= whole_seconds(began);
    }
    let stopped = core.runtime.stop_container(known.id.clone(), left.max(MIN_GRACE_SECONDS)).await;
    or_gone(stopped).map_err(|error: cri::Error| {
        format!("failed to \"KillContainer\" for {:?} with KillContainerError: {:?}", known.name, error.to_string())
    })
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

fn whole_seconds(began: Instant) -> i64 {
    i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX)
}

/// How long a container has: by the deletion, by the probe that failed, by its pod.
fn grace_of(pod: &Pod, container: &Container, reason: KillReason) -> i64 {
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        return seconds;
    }
    let Some(pods) = pod::spec(pod).termination_grace_period_seconds else { return MIN_GRACE_SECONDS };
    let probe = match reason {
        KillReason::StartupProbe => container.startup_probe.as_ref(),
        KillReason::LivenessProbe => container.liveness_probe.as_ref(),
        KillReason::Other => None,
    };
    probe.and_then(|probe| probe.termination_grace_period_seconds).unwrap_or(pods)
}

/// What a container remembers of a pod that nobody knows any more.
fn restore(known: &runtime_status::Container) -> Pod {
    let number = |key: &str| known.annotations.get(key).and_then(|text| text.parse().ok());
    let pre_stop: Option<LifecycleHandler> =
        known.annotations.get(labels::PRE_STOP_HANDLER).and_then(|json| serde_json::from_str(json).ok());
    let container = Container {
        name: known.name.clone(),
        lifecycle: pre_stop.map(|pre_stop| Lifecycle { pre_stop: Some(pre_stop), ..Default::default() }),
        ports: known.annotations.get(labels::PORTS).and_then(|json| serde_json::from_str(json).ok()),
        ..Container::default()
    };
    let spec = PodSpec {
        containers: vec![container],
        termination_grace_period_seconds: number(labels::TERMINATION_GRACE_PERIOD),
        ..PodSpec::default()
    };
    let mut pod = Pod { spec: Some(spec), ..Pod::default() };
    pod.metadata.deletion_grace_period_seconds = number(labels::DELETION_GRACE_PERIOD);
    pod
}

/// Sidecars end after the main containers, the one that was started first at last.
pub struct Order {
    ended: HashMap<String, watch::Sender<bool>>,
    before: HashMap<String, Vec<String>>,
}

impl Order {
    fn new(pod: Option<&Pod>, running: &[&runtime_status::Container]) -> Order {
        let ended = running.iter().map(|container| (container.name.clone(), watch::Sender::new(false))).collect();
        let mut before = HashMap::new();
        if let Some(pod) = pod {
            let mains: Vec<String> = pod::containers(pod).iter().map(|container| container.name.clone()).collect();
            let mut later: Vec<String> = Vec::new();
            for sidecar in pod::init_containers(pod).iter().rev().filter(|container| pod::is_sidecar(container)) {
                before.insert(sidecar.name.clone(), mains.iter().chain(&later).cloned().collect());
                later.push(sidecar.name.clone());
            }
        }
        Order { ended, before }
    }

    async fn turn(&self, name: &str) {
        for other in self.before.get(name).into_iter().flatten() {
            if let Some(sender) = self.ended.get(other) {
                // The sender is ours, and so cannot be gone.
                let _ = sender.subscribe().wait_for(|ended| *ended).await;
            }
        }
    }

    fn ended(&self, name: &str) {
        if let Some(sender) = self.ended.get(name) {
            sender.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).expect("it is a pod")
    }

    #[test]
    fn a_container_has_as_long_as_deletion_probe_or_pod_say() {
        let container: Container =
            serde_json::from_value(json!({"name": "x", "livenessProbe": {"terminationGracePeriodSeconds": 7}})).expect("it is a container");
        for (metadata, spec, reason, expected) in [
            (json!({"deletionGracePeriodSeconds": 0}), json!({"containers": []}), KillReason::Other, 0),
            (json!({}), json!({"containers": []}), KillReason::Other, 2),
            (json!({}), json!({"containers": [], "terminationGracePeriodSeconds": 30}), KillReason::Other, 30),
            (json!({}), json!({"containers": [], "terminationGracePeriodSeconds": 30}), KillReason::LivenessProbe, 7),
            (json!({}), json!({"containers": [], "terminationGracePeriodSeconds": 30}), KillReason::StartupProbe, 30),
        ] {
            assert_eq!(grace_of(&pod(json!({"metadata": metadata, "spec": spec})), &container, reason), expected);
        }
    }

    #[tokio::test]
    async fn sidecars_wait_for_the_others() {
        let pod = pod(json!({"metadata": {}, "spec": {"containers": [{"name": "main"}],
            "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}]}}));
        let names = ["main", "s1", "s2"];
        let order = Order {
            ended: names.iter().map(|name| ((*name).to_owned(), watch::Sender::new(false))).collect(),
            before: Order::new(Some(&pod), &[]).before,
        };
        let ready = |name: &'static str| tokio::time::timeout(Duration::from_millis(10), order.turn(name));
        assert!(ready("main").await.is_ok());
        assert!(ready("s2").await.is_err());
        order.ended("main");
        assert!(ready("s2").await.is_ok());
        assert!(ready("s1").await.is_err());
        order.ended("s2");
        assert!(ready("s1").await.is_ok());
    }
}
