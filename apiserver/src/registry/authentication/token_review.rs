//! TokenReviews: whose token is this?

use apimachinery::field::ErrorList;
use serde_json::Value;

use crate::registry::printer;
use crate::registry::read::str_at;
use crate::registry::{CREATE_ONLY, Cx, Definition, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "tokenreviews",
    singular: "tokenreview",
    kind: "TokenReview",
    scope: Scope::Cluster,
    verbs: CREATE_ONLY,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.authentication.v1.TokenReview",
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
    str_at(review, "/spec/token").is_empty().then_some("token is required for TokenReview in authentication")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn there_is_a_token_to_review() {
        assert_eq!(problem_of_request(&json!({"spec": {"token": "t"}})), None);
        assert_eq!(problem_of_request(&json!({})), Some("token is required for TokenReview in authentication"));
    }
}
