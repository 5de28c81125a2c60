//! Defaults of apps/v1 that stand in no marker.

use serde_json::{Map, Value};

use crate::registry::defaulting::{Hook, existing, is_empty, is_unset, nested, set_if_empty, set_if_unset};

pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.api.apps.v1.Deployment", deployment),
    ("io.k8s.api.apps.v1.DaemonSet", daemon_set),
    ("io.k8s.api.apps.v1.StatefulSet", stateful_set),
    ("io.k8s.api.apps.v1.ReplicaSet", replica_set),
];

fn has_type(strategy: &Map<String, Value>, name: &str) -> bool {
    strategy.get("type").and_then(Value::as_str) == Some(name)
}

/// The annotation by which a deprecated rollback request travels. Empty it is none, and reading drops it.
pub const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

/// The annotation that carries `spec.templateGeneration` of upstream's internal form, which every object has once read.
pub const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn deployment(object: &mut Map<String, Value>) {
    if let Some(annotations) = existing(object, "metadata").and_then(|m| existing(m, "annotations"))
        && annotations.get(ROLLBACK_TO).is_some_and(|v| v == "")
    {
        annotations.shift_remove(ROLLBACK_TO);
    }
    let Some(spec) = nested(object, "spec") else { return };
    set_if_unset(spec, "replicas", 1);
    set_if_unset(spec, "revisionHistoryLimit", 10);
    set_if_unset(spec, "progressDeadlineSeconds", 600);
    let Some(strategy) = nested(spec, "strategy") else { return };
    set_if_empty(strategy, "type", "RollingUpdate");
    if has_type(strategy, "RollingUpdate")
        && let Some(rolling) = nested(strategy, "rollingUpdate")
    {
        set_if_unset(rolling, "maxUnavailable", "25%");
        set_if_unset(rolling, "maxSurge", "25%");
    }
}

fn daemon_set(object: &mut Map<String, Value>) {
    if let Some(annotations) = nested(object, "metadata").and_then(|m| nested(m, "annotations")) {
        set_if_unset(annotations, TEMPLATE_GENERATION, "0");
    }
    let Some(spec) = nested(object, "spec") else { return };
    set_if_unset(spec, "revisionHistoryLimit", 10);
    let Some(strategy) = nested(spec, "updateStrategy") else { return };
    set_if_empty(strategy, "type", "RollingUpdate");
    if has_type(strategy, "RollingUpdate")
        && let Some(rolling) = nested(strategy, "rollingUpdate")
    {
        set_if_unset(rolling, "maxUnavailable", 1);
        set_if_unset(rolling, "maxSurge", 0);
    } else if let Some(rolling) = existing(strategy, "rollingUpdate") {
        // Neither is optional in upstream's internal form, so both are there after reading.
        set_if_unset(rolling, "maxUnavailable", 0);
        set_if_unset(rolling, "maxSurge", 0);
    }
}

fn stateful_set(object: &mut Map<String, Value>) {
    let Some(spec) = nested(object, "spec") else { return };
    set_if_empty(spec, "podManagementPolicy", "OrderedReady");
    set_if_unset(spec, "replicas", 1);
    set_if_unset(spec, "revisionHistoryLimit", 10);
    if let Some(retention) = nested(spec, "persistentVolumeClaimRetentionPolicy") {
        set_if_empty(retention, "whenDeleted", "Retain");
        set_if_empty(retention, "whenScaled", "Retain");
    }
    if let Some(claims) = spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut) {
        // Upstream names the kind of nested claims whatever the request called them.
        for claim in claims.iter_mut().filter_map(Value::as_object_mut) {
            claim.shift_insert(0, "kind".to_owned(), "PersistentVolumeClaim".into());
            claim.shift_insert(1, "apiVersion".to_owned(), "v1".into());
        }
    }
    let Some(strategy) = nested(spec, "updateStrategy") else { return };
    if is_empty(strategy, "type") {
        strategy.insert("type".to_owned(), "RollingUpdate".into());
        if is_unset(strategy, "rollingUpdate") {
            strategy.insert("rollingUpdate".to_owned(), Value::Object(Map::new()));
        }
    }
    // An explicit type without parameters stays without parameters.
    if has_type(strategy, "RollingUpdate")
        && let Some(rolling) = existing(strategy, "rollingUpdate")
    {
        set_if_unset(rolling, "partition", 0);
        set_if_unset(rolling, "maxUnavailable", 1);
    }
}

fn replica_set(object: &mut Map<String, Value>) {
    if let Some(spec) = nested(object, "spec") {
        set_if_unset(spec, "replicas", 1);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(hook: fn(&mut Map<String, Value>), input: Value, expect: Value) {
        let Value::Object(mut map) = input else { panic!("an object") };
        hook(&mut map);
        assert_eq!(Value::Object(map), expect);
    }

    #[test]
    fn a_deployment_rolls_by_a_quarter() {
        check(
            deployment,
            json!({}),
            json!({"spec": {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}}}),
        );
        check(
            deployment,
            json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}}),
            json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600}}),
        );
    }

    #[test]
    fn a_stateful_set_with_an_explicit_type_gets_no_parameters() {
        let retention = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
        check(
            stateful_set,
            json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}}}),
            json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}, "podManagementPolicy": "OrderedReady", "replicas": 1,
                "revisionHistoryLimit": 10, "persistentVolumeClaimRetentionPolicy": retention}}),
        );
        check(
            stateful_set,
            json!({}),
            json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}},
                "podManagementPolicy": "OrderedReady", "replicas": 1, "revisionHistoryLimit": 10,
                "persistentVolumeClaimRetentionPolicy": retention}}),
        );
    }

    #[test]
    fn a_daemon_set_replaces_one_pod_at_a_time() {
        check(
            daemon_set,
            json!({"spec": {}}),
            json!({"metadata": {"annotations": {TEMPLATE_GENERATION: "0"}}, "spec": {"revisionHistoryLimit": 10,
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}}}),
        );
    }
}
