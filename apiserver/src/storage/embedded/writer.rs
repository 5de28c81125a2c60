//! The one writer: checks transactions, gives out revisions, appends batches.
//!
//! Owns the revision counter and the revisions of live keys. It never publishes or acknowledges anything that the disk
//! has not confirmed, and after the disk has failed it confirms nothing any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::super::store::{Batch, Change, Expected, Key, Revision, StoreError, StoreEvent, Txn};
use super::gathering::{self, Gathering};
use super::room::Room;
use super::{Append, Record, Shared, Slot, ttl};

/// How much one batch takes: enough that a sync is shared by all who wait, little enough that nobody waits for long.
const BATCH_JOBS: usize = 512;
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// A key that is written often leaves a void deadline each time; so many are let be.
const PRUNE_FLOOR: usize = 4096;

pub(super) struct Job {
    pub txn: Txn,
    /// `None` if nobody waits for the answer.
    pub reply: Option<oneshot::Sender<Answer>>,
}

type Answer = Result<Revision, StoreError>;

pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Box<dyn Append>,
    index: HashMap<Key, Slot>,
    revision: Revision,
    jobs: mpsc::Receiver<Job>,
    gathering: Gathering,
    room: Room,
    /// Deadlines are looked through when there are so many.
    prune_at: usize,
}

/// What one batch will do.
#[derive(Default)]
struct Plan {
    records: Vec<Record>,
    events: Vec<StoreEvent>,
    answers: Vec<(Option<oneshot::Sender<Answer>>, Answer)>,
    bytes: usize,
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        disk: Box<dyn Append>,
        index: HashMap<Key, Slot>,
        revision: Revision,
        jobs: mpsc::Receiver<Job>,
    ) -> Writer {
        Writer { shared, disk, index, revision, jobs, gathering: Gathering::default(), room: Room::default(), prune_at: PRUNE_FLOOR }
    }

    /// Works until the queue is closed and empty.
    pub fn run(mut self) {
        let mut taken = Vec::with_capacity(BATCH_JOBS);
        while self.jobs.blocking_recv_many(&mut taken, BATCH_JOBS) > 0 {
            self.gather(&mut taken);
            self.room.look(&*self.disk);
            let mut jobs = taken.drain(..).peekable();
            while jobs.peek().is_some() {
                let mut plan = Plan::default();
                while plan.bytes < BATCH_BYTES
                    && let Some(job) = jobs.next()
                {
                    self.plan(job, &mut plan);
                }
                self.perform(plan);
            }
        }
    }

    /// Waits for what is coming, if it is likely to come soon.
    fn gather(&mut self, taken: &mut Vec<Job>) {
        let is_coming = |taken: &[Job]| taken.len() < BATCH_JOBS && self.shared.coming.load(Ordering::Relaxed) > taken.len();
        if !is_coming(taken) {
            return;
        }
        let longest = self.gathering.wait(taken.len());
        if longest.is_zero() {
            return;
        }
        let (began, before) = (Instant::now(), taken.len());
        loop {
            std::thread::sleep(gathering::STEP);
            while taken.len() < BATCH_JOBS
                && let Ok(job) = self.jobs.try_recv()
            {
                taken.push(job);
            }
            if began.elapsed() >= longest || !is_coming(taken) {
                break;
            }
        }
        self.gathering.found(longest, taken.len() - before);
    }

    fn plan(&mut self, job: Job, plan: &mut Plan) {
        let answer = match self.check(&job.txn) {
            Err(refusal) => Err(refusal),
            Ok(()) => {
                let revision = Revision(self.revision.0 + 1);
                self.revision = revision;
                self.enter(job.txn, revision, plan);
                Ok(revision)
            }
        };
        plan.answers.push((job.reply, answer));
    }

    fn check(&self, txn: &Txn) -> Result<(), StoreError> {
        let seen = self.revision;
        let key = || txn.key.clone();
        match (txn.expected, self.index.get(&txn.key)) {
            (Expected::Absent, Some(_)) => Err(StoreError::Exists { key: key(), seen }),
            (Expected::At(_), None) => Err(StoreError::Absent { key: key(), seen }),
            (Expected::At(wanted), Some(slot)) if slot.revision != wanted => {
                Err(StoreError::Changed { key: key(), current: slot.revision, seen })
            }
            (Expected::Any | Expected::Absent, None) if matches!(txn.change, Change::Delete) => {
                Err(StoreError::Absent { key: key(), seen })
            }
            _ if self.room.is_short() && matches!(txn.change, Change::Put { .. }) => Err(StoreError::Full),
            _ => Ok(()),
        }
    }

    fn enter(&mut self, Txn { key, change, plain, .. }: Txn, revision: Revision, plan: &mut Plan) {
        let value = match change {
            Change::Put { value, ttl_seconds } => {
                let slot = Slot { revision, expires_ms: ttl_seconds.map(ttl::deadline_ms) };
                plan.bytes += value.len();
                self.index.insert(key.clone(), slot);
                Some((value, slot))
            }
            Change::Delete => {
                self.index.remove(&key);
                None
            }
        };
        let told = value.as_ref().map(|(v, _)| v.clone());
        plan.events.push(StoreEvent { key: key.clone(), revision, value: told, unreadable: None, plain });
        plan.records.push(Record { key, value });
    }

    /// Appends, publishes and tells, answers; in this order.
    fn perform(&mut self, plan: Plan) {
        if !plan.records.is_empty() {
            let _whole = self.shared.publishing.lock();
            let failed = &self.shared.failed;
            if failed.get().is_none()
                && let Err(reason) = self.disk.append(&plan.records, self.revision)
            {
                tracing::error!(reason, "a write could not be made durable; the store refuses all further writes");
                failed.get_or_init(|| reason);
            }
            if failed.get().is_none() {
                for (event, record) in plan.events.iter().zip(&plan.records) {
                    if let Some((_, Slot { expires_ms: Some(at), .. })) = &record.value {
                        self.shared.expiries.add(*at, event.key.clone(), event.revision);
                    }
                }
                if self.shared.expiries.len() >= self.prune_at {
                    self.shared.expiries.retain(|key, revision| self.index.get(key).is_some_and(|slot| slot.revision == revision));
                    self.prune_at = (self.shared.expiries.len() * 2).max(PRUNE_FLOOR);
                }
                let batch = Batch { events: plan.events, revision: self.revision };
                self.shared.feed.publish(batch.clone());
                self.shared.tell(batch);
            }
        }
        for (reply, answer) in plan.answers {
            // Even a refusal may rest on a write that was lost, so nobody learns more than that the store has failed.
            let answer = match self.shared.failed.get() {
                Some(reason) => Err(StoreError::Failed(reason.clone())),
                None => answer,
            };
            if let Some(reply) = reply {
                // Whoever asked may have gone.
                let _ = reply.send(answer);
            }
        }
    }
}
