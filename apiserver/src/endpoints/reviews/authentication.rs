//! "Who am I?" and "whose token is this?".

use apimachinery::status::Status;
use serde_json::{Value, json};

use super::super::{Answer, Call};
use super::{read, user_info};
use crate::registry::authentication::token_review::problem_of_request;
use crate::registry::read::{list_at, str_at};

/// POST selfsubjectreviews.
pub async fn self_subject_review(call: &mut Call) -> Answer {
    let mut posted = read(call).await?;
    // Nothing of what was sent comes back.
    posted.object["metadata"] = json!({ "creationTimestamp": apimachinery::time::format_time(call.request.now) });
    posted.object["status"] = json!({ "userInfo": user_info(&call.request.user) });
    posted.created(call)
}

/// POST tokenreviews.
pub async fn token_review(call: &mut Call) -> Answer {
    let mut posted = read(call).await?;
    if let Some(problem) = problem_of_request(&posted.object) {
        return Err(Status::bad_request(problem));
    }
    let audiences: Vec<String> = list_at(&posted.object, "/spec/audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let authenticator = &call.api.authenticator;
    let wanted = if audiences.is_empty() { authenticator.audiences() } else { &audiences };
    let verified = authenticator.token(str_at(&posted.object, "/spec/token"), Some(wanted)).await;
    // What is not told stands as it was sent.
    let mut status = posted.object["status"].as_object().cloned().unwrap_or_default();
    status.insert("authenticated".to_owned(), verified.is_ok().into());
    match verified {
        Ok(verified) => {
            status.insert("user".to_owned(), user_info(&verified.user));
            status.insert("audiences".to_owned(), json!(verified.audiences));
        }
        Err(error) => {
            status.entry("user").or_insert_with(|| json!({}));
            status.insert("error".to_owned(), error.into());
        }
    }
    posted.object["status"] = status.into();
    posted.created(call)
}
