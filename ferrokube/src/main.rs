//! The one binary: `ferrokube up` is a whole cluster in one process, `ferrokube apiserver` a component on its own.

mod apiserver_flags;
mod control_plane;
mod down;
mod feature_gates;
mod nodes;
mod pid_file;
mod runtime_config;
mod shutdown;
mod snapshot;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    Up(up::Up),
    /// End a cluster and take away what its nodes have left on this machine.
    Down(down::Down),
    /// Be one node of a cluster; `up` starts it.
    #[command(hide = true)]
    Node(nodes::agent::NodeCommand),
    /// Start the API server alone.
    Apiserver(apiserver_flags::Apiserver),
    /// Save or restore what the embedded store keeps.
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
}

/// Objects may nest deeply; parsing is bounded, but dropping and cloning them recurses.
const WORKER_STACK_BYTES: usize = 64 << 20;

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if let Command::Node(node) = &mut cli.command
        && let Err(error) = node.enter()
    {
        tracing::error!("{error:#}");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(WORKER_STACK_BYTES).build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(cli.command)));
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
        Command::Apiserver(apiserver) => apiserver.run(shutdown).await,
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
