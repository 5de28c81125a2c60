//! The schema of a version: which words of OpenAPI it may use, and where.

use apimachinery::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::internal::{SCHEMA, present, shown_schema};
use super::tolerance::{Rules, TYPES};
use super::traverse::{MAX_DEPTH, sorted_entries};
use super::{default_rules, expression_rules, field_path, list_type_rules, structural};
use crate::registry::read::{bool_at, list_at, str_at};

/// The fields that may stand at the root if the status has an endpoint of its own, in upstream's order.
const AT_ROOT: [&str; 22] = [
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
];

const META_FIELDS: [&str; 3] = ["metadata", "kind", "apiVersion"];
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// The validation of a version, or of all, for which the name of the first stands; `path` is that of its `openAPIV3Schema`'s parent.
pub fn validate(schema: &Value, version: &str, has_status: bool, must_be_structural: bool, rules: &Rules, path: &Path<'_>) -> ErrorList {
    let path = path.child("openAPIV3Schema");
    let mut errors = ErrorList::new();
    if has_status {
        errors.extend(validate_root(schema, &path));
    }
    if bool_at(schema, "/nullable") {
        errors.push(Error::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    let mut has_sound_form = false;
    let problem = if must_be_structural { structural::problem(schema) } else { None };
    if must_be_structural && problem.is_none() {
        let mut structure = structural::validate(schema, &path);
        if structure.is_empty() {
            structure.extend(default_rules::validate(schema, rules.pruned_defaults, &path));
        }
        has_sound_form = structure.is_empty();
        errors.extend(structure);
    }
    let context = Context { defaults: Defaults::Allowed, inside_meta: false, depth: MAX_DEPTH };
    let before = errors.len();
    validate_schema(schema, true, &context, rules, &path, &mut errors);
    if has_sound_form {
        let wrong: Vec<String> = errors[before..].iter().map(|error| error.field.to_string()).collect();
        errors.extend(expression_rules::validate(schema, &rules.in_force, rules.unchanged.contains(version), &wrong, &path));
    }
    // Why a schema cannot be read says no more than the rules that forbid it do, if one does.
    if errors.is_empty()
        && let Some(problem) = problem
    {
        errors.push(Error::invalid(&path, "", problem));
    }
    errors
}

fn validate_root(schema: &Value, path: &Path<'_>) -> Option<Error> {
    for (go, json, _) in SCHEMA.0 {
        let is_set = match schema.get(*json) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(_) => true,
        };
        if !is_set {
            continue;
        }
        if *go == "Type" {
            let kind = str_at(schema, "/type");
            if kind != "object" {
                let detail = r#"only "object" is allowed as the type at the root of the schema if the status subresource is enabled"#;
                return Some(Error::invalid(&path.child("type"), kind, detail));
            }
        } else if !AT_ROOT.contains(go) {
            let detail =
                format!("only [{}] fields are allowed at the root of the schema if the status subresource is enabled", AT_ROOT.join(" "));
            return Some(Error::invalid(path, shown_schema(schema), detail));
        }
    }
    None
}

/// Whether a schema may have a default, and if not, why.
#[derive(Clone)]
enum Defaults {
    Allowed,
    Forbidden(String),
}

/// What is known of a schema's surroundings.
#[derive(Clone)]
struct Context {
    defaults: Defaults,
    /// Within what every object has.
    inside_meta: bool,
    /// How many levels may still follow.
    depth: usize,
}

fn validate_schema(schema: &Value, is_root: bool, context: &Context, rules: &Rules, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(depth) = context.depth.checked_sub(1) else {
        errors.push(Error::forbidden(path, "nested too deeply"));
        return;
    };
    let context = Context { depth, ..context.clone() };
    errors.extend(validate_words(schema, &context, rules, path));
    if bool_at(schema, "/uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(Error::forbidden(&path.child("uniqueItems"), detail));
    }
    validate_fields(schema, is_root, &context, rules, path, errors);
    let mut inner = |schema: &Value, path: &Path<'_>| validate_schema(schema, false, &context, rules, path, errors);
    if let Some(not) = present(schema, "not") {
        inner(not, &path.child("not"));
    }
    for field in ["allOf", "oneOf", "anyOf"] {
        let path = path.child(field);
        for (i, schema) in schema.get(field).and_then(Value::as_array).into_iter().flatten().enumerate() {
            inner(schema, &path.index(i));
        }
    }
    let definitions = path.child("definitions");
    for (name, schema) in sorted_entries(schema, "definitions") {
        inner(schema, &definitions.key(name));
    }
    let items = path.child("items");
    match present(schema, "items") {
        Some(Value::Array(schemas)) => schemas.iter().enumerate().for_each(|(i, schema)| inner(schema, &items.index(i))),
        Some(schema) => inner(schema, &items),
        None => {}
    }
    let dependencies = path.child("dependencies");
    for (name, schema) in sorted_entries(schema, "dependencies").into_iter().filter(|(_, dependency)| dependency.is_object()) {
        inner(schema, &dependencies.key(name));
    }
    if present(schema, "x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        errors.push(Error::invalid(&path.child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined"));
    }
    errors.extend(list_type_rules::validate(schema, rules.atomic_sets, path));
    if rules.map_key_presence {
        errors.extend(list_type_rules::validate_presence(schema, path));
    }
    errors.extend(validate_expressions(schema, path));
}

