//! StatefulSets: pods with identities and claims of their own.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::selector::label::Selector;
use apimachinery::validation::{
    LabelSelectorOptions, is_dns1123_label, name_is_dns_label, validate_annotations, validate_immutable_field, validate_label_selector,
    validate_labels, validate_nonnegative_field,
};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume};
use serde_json::{Value, json};

use super::int_or_percent::{int_or_percent_value, is_not_more_than_100_percent, shown, validate_positive_int_or_percent};
use super::template;
use crate::registry::core::persistent_volume_claim::{self, SpecRules};
use crate::registry::core::pod;
use crate::registry::printer::{self, text};
use crate::registry::read::{at, int_at, list_at};
use crate::registry::strategy::{bump_generation_if_changed, drop_field, generation, keep_all_but_status, keep_status, set_generation};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};
use crate::registry::{cells, internal_form};

pub static RESOURCE: Definition = Definition {
    group: "apps",
    version: "v1",
    plural: "statefulsets",
    singular: "statefulset",
    kind: "StatefulSet",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["sts"],
    categories: &["all"],
    schema: "io.k8s.api.apps.v1.StatefulSet",
    name: name_is_dns_label,
    strategy: &Main,
    subresources: &[
        Subresource {
            name: "scale",
            group: "autoscaling",
            version: "v1",
            kind: "Scale",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Scale,
        },
        Subresource {
            name: "status",
            group: "apps",
            version: "v1",
            kind: "StatefulSet",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec"] },
        },
    ],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Ready", Description::Text("Number of the pod with ready state")),
    printer::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = cells::containers_and_images(object, template::AT_SPEC);
    vec![
        printer::name(object),
        format!("{}/{}", int_at(object, "/status/readyReplicas"), int_at(object, "/spec/replicas")).into(),
        printer::object_age(object, now),
        names,
        images,
    ]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
        template::drop_disabled(new, None, template::AT_SPEC);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let tolerated = Tolerated { recreate: RECREATE_STRATEGY, ..Tolerated::default() };
        validate_spec(new, None, &tolerated, &Path::new("spec"))
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        let mut warnings = template::warnings(new, None, template::AT_SPEC);
        warnings.extend(claim_warnings(new, ""));
        warnings.extend(revision_warning(new));
        warnings
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        template::drop_disabled(new, Some(old), template::AT_SPEC);
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let path = Path::new("spec");
        let mut tolerated = Tolerated {
            // Both are immutable, so what is stored stays as it is.
            service_name: true,
            claim_templates: true,
            recreate: RECREATE_STRATEGY || at(old, "/spec/updateStrategy/type") == "Recreate",
            pod_template: false,
        };
        tolerated.pod_template = !validate_spec(old, Some(old), &tolerated, &Path::ROOT).is_empty();
        let mut errors = validate_spec(new, Some(old), &tolerated, &path);
        for field in ["selector", "volumeClaimTemplates", "serviceName", "podManagementPolicy"] {
            errors.extend(validate_unchanged(new, old, field, &path));
        }
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        if generation(new) != generation(old) {
            warnings.extend(template::warnings(new, Some(old), template::AT_SPEC));
        }
        warnings.extend(claim_warnings(new, ".Spec"));
        warnings.extend(revision_warning(new));
        warnings
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = validate_status(at(new, "/status"), &Path::new("status"));
        errors.extend(template::collision_count_not_decremented(new, old));
        errors
    }
}

/// The alpha feature gate StatefulSetRecreateStrategy is off.
const RECREATE_STRATEGY: bool = false;

/// What of a stored object is left alone.
#[derive(Default)]
struct Tolerated {
    service_name: bool,
    claim_templates: bool,
    pod_template: bool,
    recreate: bool,
}

/// `suffix` is what upstream appends to the path on update.
fn claim_warnings(object: &Value, suffix: &str) -> Vec<String> {
    let claims = list_at(object, "/spec/volumeClaimTemplates").iter().enumerate();
    claims
        .flat_map(|(i, claim)| {
            let dotted = format!("spec.volumeClaimTemplates[{i}]{suffix}");
            persistent_volume_claim::warnings_for_spec(at(claim, "/spec"), &Path::new(&dotted))
        })
        .collect()
}

