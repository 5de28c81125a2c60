//! A definition as resources of the catalog.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use apimachinery::managed_fields::Filter;
use apimachinery::schema::defaults::Hooks;
use apimachinery::validation::name_is_dns_subdomain;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::columns::Columns;
use super::conversion::Converter;
use super::form::{Declared, Form};
use super::json_path::JsonPath;
use super::scale::Paths;
use super::strategy::{Custom, Status};
use super::types;
use crate::catalog::{Conversion, Gvk, Resource, Shared, Stored, Subresource, SubresourceKind, TypesHandle, next_number};
use crate::discovery::priority::compare_versions;
use crate::endpoints::body::set_type_meta;
use crate::metrics::objects::Lists;
use crate::registry::read::{bool_at, list_at, str_at};
use crate::registry::{ALL_VERBS, SUBRESOURCE_VERBS};
use crate::storage::encrypted::Kind;
use crate::storage::resource::FieldValue;
use crate::storage::{Codec, CodecError, FieldOrder, JsonCodec, ResourceSpec, SelectableField, key};

/// What a definition brings: how its objects are stored, and a resource for each served version.
pub struct Resources {
    pub stored: Arc<Stored>,
    pub served: Vec<Resource>,
    pub spec: ResourceSpec,
}

struct Version<'d> {
    name: &'d str,
    definition: &'d Value,
    form: Arc<Form>,
}

/// The resources of a definition that has its names; `text` is that of the definition. `None` if it has no stored version, which its
/// validation does not admit.
pub fn resources(definition: &Value, text: &Bytes) -> Option<Resources> {
    let group = str_at(definition, "/spec/group");
    let kind = str_at(definition, "/status/acceptedNames/kind");
    let plural = str_at(definition, "/status/acceptedNames/plural");
    let namespaced = str_at(definition, "/spec/scope") == "Namespaced";
    let versions: Vec<Version<'_>> =
        list_at(definition, "/spec/versions").iter().map(|version| read_version(definition, text, version)).collect();
    let storage = versions.iter().find(|v| bool_at(v.definition, "/storage"))?;
    let forms = versions.iter().map(|v| (Gvk::new(group, v.name, kind).api_version(), v.form.clone())).collect();
    let converter = Converter::read(definition, forms).map(Arc::new);
    let selectable = selectable(&versions);
    let stored = Arc::new(Stored {
        group: group.into(),
        resource: plural.into(),
        gvk: Gvk::new(group, storage.name, kind),
        types: TypesHandle::Custom(storage.form.clone()),
        type_id: types::ROOT,
        keeps_empties: true,
        embedded: Arc::default(),
        prefix: key::prefix(group, plural).as_ref().into(),
        namespaced,
        selectable: selectable.iter().map(|(name, get)| (name.as_str().into(), get.clone())).collect(),
        cache: OnceLock::new(),
        custom: Some(storage.form.clone()),
        lists: Lists::default(),
    });
    let served = versions.iter().filter(|v| bool_at(v.definition, "/served"));
    let served = served.map(|version| resource(definition, version, storage, &stored, converter.as_ref())).collect();
    let spec = ResourceSpec {
        prefix: (&*stored.prefix).into(),
        kind: Kind { group: group.into(), resource: plural.into() },
        namespaced,
        order: FieldOrder::Sorted,
        fields: selectable.into_iter().map(|(name, value)| SelectableField { name: name.as_str().into(), value }).collect(),
        embedded: Arc::default(),
        codec: Arc::new(StoredForm { gvk: stored.gvk.clone(), form: storage.form.clone(), converter }),
    };
    Some(Resources { stored, served, spec })
}

/// Objects that were stored by an earlier form of the definition are read as objects of the present one; where a webhook converts,
/// in the version that they were stored in.
struct StoredForm {
    gvk: Gvk,
    form: Arc<Form>,
    converter: Option<Arc<Converter>>,
}

impl Codec for StoredForm {
    fn encode(&self, value: &Value, json: &Bytes) -> Result<Bytes, CodecError> {
        JsonCodec.encode(value, json)
    }

