//! The FlowSchemas and PriorityLevelConfigurations that every cluster starts with, as v1.37 has them.
//!
//! Mandatory objects are always as they are here; suggested ones are until somebody edits them.

use serde_json::{Map, Value, json};

/// The schema and the level that take what nothing else takes.
pub const CATCH_ALL: &str = "catch-all";
const EXEMPT: &str = "exempt";
/// Says whether the API server may set the spec anew: `true`, or `false` once an administrator has taken it over.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// name, shares, lendable percent, (queues, hand size, queue length).
type LevelRow = (&'static str, i64, i64, (i64, i64, i64));

const SUGGESTED_LEVELS: &[LevelRow] = &[
    ("system", 30, 33, (64, 6, 50)),
    ("node-high", 40, 25, (64, 6, 50)),
    ("leader-election", 10, 0, (16, 4, 50)),
    ("workload-high", 40, 50, (128, 6, 50)),
    ("workload-low", 100, 90, (128, 6, 50)),
    ("global-default", 20, 50, (128, 6, 50)),
];

enum Subject {
    User(&'static str),
    Group(&'static str),
    /// All service accounts of kube-system.
    SystemAccounts,
}

/// Which resources: verbs, API group, resources, and whether cluster-scoped ones too.
type Resources = (&'static [&'static str], &'static str, &'static [&'static str], bool);

struct SchemaRow {
    name: &'static str,
    level: &'static str,
    precedence: i64,
    distinguisher: &'static str,
    subjects: &'static [Subject],
    resources: &'static [Resources],
    /// Verbs and paths.
    paths: Option<(&'static [&'static str], &'static [&'static str])>,
}

const ALL: &[&str] = &["*"];
const EVERYTHING: &[Resources] = &[(ALL, "*", ALL, true)];
const EVERY_PATH: Option<(&[&str], &[&str])> = Some((ALL, ALL));
const EVERYONE: &[Subject] = &[Subject::Group("system:unauthenticated"), Subject::Group("system:authenticated")];
const NODES: &[Subject] = &[Subject::Group("system:nodes")];

/// A row that gives its subjects everything.
const fn whole(
    name: &'static str,
    level: &'static str,
    precedence: i64,
    distinguisher: &'static str,
    subjects: &'static [Subject],
) -> SchemaRow {
    SchemaRow { name, level, precedence, distinguisher, subjects, resources: EVERYTHING, paths: EVERY_PATH }
}

const MANDATORY_SCHEMAS: &[SchemaRow] =
    &[whole(EXEMPT, EXEMPT, 1, "", &[Subject::Group("system:masters")]), whole(CATCH_ALL, CATCH_ALL, 10_000, "ByUser", EVERYONE)];

const SUGGESTED_SCHEMAS: &[SchemaRow] = &[
    whole("system-nodes", "system", 500, "ByUser", NODES),
    SchemaRow {
        name: "system-node-high",
        level: "node-high",
        precedence: 400,
        distinguisher: "ByUser",
        subjects: NODES,
        resources: &[(ALL, "", &["nodes", "nodes/status"], true), (ALL, "coordination.k8s.io", &["leases"], false)],
        paths: None,
    },
    SchemaRow {
        name: "probes",
        level: EXEMPT,
        precedence: 2,
        distinguisher: "",
        subjects: EVERYONE,
        resources: &[],
        paths: Some((&["get"], &["/healthz", "/readyz", "/livez"])),
    },
    SchemaRow {
        name: "system-leader-election",
        level: "leader-election",
        precedence: 100,
        distinguisher: "ByUser",
        subjects: &[Subject::User("system:kube-controller-manager"), Subject::User("system:kube-scheduler"), Subject::SystemAccounts],
        resources: &[(&["get", "create", "update"], "coordination.k8s.io", &["leases"], false)],
        paths: None,
    },
    whole("kube-controller-manager", "workload-high", 800, "ByNamespace", &[Subject::User("system:kube-controller-manager")]),
    whole("kube-scheduler", "workload-high", 800, "ByNamespace", &[Subject::User("system:kube-scheduler")]),
    whole("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &[Subject::SystemAccounts]),
    whole("service-accounts", "workload-low", 9_000, "ByUser", &[Subject::Group("system:serviceaccounts")]),
    whole("global-default", "global-default", 9_900, "ByUser", EVERYONE),
];

/// The levels that must be there.
pub fn mandatory_levels() -> impl Iterator<Item = Value> {
    let catch_all = json!({
        "type": "Limited",
        "limited": { "nominalConcurrencyShares": 5, "limitResponse": { "type": "Reject" }, "lendablePercent": 0 },
    });
    let exempt = json!({ "type": "Exempt", "exempt": { "nominalConcurrencyShares": 0, "lendablePercent": 0 } });
    [(CATCH_ALL, catch_all), (EXEMPT, exempt)].into_iter().map(|(name, spec)| object("PriorityLevelConfiguration", name, spec))
}

/// The levels that a cluster starts with besides.
pub fn suggested_levels() -> impl Iterator<Item = Value> {
    SUGGESTED_LEVELS.iter().map(|(name, shares, lendable, (queues, hand, length))| {
        let queuing = json!({ "queues": queues, "handSize": hand, "queueLengthLimit": length });
        let spec = json!({
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": shares,
                "limitResponse": { "type": "Queue", "queuing": queuing },
                "lendablePercent": lendable,
            },
        });
        object("PriorityLevelConfiguration", name, spec)
    })
}

/// The schemas that must be there.
pub fn mandatory_schemas() -> impl Iterator<Item = Value> {
    MANDATORY_SCHEMAS.iter().map(schema)
}

/// The schemas that a cluster starts with besides.
pub fn suggested_schemas() -> impl Iterator<Item = Value> {
    SUGGESTED_SCHEMAS.iter().map(schema)
}

/// All levels.
pub fn levels() -> impl Iterator<Item = Value> {
    suggested_levels().chain(mandatory_levels())
}

/// All schemas.
pub fn schemas() -> impl Iterator<Item = Value> {
    suggested_schemas().chain(mandatory_schemas())
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": kind,
        "metadata": { "name": name, "annotations": { AUTO_UPDATE: "true" } },
        "spec": spec,
    })
}

