//! The shell: informers feed the core's thread through one bounded channel, and what the core decides is carried out beside it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use client::events::Recorder;
use client::{Informer, Informers, Object, Shutdown};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;

use crate::binding::Binder;
use crate::config::{self, Config};
use crate::core::{Core, Delta, Effect, Input};
use crate::extender::{self, caller::Callers};
use crate::metrics::Metrics;

/// Changes that wait to be taken in. Informers wait while it is full, which it is only while much changes at once.
const INBOX: usize = 4096;
/// Decisions that wait to be carried out. While it is full nothing more is decided.
const OUTBOX: usize = 4096;
/// Changes that are taken in between two decisions.
const BATCH: usize = 512;
/// Bindings underway; beyond it nothing more is decided.
const MAX_BINDINGS: usize = 2048;
/// Changes that are kept while extenders are asked about a pod; beyond it they are waited for no longer.
const MAX_DEFERRED: usize = 65_536;
/// How long an idle core sleeps at most.
const IDLE: Duration = Duration::from_secs(60);
/// While decisions wait for room in the outbox it is looked at this often.
const RETRY: Duration = Duration::from_millis(2);

/// Why a scheduler could not start or has failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the configuration cannot be used")]
    Config(#[from] config::Error),
    #[error("couldn't build extenders")]
    Extenders(#[from] extender::caller::Error),
    #[error("the scheduling thread has failed")]
    Thread(#[from] tokio::task::JoinError),
}

/// What the core's thread is sent.
pub(crate) enum Message {
    Input(Input),
    /// All there is has been told; pods may be placed.
    Synced,
    Wake,
}

/// Schedules pods until shutdown.
pub async fn run(client: kube::Client, config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let informers = Informers::new(client.clone(), shutdown.clone());
    run_with(client, informers, config, Arc::default(), shutdown).await
}

/// As [`run`], with informers that others use too, and metrics that somebody shows.
pub async fn run_with(
    client: kube::Client,
    informers: Informers,
    config: Config,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let config = config.complete()?;
    let core = Core::new(&config, metrics.clone(), rand::random())?;
    let (inbox, messages) = sync_channel(INBOX);
    let (outbox, effects) = mpsc::channel(OUTBOX);
    let recorder = Recorder::with_actions(client.clone(), &recorder_name(&config), &host(), shutdown.clone());
    let extenders = Callers::new(&extender::ordered(&config)).await?;
    let binder = Binder::new(client, recorder, extenders, inbox.clone());
    let carrying_out = tokio::spawn(binder.run(effects));
    let ended = Shutdown::new();
    // Whoever drops this future without a shutdown ends the thread too.
    let ending = Ending { ended: ended.clone(), inbox: inbox.clone() };
    let thread = tokio::task::spawn_blocking(move || decide(core, &messages, &outbox, &ended));

    tokio::select! {
        () = follow(&informers, &inbox) => {
            tracing::info!("all that is known has been taken in, pods are scheduled now");
            shutdown.cancelled().await;
        }
        () = shutdown.cancelled() => {}
    }
    drop(ending);
    thread.await?;
    carrying_out.abort();
    Ok(())
}

/// Ends the core's thread when it is dropped.
struct Ending {
    ended: Shutdown,
    inbox: SyncSender<Message>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.ended.cancel();
        // Wakes the thread if it sleeps; with a full inbox it does not.
        if self.inbox.try_send(Message::Wake).is_err() {
            tracing::trace!("the scheduling thread is busy or has ended");
        }
    }
}

/// Events are told under the name of the profile; with several, under the first.
fn recorder_name(config: &Config) -> String {
    config.profiles.first().and_then(|p| p.scheduler_name.clone()).unwrap_or_else(|| config::DEFAULT_SCHEDULER_NAME.to_owned())
}

/// The name of this machine, by which events say who tells them.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| String::new(), |name| name.trim().to_owned())
}

