//! Typed views of values: k8s-openapi types for code that reads many fields.
//!
//! A view is read only by convention: it loses what the typed form cannot hold (unknown fields, the difference
//! between absent and empty), so nothing that is stored or answered is ever made from one.

use serde::Deserialize;
use serde_json::Value;

/// Reads a value that has passed the schema pass as a typed object.
///
/// A value whose shape the schema has accepted always deserializes; if table and types ever disagreed the view
/// would be the type's default, which validation then refuses as empty, and debug builds stop here.
pub fn view<'a, T: Deserialize<'a> + Default>(value: &'a Value) -> T {
    match T::deserialize(value) {
        Ok(typed) => typed,
        Err(error) => {
            debug_assert!(false, "schema and typed view disagree: {error}");
            T::default()
        }
    }
}