/// Words that are forbidden, everywhere or here.
fn validate_words(schema: &Value, context: &Context, rules: &Rules, path: &Path<'_>) -> ErrorList {
    let kind = str_at(schema, "/type");
    let mut errors = ErrorList::new();
    if rules.valid_types && !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(Error::not_supported(&path.child("type"), kind, &TYPES));
    }
    if let Defaults::Forbidden(reason) = &context.defaults
        && present(schema, "default").is_some()
    {
        errors.push(Error::forbidden(&path.child("default"), format!("must not be set {reason}")));
    }
    let filled = |field: &str| present(schema, field).and_then(Value::as_object).is_some_and(|map| !map.is_empty());
    let unsupported = [
        ("id", !str_at(schema, "/id").is_empty()),
        ("additionalItems", present(schema, "additionalItems").is_some()),
        ("patternProperties", filled("patternProperties")),
        ("definitions", filled("definitions")),
        ("dependencies", present(schema, "dependencies").is_some()),
        ("$ref", present(schema, "$ref").is_some()),
    ];
    for (field, _) in unsupported.iter().filter(|(_, is_set)| *is_set) {
        errors.push(Error::forbidden(&path.child(field), format!("{field} is not supported")));
    }
    if kind == "null" {
        errors.push(Error::forbidden(&path.child("type"), "type cannot be set to null, use nullable as an alternative"));
    }
    if !list_at(schema, "/items").is_empty() {
        errors.push(Error::forbidden(&path.child("items"), "items must be a schema object and not an array"));
    }
    if context.inside_meta && bool_at(schema, "/x-kubernetes-embedded-resource") {
        errors.push(Error::forbidden(&path.child("x-kubernetes-embedded-resource"), "must not be used inside of resource meta"));
    }
    errors
}

/// Properties, or whatever else an object may have.
fn validate_fields(schema: &Value, is_root: bool, context: &Context, rules: &Rules, path: &Path<'_>, errors: &mut ErrorList) {
    let properties = sorted_entries(schema, "properties");
    if let Some(additional) = present(schema, "additionalProperties") {
        let path = path.child("additionalProperties");
        if !properties.is_empty() && *additional != Value::Bool(true) {
            errors.push(Error::forbidden(&path, "additionalProperties and properties are mutual exclusive"));
        }
        if additional.is_object() {
            let mut context = context.clone();
            if context.inside_meta {
                context.defaults = Defaults::Forbidden("inside additionalProperties applying to object metadata".to_owned());
            }
            validate_schema(additional, false, &context, rules, &path, errors);
        }
    }
    let path = path.child("properties");
    for (name, property) in properties {
        let mut context = context.clone();
        if (is_root || bool_at(schema, "/x-kubernetes-embedded-resource")) && META_FIELDS.contains(&name) {
            context.inside_meta = true;
            if is_root {
                context.defaults = Defaults::Forbidden(format!("in top-level {name}"));
            }
        }
        validate_schema(property, false, &context, rules, &path.key(name), errors);
    }
}

