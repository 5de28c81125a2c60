//! A document of version 2 as one of version 3, for extension API servers that know the older version only.
//!
//! Loses what upstream's conversion loses: shared parameters are referred to and not there.

use serde_json::{Map, Value, json};

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];
/// What an operation keeps as it is.
const OF_OPERATIONS: [&str; 6] = ["description", "externalDocs", "tags", "summary", "deprecated", "operationId"];
const OF_PARAMETERS: [&str; 5] = ["name", "description", "in", "required", "allowEmptyValue"];

/// The document in version 3.
pub fn to_v3(document: &Value) -> Value {
    let mut out = Map::new();
    out.insert("openapi".to_owned(), "3.0.0".into());
    for field in ["info", "externalDocs"] {
        copy(document, field, &mut out);
    }
    let produces = document.get("produces");
    let paths = each(document, "paths", |path, item| if path.starts_with("x-") { item.clone() } else { path_item(item) });
    out.insert("paths".to_owned(), paths.into());
    let mut components = Map::new();
    for (field, of_version_2, convert) in [
        ("schemas", "definitions", &(|value: &Value| schema(value)) as &dyn Fn(&Value) -> Value),
        ("securitySchemes", "securityDefinitions", &|value| security_scheme(value)),
        ("responses", "responses", &|value| response(value, produces)),
    ] {
        if document.get(of_version_2).is_some() {
            components.insert(field.to_owned(), each(document, of_version_2, |_, value| convert(value)).into());
        }
    }
    out.insert("components".to_owned(), components.into());
    Value::Object(out)
}

fn copy(from: &Value, field: &str, to: &mut Map<String, Value>) {
    if let Some(value) = from.get(field) {
        to.insert(field.to_owned(), value.clone());
    }
}

fn extensions(from: &Value, to: &mut Map<String, Value>) {
    for (name, value) in from.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        to.insert(name.clone(), value.clone());
    }
}

fn each(from: &Value, field: &str, convert: impl Fn(&str, &Value) -> Value) -> Map<String, Value> {
    let members = from.get(field).and_then(Value::as_object).into_iter().flatten();
    members.map(|(name, value)| (name.clone(), convert(name, value))).collect()
}

/// A schema; what stands beside a reference moves around it.
fn schema(from: &Value) -> Value {
    let Some(map) = from.as_object() else { return from.clone() };
    let mut out: Map<String, Value> = map
        .iter()
        .map(|(name, value)| {
            let value = match (name.as_str(), value) {
                ("$ref", Value::String(reference)) => reference.replacen("#/definitions/", "#/components/schemas/", 1).into(),
                ("properties", _) => each(from, "properties", |_, value| schema(value)).into(),
                ("items", Value::Array(all)) => all.iter().map(schema).collect(),
                ("items" | "additionalProperties" | "additionalItems", Value::Object(_)) => schema(value),
                _ => value.clone(),
            };
            (name.clone(), value)
        })
        .collect();
    if out.len() > 1
        && let Some(reference) = out.shift_remove("$ref")
    {
        out.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
    }
    Value::Object(out)
}

fn security_scheme(from: &Value) -> Value {
    let mut out = Map::new();
    extensions(from, &mut out);
    for field in ["description", "type", "name", "in"] {
        copy(from, field, &mut out);
    }
    if let Some(Value::String(flow)) = from.get("flow") {
        let mut told = Map::new();
        for field in ["authorizationUrl", "tokenUrl", "scopes"] {
            copy(from, field, &mut told);
        }
        out.insert("flows".to_owned(), json!({ flow.as_str(): told }));
    }
    Value::Object(out)
}

fn path_item(from: &Value) -> Value {
    let mut out = Map::new();
    copy(from, "$ref", &mut out);
    extensions(from, &mut out);
    for method in METHODS {
        if let Some(told) = from.get(method) {
            out.insert(method.to_owned(), operation(told));
        }
    }
    if let Some(Value::Array(parameters)) = from.get("parameters") {
        out.insert("parameters".to_owned(), parameters.iter().map(parameter).collect());
    }
    Value::Object(out)
}