    fn decode(&self, stored: &Bytes) -> Result<Value, CodecError> {
        let mut value = JsonCodec.decode(stored)?;
        let form = match &self.converter {
            None => {
                set_type_meta(&mut value, &self.gvk);
                Some(&self.form)
            }
            Some(converter) => converter.form(str_at(&value, "/apiVersion")),
        };
        match form {
            Some(form) => {
                form.fit(&mut value);
                form.complete(&mut value);
            }
            // Of a version that the definition has no more: whoever asks for it is told so.
            None => value.sort_all_objects(),
        }
        Ok(value)
    }

    fn is_current(&self, stored: &Bytes) -> bool {
        is_of_version(stored, &self.gvk.api_version())
    }
}

/// Whether the text of a custom object has this `apiVersion`. Its members are sorted, so that it is near the start.
pub fn is_of_version(text: &[u8], api_version: &str) -> bool {
    const FIRST: &[u8] = b"{\"apiVersion\":\"";
    #[derive(Deserialize)]
    struct Typed<'t> {
        #[serde(borrow, rename = "apiVersion")]
        api_version: Cow<'t, str>,
    }
    if let Some(rest) = text.strip_prefix(FIRST) {
        return rest.strip_prefix(api_version.as_bytes()).is_some_and(|rest| rest.starts_with(b"\""));
    }
    // A member of its own comes first.
    serde_json::from_slice::<Typed<'_>>(text).is_ok_and(|typed| typed.api_version == api_version)
}

fn read_version<'d>(definition: &'d Value, text: &Bytes, version: &'d Value) -> Version<'d> {
    let scale = version.pointer("/subresources/scale").filter(|s| !s.is_null()).map(Paths::read);
    let conditions = list_at(definition, "/status/conditions");
    let terminating = conditions.iter().any(|c| str_at(c, "/type") == "Terminating" && str_at(c, "/status") == "True");
    let name = str_at(version, "/name");
    let declared = Declared { definition: text.clone(), version: name.into() };
    let form = Form::new(declared, deprecation(definition, version), terminating, scale);
    Version { name, definition: version, form: Arc::new(form) }
}

/// What users of a version are warned of.
fn deprecation(definition: &Value, version: &Value) -> Option<String> {
    if !bool_at(version, "/deprecated") {
        return None;
    }
    if let Some(text) = version.get("deprecationWarning").and_then(Value::as_str) {
        return Some(text.to_owned());
    }
    let (group, kind) = (str_at(definition, "/spec/group"), str_at(definition, "/spec/names/kind"));
    let name = str_at(version, "/name");
    let others = list_at(definition, "/spec/versions").iter().filter(|v| bool_at(v, "/served") && !bool_at(v, "/deprecated"));
    let better =
        others.map(|v| str_at(v, "/name")).filter(|other| stability(other) >= stability(name)).max_by(|a, b| compare_versions(a, b));
    let instead = better.map_or_else(String::new, |better| format!("; use {group}/{better} {kind}"));
    Some(format!("{group}/{name} {kind} is deprecated{instead}"))
}

/// `v1` before `v1beta1` before `v1alpha1`; other names are no worse than alpha.
fn stability(version: &str) -> u8 {
    let is_stable = compare_versions(version, "v0beta0") == Ordering::Greater;
    match version {
        v if v.contains("alpha") => 0,
        v if v.contains("beta") => 1,
        _ if is_stable => 2,
        _ => 0,
    }
}

/// The selectable fields of all versions: stored objects are indexed once for all of them.
fn selectable(versions: &[Version<'_>]) -> Vec<(String, FieldValue)> {
    let mut out: Vec<(String, FieldValue)> = Vec::new();
    for field in versions.iter().flat_map(|v| list_at(v.definition, "/selectableFields")) {
        let path = str_at(field, "/jsonPath");
        let name = field_name(path);
        let Some(parsed) = JsonPath::parse(path) else { continue };
        if !out.iter().any(|(known, _)| known == name) {
            out.push((name.to_owned(), Arc::new(move |object: &Value| text(parsed.first(object)))));
        }
    }
    out
}

fn field_name(path: &str) -> &str {
    path.strip_prefix('.').unwrap_or(path)
}

/// A value as selectors compare it.
fn text(value: Option<&Value>) -> Cow<'_, str> {
    match value {
        None | Some(Value::Null) => Cow::Borrowed(""),
        Some(Value::String(text)) => Cow::Borrowed(text),
        Some(other) => Cow::Owned(other.to_string()),
    }
}

