//! The gate that a new pod of this node waits at until its policies are in force: whoever starts pods asks between giving one its
//! addresses and starting its first container.

use std::time::Duration;

use client::ObjectKey;
use tokio::sync::{mpsc, oneshot};

use crate::pod::Pod;

/// So many pods wait at once; more wait to be heard.
const WAITING: usize = 64;
/// The kernel answers at once, and objects are there soon after the start.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a pod may not start yet.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("network policies are not in force after {PATIENCE:?}")]
    Timeout,
    #[error("nobody enforces network policies any more")]
    Ended,
}

/// A pod that waits.
pub(crate) struct Request {
    pub key: ObjectKey,
    pub uid: String,
    pub pod: Pod,
    pub in_force: oneshot::Sender<()>,
}

/// Where pods wait. Clones are the same gate.
#[derive(Clone)]
pub struct Gate {
    requests: mpsc::Sender<Request>,
}

/// Who lets them through.
pub struct Keeper {
    pub(crate) requests: mpsc::Receiver<Request>,
}

impl Gate {
    pub fn new() -> (Gate, Keeper) {
        let (sender, requests) = mpsc::channel(WAITING);
        (Gate { requests: sender }, Keeper { requests })
    }

    /// Waits until what policies say of this pod of this node is in force.
    ///
    /// # Errors
    /// It is not, and the pod must not start. Asking again is right.
    pub async fn pass(&self, key: ObjectKey, uid: &str, pod: Pod) -> Result<(), Refused> {
        let (in_force, is_in_force) = oneshot::channel();
        let request = Request { key, uid: uid.to_owned(), pod, in_force };
        let wait = async {
            self.requests.send(request).await.map_err(|_| Refused::Ended)?;
            is_in_force.await.map_err(|_| Refused::Ended)
        };
        tokio::time::timeout(PATIENCE, wait).await.map_err(|_| Refused::Timeout)?
    }
}
