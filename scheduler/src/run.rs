//! The shell: informers feed the core's thread through one bounded channel, and what the core decides is carried out beside it.

use std::sync::Arc;

use client::events::Recorder;
use client::{Informer, Informers, Object, Shutdown, chance};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::binding::Binder;
use crate::config::{self, Config};
use crate::core::{Core, Delta, Input};
use crate::deciding::{Deciding, Inbox, Message, Messages};
use crate::extender::{self, caller::Callers};
use crate::metrics::Metrics;

/// Decisions that wait to be carried out. While it is full nothing more is decided.
const OUTBOX: usize = 4096;

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
    let decide =
        |deciding: Deciding, messages, ended: Shutdown| tokio::task::spawn_blocking(move || deciding.on_this_thread(&messages, &ended));
    run_by(decide, client, informers, config, metrics, shutdown).await
}

/// As [`run`], without a thread for the core: where a whole cluster runs on one thread.
pub async fn run_on_one_thread(client: kube::Client, config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let informers = Informers::new(client.clone(), shutdown.clone());
    let decide = |deciding: Deciding, messages, ended| tokio::spawn(deciding.among_others(messages, ended));
    run_by(decide, client, informers, config, Arc::default(), shutdown).await
}

async fn run_by(
    decide: impl FnOnce(Deciding, Messages, Shutdown) -> JoinHandle<()>,
    client: kube::Client,
    informers: Informers,
    config: Config,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let config = config.complete()?;
    let core = Core::new(&config, metrics.clone(), chance::number())?;
    let (inbox, messages) = Inbox::new();
    let (outbox, effects) = mpsc::channel(OUTBOX);
    let recorder = Recorder::with_actions(client.clone(), &recorder_name(&config), &host(), shutdown.clone());
    let extenders = Callers::new(&extender::ordered(&config)).await?;
    let binder = Binder::new(client, recorder, extenders, inbox.clone(), metrics.clone());
    let carrying_out = tokio::spawn(binder.run(effects));
    let ended = Shutdown::new();
    // Whoever drops this future without a shutdown ends the core too.
    let ending = Ending { ended: ended.clone(), inbox: inbox.clone() };
    let core = decide(Deciding::new(core, outbox), messages, ended);

    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = follow(&informers, &inbox) => {
            tracing::info!("all that is known has been taken in, pods are scheduled now");
            shutdown.cancelled().await;
        }
    }
    drop(ending);
    core.await?;
    carrying_out.abort();
    Ok(())
}

/// Ends the core when it is dropped.
struct Ending {
    ended: Shutdown,
    inbox: Inbox,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.ended.cancel();
        self.inbox.wake();
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
async fn follow(informers: &Informers, inbox: &Inbox) {
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
    if !inbox.send_in_time(Message::Synced).await {
        tracing::trace!("the scheduler has ended");
    }
}

fn tell<K: Object>(informer: Informer<K>, inbox: &Inbox, input: fn(Delta<K>) -> Input) -> Informer<K> {
    let inbox = inbox.clone();
    informer.on_change(move |change| {
        if !inbox.send(Message::Input(input(Delta::from(change)))) {
            tracing::trace!("the scheduler has ended");
        }
    });
    informer
}
