//! Which kinds a policy is about, and what is wrong with its expressions for each of them, in upstream's words.

use std::collections::BTreeSet;
use std::fmt;

use cel::{Env, ObjectTypes, Program, Schema, Type, admission};
use k8s_openapi::api::admissionregistration::v1::{
    ExpressionWarning, NamedRuleWithOperations, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec, Variable,
};
use serde_json::Value;

use crate::discovery::Resource;

/// Kinds that one rule of a policy may add; with more of them the rules after it are not looked at.
const MAX_KINDS: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupVersionKind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

/// As upstream's messages name it; the core group has no name before the slash.
impl fmt::Display for GroupVersionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// The schemas that a policy is checked against.
#[derive(Default)]
pub struct Types {
    /// In the order of their warnings.
    pub objects: Vec<(GroupVersionKind, Value)>,
    /// None if the policy has no parameters or nothing is known of them.
    pub params: Option<(GroupVersionKind, Value)>,
}

fn spec(policy: &ValidatingAdmissionPolicy) -> Option<&ValidatingAdmissionPolicySpec> {
    policy.spec.as_ref()
}

fn rules(policy: &ValidatingAdmissionPolicy) -> impl Iterator<Item = &NamedRuleWithOperations> {
    spec(policy).and_then(|spec| spec.match_constraints.as_ref()?.resource_rules.as_ref()).into_iter().flatten()
}

/// Names in order; none at all if one stands for others.
fn plain(names: Option<&Vec<String>>) -> BTreeSet<&str> {
    let names = names.map_or(&[][..], Vec::as_slice);
    if names.iter().any(|name| name.contains('*')) { BTreeSet::new() } else { names.iter().map(String::as_str).collect() }
}

/// Names of resources in order, without subresources and without those that stand for others.
fn resources(rule: &NamedRuleWithOperations) -> BTreeSet<&str> {
    let names = rule.resources.iter().flatten().map(String::as_str);
    names.filter(|name| !name.contains(['*', '/'])).collect()
}

/// Whether a rule names resources so that their kinds can be told.
pub fn names_resources(policy: &ValidatingAdmissionPolicy) -> bool {
    rules(policy).any(|rule| {
        !plain(rule.api_groups.as_ref()).is_empty() && !plain(rule.api_versions.as_ref()).is_empty() && !resources(rule).is_empty()
    })
}

/// Whether a resource is meant. Upstream takes the singular and any case too, and no group for any group.
fn is_meant(served: &Resource, group: &str, version: &str, name: &str) -> bool {
    (group.is_empty() || served.group == group)
        && served.version == version
        && (served.plural.eq_ignore_ascii_case(name) || served.singular.eq_ignore_ascii_case(name))
}

/// The kinds that a policy's rules name, of those that are served, in the order of their groups, versions and names.
pub fn kinds(policy: &ValidatingAdmissionPolicy, served: &[Resource]) -> BTreeSet<GroupVersionKind> {
    let mut kinds = BTreeSet::new();
    for rule in rules(policy) {
        let mut count = 0;
        for group in plain(rule.api_groups.as_ref()) {
            for version in plain(rule.api_versions.as_ref()) {
                for name in resources(rule) {
                    for resource in served.iter().filter(|served| is_meant(served, group, version, name)) {
                        kinds.insert(GroupVersionKind {
                            group: resource.group.clone(),
                            version: resource.version.clone(),
                            kind: resource.kind.clone(),
                        });
                        count += 1;
                        if count == MAX_KINDS {
                            return kinds;
                        }
                    }
                }
            }
        }
    }
    kinds
}

/// The kind of a policy's parameters.
pub fn param_kind(policy: &ValidatingAdmissionPolicy) -> Option<GroupVersionKind> {
    let kind = spec(policy)?.param_kind.as_ref()?;
    let (group, version) = kind.api_version.as_deref().map(|version| version.split_once('/').unwrap_or(("", version)))?;
    Some(GroupVersionKind { group: group.to_owned(), version: version.to_owned(), kind: kind.kind.clone()? })
}

