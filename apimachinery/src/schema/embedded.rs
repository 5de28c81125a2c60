//! Objects inside objects (`runtime.RawExtension`) keep the very text that they were sent with.
//!
//! Upstream carries such an object as bytes. What a client sees of that: protobuf gives the text back as it came, and a field that
//! must not change has changed when its text has, be it by a space. So where the text is not the one that this server would write,
//! it travels as a member of the object: [`crate::protobuf`] writes it in place of the object, stores keep it, and whoever shows an
//! object as JSON forgets it first.

use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Type, TypeId, Types};
use crate::json;

/// The name of the member that has the text. A member that a client calls so is lost from what JSON shows, not from the text.
pub const TEXT: &str = "\u{0}text";

/// How deep an embedded object's place is looked for.
const MAX_DEPTH: usize = 16;

/// One step on the way to an embedded object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Member(Box<str>),
    /// Every item of a list.
    Each,
}

/// The way to embedded objects from the root of an object.
pub type Place = Vec<Step>;

/// Where objects of a type have others in them.
pub fn places(types: &Types, id: TypeId) -> Vec<Place> {
    Search { types, empty: HashSet::new() }.below(&Type::Struct(id), 0)
}

struct Search<'t> {
    types: &'t Types,
    /// Structs below which there is nothing embedded, however deep.
    empty: HashSet<TypeId>,
}

