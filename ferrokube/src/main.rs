//! The one binary: `ferrokube up` is a whole cluster in one process, `ferrokube apiserver` a component on its own. Started under the name
//! of one of upstream's components (`kube-scheduler`, by a link) it is that component.

mod apiserver_flags;
mod argv;
mod audit_flags;
mod authentication_flags;
mod authorization_flags;
mod certs;
mod client_flags;
mod common_flags;
mod control_plane;
mod controller_manager;
mod controller_manager_flags;
mod default_storage;
mod down;
mod feature_gates;
mod go_values;
mod grants;
mod joining;
mod kubelet_command;
mod leader_election;
mod network_policies;
mod nodes;
mod pid_file;
mod process_metrics;
mod proxy_command;
mod runtime_config;
mod scheduler_command;
mod secure_serving;
mod service_accounts;
mod settled_flags;
mod shutdown;
mod snapshot;
mod stand_ins;
mod up;

use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

use apiserver::threads;
use clap::{Parser, Subcommand};
use common_flags::Common;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Kubernetes v1.37 in one small binary.
#[derive(Parser)]
#[command(name = "ferrokube", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster in this process and write its kubeconfig.
    Up(Box<up::Up>),
    /// End a cluster and take away what its nodes have left on this machine.
    Down(down::Down),
    /// Make this machine a node of a running cluster.
    Join(Box<joining::join::Join>),
    /// The tokens by which machines join.
    #[command(subcommand)]
    Token(joining::token_command::TokenCommand),
    /// Be one node of a cluster; `up` starts it.
    #[command(hide = true)]
    Node(nodes::agent::NodeCommand),
    /// Start the API server alone.
    Apiserver(Box<apiserver_flags::Apiserver>),
    /// Start the controllers alone.
    ControllerManager(Box<controller_manager::ControllerManager>),
    /// Start the scheduler alone.
    Scheduler(Box<scheduler_command::Scheduler>),
    /// Start the agent of this node alone.
    Kubelet(kubelet_command::Kubelet),
    /// Start the service proxy of this node alone.
    Proxy(proxy_command::Proxy),
    /// Show and renew the certificates of a data directory.
    #[command(subcommand)]
    Certs(certs::Certs),
    /// Save or restore what the embedded store keeps.
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
}

impl Command {
    /// The flags that all components take, if this is a component.
    fn common(&self) -> Option<&Common> {
        match self {
            Command::Apiserver(command) => Some(&command.common),
            Command::ControllerManager(command) => Some(&command.common),
            Command::Scheduler(command) => Some(&command.common),
            Command::Kubelet(command) => Some(&command.common),
            Command::Proxy(command) => Some(&command.common),
            _ => None,
        }
    }
}

fn main() -> ExitCode {
    let mut cli = Cli::parse_from(argv::arguments(std::env::args_os()));
    if let Some(version) = cli.command.common().and_then(Common::version) {
        // Whoever asked may have gone.
        let _ = writeln!(std::io::stdout(), "{version}");
        return ExitCode::SUCCESS;
    }
    let level = cli.command.common().map_or(common_flags::USUAL, Common::filter);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    // A line that finds no room where it is to be written is lost; told of there as well, it would end the process.
    log.log_internal_errors(false).init();
    let entered = match &mut cli.command {
        Command::Node(node) => node.enter(),
        Command::Join(join) => join.enter(),
        _ => Ok(()),
    };
    if let Err(error) = entered {
        tracing::error!("{error:#}");
        return ExitCode::FAILURE;
    }
    // Not before: who has a second thread cannot enter another's mounts.
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!(%error, "memory is given back late: the allocator has no thread of its own");
    }
    let result = threads::usual().map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(cli.command)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(async move {
        stop_signal().await;
        // The receivers live as long as the server.
        let _ = stop.send(true);
    });
    match command {
        Command::Up(up) => up.run(shutdown).await,
        Command::Down(down) => down.run().await,
        Command::Node(node) => node.run(shutdown::token(shutdown)).await,
        Command::Join(join) => join.run(shutdown::token(shutdown)).await,
        Command::Token(command) => command.run().await,
        Command::Apiserver(apiserver) => apiserver.run(shutdown).await,
        Command::ControllerManager(command) => command.run(shutdown::token(shutdown)).await,
        Command::Scheduler(command) => command.run(shutdown::token(shutdown)).await,
        Command::Kubelet(command) => command.run(shutdown::token(shutdown)).await,
        Command::Proxy(command) => command.run(shutdown::token(shutdown)).await,
        Command::Certs(certs) => certs.run(),
        Command::Snapshot(snapshot) => snapshot.run(),
    }
}

/// Ctrl-C or SIGTERM.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
