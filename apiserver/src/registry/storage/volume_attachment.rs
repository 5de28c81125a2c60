//! storage.k8s.io/v1 VolumeAttachment.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, inclusive_range_error, long_name_caseless, name_is_dns_subdomain};
use apimachinery::view::view;
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeError};
use serde_json::{Value, json};

use crate::registry::core::persistent_volume::{self, SpecRules, validate_csi_driver_name};
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, bool_at, str_at};
use crate::registry::strategy::{keep_all_but_status, keep_metadata, keep_status, set_field};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

const SPEC: &str = "io.k8s.api.storage.v1.VolumeAttachmentSpec";
const MAX_ATTACHER: usize = 63;
const MAX_METADATA_BYTES: usize = 256 * 1024;
const MAX_MESSAGE_BYTES: usize = 1024;
const ONE_SOURCE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";

pub static RESOURCE: Definition = Definition {
    group: "storage.k8s.io",
    version: "v1",
    plural: "volumeattachments",
    singular: "volumeattachment",
    kind: "VolumeAttachment",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.storage.v1.VolumeAttachment",
    name: name_is_dns_subdomain,
    strategy: &AttachmentStrategy,
    subresources: &[Subresource {
        name: "status",
        group: "storage.k8s.io",
        version: "v1",
        kind: "VolumeAttachment",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &StatusStrategy, reset_fields: &["metadata", "spec"] },
    }],
    selectable: &[],
    printer: Printer {
        columns: &[
            NAME,
            Column { format: "name", ..printer::text("Attacher", Description::Field(SPEC, "attacher")) },
            printer::text("PV", Description::Field("io.k8s.api.storage.v1.VolumeAttachmentSource", "persistentVolumeName")),
            printer::text("Node", Description::Field(SPEC, "nodeName")),
            printer::boolean("Attached", Description::Field("io.k8s.api.storage.v1.VolumeAttachmentStatus", "attached")),
            AGE,
        ],
        cells: |object, now| {
            vec![
                printer::name(object),
                str_at(object, "/spec/attacher").into(),
                str_at(object, "/spec/source/persistentVolumeName").into(),
                str_at(object, "/spec/nodeName").into(),
                bool_at(object, "/status/attached").into(),
                printer::object_age(object, now),
            ]
        },
    },
    reset_fields: &["status"],
};

struct AttachmentStrategy;

impl UpdateStrategy for AttachmentStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_change(new, old)
    }
}

impl Strategy for AttachmentStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_field(new, "status", json!({"attached": false}));
    }

    /// The declared rules of the attacher are told last.
    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut errors = validate(new);
        let attacher = str_at(new, "/spec/attacher");
        let spec = Path::new("spec");
        let path = spec.child("attacher");
        if attacher.is_empty() {
            errors.push(Error::required(&path, ""));
            return errors;
        }
        errors.extend(long_name_caseless(&path, attacher));
        if attacher.chars().count() > MAX_ATTACHER {
            errors.push(Error::too_long_characters(&path, MAX_ATTACHER));
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

struct StatusStrategy;

impl UpdateStrategy for StatusStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        keep_metadata(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_change(new, old)
    }
}

/// Only the status of an attachment changes.
fn validate_change(new: &Value, old: &Value) -> ErrorList {
    let spec = Path::new("spec");
    let mut errors = validate_csi_driver_name(str_at(new, "/spec/attacher"), &spec.child("attacher"));
    errors.extend(validate(new));
    if new.get("spec") != old.get("spec") {
        errors.push(Error::invalid(&spec, Value::Null, FIELD_IMMUTABLE));
    }
    errors
}

/// All rules but those of the attacher.
fn validate(raw: &Value) -> ErrorList {
    let attachment: VolumeAttachment = view(raw);
    let spec = Path::new("spec");
    let mut errors = validate_source(at(raw, "/spec/source"), &spec.child("source"));
    let node = attachment.spec.node_name.as_str();
    let path = spec.child("nodeName");
    errors.extend(name_is_dns_subdomain(node, false).into_iter().map(|message| Error::invalid(&path, node, message)));
    let status = attachment.status.unwrap_or_default();
    let path = Path::new("status");
    errors.extend(validate_metadata(status.attachment_metadata.as_ref(), &path.child("attachmentMetadata")));
    errors.extend(validate_error(status.attach_error.as_ref(), &path.child("attachError")));
    errors.extend(validate_error(status.detach_error.as_ref(), &path.child("detachError")));
    if let Some(volume) = attachment.spec.source.persistent_volume_name.as_deref() {
        let path = Path::new("spec.source.persistentVolumeName");
        errors.extend(name_is_dns_subdomain(volume, false).into_iter().map(|message| Error::invalid(&path, volume, message)));
    }
    errors
}

