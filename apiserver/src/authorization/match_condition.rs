//! Which questions a webhook is asked: expressions over a SubjectAccessReviewSpec.

use std::sync::LazyLock;

use cel::{Activation, Budget, Env, Program, Type, Value};
use serde_json::{Value as Json, json};

static ENV: LazyLock<Env> = LazyLock::new(|| {
    const SPEC: &str = "kubernetes.SubjectAccessReviewSpec";
    const RESOURCE: &str = "kubernetes.ResourceAttributes";
    const PATH: &str = "kubernetes.NonResourceAttributes";
    const FIELDS: &str = "kubernetes.FieldSelectorAttributes";
    const LABELS: &str = "kubernetes.LabelSelectorAttributes";
    const REQUIREMENT: &str = "kubernetes.SelectorRequirement";
    let texts = || Type::list(Type::String);
    let selector = [("rawSelector", Type::String), ("requirements", Type::list(Type::object(REQUIREMENT)))];
    let mut resource: Vec<(&str, Type)> =
        ["namespace", "verb", "group", "version", "resource", "subresource", "name"].map(|field| (field, Type::String)).to_vec();
    resource.extend([("fieldSelector", Type::object(FIELDS)), ("labelSelector", Type::object(LABELS))]);
    let spec = [
        ("resourceAttributes", Type::object(RESOURCE)),
        ("nonResourceAttributes", Type::object(PATH)),
        ("user", Type::String),
        ("groups", texts()),
        ("extra", Type::map(Type::String, texts())),
        ("uid", Type::String),
    ];
    Env::for_stored()
        .with_object(REQUIREMENT, &[("key", Type::String), ("operator", Type::String), ("values", texts())])
        .with_object(FIELDS, &selector)
        .with_object(LABELS, &selector)
        .with_object(RESOURCE, &resource)
        .with_object(PATH, &[("path", Type::String), ("verb", Type::String)])
        .with_object(SPEC, &spec)
        .with_variable("request", Type::object(SPEC))
});

/// A compiled condition.
pub struct Condition {
    text: String,
    program: Program,
}

impl Condition {
    /// Compiles; the error is in upstream's words.
    pub fn compile(text: &str) -> Result<Condition, String> {
        let program = Program::compile(&ENV, text).map_err(|error| {
            let what = if error.is_instantiation() { "program instantiation" } else { "compilation" };
            format!("{what} failed: {error}")
        })?;
        let found = program.result_type().declared();
        if found != "bool" {
            return Err(format!("must evaluate to bool but got {found}"));
        }
        Ok(Condition { text: text.to_owned(), program })
    }
}

/// Whether all conditions hold for a review's spec. One that is false settles it, whatever is wrong with the others.
pub fn all_hold(conditions: &[Condition], spec: &Json) -> Result<bool, String> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let request = shown(spec);
    let mut errors = Vec::new();
    for condition in conditions {
        let activation = Activation::default().with("request", Value::json(&request));
        // One evaluation never costs more than its own limit.
        match condition.program.evaluate(&activation, &mut Budget::new(i64::MAX)) {
            Ok(value) => match value.as_bool() {
                Some(true) => {}
                Some(false) => return Ok(false),
                None => errors.push(format!("cel evaluation error: expression '{}' eval result type should be bool", condition.text)),
            },
            Err(error) => errors.push(format!("cel evaluation error: expression '{}' resulted in error: {error}", condition.text)),
        }
    }
    match errors.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// The spec with all its texts, those that are empty and therefore not written among them.
fn shown(spec: &Json) -> Json {
    let or = |value: Option<&Json>, default: Json| value.cloned().unwrap_or(default);
    let mut request = json!({
        "user": or(spec.get("user"), json!("")),
        "groups": or(spec.get("groups"), json!([])),
        "uid": or(spec.get("uid"), json!("")),
        "extra": or(spec.get("extra"), json!({})),
    });
    let filled = |attributes: &Json, fields: &[&str]| {
        let mut all = attributes.clone();
        for field in fields {
            if all.get(*field).is_none() {
                all[*field] = json!("");
            }
        }
        all
    };
    if let Some(attributes) = spec.get("resourceAttributes") {
        request["resourceAttributes"] = filled(attributes, &["namespace", "verb", "group", "version", "resource", "subresource", "name"]);
    }
    if let Some(attributes) = spec.get("nonResourceAttributes") {
        request["nonResourceAttributes"] = filled(attributes, &["path", "verb"]);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(conditions: &[&str], spec: &Json) -> Result<bool, String> {
        let compiled: Vec<Condition> = conditions.iter().map(|text| Condition::compile(text).unwrap()).collect();
        all_hold(&compiled, spec)
    }

    #[test]
    fn conditions_look_at_the_question() {
        let pods = json!({ "user": "ann", "groups": ["dev"], "resourceAttributes": {
            "verb": "list", "resource": "pods", "fieldSelector": { "requirements": [{ "key": "a", "operator": "In", "values": ["b"] }] } } });
        for (conditions, expect) in [
            (vec!["has(request.resourceAttributes)", "request.resourceAttributes.namespace == ''"], Ok(true)),
            (vec!["!('system:nodes' in request.groups)", "request.user == 'bob'"], Ok(false)),
            (vec!["request.resourceAttributes.fieldSelector.requirements.exists(r, r.key == 'a')"], Ok(true)),
            (vec!["has(request.nonResourceAttributes)"], Ok(false)),
            (vec!["request.nonResourceAttributes.path == '/x'", "request.user == 'bob'"], Ok(false)),
            (
                vec!["request.nonResourceAttributes.path == '/x'"],
                Err("cel evaluation error: expression 'request.nonResourceAttributes.path == '/x'' resulted in error: no such key: nonResourceAttributes".to_owned()),
            ),
        ] {
            assert_eq!(judge(&conditions, &pods), expect, "{conditions:?}");
        }
        assert!(Condition::compile("request.moon").err().unwrap().contains("undefined field 'moon'"));
    }
}
