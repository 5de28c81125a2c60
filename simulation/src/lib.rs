//! A whole cluster on one thread, driven by a seed: our controllers and our scheduler as they are, against an API in memory and nodes
//! that only pretend, while requests fail, watches break, processes die, clocks jump and users change their minds.
//!
//! What a seed does it does again, to the last request: time is tokio's paused clock, chance comes from the seed alone, and nothing
//! here has a thread, a socket or a file. [`run::simulate`] runs one seed. [`invariants`] says what must hold, [`faults`] what goes
//! wrong, [`workload`] what users do, [`nodes`] what kubelets do, [`api`] what the API server does.
//!
//! The API is not the real server's: that one asks the machine for time, chance, keys and threads in many places, takes seconds to
//! start, and has tests of its own. This one keeps to what controllers rely on: revisions, optimistic locking, watches that go on,
//! finalizers, graceful deletion, evictions within budgets. Patches, defaults and canonical form are the engine's that the server has.

pub mod api;
pub mod components;
pub mod devices;
pub mod faults;
pub mod invariants;
pub mod nodes;
pub mod object;
pub mod placement;
pub mod run;
pub mod workload;
