//! Reviews: questions about users and permissions, posted and answered at once.

pub mod attributes;
pub mod authentication;
pub mod authorization;

use apimachinery::status::Status;
use serde_json::{Map, Value, json};

use super::Call;
use super::posted::{self, Kind, Posted};
use crate::filters::authentication::User;

/// Reads a review and checks it by its kind's strategy. Errors name no kind, as upstream's do not.
async fn read(call: &mut Call) -> Result<Posted, Status> {
    let kind = Kind::of(call)?;
    let posted = posted::read(call, kind).await?;
    let errors = call.resource.strategy.validate(&call.cx(), &posted.object);
    if errors.is_empty() { Ok(posted) } else { Err(Status::invalid(call.resource.group(), "", "", &errors)) }
}

/// authentication.k8s.io UserInfo.
fn user_info(user: &User) -> Value {
    let extra: Map<String, Value> = user.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
    json!({ "username": user.name, "uid": user.uid, "groups": user.groups, "extra": extra })
}
