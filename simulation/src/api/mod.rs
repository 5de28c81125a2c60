//! An API server in memory, reached by a `kube::Client`.
//!
//! [`core`] does what is asked, at once and in whole; [`serve`] is the way there and back, on which requests get lost; [`watch`] tells
//! of what was done. It checks types and preconditions, and nothing else of what objects say.

pub mod core;
mod deletion;
mod discovery;
mod eviction;
pub mod failure;
pub mod kinds;
mod prepare;
mod request;
mod serve;
pub mod state;
pub mod trace;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use self::core::Core;
pub use eviction::evict;
pub use prepare::set_condition;
pub(crate) use request::Request;

/// The server. Clones are the same.
#[derive(Clone)]
pub struct Api(Arc<Mutex<Core>>);

/// One life of a process that has a client: when it is over, nothing that it still asks for happens, and nothing is answered.
pub struct Life {
    pub name: Arc<str>,
    over: AtomicBool,
    cut_off_until: Mutex<Option<Instant>>,
}

impl Life {
    pub fn new(name: &str) -> Arc<Life> {
        Arc::new(Life { name: name.into(), over: AtomicBool::new(false), cut_off_until: Mutex::new(None) })
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Lets none of its requests through until then.
    pub fn cut_off(&self, until: Instant) {
        *self.cut_off_until.lock() = Some(until);
    }

    /// Until when none of its requests gets through.
    pub fn cut_off_until(&self) -> Option<Instant> {
        self.cut_off_until.lock().filter(|until| *until > Instant::now())
    }
}

impl Api {
    pub fn new(core: Core) -> Api {
        Api(Arc::new(Mutex::new(core)))
    }

    /// The server's inside. Not to be held across anything that waits.
    pub fn core(&self) -> MutexGuard<'_, Core> {
        self.0.lock()
    }

    /// A client of a process.
    pub fn client(&self, life: &Arc<Life>) -> kube::Client {
        serve::client(self.clone(), life.clone())
    }
}
