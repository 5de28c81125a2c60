//! The spec of a definition: group, names, scope, versions, columns, subresources.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_dns1035_label, is_dns1123_subdomain, validate_immutable_field};
use serde_json::{Value, json};

use super::conversion_rules::one_of;
use super::internal::{Parts, Spec, Version, present};
use super::tolerance::{MAX_SELECTABLE_FIELDS, Rules, has_defaults, needs_structure};
use super::{conversion_rules, field_path, schema_rules, structural};
use crate::registry::read::{at, bool_at, list_at, str_at};

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const MAX_WARNING_BYTES: usize = 256;

/// The whole spec.
pub fn validate(definition: &Value, rules: &Rules) -> ErrorList {
    let spec = Spec::of(definition);
    let path = Path::new("spec");
    let mut errors = validate_group(str_at(spec.raw, "/group"), &path.child("group"));
    errors.extend(one_of(str_at(spec.raw, "/scope"), &["Cluster", "Namespaced"], &path.child("scope")));
    let preserves = spec.preserves_unknown_fields();
    errors.extend(require_schemas(&spec, rules, &path));
    if preserves && spec.schemas().any(has_defaults) {
        errors.push(Error::invalid(&path.child("preserveUnknownFields"), true, "must be false in order to use defaults in the schema"));
    }
    let must_be_structural = !preserves || rules.structural || spec.schemas().any(needs_structure);
    let versions_path = path.child("versions");
    for (i, version) in spec.versions.iter().enumerate() {
        errors.extend(validate_version(version, &spec, must_be_structural, rules, &versions_path.index(i)));
    }
    errors.extend(validate_versions(&spec, &versions_path));
    errors.extend(
        joined(is_dns1035_label(spec.version))
            .filter(|_| !spec.version.is_empty())
            .map(|problems| Error::invalid(&path.child("version"), spec.version, problems)),
    );
    errors.extend(validate_required_names(at(spec.raw, "/names"), &path.child("names")));
    errors.extend(validate_names(at(spec.raw, "/names"), &path.child("names")));
    errors.extend(validate_common(&spec, must_be_structural, rules, &path));
    if let Some(conversion) = present(spec.raw, "conversion") {
        let path = path.child("conversion");
        let strategy = str_at(conversion, "/strategy");
        if preserves && strategy != "None" {
            errors.push(Error::invalid(&path.child("strategy"), strategy, "must be None if spec.preserveUnknownFields is true"));
        }
        errors.extend(conversion_rules::validate(conversion, rules, &path));
    }
    errors
}

/// What stays as it is: what objects are stored under, and, once objects are served, what they are called.
pub fn validate_change(new: &Value, old: &Value, rules: &Rules) -> ErrorList {
    let (path, names) = (Path::new("spec"), Path::new("spec.names"));
    let kept = |pointer: &str, path: &Path<'_>| validate_immutable_field(str_at(new, pointer), str_at(old, pointer), path);
    let mut errors = ErrorList::new();
    if rules.immutable_names {
        errors.extend(kept("/spec/scope", &path.child("scope")));
        errors.extend(kept("/spec/names/kind", &names.child("kind")));
    }
    errors.extend(kept("/spec/group", &path.child("group")));
    errors.extend(kept("/spec/names/plural", &names.child("plural")));
    errors
}

/// A version that objects are stored in stays until none is.
pub fn validate_stored_versions(definition: &Value) -> ErrorList {
    let stored = list_at(definition, "/status/storedVersions");
    let path = Path::new("status.storedVersions");
    if stored.is_empty() {
        return vec![Error::invalid(&path, Value::Null, "must have at least one stored version")];
    }
    let versions = list_at(definition, "/spec/versions");
    let mut errors = ErrorList::new();
    for (i, version) in versions.iter().enumerate().filter(|(_, version)| bool_at(version, "/storage")) {
        let name = str_at(version, "/name");
        // A version that stands twice is stored once.
        let again = versions[..i].iter().any(|before| str_at(before, "/name") == name);
        if again || !stored.iter().any(|stored| stored == name) {
            errors.push(Error::invalid(&path, json!(stored), format!("must have the storage version {name}")));
        }
    }
    for (i, name) in stored.iter().enumerate() {
        let name = str_at(name, "");
        // Of a name that stands twice, the last counts.
        let is_last = !stored[i + 1..].iter().any(|later| later == name);
        if is_last && !versions.iter().any(|version| str_at(version, "/name") == name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(Error::invalid(&path.index(i), name, detail));
        }
    }
    errors
}

fn joined(problems: Vec<String>) -> Option<String> {
    (!problems.is_empty()).then(|| problems.join(","))
}