fn revision_warning(object: &Value) -> Option<String> {
    (int_at(object, "/spec/revisionHistoryLimit") < 0)
        .then(|| "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned())
}

fn validate_unchanged(new: &Value, old: &Value, field: &str, path: &Path<'_>) -> ErrorList {
    let pointer = format!("/spec/{field}");
    let (new, old) = (at(new, &pointer), at(old, &pointer));
    if new == old {
        return Vec::new();
    }
    let shown = match field {
        "volumeClaimTemplates" => internal_form::render_list("PersistentVolumeClaim", new),
        // Strings that are absent are empty.
        "serviceName" | "podManagementPolicy" if new.is_null() => Value::String(String::new()),
        _ => new.clone(),
    };
    validate_immutable_field(&shown, &Value::Bool(false), &path.child(field))
}

fn validate_spec(object: &Value, old: Option<&Value>, tolerated: &Tolerated, path: &Path<'_>) -> ErrorList {
    let stateful_set: StatefulSet = view(object);
    let spec: StatefulSetSpec = stateful_set.spec;
    let raw = at(object, "/spec");
    let mut errors =
        validate_pod_management_policy(spec.pod_management_policy.as_deref().unwrap_or(""), &path.child("podManagementPolicy"));
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    errors.extend(validate_update_strategy(&strategy, tolerated.recreate, &path.child("updateStrategy")));
    if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
        errors.extend(validate_retention_policy(policy, &path.child("persistentVolumeClaimRetentionPolicy")));
    }
    if !tolerated.claim_templates {
        let claims = path.child("volumeClaimTemplates");
        for (i, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            let claim_path = claims.index(i);
            let claim_spec = claim.spec.clone().unwrap_or_default();
            errors.extend(persistent_volume_claim::validate_spec(&claim_spec, SpecRules::default(), &claim_path.child("spec")));
        }
    }
    errors.extend(validate_nonnegative_field(i64::from(spec.replicas.unwrap_or(0)), &path.child("replicas")));
    errors.extend(validate_nonnegative_field(i64::from(spec.min_ready_seconds.unwrap_or(0)), &path.child("minReadySeconds")));
    if let Some(ordinals) = &spec.ordinals {
        errors.extend(validate_nonnegative_field(i64::from(ordinals.start.unwrap_or(0)), &path.child("ordinals.start")));
    }
    let service = spec.service_name.as_deref().unwrap_or("");
    if !tolerated.service_name && !service.is_empty() {
        let service_path = path.child("serviceName");
        errors.extend(is_dns1123_label(service).into_iter().map(|message| Error::invalid(&service_path, service, message)));
    }
    errors.extend(validate_selector_and_template(&spec, raw, old, tolerated, path));
    errors
}

fn validate_pod_management_policy(policy: &str, path: &Path<'_>) -> ErrorList {
    match policy {
        "" => vec![Error::required(path, "")],
        "OrderedReady" | "Parallel" => Vec::new(),
        other => vec![Error::invalid(path, other, "must be 'OrderedReady' or 'Parallel'")],
    }
}

fn validate_update_strategy(strategy: &StatefulSetUpdateStrategy, allow_recreate: bool, path: &Path<'_>) -> ErrorList {
    let rolling_path = path.child("rollingUpdate");
    match (strategy.type_.as_deref().unwrap_or(""), &strategy.rolling_update) {
        ("", _) => vec![Error::required(path, "")],
        ("OnDelete", None) | ("RollingUpdate", None) => Vec::new(),
        ("OnDelete", Some(rolling)) => vec![only_when_rolling(rolling, &rolling_path)],
        ("RollingUpdate", Some(rolling)) => validate_rolling_update(rolling, &rolling_path),
        ("Recreate", None) if allow_recreate => Vec::new(),
        ("Recreate", Some(rolling)) if allow_recreate => vec![only_when_rolling(rolling, &rolling_path)],
        (other, rolling) => {
            let value = json!({"Type": other, "RollingUpdate": rolling.as_ref().map(rolling_update_shown)});
            let detail = match allow_recreate {
                true => "must be 'RollingUpdate', 'OnDelete', or 'Recreate'",
                false => "must be 'RollingUpdate' or 'OnDelete'",
            };
            vec![Error::invalid(path, value, detail)]
        }
    }
}

