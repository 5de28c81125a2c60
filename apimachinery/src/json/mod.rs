//! JSON text as the API reads and writes it: Go's rules for numbers, escapes and broken UTF-8, and Go's words for errors.
//!
//! Knows no schema. Field order is kept as read; canonical order is the schema pass's business.

mod parse;
mod write;

pub use parse::{Error, MAX_DEPTH, parse, places};
pub use write::{Long, to_string, to_vec, write, write_float, write_pretty};
