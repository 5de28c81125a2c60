//! Leader election: of several processes the one that holds the Lease works.
//!
//! Clocks of machines are never compared: a candidate waits for the lease's whole duration from when it saw the last change itself.
//! A leader that cannot renew stops before anybody else may start.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Error};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use crate::Shutdown;
use crate::answer::{is_conflict, is_not_found};
use crate::chance;
use crate::clock;
use crate::events::Recorder;
use crate::metrics::{Counter, Family, Told, counters};
use crate::object::Object;

static SLOW_PATHS: Family<Counter> = counters(
    "leader_election_slowpath_total",
    "[ALPHA] Total number of slow path exercised in renewing leader leases. 'name' is the string used to identify the lease. Please make sure to group by name.",
    &["name"],
);

/// What elections of this process tell; whether it leads is told by a [`Watchdog`].
pub static METRICS: &[&dyn Told] = &[&SLOW_PATHS];

/// Candidates wait up to this much longer than the retry period, so that they do not all come at once.
const JITTER: f64 = 1.2;
/// What a leader leaves behind when it gives the lease up: nobody has to wait for long.
const RELEASED_SECONDS: i32 = 1;
/// How often a conflict may come between a leader and the release of its lease.
const MAX_RELEASES: usize = 5;

/// Which Lease, and the times of upstream's flags `--leader-elect-*`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub namespace: String,
    pub name: String,
    /// Who this process is among the candidates.
    pub identity: String,
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl Config {
    /// The times that upstream's components have by default: 15, 10 and 2 seconds.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Config {
        Config {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    /// Why these times cannot work, in upstream's words.
    pub fn check(&self) -> Result<(), String> {
        if self.lease_duration <= self.renew_deadline {
            return Err("leaseDuration must be greater than renewDeadline".to_owned());
        }
        if self.renew_deadline <= self.retry_period.mul_f64(JITTER) {
            return Err("renewDeadline must be greater than retryPeriod*JitterFactor".to_owned());
        }
        if self.lease_duration < Duration::from_secs(1) || self.retry_period.is_zero() {
            return Err("leaseDuration must be at least one second and retryPeriod greater than zero".to_owned());
        }
        Ok(())
    }
}

/// The lease as it was seen last, and when it was first seen so.
#[derive(Clone)]
struct Observed {
    lease: Lease,
    at: Instant,
}

/// What to do about the lease.
#[derive(Debug, PartialEq)]
enum Step {
    Create(LeaseSpec),
    Update(LeaseSpec),
    /// Somebody else holds it.
    Wait,
}

fn spec(lease: &Lease) -> LeaseSpec {
    lease.spec.clone().unwrap_or_default()
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or("")
}

/// Whether the lease's duration has not passed since it was seen to change.
fn is_valid(observed: &Observed, now: Instant) -> bool {
    let seconds = spec(&observed.lease).lease_duration_seconds.unwrap_or(0);
    now < observed.at + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn decide(config: &Config, observed: Option<&Observed>, now: Instant, clock: Timestamp) -> Step {
    let mut wanted = LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: Some(i32::try_from(config.lease_duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: Some(MicroTime(clock)),
        renew_time: Some(MicroTime(clock)),
        lease_transitions: Some(0),
        ..LeaseSpec::default()
    };
    let Some(observed) = observed else { return Step::Create(wanted) };
    let old = spec(&observed.lease);
    let transitions = old.lease_transitions.unwrap_or(0);
    let holder = holder(&observed.lease);
    if holder == config.identity {
        wanted.acquire_time = old.acquire_time;
        wanted.lease_transitions = Some(transitions);
    } else if !holder.is_empty() && is_valid(observed, now) {
        return Step::Wait;
    } else {
        wanted.lease_transitions = Some(transitions.saturating_add(1));
    }
    Step::Update(wanted)
}

/// Says whether a leader is alive, for health checks.
#[derive(Clone, Default)]
pub struct Watchdog {
    renewed: Arc<Mutex<Option<(Instant, Duration)>>>,
}

impl Watchdog {
    /// Whether this process holds the lease.
    pub fn leads(&self) -> bool {
        self.renewed.lock().is_some()
    }

    /// Whether the lease, if this process holds it, has not been over for longer than `tolerated`.
    pub fn is_alive(&self, tolerated: Duration) -> bool {
        self.renewed.lock().is_none_or(|(at, duration)| at.elapsed() <= duration + tolerated)
    }
}

/// A candidate.
pub struct Elector {
    api: Api<Lease>,
    config: Config,
    recorder: Option<Recorder>,
    watchdog: Watchdog,
    observed: Option<Observed>,
}

/// The lease is held, and renewed in the background.
pub struct Leadership {
    /// Turns when the lease is lost, or at shutdown. All work must end then.
    pub ends: Shutdown,
    /// Renewing ends when this is dropped.
    give_up: DropGuard,
    renewing: JoinHandle<Elector>,
}

impl Leadership {
    /// Gives the lease up, so that somebody else can go on at once. To be called when all work has ended.
    pub async fn release(self) {
        self.ends.cancel();
        drop(self.give_up);
        if let Ok(mut elector) = self.renewing.await {
            elector.release().await;
        }
    }
}

impl Elector {
    pub fn new(client: Client, config: Config) -> Elector {
        let api = Api::namespaced(client, &config.namespace);
        Elector { api, config, recorder: None, watchdog: Watchdog::default(), observed: None }
    }

    /// The same candidate, that tells events about the lease.
    pub fn with_recorder(mut self, recorder: Recorder) -> Elector {
        self.recorder = Some(recorder);
        self
    }

    pub fn watchdog(&self) -> Watchdog {
        self.watchdog.clone()
    }

    /// Waits until this process leads. Nothing if shutdown comes first.
    pub async fn lead(mut self, shutdown: Shutdown) -> Option<Leadership> {
        let name = format!("{}/{}", self.config.namespace, self.config.name);
        tracing::info!(lease = name, identity = self.config.identity, "attempting to acquire leader lease");
        let mut leader = String::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                acquired = self.attempt() => if acquired { break },
            }
            let now = self.observed.as_ref().map_or("", |o| holder(&o.lease));
            if now != leader {
                tracing::info!(lease = name, leader = now, "new leader elected");
                leader = now.to_owned();
            }
            let pause = self.config.retry_period.mul_f64(1.0 + chance::fraction() * JITTER);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
        }
        tracing::info!(lease = name, "successfully acquired lease");
        self.tell("became leader");
        let (ends, give_up) = (shutdown.child_token(), Shutdown::new());
        let renewing = tokio::spawn(self.keep_renewing(ends.clone(), give_up.clone()));
        Some(Leadership { ends, give_up: give_up.drop_guard(), renewing })
    }

    /// Renews until told to give up, or until it did not succeed for the renewal deadline.
    async fn keep_renewing(mut self, ends: Shutdown, give_up: Shutdown) -> Elector {
        loop {
            tokio::select! {
                biased;
                () = give_up.cancelled() => break,
                () = tokio::time::sleep(self.config.retry_period) => {}
            }
            let deadline = self.config.renew_deadline;
            let renewed = tokio::select! {
                biased;
                () = give_up.cancelled() => break,
                renewed = tokio::time::timeout(deadline, self.renew()) => renewed.is_ok(),
            };
            if !renewed {
                tracing::error!(lease = self.config.name, "failed to renew lease, no longer leading");
                break;
            }
        }
        ends.cancel();
        *self.watchdog.renewed.lock() = None;
        self.tell("stopped leading");
        self
    }

    async fn renew(&mut self) {
        while !self.attempt().await {
            tokio::time::sleep(self.config.retry_period).await;
        }
    }

    /// One try to acquire or to renew, within half the renewal deadline. Says whether this process leads.
    async fn attempt(&mut self) -> bool {
        let patience = (self.config.renew_deadline / 2).max(Duration::from_secs(1));
        match tokio::time::timeout(patience, self.acquire_or_renew()).await {
            Ok(Ok(leads)) => leads,
            Ok(Err(error)) => {
                tracing::debug!(lease = self.config.name, %error, "lease not acquired");
                false
            }
            Err(_) => {
                tracing::debug!(lease = self.config.name, "no answer about the lease in time");
                false
            }
        }
    }

    async fn acquire_or_renew(&mut self) -> Result<bool, Error> {
        // A leader that knows the lease writes at once; only if somebody else wrote it meanwhile it has to look.
        if let Some(observed) = self.observed.clone()
            && holder(&observed.lease) == self.config.identity
            && is_valid(&observed, Instant::now())
            && let Step::Update(spec) = decide(&self.config, Some(&observed), Instant::now(), clock::now())
            && self.update(observed.lease, spec).await.is_ok()
        {
            return Ok(true);
        }
        match self.api.get(&self.config.name).await {
            Ok(lease) => self.observe(lease),
            Err(error) if is_not_found(&error) => self.observed = None,
            Err(error) => return Err(error),
        }
        match decide(&self.config, self.observed.as_ref(), Instant::now(), clock::now()) {
            Step::Wait => Ok(false),
            Step::Create(spec) => {
                let mut lease = Lease { metadata: ObjectMeta::default(), spec: Some(spec) };
                lease.metadata.name = Some(self.config.name.clone());
                lease.metadata.namespace = Some(self.config.namespace.clone());
                let created = self.api.create(&PostParams::default(), &lease).await?;
                self.held(created);
                Ok(true)
            }
            Step::Update(spec) => {
                let Some(observed) = self.observed.clone() else { return Ok(false) };
                if holder(&observed.lease) == self.config.identity {
                    SLOW_PATHS.with(&[&self.config.name]).inc();
                }
                self.update(observed.lease, spec).await?;
                Ok(true)
            }
        }
    }

    /// Takes note of the lease. Only a change of what it says begins its duration anew.
    fn observe(&mut self, lease: Lease) {
        let at = match &self.observed {
            Some(observed) if observed.lease.spec == lease.spec => observed.at,
            _ => Instant::now(),
        };
        self.observed = Some(Observed { lease, at });
    }

    async fn update(&mut self, mut lease: Lease, spec: LeaseSpec) -> Result<(), Error> {
        lease.spec = Some(spec);
        let written = self.api.replace(&self.config.name, &PostParams::default(), &lease).await?;
        self.held(written);
        Ok(())
    }

    fn held(&mut self, lease: Lease) {
        let at = Instant::now();
        self.observed = Some(Observed { lease, at });
        *self.watchdog.renewed.lock() = Some((at, self.config.lease_duration));
    }

    async fn release(&mut self) {
        let released = tokio::time::timeout(self.config.renew_deadline, self.try_release()).await;
        match released {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(lease = self.config.name, %error, "failed to release lease"),
            Err(_) => tracing::warn!(lease = self.config.name, "failed to release lease in time"),
        }
        *self.watchdog.renewed.lock() = None;
    }

    async fn try_release(&mut self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            let mut lease = match self.api.get(&self.config.name).await {
                Err(error) if is_not_found(&error) => return Ok(()),
                lease => lease?,
            };
            if holder(&lease) != self.config.identity {
                return Ok(());
            }
            let now = Some(MicroTime(clock::now()));
            lease.spec = Some(LeaseSpec {
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(RELEASED_SECONDS),
                acquire_time: now.clone(),
                renew_time: now,
                lease_transitions: Some(spec(&lease).lease_transitions.unwrap_or(0)),
                ..LeaseSpec::default()
            });
            tries += 1;
            match self.api.replace(&self.config.name, &PostParams::default(), &lease).await {
                Err(error) if is_conflict(&error) && tries < MAX_RELEASES => {}
                written => return written.map(drop),
            }
        }
    }

    fn tell(&self, what: &str) {
        if let (Some(recorder), Some(observed)) = (&self.recorder, &self.observed) {
            let message = format!("{} {what}", self.config.identity);
            recorder.normal(&observed.lease.reference(), "LeaderElection", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fake_api::{Answer, FakeApi, Seen};

    fn observed(holder: &str, at: Instant, transitions: i32) -> Observed {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(transitions),
            acquire_time: Some(MicroTime(Timestamp::from_second(5).unwrap())),
            ..LeaseSpec::default()
        };
        Observed { lease: Lease { metadata: ObjectMeta::default(), spec: Some(spec) }, at }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_when_nobody_has_renewed_it_for_its_duration() {
        let config = Config::new("kube-system", "l", "me");
        let seen_at = Instant::now();
        let clock = Timestamp::from_second(100).unwrap();
        let step = |holder: &str, seconds: u64| match decide(
            &config,
            Some(&observed(holder, seen_at, 3)),
            seen_at + Duration::from_secs(seconds),
            clock,
        ) {
            Step::Update(spec) => Some((spec.lease_transitions.unwrap(), spec.acquire_time.unwrap().0.as_second())),
            Step::Wait => None,
            Step::Create(_) => panic!("there is one"),
        };
        assert_eq!(step("other", 14), None);
        assert_eq!(step("other", 15), Some((4, 100)));
        assert_eq!(step("", 0), Some((4, 100)));
        assert_eq!(step("me", 14), Some((3, 5)));
        assert_eq!(step("me", 20), Some((3, 5)));
        assert!(matches!(decide(&config, None, seen_at, clock), Step::Create(spec) if spec.lease_transitions == Some(0)));
    }

    #[test]
    fn times_that_cannot_work_are_refused() {
        let config = Config::new("kube-system", "l", "me");
        assert_eq!(config.check(), Ok(()));
        let late = Config { renew_deadline: Duration::from_secs(15), ..config.clone() };
        assert_eq!(late.check().unwrap_err(), "leaseDuration must be greater than renewDeadline");
        let slow = Config { retry_period: Duration::from_secs(9), ..config };
        assert_eq!(slow.check().unwrap_err(), "renewDeadline must be greater than retryPeriod*JitterFactor");
    }

    /// A server with one lease, which refuses stale writes, and can be made deaf.
    #[derive(Clone, Default)]
    struct Server {
        lease: Arc<Mutex<Option<Value>>>,
        deaf: Arc<Mutex<bool>>,
    }

    impl Server {
        fn api(&self) -> FakeApi {
            let server = self.clone();
            FakeApi::new(move |seen: &Seen| server.answer(seen))
        }

        fn answer(&self, seen: &Seen) -> Answer {
            if *self.deaf.lock() {
                return Answer::unreachable();
            }
            let mut lease = self.lease.lock();
            let revision = lease.as_ref().map_or(0, |l| l["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
            match seen.method.as_str() {
                "GET" => lease.clone().map_or_else(Answer::not_found, Answer::ok),
                "POST" if lease.is_some() => Answer::conflict(),
                "PUT" if seen.body["metadata"]["resourceVersion"] != json!(revision.to_string()) => Answer::conflict(),
                _ => {
                    let mut written = seen.body.clone();
                    written["metadata"]["resourceVersion"] = json!((revision + 1).to_string());
                    *lease = Some(written.clone());
                    Answer::ok(written)
                }
            }
        }

        fn spec(&self, field: &str) -> Value {
            self.lease.lock().as_ref().map_or(Value::Null, |l| l["spec"][field].clone())
        }
    }

    fn candidate(server: &Server, name: &str) -> Elector {
        Elector::new(server.api().client(), Config::new("kube-system", "l", name))
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_candidate_leads_when_the_first_has_let_go() {
        let server = Server::default();
        let (a_stops, b_stops) = (Shutdown::new(), Shutdown::new());
        let a = candidate(&server, "a").lead(a_stops.clone()).await.unwrap();
        assert_eq!((server.spec("holderIdentity"), server.spec("leaseTransitions")), (json!("a"), json!(0)));
        let waiting = tokio::spawn(candidate(&server, "b").lead(b_stops.clone()));
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(!waiting.is_finished() && !a.ends.is_cancelled(), "a renews, so b waits");
        a_stops.cancel();
        assert!(a.ends.is_cancelled());
        a.release().await;
        assert_eq!(server.spec("holderIdentity"), json!(""));
        let start = Instant::now();
        let b = waiting.await.unwrap().unwrap();
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
        assert_eq!((server.spec("holderIdentity"), server.spec("leaseTransitions")), (json!("b"), json!(1)));
        b.release().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_stops_before_another_may_start() {
        let server = Server::default();
        let elector = candidate(&server, "a");
        let watchdog = elector.watchdog();
        let a = elector.lead(Shutdown::new()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!a.ends.is_cancelled() && watchdog.is_alive(Duration::ZERO));
        *server.deaf.lock() = true;
        let start = Instant::now();
        a.ends.cancelled().await;
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_candidate_that_is_told_to_stop_leaves_the_lease_alone() {
        let server = Server::default();
        let a = candidate(&server, "a").lead(Shutdown::new()).await.unwrap();
        let stop = Shutdown::new();
        let waiting = tokio::spawn(candidate(&server, "b").lead(stop.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
        assert!(waiting.await.unwrap().is_none());
        assert_eq!(server.spec("holderIdentity"), json!("a"));
        a.release().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_whose_holder_is_gone_is_taken_over() {
        let server = Server::default();
        let gone = candidate(&server, "a").lead(Shutdown::new()).await.unwrap();
        gone.renewing.abort();
        let start = Instant::now();
        let b = candidate(&server, "b").lead(Shutdown::new()).await.unwrap();
        assert!((15..22).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        assert_eq!(server.spec("leaseTransitions"), json!(1));
        b.release().await;
    }
}