fn only_when_rolling(rolling: &RollingUpdateStatefulSetStrategy, path: &Path<'_>) -> Error {
    Error::invalid(path, rolling_update_shown(rolling), "only allowed for updateStrategy 'RollingUpdate'")
}

fn rolling_update_shown(rolling: &RollingUpdateStatefulSetStrategy) -> Value {
    json!({"Partition": rolling.partition.unwrap_or(0), "MaxUnavailable": rolling.max_unavailable.as_ref().map(shown)})
}

fn validate_rolling_update(rolling: &RollingUpdateStatefulSetStrategy, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_nonnegative_field(i64::from(rolling.partition.unwrap_or(0)), &path.child("partition"));
    if let Some(unavailable) = &rolling.max_unavailable {
        let unavailable_path = path.child("maxUnavailable");
        errors.extend(validate_positive_int_or_percent(unavailable, &unavailable_path));
        if int_or_percent_value(unavailable) == 0 {
            errors.push(Error::invalid(&unavailable_path, shown(unavailable), "cannot be 0"));
        }
        errors.extend(is_not_more_than_100_percent(unavailable, &unavailable_path));
    }
    errors
}

fn validate_retention_policy(policy: &StatefulSetPersistentVolumeClaimRetentionPolicy, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    for (field, value) in [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)] {
        let value = value.as_deref().unwrap_or("");
        if !["Retain", "Delete"].contains(&value) {
            errors.push(Error::not_supported(&path.child(field), value, &["Retain", "Delete"]));
        }
    }
    errors
}

fn validate_selector_and_template(
    spec: &StatefulSetSpec,
    raw: &Value,
    old: Option<&Value>,
    tolerated: &Tolerated,
    path: &Path<'_>,
) -> ErrorList {
    let selector_path = path.child("selector");
    let raw_selector = at(raw, "/selector");
    let selector = (!raw_selector.is_null()).then_some(&spec.selector);
    let mut errors = match selector {
        None => vec![Error::required(&selector_path, "")],
        Some(selector) => validate_label_selector(selector, LabelSelectorOptions::default(), &selector_path),
    };
    if selector.is_some_and(template::selects_by_nothing) {
        errors.push(Error::invalid(&selector_path, raw_selector.clone(), "empty selector is invalid for statefulset"));
    }
    let pods_path = path.child("template");
    match Selector::from_label_selector(selector) {
        Err(_) => errors.push(Error::invalid(&selector_path, raw_selector.clone(), "")),
        Ok(parsed) => {
            errors.extend(template::validate_selected(&parsed, raw, &spec.template, &pods_path));
            let pods = as_the_controller_completes_it(spec);
            let old_raw = old.map(|o| at(o, "/spec"));
            if !tolerated.pod_template {
                errors.extend(template::validate(old_raw, &pods, &pods_path));
            }
            errors.extend(validate_template_metadata(&pods, old_raw, &pods_path));
        }
    }
    errors.extend(template::runs_forever(&spec.template, "StatefulSet", &pods_path));
    errors
}

