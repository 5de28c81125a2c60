//! Objects made up by chance, small and alike enough that writers get into each other's way.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};
use smol_str::SmolStr;

use super::chance::Chance;
use crate::{
    managed_fields::PathElement,
    schema::{Field, ListKind, ListType, Type, TypeId, Types},
};

/// Deep enough for the ports of a Deployment's containers.
const MAX_DEPTH: usize = 10;
/// Fields of built-in types that are always there to choose from; of the others each case sees some.
const FAMILIAR: [&str; 12] =
    ["spec", "status", "template", "containers", "ports", "env", "volumes", "image", "selector", "conditions", "rules", "tolerations"];

pub(super) struct Objects<'c> {
    types: &'c Types,
    root: TypeId,
    api_version: &'c str,
    kind: &'static str,
    seed: u64,
    builtin: bool,
    /// Values of maps and fields may be null.
    nulls: bool,
    /// Lists may have items that share a key.
    twins: bool,
    chance: &'c mut Chance,
}

impl<'c> Objects<'c> {
    pub(super) fn new(
        types: &'c Types,
        root: TypeId,
        api_version: &'c str,
        kind: &'static str,
        seed: u64,
        chance: &'c mut Chance,
    ) -> Objects<'c> {
        let builtin = std::ptr::eq(types, crate::schema::builtin());
        Objects { types, root, api_version, kind, seed, builtin, nulls: false, twins: false, chance }
    }

    /// What somebody may apply.
    pub(super) fn configuration(mut self) -> Value {
        self.nulls = self.chance.one_in(4);
        self.object()
    }

    /// What somebody may write in the place of `live`.
    pub(super) fn update_of(mut self, live: Option<&Value>) -> Value {
        self.nulls = !self.builtin && self.chance.one_in(4);
        self.twins = self.chance.one_in(4);
        let fresh = self.object();
        let Some(live) = live else { return fresh };
        let mut new = self.blended(&Type::Struct(self.root), live, &fresh);
        for (place, value) in [("apiVersion", self.api_version), ("kind", self.kind)] {
            new[place] = value.into();
        }
        if !new["metadata"].is_object() {
            new["metadata"] = json!({});
        }
        new["metadata"]["name"] = "x".into();
        if let Some(uid) = live.pointer("/metadata/uid") {
            new["metadata"]["uid"] = uid.clone();
        }
        new
    }

    fn object(&mut self) -> Value {
        let mut object = self.record(self.root, 0);
        object.insert("apiVersion".into(), self.api_version.into());
        object.insert("kind".into(), self.kind.into());
        let mut metadata = self.metadata();
        metadata.insert("name".into(), "x".into());
        object.insert("metadata".into(), metadata.into());
        object.into()
    }

    fn metadata(&mut self) -> Map<String, Value> {
        let mut out = Map::new();
        if self.chance.one_in(2) {
            out.insert("labels".into(), self.keys(&Type::String, MAX_DEPTH));
        }
        if self.chance.one_in(4) {
            let set = ListType { item: Type::String, kind: ListKind::Set, item_pointer: false, wrapped_in_proto: false, declared: true };
            out.insert("finalizers".into(), self.items(&set, MAX_DEPTH));
        }
        out
    }

    fn record(&mut self, id: TypeId, depth: usize) -> Map<String, Value> {
        let types = self.types;
        let ty = types.get(id);
        let mut out = Map::new();
        for field in &ty.fields {
            let elsewhere = depth == 0 && ["apiVersion", "kind", "metadata"].contains(&&*field.json);
            if elsewhere || !self.is_in_play(id, field) || self.chance.one_in(3) {
                continue;
            }
            out.insert(field.json.to_string(), self.value(&field.ty, depth + 1));
        }
        if ty.fields.is_empty() || ty.preserve_unknown && self.chance.one_in(2) {
            let Value::Object(more) = self.anything_in_a_map(2) else { return out };
            out.extend(more.into_iter().filter(|(key, _)| ty.field(key).is_none()));
        }
        out
    }

    /// Whether the case is about this field of a built-in type.
    fn is_in_play(&self, id: TypeId, field: &Field) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.seed, id, &field.json).hash(&mut hasher);
        !self.builtin || FAMILIAR.contains(&&*field.json) || hasher.finish().is_multiple_of(6)
    }

    fn value(&mut self, ty: &Type, depth: usize) -> Value {
        if self.nulls && self.chance.one_in(12) {
            return Value::Null;
        }
        match ty {
            Type::String | Type::Duration => (*self.chance.pick(&["u", "v", "w"])).into(),
            Type::Bytes => (*self.chance.pick(&["dQ==", "dg=="])).into(),
            Type::Bool => self.chance.one_in(2).into(),
            Type::Int32 | Type::Int64 | Type::Uint(_) => self.chance.below(3).into(),
            Type::Float => self.chance.pick(&[json!(1), json!(1.0), json!(1.5)]).clone(),
            Type::Quantity => self.chance.pick(&[json!("1"), json!("2"), json!(1)]).clone(),
            Type::IntOrString => self.chance.pick(&[json!("1"), json!(2), json!(1)]).clone(),
            Type::Time | Type::MicroTime => "2026-01-01T00:00:00Z".into(),
            Type::RawExtension | Type::FieldsV1 => json!({"kind": *self.chance.pick(&["K", "L"])}),
            Type::Json | Type::SchemaOr(_) => self.anything(2),
            Type::Struct(_) if depth >= MAX_DEPTH => json!({}),
            Type::Struct(id) if self.types.get(*id).name.ends_with("ObjectMeta") => self.metadata().into(),
            Type::Struct(id) => self.record(*id, depth).into(),
            Type::List(list) => self.items(list, depth),
            Type::Map(map) => self.keys(&map.value, depth),
        }
    }

    fn keys(&mut self, value: &Type, depth: usize) -> Value {
        let mut out = Map::new();
        for key in ["x", "y", "z"] {
            if self.chance.one_in(2) {
                out.insert(key.to_owned(), self.value(value, depth + 1));
            }
        }
        out.into()
    }

    fn anything(&mut self, depth: usize) -> Value {
        match self.chance.below(if depth == 0 { 3 } else { 6 }) {
            0 => 1.into(),
            1 => "u".into(),
            2 => self.chance.one_in(2).into(),
            3 => json!([self.anything(depth - 1)]),
            _ => self.anything_in_a_map(depth - 1),
        }
    }

    fn anything_in_a_map(&mut self, depth: usize) -> Value {
        let keys = ["a", "x", "y", "z"];
        let count = self.chance.below(keys.len());
        (0..count).map(|_| ((*self.chance.pick(&keys)).to_owned(), self.anything(depth))).collect::<Map<_, _>>().into()
    }

    fn items(&mut self, list: &ListType, depth: usize) -> Value {
        let mut out: Vec<Value> = Vec::new();
        let mut seen: Vec<PathElement> = Vec::new();
        for _ in 0..self.chance.below(4) {
            let Some(item) = self.list_item(list, depth) else { continue };
            if let Some(element) = self.element(list, &item) {
                if seen.contains(&element) && !(self.twins && self.chance.one_in(2)) {
                    continue;
                }
                seen.push(element);
            }
            out.push(item);
        }
        out.into()
    }

    /// What tells the item apart from others, if anything does.
    fn element(&self, list: &ListType, item: &Value) -> Option<PathElement> {
        let keys = match &list.kind {
            ListKind::Atomic => return None,
            ListKind::Set => return Some(PathElement::Value(item.clone())),
            ListKind::Map(keys) => keys,
        };
        let Type::Struct(id) = &list.item else { return None };
        let value = |key: &str| item.get(key).cloned().or_else(|| self.types.get(*id).field(key)?.default.clone());
        let mut named: Vec<(SmolStr, Value)> = keys.iter().filter_map(|key| Some((SmolStr::new(key), value(key)?))).collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        Some(PathElement::Key(named.into()))
    }

    fn list_item(&mut self, list: &ListType, depth: usize) -> Option<Value> {
        let nulls = std::mem::take(&mut self.nulls);
        let mut item = self.value(&list.item, depth + 1);
        if let (ListKind::Map(keys), Type::Struct(id)) = (&list.kind, &list.item) {
            let types = self.types;
            let members = item.as_object_mut()?;
            for key in keys {
                let field = types.get(*id).field(key)?;
                let may_be_absent = field.default.is_some() || (!self.builtin && **key != *keys[0]);
                if may_be_absent && self.chance.one_in(2) {
                    members.shift_remove(&**key);
                } else {
                    members.insert(key.to_string(), self.value(&field.ty, depth + 2));
                }
            }
        }
        self.nulls = nulls;
        Some(item)
    }

    /// Some of one value and some of another of the same type.
    fn blended(&mut self, ty: &Type, old: &Value, fresh: &Value) -> Value {
        match (old, fresh) {
            (Value::Object(a), Value::Object(b)) => {
                let mut out = Map::new();
                let types = self.types;
                for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                    let member = match ty {
                        Type::Struct(id) => types.get(*id).field(key).map(|field| &field.ty),
                        Type::Map(map) => Some(&map.value),
                        _ => None,
                    };
                    let value = match (a.get(key), b.get(key), member) {
                        (Some(old), Some(fresh), Some(ty)) => match self.chance.below(4) {
                            0 => Some(fresh.clone()),
                            1 => Some(old.clone()),
                            _ => Some(self.blended(ty, old, fresh)),
                        },
                        (Some(old), ..) => (!self.chance.one_in(4)).then(|| old.clone()),
                        (None, fresh, _) => fresh.filter(|_| self.chance.one_in(2)).cloned(),
                    };
                    out.extend(value.map(|value| (key.clone(), value)));
                }
                out.into()
            }
            (Value::Array(items), _) if self.chance.one_in(2) => {
                items.iter().filter(|_| !self.chance.one_in(4)).cloned().collect::<Vec<_>>().into()
            }
            _ => if self.chance.one_in(2) { old } else { fresh }.clone(),
        }
    }

    /// Two configurations that say all that one says, and nothing twice but what tells items apart.
    pub(super) fn split(mut self, config: &Value) -> (Value, Value) {
        let (one, two) = self.shared_out(&Type::Struct(self.root), None, config);
        let complete = |half: Option<Value>| {
            let mut half = half.unwrap_or_else(|| json!({}));
            for place in ["apiVersion", "kind"] {
                half[place] = config[place].clone();
            }
            if !half["metadata"].is_object() {
                half["metadata"] = json!({});
            }
            half["metadata"]["name"] = config["metadata"]["name"].clone();
            half
        };
        (complete(one), complete(two))
    }

    fn shared_out(&mut self, ty: &Type, atomic: Option<bool>, value: &Value) -> (Option<Value>, Option<Value>) {
        let types = self.types;
        let granular = match (ty, value) {
            (Type::Struct(id), Value::Object(_)) => !atomic.unwrap_or(types.get(*id).atomic),
            (Type::Map(map), Value::Object(_)) => !atomic.unwrap_or(map.atomic),
            (Type::Json, Value::Object(_)) => true,
            (Type::List(list), Value::Array(_)) => list.kind != ListKind::Atomic,
            _ => false,
        };
        let empty = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        if !granular || empty {
            return if self.chance.one_in(2) { (Some(value.clone()), None) } else { (None, Some(value.clone())) };
        }
        match (ty, value) {
            (Type::List(list), Value::Array(items)) => {
                let (mut one, mut two) = (Vec::new(), Vec::new());
                for item in items {
                    let (a, b) = match &list.kind {
                        ListKind::Map(keys) => self.shared_item(keys, &list.item, item),
                        _ => self.shared_out(&Type::String, None, item),
                    };
                    one.extend(a);
                    two.extend(b);
                }
                ((!one.is_empty()).then_some(one.into()), (!two.is_empty()).then_some(two.into()))
            }
            (_, Value::Object(members)) => {
                let (mut one, mut two) = (Map::new(), Map::new());
                for (key, member) in members {
                    let (ty, atomic) = match ty {
                        Type::Struct(id) => types.get(*id).field(key).map_or((&Type::Json, None), |field| (&field.ty, field.atomic)),
                        Type::Map(map) => (&map.value, None),
                        _ => (&Type::Json, None),
                    };
                    let (a, b) = self.shared_out(ty, atomic, member);
                    one.extend(a.map(|a| (key.clone(), a)));
                    two.extend(b.map(|b| (key.clone(), b)));
                }
                ((!one.is_empty()).then_some(one.into()), (!two.is_empty()).then_some(two.into()))
            }
            _ => (Some(value.clone()), None),
        }
    }

    /// An item that is somebody's needs what tells it apart.
    fn shared_item(&mut self, keys: &[Box<str>], ty: &Type, item: &Value) -> (Option<Value>, Option<Value>) {
        match self.chance.below(4) {
            0 => return (Some(item.clone()), None),
            1 => return (None, Some(item.clone())),
            _ => {}
        }
        let (mut one, mut two) = self.shared_out(ty, None, item);
        for half in [&mut one, &mut two].into_iter().flatten() {
            for key in keys {
                match item.get(&**key) {
                    Some(value) => half[&**key] = value.clone(),
                    None => continue,
                }
            }
        }
        (one, two)
    }
}
