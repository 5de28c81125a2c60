//! The messages of OpenAPI version 2 (gnostic's `openapi.v2`), as far as this server writes them.

use super::{Kind, Message, SECURITY, STRINGS, Value};

pub static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Kind::String),
        ("info", 2, Kind::Message(&INFO)),
        ("host", 3, Kind::String),
        ("basePath", 4, Kind::String),
        ("schemes", 5, STRINGS),
        ("consumes", 6, STRINGS),
        ("produces", 7, STRINGS),
        ("paths", 8, Kind::Message(&PATHS)),
        ("definitions", 9, Kind::Named(&Kind::Message(&SCHEMA))),
        ("parameters", 10, Kind::Named(&PARAMETER)),
        ("security", 12, SECURITY),
        ("securityDefinitions", 13, Kind::Named(&Kind::OneOf(|_| (2, Kind::Message(&API_KEY))))),
    ],
    extensions: 16,
    keys: None,
};

static INFO: Message = Message {
    fields: &[("title", 1, Kind::String), ("version", 2, Kind::String), ("description", 3, Kind::String)],
    extensions: 7,
    keys: None,
};

static API_KEY: Message = Message {
    fields: &[("type", 1, Kind::String), ("name", 2, Kind::String), ("in", 3, Kind::String), ("description", 4, Kind::String)],
    extensions: 5,
    keys: None,
};

static PATHS: Message = Message { fields: &[], extensions: 1, keys: Some((2, Kind::Message(&PATH_ITEM))) };

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Kind::Message(&OPERATION)),
        ("put", 3, Kind::Message(&OPERATION)),
        ("post", 4, Kind::Message(&OPERATION)),
        ("delete", 5, Kind::Message(&OPERATION)),
        ("options", 6, Kind::Message(&OPERATION)),
        ("head", 7, Kind::Message(&OPERATION)),
        ("patch", 8, Kind::Message(&OPERATION)),
        ("parameters", 9, Kind::Repeated(&PARAMETERS_ITEM)),
    ],
    extensions: 10,
    keys: None,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, STRINGS),
        ("summary", 2, Kind::String),
        ("description", 3, Kind::String),
        ("operationId", 5, Kind::String),
        ("produces", 6, STRINGS),
        ("consumes", 7, STRINGS),
        ("parameters", 8, Kind::Repeated(&PARAMETERS_ITEM)),
        ("responses", 9, Kind::Message(&RESPONSES)),
        ("schemes", 10, STRINGS),
        ("deprecated", 11, Kind::Bool),
        ("security", 12, SECURITY),
    ],
    extensions: 13,
    keys: None,
};

static REFERENCE: Message = Message { fields: &[("$ref", 1, Kind::String), ("description", 2, Kind::String)], extensions: 0, keys: None };

static PARAMETERS_ITEM: Kind = Kind::OneOf(|v| if is_reference(v) { (2, Kind::Message(&REFERENCE)) } else { (1, PARAMETER) });
const PARAMETER: Kind = Kind::OneOf(|v| if v["in"] == "body" { (1, Kind::Message(&BODY)) } else { (2, NON_BODY) });
const NON_BODY: Kind =
    Kind::OneOf(|v| if v["in"] == "path" { (4, Kind::Message(&PATH_PARAMETER)) } else { (3, Kind::Message(&QUERY_PARAMETER)) });

fn is_reference(value: &Value) -> bool {
    value["$ref"].is_string()
}

static BODY: Message = Message {
    fields: &[
        ("description", 1, Kind::String),
        ("name", 2, Kind::String),
        ("in", 3, Kind::String),
        ("required", 4, Kind::Bool),
        ("schema", 5, Kind::Message(&SCHEMA)),
    ],
    extensions: 6,
    keys: None,
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Kind::Bool),
        ("in", 2, Kind::String),
        ("description", 3, Kind::String),
        ("name", 4, Kind::String),
        ("allowEmptyValue", 5, Kind::Bool),
        ("type", 6, Kind::String),
        ("format", 7, Kind::String),
        ("uniqueItems", 20, Kind::Bool),
    ],
    extensions: 23,
    keys: None,
};

static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Kind::Bool),
        ("in", 2, Kind::String),
        ("description", 3, Kind::String),
        ("name", 4, Kind::String),
        ("type", 5, Kind::String),
        ("format", 6, Kind::String),
        ("uniqueItems", 19, Kind::Bool),
    ],
    extensions: 22,
    keys: None,
};

static RESPONSES: Message = Message { fields: &[], extensions: 2, keys: Some((1, Kind::OneOf(|_| (1, Kind::Message(&RESPONSE))))) };

static RESPONSE: Message = Message {
    fields: &[("description", 1, Kind::String), ("schema", 2, Kind::OneOf(|_| (1, Kind::Message(&SCHEMA))))],
    extensions: 5,
    keys: None,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Kind::String),
        ("format", 2, Kind::String),
        ("title", 3, Kind::String),
        ("description", 4, Kind::String),
        ("default", 5, Kind::Any),
        ("multipleOf", 6, Kind::Number),
        ("maximum", 7, Kind::Number),
        ("exclusiveMaximum", 8, Kind::Bool),
        ("minimum", 9, Kind::Number),
        ("exclusiveMinimum", 10, Kind::Bool),
        ("maxLength", 11, Kind::Integer),
        ("minLength", 12, Kind::Integer),
        ("pattern", 13, Kind::String),
        ("maxItems", 14, Kind::Integer),
        ("minItems", 15, Kind::Integer),
        ("uniqueItems", 16, Kind::Bool),
        ("maxProperties", 17, Kind::Integer),
        ("minProperties", 18, Kind::Integer),
        ("required", 19, STRINGS),
        ("enum", 20, Kind::Repeated(&Kind::Any)),
        ("additionalProperties", 21, ADDITIONAL),
        ("type", 22, Kind::Wrapped(&Kind::String)),
        ("items", 23, Kind::Wrapped(&Kind::Message(&SCHEMA))),
        ("allOf", 24, Kind::Repeated(&Kind::Message(&SCHEMA))),
        ("properties", 25, Kind::Named(&Kind::Message(&SCHEMA))),
        ("discriminator", 26, Kind::String),
        ("readOnly", 27, Kind::Bool),
        ("example", 30, Kind::Any),
    ],
    extensions: 31,
    keys: None,
};

const ADDITIONAL: Kind = Kind::OneOf(|v| if v.is_boolean() { (2, Kind::Bool) } else { (1, Kind::Message(&SCHEMA)) });
