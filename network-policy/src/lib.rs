//! Enforces NetworkPolicies on one node: who may open connections to its pods, and where these may open some.
//!
//! [`engine`] works out a [`ruleset`] from policies and the pods of all nodes, and what of it a change makes different; [`table`]
//! spells that out for the kernel. Everything is decided where packets are passed on (the hook `forward`): what the node itself
//! sends to its pods or they to it never comes by there, as the API wants it. That takes pods whose packets are routed, each with
//! an interface of its own (the plugin `ptp` and its like); between the ports of one bridge the kernel would not ask.
//!
//! Nothing is ever written to the API.

pub mod engine;
mod feed;
mod gate;
pub mod pod;
pub mod policy;
pub mod range;
pub mod ruleset;
mod run;
mod table;
#[cfg(test)]
mod tests;

pub use gate::{Gate, Keeper, Refused};
pub use run::{Sources, clean_up, run, run_from};