/// Declares variables of a schema's type, which is named `name`; of any type without a schema.
fn declare(env: Env, variables: &[&str], name: &str, schema: Option<&Value>) -> Env {
    let schema = schema.map(|schema| Schema::of(schema, true, name));
    let mut objects = ObjectTypes::new();
    if let Some(schema) = &schema {
        schema.object_types(&mut objects);
    }
    let ty = schema.as_ref().and_then(Schema::ty).cloned().unwrap_or(Type::Dyn);
    variables.iter().fold(env.with_objects(objects), |env, variable| env.with_variable(variable, ty.clone()))
}

/// What a policy's expressions may name when its objects are of one kind. `number` tells the type's name from all others.
fn environment(policy: &ValidatingAdmissionPolicy, types: &Types, number: usize) -> Env {
    let mut env = admission::declare(Env::for_stored(), &["request", "namespaceObject"]);
    // Upstream declares no `authorizer.requestResource` here, and says so of policies that use it.
    env = env.with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"));
    if let Some((kind, schema)) = types.objects.get(number) {
        env = declare(env, &["object", "oldObject"], &format!("{}{number}", kind.kind), Some(schema));
    }
    if param_kind(policy).is_some() {
        let (name, schema) = match &types.params {
            Some((kind, schema)) => (format!("{}{}", kind.kind, types.objects.len()), Some(schema)),
            None => (String::new(), None),
        };
        env = declare(env, &["params"], &name, schema);
    }
    compose(env, spec(policy).and_then(|spec| spec.variables.as_deref()).unwrap_or_default())
}

/// Declares what a policy composes. What does not compile may be anything: it is no warning of its own.
fn compose(env: Env, variables: &[Variable]) -> Env {
    let mut composed: Vec<(String, Type)> = Vec::new();
    for variable in variables {
        let within = admission::compose(env.clone(), &composed);
        let ty = Program::compile(&within, &variable.expression).map_or(Type::Dyn, |program| program.result_type().clone());
        composed.retain(|(name, _)| *name != variable.name);
        composed.push((variable.name.clone(), ty));
    }
    admission::compose(env, &composed)
}

