//! Between the version that a client speaks and the version that is stored.

use std::borrow::Cow;

use apimachinery::schema::canonical::{Empties, canonicalize, holds_empties};
use serde_json::Value;

use super::body::set_type_meta;
use crate::catalog::{Resource, Stored};

/// A value of the resource's version as the storage version.
pub fn to_storage(resource: &Resource, value: Value) -> Value {
    match &resource.conversion {
        Some(conversion) => {
            let mut converted = (conversion.to_storage)(value);
            set_type_meta(&mut converted, &resource.stored.gvk);
            converted
        }
        None => value,
    }
}

/// A stored value as the resource's version, in canonical form.
pub fn from_storage(resource: &Resource, value: Value) -> Value {
    match &resource.conversion {
        Some(conversion) => {
            let mut converted = (conversion.from_storage)(value);
            set_type_meta(&mut converted, &resource.gvk);
            match &resource.custom {
                Some(form) => form.fit(&mut converted),
                None => canonicalize(&resource.types, resource.type_id, &mut converted, empties(&resource.stored)),
            }
            converted
        }
        None => value,
    }
}

/// The object's managed fields and the rest, as the resource's version; borrowed where it is stored so.
pub fn view<'a>(resource: &Resource, value: &'a Value) -> Cow<'a, Value> {
    if resource.conversion.is_some() { Cow::Owned(from_storage(resource, value.clone())) } else { Cow::Borrowed(value) }
}

/// Takes the empty lists and maps away that storage would not keep: owners have been found by then.
pub fn drop_empties(resource: &Resource, value: &mut Value) {
    let stored = &resource.stored;
    if !stored.keeps_empties && holds_empties(&stored.types, stored.type_id, value) {
        canonicalize(&stored.types, stored.type_id, value, Empties::Drop);
    }
}

/// What becomes of empty lists and maps of a stored kind.
pub fn empties(stored: &Stored) -> Empties {
    if stored.keeps_empties { Empties::Keep } else { Empties::Drop }
}

/// Canonical form in the storage version: the last step before encoding.
pub fn canonical_stored(stored: &Stored, value: &mut Value) {
    match &stored.custom {
        Some(form) => {
            form.fit(value);
            form.complete(value);
        }
        None => canonicalize(&stored.types, stored.type_id, value, empties(stored)),
    }
}