fn resource(
    definition: &Value,
    version: &Version<'_>,
    storage: &Version<'_>,
    stored: &Arc<Stored>,
    converter: Option<&Arc<Converter>>,
) -> Resource {
    let gvk = Gvk::new(&stored.group, version.name, &stored.gvk.kind);
    let has_status = version.definition.pointer("/subresources/status").is_some_and(|s| !s.is_null());
    let own: Vec<&str> = list_at(version.definition, "/selectableFields").iter().map(|f| field_name(str_at(f, "/jsonPath"))).collect();
    // Positions are those of the stored fields; what this version does not select by has no name here.
    let selectable =
        stored.selectable.iter().map(|(name, get)| (if own.contains(&&**name) { name.clone() } else { "".into() }, get.clone()));
    let same = |value: Value| value;
    Resource {
        plural: stored.resource.clone(),
        singular: str_at(definition, "/status/acceptedNames/singular").into(),
        list_kind: str_at(definition, "/status/acceptedNames/listKind").into(),
        namespaced: stored.namespaced,
        verbs: ALL_VERBS.iter().map(|v| (*v).into()).collect(),
        types: TypesHandle::Custom(version.form.clone()),
        type_id: types::ROOT,
        embedded: Arc::default(),
        hooks: Arc::new(Hooks::default()),
        check_name: name_is_dns_subdomain,
        strategy: Shared::Owned(Arc::new(Custom { form: version.form.clone(), has_status })),
        subresources: subresources(&gvk, version, has_status),
        selectable: selectable.collect(),
        printer: Shared::Owned(Arc::new(Columns::read(list_at(version.definition, "/additionalPrinterColumns")))),
        filter: Filter::except(if has_status { &["status"] } else { &[] }),
        number: next_number(),
        stored: stored.clone(),
        conversion: (converter.is_none() && version.name != storage.name).then_some(Conversion { to_storage: same, from_storage: same }),
        webhook: converter.cloned(),
        type_meta_prefix: Box::default(),
        custom: Some(version.form.clone()),
        gvk,
    }
}

fn subresources(gvk: &Gvk, version: &Version<'_>, has_status: bool) -> HashMap<Box<str>, Subresource> {
    let verbs = || SUBRESOURCE_VERBS.iter().map(|v| (*v).into()).collect();
    let mut out = HashMap::new();
    if has_status {
        let strategy = Shared::Owned(Arc::new(Status { form: version.form.clone() }) as Arc<dyn crate::registry::UpdateStrategy>);
        let kind = SubresourceKind::Object { strategy, filter: Filter::except(&["metadata", "spec"]) };
        out.insert("status".into(), Subresource { gvk: gvk.clone(), verbs: verbs(), kind });
    }
    if version.form.scale.is_some() {
        let gvk = Gvk::new("autoscaling", "v1", "Scale");
        out.insert("scale".into(), Subresource { gvk, verbs: verbs(), kind: SubresourceKind::Scale });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_stored_object_is_found_whatever_members_it_has() {
        for (text, expected) in [
            (r#"{"apiVersion":"a.b/v1","kind":"K"}"#, true),
            (r#"{"apiVersion":"a.b/v1beta1","kind":"K"}"#, false),
            (r#"{"aaa":{"apiVersion":"a.b/v2"},"apiVersion":"a.b/v1"}"#, true),
            (r#"{"aaa":{"apiVersion":"a.b/v1"},"apiVersion":"a.b/v2"}"#, false),
            (r#"{"kind":"K"}"#, false),
        ] {
            assert_eq!(is_of_version(text.as_bytes(), "a.b/v1"), expected, "{text}");
        }
    }
}
