//! What an expression may ask about permissions. Who answers is up to the caller.

use std::sync::Arc;

/// Answers whether a user may do something.
pub trait Authorizer: Send + Sync {
    /// The decision on a request of the user that the authorizer stands for, or of a service account.
    fn authorize(&self, request: &AccessRequest) -> AccessDecision;
}

/// What an expression asks about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRequest {
    /// Namespace and name of the service account that is asked for instead of the requesting user.
    pub service_account: Option<(String, String)>,
    pub verb: String,
    /// Of a request that is for no resource.
    pub path: Option<String>,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// As the expression has them, not parsed.
    pub field_selector: String,
    pub label_selector: String,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessDecision {
    pub allowed: bool,
    pub reason: String,
    /// What went wrong while deciding.
    pub error: Option<String>,
}

/// A step on the way from `authorizer` to a decision.
pub struct AuthorizerValue<'a> {
    pub(crate) authorizer: &'a dyn Authorizer,
    pub(crate) step: Step,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Authorizer(AccessRequest),
    Path(AccessRequest),
    Group(AccessRequest),
    Resource(AccessRequest),
    Decision(AccessDecision),
}

impl<'a> AuthorizerValue<'a> {
    /// The variable `authorizer`.
    pub fn root(authorizer: &'a dyn Authorizer) -> AuthorizerValue<'a> {
        AuthorizerValue { authorizer, step: Step::Authorizer(AccessRequest::default()) }
    }

    /// The variable `authorizer.requestResource`, which asks about the resource of the request in hand.
    pub fn request_resource(authorizer: &'a dyn Authorizer, resource: AccessRequest) -> AuthorizerValue<'a> {
        AuthorizerValue { authorizer, step: Step::Resource(resource) }
    }

    pub(crate) fn next(&self, step: Step) -> Arc<AuthorizerValue<'a>> {
        Arc::new(AuthorizerValue { authorizer: self.authorizer, step })
    }

    pub(crate) fn type_name(&self) -> &'static str {
        match self.step {
            Step::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Step::Path(_) => "kubernetes.authorization.PathCheck",
            Step::Group(_) => "kubernetes.authorization.GroupCheck",
            Step::Resource(_) => "kubernetes.authorization.ResourceCheck",
            Step::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}
