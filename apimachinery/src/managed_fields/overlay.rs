//! A configuration laid over an object by nobody: merged as an apply merges, with no owner before or after.

use serde_json::Value;

use super::{
    Root,
    merge::merge,
    path::{PathElement, text},
    typed::{Form, Items, Schema, TypeRef},
    validate::validate,
};
use crate::schema::Types;

/// `live` with `config` laid over it, both of one version and kind.
///
/// # Errors
/// In upstream's words, where the configuration does not have the shape of the kind, or names something that is only replaced whole:
/// whoever lays it does not know what else is in there.
pub fn overlay(types: &Types, root: Root, live: &Value, config: &Value) -> Result<Value, String> {
    let schema = Schema::new(types);
    let ty = schema.root(root);
    validate(schema, ty, config, false).map_err(|e| format!("failed to convert patch object to typed object: {e}"))?;
    let mut atomics = Vec::new();
    find_atomics(schema, ty, config, &mut Vec::new(), &mut atomics);
    if !atomics.is_empty() {
        let atomics = atomics.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {atomics}"));
    }
    validate(schema, ty, live, true).map_err(|e| format!("failed to convert original object to typed object: {e}"))?;
    Ok(merge(schema, ty, live, config))
}

/// The places that are owned whole. Keys of maps that are no fields are not looked into, as upstream has it.
fn find_atomics(schema: Schema<'_>, ty: TypeRef<'_>, value: &Value, path: &mut Vec<PathElement>, found: &mut Vec<String>) {
    match (schema.resolve(ty).narrowed(Some(value)).form(), value) {
        (Form::Map(map), Value::Object(members)) => {
            if map.atomic {
                found.push(text(path));
            }
            for (name, member) in members {
                let Some(ty) = map.named(name).and_then(|_| map.value_type(name)) else { continue };
                path.push(PathElement::field(name));
                find_atomics(schema, ty, member, path, found);
                path.pop();
            }
        }
        (Form::List(list), Value::Array(items)) => {
            if matches!(list.items, Items::Atomic) {
                found.push(text(path));
            }
            for (at, item) in items.iter().enumerate() {
                path.push(PathElement::Index(at as i64));
                find_atomics(schema, list.element, item, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema;

    #[test]
    fn a_configuration_is_merged_and_may_not_replace_what_is_owned_whole() {
        let types = schema::builtin();
        let root = Root::Builtin(types.by_kind("apps", "v1", "Deployment").unwrap());
        let live = json!({
            "metadata": {"labels": {"a": "1"}},
            "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
        });
        let laid = |config: Value| overlay(types, root, &live, &config);
        let config = json!({
            "metadata": {"labels": {"b": "2"}},
            "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "c", "env": [{"name": "e", "value": "v"}]}]}}},
        });
        assert_eq!(
            laid(config).unwrap(),
            json!({
                "metadata": {"labels": {"a": "1", "b": "2"}},
                "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "e", "value": "v"}]}]}}},
            })
        );
        assert_eq!(
            laid(json!({"spec": {"selector": {"matchLabels": {"x": "y"}}}})),
            Err("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector".to_owned())
        );
        assert_eq!(
            laid(json!({"spec": {"absent": 1}})),
            Err("failed to convert patch object to typed object: .spec.absent: field not declared in schema".to_owned())
        );
    }
}
