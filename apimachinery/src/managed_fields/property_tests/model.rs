//! What writes do to objects and their owners, told path by path over flat maps: slow, and with nothing of the engine but its path elements.
//!
//! An object is the map of all its places. Whether a place is owned whole or by its parts is read from the types here once more.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use smol_str::SmolStr;

use crate::{
    managed_fields::{Filter, ManagerId, PathElement, path::same},
    schema::{ListKind, Type, TypeId, Types},
};

pub(super) type Path = Vec<PathElement>;
pub(super) type Paths = BTreeSet<Path>;
pub(super) type Owners = BTreeMap<ManagerId, Paths>;
pub(super) type Conflicts = BTreeSet<(ManagerId, Path)>;

/// What nobody ever owns, as dotted paths.
const SERVER_OWNED: [&str; 12] = [
    "apiVersion",
    "kind",
    "metadata",
    "metadata.name",
    "metadata.namespace",
    "metadata.creationTimestamp",
    "metadata.selfLink",
    "metadata.uid",
    "metadata.clusterName",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.resourceVersion",
];

/// How the value at a place is owned.
#[derive(Clone, Copy)]
enum Place<'a> {
    Typed {
        ty: &'a Type,
        /// The field says otherwise than its type.
        atomic: Option<bool>,
        /// Something above keeps unknown fields.
        keeps: bool,
    },
    Record(TypeId, bool),
    /// No type: a map is owned by its keys, all else whole.
    Any,
}

enum Form<'a> {
    Whole,
    Record { id: TypeId, keeps: bool },
    Keys(Place<'a>),
    Items { item: Place<'a>, keys: Option<&'a [Box<str>]> },
    Any,
}

/// What stands at a path.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// A value that is owned as one, or a map or list with nothing in it.
    Whole(Value),
    /// A map or list that is owned by what is in it.
    Open,
    /// Items that share a key.
    Twins(Vec<Value>),
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::Whole(a), Node::Whole(b)) => same(a, b),
            (Node::Open, Node::Open) => true,
            (Node::Twins(a), Node::Twins(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
            _ => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    node: Node,
    /// It has parts in other values: nothing is in it, but something could be.
    hollow: bool,
    /// An item, or a key that is no declared field.
    chosen: bool,
}

impl Seen {
    /// Whether whoever wrote this owns the place itself.
    fn is_member(&self) -> bool {
        match &self.node {
            Node::Twins(_) => true,
            Node::Open => self.chosen,
            Node::Whole(Value::Array(_)) => self.chosen || !self.hollow,
            Node::Whole(_) => true,
        }
    }
}

/// All places of an object but the root.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Flat(BTreeMap<Path, Seen>);

impl Flat {
    pub(super) fn has(&self, path: &[PathElement]) -> bool {
        self.0.contains_key(path)
    }

    pub(super) fn node(&self, path: &[PathElement]) -> Option<&Node> {
        self.0.get(path).map(|seen| &seen.node)
    }

    /// What whoever wrote this object comes to own.
    pub(super) fn members(&self) -> Paths {
        self.0.iter().filter(|(_, seen)| seen.is_member()).map(|(path, _)| path.clone()).collect()
    }
}

struct Difference {
    /// What is new, or is another value.
    changed: Paths,
    removed: Paths,
}

pub(super) struct Model<'a> {
    types: &'a Types,
    root: TypeId,
}

