//! What one object added to, changed in and removed from another, as field sets.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    path::{PathElement, same},
    set::{Entry, FieldSet},
    typed::{Atom, Form, Items, ListAtom, MapAtom, Schema, TypeRef},
};

/// The difference between two objects of a type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Comparison {
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// All three sets, each filtered.
    pub(super) fn map(self, f: impl Fn(FieldSet) -> FieldSet) -> Comparison {
        Comparison { added: f(self.added), modified: f(self.modified), removed: f(self.removed) }
    }

    fn add_below(&mut self, element: &PathElement, below: Comparison) {
        self.added.add_below(element.clone(), below.added);
        self.modified.add_below(element.clone(), below.modified);
        self.removed.add_below(element.clone(), below.removed);
    }
}

/// What happened at one place: to the place itself, and below it.
#[derive(Default)]
struct Change {
    added: bool,
    modified: bool,
    removed: bool,
    below: Comparison,
}

impl Change {
    fn record(self, element: &PathElement, out: &mut Comparison) {
        for (happened, set) in [(self.added, &mut out.added), (self.modified, &mut out.modified), (self.removed, &mut out.removed)] {
            if happened {
                set.add(element.clone());
            }
        }
        out.add_below(element, self.below);
    }
}

/// Compares two objects that both have the shape of `ty` (duplicates allowed).
pub(super) fn compare(schema: Schema<'_>, ty: TypeRef<'_>, old: &Value, new: &Value) -> Comparison {
    Walk { schema }.place(ty, Some(old), Some(new)).below
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    schema: Schema<'a>,
}

impl<'a> Walk<'a> {
    fn place(self, ty: TypeRef<'a>, old: Option<&Value>, new: Option<&Value>) -> Change {
        match (old, new) {
            (None, Some(new)) => {
                return Change {
                    added: true,
                    below: Comparison { added: self.whole(ty, new), ..Comparison::default() },
                    ..Change::default()
                };
            }
            (Some(old), None) => {
                return Change {
                    removed: true,
                    below: Comparison { removed: self.whole(ty, old), ..Comparison::default() },
                    ..Change::default()
                };
            }
            _ if old == new => return Change::default(),
            _ => {}
        }
        let atom = self.schema.resolve(ty);
        let (old_atom, new_atom) = (atom.narrowed(old), atom.narrowed(new));
        let mut change = Change::default();
        if !old_atom.same_forms(&new_atom) {
            // The value changed its form: each form is seen through its own eyes.
            self.form(&old_atom, old, new, &mut change);
        }
        self.form(&new_atom, old, new, &mut change);
        change
    }

    fn form(self, atom: &Atom<'a>, old: Option<&Value>, new: Option<&Value>, change: &mut Change) {
        let leaf = |change: &mut Change| change.modified |= old.zip(new).is_some_and(|(old, new)| !same(old, new));
        match atom.form() {
            Form::Scalar(_) => leaf(change),
            Form::List(list) => {
                let (a, b) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
                // Empty and null are told apart by treating them as leaves.
                if matches!(list.items, Items::Atomic) || (a.is_none_or(Vec::is_empty) && b.is_none_or(Vec::is_empty)) {
                    return leaf(change);
                }
                self.items(&list, a.map_or(&[], Vec::as_slice), b.map_or(&[], Vec::as_slice), &mut change.below);
            }
            Form::Map(map) => {
                let (a, b) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
                if map.atomic || (a.is_none_or(Map::is_empty) && b.is_none_or(Map::is_empty)) {
                    return leaf(change);
                }
                self.fields(&map, a, b, &mut change.below);
            }
        }
    }

    /// What is below a place that is there on one side alone. Creations are nothing else.
    fn whole(self, ty: TypeRef<'a>, value: &Value) -> FieldSet {
        let entry = |element, ty, value| Entry { element, member: true, children: self.whole(ty, value) };
        let mut entries: Vec<Entry> = match (self.schema.resolve(ty).narrowed(Some(value)).form(), value) {
            (Form::Map(map), Value::Object(fields)) if !map.atomic => {
                let typed = fields.iter().filter_map(|(key, value)| Some((key, map.value_type(key)?, value)));
                typed.map(|(key, ty, value)| entry(PathElement::field(key), ty, value)).collect()
            }
            (Form::List(list), Value::Array(items)) if !matches!(list.items, Items::Atomic) => {
                let keyed = items.iter().filter_map(|item| Some((self.schema.item_element(&list, item).ok()?, item)));
                keyed.map(|(element, item)| entry(element, list.element, item)).collect()
            }
            _ => return FieldSet::new(),
        };
        entries.sort_by(|a, b| a.element.cmp(&b.element));
        // Items that share a key are owned together, without their fields.
        entries.dedup_by(|later, first| {
            let same = later.element == first.element;
            if same {
                first.children = FieldSet::new();
            }
            same
        });
        FieldSet { entries }
    }

    fn fields(self, map: &MapAtom<'a>, old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, out: &mut Comparison) {
        let mut visit = |key: &str, a: Option<&Value>, b: Option<&Value>| {
            if a == b {
                return;
            }
            if let Some(ty) = map.value_type(key) {
                self.place(ty, a, b).record(&PathElement::field(key), out);
            }
        };
        for (key, value) in old.into_iter().flatten() {
            visit(key, Some(value), new.and_then(|new| new.get(key)));
        }
        for (key, value) in new.into_iter().flatten() {
            if !old.is_some_and(|old| old.contains_key(key)) {
                visit(key, None, Some(value));
            }
        }
    }

    fn items(self, list: &ListAtom<'a>, old: &[Value], new: &[Value], out: &mut Comparison) {
        let mut pairs: BTreeMap<PathElement, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for item in old {
            if let Ok(element) = self.schema.item_element(list, item) {
                pairs.entry(element).or_default().0.push(item);
            }
        }
        for item in new {
            if let Ok(element) = self.schema.item_element(list, item) {
                pairs.entry(element).or_default().1.push(item);
            }
        }
        for (element, (before, after)) in pairs {
            self.item(list, &element, &before, &after, out);
        }
    }

    /// Items that share a key are owned together: the key stands for all of them, without their fields.
    fn item(self, list: &ListAtom<'a>, element: &PathElement, before: &[&Value], after: &[&Value], out: &mut Comparison) {
        match (before, after) {
            ([_, _, ..], [_, _, ..]) => {
                if before.len() != after.len() || !before.iter().zip(after).all(|(a, b)| same(a, b)) {
                    out.modified.add(element.clone());
                }
            }
            ([_, _, ..], _) => {
                if let Some(only) = after.first() {
                    self.place(list.element, None, Some(only)).record(element, out);
                }
                out.removed.add(element.clone());
            }
            (_, [_, _, ..]) => {
                if let Some(only) = before.first() {
                    self.place(list.element, Some(only), None).record(element, out);
                }
                out.added.add(element.clone());
            }
            _ => self.place(list.element, before.first().copied(), after.first().copied()).record(element, out),
        }
    }
}
