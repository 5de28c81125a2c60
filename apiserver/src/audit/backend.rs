//! Where events go, and who waits for it: a log file or a webhook, in one of upstream's three modes.
//!
//! In batch mode nobody waits: events stand in a bounded queue, and those that find no place are lost and counted.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::counters::Counters;
use super::event::{Event, Level};
use super::log_file::LogFile;
use super::webhook::Webhook;

/// Batches that are posted at the same time; further ones wait, and then events do.
const MAX_POSTING: usize = 32;

/// When a request is answered with regard to its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Before.
    Batch,
    /// When they are written, or have failed to be.
    Blocking,
    /// The same; a request whose first event cannot be written fails.
    BlockingStrict,
}

/// How events are put together in batch mode.
#[derive(Clone, Copy, Debug)]
pub struct Batching {
    pub buffer_size: usize,
    pub max_size: usize,
    pub max_wait: Duration,
    /// Batches a second, and how many may go at once after a pause; `None` for any number.
    pub throttle: Option<(f64, u32)>,
}

/// The text that a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Legacy,
}

/// Who writes events down.
pub enum Writer {
    Log { file: LogFile, format: Format },
    Webhook(Webhook),
}

impl Writer {
    const fn name(&self) -> &'static str {
        match self {
            Writer::Log { .. } => "log",
            Writer::Webhook(_) => "webhook",
        }
    }

    /// Whether all went well. What did not is counted.
    async fn write(&self, events: &[Arc<Event>], counters: &Counters) -> bool {
        match self {
            Writer::Log { file, format } => log_all(file, *format, events, counters),
            Writer::Webhook(webhook) => match webhook.post(events).await {
                Ok(()) => true,
                Err(why) => {
                    counters.failed(self.name(), events.len(), &why);
                    false
                }
            },
        }
    }
}

fn log_all(file: &LogFile, format: Format, events: &[Arc<Event>], counters: &Counters) -> bool {
    let mut well = true;
    for event in events {
        let mut line = match format {
            Format::Json => event.document(),
            Format::Legacy => event.line().into_bytes(),
        };
        line.push(b'\n');
        if let Err(error) = file.write(&line) {
            counters.failed("log", 1, &error.to_string());
            well = false;
        }
    }
    well
}

enum Way {
    Queue(mpsc::Sender<Arc<Event>>),
    Direct { writer: Arc<Writer>, strict: bool },
}

/// One place where events go.
pub struct Backend {
    /// Bytes of an event, from which on it is told without its objects.
    max_event_size: Option<usize>,
    way: Way,
}

/// What has become of an event that was handed over.
pub enum Handed {
    /// Whether the request may go on.
    Done(bool),
    /// The same, later.
    Pending(BoxFuture<'static, bool>),
}

impl Backend {
    /// The backend, and in batch mode the task that empties its queue until `stop` turns true and nothing is left.
    pub fn new(
        writer: Writer,
        mode: Mode,
        batching: Batching,
        max_event_size: Option<usize>,
        counters: &Arc<Counters>,
        stop: watch::Receiver<bool>,
    ) -> (Backend, Option<JoinHandle<()>>) {
        let writer = Arc::new(writer);
        if mode != Mode::Batch {
            return (Backend { max_event_size, way: Way::Direct { writer, strict: mode == Mode::BlockingStrict } }, None);
        }
        let (sender, receiver) = mpsc::channel(batching.buffer_size);
        let worker = Worker { writer, batching, counters: counters.clone(), throttle: Throttle::new(batching.throttle) };
        let task = tokio::spawn(worker.run(receiver, stop));
        (Backend { max_event_size, way: Way::Queue(sender) }, Some(task))
    }

    /// Hands an event over.
    pub fn hand(&self, event: &Arc<Event>, counters: &Arc<Counters>) -> Handed {
        let Some(event) = self.fitted(event, counters) else { return Handed::Done(true) };
        match &self.way {
            Way::Queue(sender) => {
                if let Err(error) = sender.try_send(event) {
                    let why = match error {
                        mpsc::error::TrySendError::Full(_) => "audit buffer queue blocked",
                        mpsc::error::TrySendError::Closed(_) => "audit backend shut down",
                    };
                    counters.failed("buffered", 1, why);
                }
                Handed::Done(true)
            }
            Way::Direct { writer, strict } => match &**writer {
                Writer::Log { file, format } => Handed::Done(log_all(file, *format, &[event], counters) || !strict),
                Writer::Webhook(_) => {
                    let (writer, strict, counters) = (writer.clone(), *strict, counters.clone());
                    Handed::Pending(Box::pin(async move { writer.write(&[event], &counters).await || !strict }))
                }
            },
        }
    }