fn validate_group(group: &str, path: &Path<'_>) -> ErrorList {
    if group.is_empty() {
        return vec![Error::required(path, "")];
    }
    match joined(is_dns1123_subdomain(group)) {
        Some(problems) => vec![Error::invalid(path, group, problems)],
        None if !group.contains('.') => vec![Error::invalid(path, group, "should be a domain with at least one dot")],
        None => ErrorList::new(),
    }
}

fn require_schemas(spec: &Spec<'_>, rules: &Rules, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if spec.common.schema().is_some() {
        return errors;
    }
    let versions = path.child("versions");
    for (i, version) in spec.versions.iter().enumerate().filter(|(_, version)| version.own.schema().is_none()) {
        let index = versions.index(i);
        let path = index.child("schema");
        let path = path.child("openAPIV3Schema");
        if rules.schema_required {
            errors.push(Error::required(&path, ""));
        } else if !spec.preserves_unknown_fields() && bool_at(version.raw, "/served") {
            errors.push(Error::required(&path, "because otherwise all fields are pruned"));
        }
    }
    errors
}

fn validate_version(version: &Version<'_>, spec: &Spec<'_>, must_be_structural: bool, rules: &Rules, path: &Path<'_>) -> ErrorList {
    let mut errors: ErrorList = joined(is_dns1035_label(version.name))
        .map(|problems| Error::invalid(&path.child("name"), version.name, problems))
        .into_iter()
        .collect();
    errors.extend(validate_deprecation(version.raw, &path.child("deprecationWarning")));
    if let Some(schema) = version.own.schema() {
        let has_status = spec.has_status(version.name);
        errors.extend(schema_rules::validate(schema, version.name, has_status, must_be_structural, rules, &path.child("schema")));
    }
    errors.extend(validate_parts(&version.own, path));
    let fields = version.own.selectable_fields;
    if !fields.is_empty() {
        let fields_path = path.child("selectableFields");
        match version.own.schema() {
            None => {
                let detail = "may only be set when `version.schema.openAPIV3Schema` is not included";
                errors.push(Error::invalid(&fields_path, "", detail));
            }
            Some(schema) => {
                let schema_path = path.child("schema.openAPIV3Schema");
                errors.extend(validate_selectable_fields(fields, schema, version.name, rules, &schema_path, &fields_path));
            }
        }
    }
    errors
}

fn validate_deprecation(version: &Value, path: &Path<'_>) -> ErrorList {
    let Some(warning) = present(version, "deprecationWarning").and_then(Value::as_str) else { return ErrorList::new() };
    let invalid = |detail: String| Error::invalid(path, warning, detail);
    if !bool_at(version, "/deprecated") {
        return vec![invalid("can only be set for deprecated versions".to_owned())];
    }
    let mut errors = ErrorList::new();
    if warning.len() > MAX_WARNING_BYTES {
        errors.push(invalid(format!("must be <= {MAX_WARNING_BYTES} characters long")));
    }
    if warning.is_empty() {
        errors.push(invalid("must not be an empty string".to_owned()));
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| !apimachinery::field::is_print(*c)) {
        errors.push(invalid(format!("must only contain printable UTF-8 characters; non-printable character found at index {at}")));
    }
    errors
}

fn validate_versions(spec: &Spec<'_>, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let repeated = (0..spec.versions.len()).any(|i| spec.versions[..i].iter().any(|earlier| earlier.name == spec.versions[i].name));
    if repeated {
        errors.push(Error::invalid(path, spec.shown_versions(), "must contain unique version names"));
    }
    if spec.versions.iter().filter(|version| bool_at(version.raw, "/storage")).count() != 1 {
        errors.push(Error::invalid(path, spec.shown_versions(), "must have exactly one version marked as storage version"));
    }
    errors
}

fn validate_required_names(names: &Value, path: &Path<'_>) -> ErrorList {
    let missing = ["plural", "singular", "kind", "listKind"]
        .into_iter()
        .filter(|field| names.get(*field).and_then(Value::as_str).unwrap_or("").is_empty());
    missing.map(|field| Error::required(&path.child(field), "")).collect()
}