impl<'a> Model<'a> {
    pub(super) fn new(types: &'a Types, root: TypeId) -> Model<'a> {
        Model { types, root }
    }

    fn form(&self, place: Place<'a>) -> Form<'a> {
        let (ty, atomic, keeps) = match place {
            Place::Any => return Form::Any,
            Place::Record(id, keeps) => return self.record(id, keeps),
            Place::Typed { ty, atomic, keeps } => (ty, atomic, keeps),
        };
        match ty {
            Type::Json | Type::SchemaOr(_) | Type::FieldsV1 => Form::Any,
            Type::Struct(id) if atomic.unwrap_or(self.types.get(*id).atomic) => Form::Whole,
            Type::Struct(id) => self.record(*id, keeps),
            Type::Map(map) if atomic.unwrap_or(map.atomic) => Form::Whole,
            Type::Map(map) => Form::Keys(Place::Typed { ty: &map.value, atomic: None, keeps }),
            Type::List(list) => {
                let item = Place::Typed { ty: &list.item, atomic: None, keeps };
                match &list.kind {
                    ListKind::Atomic => Form::Whole,
                    ListKind::Set => Form::Items { item, keys: None },
                    ListKind::Map(keys) => Form::Items { item, keys: Some(keys) },
                }
            }
            _ => Form::Whole,
        }
    }

    fn record(&self, id: TypeId, keeps: bool) -> Form<'a> {
        Form::Record { id, keeps: keeps || self.types.get(id).preserve_unknown }
    }

    /// The place of a member, and whether it is a declared field.
    fn member(&self, form: &Form<'a>, name: &str) -> (Place<'a>, bool) {
        match form {
            Form::Record { id, keeps } => match self.types.get(*id).field(name) {
                Some(field) => (Place::Typed { ty: &field.ty, atomic: field.atomic, keeps: *keeps }, true),
                None => (Place::Any, false),
            },
            Form::Keys(value) => (*value, false),
            _ => (Place::Any, false),
        }
    }

    /// How an item is told apart from the others.
    fn item(&self, place: Place<'a>, keys: Option<&[Box<str>]>, item: &Value) -> PathElement {
        let Some(keys) = keys else { return PathElement::Value(item.clone()) };
        let Place::Typed { ty: Type::Struct(id), .. } = place else { panic!("an item with keys is a record") };
        let mut named: Vec<(SmolStr, Value)> = Vec::new();
        for key in keys {
            let field = self.types.get(*id).field(key).expect("a key is a field");
            let always_there = !(field.pointer || field.omit_empty || field.omit_zero);
            let zero = || match field.ty {
                _ if !always_there => None,
                Type::String => Some(Value::from("")),
                Type::Int32 | Type::Int64 => Some(Value::from(0)),
                _ => None,
            };
            let value = item.get(&**key).cloned().or_else(|| field.default.clone()).or_else(zero);
            named.extend(value.map(|value| (SmolStr::new(key), value)));
        }
        named.sort_by(|a, b| a.0.cmp(&b.0));
        PathElement::Key(named.into())
    }

    /// All places of an object but its owners' own.
    pub(super) fn flat(&self, object: &Value) -> Flat {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("managedFields");
        }
        let mut flat = Flat::default();
        self.walk(Place::Record(self.root, false), &object, &mut Vec::new(), false, &mut |path, seen| {
            flat.0.insert(path.clone(), seen);
        });
        flat.0.remove(&Vec::new());
        flat
    }

    fn walk(&self, place: Place<'a>, value: &Value, path: &mut Path, chosen: bool, see: &mut dyn FnMut(&Path, Seen)) {
        match (self.form(place), value) {
            (form @ (Form::Record { .. } | Form::Keys(_) | Form::Any), Value::Object(members)) if !members.is_empty() => {
                see(path, Seen { node: Node::Open, hollow: false, chosen });
                for (name, member) in members {
                    let (place, declared) = self.member(&form, name);
                    path.push(PathElement::field(name));
                    self.walk(place, member, path, !declared, see);
                    path.pop();
                }
            }
            (Form::Items { item: place, keys }, Value::Array(items)) if !items.is_empty() => {
                see(path, Seen { node: Node::Open, hollow: false, chosen });
                let mut groups: BTreeMap<PathElement, Vec<&Value>> = BTreeMap::new();
                for item in items {
                    groups.entry(self.item(place, keys, item)).or_default().push(item);
                }
                for (element, items) in groups {
                    path.push(element);
                    match items.as_slice() {
                        [only] => self.walk(place, only, path, true, see),
                        twins => {
                            let node = Node::Twins(twins.iter().map(|twin| (*twin).clone()).collect());
                            see(path, Seen { node, hollow: false, chosen: true });
                        }
                    }
                    path.pop();
                }
            }
            (form, value) => {
                let hollow = match form {
                    Form::Whole => false,
                    Form::Items { .. } => value.is_null() || value.is_array(),
                    _ => value.is_null() || value.is_object(),
                };
                see(path, Seen { node: Node::Whole(value.clone()), hollow, chosen });
            }
        }
    }