/// What is wrong with the expressions of a policy's validations, in their order.
pub fn check(policy: &ValidatingAdmissionPolicy, types: &Types) -> Vec<ExpressionWarning> {
    let environments: Vec<(&GroupVersionKind, Env)> =
        types.objects.iter().enumerate().map(|(number, (kind, _))| (kind, environment(policy, types, number))).collect();
    let mut warnings = Vec::new();
    let mut look_at = |field_ref: String, expression: &str| {
        let wrong = environments.iter().filter_map(|(kind, env)| Some(format!("{kind}: {}\n", Program::compile(env, expression).err()?)));
        let wrong: Vec<String> = wrong.collect();
        if !wrong.is_empty() {
            warnings.push(ExpressionWarning { field_ref, warning: wrong.join("\n") });
        }
    };
    let validations = spec(policy).and_then(|spec| spec.validations.as_deref()).unwrap_or_default();
    for (index, validation) in validations.iter().enumerate() {
        look_at(format!("spec.validations[{index}].expression"), &validation.expression);
        if let Some(message) = validation.message_expression.as_deref().filter(|message| !message.is_empty()) {
            look_at(format!("spec.validations[{index}].messageExpression"), message);
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn served(group: &str, plural: &str, singular: &str, kind: &str) -> Resource {
        Resource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            plural: plural.to_owned(),
            singular: singular.to_owned(),
            kind: kind.to_owned(),
            namespaced: true,
            verbs: Vec::new(),
        }
    }

    fn rule(groups: &[&str], versions: &[&str], resources: &[&str]) -> Value {
        json!({"apiGroups": groups, "apiVersions": versions, "resources": resources, "operations": ["*"]})
    }

    fn policy(spec: Value) -> ValidatingAdmissionPolicy {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn kinds_of(rules: &[Value]) -> Vec<String> {
        let all = [
            served("", "pods", "pod", "Pod"),
            served("", "events", "event", "Event"),
            served("apps", "deployments", "deployment", "Deployment"),
            served("apps", "replicasets", "replicaset", "ReplicaSet"),
            served("events.k8s.io", "events", "event", "Event"),
        ];
        let policy = policy(json!({"matchConstraints": {"resourceRules": rules}}));
        kinds(&policy, &all).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_name_kinds() {
        let (deployment, replica_set) = ("apps/v1, Kind=Deployment", "apps/v1, Kind=ReplicaSet");
        let table: [(Value, &[&str]); 8] = [
            (rule(&["apps"], &["v1"], &["replicasets", "deployments"]), &[deployment, replica_set]),
            (rule(&["apps"], &["v1"], &["Deployments", "replicaset"]), &[deployment, replica_set]),
            (rule(&["apps"], &["v1"], &["deployments/scale", "*", "deployments"]), &[deployment]),
            (rule(&["apps", "*"], &["v1"], &["deployments"]), &[]),
            (rule(&["apps"], &["*"], &["deployments"]), &[]),
            (rule(&["apps"], &["v2"], &["deployments"]), &[]),
            (rule(&[""], &["v1"], &["events"]), &["/v1, Kind=Event", "events.k8s.io/v1, Kind=Event"]),
            (rule(&["events.k8s.io"], &["v1"], &["events"]), &["events.k8s.io/v1, Kind=Event"]),
        ];
        for (rule, expected) in table {
            assert_eq!(kinds_of(std::slice::from_ref(&rule)), expected, "{rule}");
        }
    }

    #[test]
    fn no_more_than_ten_kinds_are_taken_of_a_rule() {
        let all: Vec<Resource> = (0..20).map(|n| served("g", &format!("r{n:02}"), "", &format!("R{n:02}"))).collect();
        let names: Vec<String> = all.iter().map(|resource| resource.plural.clone()).collect();
        let rule = json!({"apiGroups": ["g"], "apiVersions": ["v1"], "resources": names});
        let found = kinds(&policy(json!({"matchConstraints": {"resourceRules": [rule]}})), &all);
        assert_eq!(
            found.iter().map(|kind| kind.kind.as_str()).collect::<Vec<_>>(),
            names[..10].iter().map(|name| name.to_uppercase()).collect::<Vec<_>>()
        );
    }

    fn kind(group: &str, kind: &str) -> GroupVersionKind {
        GroupVersionKind { group: group.to_owned(), version: "v1".to_owned(), kind: kind.to_owned() }
    }

    fn types() -> Types {
        let metadata = json!({"type": "object", "properties": {
            "name": {"type": "string"}, "generateName": {"type": "string"}, "creationTimestamp": {"type": "string", "format": "date-time"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        }});
        let container = json!({"type": "object", "properties": {"name": {"type": "string"}, "image": {"type": "string"}}});
        let schema = |spec: Value| {
            json!({"type": "object", "properties": {
                "kind": {"type": "string"}, "apiVersion": {"type": "string"}, "metadata": metadata,
                "spec": {"type": "object", "properties": spec},
            }})
        };
        let deployment = schema(json!({"replicas": {"type": "integer"}, "containers": {"type": "array", "items": container}}));
        let job = schema(json!({"completions": {"type": "integer"}}));
        let limit = json!({"type": "object", "properties": {
            "max": {"type": "integer"}, "names": {"type": "array", "items": {"type": "string"}}, "port": {"x-kubernetes-int-or-string": true},
        }});
        Types {
            objects: vec![(kind("apps", "Deployment"), deployment), (kind("batch", "Job"), job)],
            params: Some((kind("policy.example.com", "Limit"), limit)),
        }
    }

    /// The warnings for one expression of a policy about Deployments, without the kind before and the line's end after.
    fn warning(expression: &str) -> Option<String> {
        let mut types = types();
        types.objects.truncate(1);
        let found = check(&policy_of(expression), &types);
        let first = found.first()?;
        assert_eq!((found.len(), first.field_ref.as_str()), (1, "spec.validations[0].expression"));
        Some(first.warning.strip_prefix("apps/v1, Kind=Deployment: ").and_then(|text| text.strip_suffix('\n')).unwrap().to_owned())
    }

    fn policy_of(expression: &str) -> ValidatingAdmissionPolicy {
        policy(json!({
            "paramKind": {"apiVersion": "policy.example.com/v1", "kind": "Limit"},
            "variables": [
                {"name": "r", "expression": "object.spec.replicas"}, {"name": "bad", "expression": "object.spec.none"},
                {"name": "sp", "expression": "object.spec"}, {"name": "t", "expression": "object.metadata.creationTimestamp"},
            ],
            "validations": [{"expression": expression}],
        }))
    }

    /// What upstream's controller manager of v1.37 says of the same expressions.
    #[test]
    fn what_cannot_be_right_is_told_in_upstreams_words() {
        let table = [
            ("object.spec.replicaz <= 5", "1:12: undefined field 'replicaz'"),
            ("params.nope > 1", "1:7: undefined field 'nope'"),
            (
                "object.spec.replicas <= params.max && params.names.all(n, n > 1)",
                "1:61: found no matching overload for '_>_' applied to '(string, int)'",
            ),
            ("variables.r > 'x'", "1:13: found no matching overload for '_>_' applied to '(int, string)'"),
            ("variables.t == 1", "1:13: found no matching overload for '_==_' applied to '(timestamp, int)'"),
            ("object.metadata.creationTimestamp > 'x'", "1:35: found no matching overload for '_>_' applied to '(timestamp, string)'"),
            ("oldObject.spec.x == 1", "1:15: undefined field 'x'"),
            ("object.spec.replicas == null", "1:22: found no matching overload for '_==_' applied to '(int, null)'"),
            (
                "request.name == 'x' && namespaceObject.metadata.name == object.spec.replicas",
                "1:54: found no matching overload for '_==_' applied to '(string, int)'",
            ),
            (
                "authorizer.requestResource.check('get').allowed()",
                "1:11: unexpected failed resolution of 'kubernetes.authorization.Authorizer'",
            ),
            ("object == params", "1:8: found no matching overload for '_==_' applied to '(Deployment0, Limit1)'"),
            ("object.spec.__namespace__ == 1", "1:12: undefined field '__namespace__'"),
        ];
        for (expression, expected) in table {
            let shown = warning(expression).unwrap_or_default();
            assert_eq!(shown.lines().next(), Some(format!("ERROR: <input>:{expected}").as_str()), "{expression}");
        }
    }

    #[test]
    fn what_may_be_right_is_not_told() {
        for expression in [
            "object.spec.replicas <= params.max",
            "params.port == 1 || params.port == 'http'",
            "variables.bad == 1 && variables.sp.unheard == 1",
            "object != null && oldObject == null",
            "object.metadata.labels['a'] == 'b' && object.spec.containers.all(c, c.image != '')",
            "authorizer.group('').resource('pods').check('get').allowed()",
        ] {
            assert_eq!(warning(expression), None, "{expression}");
        }
    }

    #[test]
    fn parameters_of_which_nothing_is_known_may_be_anything() {
        let unknown = Types { params: None, ..types() };
        assert_eq!(check(&policy_of("params.anything == 1 && params + 1 == 2"), &unknown), []);
    }

    #[test]
    fn every_kind_has_its_say_and_messages_are_checked_too() {
        let policy = policy(json!({"validations": [
            {"expression": "object.spec.replicas > 1 &&\n object.spec.completions > 0"},
            {"expression": "true", "messageExpression": "'got ' + object.metadata.nope"},
        ]}));
        let found = check(&policy, &types());
        let places: Vec<&str> = found.iter().map(|warning| warning.field_ref.as_str()).collect();
        assert_eq!(places, ["spec.validations[0].expression", "spec.validations[1].messageExpression"]);
        let expected = "apps/v1, Kind=Deployment: ERROR: <input>:2:13: undefined field 'completions'\n |  object.spec.completions > 0\n | ............^\n\n\
                        batch/v1, Kind=Job: ERROR: <input>:1:12: undefined field 'replicas'\n | object.spec.replicas > 1 &&\n | ...........^\n";
        assert_eq!(found[0].warning, expected);
    }
}
