//! FlowSchemas: which priority level a request belongs to.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::name_is_dns_subdomain;
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, FlowSchemaSpec};
use serde_json::{Value, json};

use super::condition::validate_conditions;
use super::flow_rule::validate_rule;
use crate::registry::go_struct::{Form, Shape, show};
use crate::registry::printer::{self, text};
use crate::registry::read::{at, int_at, list_at, str_at};
use crate::registry::strategy::{
    bump_generation_if_changed, drop_field, keep_all_but_status, keep_all_metadata, keep_status, set_generation,
};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "flowschemas",
    singular: "flowschema",
    kind: "FlowSchema",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.flowcontrol.v1.FlowSchema",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: super::GROUP,
        version: "v1",
        kind: "FlowSchema",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["metadata", "spec"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const SPEC: &str = "io.k8s.api.flowcontrol.v1.FlowSchemaSpec";

/// The precedence is printed as a number although its column promises a string.
const COLUMNS: &[Column] = &[
    printer::NAME,
    text("PriorityLevel", Description::Field("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationReference", "name")),
    text("MatchingPrecedence", Description::Field(SPEC, "matchingPrecedence")),
    text("DistinguisherMethod", Description::Field(SPEC, "distinguisherMethod")),
    printer::AGE,
    text("MissingPL", Description::Text("references a broken or non-existent PriorityLevelConfiguration")),
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let dangling = list_at(object, "/status/conditions").iter().find(|c| str_at(c, "/type") == "Dangling");
    vec![
        printer::name(object),
        str_at(object, "/spec/priorityLevelConfiguration/name").into(),
        int_at(object, "/spec/matchingPrecedence").into(),
        match at(object, "/spec/distinguisherMethod") {
            Value::Null => "<none>".into(),
            method => str_at(method, "/type").into(),
        },
        printer::object_age(object, now),
        dangling.map_or("?", |condition| str_at(condition, "/status")).into(),
    ]
}

const MAX_PRECEDENCE: i32 = 10000;
const DISTINGUISHERS: [&str; 2] = ["ByNamespace", "ByUser"];

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new)
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        bump_generation_if_changed(new, old, &["spec"]);
        keep_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate(new)
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        keep_all_metadata(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate_conditions(new)
    }
}

fn validate(new: &Value) -> ErrorList {
    let schema: FlowSchema = view(new);
    let name = str_at(new, "/metadata/name");
    let path = Path::new("spec");
    let mut errors = validate_spec(name, &schema.spec, &path);
    if mandatory_spec(name).is_some_and(|fixed| fixed != *at(new, "/spec")) {
        let shown = show(at(new, "/spec"), &SPEC_SHAPE);
        errors.push(Error::invalid(&path, shown, format!("spec of '{name}' must equal the fixed value")));
    }
    errors.extend(validate_conditions(new));
    errors
}

fn validate_spec(name: &str, spec: &FlowSchemaSpec, path: &Path<'_>) -> ErrorList {
    let precedence = spec.matching_precedence.unwrap_or(0);
    let precedence_path = path.child("matchingPrecedence");
    let mut errors = ErrorList::new();
    if precedence <= 0 {
        errors.push(Error::invalid(&precedence_path, precedence, "must be a positive value"));
    }
    if precedence > MAX_PRECEDENCE {
        errors.push(Error::invalid(&precedence_path, precedence, format!("must not be greater than {MAX_PRECEDENCE}")));
    }
    if precedence == 1 && name != "exempt" {
        errors.push(Error::invalid(&precedence_path, precedence, "only the schema named 'exempt' may have matchingPrecedence 1"));
    }
    if let Some(method) = &spec.distinguisher_method
        && !DISTINGUISHERS.contains(&method.type_.as_str())
    {
        let path = path.child("distinguisherMethod");
        errors.push(Error::not_supported(&path.child("type"), json!({"Type": method.type_}), &DISTINGUISHERS));
    }
    let level = spec.priority_level_configuration.name.as_str();
    let level_path = path.child("priorityLevelConfiguration");
    let level_path = level_path.child("name");
    if level.is_empty() {
        errors.push(Error::required(&level_path, "must reference a priority level"));
    } else {
        errors.extend(name_is_dns_subdomain(level, false).into_iter().map(|message| Error::invalid(&level_path, level, message)));
    }
    let rules_path = path.child("rules");
    for (i, rule) in spec.rules.iter().flatten().enumerate() {
        errors.extend(validate_rule(rule, &rules_path.index(i)));
    }
    errors
}