/// The controller sets host name, subdomain and the volumes of the claims itself, so those of the template do not count.
fn as_the_controller_completes_it(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut pods = spec.template.clone();
    let Some(pod_spec) = pods.spec.as_mut() else { return pods };
    pod_spec.subdomain = None;
    pod_spec.hostname = None;
    let claims = spec.volume_claim_templates.as_deref().unwrap_or_default();
    if claims.is_empty() {
        return pods;
    }
    let mut volumes: Vec<Volume> = Vec::new();
    for claim in claims {
        let name = claim.metadata.name.clone().unwrap_or_default();
        let source = PersistentVolumeClaimVolumeSource { claim_name: name.clone(), read_only: None };
        // Of claims with equal names the last one counts.
        volumes.retain(|v| v.name != name);
        volumes.push(Volume { name, persistent_volume_claim: Some(source), ..Volume::default() });
    }
    let claimed = volumes.len();
    for volume in pod_spec.volumes.take().unwrap_or_default() {
        if !volumes[..claimed].iter().any(|v| v.name == volume.name) {
            volumes.push(volume);
        }
    }
    pod_spec.volumes = Some(volumes);
    pods
}

/// Upstream checks the template's labels and annotations a second time here, so every problem is listed twice.
fn validate_template_metadata(pods: &PodTemplateSpec, old_raw: Option<&Value>, path: &Path<'_>) -> ErrorList {
    let metadata = pods.metadata.clone().unwrap_or_default();
    let annotations_path = path.child("annotations");
    let mut errors = validate_labels(&metadata.labels.clone().unwrap_or_default(), &path.child("labels"));
    errors.extend(validate_annotations(&metadata.annotations.clone().unwrap_or_default(), &annotations_path));
    let pod_spec = pods.spec.clone().unwrap_or_default();
    let old: Option<PodTemplateSpec> = old_raw.map(|o| view(at(o, "/template")));
    let options = pod::validation::Options::for_template(old.as_ref());
    errors.extend(pod::validation::validate_pod_annotations(&metadata, &pod_spec, &annotations_path, &options));
    errors
}

fn validate_status(status: &Value, path: &Path<'_>) -> ErrorList {
    let counts =
        ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas", "observedGeneration", "collisionCount"];
    let mut errors = template::nonnegative_counts(status, &counts, path);
    let within = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    errors.extend(template::counts_within_replicas(status, &within, path));
    errors.extend(template::available_within_ready(status, "cannot be greater than status.readyReplicas", path));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_update_strategy_is_shown_in_the_internal_form() {
        let check = |value: Value| texts(validate_update_strategy(&view(&value), false, &Path::new("updateStrategy")));
        assert!(check(json!({"type": "OnDelete"})).is_empty());
        assert_eq!(
            check(json!({"type": "OnDelete", "rollingUpdate": {"partition": 2}})),
            [
                r#"updateStrategy.rollingUpdate: Invalid value: {"Partition":2,"MaxUnavailable":null}: only allowed for updateStrategy 'RollingUpdate'"#
            ]
        );
        assert_eq!(
            check(json!({"type": "Recreate"})),
            [r#"updateStrategy: Invalid value: {"Type":"Recreate","RollingUpdate":null}: must be 'RollingUpdate' or 'OnDelete'"#]
        );
        assert_eq!(
            check(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": -1, "maxUnavailable": 0}})),
            [
                "updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
                "updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"
            ]
        );
    }

    #[test]
    fn claims_take_the_place_of_volumes_of_their_name() {
        let spec: StatefulSetSpec = view(&json!({"selector": {}, "serviceName": "s",
            "template": {"spec": {"hostname": "BAD", "containers": [], "volumes": [{"name": "data"}, {"name": "tmp"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}));
        let pods = as_the_controller_completes_it(&spec).spec.expect("a spec");
        let names: Vec<String> = pods.volumes.into_iter().flatten().map(|v| v.name).collect();
        assert_eq!((names, pods.hostname), (vec!["data".to_owned(), "tmp".to_owned()], None));
    }

    #[test]
    fn pods_are_managed_in_order_or_in_parallel() {
        let check = |policy| texts(validate_pod_management_policy(policy, &Path::new("p")));
        assert!(check("Parallel").is_empty());
        assert_eq!(check(""), ["p: Required value"]);
        assert_eq!(check("x"), ["p: Invalid value: \"x\": must be 'OrderedReady' or 'Parallel'"]);
    }
}
