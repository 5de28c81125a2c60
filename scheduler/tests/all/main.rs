//! The scheduler from outside: a cluster that is simulated, and a model that checks every placement on its own terms.

mod api;
mod cluster;
mod devices;
mod extenders;
mod model;
mod placements;
mod scores;
mod shell;
mod stories;
