//! Field ownership and server-side apply.
//!
//! Every write goes through [`on_update`] or [`apply`]; both keep `metadata.managedFields` and neither defaults, validates
//! or stores anything. The semantics are those of structured-merge-diff v6 as kube-apiserver v1.37 uses it. Nothing here
//! knows a kind: types come from [`crate::schema`], time and names are arguments. Depth of recursion is that of the object,
//! which the decoder bounds.

mod apply;
mod compare;
mod entries;
mod error;
mod filter;
mod json;
mod merge;
mod overlay;
mod path;
mod reconcile;
mod remove;
mod scale;
mod set;
mod timestamps;
mod typed;
mod update;
mod updater;
mod validate;
mod walk;

#[cfg(test)]
mod made_types;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod recorded_tests;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use self::{
    apply::apply,
    compare::Comparison,
    entries::{DecodeError, Managed, ManagerId, Operation, Owned, asks_for_reset},
    error::{ApplyConflicts, ApplyError, Cause},
    filter::{Filter, Step},
    json::FieldsError,
    overlay::overlay,
    path::PathElement,
    scale::{ReplicasPaths, from_scale, to_scale},
    set::FieldSet,
    timestamps::keep_timestamps,
    typed::Root,
    update::on_update,
    validate::ShapeErrors,
};
use crate::schema::Types;

/// What a write is addressed to.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    pub types: &'a Types,
    pub root: Root,
    /// The endpoint's group and version, as in `apiVersion`.
    pub api_version: &'a str,
    pub kind: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// What a write here can come to own.
    pub filter: &'a Filter,
    /// Other versions of the kind; owners speak in terms of the version that they wrote.
    pub converter: &'a dyn Converter,
}

/// An object at another version.
pub struct Converted<'a> {
    pub object: Value,
    pub types: &'a Types,
    pub root: Root,
}

/// Converts between the versions of a kind.
pub trait Converter {
    /// `object` at `api_version`; `None` if that version is not served (any more).
    fn convert<'a>(&'a self, object: &Value, api_version: &str) -> Result<Option<Converted<'a>>, String>;
}

/// The converter of kinds with one version.
pub struct OneVersion;

impl Converter for OneVersion {
    fn convert<'a>(&'a self, _object: &Value, _api_version: &str) -> Result<Option<Converted<'a>>, String> {
        Ok(None)
    }
}
