//! A definition as its rules see it: what all versions have in common stands at the top of the spec, not in each version.
//!
//! So messages say `spec.validation.openAPIV3Schema` where a user wrote `spec.versions[0].schema.openAPIV3Schema`, unless
//! versions differ.

use serde_json::{Map, Value};

use crate::registry::go_struct::{Form, Shape, show, show_list};
use crate::registry::read::{at, bool_at, list_at, str_at};

/// The spec of a definition.
pub struct Spec<'a> {
    pub raw: &'a Value,
    /// The first version's name.
    pub version: &'a str,
    pub versions: Vec<Version<'a>>,
    /// What is common to all versions.
    pub common: Parts<'a>,
}

/// What may be common to versions or not.
#[derive(Clone, Copy, Default)]
pub struct Parts<'a> {
    /// `{openAPIV3Schema: …}`.
    pub validation: Option<&'a Value>,
    pub subresources: Option<&'a Value>,
    pub columns: &'a [Value],
    pub selectable_fields: &'a [Value],
}

impl<'a> Parts<'a> {
    /// The schema, if there is one.
    pub fn schema(&self) -> Option<&'a Value> {
        present(self.validation?, "openAPIV3Schema")
    }

    pub fn has_status(&self) -> bool {
        self.subresources.is_some_and(|subresources| present(subresources, "status").is_some())
    }
}

/// One version, with what it does not share.
pub struct Version<'a> {
    pub raw: &'a Value,
    pub name: &'a str,
    pub own: Parts<'a>,
}

/// A field that is there and not null.
pub fn present<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    value.get(field).filter(|value| !value.is_null())
}

impl<'a> Spec<'a> {
    /// Reads the spec of a definition.
    pub fn of(definition: &'a Value) -> Spec<'a> {
        let raw = at(definition, "/spec");
        let versions = list_at(raw, "/versions");
        let mut common = Parts::default();
        let all_same = |field: &str| versions.windows(2).all(|pair| same(pair[0].get(field), pair[1].get(field)));
        let (schema, subresources) = (all_same("schema"), all_same("subresources"));
        let (columns, selectable) = (all_same("additionalPrinterColumns"), all_same("selectableFields"));
        let parts = |version: &'a Value, take: [bool; 4]| Parts {
            validation: present(version, "schema").filter(|_| take[0]),
            subresources: present(version, "subresources").filter(|_| take[1]),
            columns: if take[2] { list_at(version, "/additionalPrinterColumns") } else { &[] },
            selectable_fields: if take[3] { list_at(version, "/selectableFields") } else { &[] },
        };
        if let Some(first) = versions.first() {
            common = parts(first, [schema, subresources, columns, selectable]);
        }
        let own = [!schema, !subresources, !columns, !selectable];
        let versions: Vec<Version<'a>> =
            versions.iter().map(|version| Version { raw: version, name: str_at(version, "/name"), own: parts(version, own) }).collect();
        Spec { raw, version: versions.first().map_or("", |version| version.name), versions, common }
    }

    pub fn preserves_unknown_fields(&self) -> bool {
        bool_at(self.raw, "/preserveUnknownFields")
    }

    /// Every schema: the common one, or those of the versions.
    pub fn schemas(&self) -> impl Iterator<Item = &'a Value> {
        self.common.schema().into_iter().chain(self.versions.iter().filter_map(|version| version.own.schema()))
    }

    /// Whether any version has a status of its own endpoint.
    pub fn has_any_status(&self) -> bool {
        self.common.has_status() || self.versions.iter().any(|version| version.own.has_status())
    }

    /// Whether a version has a status of its own endpoint.
    pub fn has_status(&self, version: &str) -> bool {
        if self.versions.iter().all(|version| version.own.subresources.is_none()) {
            return self.common.has_status();
        }
        self.versions.iter().find(|v| v.name == version).is_some_and(|version| version.own.has_status())
    }

    /// The versions as an error message shows them.
    pub fn shown_versions(&self) -> Value {
        if self.versions.is_empty() {
            return self.raw.get("versions").cloned().unwrap_or_default();
        }
        let own = |version: &Version<'a>| {
            let mut out: Map<String, Value> = version.raw.as_object().cloned().unwrap_or_default();
            for (field, is_own) in [
                ("schema", version.own.validation.is_some()),
                ("subresources", version.own.subresources.is_some()),
                ("additionalPrinterColumns", !version.own.columns.is_empty()),
                ("selectableFields", !version.own.selectable_fields.is_empty()),
            ] {
                if !is_own {
                    out.shift_remove(field);
                }
            }
            Value::Object(out)
        };
        show_list(&self.versions.iter().map(own).collect::<Vec<_>>().into(), &VERSION)
    }
}

