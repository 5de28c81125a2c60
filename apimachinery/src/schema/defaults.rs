//! Defaulting: fills what a client left out, by the type of each struct on the way down.
//!
//! Two sources: the `default` that the schema declares for a field, and hooks that code registers for a type (the rules that no
//! marker can say). Parents come before children, so a hook may create what its children then complete.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{StructType, Type, TypeId, Types};

/// Completes one struct; sees its fields but not where it stands.
pub type Hook = fn(&mut Map<String, Value>);

/// Hooks by type, resolved against one set of types.
#[derive(Default)]
pub struct Hooks {
    by_type: Vec<Vec<Hook>>,
    /// Types from which a default can be reached; the others are not walked.
    relevant: Vec<bool>,
}

impl Hooks {
    /// Resolves `(definition name, hook)` pairs. Names that `types` does not have are returned as the error: a misspelt
    /// name would silently default nothing.
    pub fn new(types: &Types, hooks: &[(&'static str, Hook)]) -> Result<Hooks, Vec<&'static str>> {
        let mut by_type: Vec<Vec<Hook>> = types.iter().map(|_| Vec::new()).collect();
        let mut unknown = Vec::new();
        for (name, hook) in hooks {
            match types.lookup(name) {
                Some(id) => by_type[id.0 as usize].push(*hook),
                None => unknown.push(*name),
            }
        }
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let relevant = reachable(types, |ty, id| !by_type[id.0 as usize].is_empty() || ty.fields.iter().any(|f| f.default.is_some()));
        Ok(Hooks { by_type, relevant })
    }
}

/// The types from which a type that holds `direct` can be reached, itself included.
fn reachable(types: &Types, direct: impl Fn(&StructType, TypeId) -> bool) -> Vec<bool> {
    let mut users: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut found = Vec::new();
    let mut queue = Vec::new();
    for (id, ty) in types.iter() {
        for field in &ty.fields {
            if let Some(used) = struct_of(&field.ty) {
                users.entry(used.0).or_default().push(id.0);
            }
        }
        let holds = direct(ty, id);
        found.push(holds);
        if holds {
            queue.push(id.0);
        }
    }
    while let Some(id) = queue.pop() {
        for user in users.get(&id).into_iter().flatten() {
            if !std::mem::replace(&mut found[*user as usize], true) {
                queue.push(*user);
            }
        }
    }
    found
}

fn struct_of(ty: &Type) -> Option<TypeId> {
    match ty {
        Type::Struct(id) => Some(*id),
        Type::List(list) => struct_of(&list.item),
        Type::Map(map) => struct_of(&map.value),
        _ => None,
    }
}

/// Applies defaults to a value of type `id`.
pub fn apply_defaults(types: &Types, hooks: &Hooks, id: TypeId, value: &mut Value) {
    if let Value::Object(map) = value {
        structure(types, hooks, id, map);
    }
}

fn structure(types: &Types, hooks: &Hooks, id: TypeId, map: &mut Map<String, Value>) {
    let at = id.0 as usize;
    if !hooks.relevant[at] {
        return;
    }
    let ty = types.get(id);
    for hook in &hooks.by_type[at] {
        hook(map);
    }
    for field in &ty.fields {
        if let Some(default) = &field.default {
            set_default(map, &field.json, default);
        }
        let Some(inner) = struct_of(&field.ty) else { continue };
        if !hooks.relevant[inner.0 as usize] {
            continue;
        }
        match map.get_mut(&*field.json) {
            Some(value) => descend(types, hooks, &field.ty, value),
            // A struct that is not a pointer exists even when it is not written.
            None if matches!(field.ty, Type::Struct(_)) && !field.pointer => {
                let mut fresh = Map::new();
                structure(types, hooks, inner, &mut fresh);
                if !fresh.is_empty() {
                    map.insert(field.json.to_string(), Value::Object(fresh));
                }
            }
            None => {}
        }
    }
}

fn descend(types: &Types, hooks: &Hooks, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(map)) => structure(types, hooks, *id, map),
        (Type::List(list), Value::Array(items)) => {
            for item in items {
                descend(types, hooks, &list.item, item);
            }
        }
        (Type::Map(map_type), Value::Object(map)) => {
            for (_, item) in map.iter_mut() {
                descend(types, hooks, &map_type.value, item);
            }
        }
        _ => {}
    }
}

/// Sets a field that is absent or null.
pub fn set_default(map: &mut Map<String, Value>, field: &str, default: &Value) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), default.clone());
    }
}
