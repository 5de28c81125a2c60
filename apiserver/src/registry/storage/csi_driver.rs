//! storage.k8s.io/v1 CSIDriver.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, name_is_dns_subdomain};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSIDriverSpec, TokenRequest};
use serde_json::{Map, Value, json};

use crate::registry::defaulting::{nested, set_if_empty, set_if_unset};
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, bool_at, list_at, str_at};
use crate::registry::strategy::{generation, set_generation};
use crate::registry::{ALL_VERBS, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

const SPEC: &str = "io.k8s.api.storage.v1.CSIDriverSpec";
const GROUP_POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
const LIFECYCLES: [&str; 2] = ["Persistent", "Ephemeral"];
const TOKENS_IN_SECRETS: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
/// Ten minutes.
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const MIN_UPDATE_SECONDS: i64 = 10;

pub static RESOURCE: Definition = Definition {
    group: "storage.k8s.io",
    version: "v1",
    plural: "csidrivers",
    singular: "csidriver",
    kind: "CSIDriver",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.storage.v1.CSIDriver",
    name: name_is_dns_subdomain,
    strategy: &DriverStrategy,
    subresources: &[],
    selectable: &[],
    printer: Printer {
        columns: &[
            NAME,
            printer::boolean("AttachRequired", Description::Field(SPEC, "attachRequired")),
            printer::boolean("PodInfoOnMount", Description::Field(SPEC, "podInfoOnMount")),
            printer::boolean("StorageCapacity", Description::Field(SPEC, "storageCapacity")),
            printer::text("TokenRequests", Description::Field(SPEC, "tokenRequests")),
            printer::boolean("RequiresRepublish", Description::Field(SPEC, "requiresRepublish")),
            printer::text("Modes", Description::Field(SPEC, "volumeLifecycleModes")),
            AGE,
        ],
        cells,
    },
    reset_fields: &[],
};

fn cells(driver: &Value, now: Timestamp) -> Vec<Value> {
    let tokens = match at(driver, "/spec/tokenRequests").as_array() {
        Some(requests) => requests.iter().map(|request| str_at(request, "/audience")).collect::<Vec<_>>().join(","),
        None => "<unset>".to_owned(),
    };
    let modes: Vec<&str> = list_at(driver, "/spec/volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
    vec![
        printer::name(driver),
        at(driver, "/spec/attachRequired").as_bool().unwrap_or(true).into(),
        bool_at(driver, "/spec/podInfoOnMount").into(),
        bool_at(driver, "/spec/storageCapacity").into(),
        tokens.into(),
        bool_at(driver, "/spec/requiresRepublish").into(),
        if modes.is_empty() { "<none>".into() } else { modes.join(",").into() },
        printer::object_age(driver, now),
    ]
}

/// What a driver does unless it says otherwise.
pub fn default_driver(driver: &mut Map<String, Value>) {
    let Some(spec) = nested(driver, "spec") else { return };
    set_if_unset(spec, "attachRequired", true);
    set_if_unset(spec, "podInfoOnMount", false);
    set_if_unset(spec, "storageCapacity", false);
    set_if_unset(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    set_if_empty(spec, "volumeLifecycleModes", json!(["Persistent"]));
    set_if_unset(spec, "requiresRepublish", false);
    set_if_unset(spec, "seLinuxMount", false);
    set_if_unset(spec, "preventPodSchedulingIfMissing", false);
}

struct DriverStrategy;

impl UpdateStrategy for DriverStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if new.get("spec") != old.get("spec") {
            set_generation(new, generation(old) + 1);
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = validate(&view(at(new, "/spec")));
        let path = Path::new("spec");
        for (field, shown) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
            let (after, before) = (&new["spec"][field], &old["spec"][field]);
            if after != before {
                errors.push(Error::invalid(&path.child(shown), after.clone(), FIELD_IMMUTABLE));
            }
        }
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        let same = at(new, "/spec/tokenRequests") == at(old, "/spec/tokenRequests");
        if same { Vec::new() } else { warnings(new) }
    }
}

impl Strategy for DriverStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(at(new, "/spec")))
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(new)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn warnings(driver: &Value) -> Vec<String> {
    let asks = !list_at(driver, "/spec/tokenRequests").is_empty();
    let unsaid = at(driver, "/spec/serviceAccountTokenInSecrets").is_null();
    if asks && unsaid { vec![TOKENS_IN_SECRETS.to_owned()] } else { Vec::new() }
}

