//! One probe of one container, again and again.

use std::sync::Arc;
use std::time::Duration;

use client::Object;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus as ApiStatus, Probe};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{Notify, watch};

use super::check::{self, Outcome};
use super::metrics::{self, Series};
use super::{Kind, Shared};
use crate::pod;
use crate::sync_pod::restart;

/// A probe that could not be made is made again this often before it counts.
const TRIES: usize = 3;
/// Containers that run since before the kubelet started, give or take this, keep what was told of them.
const RESTART_GRACE: Duration = Duration::from_secs(10);

pub(super) struct Worker {
    pub shared: Arc<Shared>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub kind: Kind,
    pub probe: Probe,
}

/// What a worker remembers from one probe to the next.
#[derive(Default)]
struct Memory {
    id: String,
    last: Option<bool>,
    run: i32,
    /// The verdict is final for this container.
    on_hold: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Wait,
    /// Wait, but no longer than until the initial delay is over.
    WaitFor(Duration),
    Stop,
    Probe {
        ip: String,
    },
}

impl Worker {
    fn period(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.probe.period_seconds.unwrap_or(10).max(1)).unwrap_or(10))
    }

    fn series(&self) -> Series {
        Series {
            container: self.container.name.clone(),
            namespace: self.pod.namespace().to_owned(),
            pod: self.pod.name().to_owned(),
            pod_uid: self.pod.uid().to_owned(),
            kind: self.kind,
        }
    }

    pub async fn run(self, poke: Arc<Notify>, mut stopped: watch::Receiver<bool>) {
        let mut memory = Memory::default();
        let period = self.period();
        // After a start of the kubelet all pods are added at once, and shall not be probed at once.
        let age = Timestamp::now().duration_since(self.shared.began);
        if Duration::try_from(age).is_ok_and(|age| age < period) {
            let wait = period.mul_f64(rand::random());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = poke.notified() => {}
                _ = stopped.wait_for(|stop| *stop) => return self.end(&memory),
            }
        }
        let mut due = tokio::time::Instant::now();
        loop {
            let now = tokio::time::Instant::now();
            let until = now + period;
            let step = async {
                match self.next(&mut memory) {
                    Next::Stop => None,
                    Next::Wait => Some(until),
                    Next::WaitFor(wait) => Some(until.min(now + wait)),
                    // Woken before its time: only those that are not ready are in a hurry.
                    Next::Probe { .. } if now < due && (self.kind != Kind::Readiness || memory.last == Some(true)) => Some(due),
                    Next::Probe { ip } => {
                        due = until;
                        self.ask(&mut memory, &ip).await;
                        Some(until)
                    }
                }
            };
            let wake = tokio::select! {
                wake = step => wake,
                _ = stopped.wait_for(|stop| *stop) => None,
            };
            let Some(wake) = wake else { return self.end(&memory) };
            tokio::select! {
                () = tokio::time::sleep_until(wake) => {}
                () = poke.notified() => {}
                _ = stopped.wait_for(|stop| *stop) => return self.end(&memory),
            }
        }
    }

    fn end(&self, memory: &Memory) {
        self.shared.verdicts.forget(&memory.id, self.kind);
        self.shared.metrics.forget(&self.series());
    }

    fn tell(&self, memory: &Memory, result: Option<bool>) {
        if self.shared.verdicts.set(&memory.id, self.kind, result) {
            (self.shared.on_news)(self.pod.uid());
        }
    }

    /// What to do now, by what was last told of the pod.
    fn next(&self, memory: &mut Memory) -> Next {
        let Some(status) = (self.shared.status_of)(self.pod.uid()) else { return Next::Wait };
        if status.phase.as_deref().is_some_and(pod::is_terminal_phase) {
            return Next::Stop;
        }
        let Some((known, id)) = self.find(&status) else { return Next::Wait };
        let state = known.state.clone().unwrap_or_default();
        let started_at = state.running.as_ref().and_then(|running| running.started_at.as_ref()).map(|time| time.0);
        if memory.id != id {
            self.shared.verdicts.forget(&memory.id, self.kind);
            *memory = Memory { id: id.to_owned(), ..Memory::default() };
            let from_before = started_at.is_some_and(|at| at < self.shared.began.checked_sub(RESTART_GRACE).unwrap_or_default());
            let was_started = known.started == Some(true);
            let initial = match self.kind {
                Kind::Readiness if from_before => Some(known.ready),
                Kind::Readiness => Some(false),
                Kind::Liveness => Some(true),
                Kind::Startup if from_before && was_started => Some(true),
                Kind::Startup => None,
            };
            // What a probe begins with is not news: the status says so already.
            self.shared.verdicts.set(id, self.kind, initial);
        }
        if memory.on_hold {
            return Next::Wait;
        }
        if state.running.is_none() {
            self.tell(memory, Some(false));
            let Some(ended) = &state.terminated else { return Next::Wait };
            let again = restart::after_exit(&self.container, pod::spec(&self.pod), ended.exit_code)
                || restart::asks_for_all(&self.container, ended.exit_code);
            return if again { Next::Wait } else { Next::Stop };
        }
        let since = started_at.map_or(Duration::ZERO, |at| Duration::try_from(Timestamp::now().duration_since(at)).unwrap_or_default());
        let delay = Duration::from_secs(u64::try_from(self.probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        if since < delay {
            return Next::WaitFor(delay - since);
        }
        // Others wait for the start, and the start is waited for once.
        if (known.started == Some(true)) == (self.kind == Kind::Startup) {
            return Next::Wait;
        }
        Next::Probe { ip: status.pod_ip.clone().unwrap_or_default() }
    }

    fn find<'a>(&self, status: &'a ApiStatus) -> Option<(&'a ContainerStatus, &'a str)> {
        let mut all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let known = all.find(|known| known.name == self.container.name)?;
        let id = known.container_id.as_deref()?.rsplit("://").next()?;
        (!id.is_empty()).then_some((known, id))
    }

    async fn ask(&self, memory: &mut Memory, ip: &str) {
        let mut result = Err(String::new());
        for _ in 0..TRIES {
            result = check::check(&*self.shared.runtime, &self.probe, &self.container, &memory.id, ip).await;
            if result.is_ok() {
                break;
            }
        }
        let title = self.kind.title();
        let about = self.pod.reference().with_field_path(&pod::field_path(&self.pod, &self.container.name));
        let success = match result {
            Ok(Outcome::Success) => true,
            Ok(Outcome::Warning(output)) => {
                self.shared.recorder.warning(&about, "ProbeWarning", format!("{title} probe warning: {output}"));
                true
            }
            Ok(Outcome::Failure(output)) => {
                self.shared.recorder.warning(&about, "Unhealthy", format!("{title} probe failed: {output}"));
                false
            }
            Err(error) => {
                let message = format!("{title} probe errored and resulted in unknown state: {error}");
                self.shared.recorder.warning(&about, "Unhealthy", message);
                self.shared.metrics.count(&self.series(), metrics::Result::Unknown);
                return;
            }
        };
        let counted = if success { metrics::Result::Successful } else { metrics::Result::Failed };
        self.shared.metrics.count(&self.series(), counted);
        self.judge(memory, success);
    }

    /// Several results in a row make a verdict.
    fn judge(&self, memory: &mut Memory, success: bool) {
        memory.run = if memory.last == Some(success) { memory.run.saturating_add(1) } else { 1 };
        memory.last = Some(success);
        let threshold = if success { self.probe.success_threshold.unwrap_or(1) } else { self.probe.failure_threshold.unwrap_or(3) };
        if memory.run < threshold {
            return;
        }
        if (self.kind == Kind::Liveness && !success) || self.kind == Kind::Startup {
            memory.on_hold = true;
            memory.run = 0;
        }
        self.tell(memory, Some(success));
    }
}

#[cfg(test)]
mod tests;
