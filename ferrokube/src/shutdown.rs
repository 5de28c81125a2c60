//! The signal to stop, in the two forms that components take it in.

use client::Shutdown;
use tokio::sync::watch;

/// The same signal for those who take a token.
pub fn token(mut signal: watch::Receiver<bool>) -> Shutdown {
    let token = Shutdown::new();
    let turned = token.clone();
    tokio::spawn(async move {
        // An error says that nobody can give the signal any more.
        let _ = signal.wait_for(|stop| *stop).await;
        turned.cancel();
    });
    token
}
