//! SubjectAccessReviews: may they do that?

use apimachinery::field::ErrorList;
use serde_json::Value;

use super::rules;
use crate::registry::printer;
use crate::registry::{CREATE_ONLY, Cx, Definition, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    kind: "SubjectAccessReview",
    scope: Scope::Cluster,
    verbs: CREATE_ONLY,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.authorization.v1.SubjectAccessReview",
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

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        rules::validate(new, rules::Kind::Subject)
    }
}

/// Nothing is ever stored, so nothing is updated.
impl UpdateStrategy for Review {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        rules::validate(new, rules::Kind::Subject)
    }
}