/// A volume by name or by what it is.
fn validate_source(source: &Value, path: &Path<'_>) -> ErrorList {
    match (source.get("persistentVolumeName").and_then(Value::as_str), source.get("inlineVolumeSpec")) {
        (None, None) => vec![Error::required(path, ONE_SOURCE)],
        (Some(_), Some(_)) => vec![Error::forbidden(path, ONE_SOURCE)],
        (Some(""), None) => vec![Error::required(&path.child("persistentVolumeName"), "must specify non empty persistentVolumeName")],
        (Some(_), None) => ErrorList::new(),
        (None, Some(spec)) => {
            let rules = SpecRules { inline: true, ..SpecRules::default() };
            persistent_volume::validate_spec(spec, "", rules, &path.child("inlineVolumeSpec"))
        }
    }
}

fn validate_metadata(metadata: Option<&BTreeMap<String, String>>, path: &Path<'_>) -> Option<Error> {
    let bytes: usize = metadata.into_iter().flatten().map(|(key, value)| key.len() + value.len()).sum();
    (bytes > MAX_METADATA_BYTES).then(|| Error::too_long(path, MAX_METADATA_BYTES))
}

fn validate_error(error: Option<&VolumeError>, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(error) = error else { return errors };
    if error.message.as_deref().unwrap_or("").len() > MAX_MESSAGE_BYTES {
        errors.push(Error::too_long(&path.child("message"), MAX_MESSAGE_BYTES));
    }
    if let Some(code) = error.error_code.filter(|code| *code < 0) {
        errors.push(Error::invalid(&path.child("errorCode"), code, inclusive_range_error(0, i64::from(i32::MAX))));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::core::tests::{cx, messages};

    fn attachment(source: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"attacher": "x", "nodeName": "n", "source": source}, "status": {"attached": false}})
    }

    #[test]
    fn an_empty_spec_is_refused_as_upstream_does() {
        let empty = json!({"metadata": {}, "spec": {"attacher": "", "nodeName": "", "source": {}}});
        let text = messages(&AttachmentStrategy.validate(&cx(), &empty));
        assert_eq!(text.len(), 3, "{text:?}");
        assert_eq!(text[0], format!("spec.source: Required value: {ONE_SOURCE}"));
        assert!(text[1].starts_with("spec.nodeName: Invalid value: \"\": a lowercase RFC 1123 subdomain"));
        assert_eq!(text[2], "spec.attacher: Required value");
    }

    #[test]
    fn an_inline_volume_is_a_csi_volume_without_a_claim() {
        let inline = |spec: Value| attachment(json!({"inlineVolumeSpec": spec}));
        let good = inline(json!({"accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"}}));
        assert!(AttachmentStrategy.validate(&cx(), &good).is_empty());
        let bad = inline(
            json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1"}, "hostPath": {"path": "/a"}, "storageClassName": "s"}),
        );
        assert_eq!(
            messages(&AttachmentStrategy.validate(&cx(), &bad)),
            [
                "spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified in the context of inline volumes",
                "spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes",
                "spec.source.inlineVolumeSpec.storageClassName: Forbidden: may not be specified in the context of inline volumes",
            ]
        );
    }

    #[test]
    fn only_the_status_changes() {
        let (old, new) = (attachment(json!({"persistentVolumeName": "a"})), attachment(json!({"persistentVolumeName": "b"})));
        assert_eq!(messages(&AttachmentStrategy.validate_update(&cx(), &new, &old)), ["spec: Invalid value: null: field is immutable"]);
        let mut failed = old.clone();
        failed["status"]["attachError"] = json!({"message": "x".repeat(1025), "errorCode": -1});
        assert_eq!(
            messages(&StatusStrategy.validate_update(&cx(), &failed, &old)),
            [
                "status.attachError.message: Too long: may not be more than 1024 bytes",
                "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ]
        );
    }
}
