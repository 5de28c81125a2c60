//! CustomResourceDefinitions: kinds that users define. Whether names are accepted and a kind is served is a controller's to say.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::name_is_dns_subdomain;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::defaults::storage_version;
use super::spec_rules;
use super::tolerance::{Rules, is_established};
use super::{approval, format};
use crate::registry::printer::{self, CREATED_AT, text, wide};
use crate::registry::read::{at, bool_at, list_at, str_at};
use crate::registry::strategy::{bump_generation_if_changed, drop_field, keep_all_but_status, keep_status, set_field, set_generation};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: "apiextensions.k8s.io",
    version: "v1",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    kind: "CustomResourceDefinition",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: "apiextensions.k8s.io",
        version: "v1",
        kind: "CustomResourceDefinition",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Scope", Description::Text("Cluster/Namespaced")),
    text("Versions", Description::Text("Served versions")),
    Column { kind: "date", ..text(CREATED_AT, Description::Field(OBJECT_META, "creationTimestamp")) },
    wide("Group", Description::Text("API group")),
    wide("Kind", Description::Text("CustomResource kind")),
    wide("ShortNames", Description::Text("Short names")),
    Column { kind: "boolean", ..wide("Established", Description::Text("Established status")) },
];

fn row(object: &Value, _now: Timestamp) -> Vec<Value> {
    let served = list_at(object, "/spec/versions").iter().filter(|version| bool_at(version, "/served"));
    let mut versions: Vec<String> = served
        .map(|version| format!("{}{}", str_at(version, "/name"), if bool_at(version, "/storage") { "(storage)" } else { "" }))
        .collect();
    versions.sort_unstable();
    let short_names: Vec<&str> = list_at(object, "/spec/names/shortNames").iter().filter_map(Value::as_str).collect();
    vec![
        printer::name(object),
        str_at(object, "/spec/scope").into(),
        versions.join(",").into(),
        at(object, "/metadata/creationTimestamp").clone(),
        str_at(object, "/spec/group").into(),
        str_at(object, "/spec/names/kind").into(),
        short_names.join(",").into(),
        is_established(object).into(),
    ]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
        drop_empty_webhook(new);
        remember_storage_version(new);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let rules = Rules::for_create();
        let mut errors = validate_name(new);
        errors.extend(spec_rules::validate(new, &rules));
        errors.extend(validate_rest(new, None));
        errors
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        format::warnings(new, None)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        drop_empty_webhook(new);
        bump_generation_if_changed(new, old, &["spec"]);
        remember_storage_version(new);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let rules = Rules::for_update(new, old);
        let mut errors = spec_rules::validate(new, &rules);
        errors.extend(spec_rules::validate_change(new, old, &rules));
        errors.extend(validate_rest(new, Some(old)));
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        format::warnings(new, Some(old))
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate_accepted_names(new)
    }
}

/// A webhook of which nothing is said is none.
fn drop_empty_webhook(object: &mut Value) {
    if let Some(conversion) = object.pointer_mut("/spec/conversion") {
        let webhook = at(conversion, "/webhook");
        if at(webhook, "/clientConfig").is_null() && at(webhook, "/conversionReviewVersions").is_null() {
            drop_field(conversion, "webhook");
        }
    }
}

/// Whatever version is stored from now on, objects in it exist.
fn remember_storage_version(object: &mut Value) {
    let Some(version) = storage_version(at(object, "/spec")).map(str::to_owned) else { return };
    if at(object, "/status").is_null() {
        set_field(object, "status", json!({}));
    }
    let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else { return };
    let stored = status.entry("storedVersions").or_insert_with(|| json!([]));
    if stored.is_null() {
        *stored = json!([]);
    }
    if let Some(stored) = stored.as_array_mut()
        && !stored.iter().any(|known| known == version.as_str())
    {
        stored.push(version.into());
    }
}

/// A definition is named after what it defines.
fn validate_name(object: &Value) -> ErrorList {
    let required = format!("{}.{}", str_at(object, "/spec/names/plural"), str_at(object, "/spec/group"));
    let metadata = Path::new("metadata");
    let names = [("generateName", str_at(object, "/metadata/generateName")), ("name", str_at(object, "/metadata/name"))];
    let wrong = names.into_iter().filter(|(_, name)| !name.is_empty() && *name != required);
    wrong.map(|(field, name)| Error::invalid(&metadata.child(field), name, r#"must be spec.names.plural+"."+spec.group"#)).collect()
}

fn validate_accepted_names(object: &Value) -> ErrorList {
    spec_rules::validate_names(at(object, "/status/acceptedNames"), &Path::new("status.acceptedNames"))
}

/// The status, the approval, and a field that is long out of use.
fn validate_rest(new: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = validate_accepted_names(new);
    errors.extend(spec_rules::validate_stored_versions(new));
    errors.extend(approval::validate(new, old));
    let preserves = |object: &Value| bool_at(object, "/spec/preserveUnknownFields");
    if preserves(new) && !old.is_some_and(preserves) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(Error::invalid(&Path::new("spec.preserveUnknownFields"), true, detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx() -> Cx<'static> {
        Cx { now: Timestamp::UNIX_EPOCH, subresource: "", namespace: "", user: "u", uid: "", groups: &[], extra: &[] }
    }

    fn definition(versions: Value) -> Value {
        json!({"metadata": {"name": "things.a.com", "generation": 1}, "spec": {"group": "a.com", "scope": "Namespaced",
            "conversion": {"strategy": "None"}, "versions": versions,
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"}}})
    }

    fn version(name: &str, storage: bool) -> Value {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object"}}})
    }

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_definition_is_created_with_its_stored_version() {
        let mut new = definition(json!([version("v1", true)]));
        new["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
        Main.prepare_for_create(&cx(), &mut new);
        assert_eq!(new["status"], json!({"storedVersions": ["v1"]}));
        assert!(texts(Main.validate(&cx(), &new)).is_empty());
        new["metadata"]["name"] = "x".into();
        assert_eq!(texts(Main.validate(&cx(), &new)), [r#"metadata.name: Invalid value: "x": must be spec.names.plural+"."+spec.group"#]);
    }

    #[test]
    fn another_stored_version_is_remembered() {
        let mut old = definition(json!([version("v1", true)]));
        old["status"] = json!({"storedVersions": ["v1"], "conditions": [{"type": "Established", "status": "True"}]});
        let mut new = definition(json!([version("v1", false), version("v2", true)]));
        Main.prepare_for_update(&cx(), &mut new, &old);
        assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
        assert_eq!(new["metadata"]["generation"], 2);
        assert!(texts(Main.validate_update(&cx(), &new, &old)).is_empty());
        new["spec"]["scope"] = "Cluster".into();
        new["spec"]["names"]["kind"] = "Other".into();
        assert_eq!(
            texts(Main.validate_update(&cx(), &new, &old)),
            [
                r#"spec.scope: Invalid value: "Cluster": field is immutable"#,
                r#"spec.names.kind: Invalid value: "Other": field is immutable"#,
            ]
        );
        assert_eq!(row(&new, Timestamp::UNIX_EPOCH)[2], "v1,v2(storage)");
    }
}
