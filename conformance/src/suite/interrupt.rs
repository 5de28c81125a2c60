//! Somebody wants the run to end: Ctrl-C, or SIGTERM.

use tokio::signal::unix::{SignalKind, signal};

/// Ends when somebody asks for it. Once this has been called, neither signal ends the process by itself any more.
pub async fn asked() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
