//! DaemonSets: one pod of a template on every node that fits.
//!
//! `spec.templateGeneration` exists only in upstream's internal form: it travels as the annotation
//! `deprecated.daemonset.template.generation`, which this file keeps as upstream's conversion does.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::selector::label::{Selector, format_label_selector};
use apimachinery::validation::{
    LabelSelectorOptions, label_selector_has_invalid_label_value, name_is_dns_subdomain, validate_immutable_field, validate_label_selector,
    validate_nonnegative_field,
};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Map, Value, json};

use super::defaults::TEMPLATE_GENERATION;
use super::int_or_percent::{int_or_percent_value, is_not_more_than_100_percent, shown, validate_positive_int_or_percent};
use super::template;
use crate::registry::cells;
use crate::registry::printer::{self, integer, text, wide};
use crate::registry::read::{at, int_at};
use crate::registry::strategy::{bump_generation_if_changed, drop_field, keep_all_but_status, keep_status, set_generation};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: "apps",
    version: "v1",
    plural: "daemonsets",
    singular: "daemonset",
    kind: "DaemonSet",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["ds"],
    categories: &["all"],
    schema: "io.k8s.api.apps.v1.DaemonSet",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: "apps",
        version: "v1",
        kind: "DaemonSet",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const STATUS: &str = "io.k8s.api.apps.v1.DaemonSetStatus";

const COLUMNS: &[Column] = &[
    printer::NAME,
    integer("Desired", Description::Field(STATUS, "desiredNumberScheduled")),
    integer("Current", Description::Field(STATUS, "currentNumberScheduled")),
    integer("Ready", Description::Field(STATUS, "numberReady")),
    integer("Up-to-date", Description::Field(STATUS, "updatedNumberScheduled")),
    integer("Available", Description::Field(STATUS, "numberAvailable")),
    text("Node Selector", Description::Field("io.k8s.api.core.v1.PodSpec", "nodeSelector")),
    printer::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
    wide("Selector", Description::Field("io.k8s.api.apps.v1.DaemonSetSpec", "selector")),
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = cells::containers_and_images(object, template::AT_SPEC);
    vec![
        printer::name(object),
        int_at(object, "/status/desiredNumberScheduled").into(),
        int_at(object, "/status/currentNumberScheduled").into(),
        int_at(object, "/status/numberReady").into(),
        int_at(object, "/status/updatedNumberScheduled").into(),
        int_at(object, "/status/numberAvailable").into(),
        printer::labels_text(at(object, "/spec/template/spec/nodeSelector")),
        printer::object_age(object, now),
        names,
        images,
        format_label_selector(object.pointer("/spec/selector")).into(),
    ]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
        set_template_generation(new, template_generation(new).max(1));
        template::drop_disabled(new, None, template::AT_SPEC);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate_spec(new, None, &Path::new("spec"))
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        template::warnings(new, None, template::AT_SPEC)
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        template::drop_disabled(new, Some(old), template::AT_SPEC);
        keep_status(new, old);
        bump_generation_if_changed(new, old, &["spec"]);
        let changed = at(new, template::AT_SPEC) != at(old, template::AT_SPEC);
        set_template_generation(new, template_generation(old).saturating_add(i64::from(changed)));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let path = Path::new("spec");
        let mut errors = validate_immutable_field(at(new, "/spec/selector"), at(old, "/spec/selector"), &path.child("selector"));
        errors.extend(validate_spec(new, Some(old), &path));
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        if template_generation(new) == template_generation(old) {
            return Vec::new();
        }
        template::warnings(new, Some(old), template::AT_SPEC)
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        set_template_generation(new, template_generation(old));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let path = Path::new("status");
        let counts = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        let mut errors = template::nonnegative_counts(at(new, "/status"), &counts, &path);
        errors.extend(template::collision_count_not_decremented(new, old));
        errors
    }
}

/// How often the template has changed, as the annotation says; 0 where it says nothing that is a number.
fn template_generation(object: &Value) -> i64 {
    at(object, "/metadata/annotations").get(TEMPLATE_GENERATION).and_then(Value::as_str).and_then(|s| s.parse().ok()).unwrap_or(0)
}

fn set_template_generation(object: &mut Value, generation: i64) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if metadata.get("annotations").is_none_or(Value::is_null) {
        metadata.insert("annotations".to_owned(), Value::Object(Map::new()));
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
        annotations.sort_keys();
    }
}

