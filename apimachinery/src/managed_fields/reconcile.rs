//! Field sets seen through a schema: sets of an older schema, and structs on the way to members.

use super::{
    path::PathElement,
    set::{Entry, FieldSet},
    typed::{Atom, Form, Items, Schema, TypeRef},
};

/// What has become atomic since the set was made is now owned as one, without its parts.
pub(super) fn reconcile<'a>(schema: Schema<'a>, ty: TypeRef<'a>, set: &mut FieldSet) {
    let form = schema.resolve(ty).form();
    for entry in &mut set.entries {
        let below = match form {
            Form::Scalar(_) => return,
            Form::List(list) => Some(list.element),
            Form::Map(map) if map.deduced => return,
            Form::Map(map) => match &entry.element {
                PathElement::Field(name) => map.value_type(name),
                _ => map.value_type(""),
            },
        };
        let Some(below) = below else { continue };
        if entry.children.is_empty() {
            continue;
        }
        let atomic = match schema.resolve(below).form() {
            Form::List(list) => matches!(list.items, Items::Atomic),
            Form::Map(map) => map.atomic && !map.deduced,
            Form::Scalar(_) => false,
        };
        if atomic {
            entry.member = true;
            entry.children = FieldSet::new();
        } else {
            reconcile(schema, below, &mut entry.children);
        }
    }
}

/// The set with every declared field that leads to a member made a member too.
pub(super) fn with_named_fields<'a>(schema: Schema<'a>, ty: Option<TypeRef<'a>>, set: &FieldSet) -> FieldSet {
    let atom: Option<Atom<'a>> = ty.map(|ty| schema.resolve(ty));
    let entries = set.entries.iter().map(|entry| {
        let map = atom.and_then(|atom| atom.map);
        let (named, below) = match (&entry.element, map) {
            (PathElement::Field(name), Some(map)) => (map.named(name).is_some(), map.value_type(name)),
            (PathElement::Key(_), _) => (false, atom.and_then(|atom| atom.list).map(|list| list.element)),
            _ => (false, None),
        };
        Entry {
            element: entry.element.clone(),
            member: entry.member || (named && !entry.children.is_empty()),
            children: with_named_fields(schema, below, &entry.children),
        }
    });
    FieldSet { entries: entries.collect() }
}