    /// The items of every list whose items are told apart, in their order.
    pub(super) fn orders(&self, object: &Value) -> BTreeMap<Path, Vec<PathElement>> {
        let mut out = BTreeMap::new();
        self.note_orders(Place::Record(self.root, false), object, &mut Vec::new(), &mut out);
        out
    }

    fn note_orders(&self, place: Place<'a>, value: &Value, path: &mut Path, out: &mut BTreeMap<Path, Vec<PathElement>>) {
        match (self.form(place), value) {
            (form @ (Form::Record { .. } | Form::Keys(_)), Value::Object(members)) => {
                for (name, member) in members {
                    path.push(PathElement::field(name));
                    self.note_orders(self.member(&form, name).0, member, path, out);
                    path.pop();
                }
            }
            (Form::Items { item: place, keys }, Value::Array(items)) => {
                let elements: Vec<PathElement> = items.iter().map(|item| self.item(place, keys, item)).collect();
                for (element, item) in elements.iter().zip(items) {
                    path.push(element.clone());
                    self.note_orders(place, item, path, out);
                    path.pop();
                }
                out.insert(path.clone(), elements);
            }
            _ => {}
        }
    }

    /// Whether the last step of a path is a declared field.
    fn declared(&self, path: &[PathElement]) -> bool {
        let mut place = Place::Record(self.root, false);
        let mut declared = false;
        for step in path {
            (place, declared) = match (step, self.form(place)) {
                (PathElement::Field(name), form @ (Form::Record { .. } | Form::Keys(_) | Form::Any)) => self.member(&form, name),
                (PathElement::Key(_), Form::Items { item, .. }) => (item, false),
                _ => return false,
            };
        }
        declared
    }

    /// With the declared fields on the way to each path.
    pub(super) fn with_named(&self, paths: &Paths) -> Paths {
        let ways = paths.iter().flat_map(|path| (1..path.len()).map(|n| path[..n].to_vec()).filter(|way| self.declared(way)));
        paths.iter().cloned().chain(ways).collect()
    }

    /// Lays a configuration over an object.
    fn merged(&self, live: &Flat, config: &Flat) -> Flat {
        let mut out = Flat::default();
        for (path, seen) in &config.0 {
            let filled = live.node(path) == Some(&Node::Open);
            // Nothing in a map takes nothing out of it.
            let kept = if seen.hollow && filled { &live.0[path] } else { seen };
            out.0.insert(path.clone(), kept.clone());
        }
        for (path, seen) in &live.0 {
            let open = |n: usize| out.node(&path[..n]) == Some(&Node::Open);
            if !out.has(path) && (1..path.len()).all(open) {
                out.0.insert(path.clone(), seen.clone());
            }
        }
        out
    }

    /// Without these places and what is in them.
    fn without(flat: &Flat, gone: &Paths) -> Flat {
        let goes = |path: &Path| (1..=path.len()).any(|n| gone.contains(&path[..n]));
        let mut out = Flat(flat.0.iter().filter(|(path, _)| !goes(path)).map(|(path, seen)| (path.clone(), seen.clone())).collect());
        let kept: Paths = out.0.keys().cloned().collect();
        for (path, seen) in &mut out.0 {
            let below = |paths: &Paths| paths.iter().any(|other| other.len() > path.len() && other.starts_with(path));
            let lost = match &seen.node {
                Node::Open => !below(&kept),
                Node::Whole(value) => (value.is_array() || value.is_object()) && below(gone),
                Node::Twins(_) => false,
            };
            if lost {
                *seen = Seen { node: Node::Whole(Value::Null), hollow: true, chosen: seen.chosen };
            }
        }
        out
    }