fn operation(from: &Value) -> Value {
    let mut out = Map::new();
    extensions(from, &mut out);
    OF_OPERATIONS.iter().for_each(|field| copy(from, field, &mut out));
    let mut parameters = Vec::new();
    for told in from.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        match told.get("schema").filter(|_| told.get("name").is_some_and(|name| name == "body")) {
            Some(carried) => {
                out.insert("requestBody".to_owned(), content(carried, from.get("consumes")).into());
            }
            None => parameters.push(parameter(told)),
        }
    }
    if !parameters.is_empty() {
        out.insert("parameters".to_owned(), parameters.into());
    }
    let produces = from.get("produces");
    let responses = each(from, "responses", |code, told| if code.starts_with("x-") { told.clone() } else { response(told, produces) });
    out.insert("responses".to_owned(), responses.into());
    Value::Object(out)
}

/// `content` with the schema by each of the media types, if any are told.
fn content(carried: &Value, types: Option<&Value>) -> Map<String, Value> {
    let Some(types) = types.and_then(Value::as_array) else { return Map::new() };
    let by_type = types.iter().filter_map(Value::as_str).map(|media| (media.to_owned(), json!({ "schema": schema(carried) })));
    Map::from_iter([("content".to_owned(), Value::Object(by_type.collect()))])
}

fn response(from: &Value, produces: Option<&Value>) -> Value {
    let mut out = Map::new();
    if let Some(Value::String(reference)) = from.get("$ref") {
        out.insert("$ref".to_owned(), reference.replacen("#/responses/", "#/components/responses/", 1).into());
    }
    extensions(from, &mut out);
    copy(from, "description", &mut out);
    if let Some(carried) = from.get("schema") {
        out.extend(content(carried, produces));
    }
    Value::Object(out)
}

fn parameter(from: &Value) -> Value {
    if let Some(Value::String(reference)) = from.get("$ref") {
        return json!({ "$ref": reference.replacen("#/parameters/", "#/components/parameters/", 1) });
    }
    let mut out = Map::new();
    extensions(from, &mut out);
    OF_PARAMETERS.iter().for_each(|field| copy(from, field, &mut out));
    let told = match from.get("schema") {
        Some(told) => schema(told),
        None => {
            let mut plain = Map::new();
            ["type", "format", "uniqueItems"].iter().for_each(|field| copy(from, field, &mut plain));
            plain.into()
        }
    };
    out.insert("schema".to_owned(), told);
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_version_2_says_is_said_in_version_3() {
        let thing = json!({"$ref": "#/definitions/Thing"});
        let document = json!({
            "swagger": "2.0", "info": {"title": "t", "version": "v"},
            "paths": {"/apis/g/v1/things/{name}": {
                "put": {
                    "operationId": "replace", "consumes": ["application/json"], "produces": ["application/json"], "schemes": ["https"],
                    "parameters": [{"name": "body", "in": "body", "required": true, "schema": thing}, {"name": "dryRun", "in": "query", "type": "string"}],
                    "responses": {"200": {"description": "OK", "schema": thing}, "401": {"description": "Unauthorized"}},
                    "x-kubernetes-action": "put",
                },
                "parameters": [{"$ref": "#/parameters/name-1"}],
            }},
            "definitions": {"Thing": {"type": "object", "properties": {
                "other": {"$ref": "#/definitions/Other", "description": "d"}, "all": {"type": "array", "items": thing}}}},
            "securityDefinitions": {"Token": {"type": "apiKey", "name": "authorization", "in": "header"}},
        });
        let thing = json!({"$ref": "#/components/schemas/Thing"});
        let carried = json!({"application/json": {"schema": thing}});
        assert_eq!(
            to_v3(&document),
            json!({
                "openapi": "3.0.0", "info": {"title": "t", "version": "v"},
                "paths": {"/apis/g/v1/things/{name}": {
                    "put": {
                        "operationId": "replace", "x-kubernetes-action": "put", "requestBody": {"content": carried},
                        "parameters": [{"name": "dryRun", "in": "query", "schema": {"type": "string"}}],
                        "responses": {"200": {"description": "OK", "content": carried}, "401": {"description": "Unauthorized"}},
                    },
                    "parameters": [{"$ref": "#/components/parameters/name-1"}],
                }},
                "components": {
                    "schemas": {"Thing": {"type": "object", "properties": {
                        "other": {"allOf": [{"$ref": "#/components/schemas/Other"}], "description": "d"},
                        "all": {"type": "array", "items": thing}}}},
                    "securitySchemes": {"Token": {"type": "apiKey", "name": "authorization", "in": "header"}},
                },
            })
        );
    }
}
