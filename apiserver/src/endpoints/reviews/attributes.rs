//! What an access review asks about, as a request that authorizers can judge. Pure.

use apimachinery::field::Path;
use apimachinery::selector::field::{Selector as FieldSelector, Term};
use apimachinery::selector::label::{Operator, Requirement, Selector as LabelSelector};
use apimachinery::validation::{LabelSelectorOptions, validate_label_selector_requirement};
use apimachinery::view::view;
use serde_json::Value;

use crate::filters::request_info::RequestInfo;
use crate::registry::read::{at, list_at, str_at};

/// A question, and what of it could not be understood.
pub struct Question {
    pub request: RequestInfo,
    pub problems: Vec<String>,
}

/// The question of a review's spec.
pub fn question(spec: &Value) -> Question {
    let resource = at(spec, "/resourceAttributes");
    if resource.is_null() {
        let path = str_at(spec, "/nonResourceAttributes/path").to_owned();
        let request = RequestInfo { path, verb: str_at(spec, "/nonResourceAttributes/verb").to_owned(), ..RequestInfo::default() };
        return Question { request, problems: Vec::new() };
    }
    let text = |field: &str| str_at(resource, field).to_owned();
    let version = text("/version");
    let mut problems = Vec::new();
    let field_selector = match field_terms(at(resource, "/fieldSelector")) {
        Ok(terms) => terms,
        Err(terms) => {
            problems.push(ignored("fieldSelector", !terms.is_empty()));
            terms
        }
    };
    let label_selector = label_requirements(at(resource, "/labelSelector"));
    if let Some(some_understood) = label_problem(at(resource, "/labelSelector")) {
        problems.push(ignored("labelSelector", some_understood));
    }
    let request = RequestInfo {
        is_resource: true,
        verb: text("/verb"),
        group: text("/group"),
        version: if version.is_empty() { "*".to_owned() } else { version },
        namespace: text("/namespace"),
        resource: text("/resource"),
        subresource: text("/subresource"),
        name: text("/name"),
        field_selector,
        label_selector,
        ..RequestInfo::default()
    };
    Question { request, problems }
}

fn ignored(what: &str, partially: bool) -> String {
    let how = if partially { "partially ignored" } else { "ignored" };
    format!("spec.resourceAttributes.{what} {how} due to parse error")
}

/// The terms of a field selector; as an error those that were understood. Dropping a term only widens the question.
fn field_terms(selector: &Value) -> Result<Vec<Term>, Vec<Term>> {
    let requirements = list_at(selector, "/requirements");
    if requirements.is_empty() {
        let raw = str_at(selector, "/rawSelector");
        return if raw.is_empty() { Ok(Vec::new()) } else { FieldSelector::parse(raw).map(|s| s.terms().to_vec()).map_err(|_| Vec::new()) };
    }
    let term = |requirement: &Value| {
        let negated = match str_at(requirement, "/operator") {
            "In" => false,
            "NotIn" => true,
            _ => return None,
        };
        let [value] = list_at(requirement, "/values") else { return None };
        Some(Term { field: str_at(requirement, "/key").to_owned(), value: value.as_str()?.to_owned(), negated })
    };
    let terms: Vec<Term> = requirements.iter().filter_map(term).collect();
    if terms.len() == requirements.len() { Ok(terms) } else { Err(terms) }
}

/// What of a label selector was understood. Dropping a requirement only widens the question.
fn label_requirements(selector: &Value) -> Vec<Requirement> {
    let requirements = list_at(selector, "/requirements");
    if requirements.is_empty() {
        return LabelSelector::parse(str_at(selector, "/rawSelector")).map(|s| s.requirements().to_vec()).unwrap_or_default();
    }
    let requirement = |requirement: &Value| {
        let operator = match str_at(requirement, "/operator") {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return None,
        };
        let values = list_at(requirement, "/values").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Requirement::new(str_at(requirement, "/key").to_owned(), operator, values).ok()
    };
    requirements.iter().filter_map(requirement).collect()
}

/// Whether something of a label selector was not understood, and if so, whether something else was.
fn label_problem(selector: &Value) -> Option<bool> {
    const STRICT: LabelSelectorOptions =
        LabelSelectorOptions { allow_invalid_label_value_in_selector: false, allow_unknown_operator_in_requirement: false };
    let requirements = list_at(selector, "/requirements");
    if requirements.is_empty() {
        return LabelSelector::parse(str_at(selector, "/rawSelector")).is_err().then_some(false);
    }
    let understood = requirements.iter().filter(|r| validate_label_selector_requirement(&view(r), STRICT, &Path::ROOT).is_empty()).count();
    (understood < requirements.len()).then_some(understood > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_keeps_what_it_understands_of_selectors() {
        let ask = |field: Value, label: Value| {
            question(
                &json!({ "resourceAttributes": { "verb": "list", "resource": "pods", "fieldSelector": field, "labelSelector": label } }),
            )
        };
        let known = json!({ "key": "spec.nodeName", "operator": "In", "values": ["n"] });
        let strange = json!({ "key": "a", "operator": "Nope" });
        let both = ask(json!({ "requirements": [known, strange] }), json!({ "requirements": [strange] }));
        assert_eq!(both.request.field_selector, FieldSelector::equals("spec.nodeName", "n").terms());
        assert_eq!(
            both.problems,
            [
                "spec.resourceAttributes.fieldSelector partially ignored due to parse error",
                "spec.resourceAttributes.labelSelector ignored due to parse error"
            ]
        );
        let raw = ask(json!({ "rawSelector": "a=b" }), json!({ "rawSelector": "a in (b)" }));
        assert_eq!((raw.request.field_selector.len(), raw.problems.len()), (1, 0));
        assert_eq!(ask(Value::Null, Value::Null).request.version, "*");
    }
}