    /// The event as it may be written; `None` if it is too large even without its objects.
    fn fitted(&self, event: &Arc<Event>, counters: &Counters) -> Option<Arc<Event>> {
        let Some(max) = self.max_event_size else { return Some(event.clone()) };
        // The end of the line counts.
        let fits = |event: &Event| event.document().len() < max;
        if fits(event) {
            return Some(event.clone());
        }
        let event = if event.level >= Level::Request { Arc::new(event.truncated()) } else { event.clone() };
        if fits(&event) {
            return Some(event);
        }
        counters.failed("truncate", 1, "event is too large even after truncating");
        None
    }
}

struct Worker {
    writer: Arc<Writer>,
    batching: Batching,
    counters: Arc<Counters>,
    throttle: Throttle,
}

impl Worker {
    async fn run(mut self, mut queue: mpsc::Receiver<Arc<Event>>, mut stop: watch::Receiver<bool>) {
        let posting = Arc::new(Semaphore::new(MAX_POSTING));
        loop {
            let (batch, ended) = collect(&mut queue, self.batching, &mut stop).await;
            if !batch.is_empty() {
                self.throttle.wait().await;
                self.send(batch, &posting).await;
            } else if ended {
                break;
            }
        }
        // Whatever is on its way has all permits between it.
        let _ = posting.acquire_many(u32::try_from(MAX_POSTING).unwrap_or(u32::MAX)).await;
    }

    /// A log is written here; a webhook is waited for by a task of its own.
    async fn send(&self, batch: Vec<Arc<Event>>, posting: &Arc<Semaphore>) {
        if matches!(*self.writer, Writer::Log { .. }) {
            self.writer.write(&batch, &self.counters).await;
            return;
        }
        let Ok(permit) = posting.clone().acquire_owned().await else { return };
        let (writer, counters) = (self.writer.clone(), self.counters.clone());
        tokio::spawn(async move {
            writer.write(&batch, &counters).await;
            drop(permit);
        });
    }
}

/// Events until there are enough, time is up, or it is to end. True with what comes last: nothing more will.
async fn collect(queue: &mut mpsc::Receiver<Arc<Event>>, batching: Batching, stop: &mut watch::Receiver<bool>) -> (Vec<Arc<Event>>, bool) {
    let mut batch = Vec::new();
    // A batch of one waits for nothing else.
    let deadline = (batching.max_size > 1).then(|| Instant::now() + batching.max_wait);
    while batch.len() < batching.max_size {
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = queue.recv() => match event {
                Some(event) => batch.push(event),
                None => return (batch, true),
            },
            // From here on the queue gives what is in it, and then says that there is no more.
            () = stopped(stop) => queue.close(),
            () = late => break,
        }
    }
    (batch, false)
}

/// Waits for the order to end, or for nobody to be left who could give it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that the sender is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A bucket of tokens that fills at a rate.
struct Throttle {
    rate_and_burst: Option<(f64, u32)>,
    tokens: f64,
    filled: Instant,
}

impl Throttle {
    fn new(rate_and_burst: Option<(f64, u32)>) -> Throttle {
        Throttle { rate_and_burst, tokens: rate_and_burst.map_or(0.0, |(_, burst)| f64::from(burst)), filled: Instant::now() }
    }

    async fn wait(&mut self) {
        let Some((rate, burst)) = self.rate_and_burst else { return };
        let fill = |this: &mut Throttle| {
            let now = Instant::now();
            this.tokens = (this.tokens + (now - this.filled).as_secs_f64() * rate).min(f64::from(burst));
            this.filled = now;
        };
        fill(self);
        if self.tokens < 1.0 {
            tokio::time::sleep(Duration::from_secs_f64((1.0 - self.tokens) / rate)).await;
            fill(self);
        }
        self.tokens -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_lets_a_burst_through_and_then_its_rate() {
        let mut throttle = Throttle::new(Some((10.0, 3)));
        let start = Instant::now();
        for _ in 0..3 {
            throttle.wait().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..5 {
            throttle.wait().await;
        }
        let taken = start.elapsed().as_millis();
        assert!((490..=520).contains(&taken), "{taken}");
    }
}
