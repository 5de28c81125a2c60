//! core/v1 PersistentVolume.

mod printed;
mod sources;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, name_is_dns_subdomain};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeSpec, VolumeNodeAffinity};
use serde_json::{Map, Value, json};

use self::sources::SOURCES;
pub use self::sources::validate_csi_driver_name;
use super::node_selector;
use super::resource::{quantity, validate_basic, validate_positive};
use crate::registry::defaulting::{nested, set_if_empty, set_if_unset};
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::strategy::{keep_all_but_status, keep_status, set_field};
use crate::registry::{
    ALL_VERBS, Behaviour, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy, diff,
};

const SPEC: &str = "io.k8s.api.core.v1.PersistentVolumeSpec";
const STATUS: &str = "io.k8s.api.core.v1.PersistentVolumeStatus";
/// The annotation that named a storage class before the field did.
pub const STORAGE_CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const MOUNT_OPTIONS_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";
const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    kind: "PersistentVolume",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &["pv"],
    categories: &[],
    schema: "io.k8s.api.core.v1.PersistentVolume",
    name: name_is_dns_subdomain,
    strategy: &VolumeStrategy,
    subresources: &[Subresource {
        name: "status",
        group: "",
        version: "v1",
        kind: "PersistentVolume",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &StatusStrategy, reset_fields: &["spec"] },
    }],
    selectable: &[],
    printer: Printer {
        columns: &[
            NAME,
            printer::text("Capacity", Description::Field(SPEC, "capacity")),
            printer::text("Access Modes", Description::Field(SPEC, "accessModes")),
            printer::text("Reclaim Policy", Description::Field(SPEC, "persistentVolumeReclaimPolicy")),
            printer::text("Status", Description::Field(STATUS, "phase")),
            printer::text("Claim", Description::Field(SPEC, "claimRef")),
            printer::text("StorageClass", Description::Text("StorageClass of the pv")),
            printer::text("VolumeAttributesClass", Description::Text("VolumeAttributesClass of the pv")),
            printer::text("Reason", Description::Field(STATUS, "reason")),
            AGE,
            printer::wide("VolumeMode", Description::Field(SPEC, "volumeMode")),
        ],
        cells,
    },
    reset_fields: &["status"],
};

fn cells(volume: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match volume.pointer("/spec/claimRef") {
        Some(claim) => format!("{}/{}", str_at(claim, "/namespace"), str_at(claim, "/name")),
        None => String::new(),
    };
    let capacity = at(volume, "/spec/capacity/storage").as_str().unwrap_or("0");
    vec![
        printer::name(volume),
        capacity.into(),
        access_modes_text(list_at(volume, "/spec/accessModes")).into(),
        str_at(volume, "/spec/persistentVolumeReclaimPolicy").into(),
        phase(volume).into(),
        claim.into(),
        storage_class(volume).into(),
        or_unset(at(volume, "/spec/volumeAttributesClassName")),
        str_at(volume, "/status/reason").into(),
        printer::object_age(volume, now),
        or_unset(at(volume, "/spec/volumeMode")),
    ]
}

/// The phase as tables show it: what is being deleted is terminating.
pub fn phase(object: &Value) -> &str {
    match at(object, "/metadata/deletionTimestamp") {
        Value::Null => str_at(object, "/status/phase"),
        _ => "Terminating",
    }
}

/// The value, or `<unset>`.
pub fn or_unset(value: &Value) -> Value {
    value.as_str().unwrap_or("<unset>").into()
}

/// The storage class of a volume or a claim, which the old annotation overrides.
pub fn storage_class(object: &Value) -> &str {
    match at(object, "/metadata/annotations").get(STORAGE_CLASS_ANNOTATION).and_then(Value::as_str) {
        Some(class) => class,
        None => str_at(object, "/spec/storageClassName"),
    }
}

/// `RWO,ROX,RWX,RWOP`: those that are there, in this order.
pub fn access_modes_text(modes: &[Value]) -> String {
    let known = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let present = known.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode)).map(|(_, short)| *short);
    present.collect::<Vec<_>>().join(",")
}

