//! Whether expressions fit types: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use cel::{Env, ObjectTypes, Program, Schema, Type, admission};
use k8s_openapi::api::admissionregistration::v1::{NamedRuleWithOperations, ValidatingAdmissionPolicy};
use serde_json::Value;

use crate::discovery::Resource;

/// So many kinds are looked at for one policy.
const MAX_KINDS: usize = 10;

/// A kind of objects; printed as Go prints it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// Something to say about an expression.
#[derive(Debug, PartialEq, Eq)]
pub struct Warning {
    pub field: String,
    pub text: String,
}

/// What a policy is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The kinds that it matches by name, sorted; wildcards and subresources are passed over.
    objects: BTreeSet<Kind>,
    params: Option<Kind>,
}

impl Subject {
    pub fn of(policy: &ValidatingAdmissionPolicy, served: &[Resource]) -> Subject {
        let Some(spec) = &policy.spec else { return Subject::default() };
        let params = spec.param_kind.as_ref().map(|kind| {
            let api_version = kind.api_version.as_deref().unwrap_or("");
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            Kind { group: group.to_owned(), version: version.to_owned(), kind: kind.kind.clone().unwrap_or_default() }
        });
        let rules = spec.match_constraints.iter().flat_map(|constraints| constraints.resource_rules.iter().flatten());
        Subject { objects: matched(rules, served), params }
    }

    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.objects.iter().chain(&self.params)
    }
}

fn matched<'r>(rules: impl Iterator<Item = &'r NamedRuleWithOperations>, served: &[Resource]) -> BTreeSet<Kind> {
    let mut kinds = BTreeSet::new();
    for rule in rules {
        let sorted = |words: &Option<Vec<String>>| {
            let mut words = words.clone().unwrap_or_default();
            words.sort();
            words
        };
        let (groups, versions) = (sorted(&rule.api_groups), sorted(&rule.api_versions));
        if groups.iter().chain(&versions).any(|word| word.contains('*')) {
            continue;
        }
        let mut resources = sorted(&rule.resources);
        resources.retain(|resource| !resource.contains(['*', '/']));
        let mut count = 0;
        for (group, version) in groups.iter().flat_map(|group| versions.iter().map(move |version| (group, version))) {
            for resource in &resources {
                // The core group's name is empty, which upstream takes for any group.
                let is_it = |s: &&Resource| (group.is_empty() || s.group == *group) && s.version == *version && s.plural == *resource;
                for one in served.iter().filter(is_it) {
                    kinds.insert(Kind { group: one.group.clone(), version: one.version.clone(), kind: one.kind.clone() });
                    count += 1;
                    if count == MAX_KINDS {
                        return kinds;
                    }
                }
            }
        }
    }
    kinds
}

/// What is to be said about the policy's validations, for each kind that has a schema.
pub fn warnings(policy: &ValidatingAdmissionPolicy, subject: &Subject, schemas: &BTreeMap<Kind, Value>) -> Vec<Warning> {
    let environments: Vec<(&Kind, Env)> = subject
        .objects
        .iter()
        .filter_map(|kind| Some((kind, environment(policy, (kind, schemas.get(kind)?), subject.params.as_ref(), schemas))))
        .collect();
    let check = |expression: &str| -> String {
        let found = environments.iter().filter_map(|(kind, env)| {
            let error = Program::compile(env, expression).err()?;
            Some(format!("{kind}: {error}\n"))
        });
        found.collect::<Vec<_>>().join("\n")
    };
    let validations = policy.spec.iter().flat_map(|spec| spec.validations.iter().flatten());
    let mut warnings = Vec::new();
    for (i, validation) in validations.enumerate() {
        let message = validation.message_expression.as_deref().filter(|text| !text.is_empty());
        for (field, text) in
            std::iter::once(("expression", validation.expression.as_str())).chain(message.map(|m| ("messageExpression", m)))
        {
            let said = check(text);
            if !said.is_empty() {
                warnings.push(Warning { field: format!("spec.validations[{i}].{field}"), text: said });
            }
        }
    }
    warnings
}

