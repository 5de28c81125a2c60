//! What is asked of the kubelet by those who end pods: the eviction manager, and a shutdown of the machine.

use std::sync::Arc;

use client::Object;
use client::events::{Event, Type};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;

use crate::core::Core;
use crate::eviction::{self, Eviction};
use crate::pod_worker::End;
use crate::pods::Pods;
use crate::status::Failure;
use crate::{container_gc, images, instruments, node_shutdown, pod};

pub struct Evicting {
    pub core: Arc<Core>,
    pub pods: Pods,
}

impl Evicting {
    /// The pods that run or may run.
    fn active(&self) -> Vec<Arc<Pod>> {
        let over = |pod: &Arc<Pod>| {
            let told = self.core.statuses.get(pod.uid());
            pod::is_terminal_phase(told.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_else(|| pod::phase(pod)))
        };
        self.pods.all().into_iter().filter(|pod| !over(pod)).collect()
    }
}

impl node_shutdown::Node for Evicting {
    fn active_pods(&self) -> Vec<Arc<Pod>> {
        self.active()
    }

    fn end(&self, uid: &str, end: End) {
        self.pods.end(uid, end);
    }

    fn is_gone(&self, uid: &str) -> bool {
        self.pods.is_over(uid)
    }
}

impl eviction::Node for Evicting {
    fn active_pods(&self) -> Vec<Arc<Pod>> {
        self.active()
    }

    fn evict(&self, eviction: Eviction) {
        let Eviction { pod, grace_seconds, message, annotations: _, disrupted, signal } = eviction;
        self.core.metrics.count(&instruments::EVICTIONS, &[&signal]);
        self.core.recorder.tell(Event::new(&pod.reference(), Type::Warning, eviction::REASON, message.clone()));
        let disrupted = disrupted.then(|| message.clone());
        let failure = Failure { reason: eviction::REASON.to_owned(), message, disrupted, unless_succeeded: false };
        self.pods.end(pod.uid(), End { failure: Some(failure), grace_seconds: Some(grace_seconds) });
    }

    fn is_gone(&self, pod_uid: &str) -> bool {
        self.pods.is_over(pod_uid)
    }

    fn reclaim_disk(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Err(error) = container_gc::collect(&self.core).await {
                tracing::warn!(%error, "cannot remove containers that have ended");
            }
            if let Err(error) = images::gc::remove_unused(&self.core).await {
                tracing::warn!(%error, "cannot remove unused images");
            }
        })
    }
}
