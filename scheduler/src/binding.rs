//! Carries out what the core has decided: binds pods, with their volumes first, says why pods wait, removes pods for others, and asks
//! extenders.
//!
//! Decides nothing. What came of it goes back to the core as an [`Input`].

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::answer::is_not_found;
use client::clock;
use client::events::{self, Recorder, Type};
use client::{Object, ObjectKey};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::core::{Binding, ByExtender, Effect, Input, Preemption};
use crate::deciding::{Inbox, Message};
use crate::devices::reservation;
use crate::extender::caller::Callers;
use crate::extender::wire;
use crate::metrics::{Id, Metrics};
use crate::pod_status::{Condition, Saying, patch};
use crate::snapshot::pod::{spec, uid_of};
use crate::volumes::{SELECTED_NODE, Work, is_fully_bound, reaches, volume_name};

/// Status patches are sent in as many lanes, those of one pod in one lane, so that what was said last holds; and so many wait in each.
const LANES: usize = 32;
const LANE: usize = 128;
/// Bindings underway.
const MAX_REQUESTS: usize = 256;
/// Pods that wait for their volumes, and removals.
const MAX_LONG: usize = 2048;
/// A request that failed for want of a connection is sent again so often, after growing pauses.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(20);
/// How often volumes are looked at while they are awaited: at first, and at most.
const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(1);

/// Does what is decided. Clones are the same.
#[derive(Clone)]
pub(crate) struct Binder {
    client: Client,
    recorder: Recorder,
    extenders: Arc<Callers>,
    inbox: Inbox,
    metrics: Arc<Metrics>,
}

/// The lane of a pod.
fn lane_of(uid: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or(0)
}

/// What a failed request means, as upstream's errors put it.
pub(crate) fn told(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether the same request may succeed a moment later.
fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::HyperError(_) | kube::Error::Service(_) => true,
        _ => false,
    }
}

impl Binder {
    pub(crate) fn new(client: Client, recorder: Recorder, extenders: Callers, inbox: Inbox, metrics: Arc<Metrics>) -> Binder {
        Binder { client, recorder, extenders: Arc::new(extenders), inbox, metrics }
    }