/// The form of expressions; whether they compile is looked at later.
fn validate_expressions(schema: &Value, path: &Path<'_>) -> ErrorList {
    let rules_path = path.child("x-kubernetes-validations");
    let breaks = |text: &str| text.contains(['\n', '\r']);
    let mut errors = ErrorList::new();
    for (i, rule) in list_at(schema, "/x-kubernetes-validations").iter().enumerate() {
        let path = rules_path.index(i);
        let (expression, message) = (str_at(rule, "/rule").trim(), str_at(rule, "/message"));
        let message_path = path.child("message");
        if expression.is_empty() {
            errors.push(Error::required(&path.child("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.push(Error::invalid(&message_path, message, "must be non-empty if specified"));
        } else if breaks(message.trim()) {
            errors.push(Error::invalid(&message_path, message, "must not contain line breaks"));
        } else if breaks(expression) && message.trim().is_empty() {
            errors.push(Error::required(&message_path, "message must be specified if rule contains line breaks"));
        }
        let message_expression = str_at(rule, "/messageExpression");
        if !message_expression.is_empty() && message_expression.trim().is_empty() {
            errors.push(Error::required(&path.child("messageExpression"), "messageExpression must be non-empty if specified"));
        }
        if let Some(reason) = rule.get("reason").and_then(Value::as_str).filter(|reason| !REASONS.contains(reason)) {
            errors.push(Error::not_supported(&path.child("reason"), reason, &REASONS));
        }
        let (field, field_path) = (str_at(rule, "/fieldPath"), path.child("fieldPath"));
        if !field.is_empty() && field.trim().is_empty() {
            errors.push(Error::invalid(&field_path, field, "must be non-empty if specified"));
        }
        if breaks(field) {
            errors.push(Error::invalid(&field_path, field, "must not contain line breaks"));
        }
        let known = || structural::problem(schema).is_some() || field_path::follow(field, schema, true).is_ok();
        if !field.is_empty() && !known() {
            errors.push(Error::invalid(&field_path, field, "must be a valid path"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: Value, has_status: bool) -> Vec<String> {
        validate(&schema, "v1", has_status, true, &Rules::for_create(), &Path::new("s")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn words_that_no_kind_needs_are_forbidden() {
        assert!(check(json!({"type": "object"}), true).is_empty());
        let errors = check(json!({"type": "object", "properties": {"a": {"type": "null", "uniqueItems": true, "$ref": "x"}}}), false);
        assert_eq!(
            errors,
            [
                r#"s.openAPIV3Schema.properties[a].type: Unsupported value: "null": supported values: "array", "boolean", "integer", "number", "object", "string""#,
                "s.openAPIV3Schema.properties[a].$ref: Forbidden: $ref is not supported",
                "s.openAPIV3Schema.properties[a].type: Forbidden: type cannot be set to null, use nullable as an alternative",
                "s.openAPIV3Schema.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ]
        );
        // Nothing else forbids it, so reading the schema does.
        assert_eq!(
            check(json!({"type": "object", "$schema": "x"}), false),
            [r#"s.openAPIV3Schema: Invalid value: "": OpenAPIV3Schema 'schema' is not supported"#]
        );
    }

    #[test]
    fn with_a_status_the_root_is_plain() {
        let errors = check(json!({"type": "object", "minProperties": 1}), true);
        assert!(
            errors[0].starts_with(r#"s.openAPIV3Schema: Invalid value: {"ID":"","Schema":"","Ref":null,"Description":"","Type":"object""#)
        );
        assert!(errors[0].ends_with("fields are allowed at the root of the schema if the status subresource is enabled"));
    }

    #[test]
    fn the_metadata_of_objects_has_no_defaults() {
        assert_eq!(
            check(
                json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "default": "a"}}}}}),
                false
            ),
            ["s.openAPIV3Schema.properties[metadata].properties[name].default: Forbidden: must not be set in top-level metadata"]
        );
    }

    #[test]
    fn expressions_are_well_formed() {
        let rules =
            json!([{"rule": " "}, {"rule": "a\n", "message": " "}, {"rule": "a\nb"}, {"rule": "a", "fieldPath": ".b", "reason": "x"}]);
        let at = |i: usize, rest: &str| format!("s.openAPIV3Schema.x-kubernetes-validations[{i}].{rest}");
        assert_eq!(
            check(json!({"type": "object", "x-kubernetes-validations": rules}), false),
            [
                at(0, "rule: Required value: rule is not specified"),
                at(1, r#"message: Invalid value: " ": must be non-empty if specified"#),
                at(2, "message: Required value: message must be specified if rule contains line breaks"),
                at(
                    3,
                    r#"reason: Unsupported value: "x": supported values: "FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired""#
                ),
                at(3, r#"fieldPath: Invalid value: ".b": must be a valid path"#),
            ]
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let mut schema = json!({"type": "string"});
        for _ in 0..MAX_DEPTH + 10 {
            schema = json!({"type": "object", "properties": {"a": schema}});
        }
        let check = move || check(schema, false).iter().any(|error| error.ends_with("Forbidden: nested too deeply"));
        assert!(std::thread::Builder::new().stack_size(16 << 20).spawn(check).unwrap().join().unwrap());
    }
}