fn validate_spec(object: &Value, old: Option<&Value>, path: &Path<'_>) -> ErrorList {
    let daemon_set: DaemonSet = view(object);
    let spec: DaemonSetSpec = daemon_set.spec;
    let raw = at(object, "/spec");
    let raw_selector = at(raw, "/selector");
    let selector = (!raw_selector.is_null()).then_some(&spec.selector);
    let old_selector: Option<LabelSelector> = old.map(|o| view(at(o, "/spec/selector"))).unwrap_or_default();
    let options = LabelSelectorOptions {
        allow_invalid_label_value_in_selector: old_selector.as_ref().is_some_and(label_selector_has_invalid_label_value),
        ..LabelSelectorOptions::default()
    };

    let selector_path = path.child("selector");
    let mut errors = selector.map(|s| validate_label_selector(s, options, &selector_path)).unwrap_or_default();
    let pods_path = path.child("template");
    if let Ok(parsed) = Selector::from_label_selector(selector) {
        errors.extend(template::validate_selected(&parsed, raw, &spec.template, &pods_path));
    }
    if selector.is_some_and(template::selects_by_nothing) {
        errors.push(Error::invalid(&selector_path, raw_selector.clone(), "empty selector is invalid for daemonset"));
    }
    errors.extend(template::validate(old.map(|o| at(o, "/spec")), &spec.template, &pods_path));
    errors.extend(template::runs_forever(&spec.template, "DaemonSet", &pods_path));
    errors.extend(validate_nonnegative_field(i64::from(spec.min_ready_seconds.unwrap_or(0)), &path.child("minReadySeconds")));
    errors.extend(validate_nonnegative_field(template_generation(object), &path.child("templateGeneration")));
    errors.extend(validate_update_strategy(&spec.update_strategy.unwrap_or_default(), &path.child("updateStrategy")));
    if let Some(limit) = spec.revision_history_limit {
        errors.extend(validate_nonnegative_field(i64::from(limit), &path.child("revisionHistoryLimit")));
    }
    errors
}

fn validate_update_strategy(strategy: &DaemonSetUpdateStrategy, path: &Path<'_>) -> ErrorList {
    match (strategy.type_.as_deref().unwrap_or(""), &strategy.rolling_update) {
        ("OnDelete", _) => Vec::new(),
        ("RollingUpdate", None) => vec![Error::required(&path.child("rollingUpdate"), "")],
        ("RollingUpdate", Some(rolling)) => validate_rolling_update(rolling, &path.child("rollingUpdate")),
        (other, rolling) => {
            let value = json!({"Type": other, "RollingUpdate": rolling.as_ref().map(|r| json!({
                "MaxUnavailable": shown(&bound(&r.max_unavailable)), "MaxSurge": shown(&bound(&r.max_surge))}))});
            vec![Error::not_supported(path, value, &["RollingUpdate", "OnDelete"])]
        }
    }
}

fn bound(value: &Option<IntOrString>) -> IntOrString {
    value.clone().unwrap_or(IntOrString::Int(0))
}

fn validate_rolling_update(rolling: &RollingUpdateDaemonSet, path: &Path<'_>) -> ErrorList {
    let (unavailable, surge) = (bound(&rolling.max_unavailable), bound(&rolling.max_surge));
    let (unavailable_path, surge_path) = (path.child("maxUnavailable"), path.child("maxSurge"));
    let mut errors = validate_positive_int_or_percent(&unavailable, &unavailable_path);
    errors.extend(validate_positive_int_or_percent(&surge, &surge_path));
    errors.extend(is_not_more_than_100_percent(&unavailable, &unavailable_path));
    errors.extend(is_not_more_than_100_percent(&surge, &surge_path));
    match (int_or_percent_value(&unavailable) != 0, int_or_percent_value(&surge) != 0) {
        (true, true) => errors.push(Error::invalid(&surge_path, shown(&surge), "may not be set when maxUnavailable is non-zero")),
        (false, false) => errors.push(Error::required(&unavailable_path, "cannot be 0 when maxSurge is 0")),
        _ => {}
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_either_surged_or_made_unavailable() {
        let check = |value: Value| {
            let errors = validate_update_strategy(&view(&value), &Path::new("updateStrategy"));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(check(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})).is_empty());
        assert_eq!(
            check(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": "10%"}})),
            ["updateStrategy.rollingUpdate.maxSurge: Invalid value: \"10%\": may not be set when maxUnavailable is non-zero"]
        );
        assert_eq!(
            check(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}})),
            ["updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"]
        );
        assert_eq!(
            check(json!({"type": "x"})),
            [r#"updateStrategy: Unsupported value: {"Type":"x","RollingUpdate":null}: supported values: "RollingUpdate", "OnDelete""#]
        );
    }

    #[test]
    fn the_template_generation_is_kept_as_an_annotation() {
        let mut object = json!({"metadata": {"annotations": {"z": "1"}}});
        assert_eq!(template_generation(&object), 0);
        set_template_generation(&mut object, 3);
        assert_eq!(object, json!({"metadata": {"annotations": {"deprecated.daemonset.template.generation": "3", "z": "1"}}}));
        assert_eq!(template_generation(&object), 3);
    }
}