/// Equal, where nothing, null and empty are one.
fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    let filled = |value: &&Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    a.filter(filled) == b.filter(filled)
}

/// A schema as an error message shows it.
pub fn shown_schema(schema: &Value) -> Value {
    show(schema, &SCHEMA)
}

/// A rule of `x-kubernetes-validations` as an error message shows it.
pub fn shown_rule(rule: &Value) -> Value {
    show(rule, &VALIDATION_RULE)
}

/// The `items` of a schema as an error message shows them: one schema, or a list.
pub fn shown_items(items: &Value) -> Value {
    let (schema, list) = match items {
        Value::Null => return Value::Null,
        Value::Array(_) => (Value::Null, show_list(items, &SCHEMA)),
        schema => (show(schema, &SCHEMA), Value::Null),
    };
    serde_json::json!({"Schema": schema, "JSONSchemas": list})
}

/// `additionalProperties` and `additionalItems`: a schema, or whether anything is allowed.
fn shown_schema_or_bool(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(allows) => serde_json::json!({"Allows": allows, "Schema": null}),
        schema => serde_json::json!({"Allows": true, "Schema": show(schema, &SCHEMA)}),
    }
}

fn shown_dependencies(value: &Value) -> Value {
    let Some(entries) = value.as_object() else { return Value::Null };
    let shown = entries.iter().map(|(name, dependency)| {
        let form = match dependency {
            Value::Array(_) => serde_json::json!({"Schema": null, "Property": dependency}),
            schema => serde_json::json!({"Schema": show(schema, &SCHEMA), "Property": null}),
        };
        (name.clone(), form)
    });
    Value::Object(shown.collect())
}

static VERSION: Shape = Shape(&[
    ("Name", "name", Form::Text),
    ("Served", "served", Form::Flag),
    ("Storage", "storage", Form::Flag),
    ("Deprecated", "deprecated", Form::Flag),
    ("DeprecationWarning", "deprecationWarning", Form::Plain),
    ("Schema", "schema", Form::Pointer(&Shape(&[("OpenAPIV3Schema", "openAPIV3Schema", Form::Pointer(&SCHEMA))]))),
    (
        "Subresources",
        "subresources",
        Form::Pointer(&Shape(&[("Status", "status", Form::Plain), ("Scale", "scale", Form::Pointer(&SCALE))])),
    ),
    ("AdditionalPrinterColumns", "additionalPrinterColumns", Form::List(&COLUMN)),
    ("SelectableFields", "selectableFields", Form::List(&Shape(&[("JSONPath", "jsonPath", Form::Text)]))),
]);

static SCALE: Shape = Shape(&[
    ("SpecReplicasPath", "specReplicasPath", Form::Text),
    ("StatusReplicasPath", "statusReplicasPath", Form::Text),
    ("LabelSelectorPath", "labelSelectorPath", Form::Plain),
]);

static COLUMN: Shape = Shape(&[
    ("Name", "name", Form::Text),
    ("Type", "type", Form::Text),
    ("Format", "format", Form::Text),
    ("Description", "description", Form::Text),
    ("Priority", "priority", Form::Number),
    ("JSONPath", "jsonPath", Form::Text),
]);

