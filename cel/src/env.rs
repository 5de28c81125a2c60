//! What expressions may name: variables, types of objects, functions.

use std::collections::HashMap;
use std::sync::Arc;

use crate::functions::{self, Function, Library};
use crate::schema::ObjectTypes;
use crate::types::Type;

/// Types whose names are values.
const TYPES: [(&str, Type); 10] = [
    ("bool", Type::Bool),
    ("bytes", Type::Bytes),
    ("double", Type::Double),
    ("google.protobuf.Duration", Type::Duration),
    ("int", Type::Int),
    ("null_type", Type::Null),
    ("string", Type::String),
    ("google.protobuf.Timestamp", Type::Timestamp),
    ("uint", Type::Uint),
    ("type", Type::Type(None)),
];

/// Types that Kubernetes' libraries bring.
const OPAQUE: [&str; 2] = ["net.IP", "net.CIDR"];

/// An environment that expressions are compiled in.
#[derive(Clone, Debug)]
pub struct Env {
    variables: HashMap<String, Type>,
    objects: ObjectTypes,
    libraries: Vec<Library>,
    bindings: bool,
}

impl Env {
    /// For expressions as they are written: nothing that the version before this one would not understand.
    pub fn for_new() -> Env {
        Env { variables: HashMap::new(), objects: HashMap::new(), libraries: vec![Library::Base], bindings: false }
    }

    /// For expressions that are in force: all that this version understands.
    pub fn for_stored() -> Env {
        Env { libraries: vec![Library::Base, Library::Includes], ..Env::for_new() }
    }

    /// Declares a variable; its name may have dots.
    pub fn with_variable(mut self, name: &str, ty: Type) -> Env {
        self.variables.insert(name.to_owned(), ty);
        self
    }

    /// Declares the fields of object types.
    pub fn with_objects(mut self, objects: ObjectTypes) -> Env {
        self.objects.extend(objects);
        self
    }

    /// Declares the fields of one object type.
    pub fn with_object(mut self, name: &str, fields: &[(&str, Type)]) -> Env {
        let fields = fields.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone())).collect();
        self.objects.insert(name.into(), fields);
        self
    }

    /// Lets `cel.bind(name, value, within)` name a value within an expression.
    pub fn with_bindings(mut self) -> Env {
        self.bindings = true;
        self
    }

    pub(crate) fn has_bindings(&self) -> bool {
        self.bindings
    }

    /// Declares what mutations are made of: `Object` with any fields beneath, `JSONPatch`, and `jsonpatch.escapeKey`.
    pub fn with_mutation(mut self) -> Env {
        self.libraries.push(Library::JsonPatch);
        let text = Type::String;
        let fields = [("op", text.clone()), ("path", text.clone()), ("from", text), ("value", Type::Dyn)];
        self.with_object("JSONPatch", &fields)
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&Type> {
        self.variables.get(name)
    }

    pub(crate) fn function(&self, name: &str) -> Option<Arc<Function>> {
        functions::find(name, &self.libraries)
    }

    /// The type of a name, if it names a type.
    pub(crate) fn named_type(&self, name: &str) -> Option<Type> {
        if let Some((_, ty)) = TYPES.iter().find(|(known, _)| *known == name) {
            return Some(ty.clone());
        }
        match name {
            "list" => Some(Type::list(Type::Dyn)),
            "map" => Some(Type::map(Type::Dyn, Type::Dyn)),
            "optional_type" => Some(Type::optional(Type::param("V"))),
            _ if OPAQUE.contains(&name) => Some(Type::opaque(name)),
            _ if self.objects.contains_key(name) || self.is_apply(name) => Some(Type::object(name)),
            _ => None,
        }
    }

    /// Whether it is a part of an apply configuration: `Object`, `Object.spec`, ….
    fn is_apply(&self, name: &str) -> bool {
        self.libraries.contains(&Library::JsonPatch)
            && name.strip_prefix("Object").is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// The type of a field of an object; none if there is no such type, or no such field of it.
    pub(crate) fn field(&self, object: &str, field: &str) -> Option<Option<Type>> {
        if self.is_apply(object) {
            return Some(Some(Type::Dyn));
        }
        self.objects.get(object).map(|fields| fields.get(field).cloned())
    }
}
