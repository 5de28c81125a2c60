//! The core's loop: takes in what has changed, places a pod, hands over what is decided, and sleeps when there is nothing to do.
//!
//! It has a thread of its own, or is one task among others where a whole cluster runs on one thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use client::{Shutdown, clock};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::core::{Core, Effect, Input};

/// Changes that wait to be taken in. Informers wait while it is full, which it is only while much changes at once.
const INBOX: usize = 4096;
/// Changes that are taken in between two decisions.
const BATCH: usize = 512;
/// Bindings underway; beyond it nothing more is decided.
const MAX_BINDINGS: usize = 2048;
/// Changes that are kept while extenders are asked about a pod; beyond it they are waited for no longer.
const MAX_DEFERRED: usize = 65_536;
/// How long an idle core sleeps at most.
const IDLE: Duration = Duration::from_secs(60);
/// What is full is looked at again after this long.
const RETRY: Duration = Duration::from_millis(2);

/// What the core is sent.
pub(crate) enum Message {
    Input(Input),
    /// All there is has been told; pods may be placed.
    Synced,
    Wake,
}

/// Where the core is sent messages. Clones are the same.
#[derive(Clone)]
pub(crate) struct Inbox {
    sink: SyncSender<Message>,
    filled: Arc<Notify>,
}

/// What the core reads.
pub(crate) struct Messages {
    source: Receiver<Message>,
    filled: Arc<Notify>,
}

impl Inbox {
    pub(crate) fn new() -> (Inbox, Messages) {
        let (sink, source) = sync_channel(INBOX);
        let filled: Arc<Notify> = Arc::default();
        (Inbox { sink, filled: filled.clone() }, Messages { source, filled })
    }

    /// Waits while there is no room. Whether somebody reads it still.
    pub(crate) fn send(&self, message: Message) -> bool {
        let sent = self.sink.send(message).is_ok();
        self.filled.notify_one();
        sent
    }

    /// As [`Inbox::send`], for tasks, which must not wait.
    pub(crate) async fn send_in_time(&self, mut message: Message) -> bool {
        loop {
            let sent = self.sink.try_send(message);
            self.filled.notify_one();
            message = match sent {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(message)) => message,
            };
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Wakes the core if it sleeps; with a full inbox it does not.
    pub(crate) fn wake(&self) {
        if self.sink.try_send(Message::Wake).is_err() {
            tracing::trace!("the core is busy or has ended");
        }
        self.filled.notify_one();
    }
}

/// The core and what it keeps between two turns.
pub(crate) struct Deciding {
    core: Core,
    outbox: mpsc::Sender<Effect>,
    start: Instant,
    synced: bool,
    waiting: VecDeque<Effect>,
    reported: Duration,
}

impl Deciding {
    pub(crate) fn new(core: Core, outbox: mpsc::Sender<Effect>) -> Deciding {
        Deciding { core, outbox, start: Instant::now(), synced: false, waiting: VecDeque::new(), reported: Duration::ZERO }
    }

    /// Decides until it is ended, keeping its thread.
    pub(crate) fn on_this_thread(mut self, messages: &Messages, ended: &Shutdown) {
        while !ended.is_cancelled() {
            let Some(sleep) = self.turn(messages) else { continue };
            match messages.source.recv_timeout(sleep) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Decides until it is ended, letting others have their turn after each pod.
    pub(crate) async fn among_others(mut self, messages: Messages, ended: Shutdown) {
        while !ended.is_cancelled() {
            let Some(sleep) = self.turn(&messages) else {
                tokio::task::yield_now().await;
                continue;
            };
            tokio::select! {
                biased;
                () = ended.cancelled() => return,
                () = messages.filled.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Input(input) => self.core.apply(input, self.start.elapsed()),
            Message::Synced => self.synced = true,
            Message::Wake => {}
        }
    }

    /// One turn; for how long there is nothing more to do then if no message comes.
    fn turn(&mut self, messages: &Messages) -> Option<Duration> {
        let mut taken = 0;
        while taken < BATCH
            && let Ok(message) = messages.source.try_recv()
        {
            self.take(message);
            taken += 1;
        }
        let now = self.start.elapsed();
        if self.core.deferred() > MAX_DEFERRED {
            tracing::warn!("too many changes while extenders are asked, going on without their answers");
            self.core.give_up_question(now);
        }
        if self.core.next_flush().is_some_and(|at| at <= now) {
            self.core.flush(now);
        }
        let mut tried = false;
        if self.synced && self.waiting.is_empty() && self.core.bindings() < MAX_BINDINGS {
            tried = self.core.schedule_one(now, clock::now());
        }
        self.waiting.extend(self.core.take_effects());
        self.hand_over();
        if now.saturating_sub(self.reported) > Duration::from_secs(1) {
            self.core.report();
            self.reported = now;
        }
        if tried || taken == BATCH {
            return None;
        }
        let sleep = match (self.waiting.is_empty(), self.core.next_flush()) {
            (false, _) => RETRY,
            (true, Some(at)) => at.saturating_sub(self.start.elapsed()).clamp(Duration::from_millis(1), IDLE),
            (true, None) => IDLE,
        };
        if taken > 0 {
            self.core.report();
        }
        Some(sleep)
    }

    /// Hands over as many decisions as there is room for.
    fn hand_over(&mut self) {
        while let Some(effect) = self.waiting.pop_front() {
            match self.outbox.try_send(effect) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(effect)) => {
                    self.waiting.push_front(effect);
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }
}
