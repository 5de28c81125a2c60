//! May they? Asks the configured authorizers in order; the first opinion counts, and no opinion is a refusal.

use apimachinery::field::quote;
use apimachinery::status::Status;

use super::authentication::User;
use super::request_info::RequestInfo;
use crate::rbac::rule::Rule;

/// What one authorizer thinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    Deny(String),
    /// With the reasons that a refusal may quote.
    NoOpinion(String),
}

/// What a user may do, as far as an authorizer can list it.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub rules: Vec<Rule>,
    /// There may be more that cannot be listed.
    pub incomplete: bool,
    pub errors: Vec<String>,
}

/// One source of permissions.
pub trait Authorizer: Send + Sync {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision;

    /// What a user may do in a namespace.
    fn rules(&self, _user: &User, _namespace: &str) -> Rules {
        Rules::default()
    }
}

/// `system:masters` may do anything.
pub struct SystemMasters;

impl Authorizer for SystemMasters {
    fn authorize(&self, user: &User, _request: &RequestInfo) -> Decision {
        if user.in_group("system:masters") { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }
}

/// Everybody may do anything.
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize(&self, _user: &User, _request: &RequestInfo) -> Decision {
        Decision::Allow(String::new())
    }

    fn rules(&self, _user: &User, _namespace: &str) -> Rules {
        let all = || vec![Box::<str>::from("*")];
        let resources = Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() };
        let paths = Rule { verbs: all(), urls: all(), ..Rule::default() };
        Rules { rules: vec![resources, paths], ..Rules::default() }
    }
}

/// Nobody may do anything, as far as this authorizer is concerned.
pub struct AlwaysDeny;

impl Authorizer for AlwaysDeny {
    fn authorize(&self, _user: &User, _request: &RequestInfo) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".to_owned())
    }
}

/// Several authorizers as one, each with the name under which its reasons are told.
pub struct Union(pub Vec<(&'static str, Box<dyn Authorizer>)>);

impl Authorizer for Union {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        let mut reasons = Vec::new();
        for (name, authorizer) in &self.0 {
            match authorizer.authorize(user, request) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(format!("{name}: {reason}")),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let mut all = Rules::default();
        for (_, authorizer) in &self.0 {
            let more = authorizer.rules(user, namespace);
            all.rules.extend(more.rules);
            all.errors.extend(more.errors);
            all.incomplete |= more.incomplete;
        }
        all
    }
}

/// Several errors as one text: the error alone, or `[a, b]` of the distinct ones.
pub fn aggregate_errors(errors: &[String]) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for error in errors {
        if !distinct.contains(&error.as_str()) {
            distinct.push(error);
        }
    }
    match distinct.as_slice() {
        [one] => (*one).to_owned(),
        all => format!("[{}]", all.join(", ")),
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
    let resource =
        if request.subresource.is_empty() { request.resource.clone() } else { format!("{}/{}", request.resource, request.subresource) };
    let place = if request.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {}", quote(&request.namespace))
    };
    let why =
        format!("User {user} cannot {} resource {} in API group {} {place}{suffix}", request.verb, quote(&resource), quote(&request.group));
    Status::forbidden(&request.group, &request.resource, &request.name, &why)
}
