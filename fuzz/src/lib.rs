//! The targets, which `cargo test` runs too.

#[path = "../../apimachinery/tests/decoders/targets.rs"]
pub mod targets;