    /// Works until the core has ended.
    pub(crate) async fn run(self, mut effects: mpsc::Receiver<Effect>) {
        let lanes: Vec<mpsc::Sender<(Arc<Pod>, Saying)>> = (0..LANES).map(|_| self.lane()).collect();
        let (requests, long) = (Arc::new(Semaphore::new(MAX_REQUESTS)), Arc::new(Semaphore::new(MAX_LONG)));
        while let Some(effect) = effects.recv().await {
            let takes_long =
                matches!(&effect, Effect::Preempt(_)) || matches!(&effect, Effect::Bind(b) if b.volumes.is_some() || b.devices.is_some());
            let effect = match effect {
                Effect::Tell(event) => {
                    self.recorder.tell(*event);
                    continue;
                }
                Effect::Say { pod, saying } => {
                    let lane = &lanes[lane_of(&uid_of(&pod))];
                    if lane.send((pod, saying)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Effect::Consult { question, calls } => {
                    // The core asks no more before it has the answers: at most one is underway.
                    let binder = self.clone();
                    tokio::spawn(async move {
                        let answers = futures::future::join_all(calls.into_iter().map(|call| binder.extenders.ask(call))).await;
                        binder.report(Input::Answered { question, answers });
                    });
                    continue;
                }
                effect => effect,
            };
            let permits = if takes_long { &long } else { &requests };
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let binder = self.clone();
            tokio::spawn(async move {
                match effect {
                    Effect::Bind(binding) => binder.bind(binding).await,
                    Effect::Preempt(preemption) => binder.preempt(preemption).await,
                    Effect::Deallocate(claim) => reservation::deallocate(&binder.client, &claim).await,
                    Effect::Discard(claim) => reservation::discard(&binder.client, &claim).await,
                    Effect::Say { .. } | Effect::Tell(_) | Effect::Consult { .. } => {}
                }
                drop(permit);
            });
        }
    }

    /// A lane, and the task that empties it until it is closed.
    fn lane(&self) -> mpsc::Sender<(Arc<Pod>, Saying)> {
        let (sink, mut source) = mpsc::channel::<(Arc<Pod>, Saying)>(LANE);
        let binder = self.clone();
        tokio::spawn(async move {
            while let Some((pod, saying)) = source.recv().await {
                binder.say(&pod, &saying).await;
            }
        });
        sink
    }

    fn report(&self, input: Input) {
        if !self.inbox.send(Message::Input(input)) {
            tracing::trace!("the scheduler has ended");
        }
    }

    async fn bind(&self, binding: Binding) {
        let uid = binding.uid.clone();
        let result = self.try_bind(&binding).await;
        self.report(Input::Bound { uid, result });
    }

    async fn try_bind(&self, binding: &Binding) -> Result<(), String> {
        if binding.volumes.is_some() || binding.devices.is_some() {
            // Whoever makes room in the cluster sees where the pod will be.
            self.say(&binding.pod, &Saying { condition: None, nominated: Some(binding.node.to_string()) }).await;
        }
        let mut created = None;
        let result = self.try_bind_with_needs(binding, &mut created).await;
        if let (Err(_), Some(devices)) = (&result, &binding.devices) {
            reservation::give_back(&self.client, &binding.pod, devices, created).await;
        }
        result
    }

    /// `created` is the claim that was made for the pod, if one was.
    async fn try_bind_with_needs(&self, binding: &Binding, created: &mut Option<ResourceClaim>) -> Result<(), String> {
        let began = Instant::now();
        let needs = self.meet_needs(binding, created).await;
        self.count(binding, "PreBind", needs.is_ok(), began);
        needs?;
        let began = Instant::now();
        let bound = self.bind_to_node(binding).await;
        self.count(binding, "Bind", bound.is_ok(), began);
        bound
    }

    fn count(&self, binding: &Binding, point: &str, is_ok: bool, began: Instant) {
        let labels = [point, if is_ok { "Success" } else { "Error" }, &*binding.profile.name];
        self.metrics.observe(Id::ExtensionPointDuration, &labels, began.elapsed().as_secs_f64());
    }

    /// Has volumes and devices made ready for the pod.
    async fn meet_needs(&self, binding: &Binding, created: &mut Option<ResourceClaim>) -> Result<(), String> {
        if let Some((work, timeout)) = &binding.volumes {
            let bound = self.bind_volumes(binding, work.clone(), *timeout).await;
            if bound.is_err() {
                self.metrics.add(Id::VolumeErrors, &["bind"], 1.0);
            }
            bound.map_err(|error| format!("running PreBind plugin \"VolumeBinding\": {error}"))?;
        }
        if let Some(devices) = &binding.devices {
            let reserved = reservation::carry_out(
                &self.client,
                &binding.pod,
                devices,
                created,
                &self.metrics,
                |claim| self.report(Input::ClaimWritten(Arc::new(claim))),
                || self.tell_of_waiting(binding),
            );
            reserved.await.map_err(|error| format!("running PreBind plugin \"DynamicResources\": {error}"))?;
        }
        Ok(())
    }

    async fn bind_to_node(&self, binding: &Binding) -> Result<(), String> {
        if let Some(ByExtender { call, ignorable }) = &binding.extender {
            match self.extenders.ask(call.clone()).await.and_then(|answer| wire::bound(&answer)) {
                Err(error) if *ignorable => {
                    tracing::info!(%error, "skipping an extender that has not bound the pod and can be done without")
                }
                other => return other,
            }
        }
        let pod = &binding.pod;
        let (namespace, name) = (pod.namespace(), pod.name());
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"namespace": namespace, "name": name, "uid": pod.uid()},
            "target": {"kind": "Node", "name": *binding.node},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
        let failed = |error: String| format!("running Bind plugin \"DefaultBinder\": {error}");
        let request = http::Request::post(&path).header("content-type", "application/json").body(body.to_string().into_bytes());
        let request = request.map_err(|error| failed(error.to_string()))?;
        match self.client.request::<Value>(request).await {
            Ok(_) => Ok(()),
            // It may have been done all the same. Then the room is taken, and must not be given away once more.
            Err(error) if is_passing(&error) && self.is_bound(binding).await => Ok(()),
            Err(error) => Err(failed(told(error))),
        }
    }

    /// Whether the API server shows the pod on its node.
    async fn is_bound(&self, binding: &Binding) -> bool {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), binding.pod.namespace());
        for attempt in 1..=TRIES {
            match pods.get(binding.pod.name()).await {
                Ok(pod) => return uid_of(&pod) == binding.uid && spec(&pod).node_name.as_deref() == Some(&*binding.node),
                Err(error) if attempt < TRIES && is_passing(&error) => tokio::time::sleep(PAUSE * attempt).await,
                Err(_) => return false,
            }
        }
        false
    }

    fn tell_of_waiting(&self, binding: &Binding) {
        let note = format!("waiting for binding conditions for device on node {}", binding.node);
        let mut event = events::Event::new(&binding.pod.reference(), Type::Normal, "BindingConditionsPending", note);
        event.action = "Scheduling".to_owned();
        self.recorder.tell(event);
    }

    /// Makes the claims' volumes theirs, and waits until they are.
    async fn bind_volumes(&self, binding: &Binding, work: Work, timeout: Duration) -> Result<(), String> {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let params = PostParams::default();
        for volume in &work.volumes {
            volumes.replace(volume.name(), &params, volume).await.map_err(told)?;
        }
        for claim in &work.claims {
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), claim.namespace());
            claims.replace(claim.name(), &params, claim).await.map_err(told)?;
        }
        let provisioned: Vec<ObjectKey> = work.claims.iter().map(Object::key).collect();
        let waiting = self.volumes_bound(binding, &work.awaited, &provisioned);
        match tokio::time::timeout(timeout, waiting).await {
            Ok(result) => result.map_err(|error| format!("binding volumes: {error}")),
            Err(_) => Err("binding volumes: context deadline exceeded".to_owned()),
        }
    }

    async fn volumes_bound(&self, binding: &Binding, awaited: &[ObjectKey], provisioned: &[ObjectKey]) -> Result<(), String> {
        let mut pause = POLL_MIN;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_MAX);
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), binding.pod.namespace());
            match pods.get(binding.pod.name()).await {
                Ok(pod) if uid_of(&pod) == binding.uid => {}
                Ok(_) => return Err("pod does not exist any more".to_owned()),
                Err(error) if is_not_found(&error) => return Err(format!("pod does not exist any more: {}", told(error))),
                Err(error) => tracing::debug!(error = told(error), "the pod could not be looked at"),
            }
            let mut all = true;
            for key in awaited {
                all &= self.claim_bound(binding, key, provisioned.contains(key)).await?;
            }
            if all {
                return Ok(());
            }
        }
    }

    /// Whether a claim has its volume, and one that the node reaches.
    async fn claim_bound(&self, binding: &Binding, key: &ObjectKey, provisioned: bool) -> Result<bool, String> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let claim = claims.get(&key.name).await.map_err(|error| format!("failed to check binding: {}", told(error)))?;
        if provisioned && claim.annotation(SELECTED_NODE) != Some(&*binding.node) {
            return Err(format!("provisioning failed for PVC {:?}", key.name));
        }
        let name = volume_name(&claim);
        if name.is_empty() {
            return Ok(false);
        }
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = match volumes.get(name).await {
            Ok(volume) => volume,
            Err(error) if is_not_found(&error) => return Ok(false),
            Err(error) => return Err(format!("failed to get pv {name:?}: {}", told(error))),
        };
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = nodes.get(&binding.node).await.map_err(|error| format!("failed to get node {:?}: {}", &*binding.node, told(error)))?;
        if !reaches(&volume, &node) {
            return Err(format!("pv {name:?} node affinity doesn't match node {:?}: no matching NodeSelectorTerms", &*binding.node));
        }
        Ok(is_fully_bound(&claim))
    }

    /// Patches a pod's status, unless it is so already.
    async fn say(&self, pod: &Pod, saying: &Saying) {
        if let Err(error) = self.try_say(pod, saying).await {
            tracing::warn!(pod = %pod.key(), error = told(error), "the pod's status could not be written");
        }
    }

    async fn try_say(&self, pod: &Pod, saying: &Saying) -> Result<(), kube::Error> {
        let Some(body) = patch(pod, saying, clock::now()) else { return Ok(()) };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        for attempt in 1.. {
            match pods.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(&body)).await {
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) if attempt < TRIES && is_passing(&error) => tokio::time::sleep(PAUSE * attempt).await,
                other => return other.map(drop),
            }
        }
        Ok(())
    }

    async fn preempt(&self, preemption: Preemption) {
        let uid = preemption.uid.clone();
        let failed = match self.try_preempt(preemption).await {
            Ok(()) => false,
            Err(error) => {
                tracing::error!(preemptor = %uid, error = told(error), "pods could not be removed");
                true
            }
        };
        self.report(Input::Preempted { preemptor: uid, failed });
    }

    async fn try_preempt(&self, preemption: Preemption) -> Result<(), kube::Error> {
        for other in &preemption.displaced {
            self.try_say(other, &Saying { condition: None, nominated: Some(String::new()) }).await?;
        }
        // The last goes when all others have: the pod may be tried again as soon as the last is seen to go.
        let Some((last, others)) = preemption.victims.split_last() else { return Ok(()) };
        futures::future::try_join_all(others.iter().map(|victim| self.remove(victim, &preemption))).await?;
        self.report(Input::LastVictim { preemptor: preemption.uid.clone(), victim: uid_of(last) });
        self.remove(last, &preemption).await
    }

    async fn remove(&self, victim: &Arc<Pod>, preemption: &Preemption) -> Result<(), kube::Error> {
        let scheduler = spec(&preemption.preemptor).scheduler_name.as_deref().unwrap_or(crate::config::DEFAULT_SCHEDULER_NAME);
        let message = format!("{scheduler}: preempting to accommodate a higher priority pod");
        let condition = Condition { kind: "DisruptionTarget", status: "True", reason: "PreemptionByScheduler", message };
        self.try_say(victim, &Saying { condition: Some(condition), nominated: None }).await?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), victim.namespace());
        let preconditions = Preconditions { uid: victim.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match pods.delete(victim.name(), &params).await {
            Ok(_) => {}
            // It is gone, or another has its name.
            Err(error) if is_not_found(&error) || client::answer::is_conflict(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        let note = format!("Preempted by pod {} on node {}", preemption.uid, preemption.node);
        let mut event = events::Event::new(&victim.reference(), Type::Normal, "Preempted", note);
        event.action = "Preempting".to_owned();
        event.related = Some(preemption.preemptor.reference().0);
        self.recorder.tell(event);
        Ok(())
    }
}
