//! Probes: asking containers again and again whether they have started, live and are ready.
//!
//! A task for each probe of each container. They tell [`Verdicts`], and whoever syncs the pod of what is new; they kill nothing.

mod check;
pub mod metrics;
mod verdicts;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;

use client::Object;
use client::events::Recorder;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus as ApiStatus, Probe};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::cri::SharedRuntime;
use crate::pod;

pub use verdicts::{Kind, Verdicts};

type Key = (String, String, Kind);

struct Handle {
    poke: Arc<Notify>,
    stop: watch::Sender<bool>,
}

type StatusOf = Box<dyn Fn(&str) -> Option<Arc<ApiStatus>> + Send + Sync>;
type OnNews = Box<dyn Fn(&str) + Send + Sync>;

struct Shared {
    runtime: SharedRuntime,
    recorder: Recorder,
    verdicts: Verdicts,
    metrics: metrics::Results,
    status_of: StatusOf,
    on_news: OnNews,
    began: Timestamp,
    /// Bounded by the probes of the pods on this node.
    workers: Mutex<HashMap<Key, Handle>>,
}

/// The probes of this node. Clones are the same.
#[derive(Clone)]
pub struct Probes {
    shared: Arc<Shared>,
}

impl Probes {
    /// `status_of`: what was last told of a pod; `on_news`: called with the pod's uid when a verdict changes.
    pub fn new(
        runtime: SharedRuntime,
        recorder: Recorder,
        verdicts: Verdicts,
        status_of: impl Fn(&str) -> Option<Arc<ApiStatus>> + Send + Sync + 'static,
        on_news: impl Fn(&str) + Send + Sync + 'static,
    ) -> Probes {
        let shared = Shared {
            runtime,
            recorder,
            verdicts,
            metrics: metrics::Results::default(),
            status_of: Box::new(status_of),
            on_news: Box::new(on_news),
            began: Timestamp::now(),
            workers: Mutex::default(),
        };
        Probes { shared: Arc::new(shared) }
    }

    pub fn metrics(&self) -> &metrics::Results {
        &self.shared.metrics
    }

    /// Begins to probe a pod's containers, those that are not yet probed.
    pub fn add(&self, pod: &Arc<Pod>) {
        let sidecars = pod::init_containers(pod).iter().filter(|container| pod::is_sidecar(container));
        for container in sidecars.chain(pod::containers(pod)) {
            for kind in Kind::ALL {
                let Some(probe) = probe_of(container, kind) else { continue };
                self.start(pod, container, kind, probe);
            }
        }
    }

    fn start(&self, pod: &Arc<Pod>, container: &Container, kind: Kind, probe: &Probe) {
        let key = (pod.uid().to_owned(), container.name.clone(), kind);
        let mut workers = self.shared.workers.lock();
        if workers.contains_key(&key) {
            return;
        }
        let (poke, (stop, stopped)) = (Arc::new(Notify::new()), watch::channel(false));
        let worker =
            worker::Worker { shared: self.shared.clone(), pod: pod.clone(), container: container.clone(), kind, probe: probe.clone() };
        workers.insert(key.clone(), Handle { poke: poke.clone(), stop });
        drop(workers);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            worker.run(poke, stopped).await;
            // Nobody has removed it if it ended by itself; its key may have been taken anew otherwise.
            let mut workers = shared.workers.lock();
            if workers.get(&key).is_some_and(|handle| !*handle.stop.borrow() && handle.stop.receiver_count() == 0) {
                workers.remove(&key);
            }
        });
    }

    /// The pod's containers have changed: its probes look again.
    pub fn poke(&self, uid: &str) {
        let workers = self.shared.workers.lock();
        workers.iter().filter(|((of, ..), _)| of == uid).for_each(|(_, handle)| handle.poke.notify_one());
    }

    fn end(&self, uid: &str, kinds: &[Kind]) {
        self.shared.workers.lock().retain(|(of, _, kind), handle| {
            let ends = of == uid && kinds.contains(kind);
            if ends {
                handle.stop.send_replace(true);
            }
            !ends
        });
    }

    /// The pod is being stopped: that it no longer lives is no news.
    pub fn stop_liveness_and_startup(&self, uid: &str) {
        self.end(uid, &[Kind::Liveness, Kind::Startup]);
    }

    pub fn remove(&self, uid: &str) {
        self.end(uid, &Kind::ALL);
    }
}

fn probe_of(container: &Container, kind: Kind) -> Option<&Probe> {
    match kind {
        Kind::Startup => container.startup_probe.as_ref(),
        Kind::Liveness => container.liveness_probe.as_ref(),
        Kind::Readiness => container.readiness_probe.as_ref(),
    }
}
