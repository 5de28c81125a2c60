//! SelfSubjectRulesReviews: what may I do in a namespace?

use apimachinery::field::ErrorList;
use serde_json::Value;

use crate::registry::printer;
use crate::registry::read::str_at;
use crate::registry::{CREATE_ONLY, Cx, Definition, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    kind: "SelfSubjectRulesReview",
    scope: Scope::Cluster,
    verbs: CREATE_ONLY,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    name: |_, _| Vec::new(),
    strategy: &Review,
    subresources: &[],
    selectable: &[],
    printer: printer::DEFAULT,
    reset_fields: &[],
};

struct Review;

impl Strategy for Review {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, _new: &Value) -> ErrorList {
        ErrorList::new()
    }
}

/// Nothing is ever stored, so nothing is updated.
impl UpdateStrategy for Review {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, _new: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }
}

/// Why a review cannot be answered at all: a bad request, not an invalid object.
pub fn problem_of_request(review: &Value) -> Option<&'static str> {
    str_at(review, "/spec/namespace").is_empty().then_some("no namespace on request")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_those_of_a_namespace() {
        assert_eq!(problem_of_request(&json!({"spec": {"namespace": "n"}})), None);
        assert_eq!(problem_of_request(&json!({"spec": {}})), Some("no namespace on request"));
    }
}
