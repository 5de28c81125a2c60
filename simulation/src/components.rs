//! The processes of the control plane: each is a candidate for its lease, works while it leads, and is started anew when it has ended.

use std::sync::Arc;
use std::time::Duration;

use client::Shutdown;
use client::lease::{Config, Elector};
use controllers::manager::{self, Clients, Selection};
use kube::Client;
use parking_lot::Mutex;
use rand::RngExt;
use tokio::time::sleep;

use crate::api::{Api, Life};

/// The controllers that run. The others need what is not here: certificates, cloud disks, metrics.
pub const CONTROLLERS: &[&str] = &[
    "namespace-controller",
    "serviceaccount-controller",
    "replicationcontroller-controller",
    "job-controller",
    "cronjob-controller",
    "ttl-after-finished-controller",
    "daemonset-controller",
    "deployment-controller",
    "statefulset-controller",
    "replicaset-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "endpoints-controller",
    "endpointslice-mirroring-controller",
    "pod-garbage-collector-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "ttl-controller",
    "disruption-controller",
    "resourcequota-controller",
    "resourceclaim-controller",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    ControllerManager,
    Scheduler,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::ControllerManager => "kube-controller-manager",
            Program::Scheduler => "kube-scheduler",
        }
    }
}

/// All controllers have one client: who they are is nothing to an API without permissions.
struct OneClient(Client);

impl Clients for OneClient {
    fn shared(&self) -> Client {
        self.0.clone()
    }

    fn of(&self, _account: &str) -> Client {
        self.0.clone()
    }
}

/// A program that runs again and again. Clones are the same.
#[derive(Clone)]
pub struct Process {
    pub life: Arc<Mutex<Arc<Life>>>,
    crash: Arc<Mutex<Shutdown>>,
}

impl Process {
    /// Ends it at once: nothing that it was about to do happens.
    pub fn crash(&self) {
        self.life.lock().end();
        self.crash.lock().cancel();
    }

    pub fn life(&self) -> Arc<Life> {
        self.life.lock().clone()
    }
}

/// Runs a program until the simulation ends.
pub fn start(api: &Api, program: Program, number: usize) -> Process {
    let process = Process { life: Arc::new(Mutex::new(Life::new("nobody"))), crash: Arc::default() };
    let (api, running) = (api.clone(), process.clone());
    tokio::spawn(async move {
        for life_number in 1.. {
            let name = format!("{}-{number}.{life_number}", program.name());
            let (life, shutdown) = (Life::new(&name), Shutdown::new());
            (*running.life.lock(), *running.crash.lock()) = (life.clone(), shutdown.clone());
            live(&api, program, &life, &shutdown).await;
            // Whatever it has left behind ends, and reaches nobody.
            life.end();
            shutdown.cancel();
            let pause = Duration::from_millis(api.core().rng.random_range(100..20_000));
            sleep(pause).await;
        }
    });
    process
}

/// One life of a process: until it is killed or has lost its lease.
async fn live(api: &Api, program: Program, life: &Arc<Life>, shutdown: &Shutdown) {
    let client = api.client(life);
    let elector = Elector::new(client.clone(), Config::new("kube-system", program.name(), &life.name));
    let work = async {
        let Some(leadership) = elector.lead(shutdown.clone()).await else { return };
        let ends = leadership.ends.clone();
        {
            let mut core = api.core();
            let at = core.start.elapsed();
            core.trace.note(at, &format!("{} leads", life.name));
        }
        let running = run(client, program, ends.clone());
        tokio::select! {
            biased;
            () = ends.cancelled() => {}
            () = running => {}
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

async fn run(client: Client, program: Program, ends: Shutdown) {
    match program {
        Program::ControllerManager => {
            let selection = Selection::parse(CONTROLLERS.iter().copied()).expect("these controllers exist");
            manager::run(OneClient(client), controllers::manager::Config::default(), &selection, ends).await;
        }
        Program::Scheduler => {
            let run = scheduler::run_on_one_thread(client, scheduler::Config::default(), ends).await;
            run.expect("the defaults are valid, and the core does not panic");
        }
    }
}