/// Tells the core of all changes, and when the first lists have been told in whole.
async fn follow(informers: &Informers, inbox: &SyncSender<Message>) {
    macro_rules! follow {
        ($($input:ident),*) => {
            $(let $input = tell(informers.of(), inbox, Input::$input);)*
            $($input.synced().await;)*
        };
    }
    #[allow(non_snake_case)]
    {
        // Nodes and storage first, so that the first pods are not refused for want of them.
        follow!(
            Node,
            Namespace,
            Service,
            ReplicationController,
            ReplicaSet,
            StatefulSet,
            PodDisruptionBudget,
            PersistentVolume,
            PersistentVolumeClaim,
            StorageClass,
            CsiNode,
            CsiDriver,
            CsiStorageCapacity,
            VolumeAttachment,
            DeviceClass,
            DeviceTaintRule,
            ResourceSlice,
            ResourceClaim,
            Pod
        );
    }
    let inbox = inbox.clone();
    // Sending may have to wait for the core, which a task must not.
    if tokio::task::spawn_blocking(move || inbox.send(Message::Synced).is_ok()).await.is_err() {
        tracing::debug!("the runtime ends");
    }
}

fn tell<K: Object>(informer: Informer<K>, inbox: &SyncSender<Message>, input: fn(Delta<K>) -> Input) -> Informer<K> {
    let inbox = inbox.clone();
    informer.on_change(move |change| {
        if inbox.send(Message::Input(input(Delta::from(change)))).is_err() {
            tracing::trace!("the scheduler has ended");
        }
    });
    informer
}

/// The core's thread.
fn decide(mut core: Core, messages: &Receiver<Message>, outbox: &mpsc::Sender<Effect>, ended: &Shutdown) {
    let start = Instant::now();
    let mut synced = false;
    let mut waiting: std::collections::VecDeque<Effect> = std::collections::VecDeque::new();
    let mut reported = Duration::ZERO;
    while !ended.is_cancelled() {
        let mut taken = 0;
        while taken < BATCH
            && let Ok(message) = messages.try_recv()
        {
            match message {
                Message::Input(input) => core.apply(input, start.elapsed()),
                Message::Synced => synced = true,
                Message::Wake => {}
            }
            taken += 1;
        }
        let now = start.elapsed();
        if core.deferred() > MAX_DEFERRED {
            tracing::warn!("too many changes while extenders are asked, going on without their answers");
            core.give_up_question(now);
        }
        if core.next_flush().is_some_and(|at| at <= now) {
            core.flush(now);
        }
        let mut tried = false;
        if synced && waiting.is_empty() && core.bindings() < MAX_BINDINGS {
            tried = core.schedule_one(now, Timestamp::now());
        }
        waiting.extend(core.take_effects());
        send(&mut waiting, outbox);
        if now.saturating_sub(reported) > Duration::from_secs(1) {
            core.report();
            reported = now;
        }
        if tried || taken == BATCH {
            continue;
        }
        let sleep = match (waiting.is_empty(), core.next_flush()) {
            (false, _) => RETRY,
            (true, Some(at)) => at.saturating_sub(start.elapsed()).clamp(Duration::from_millis(1), IDLE),
            (true, None) => IDLE,
        };
        if taken > 0 {
            core.report();
        }
        match messages.recv_timeout(sleep) {
            Ok(Message::Input(input)) => core.apply(input, start.elapsed()),
            Ok(Message::Synced) => synced = true,
            Err(RecvTimeoutError::Disconnected) => return,
            Ok(Message::Wake) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Hands over as many decisions as there is room for.
fn send(waiting: &mut std::collections::VecDeque<Effect>, outbox: &mpsc::Sender<Effect>) {
    while let Some(effect) = waiting.pop_front() {
        match outbox.try_send(effect) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(effect)) => {
                waiting.push_front(effect);
                return;
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return,
        }
    }
}