/// A volume is kept when released, holds a file system, and waits.
pub fn default_volume(volume: &mut Map<String, Value>) {
    if let Some(status) = nested(volume, "status") {
        set_if_empty(status, "phase", "Pending");
    }
    if let Some(spec) = nested(volume, "spec") {
        set_if_empty(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_if_unset(spec, "volumeMode", "Filesystem");
    }
}

/// A time as `metav1.Time` keeps it.
fn seconds(now: Timestamp) -> Value {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string().into()
}

struct VolumeStrategy;

impl UpdateStrategy for VolumeStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let old_spec: PersistentVolumeSpec = view(at(old, "/spec"));
        let affinity = old_spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
        let rules =
            SpecRules { allow_invalid_values: affinity.is_some_and(node_selector::has_invalid_label_value), ..SpecRules::default() };
        let mut errors = validate(new, rules);
        errors.extend(validate_mount_options(new));
        errors.extend(validate_changes(new, old));
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings(new)
    }
}

impl Strategy for VolumeStrategy {
    fn prepare_for_create(&self, cx: &Cx<'_>, new: &mut Value) {
        set_field(new, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": seconds(cx.now)}));
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut errors = validate(new, SpecRules::default());
        errors.extend(validate_mount_options(new));
        errors
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(new)
    }
}

struct StatusStrategy;

impl UpdateStrategy for StatusStrategy {
    /// The time of the last change of phase follows the phase, unless the writer says it.
    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        const TIME: &str = "lastPhaseTransitionTime";
        keep_all_but_status(new, old);
        let (before, after) = (at(old, "/status").clone(), at(new, "/status"));
        let said = at(after, "/lastPhaseTransitionTime");
        let kept = at(&before, "/lastPhaseTransitionTime");
        let time = if str_at(after, "/phase") == str_at(&before, "/phase") {
            said.is_null().then(|| kept.clone())
        } else {
            (said.is_null() || said == kept).then(|| seconds(cx.now))
        };
        if let Some(time) = time.filter(|time| !time.is_null())
            && let Some(status) = new.get_mut("status").and_then(Value::as_object_mut)
        {
            status.insert(TIME.to_owned(), time);
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        if str_at(new, "/metadata/resourceVersion").is_empty() {
            return vec![Error::required(&Path::new("resourceVersion"), "")];
        }
        ErrorList::new()
    }
}

fn validate(volume: &Value, rules: SpecRules) -> ErrorList {
    validate_spec(at(volume, "/spec"), str_at(volume, "/metadata/name"), rules, &Path::new("spec"))
}

/// Which rules hold for a spec.
#[derive(Clone, Copy, Default)]
pub struct SpecRules {
    /// It stands in a VolumeAttachment instead of a volume.
    pub inline: bool,
    /// Its node affinity may keep values that no label can have.
    pub allow_invalid_values: bool,
}

/// All rules of a spec; `volume` is the volume's name.
pub fn validate_spec(raw: &Value, volume: &str, rules: SpecRules, path: &Path<'_>) -> ErrorList {
    let spec: PersistentVolumeSpec = view(raw);
    let mut errors = ErrorList::new();
    if rules.inline {
        errors.extend(validate_inline(&spec, path));
    }
    errors.extend(validate_access_modes(spec.access_modes.as_deref().unwrap_or_default(), "", &path.child("accessModes")));
    if !rules.inline {
        errors.extend(validate_capacity(&spec, &path.child("capacity")));
    }
    let reclaim = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or("");
    errors.extend(validate_reclaim_policy(reclaim, rules, &path.child("persistentVolumeReclaimPolicy")));
    if let Some(affinity) = &spec.node_affinity {
        errors.extend(validate_affinity(affinity, rules, &path.child("nodeAffinity")));
    }
    errors.extend(validate_source(raw, volume, rules, path));
    if let Some(host) = &spec.host_path
        && reclaim == "Recycle"
        && is_root(&host.path)
    {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(Error::forbidden(&path.child("persistentVolumeReclaimPolicy"), why));
    }
    errors.extend(validate_classes(&spec, rules, path));
    errors
}

fn validate_inline(spec: &PersistentVolumeSpec, path: &Path<'_>) -> ErrorList {
    const WHERE: &str = "may not be specified in the context of inline volumes";
    let mut errors = ErrorList::new();
    if spec.claim_ref.is_some() {
        errors.push(Error::forbidden(&path.child("claimRef"), WHERE));
    }
    if spec.capacity.as_ref().is_some_and(|capacity| !capacity.is_empty()) {
        errors.push(Error::forbidden(&path.child("capacity"), WHERE));
    }
    if spec.csi.is_none() {
        errors.push(Error::required(&path.child("csi"), "has to be specified in the context of inline volumes"));
    }
    errors
}

/// Access modes are there, known, and `ReadWriteOncePod` stands alone.
pub fn validate_access_modes(modes: &[String], if_none: &str, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if modes.is_empty() {
        errors.push(Error::required(path, if_none));
    }
    let known = |mode: &&String| ACCESS_MODES.contains(&mode.as_str());
    for mode in modes.iter().filter(|mode| !known(mode)) {
        errors.push(Error::not_supported(path, mode.as_str(), &ACCESS_MODES));
    }
    let (single, others): (Vec<&String>, Vec<&String>) = modes.iter().filter(known).partition(|mode| *mode == "ReadWriteOncePod");
    if !single.is_empty() && !others.is_empty() {
        errors.push(Error::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
    errors
}

/// A volume holds a file system or is a block device.
pub fn validate_volume_mode(mode: &str, path: &Path<'_>) -> Option<Error> {
    (!VOLUME_MODES.contains(&mode)).then(|| Error::not_supported(path, mode, &VOLUME_MODES))
}

fn validate_capacity(spec: &PersistentVolumeSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let capacity = spec.capacity.as_ref().filter(|capacity| !capacity.is_empty());
    if capacity.is_none() {
        errors.push(Error::required(path, ""));
    }
    if capacity.is_none_or(|capacity| !capacity.contains_key("storage") || capacity.len() > 1) {
        errors.push(Error::not_supported(path, json!(capacity), &["storage"]));
    }
    for (name, amount) in capacity.into_iter().flatten() {
        let (amount, path) = (quantity(&amount.0), path.key(name));
        errors.extend(validate_basic(&amount, &path));
        errors.extend(validate_positive(&amount, &path));
    }
    errors
}

fn validate_reclaim_policy(policy: &str, rules: SpecRules, path: &Path<'_>) -> Option<Error> {
    match policy {
        "" | "Retain" => None,
        _ if rules.inline => Some(Error::forbidden(path, "may only be Retain in the context of inline volumes")),
        "Delete" | "Recycle" => None,
        other => Some(Error::not_supported(path, other, &["Delete", "Recycle", "Retain"])),
    }
}

fn validate_affinity(affinity: &VolumeNodeAffinity, rules: SpecRules, path: &Path<'_>) -> ErrorList {
    if rules.inline {
        return vec![Error::forbidden(path, "may not be specified in the context of inline volumes")];
    }
    match &affinity.required {
        Some(required) => node_selector::validate(required, rules.allow_invalid_values, &path.child("required")),
        None => vec![Error::required(&path.child("required"), "must specify required node constraints")],
    }
}

/// Exactly one type of volume, and that one well formed.
fn validate_source(spec: &Value, volume: &str, rules: SpecRules, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut count = 0usize;
    for kind in SOURCES {
        let Some(source) = spec.get(kind.field).filter(|source| !source.is_null()) else { continue };
        // A flex volume beside another has always been let through.
        if count > 0 && kind.field != "flexVolume" {
            errors.push(Error::forbidden(&path.child(kind.other_name), "may not specify more than 1 volume type"));
            continue;
        }
        count += 1;
        let place = path.child(kind.name);
        errors.extend(if kind.field == "iscsi" { sources::iscsi(source, volume, &place) } else { (kind.check)(source, &place) });
        if kind.field == "local" && (rules.inline || at(spec, "/nodeAffinity").is_null()) {
            errors.push(Error::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
        }
    }
    if count == 0 {
        errors.push(Error::required(path, "must specify a volume type"));
    }
    errors
}

/// Whether a path means the root once `.` and `..` are resolved.
fn is_root(path: &str) -> bool {
    let depth = path.split('/').fold(0usize, |depth, part| match part {
        "" | "." => depth,
        ".." => depth.saturating_sub(1),
        _ => depth + 1,
    });
    path.starts_with('/') && depth == 0
}

fn validate_classes(spec: &PersistentVolumeSpec, rules: SpecRules, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let name_errors = |field: &str, name: &str| -> ErrorList {
        name_is_dns_subdomain(name, false).into_iter().map(|message| Error::invalid(&path.child(field), name, message)).collect()
    };
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        if rules.inline {
            let why = "may not be specified in the context of inline volumes";
            errors.push(Error::forbidden(&path.child("storageClassName"), why));
        } else {
            errors.extend(name_errors("storageClassName", class));
        }
    }
    if let Some(mode) = spec.volume_mode.as_deref() {
        let path = path.child("volumeMode");
        if !rules.inline {
            errors.extend(validate_volume_mode(mode, &path));
        } else if mode != "Filesystem" {
            errors.push(Error::forbidden(&path, "may not specify volumeMode other than Filesystem in the context of inline volumes"));
        }
    }
    if let Some(class) = spec.volume_attributes_class_name.as_deref().filter(|_| !rules.inline) {
        if class.is_empty() {
            errors.push(Error::required(&path.child("volumeAttributesClassName"), "an empty string is disallowed"));
        } else {
            errors.extend(name_errors("volumeAttributesClassName", class));
        }
        if spec.csi.is_none() {
            errors.push(Error::required(&path.child("csi"), "has to be specified when using volumeAttributesClassName"));
        }
    }
    errors
}

/// The annotation is read for a few types of volume only.
fn validate_mount_options(volume: &Value) -> Option<Error> {
    const SUPPORTED: [&str; 13] = [
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "glusterfs",
        "nfs",
        "rbd",
        "quobyte",
        "iscsi",
        "cinder",
        "cephfs",
        "azureFile",
        "vsphereVolume",
        "azureDisk",
        "photonPersistentDisk",
    ];
    let spec = at(volume, "/spec");
    if SUPPORTED.iter().any(|field| spec.get(field).is_some()) {
        return None;
    }
    at(volume, "/metadata/annotations").get(MOUNT_OPTIONS_ANNOTATION)?;
    let metadata = Path::new("metadata");
    let annotations = metadata.child("annotations");
    Some(Error::forbidden(&annotations.child(MOUNT_OPTIONS_ANNOTATION), "may not specify mount options for this volume type"))
}

/// What of a volume may not change.
fn validate_changes(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = Path::new("spec");
    let (before, mut after) = (printed::source(at(old, "/spec")), printed::source(at(new, "/spec")));
    // A secret for expansion may be added later.
    if before["CSI"].is_object() && before["CSI"]["ControllerExpandSecretRef"].is_null() && after["CSI"].is_object() {
        after["CSI"]["ControllerExpandSecretRef"] = Value::Null;
    }
    if before != after {
        let why = format!("spec.persistentvolumesource is immutable after creation\n{}", diff::of_values(&before, &after));
        errors.push(Error::forbidden(&spec.child("persistentvolumesource"), why));
    }
    let mode = at(new, "/spec/volumeMode");
    if mode != at(old, "/spec/volumeMode") {
        errors.push(Error::invalid(&Path::new("volumeMode"), mode.clone(), FIELD_IMMUTABLE));
    }
    errors.extend(validate_affinity_change(at(new, "/spec/nodeAffinity"), at(old, "/spec/nodeAffinity")));
    let class = |volume| at(volume, "/spec/volumeAttributesClassName").clone();
    if class(new).is_null() && !class(old).is_null() {
        errors.push(Error::forbidden(&spec.child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"));
    }
    errors
}

fn validate_affinity_change(new: &Value, old: &Value) -> Option<Error> {
    if old.is_null() {
        return None;
    }
    let before: VolumeNodeAffinity = view(old);
    let after: Option<VolumeNodeAffinity> = (!new.is_null()).then(|| view(new));
    let same = match (after.as_ref().map(|affinity| &affinity.required), &before.required) {
        (Some(Some(after)), Some(before)) => node_selector::same_but_for_renamed_labels(after, before),
        (Some(None), None) => true,
        _ => false,
    };
    let shown = || after.as_ref().map(|affinity| json!({"Required": affinity.required.as_ref().map(node_selector::as_go_prints)}));
    let why = format!("{FIELD_IMMUTABLE}, except for updating from beta label to GA");
    (!same).then(|| Error::invalid(&Path::new("nodeAffinity"), json!(shown()), why))
}

fn warnings(volume: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let annotations = at(volume, "/metadata/annotations");
    for (key, message) in [
        (STORAGE_CLASS_ANNOTATION, "deprecated since v1.8; use \"storageClassName\" attribute instead"),
        (MOUNT_OPTIONS_ANNOTATION, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ] {
        if annotations.get(key).is_some() {
            warnings.push(format!("metadata.annotations[{key}]: {message}"));
        }
    }
    let spec: PersistentVolumeSpec = view(at(volume, "/spec"));
    if spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle") {
        let why = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
        warnings.push(format!("spec.persistentVolumeReclaimPolicy: {why}"));
    }
    if let Some(required) = spec.node_affinity.and_then(|affinity| affinity.required) {
        let path = Path::new("spec.nodeAffinity.required.nodeSelectorTerms");
        for (i, term) in required.node_selector_terms.iter().enumerate() {
            warnings.extend(node_selector::warnings_for_term(term, &path.index(i)));
        }
    }
    for (field, shown, since) in [
        ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ] {
        if at(volume, "/spec").get(field).is_some() {
            warnings.push(format!("spec.{shown}: {since}"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests;