/// The spec of a schema that every cluster has and nobody may change.
pub fn mandatory_spec(name: &str) -> Option<Value> {
    let everything = |groups: &[&str]| {
        let subjects: Vec<Value> = groups.iter().map(|group| json!({"kind": "Group", "group": {"name": group}})).collect();
        json!([{
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }])
    };
    match name {
        "exempt" => Some(json!({
            "priorityLevelConfiguration": {"name": "exempt"},
            "matchingPrecedence": 1,
            "rules": everything(&["system:masters"]),
        })),
        "catch-all" => Some(json!({
            "priorityLevelConfiguration": {"name": "catch-all"},
            "matchingPrecedence": 10000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": everything(&["system:unauthenticated", "system:authenticated"]),
        })),
        _ => None,
    }
}

static NAMED: Shape = Shape(&[("Name", "name", Form::Text)]);
static SPEC_SHAPE: Shape = Shape(&[
    ("PriorityLevelConfiguration", "priorityLevelConfiguration", Form::Struct(&NAMED)),
    ("MatchingPrecedence", "matchingPrecedence", Form::Number),
    ("DistinguisherMethod", "distinguisherMethod", Form::Pointer(&Shape(&[("Type", "type", Form::Text)]))),
    ("Rules", "rules", Form::List(&RULE_SHAPE)),
]);
static RULE_SHAPE: Shape = Shape(&[
    ("Subjects", "subjects", Form::List(&SUBJECT_SHAPE)),
    ("ResourceRules", "resourceRules", Form::List(&RESOURCE_RULE_SHAPE)),
    (
        "NonResourceRules",
        "nonResourceRules",
        Form::List(&Shape(&[("Verbs", "verbs", Form::Plain), ("NonResourceURLs", "nonResourceURLs", Form::Plain)])),
    ),
]);
static SUBJECT_SHAPE: Shape = Shape(&[
    ("Kind", "kind", Form::Text),
    ("User", "user", Form::Pointer(&NAMED)),
    ("Group", "group", Form::Pointer(&NAMED)),
    ("ServiceAccount", "serviceAccount", Form::Pointer(&Shape(&[("Namespace", "namespace", Form::Text), ("Name", "name", Form::Text)]))),
]);
static RESOURCE_RULE_SHAPE: Shape = Shape(&[
    ("Verbs", "verbs", Form::Plain),
    ("APIGroups", "apiGroups", Form::Plain),
    ("Resources", "resources", Form::Plain),
    ("ClusterScope", "clusterScope", Form::Flag),
    ("Namespaces", "namespaces", Form::Plain),
]);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(object: Value) -> Vec<String> {
        validate(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_place_is_for_the_exempt() {
        let spec = |precedence: i32| json!({"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": "a"}});
        assert!(check(json!({"metadata": {"name": "a"}, "spec": spec(2)})).is_empty());
        assert_eq!(
            check(json!({"metadata": {"name": "a"}, "spec": spec(1)})),
            ["spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"]
        );
        assert_eq!(
            check(json!({"metadata": {"name": "a"}, "spec": {"matchingPrecedence": 10001, "distinguisherMethod": {"type": "x"}}})),
            [
                "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
                r#"spec.distinguisherMethod.type: Unsupported value: {"Type":"x"}: supported values: "ByNamespace", "ByUser""#,
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ]
        );
    }

    #[test]
    fn mandatory_schemas_are_fixed() {
        let mut object = json!({"metadata": {"name": "exempt"}, "spec": mandatory_spec("exempt")});
        assert!(check(object.clone()).is_empty());
        object["spec"]["rules"][0]["nonResourceRules"] = json!([{"verbs": ["get"], "nonResourceURLs": ["*"]}]);
        assert_eq!(
            check(object),
            [concat!(
                r#"spec: Invalid value: {"PriorityLevelConfiguration":{"Name":"exempt"},"MatchingPrecedence":1,"DistinguisherMethod":null,"#,
                r#""Rules":[{"Subjects":[{"Kind":"Group","User":null,"Group":{"Name":"system:masters"},"ServiceAccount":null}],"#,
                r#""ResourceRules":[{"Verbs":["*"],"APIGroups":["*"],"Resources":["*"],"ClusterScope":true,"Namespaces":["*"]}],"#,
                r#""NonResourceRules":[{"Verbs":["get"],"NonResourceURLs":["*"]}]}]}: spec of 'exempt' must equal the fixed value"#
            )]
        );
    }
}