impl Search<'_> {
    /// The ways from a value of this type.
    fn below(&mut self, ty: &Type, depth: usize) -> Vec<Place> {
        match ty {
            _ if depth > MAX_DEPTH => Vec::new(),
            Type::RawExtension => vec![Place::new()],
            Type::List(list) => self.through(&Step::Each, &list.item, depth),
            Type::Struct(id) if self.is_empty(*id) => Vec::new(),
            Type::Struct(id) => {
                let types = self.types;
                let fields = types.get(*id).fields.iter();
                fields.flat_map(|field| self.through(&Step::Member(field.json.clone()), &field.ty, depth)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn through(&mut self, step: &Step, ty: &Type, depth: usize) -> Vec<Place> {
        let below = self.below(ty, depth + 1);
        below.into_iter().map(|place| std::iter::once(step.clone()).chain(place).collect()).collect()
    }

    fn is_empty(&mut self, id: TypeId) -> bool {
        let mut seen = HashSet::from([id]);
        let mut left = vec![id];
        while let Some(next) = left.pop() {
            if self.empty.contains(&next) {
                continue;
            }
            for field in &self.types.get(next).fields {
                let mut ty = &field.ty;
                while let Type::List(list) = ty {
                    ty = &list.item;
                }
                match ty {
                    Type::RawExtension => return false,
                    Type::Struct(below) if seen.insert(*below) => left.push(*below),
                    _ => {}
                }
            }
        }
        self.empty.extend(seen);
        true
    }
}

/// The text that an embedded object was sent with, if it is not what [`json::to_string`] makes of it.
pub fn text(object: &Value) -> Option<&str> {
    object.as_object()?.get(TEXT)?.as_str()
}

/// Notes the text of an embedded object, if it has to be kept.
pub fn keep(object: &mut Value, text: &str) {
    let differs = json::to_string(object) != text;
    let Some(members) = object.as_object_mut() else { return };
    if differs || members.contains_key(TEXT) {
        members.insert(TEXT.to_owned(), Value::from(text));
    }
}

/// Notes the texts of all embedded objects of a document that was read from JSON.
pub fn keep_all(places: &[Place], document: &mut Value, json: &[u8]) {
    if places.is_empty() {
        return;
    }
    let Ok(text) = serde_json::from_slice::<&RawValue>(json) else { return };
    for place in places {
        keep_at(place, document, text);
    }
}

fn keep_at(place: &[Step], value: &mut Value, text: &RawValue) {
    match place.split_first() {
        None => keep(value, text.get()),
        Some((Step::Member(name), rest)) => {
            let Some(member) = value.get_mut(&**name) else { return };
            let members = serde_json::from_str::<HashMap<String, &RawValue>>(text.get()).unwrap_or_default();
            if let Some(text) = members.get(&**name) {
                keep_at(rest, member, text);
            }
        }
        Some((Step::Each, rest)) => {
            let items = value.as_array_mut().into_iter().flatten();
            let texts = serde_json::from_str::<Vec<&RawValue>>(text.get()).unwrap_or_default();
            items.zip(texts).for_each(|(item, text)| keep_at(rest, item, text));
        }
    }
}

/// Forgets all texts; whether there was one.
pub fn forget(places: &[Place], document: &mut Value) -> bool {
    let mut any = false;
    each(places, document, &mut |members| any |= members.shift_remove(TEXT).is_some());
    any
}

/// The document without texts, if it has any.
pub fn without_texts(places: &[Place], document: &Value) -> Option<Value> {
    if places.is_empty() {
        return None;
    }
    let mut copy = document.clone();
    forget(places, &mut copy).then_some(copy)
}

/// Writes embedded objects anew with sorted members, as upstream does wherever an object went through its untyped form.
pub fn rewrite(places: &[Place], document: &mut Value) {
    each(places, document, &mut |members| {
        members.shift_remove(TEXT);
        sort(members);
    });
}

fn sort(members: &mut Map<String, Value>) {
    members.sort_keys();
    members.values_mut().for_each(sort_below);
}

fn sort_below(value: &mut Value) {
    match value {
        Value::Object(members) => sort(members),
        Value::Array(items) => items.iter_mut().for_each(sort_below),
        _ => {}
    }
}

/// Visits the embedded objects that are there.
fn each(places: &[Place], document: &mut Value, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    for place in places {
        each_at(place, document, visit);
    }
}

fn each_at(place: &[Step], value: &mut Value, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    match place.split_first() {
        None => {
            if let Some(members) = value.as_object_mut() {
                visit(members);
            }
        }
        Some((Step::Member(name), rest)) => {
            if let Some(member) = value.get_mut(&**name) {
                each_at(rest, member, visit);
            }
        }
        Some((Step::Each, rest)) => {
            value.as_array_mut().into_iter().flatten().for_each(|item| each_at(rest, item, visit));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema;

    fn places_of(group: &str, version: &str, kind: &str) -> Vec<Place> {
        let types = schema::builtin();
        places(types, types.by_kind(group, version, kind).unwrap())
    }

    #[test]
    fn embedded_objects_are_found_in_lists_too() {
        let member = |name: &str| Step::Member(name.into());
        assert_eq!(places_of("apps", "v1", "ControllerRevision"), [vec![member("data")]]);
        assert_eq!(
            places_of("resource.k8s.io", "v1", "DeviceClass"),
            [vec![member("spec"), member("config"), Step::Each, member("opaque"), member("parameters")]]
        );
        assert_eq!(places_of("apps", "v1", "Deployment"), [] as [Place; 0]);
    }

    #[test]
    fn a_text_is_kept_where_it_is_not_what_would_be_written() {
        let places = places_of("apps", "v1", "ControllerRevision");
        for (body, kept) in [
            (r#"{"data":{"b":1,"a":"x"}}"#, None),
            (r#"{"data" : {"a":1} }"#, None),
            (r#"{"data":{"a": 1}}"#, Some(r#"{"a": 1}"#)),
            (r#"{"data":{"a":"<"}}"#, Some(r#"{"a":"<"}"#)),
            (r#"{"data":[1, 2]}"#, None),
            (r#"{"data":null}"#, None),
        ] {
            let mut value: Value = serde_json::from_str(body).unwrap();
            let plain = value.clone();
            keep_all(&places, &mut value, body.as_bytes());
            assert_eq!(text(&value["data"]), kept, "{body}");
            assert_eq!(forget(&places, &mut value), kept.is_some());
            assert_eq!(value, plain);
        }
    }

    #[test]
    fn a_member_that_has_the_name_of_the_text_is_in_the_text() {
        let places = places_of("apps", "v1", "ControllerRevision");
        let body = r#"{"data":{"\u0000text":"mine"}}"#;
        let mut value: Value = serde_json::from_str(body).unwrap();
        keep_all(&places, &mut value, body.as_bytes());
        assert_eq!(text(&value["data"]), Some(r#"{"\u0000text":"mine"}"#));
    }

    #[test]
    fn what_is_written_anew_has_its_members_sorted_and_no_text() {
        let mut value = json!({"data": {"b": [{"d": 1, "c": 2}], "a": 1, TEXT: "{ }"}});
        rewrite(&places_of("apps", "v1", "ControllerRevision"), &mut value);
        assert_eq!(value.to_string(), r#"{"data":{"a":1,"b":[{"c":2,"d":1}]}}"#);
    }
}
