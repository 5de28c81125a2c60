//! The same work for any API server, measured: reads, lists, writes, watches, start, memory.
//!
//! `suite` is the list of what is measured; each other file owns one kind of work or one part of the set-up. `cluster` is a list of its
//! own, of what takes nodes too, and `scale` one of what takes thousands of them.

pub mod appearance;
pub mod cluster;
pub mod connection;
pub mod definitions;
pub mod fixture;
pub mod list;
pub mod load;
pub mod measure;
pub mod neighbour;
pub mod process;
pub mod scale;
pub mod servers;
pub mod suite;
pub mod table;
pub mod watch;
pub mod writes;
