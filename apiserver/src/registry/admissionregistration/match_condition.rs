//! Match conditions of webhooks and policies.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::is_qualified_name;
use k8s_openapi::api::admissionregistration::v1::MatchCondition;

use crate::expressions::Expression;

const MAX: usize = 64;

/// What the conditions of webhooks may use; those of policies may use parameters too.
pub const VARIABLES: [&str; 4] = ["object", "oldObject", "request", "authorizer"];

/// Each has a name of its own and an expression, which may use these variables.
pub fn validate_match_conditions(conditions: &[MatchCondition], variables: &[&str], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if conditions.len() > MAX {
        errors.push(Error::too_many(path, conditions.len(), MAX));
    }
    let mut seen: Vec<&str> = Vec::with_capacity(conditions.len().min(MAX));
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        let (name, name_path) = (condition.name.as_str(), path.child("name"));
        if condition.expression.trim().is_empty() {
            errors.push(Error::required(&path.child("expression"), ""));
        } else if let Err(why) = Expression::compile(condition.expression.trim(), variables, &["bool"]) {
            errors.push(Error::invalid(&path.child("expression"), condition.expression.as_str(), why));
        }
        if name.is_empty() {
            errors.push(Error::required(&name_path, ""));
            continue;
        }
        errors.extend(is_qualified_name(name).into_iter().map(|message| Error::invalid(&name_path, name, message)));
        if seen.contains(&name) {
            errors.push(Error::duplicate(&name_path, name));
        } else {
            seen.push(name);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_have_names_of_their_own() {
        let conditions: Vec<MatchCondition> =
            view(&json!([{"name": "a", "expression": "true"}, {"name": "a", "expression": " "}, {"expression": "true"}]));
        let errors: Vec<String> =
            validate_match_conditions(&conditions, &VARIABLES, &Path::new("m")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, ["m[1].expression: Required value", "m[1].name: Duplicate value: \"a\"", "m[2].name: Required value"]);
    }
}