/// What the policy's expressions may name, for objects of one kind. Variables are declared one by one: each may use those before it.
fn environment(policy: &ValidatingAdmissionPolicy, object: (&Kind, &Value), params: Option<&Kind>, schemas: &BTreeMap<Kind, Value>) -> Env {
    let mut types = ObjectTypes::new();
    let mut declared = |kind: &Kind, schema: &Value| {
        // Nobody shall rely on the name of the type.
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let schema = Schema::of(schema, true, &format!("{}{nanos}", kind.kind));
        schema.object_types(&mut types);
        schema.ty().cloned().unwrap_or(Type::Dyn)
    };
    let object = declared(object.0, object.1);
    let params = params.map(|kind| schemas.get(kind).map_or(Type::Dyn, |schema| declared(kind, schema)));
    let mut env = admission::declare(Env::for_stored(), &["request", "namespaceObject"])
        .with_objects(types)
        .with_variable("object", object.clone())
        .with_variable("oldObject", object)
        .with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"));
    if let Some(params) = params {
        env = env.with_variable("params", params);
    }
    let mut composed: Vec<(String, Type)> = Vec::new();
    let variables = policy.spec.iter().flat_map(|spec| spec.variables.iter().flatten());
    for variable in variables {
        let env = admission::compose(env.clone(), &composed);
        let ty = Program::compile(&env, &variable.expression).map_or(Type::Dyn, |program| program.result_type().clone());
        composed.push((variable.name.clone(), ty));
    }
    admission::compose(env, &composed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(spec: Value) -> ValidatingAdmissionPolicy {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn resource(group: &str, version: &str, plural: &str, kind: &str) -> Resource {
        let text = str::to_owned;
        Resource { group: text(group), version: text(version), plural: text(plural), kind: text(kind), namespaced: true, verbs: Vec::new() }
    }

    fn kind(group: &str, version: &str, kind: &str) -> Kind {
        Kind { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    fn rule(groups: &[&str], versions: &[&str], resources: &[&str]) -> Value {
        json!({"apiGroups": groups, "apiVersions": versions, "operations": ["*"], "resources": resources})
    }

    #[test]
    fn kinds_are_those_that_rules_name() {
        let served = [
            resource("", "v1", "events", "Event"),
            resource("events.k8s.io", "v1", "events", "Event"),
            resource("apps", "v1", "deployments", "Deployment"),
            resource("apps", "v1", "replicasets", "ReplicaSet"),
            resource("apps", "v1beta1", "deployments", "Deployment"),
        ];
        let kinds = |rules: Value| -> Vec<String> {
            let policy = policy(json!({"matchConstraints": {"resourceRules": rules}}));
            Subject::of(&policy, &served).kinds().map(ToString::to_string).collect()
        };
        let deployment = "apps/v1, Kind=Deployment";
        assert_eq!(kinds(json!([rule(&["apps"], &["v1"], &["replicasets", "deployments"])])), [deployment, "apps/v1, Kind=ReplicaSet"]);
        assert_eq!(kinds(json!([rule(&["apps"], &["v1"], &["deployments/scale", "*", "deployments", "nothings"])])), [deployment]);
        assert_eq!(kinds(json!([rule(&["*"], &["v1"], &["deployments"]), rule(&["apps"], &["*"], &["deployments"])])), [""; 0]);
        assert_eq!(kinds(json!([rule(&[""], &["v1"], &["events"])])), ["/v1, Kind=Event", "events.k8s.io/v1, Kind=Event"]);
        assert_eq!(kinds(Value::Null), [""; 0]);
    }

    #[test]
    fn only_so_many_kinds_are_looked_at() {
        let served: Vec<Resource> = (0..20).map(|i| resource("g", "v1", &format!("r{i}"), &format!("K{i}"))).collect();
        let names: Vec<String> = served.iter().map(|r| r.plural.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let policy = policy(json!({"matchConstraints": {"resourceRules": [rule(&["g"], &["v1"], &names)]}}));
        assert_eq!(Subject::of(&policy, &served).kinds().count(), MAX_KINDS);
    }

    #[test]
    fn what_does_not_fit_is_told_by_kind_and_field() {
        let served = [resource("apps", "v1", "deployments", "Deployment"), resource("apps", "v1", "replicasets", "ReplicaSet")];
        let spec = json!({"type": "object", "properties": {"replicas": {"type": "integer"}}});
        let schema = json!({"type": "object", "properties": {"spec": spec}});
        let schemas = BTreeMap::from([
            (kind("apps", "v1", "Deployment"), schema.clone()),
            (kind("apps", "v1", "ReplicaSet"), json!({"type": "object", "properties": {}})),
            (kind("g", "v1", "Limit"), json!({"type": "object", "properties": {"max": {"type": "integer"}}})),
        ]);
        let policy = policy(json!({
            "matchConstraints": {"resourceRules": [rule(&["apps"], &["v1"], &["deployments", "replicasets"])]},
            "paramKind": {"apiVersion": "g/v1", "kind": "Limit"},
            "variables": [{"name": "few", "expression": "object.spec.replicas < params.max"}],
            "validations": [
                {"expression": "variables.few", "messageExpression": "params.min"},
                {"expression": "object.spec.replicas > 1"},
                {"expression": "object.metadata.name == 'x' && namespaceObject.metadata.name != request.name"},
                {"expression": "authorizer.path('/x').check('get').allowed()"},
            ],
        }));
        let found = warnings(&policy, &Subject::of(&policy, &served), &schemas);
        let fields: Vec<&str> = found.iter().map(|warning| warning.field.as_str()).collect();
        assert_eq!(fields, ["spec.validations[0].messageExpression", "spec.validations[1].expression"]);
        let undefined = "ERROR: <input>:1:7: undefined field 'min'\n | params.min\n | ......^\n";
        assert_eq!(found[0].text, format!("apps/v1, Kind=Deployment: {undefined}\napps/v1, Kind=ReplicaSet: {undefined}"));
        assert_eq!(
            found[1].text,
            "apps/v1, Kind=ReplicaSet: ERROR: <input>:1:7: undefined field 'spec'\n | object.spec.replicas > 1\n | ......^\n"
        );
    }

    #[test]
    fn without_a_schema_nothing_is_said() {
        let served = [resource("apps", "v1", "deployments", "Deployment")];
        let policy = policy(json!({
            "matchConstraints": {"resourceRules": [rule(&["apps"], &["v1"], &["deployments"])]},
            "validations": [{"expression": "object.nothing"}],
        }));
        assert_eq!(warnings(&policy, &Subject::of(&policy, &served), &BTreeMap::new()), []);
    }
}
