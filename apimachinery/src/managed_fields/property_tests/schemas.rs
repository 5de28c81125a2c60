//! Types made up by chance: every kind of list and map, nested in each other.

use serde_json::json;

use super::chance::Chance;
use crate::{
    managed_fields::made_types::{list, map, object},
    schema::{ListKind, StructType, Type, TypeId, Types},
};

const FIELDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const MAX_DEPTH: usize = 4;

pub(super) struct RandomTypes {
    pub(super) types: Types,
}

/// A kind (type 0) with metadata, and with a spec and a status made up by chance.
pub(super) fn random_types(chance: &mut Chance) -> RandomTypes {
    let s = || Type::String;
    let metadata = vec![
        ("name", s()),
        ("uid", s()),
        ("labels", map(s(), false)),
        ("finalizers", list(s(), ListKind::Set)),
        ("managedFields", list(Type::Json, ListKind::Atomic)),
    ];
    let mut maker = Maker { structs: vec![StructType::default(), object(metadata, false)], chance };
    let spec = maker.record(0, 4);
    let status = maker.record(MAX_DEPTH - 2, 2);
    let root = vec![("apiVersion", s()), ("kind", s()), ("metadata", Type::Struct(TypeId(1))), ("spec", spec), ("status", status)];
    maker.structs[0] = object(root, false);
    RandomTypes { types: Types::new(maker.structs) }
}

struct Maker<'c> {
    structs: Vec<StructType>,
    chance: &'c mut Chance,
}

impl Maker<'_> {
    fn record(&mut self, depth: usize, least: usize) -> Type {
        let count = least + self.chance.below(FIELDS.len() - least);
        let fields = FIELDS[..count].iter().map(|name| (*name, self.any(depth + 1))).collect();
        let keeps = self.chance.one_in(8);
        self.put(object(fields, keeps))
    }

    fn put(&mut self, made: StructType) -> Type {
        self.structs.push(made);
        Type::Struct(TypeId(self.structs.len() as u32 - 1))
    }

    fn scalar(&mut self) -> Type {
        self.chance.pick(&[Type::String, Type::Int64, Type::Bool, Type::IntOrString, Type::Float]).clone()
    }

    fn any(&mut self, depth: usize) -> Type {
        if depth >= MAX_DEPTH {
            return self.scalar();
        }
        match self.chance.below(13) {
            0 | 1 => self.scalar(),
            2 | 3 => self.record(depth, 1),
            4 => {
                let Type::Struct(id) = self.record(depth, 1) else { unreachable!("a record is a struct") };
                self.structs[id.0 as usize].atomic = true;
                Type::Struct(id)
            }
            5 => list(self.any(depth + 1), ListKind::Atomic),
            6 => {
                let item = self.chance.pick(&[Type::String, Type::Int64]).clone();
                list(item, ListKind::Set)
            }
            7..=9 => self.keyed(depth),
            10 => {
                let value = self.any(depth + 1);
                map(value, self.chance.one_in(4))
            }
            11 => Type::Json,
            _ => self.put(object(vec![], false)),
        }
    }

    /// A list whose items are told apart by one field or by two, of which the second may have a default or none.
    fn keyed(&mut self, depth: usize) -> Type {
        let mut fields = vec![("k", self.chance.pick(&[Type::String, Type::Int64]).clone())];
        let mut keys = vec!["k".into()];
        if self.chance.one_in(2) {
            fields.push(("p", Type::String));
            keys.push("p".into());
        }
        let rest: Vec<(&str, Type)> = FIELDS[..1 + self.chance.below(3)].iter().map(|name| (*name, self.any(depth + 2))).collect();
        fields.extend(rest);
        let mut item = object(fields, false);
        if self.chance.one_in(2) && keys.len() == 2 {
            item.fields[1].default = Some(json!("T"));
        }
        let item = self.put(item);
        list(item, ListKind::Map(keys))
    }
}
