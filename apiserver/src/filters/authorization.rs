//! May they? Asks the configured authorizers in order; the first opinion counts, and no opinion is a refusal.

use apimachinery::field::quote;
use apimachinery::status::Status;

use super::authentication::User;
use super::request_info::RequestInfo;

/// What one authorizer thinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    Deny(String),
    /// With the reasons that a refusal may quote.
    NoOpinion(String),
}

/// One source of permissions.
pub trait Authorizer: Send + Sync {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision;
}

/// `system:masters` may do anything.
pub struct SystemMasters;

impl Authorizer for SystemMasters {
    fn authorize(&self, user: &User, _request: &RequestInfo) -> Decision {
        if user.in_group("system:masters") { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }
}

/// Several authorizers as one.
pub struct Union(pub Vec<Box<dyn Authorizer>>);

impl Authorizer for Union {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(user, request) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}

/// The 403 for a request that was not allowed, in the API's words.
pub fn forbidden(user: &User, request: &RequestInfo, reason: &str) -> Status {
    let user = quote(&user.name);
    let suffix = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !request.is_resource {
        let why = format!("User {user} cannot {} path {}{suffix}", request.verb, quote(&request.path));
        return Status::forbidden("", "", "", &why);
    }
    let resource = if request.subresource.is_empty() { request.resource.clone() } else { format!("{}/{}", request.resource, request.subresource) };
    let place =
        if request.namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace {}", quote(&request.namespace)) };
    let why =
        format!("User {user} cannot {} resource {} in API group {} {place}{suffix}", request.verb, quote(&resource), quote(&request.group));
    Status::forbidden(&request.group, &request.resource, &request.name, &why)
}
