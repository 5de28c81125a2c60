//! The form of the objects of one version of a custom resource: how they are read, completed and put in order.
//!
//! What decoding, defaulting and canonical form are for built-in types, this is for custom ones. Members are sorted by name, as
//! upstream writes what it holds as a map.

use std::sync::OnceLock;

use apimachinery::field::ErrorList;
use apimachinery::schema::canonical::{Empties, canonicalize};
use apimachinery::schema::{TypeId, Types, builtin, decode};
use bytes::Bytes;
use serde_json::{Map, Number, Value};

use super::rules::{self, Rules};
use super::schema::Schema;
use super::{prune, types};
use crate::registry::read::{at, list_at, str_at};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Integers beyond this are written with an exponent, as floats.
const MAX_PLAIN_FLOAT: f64 = 9e15;

/// One version of a custom kind.
pub struct Form {
    declared: Declared,
    /// Made when the first object is handled: most of the kinds that a cluster has are not in use, and what a schema becomes takes many
    /// times the room of its text.
    compiled: OnceLock<Compiled>,
    /// Made when the first fields are owned.
    types: OnceLock<Types>,
    /// What a request to this version is warned of.
    pub deprecation: Option<String>,
    /// The definition is being deleted: nothing is created any more.
    pub terminating: bool,
    /// The paths of the scale subresource, if there is one.
    pub scale: Option<super::scale::Paths>,
}

/// Where a version is declared: the text of the whole definition, which storage has as well, and the version's name.
pub struct Declared {
    pub definition: Bytes,
    pub version: Box<str>,
}

struct Compiled {
    schema: Schema,
    /// The rules in CEL, if there are any.
    rules: Option<Rules>,
}

impl Declared {
    /// The version as it is written.
    pub fn read(&self) -> Value {
        let definition: Value = serde_json::from_slice(&self.definition).expect("storage holds JSON");
        let mut versions = list_at(&definition, "/spec/versions").iter();
        versions.find(|version| str_at(version, "/name") == &*self.version).cloned().unwrap_or_default()
    }
}

impl Form {
    pub fn new(declared: Declared, deprecation: Option<String>, terminating: bool, scale: Option<super::scale::Paths>) -> Form {
        Form { declared, compiled: OnceLock::new(), types: OnceLock::new(), deprecation, terminating, scale }
    }

    /// A form for tests.
    #[cfg(test)]
    pub fn of_schema(schema: &Value) -> Form {
        let definition = serde_json::json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
        let declared = Declared { definition: definition.to_string().into(), version: "v1".into() };
        Form::new(declared, None, false, None)
    }

    fn compiled(&self) -> &Compiled {
        self.compiled.get_or_init(|| {
            let version = self.declared.read();
            let schema = at(&version, "/schema/openAPIV3Schema");
            Compiled { schema: Schema::read(schema), rules: Rules::read(schema) }
        })
    }

    pub fn schema(&self) -> &Schema {
        &self.compiled().schema
    }

    fn rules(&self) -> Option<&Rules> {
        self.compiled().rules.as_ref()
    }

    /// The schema as types; the root is [`types::ROOT`].
    pub fn types(&self) -> &Types {
        self.types.get_or_init(|| types::types(self.schema()))
    }

    /// Checks metadata, prunes, and returns the paths of unknown fields; the error is the reason why the object cannot be read.
    pub fn read(&self, object: &mut Value) -> Result<Vec<String>, String> {
        normalize_numbers(object);
        let mut unknown = prune::prune(self.schema(), object);
        let mut in_metadata = Vec::new();
        coerce(Some(self.schema()), true, object, "", &mut in_metadata)?;
        in_metadata.sort();
        unknown.extend(in_metadata);
        Ok(unknown)
    }

    /// Defaults an object that has been read, and sorts its members.
    pub fn complete(&self, object: &mut Value) {
        prune::drop_nulls(self.schema(), object);
        prune::default(self.schema(), object);
        self.sort(object);
    }

    /// Defaults the outcome of an apply, and sorts its members. Nulls stay where no default replaces them: nobody has read this object
    /// from a request, so that it is refused for what its applier left of it.
    pub fn complete_applied(&self, object: &mut Value) {
        prune::default(self.schema(), object);
        self.sort(object);
    }