/// A schema's fields in the order in which upstream declares them.
pub static SCHEMA: Shape = Shape(&[
    ("ID", "id", Form::Text),
    ("Schema", "$schema", Form::Text),
    ("Ref", "$ref", Form::Plain),
    ("Description", "description", Form::Text),
    ("Type", "type", Form::Text),
    ("Nullable", "nullable", Form::Flag),
    ("Format", "format", Form::Text),
    ("Title", "title", Form::Text),
    ("Default", "default", Form::Plain),
    ("Maximum", "maximum", Form::Plain),
    ("ExclusiveMaximum", "exclusiveMaximum", Form::Flag),
    ("Minimum", "minimum", Form::Plain),
    ("ExclusiveMinimum", "exclusiveMinimum", Form::Flag),
    ("MaxLength", "maxLength", Form::Plain),
    ("MinLength", "minLength", Form::Plain),
    ("Pattern", "pattern", Form::Text),
    ("MaxItems", "maxItems", Form::Plain),
    ("MinItems", "minItems", Form::Plain),
    ("UniqueItems", "uniqueItems", Form::Flag),
    ("MultipleOf", "multipleOf", Form::Plain),
    ("Enum", "enum", Form::Plain),
    ("MaxProperties", "maxProperties", Form::Plain),
    ("MinProperties", "minProperties", Form::Plain),
    ("Required", "required", Form::Plain),
    ("Items", "items", Form::Custom(shown_items)),
    ("AllOf", "allOf", Form::List(&SCHEMA)),
    ("OneOf", "oneOf", Form::List(&SCHEMA)),
    ("AnyOf", "anyOf", Form::List(&SCHEMA)),
    ("Not", "not", Form::Pointer(&SCHEMA)),
    ("Properties", "properties", Form::Map(&SCHEMA)),
    ("AdditionalProperties", "additionalProperties", Form::Custom(shown_schema_or_bool)),
    ("PatternProperties", "patternProperties", Form::Map(&SCHEMA)),
    ("Dependencies", "dependencies", Form::Custom(shown_dependencies)),
    ("AdditionalItems", "additionalItems", Form::Custom(shown_schema_or_bool)),
    ("Definitions", "definitions", Form::Map(&SCHEMA)),
    ("ExternalDocs", "externalDocs", Form::Pointer(&Shape(&[("Description", "description", Form::Text), ("URL", "url", Form::Text)]))),
    ("Example", "example", Form::Plain),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields", Form::Plain),
    ("XEmbeddedResource", "x-kubernetes-embedded-resource", Form::Flag),
    ("XIntOrString", "x-kubernetes-int-or-string", Form::Flag),
    ("XListMapKeys", "x-kubernetes-list-map-keys", Form::Plain),
    ("XListType", "x-kubernetes-list-type", Form::Plain),
    ("XMapType", "x-kubernetes-map-type", Form::Plain),
    ("XValidations", "x-kubernetes-validations", Form::List(&VALIDATION_RULE)),
]);

static VALIDATION_RULE: Shape = Shape(&[
    ("Rule", "rule", Form::Text),
    ("Message", "message", Form::Text),
    ("MessageExpression", "messageExpression", Form::Text),
    ("Reason", "reason", Form::Plain),
    ("FieldPath", "fieldPath", Form::Text),
    ("OptionalOldSelf", "optionalOldSelf", Form::Plain),
]);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_versions_share_stands_at_the_top() {
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        let object = json!({"spec": {"versions": [
            {"name": "v1", "schema": schema, "subresources": {"status": {}}},
            {"name": "v2", "schema": schema, "additionalPrinterColumns": []},
        ]}});
        let spec = Spec::of(&object);
        assert_eq!(spec.common.schema(), Some(&json!({"type": "object"})));
        assert!(spec.versions.iter().all(|version| version.own.schema().is_none()));
        assert!(spec.has_status("v1") && !spec.has_status("v2") && spec.has_any_status());
        let shown = spec.shown_versions();
        assert_eq!(shown[0]["Schema"], Value::Null);
        assert_eq!(shown[0]["Subresources"], json!({"Status": {}, "Scale": null}));
        assert_eq!(shown[1]["Name"], "v2");
    }

    #[test]
    fn schemas_are_shown_as_go_structs() {
        let shown = shown_schema(&json!({"type": "array", "items": {"type": "string"}, "additionalProperties": true}));
        assert_eq!(shown["Items"]["Schema"]["Type"], "string");
        assert_eq!(shown["AdditionalProperties"], json!({"Allows": true, "Schema": null}));
        assert_eq!(shown["XListType"], Value::Null);
    }
}
