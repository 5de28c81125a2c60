//! A kind at two versions that differ in the names of fields: whoever writes at which version, what comes of it is the same.

use serde_json::Value;

use super::{Chance, Owners, Path, at, conflicts_of, random_types, schemas::RandomTypes, seeds, stored};
use crate::managed_fields::{
    ApplyError, Converted, Converter, Filter, Managed, ManagerId, Operation, PathElement, Root, Scope, apply, on_update,
    property_tests::{model::Model, objects::Objects},
};
use crate::schema::{Type, TypeId, Types};

const ONE: &str = "x.io/v1";
const TWO: &str = "x.io/v2";
/// Before the names of the second version's fields of the spec; no name of the first begins so.
const PREFIX: &str = "r";
/// Who updates does so at one version, as an updater at two versions is two owners.
const UPDATERS: [(&str, &str); 3] = [("ann", ONE), ("bob", TWO), ("cid", TWO)];

struct Kind {
    one: Types,
    two: Types,
}

impl Kind {
    fn new(chance: &mut Chance) -> Kind {
        let RandomTypes { types: one } = random_types(chance);
        let Type::Struct(spec) = one.get(TypeId(0)).field("spec").unwrap().ty.clone() else { panic!("the spec is a struct") };
        let mut structs: Vec<_> = one.iter().map(|(_, ty)| ty.clone()).collect();
        let renamed = &mut structs[spec.0 as usize];
        for field in &mut renamed.fields {
            field.json = format!("{PREFIX}{}", field.json).into();
        }
        renamed.by_json = renamed.fields.iter().enumerate().map(|(i, field)| (field.json.clone(), i as u16)).collect();
        Kind { one, two: Types::new(structs) }
    }

    /// The object at a version, from the other one or from the same.
    fn at(&self, object: &Value, version: &str) -> Value {
        let mut object = object.clone();
        let (from, Type::Struct(spec)) = (object["apiVersion"].clone(), &self.one.get(TypeId(0)).field("spec").unwrap().ty) else {
            panic!("the spec is a struct")
        };
        object["apiVersion"] = version.into();
        if let Some(Value::Object(members)) = object.get_mut("spec").filter(|_| from != version) {
            let other = |key: String| match key.strip_prefix(PREFIX) {
                Some(name) => name.to_owned(),
                None if self.one.get(*spec).field(&key).is_some() => format!("{PREFIX}{key}"),
                None => key,
            };
            *members = std::mem::take(members).into_iter().map(|(key, value)| (other(key), value)).collect();
        }
        object
    }

    fn types(&self, version: &str) -> &Types {
        if version == ONE { &self.one } else { &self.two }
    }

    fn scope<'a>(&'a self, version: &'a str, filter: &'a Filter) -> Scope<'a> {
        let root = Root::Custom(TypeId(0));
        Scope { types: self.types(version), root, api_version: version, kind: "X", subresource: "", filter, converter: self }
    }

    fn applied(
        &self,
        live: Option<&Value>,
        config: &Value,
        manager: &str,
        version: &str,
        force: bool,
        second: i64,
    ) -> Result<Value, ApplyError> {
        let live = live.map(|live| self.at(live, version));
        let scope = self.scope(version, &Filter::All);
        let object = apply(&scope, live.as_ref(), &self.at(config, version), manager, at(second), force)?;
        Ok(stored(self.at(&object, ONE)))
    }

    fn updated(&self, live: Option<&Value>, new: &Value, manager: &str, version: &str, second: i64) -> Value {
        let live = live.map(|live| self.at(live, version));
        let mut new = self.at(new, version);
        on_update(&self.scope(version, &Filter::All), live.as_ref(), &mut new, manager, at(second), false);
        stored(self.at(&new, ONE))
    }
}

impl Converter for Kind {
    fn convert<'a>(&'a self, object: &Value, api_version: &str) -> Result<Option<Converted<'a>>, String> {
        let object = self.at(object, api_version);
        Ok(Some(Converted { object, types: self.types(api_version), root: Root::Custom(TypeId(0)) }))
    }
}

/// An owner and a path in terms of the first version.
fn at_one((id, mut path): (ManagerId, Path)) -> (ManagerId, Path) {
    let api_version = if id.operation == Operation::Apply { String::new() } else { ONE.to_owned() };
    if let [PathElement::Field(spec), PathElement::Field(name), ..] = path.as_mut_slice()
        && &**spec == "spec"
        && let Some(short) = name.strip_prefix(PREFIX)
    {
        *name = short.into();
    }
    (ManagerId { api_version, ..id }, path)
}

fn owners_at_one(object: &Value) -> Owners {
    let mut out = Owners::new();
    for (id, owned) in Managed::of(object).unwrap().fields {
        for path in owned.set.paths() {
            let (id, path) = at_one((id.clone(), path));
            out.entry(id).or_default().insert(path);
        }
    }
    out
}

#[test]
fn writes_at_two_versions_have_the_outcome_of_writes_at_one() {
    for seed in seeds() {
        let mut chance = Chance::new(seed);
        let kind = Kind::new(&mut chance);
        let model = Model::new(&kind.one, TypeId(0));
        let (mut mixed, mut single): (Option<Value>, Option<Value>) = (None, None);
        for second in 0..8 {
            let (manager, version) = *chance.pick(&UPDATERS);
            let objects = Objects::new(&kind.one, TypeId(0), ONE, "X", seed, &mut chance);
            if second % 2 == 0 {
                let config = objects.configuration();
                let (version, force) = (*chance.pick(&[ONE, TWO]), chance.one_in(2));
                let here = kind.applied(mixed.as_ref(), &config, manager, version, force, second);
                let there = kind.applied(single.as_ref(), &config, manager, ONE, force, second);
                match (here, there) {
                    (Ok(here), Ok(there)) => (mixed, single) = (Some(here), Some(there)),
                    (Err(here), Err(there)) => {
                        let told = |error| conflicts_of(error).into_iter().map(at_one).collect::<std::collections::BTreeSet<_>>();
                        assert_eq!(told(&here), told(&there), "seed {seed}: {config}");
                    }
                    (here, there) => panic!("seed {seed}: {config}\nis {here:?} at two versions, and {there:?} at one"),
                }
            } else {
                let mut new = objects.update_of(single.as_ref());
                new["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
                mixed = Some(kind.updated(mixed.as_ref(), &new, manager, version, second));
                single = Some(kind.updated(single.as_ref(), &new, manager, ONE, second));
            }
            if let (Some(mixed), Some(single)) = (&mixed, &single) {
                assert_eq!(model.flat(mixed), model.flat(single), "seed {seed}");
                assert_eq!(owners_at_one(mixed), owners_at_one(single), "seed {seed}");
            }
        }
    }
}