/// Names that are there, asked for or accepted.
pub fn validate_names(names: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (field, mixed_case) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let name = names.get(field).and_then(Value::as_str).unwrap_or("");
        let checked = if mixed_case { name.to_lowercase() } else { name.to_owned() };
        if let Some(problems) = joined(is_dns1035_label(&checked)).filter(|_| !name.is_empty()) {
            let hint = if mixed_case { "may have mixed case, but should otherwise match: " } else { "" };
            errors.push(Error::invalid(&path.child(field), name, format!("{hint}{problems}")));
        }
    }
    let each_label = |field: &str, errors: &mut ErrorList| {
        let path = path.child(field);
        for (i, name) in names.get(field).and_then(Value::as_array).into_iter().flatten().enumerate() {
            let name = str_at(name, "");
            errors.extend(joined(is_dns1035_label(name)).map(|problems| Error::invalid(&path.index(i), name, problems)));
        }
    };
    each_label("shortNames", &mut errors);
    let (kind, list_kind) = (str_at(names, "/kind"), str_at(names, "/listKind"));
    if !kind.is_empty() && kind == list_kind {
        errors.push(Error::invalid(&path.child("listKind"), list_kind, "kind and listKind may not be the same"));
    }
    each_label("categories", &mut errors);
    errors
}

/// What all versions have in common.
fn validate_common(spec: &Spec<'_>, must_be_structural: bool, rules: &Rules, path: &Path<'_>) -> ErrorList {
    let common = &spec.common;
    let mut errors = ErrorList::new();
    if let Some(schema) = common.schema() {
        let path = path.child("validation");
        errors.extend(schema_rules::validate(schema, spec.version, spec.has_any_status(), must_be_structural, rules, &path));
    }
    errors.extend(validate_parts(common, path));
    if !common.selectable_fields.is_empty() {
        let fields_path = path.child("selectableFields");
        match common.schema() {
            None => errors.push(Error::invalid(&fields_path, "", "may only be set when validations.schema is included")),
            Some(schema) => {
                let schema_path = path.child("schema.openAPIV3Schema");
                errors.extend(validate_selectable_fields(common.selectable_fields, schema, "", rules, &schema_path, &fields_path));
            }
        }
    }
    errors
}

/// Subresources and columns.
fn validate_parts(parts: &Parts<'_>, path: &Path<'_>) -> ErrorList {
    let scale = parts.subresources.and_then(|subresources| present(subresources, "scale"));
    let mut errors = scale.map(|scale| validate_scale(scale, &path.child("subresources"))).unwrap_or_default();
    let columns_path = path.child("additionalPrinterColumns");
    for (i, column) in parts.columns.iter().enumerate() {
        errors.extend(validate_column(column, &columns_path.index(i)));
    }
    errors
}