    /// What an applier no longer says, and nobody else has, goes: unless something in it that was never the applier's would go too.
    fn pruned(&self, merged: &Flat, last: &Paths, owners: &Owners) -> Flat {
        let last = self.with_named(last);
        let owned = self.with_named(&owners.values().flatten().cloned().collect());
        let there = self.with_named(&merged.members());
        let left = self.with_named(&Self::without(merged, &last).members());
        let nobodys = there.iter().filter(|path| !left.contains(*path) && !owned.contains(*path)).cloned().collect();
        let left = self.with_named(&Self::without(merged, &nobodys).members());
        let let_go = there.iter().filter(|path| !left.contains(*path) && last.contains(*path)).cloned().collect();
        Self::without(merged, &let_go)
    }

    fn difference(&self, filter: &Filter, old: &Flat, new: &Flat) -> Difference {
        let mut changed = Paths::new();
        for (path, seen) in &new.0 {
            let is_other = match old.0.get(path) {
                None => true,
                Some(before) => match (&before.node, &seen.node) {
                    // Filling and emptying is a change of what is inside.
                    (Node::Open, Node::Open) => false,
                    (Node::Open, _) => !seen.hollow,
                    (_, Node::Open) => !before.hollow,
                    (before, after) => before != after,
                },
            };
            if is_other {
                changed.insert(path.clone());
            }
        }
        let twin = |flat: &Flat, path: &Path| matches!(flat.node(path), Some(Node::Twins(_)));
        let removed = old.0.keys().filter(|path| !new.has(path) || (twin(old, path) != twin(new, path)));
        Difference { changed: filtered(filter, changed), removed: filtered(filter, removed.cloned().collect()) }
    }

    /// The owners after `writer` turned `old` into `new`.
    pub(super) fn update(&self, filter: &Filter, old: &Flat, new: &Flat, owners: Owners, writer: &ManagerId) -> Owners {
        let Difference { changed, removed } = self.difference(filter, old, new);
        let mut out = Owners::new();
        for (id, set) in owners {
            out.insert(id, set.into_iter().filter(|path| !changed.contains(path) && !removed.contains(path)).collect());
        }
        let gained: Paths = without_server_owned(changed);
        if !gained.is_empty() {
            out.entry(writer.clone()).or_default().extend(gained);
        }
        out.retain(|_, set| !set.is_empty());
        out
    }

    /// The object and its owners after `applier` applied `config`, or what others own of it.
    pub(super) fn apply(
        &self,
        filter: &Filter,
        live: &Flat,
        config: &Flat,
        owners: Owners,
        applier: &ManagerId,
        force: bool,
    ) -> Result<(Flat, Owners), Conflicts> {
        let merged = self.merged(live, config);
        let mut owners = owners;
        let last = owners.insert(applier.clone(), filtered(filter, config.members())).unwrap_or_default();
        let new = self.pruned(&merged, &last, &owners);
        let Difference { changed, removed } = self.difference(filter, live, &new);
        let others = owners.iter().filter(|(id, _)| *id != applier);
        let conflicts: Conflicts = others.flat_map(|(id, set)| set.intersection(&changed).map(|path| (id.clone(), path.clone()))).collect();
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        for (id, set) in &mut owners {
            if id == applier {
                *set = without_server_owned(std::mem::take(set));
            } else {
                set.retain(|path| !changed.contains(path) && !removed.contains(path));
            }
        }
        owners.retain(|_, set| !set.is_empty());
        Ok((new, owners))
    }
}

fn without_server_owned(paths: Paths) -> Paths {
    let dotted = |path: &Path| path.iter().map(PathElement::text).collect::<String>();
    paths.into_iter().filter(|path| !SERVER_OWNED.contains(&dotted(path).trim_start_matches('.'))).collect()
}

fn filtered(filter: &Filter, paths: Paths) -> Paths {
    let Filter::Except(out) = filter else { return paths };
    paths.into_iter().filter(|path| !(1..=path.len()).any(|n| out.has(&path[..n]))).collect()
}
