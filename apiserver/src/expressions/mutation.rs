//! Expressions that make a change: an apply configuration, or a JSON patch.

use std::sync::{Arc, LazyLock};

use cel::{Env, admission};
use serde_json::Value;

use super::{ALL_VARIABLES, Expression, Kept, OUT_OF_BUDGET, Variables};

/// What the expression makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    ApplyConfiguration,
    JsonPatch,
}

impl Change {
    /// The type that the expression must have.
    fn wanted(self) -> &'static str {
        match self {
            Change::ApplyConfiguration => "Object",
            Change::JsonPatch => "list(JSONPatch)",
        }
    }
}

static COMPILED: LazyLock<Kept<(Change, String), Mutation>> = LazyLock::new(Kept::default);
static IN_FORCE: LazyLock<Env> = LazyLock::new(|| admission::declare(Env::for_stored(), &ALL_VARIABLES).with_mutation());

/// A compiled expression of a mutation.
pub struct Mutation {
    change: Change,
    expression: Expression,
}

impl Mutation {
    /// Compiles an expression that may use these variables, and `variables.<name>` which other expressions compose. The error is in
    /// upstream's words.
    pub fn compile(change: Change, text: &str, variables: &[&str], composed: &[(String, cel::Type)]) -> Result<Mutation, String> {
        let env = admission::compose(admission::declare(Env::for_new(), variables), composed).with_mutation();
        let expression = Expression::compiled(text, &env)?;
        let found = expression.result_type().declared();
        if found != change.wanted() {
            return Err(format!("must evaluate to {} but got {found}", change.wanted()));
        }
        Ok(Mutation { change, expression })
    }

    /// An expression of an object that is in force: it was checked when the object was written.
    pub fn in_force(change: Change, text: &str) -> Result<Arc<Mutation>, String> {
        COMPILED.get((change, text.to_owned()), || Ok(Mutation { change, expression: Expression::compiled(text, &IN_FORCE)? }))
    }

    pub fn change(&self) -> Change {
        self.change
    }

    /// The configuration, or the patch as the document that a client would send.
    pub fn evaluate(&self, variables: &Variables) -> Result<Value, String> {
        let activation = variables.activation();
        let value = variables.evaluate(&self.expression.program, &activation).ok_or(OUT_OF_BUDGET)?;
        let value = value.map_err(|error| format!("expression '{}' resulted in error: {error}", self.expression.text))?;
        let mut misnamed = Vec::new();
        match (self.change, &value) {
            (Change::ApplyConfiguration, cel::Value::Object(_)) => check_names(&value, "Object", &mut misnamed),
            (Change::ApplyConfiguration, other) => {
                return Err(format!("unsupported return type from ApplyConfiguration expression: {}", other.type_name()));
            }
            (Change::JsonPatch, cel::Value::List(operations)) => {
                for operation in operations.iter() {
                    if let Ok(cel::Value::Object(operation)) = operation
                        && let Some(object @ cel::Value::Object(_)) = operation.get("value")
                    {
                        check_names(object, "Object", &mut misnamed);
                    }
                }
            }
            (Change::JsonPatch, _) => return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned()),
        }
        if !misnamed.is_empty() {
            return Err(format!("type mismatch: {}", misnamed.join("\n")));
        }
        value.to_json().map_err(|error| error.to_string())
    }
}

/// The types in an object must be named as the way to them.
fn check_names(value: &cel::Value<'_>, way: &str, misnamed: &mut Vec<String>) {
    match value {
        cel::Value::Object(object) => {
            if &*object.type_name != way {
                let found = &object.type_name;
                misnamed
                    .push(format!("unexpected type name {found:?}, expected {way:?}, which matches field name path from root Object type"));
            }
            for (name, field) in &object.fields {
                check_names(field, &format!("{way}.{name}"), misnamed);
            }
        }
        cel::Value::List(cel::List::Owned(items)) => items.iter().for_each(|item| check_names(item, way, misnamed)),
        cel::Value::Map(cel::Map::Owned(entries)) => entries.iter().for_each(|(_, value)| check_names(value, way, misnamed)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(change: Change, text: &str) -> Result<Value, String> {
        let object = json!({ "spec": { "replicas": 3 }, "metadata": { "name": "a", "labels": { "x": "y" } } });
        let variables = Variables::default().with("object", object);
        Mutation::compile(change, text, &["object"], &[])?.evaluate(&variables)
    }

    #[test]
    fn a_configuration_is_what_the_expression_makes() {
        assert_eq!(
            made(Change::ApplyConfiguration, "Object{spec: Object.spec{replicas: object.spec.replicas + 1}}"),
            Ok(json!({ "spec": { "replicas": 4 } }))
        );
        assert_eq!(
            made(
                Change::ApplyConfiguration,
                "Object{metadata: Object.metadata{annotations: {'a': object.metadata.name}}, spec: Object.spec{containers: [Object.spec.containers{name: 'c'}]}}"
            ),
            Ok(json!({ "metadata": { "annotations": { "a": "a" } }, "spec": { "containers": [{ "name": "c" }] } }))
        );
        assert_eq!(
            made(Change::ApplyConfiguration, "Object{spec: Object.wrong{replicas: 1}}"),
            Err(r#"type mismatch: unexpected type name "Object.wrong", expected "Object.spec", which matches field name path from root Object type"#
                .to_owned())
        );
        assert_eq!(made(Change::ApplyConfiguration, "{'a': 1}"), Err("must evaluate to Object but got map(string, int)".to_owned()));
    }

    #[test]
    fn a_patch_is_a_list_of_operations() {
        assert_eq!(
            made(
                Change::JsonPatch,
                "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}, JSONPatch{op: 'remove', path: '/spec'}]"
            ),
            Ok(json!([{ "op": "add", "path": "/metadata/labels/a~1b", "value": "c" }, { "op": "remove", "path": "/spec" }]))
        );
        assert_eq!(made(Change::JsonPatch, "true"), Err("must evaluate to list(JSONPatch) but got bool".to_owned()));
    }
}