fn validate_scale(scale: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let fields: [(&str, &str, &[&str], &str); 3] = [
        ("specReplicasPath", "scale.specReplicasPath", &[".spec."], "should be a json path under .spec"),
        ("statusReplicasPath", "scale.statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", "scale.labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ];
    for (field, shown, roots, detail) in fields {
        let (value, path) = (scale.get(field).and_then(Value::as_str).unwrap_or(""), path.child(shown));
        if value.is_empty() {
            if field != "labelSelectorPath" {
                errors.push(Error::required(&path, ""));
            }
        } else if !value.starts_with('.') {
            errors.push(not_a_path(value, &path));
        } else if !roots.iter().any(|root| value.starts_with(root)) {
            errors.push(Error::invalid(&path, value, detail));
        }
    }
    errors
}

fn not_a_path(value: &str, path: &Path<'_>) -> Error {
    Error::invalid(path, value, "must be a simple json path starting with .")
}

fn validate_column(column: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if str_at(column, "/name").is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    let (kind, type_path) = (str_at(column, "/type"), path.child("type"));
    let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
    if kind.is_empty() {
        errors.push(Error::required(&type_path, detail));
    } else if !COLUMN_TYPES.contains(&kind) {
        errors.push(Error::invalid(&type_path, kind, detail));
    }
    let format = str_at(column, "/format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        errors.push(Error::invalid(&path.child("format"), format, format!("must be one of {}", COLUMN_FORMATS.join(","))));
    }
    let (json_path, path) = (str_at(column, "/jsonPath"), path.child("JSONPath"));
    if json_path.is_empty() {
        errors.push(Error::required(&path, ""));
    } else if !json_path.starts_with('.') {
        errors.push(not_a_path(json_path, &path));
    }
    errors
}

fn validate_selectable_fields(
    fields: &[Value],
    schema: &Value,
    version: &str,
    rules: &Rules,
    schema_path: &Path<'_>,
    path: &Path<'_>,
) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(problem) = structural::problem(schema) {
        errors.push(Error::invalid(schema_path, "", problem));
    }
    let mut seen: Vec<String> = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let (index, json_path) = (path.index(i), str_at(field, "/jsonPath"));
        let path = index.child("jsonPath");
        if json_path.is_empty() {
            errors.push(Error::required(&path, ""));
            continue;
        }
        let found = match field_path::follow(json_path, schema, false) {
            Ok(found) => found,
            Err(problem) => {
                errors.push(Error::invalid(&path, json_path, format!("is an invalid path: {problem}")));
                continue;
            }
        };
        if found.root == "metadata" {
            errors.push(Error::invalid(&path, json_path, "must not point to fields in metadata"));
        }
        let kind = found.schema.map_or("", |schema| str_at(schema, "/type"));
        if !matches!(kind, "string" | "boolean" | "integer") {
            let detail =
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(Error::invalid(&path, json_path, detail));
        }
        if seen.contains(&found.text) {
            errors.push(Error::duplicate(&path, json_path));
        } else {
            seen.push(found.text);
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS && !rules.many_selectable_fields.contains(version) {
        errors.push(Error::too_many(path, seen.len(), MAX_SELECTABLE_FIELDS));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = json!({"spec": {"group": "a.com", "scope": "Cluster", "conversion": {"strategy": "None"},
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "properties": {"spec": {"type": "object", "properties": {"size": {"type": "string"}}}}}}}]}});
        change(&mut object["spec"]);
        validate(&object, &Rules::for_create()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_definition_lacks_everything() {
        assert!(definition(|_| {}).is_empty());
        assert_eq!(
            definition(|spec| *spec = json!({"conversion": {"strategy": "None"}})),
            [
                "spec.group: Required value",
                "spec.scope: Required value",
                "spec.versions: Invalid value: null: must have exactly one version marked as storage version",
                "spec.names.plural: Required value",
                "spec.names.singular: Required value",
                "spec.names.kind: Required value",
                "spec.names.listKind: Required value",
            ]
        );
    }

    #[test]
    fn versions_have_names_of_their_own() {
        let errors = definition(|spec| {
            let version = spec["versions"][0].clone();
            spec["versions"] = json!([version, version]);
        });
        assert_eq!(errors.len(), 2);
        assert!(errors[0].starts_with(r#"spec.versions: Invalid value: [{"Name":"v1","Served":true,"Storage":true,"Deprecated":false,"#));
        assert!(errors[0].ends_with("must contain unique version names"));
        assert!(errors[1].ends_with("must have exactly one version marked as storage version"));
    }

    #[test]
    fn columns_and_scales_have_paths() {
        assert_eq!(
            definition(|spec| {
                spec["versions"][0]["additionalPrinterColumns"] = json!([{"name": "a", "type": "text", "jsonPath": "x"}]);
                spec["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".status.a", "labelSelectorPath": "b"}});
            }),
            [
                r#"spec.subresources.scale.specReplicasPath: Invalid value: ".status.a": should be a json path under .spec"#,
                "spec.subresources.scale.statusReplicasPath: Required value",
                r#"spec.subresources.scale.labelSelectorPath: Invalid value: "b": must be a simple json path starting with ."#,
                r#"spec.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string"#,
                r#"spec.additionalPrinterColumns[0].JSONPath: Invalid value: "x": must be a simple json path starting with ."#,
            ]
        );
    }

    #[test]
    fn selectable_fields_are_scalars_of_the_schema() {
        let with = |fields: Value| definition(|spec| spec["versions"][0]["selectableFields"] = fields);
        assert!(with(json!([{"jsonPath": ".spec.size"}])).is_empty());
        assert_eq!(
            with(json!([{"jsonPath": ".spec"}, {"jsonPath": ".spec.none"}])),
            [
                r#"spec.selectableFields[0].jsonPath: Invalid value: ".spec": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."#,
                r#"spec.selectableFields[1].jsonPath: Invalid value: ".spec.none": is an invalid path: does not refer to a valid field"#,
            ]
        );
    }

    #[test]
    fn stored_versions_stay() {
        let object = json!({"spec": {"versions": [{"name": "v2", "storage": true}]}, "status": {"storedVersions": ["v1", "v2"]}});
        let errors: Vec<String> = validate_stored_versions(&object).iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].starts_with(r#"status.storedVersions[0]: Invalid value: "v1": missing from spec.versions; v1 was previously"#));
        assert_eq!(
            validate_stored_versions(&json!({}))[0].to_string(),
            "status.storedVersions: Invalid value: null: must have at least one stored version"
        );
    }

    #[test]
    fn warnings_are_for_deprecated_versions() {
        assert_eq!(
            definition(|spec| spec["versions"][0]["deprecationWarning"] = "a".into()),
            [r#"spec.versions[0].deprecationWarning: Invalid value: "a": can only be set for deprecated versions"#]
        );
    }
}
