//! SelfSubjectReviews: who am I?

use apimachinery::field::ErrorList;
use serde_json::Value;

use crate::registry::printer;
use crate::registry::{CREATE_ONLY, Cx, Definition, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    kind: "SelfSubjectReview",
    scope: Scope::Cluster,
    verbs: CREATE_ONLY,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.authentication.v1.SelfSubjectReview",
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
