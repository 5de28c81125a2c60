//! HorizontalPodAutoscalers: as many replicas as their metrics call for.
//!
//! Both versions have one strategy, which sees the stored form, autoscaling/v2.

use apimachinery::field::ErrorList;
use apimachinery::validation::name_is_dns_subdomain;
use jiff::Timestamp;
use serde_json::Value;

use super::{metric_cells, validation};
use crate::registry::printer::{self, text};
use crate::registry::read::{int_at, list_at, optional_int_at, str_at};
use crate::registry::strategy::{bump_generation_if_changed, drop_field, keep_all_but_status, keep_status, set_generation};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

/// autoscaling/v2, the stored form.
pub static RESOURCE: Definition = definition("v2", "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler", STATUS_V2);

/// autoscaling/v1: one CPU target, the rest in annotations.
pub static RESOURCE_V1: Definition = definition("v1", "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler", STATUS_V1);

const STATUS_V1: &[Subresource] = &[status("v1")];
const STATUS_V2: &[Subresource] = &[status("v2")];

const fn status(version: &'static str) -> Subresource {
    Subresource {
        name: "status",
        group: "autoscaling",
        version,
        kind: "HorizontalPodAutoscaler",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec"] },
    }
}

const fn definition(version: &'static str, schema: &'static str, subresources: &'static [Subresource]) -> Definition {
    Definition {
        group: "autoscaling",
        version,
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        kind: "HorizontalPodAutoscaler",
        scope: Scope::Namespaced,
        verbs: ALL_VERBS,
        short_names: &["hpa"],
        categories: &["all"],
        schema,
        name: name_is_dns_subdomain,
        strategy: &Main,
        subresources,
        selectable: &[],
        printer: Printer { columns: COLUMNS, cells: row },
        reset_fields: &["status"],
    }
}

const SPEC: &str = "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec";

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Reference", Description::Field(SPEC, "scaleTargetRef")),
    text("Targets", Description::Field(SPEC, "metrics")),
    text("MinPods", Description::Field(SPEC, "minReplicas")),
    text("MaxPods", Description::Field(SPEC, "maxReplicas")),
    text("Replicas", Description::Field("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus", "currentReplicas")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let minimum = optional_int_at(object, "/spec/minReplicas").map_or("<unset>".to_owned(), |n| n.to_string());
    vec![
        printer::name(object),
        format!("{}/{}", str_at(object, "/spec/scaleTargetRef/kind"), str_at(object, "/spec/scaleTargetRef/name")).into(),
        metric_cells::targets(list_at(object, "/spec/metrics"), list_at(object, "/status/currentMetrics")).into(),
        minimum.into(),
        int_at(object, "/spec/maxReplicas").into(),
        int_at(object, "/status/currentReplicas").into(),
        printer::object_age(object, now),
    ]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validation::validate(new, None)
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validation::validate(new, Some(old))
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validation::validate_status(new)
    }
}
