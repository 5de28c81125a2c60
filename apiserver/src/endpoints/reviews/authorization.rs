//! "May I?", "may they?" and "what may I?".

use apimachinery::status::Status;
use serde_json::{Map, Value, json};

use super::super::{Answer, Call};
use super::attributes::{self, Question};
use super::read;
use crate::filters::authentication::User;
use crate::filters::authorization::{Decision, aggregate_errors};
use crate::registry::authorization::self_subject_rules_review::problem_of_request;
use crate::registry::read::{at, list_at, str_at};

/// POST subjectaccessreviews, localsubjectaccessreviews, selfsubjectaccessreviews.
pub async fn access_review(call: &mut Call) -> Answer {
    let mut posted = read(call).await?;
    let spec = at(&posted.object, "/spec");
    let user = if &*call.resource.plural == "selfsubjectaccessreviews" { call.request.user.clone() } else { user_of(spec) };
    let Question { request, mut problems } = attributes::question(spec);
    let (allowed, denied, reason) = match call.api.authorizer.ask(&user, &request).wait().await {
        Decision::Allow(reason) => (true, false, reason),
        Decision::Deny(reason) => (false, true, reason),
        Decision::NoOpinion(reason) => (false, false, reason),
        Decision::Failed { error, reason, is_final } => {
            problems.push(error);
            (false, is_final, reason)
        }
    };
    posted.object["status"] = json!({ "allowed": allowed, "denied": denied, "reason": reason, "evaluationError": problems.join("; ") });
    posted.created(call)
}

/// The user that a review's spec describes.
fn user_of(spec: &Value) -> User {
    let texts = |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let mut extra: Vec<(String, Vec<String>)> =
        at(spec, "/extra").as_object().into_iter().flatten().map(|(key, values)| (key.clone(), texts(values))).collect();
    extra.sort_unstable();
    User {
        name: str_at(spec, "/user").to_owned(),
        uid: str_at(spec, "/uid").to_owned(),
        groups: list_at(spec, "/groups").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        extra,
    }
}

/// POST selfsubjectrulesreviews.
pub async fn rules_review(call: &mut Call) -> Answer {
    let mut posted = read(call).await?;
    if let Some(problem) = problem_of_request(&posted.object) {
        return Err(Status::bad_request(problem));
    }
    let found = call.api.authorizer.rules(&call.request.user, str_at(&posted.object, "/spec/namespace"));
    let (mut resource_rules, mut path_rules) = (Vec::new(), Vec::new());
    for rule in &found.rules {
        if !rule.resources.is_empty() {
            let mut shown = json!({ "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources });
            if !rule.resource_names.is_empty() {
                shown["resourceNames"] = json!(rule.resource_names);
            }
            resource_rules.push(shown);
        }
        if !rule.urls.is_empty() {
            path_rules.push(json!({ "verbs": rule.verbs, "nonResourceURLs": rule.urls }));
        }
    }
    let mut status = Map::new();
    status.insert("resourceRules".to_owned(), json!(resource_rules));
    status.insert("nonResourceRules".to_owned(), json!(path_rules));
    status.insert("incomplete".to_owned(), json!(found.incomplete));
    if !found.errors.is_empty() {
        status.insert("evaluationError".to_owned(), json!(aggregate_errors(&found.errors)));
    }
    // Nothing of what was sent comes back.
    posted.object["metadata"] = json!({});
    posted.object["spec"] = json!({});
    posted.object["status"] = Value::Object(status);
    posted.created(call)
}
