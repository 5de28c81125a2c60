//! Pods that run here though nobody knows them: those that were deleted while no kubelet ran.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::Shutdown;
use parking_lot::Mutex;

use crate::container_config::labels;
use crate::container_gc;
use crate::core::Core;
use crate::instruments;
use crate::kill;
use crate::pods::Pods;
use crate::runtime_status;

/// Not before the first pods are running.
const FIRST_CLEAN: Duration = Duration::from_secs(5);
/// How long they have, as upstream.
const GRACE_SECONDS: i64 = 1;

/// Those being killed, so that each is killed once. Bounded by the pods that the runtime has.
#[derive(Clone, Default)]
pub struct Orphans {
    dying: Arc<Mutex<BTreeSet<String>>>,
}

impl Orphans {
    /// Kills the pods among `listed` that nobody knows. To be called only once all sources of pods have been heard.
    pub fn kill(&self, core: &Arc<Core>, pods: &Pods, listed: &BTreeSet<String>, shutdown: &Shutdown) {
        for uid in listed.iter().filter(|uid| !pods.knows(uid)) {
            if !self.dying.lock().insert(uid.clone()) {
                continue;
            }
            let (core, uid, dying, shutdown) = (core.clone(), uid.clone(), self.dying.clone(), shutdown.clone());
            tokio::spawn(async move {
                tokio::select! {
                    result = kill_one(&core, &uid) => {
                        if let Err(error) = result {
                            tracing::warn!(uid, error, "cannot kill a pod that nobody knows");
                        }
                    }
                    () = shutdown.cancelled() => {}
                }
                dying.lock().remove(&uid);
            });
        }
    }
}

/// How often what is left of pods that are gone is looked for.
const CLEAN_PERIOD: Duration = Duration::from_secs(60);

/// Removes directories, mounts and cgroups of pods that are gone, again and again until shutdown. `ready`: whether all pods have been heard of.
pub async fn clean(core: &Core, pods: &Pods, ready: impl Fn() -> bool, shutdown: Shutdown) {
    let mut wait = FIRST_CLEAN;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
        if !ready() {
            continue;
        }
        wait = CLEAN_PERIOD;
        let mut known = pods.uids();
        match core.runtime.list_containers(None).await {
            Ok(containers) => known.extend(containers.into_iter().filter_map(|container| container.labels.get(labels::POD_UID).cloned())),
            Err(error) => {
                tracing::warn!(%error, "cannot tell which pods are gone");
                continue;
            }
        }
        for error in core.volumes.clean_orphans(&known).await {
            tracing::warn!(%error, "cannot remove what is left of a pod's volumes");
        }
        if let Some(namespaces) = &core.user_namespaces {
            namespaces.release_gone();
        }
        let Some(cgroups) = core.cgroups.clone() else { continue };
        let active = pods.all();
        let cleaned = tokio::task::spawn_blocking(move || {
            let mut errors = cgroups.clean_orphans(&known);
            errors.extend(cgroups.update_qos(active.iter().map(|pod| &**pod)).err());
            errors
        })
        .await;
        for error in cleaned.unwrap_or_default() {
            tracing::warn!(%error, "cannot remove the cgroup of a pod that is gone");
        }
    }
}

async fn kill_one(core: &Core, uid: &str) -> Result<(), String> {
    let observed = runtime_status::observe(&*core.runtime, uid).await.map_err(|error| error.to_string())?;
    if !observed.is_stopped() {
        core.metrics.count(&instruments::ORPHANED_PODS, &[]);
        tracing::info!(uid, pod = %format!("{}/{}", observed.namespace, observed.name), "nobody knows this pod, it is killed");
        kill::kill_pod(core, None, &observed, Some(GRACE_SECONDS)).await?;
    }
    container_gc::remove_pod(core, uid).await.map_err(|error| error.to_string())
}
