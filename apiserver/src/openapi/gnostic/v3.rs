//! The messages of OpenAPI version 3 (gnostic's `openapi.v3`), as far as this server writes them.

use super::{Kind, Message, SECURITY, STRINGS, Value};

pub static DOCUMENT: Message = Message {
    fields: &[
        ("openapi", 1, Kind::String),
        ("info", 2, Kind::Message(&INFO)),
        ("paths", 4, Kind::Message(&PATHS)),
        ("components", 5, Kind::Message(&COMPONENTS)),
        ("security", 6, SECURITY),
    ],
    extensions: 9,
    keys: None,
};

static INFO: Message = Message {
    fields: &[("title", 1, Kind::String), ("description", 2, Kind::String), ("version", 6, Kind::String)],
    extensions: 7,
    keys: None,
};

static COMPONENTS: Message = Message {
    fields: &[("schemas", 1, Kind::Named(&SCHEMA_OR_REFERENCE)), ("securitySchemes", 7, Kind::Named(&SECURITY_SCHEME))],
    extensions: 10,
    keys: None,
};

static SECURITY_SCHEME: Kind = Kind::OneOf(|_| {
    static SCHEME: Message = Message {
        fields: &[("type", 1, Kind::String), ("description", 2, Kind::String), ("name", 3, Kind::String), ("in", 4, Kind::String)],
        extensions: 9,
        keys: None,
    };
    (1, Kind::Message(&SCHEME))
});

static PATHS: Message = Message { fields: &[], extensions: 2, keys: Some((1, Kind::Message(&PATH_ITEM))) };

static PATH_ITEM: Message = Message {
    fields: &[
        ("summary", 2, Kind::String),
        ("description", 3, Kind::String),
        ("get", 4, Kind::Message(&OPERATION)),
        ("put", 5, Kind::Message(&OPERATION)),
        ("post", 6, Kind::Message(&OPERATION)),
        ("delete", 7, Kind::Message(&OPERATION)),
        ("options", 8, Kind::Message(&OPERATION)),
        ("head", 9, Kind::Message(&OPERATION)),
        ("patch", 10, Kind::Message(&OPERATION)),
        ("parameters", 13, Kind::Repeated(&Kind::OneOf(|_| (1, Kind::Message(&PARAMETER))))),
    ],
    extensions: 14,
    keys: None,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, STRINGS),
        ("summary", 2, Kind::String),
        ("description", 3, Kind::String),
        ("operationId", 5, Kind::String),
        ("parameters", 6, Kind::Repeated(&Kind::OneOf(|_| (1, Kind::Message(&PARAMETER))))),
        ("requestBody", 7, Kind::OneOf(|_| (1, Kind::Message(&REQUEST_BODY)))),
        ("responses", 8, Kind::Message(&RESPONSES)),
        ("deprecated", 10, Kind::Bool),
        ("security", 11, SECURITY),
    ],
    extensions: 13,
    keys: None,
};

static PARAMETER: Message = Message {
    fields: &[
        ("name", 1, Kind::String),
        ("in", 2, Kind::String),
        ("description", 3, Kind::String),
        ("required", 4, Kind::Bool),
        ("schema", 10, SCHEMA_OR_REFERENCE),
    ],
    extensions: 14,
    keys: None,
};

static REQUEST_BODY: Message = Message {
    fields: &[("description", 1, Kind::String), ("content", 2, Kind::Named(&Kind::Message(&MEDIA_TYPE))), ("required", 3, Kind::Bool)],
    extensions: 4,
    keys: None,
};

static MEDIA_TYPE: Message = Message { fields: &[("schema", 1, SCHEMA_OR_REFERENCE)], extensions: 5, keys: None };

static RESPONSES: Message = Message { fields: &[], extensions: 3, keys: Some((2, Kind::OneOf(|_| (1, Kind::Message(&RESPONSE))))) };

static RESPONSE: Message = Message {
    fields: &[("description", 1, Kind::String), ("content", 3, Kind::Named(&Kind::Message(&MEDIA_TYPE)))],
    extensions: 5,
    keys: None,
};

const SCHEMA_OR_REFERENCE: Kind = Kind::OneOf(|v| match v["$ref"] {
    Value::String(_) => (2, Kind::Message(&REFERENCE)),
    _ => (1, Kind::Message(&SCHEMA)),
});

static REFERENCE: Message = Message {
    fields: &[("$ref", 1, Kind::String), ("summary", 2, Kind::String), ("description", 3, Kind::String)],
    extensions: 0,
    keys: None,
};

static SCHEMA: Message = Message {
    fields: &[
        ("nullable", 1, Kind::Bool),
        ("readOnly", 3, Kind::Bool),
        ("writeOnly", 4, Kind::Bool),
        ("example", 7, Kind::Any),
        ("deprecated", 8, Kind::Bool),
        ("title", 9, Kind::String),
        ("multipleOf", 10, Kind::Number),
        ("maximum", 11, Kind::Number),
        ("exclusiveMaximum", 12, Kind::Bool),
        ("minimum", 13, Kind::Number),
        ("exclusiveMinimum", 14, Kind::Bool),
        ("maxLength", 15, Kind::Integer),
        ("minLength", 16, Kind::Integer),
        ("pattern", 17, Kind::String),
        ("maxItems", 18, Kind::Integer),
        ("minItems", 19, Kind::Integer),
        ("uniqueItems", 20, Kind::Bool),
        ("maxProperties", 21, Kind::Integer),
        ("minProperties", 22, Kind::Integer),
        ("required", 23, STRINGS),
        ("enum", 24, Kind::Repeated(&Kind::Any)),
        ("type", 25, Kind::String),
        ("allOf", 26, Kind::Repeated(&SCHEMA_OR_REFERENCE)),
        ("oneOf", 27, Kind::Repeated(&SCHEMA_OR_REFERENCE)),
        ("anyOf", 28, Kind::Repeated(&SCHEMA_OR_REFERENCE)),
        ("not", 29, Kind::Message(&SCHEMA)),
        ("items", 30, Kind::Wrapped(&SCHEMA_OR_REFERENCE)),
        ("properties", 31, Kind::Named(&SCHEMA_OR_REFERENCE)),
        ("additionalProperties", 32, ADDITIONAL),
        ("default", 33, Kind::Scalar),
        ("description", 34, Kind::String),
        ("format", 35, Kind::String),
    ],
    extensions: 36,
    keys: None,
};

const ADDITIONAL: Kind = Kind::OneOf(|v| if v.is_boolean() { (2, Kind::Bool) } else { (1, SCHEMA_OR_REFERENCE) });
