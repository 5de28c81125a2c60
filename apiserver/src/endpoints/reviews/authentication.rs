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
    posted.object["status"] = match authenticator.token(str_at(&posted.object, "/spec/token"), Some(wanted)).await {
        Ok(verified) => json!({ "authenticated": true, "user": user_info(&verified.user), "audiences": verified.audiences }),
        Err(error) => json!({ "user": {}, "error": error }),
    };
    posted.created(call)
}
