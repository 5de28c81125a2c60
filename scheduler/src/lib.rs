//! The scheduler: for each pod that waits, the node that suits it best.
//!
//! [`core`] decides, on one thread and without I/O: it is told of changes, tries one pod at a time and says what is to be done. The
//! shell around it ([`run`]) feeds it from informers and [`binding`] carries out what it decides. A plugin is one file under
//! [`plugins`]; [`snapshot`] is what they read of nodes and pods, [`queue`] who waits for what.
//!
//! [`extender`] is how services outside have a say in it, [`devices`] how claims get devices.
//!
//! Never here: plugins that are not compiled in, and pod groups.

pub mod binding;
pub mod config;
pub mod core;
mod deciding;
pub mod devices;
pub mod diagnosis;
pub mod event;
pub mod extender;
pub mod framework;
pub mod memo;
pub mod metrics;
pub mod node_selector;
pub mod plugins;
pub mod pod_status;
pub mod preemption;
pub mod profile;
pub mod queue;
pub mod resources;
mod run;
pub mod search;
pub mod snapshot;
pub mod taints;
pub mod volumes;
pub mod world;

pub use config::Config;
pub use metrics::Metrics;
pub use run::{Error, run, run_on_one_thread, run_with};
