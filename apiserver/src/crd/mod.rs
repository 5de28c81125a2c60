//! Custom resources: what a CustomResourceDefinition makes of the one engine.
//!
//! A definition becomes [`resource`]s of the catalog; each version has a [`form::Form`], which reads, prunes, defaults and orders its
//! objects, and a [`strategy`], which validates them. Nothing here handles requests: custom objects go through the same
//! endpoints as built-in ones. Rules in CEL are a [`rule::Rule`] each, and [`rules`] runs them.

pub mod columns;
pub mod conversion;
pub mod follow;
pub mod form;
pub mod format;
pub mod json_path;
pub mod prune;
pub mod publish;
pub mod resource;
pub mod rule;
pub mod rules;
pub mod scale;
pub mod schema;
pub mod strategy;
pub mod summary;
pub mod types;
pub mod validate;
