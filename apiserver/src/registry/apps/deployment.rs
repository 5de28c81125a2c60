//! Deployments: ReplicaSets, rolled from one template to the next.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::selector::label::Selector;
use apimachinery::validation::{name_is_dns_subdomain, validate_immutable_field, validate_nonnegative_field};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::defaults::ROLLBACK_TO;
use super::int_or_percent::{int_or_percent_value, is_not_more_than_100_percent, shown, validate_positive_int_or_percent};
use super::template;
use crate::registry::cells;
use crate::registry::printer::{self, text, wide};
use crate::registry::read::{at, int_at};
use crate::registry::strategy::{
    bump_generation_if_changed, drop_field, generation, keep_all_but_status, keep_field, keep_status, set_generation,
};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: "apps",
    version: "v1",
    plural: "deployments",
    singular: "deployment",
    kind: "Deployment",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["deploy"],
    categories: &["all"],
    schema: "io.k8s.api.apps.v1.Deployment",
    name: name_is_dns_subdomain,
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
            kind: "Deployment",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec", "metadata.labels"] },
        },
    ],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const STATUS: &str = "io.k8s.api.apps.v1.DeploymentStatus";

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Ready", Description::Text("Number of the pod with ready state")),
    text("Up-to-date", Description::Field(STATUS, "updatedReplicas")),
    text("Available", Description::Field(STATUS, "availableReplicas")),
    printer::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
    wide("Selector", Description::Field("io.k8s.api.apps.v1.DeploymentSpec", "selector")),
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = cells::containers_and_images(object, template::AT_SPEC);
    let selector = Selector::from_value(object.pointer("/spec/selector"));
    vec![
        printer::name(object),
        format!("{}/{}", int_at(object, "/status/readyReplicas"), int_at(object, "/spec/replicas")).into(),
        int_at(object, "/status/updatedReplicas").into(),
        int_at(object, "/status/availableReplicas").into(),
        printer::object_age(object, now),
        names,
        images,
        selector.map_or_else(|_| "<invalid>".to_owned(), |s| s.to_string()).into(),
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
        validate_spec(new, None, &Path::new("spec"))
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        let mut warnings = template::name_warnings(new);
        warnings.extend(template::warnings(new, None, template::AT_SPEC));
        warnings
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        template::drop_disabled(new, Some(old), template::AT_SPEC);
        bump_generation_if_changed(new, old, &["spec"]);
        // Annotations are copied to the replica sets, so changing them is a new generation too.
        if generation(new) == generation(old) && at(new, "/metadata/annotations") != at(old, "/metadata/annotations") {
            set_generation(new, generation(old) + 1);
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let spec = Path::new("spec");
        let mut errors = validate_spec(new, Some(old), &spec);
        errors.extend(validate_immutable_field(at(new, "/spec/selector"), at(old, "/spec/selector"), &spec.child("selector")));
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        if generation(new) == generation(old) { Vec::new() } else { template::warnings(new, Some(old), template::AT_SPEC) }
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        if let (Some(metadata), Some(before)) = (new.get_mut("metadata"), old.get("metadata")) {
            keep_field(metadata, before, "labels");
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let path = Path::new("status");
        let mut errors = validate_status(new, &path);
        errors.extend(template::collision_count_not_decremented(new, old));
        errors
    }
}

fn validate_spec(object: &Value, old: Option<&Value>, path: &Path<'_>) -> ErrorList {
    let deployment: Deployment = view(object);
    let spec: DeploymentSpec = deployment.spec;
    let raw = at(object, "/spec");
    let mut errors = validate_nonnegative_field(i64::from(spec.replicas.unwrap_or(0)), &path.child("replicas"));
    errors.extend(template::validate_required_selector(raw, &spec.selector, "deployment", path));
    errors.extend(template::validate_for_replica_set(raw, old.map(|o| at(o, "/spec")), &spec.selector, &spec.template, path));
    errors.extend(validate_strategy(&spec.strategy.unwrap_or_default(), &path.child("strategy")));

    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    errors.extend(validate_nonnegative_field(i64::from(min_ready), &path.child("minReadySeconds")));
    if let Some(limit) = spec.revision_history_limit {
        errors.extend(validate_nonnegative_field(i64::from(limit), &path.child("revisionHistoryLimit")));
    }
    errors.extend(validate_rollback(object, path));
    if let Some(deadline) = spec.progress_deadline_seconds {
        let deadline_path = path.child("progressDeadlineSeconds");
        errors.extend(validate_nonnegative_field(i64::from(deadline), &deadline_path));
        if deadline <= min_ready {
            errors.push(Error::invalid(&deadline_path, deadline, "must be greater than minReadySeconds"));
        }
    }
    errors
}

fn validate_rollback(object: &Value, path: &Path<'_>) -> ErrorList {
    let revision = at(object, "/metadata/annotations").get(ROLLBACK_TO).and_then(Value::as_str).and_then(|s| s.parse().ok());
    revision.map(|revision| validate_nonnegative_field(revision, &path.child("rollback.version"))).unwrap_or_default()
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path<'_>) -> ErrorList {
    let rolling = strategy.rolling_update.as_ref();
    match (strategy.type_.as_deref().unwrap_or(""), rolling) {
        ("Recreate", None) => Vec::new(),
        ("Recreate", Some(_)) => {
            vec![Error::forbidden(&path.child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")]
        }
        ("RollingUpdate", None) => {
            vec![Error::required(&path.child("rollingUpdate"), "this should be defaulted and never be nil")]
        }
        ("RollingUpdate", Some(rolling)) => validate_rolling_update(rolling, &path.child("rollingUpdate")),
        (other, rolling) => {
            let value = json!({"Type": other, "RollingUpdate": rolling.map(|r| json!({
                "MaxUnavailable": shown(&bound(&r.max_unavailable)), "MaxSurge": shown(&bound(&r.max_surge))}))});
            vec![Error::not_supported(path, value, &["Recreate", "RollingUpdate"])]
        }
    }
}

fn bound(value: &Option<IntOrString>) -> IntOrString {
    value.clone().unwrap_or(IntOrString::Int(0))
}

fn validate_rolling_update(rolling: &RollingUpdateDeployment, path: &Path<'_>) -> ErrorList {
    let (unavailable, surge) = (bound(&rolling.max_unavailable), bound(&rolling.max_surge));
    let unavailable_path = path.child("maxUnavailable");
    let mut errors = validate_positive_int_or_percent(&unavailable, &unavailable_path);
    errors.extend(validate_positive_int_or_percent(&surge, &path.child("maxSurge")));
    if int_or_percent_value(&unavailable) == 0 && int_or_percent_value(&surge) == 0 {
        errors.push(Error::invalid(&unavailable_path, shown(&unavailable), "may not be 0 when `maxSurge` is 0"));
    }
    errors.extend(is_not_more_than_100_percent(&unavailable, &unavailable_path));
    errors
}

fn validate_status(object: &Value, path: &Path<'_>) -> ErrorList {
    let status = at(object, "/status");
    let mut errors = template::nonnegative_counts(
        status,
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ],
        path,
    );
    errors.extend(template::counts_within_replicas(status, &["updatedReplicas", "readyReplicas", "availableReplicas"], path));
    errors.extend(template::available_within_ready(status, "cannot be greater than readyReplicas", path));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn strategy(value: Value) -> Vec<String> {
        messages(validate_strategy(&view(&value), &Path::new("strategy")))
    }

    #[test]
    fn a_strategy_is_refused_with_the_form_that_it_has() {
        assert!(strategy(json!({"type": "Recreate"})).is_empty());
        assert_eq!(
            strategy(json!({"type": "Recreate", "rollingUpdate": {}})),
            ["strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"]
        );
        assert_eq!(
            strategy(json!({"type": "x"})),
            [r#"strategy: Unsupported value: {"Type":"x","RollingUpdate":null}: supported values: "Recreate", "RollingUpdate""#]
        );
        assert_eq!(
            strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}})),
            ["strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"]
        );
        assert_eq!(
            strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "150%", "maxSurge": 1}})),
            [r#"strategy.rollingUpdate.maxUnavailable: Invalid value: "150%": must not be greater than 100%"#]
        );
    }

    #[test]
    fn a_status_counts_within_its_replicas() {
        let status = json!({"status": {"replicas": 1, "readyReplicas": 2, "availableReplicas": 3}});
        assert_eq!(
            messages(validate_status(&status, &Path::new("status"))),
            [
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas"
            ]
        );
    }
}