fn schema(row: &SchemaRow) -> Value {
    let mut spec = Map::new();
    spec.insert("priorityLevelConfiguration".into(), json!({ "name": row.level }));
    spec.insert("matchingPrecedence".into(), row.precedence.into());
    if !row.distinguisher.is_empty() {
        spec.insert("distinguisherMethod".into(), json!({ "type": row.distinguisher }));
    }
    let mut rule = Map::new();
    rule.insert("subjects".into(), row.subjects.iter().map(subject).collect());
    if !row.resources.is_empty() {
        rule.insert("resourceRules".into(), row.resources.iter().map(resources).collect());
    }
    if let Some((verbs, urls)) = row.paths {
        rule.insert("nonResourceRules".into(), json!([{ "verbs": verbs, "nonResourceURLs": urls }]));
    }
    spec.insert("rules".into(), Value::Array(vec![Value::Object(rule)]));
    object("FlowSchema", row.name, Value::Object(spec))
}

fn subject(subject: &Subject) -> Value {
    match subject {
        Subject::User(name) => json!({ "kind": "User", "user": { "name": name } }),
        Subject::Group(name) => json!({ "kind": "Group", "group": { "name": name } }),
        Subject::SystemAccounts => json!({ "kind": "ServiceAccount", "serviceAccount": { "namespace": "kube-system", "name": "*" } }),
    }
}

fn resources((verbs, group, resources, cluster_scope): &Resources) -> Value {
    let mut rule = Map::new();
    rule.insert("verbs".into(), json!(verbs));
    rule.insert("apiGroups".into(), json!([group]));
    rule.insert("resources".into(), json!(resources));
    if *cluster_scope {
        rule.insert("clusterScope".into(), true.into());
    }
    rule.insert("namespaces".into(), json!(["*"]));
    Value::Object(rule)
}
