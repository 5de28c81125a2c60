//! The official conformance suite: which tests there are, how they are run, and what became of each.
//!
//! Upstream's own programs do the testing. Pure: `catalog`, `junit`, `record`, `ledger`, `selection`. Processes: `cluster`, `registry`,
//! `ginkgo`, `interrupt`.

pub mod catalog;
pub mod cluster;
pub mod ginkgo;
pub mod interrupt;
pub mod junit;
pub mod ledger;
pub mod record;
pub mod registry;
pub mod selection;