    /// Makes an object of another version one of this one: what this version does not have goes, without a word.
    pub fn fit(&self, object: &mut Value) {
        prune::prune(self.schema(), object);
        prune::drop_nulls(self.schema(), object);
        self.sort(object);
    }

    /// Makes an object that a webhook has converted one of this version. An error says why it cannot be read.
    pub fn adopt(&self, object: &mut Value) -> Result<(), String> {
        self.read(object)?;
        prune::drop_nulls(self.schema(), object);
        self.sort(object);
        Ok(())
    }

    /// The first field that this version does not have.
    pub fn undeclared(&self, object: &Value) -> Option<String> {
        prune::prune(self.schema(), &mut object.clone()).into_iter().next()
    }

    /// Adds what the rules in CEL refuse, if the object is sound enough for them to be asked.
    pub fn check_rules(&self, new: &Value, old: Option<&Value>, errors: &mut ErrorList) {
        let Some(rules) = self.rules() else { return };
        match rules::blocked(errors) {
            Some(error) => errors.push(error),
            None => errors.extend(rules.run(new, old).errors),
        }
    }

    /// What the rules in CEL would refuse had it not been so before.
    pub fn rule_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        self.rules().map(|rules| rules.run(new, Some(old)).warnings).unwrap_or_default()
    }

    fn sort(&self, object: &mut Value) {
        if let (Some(id), Some(metadata)) = (object_meta(), object.get_mut("metadata")) {
            canonicalize(builtin(), id, metadata, Empties::Keep);
        }
        object.sort_all_objects();
    }
}

fn object_meta() -> Option<TypeId> {
    builtin().lookup(OBJECT_META)
}

/// Reads the metadata of an object and of those embedded in it as ObjectMeta.
fn coerce(schema: Option<&Schema>, embedded: bool, value: &mut Value, path: &str, unknown: &mut Vec<String>) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            if embedded {
                type_meta(map, path)?;
                if let Some(metadata) = map.get_mut("metadata") {
                    read_metadata(metadata, path, unknown)?;
                }
            }
            let Some(schema) = schema else { return Ok(()) };
            for (key, value) in map.iter_mut() {
                if let Some(member) = schema.member(key) {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    coerce(Some(member), member.embedded, value, &path, unknown)?;
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            let Some(schema) = schema.and_then(|s| s.items.as_deref()) else { return Ok(()) };
            for (i, item) in items.iter_mut().enumerate() {
                coerce(Some(schema), schema.embedded, item, &format!("{path}[{i}]"), unknown)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn type_meta(map: &Map<String, Value>, path: &str) -> Result<(), String> {
    for field in ["apiVersion", "kind"] {
        if let Some(value) = map.get(field).filter(|v| !v.is_string()) {
            let at = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
            let at = apimachinery::field::Path::new(&at);
            return Err(apimachinery::field::Error::invalid(&at, value.clone(), "must be a string").to_string());
        }
    }
    Ok(())
}

fn read_metadata(metadata: &mut Value, path: &str, unknown: &mut Vec<String>) -> Result<(), String> {
    let Some(id) = object_meta() else { return Ok(()) };
    let found = decode::decode(builtin(), id, metadata).map_err(|error| match error {
        decode::Error::Value { found, go_type } if &*go_type == "ObjectMeta" => {
            decode::Error::Value { found, go_type: "v1.ObjectMeta".to_owned() }.to_string()
        }
        other => other.to_string(),
    })?;
    canonicalize(builtin(), id, metadata, Empties::Keep);
    let prefix = if path.is_empty() { "metadata".to_owned() } else { format!("{path}.metadata") };
    unknown.extend(found.iter().map(|field| format!("{prefix}.{field}")));
    Ok(())
}

/// Whole floats are integers: that is how they come back from the store.
fn normalize_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|f| number.is_f64() && f.fract() == 0.0 && f.abs() < MAX_PLAIN_FLOAT) {
                *number = Number::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalize_numbers),
        Value::Object(map) => map.values_mut().for_each(normalize_numbers),
        _ => {}
    }
}