fn validate(spec: &CSIDriverSpec) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    for (field, is_set) in [
        ("attachedRequired", spec.attach_required.is_some()),
        ("podInfoOnMount", spec.pod_info_on_mount.is_some()),
        ("storageCapacity", spec.storage_capacity.is_some()),
    ] {
        if !is_set {
            errors.push(Error::required(&path.child(field), ""));
        }
    }
    if let Some(policy) = spec.fs_group_policy.as_deref().filter(|policy| !GROUP_POLICIES.contains(policy)) {
        errors.push(Error::not_supported(&path.child("fsGroupPolicy"), policy, &GROUP_POLICIES));
    }
    let tokens = spec.token_requests.as_deref().unwrap_or_default();
    errors.extend(validate_tokens(tokens, &path.child("tokenRequests")));
    for mode in spec.volume_lifecycle_modes.iter().flatten().filter(|mode| !LIFECYCLES.contains(&mode.as_str())) {
        errors.push(Error::not_supported(&path.child("volumeLifecycleModes"), mode.as_str(), &LIFECYCLES));
    }
    if spec.se_linux_mount.is_none() {
        errors.push(Error::required(&path.child("seLinuxMount"), ""));
    }
    if let Some(seconds) = spec.node_allocatable_update_period_seconds.filter(|seconds| *seconds < MIN_UPDATE_SECONDS) {
        let why = "must be greater than or equal to 10 seconds";
        errors.push(Error::invalid(&path.child("nodeAllocatableUpdatePeriodSeconds"), seconds, why));
    }
    if let Some(in_secrets) = spec.service_account_token_in_secrets.filter(|_| tokens.is_empty()) {
        let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.push(Error::invalid(&path.child("serviceAccountTokenInSecrets"), in_secrets, why));
    }
    if spec.prevent_pod_scheduling_if_missing.is_none() {
        errors.push(Error::required(&path.child("preventPodSchedulingIfMissing"), ""));
    }
    errors
}

/// One token for each audience, of a sensible life.
fn validate_tokens(requests: &[TokenRequest], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut audiences = BTreeSet::new();
    for (i, request) in requests.iter().enumerate() {
        let path = path.index(i);
        if !audiences.insert(&request.audience) {
            errors.push(Error::duplicate(&path.child("audience"), request.audience.as_str()));
            continue;
        }
        let Some(seconds) = request.expiration_seconds else { continue };
        let place = path.child("expirationSeconds");
        if seconds < MIN_TOKEN_SECONDS {
            errors.push(Error::invalid(&place, seconds, "may not specify a duration less than 10 minutes"));
        }
        if seconds > MAX_TOKEN_SECONDS {
            errors.push(Error::invalid(&place, seconds, "may not specify a duration larger than 2^32 seconds"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::core::tests::{cx, messages};

    fn driver(spec: Value) -> Value {
        let mut driver = json!({"metadata": {"name": "d"}, "spec": spec});
        default_driver(driver.as_object_mut().unwrap());
        driver
    }

    #[test]
    fn an_empty_driver_is_complete() {
        let empty = driver(json!({}));
        assert!(DriverStrategy.validate(&cx(), &empty).is_empty());
        assert_eq!(
            cells(&empty, Timestamp::UNIX_EPOCH)[1..7],
            [json!(true), json!(false), json!(false), json!("<unset>"), json!(false), json!("Persistent")]
        );
    }

    #[test]
    fn rules_read_as_upstreams() {
        let spec = json!({"fsGroupPolicy": "X", "volumeLifecycleModes": ["Y"], "tokenRequests": [{"audience": "a", "expirationSeconds": 1}, {"audience": "a"}],
            "nodeAllocatableUpdatePeriodSeconds": 9});
        assert_eq!(
            messages(&DriverStrategy.validate(&cx(), &driver(spec))),
            [
                "spec.fsGroupPolicy: Unsupported value: \"X\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                "spec.volumeLifecycleModes: Unsupported value: \"Y\": supported values: \"Persistent\", \"Ephemeral\"",
                "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
            ]
        );
    }

    #[test]
    fn a_changed_spec_is_a_new_generation_within_limits() {
        let (old, mut new) = (driver(json!({})), driver(json!({"attachRequired": false})));
        DriverStrategy.prepare_for_update(&cx(), &mut new, &old);
        assert_eq!(new["metadata"]["generation"], 1);
        assert_eq!(
            messages(&DriverStrategy.validate_update(&cx(), &new, &old)),
            ["spec.attachedRequired: Invalid value: false: field is immutable"]
        );
        let tokens = driver(json!({"tokenRequests": [{"audience": "a"}]}));
        assert_eq!(DriverStrategy.warnings_on_update(&cx(), &tokens, &old), [TOKENS_IN_SECRETS]);
        assert!(DriverStrategy.warnings_on_update(&cx(), &tokens, &tokens).is_empty());
    }
}
