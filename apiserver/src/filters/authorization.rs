//! May they? Asks the configured authorizers in order; the first opinion counts, and no opinion is a refusal.
//!
//! Most authorizers know at once. One that has to ask somebody else gives its [`Answer`] later; those who cannot wait for that block their
//! thread ([`Authorizer::authorize`]).

use apimachinery::field::quote;
use apimachinery::status::Status;
use futures::future::BoxFuture;

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
    /// Nobody could be asked. `is_final`: whoever comes later is not asked either.
    Failed {
        error: String,
        reason: String,
        is_final: bool,
    },
}

impl Decision {
    /// The reason of what is not allowed; for a failure, what failed.
    pub fn refusal(self) -> Option<String> {
        match self {
            Decision::Allow(_) => None,
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Some(reason),
            Decision::Failed { error, .. } => Some(error),
        }
    }
}

/// A decision, now or later.
pub enum Answer<'a> {
    Now(Decision),
    Later(BoxFuture<'a, Decision>),
}

impl Answer<'_> {
    pub async fn wait(self) -> Decision {
        match self {
            Answer::Now(decision) => decision,
            Answer::Later(decision) => decision.await,
        }
    }
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
    /// The decision; one that somebody else takes blocks the thread until it is there.
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision;

    /// The decision, for those who can wait.
    fn ask<'a>(&'a self, user: &'a User, request: &'a RequestInfo) -> Answer<'a> {
        Answer::Now(self.authorize(user, request))
    }

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

/// One of several authorizers.
pub struct Member {
    /// Under which its reasons are told.
    pub name: String,
    pub authorizer: Box<dyn Authorizer>,
    /// Whether it may have to ask somebody else.
    pub asks_others: bool,
}

impl Member {
    /// One that knows at once.
    pub fn local(name: &str, authorizer: impl Authorizer + 'static) -> Member {
        Member { name: name.to_owned(), authorizer: Box::new(authorizer), asks_others: false }
    }
}

/// Several authorizers as one.
pub struct Union(pub Vec<Member>);

impl Union {
    /// Whether one of them may have to ask somebody else.
    pub fn asks_others(&self) -> bool {
        self.0.iter().any(|member| member.asks_others)
    }
}

/// What the members that had no opinion said.
#[derive(Default)]
struct Undecided {
    reasons: Vec<String>,
    errors: Vec<String>,
}

impl Undecided {
    /// Counts a member's decision; gives it back if it settles the matter.
    fn settle(&mut self, name: &str, decision: Decision) -> Option<Decision> {
        let mut tell = |reason: String| {
            if !reason.is_empty() {
                self.reasons.push(format!("{name}: {reason}"));
            }
        };
        match decision {
            Decision::NoOpinion(reason) => tell(reason),
            Decision::Failed { error, reason, is_final: false } => {
                tell(reason);
                self.errors.push(error);
            }
            decided => return Some(decided),
        }
        None
    }

    fn decision(self) -> Decision {
        let reason = self.reasons.join("\n");
        if self.errors.is_empty() {
            return Decision::NoOpinion(reason);
        }
        Decision::Failed { error: aggregate_errors(&self.errors), reason, is_final: false }
    }
}

impl Authorizer for Union {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        let mut undecided = Undecided::default();
        for member in &self.0 {
            if let Some(decided) = undecided.settle(&member.name, member.authorizer.authorize(user, request)) {
                return decided;
            }
        }
        undecided.decision()
    }

    fn ask<'a>(&'a self, user: &'a User, request: &'a RequestInfo) -> Answer<'a> {
        if !self.asks_others() {
            return Answer::Now(self.authorize(user, request));
        }
        Answer::Later(Box::pin(async move {
            let mut undecided = Undecided::default();
            for member in &self.0 {
                let decision = member.authorizer.ask(user, request).wait().await;
                if let Some(decided) = undecided.settle(&member.name, decision) {
                    return decided;
                }
            }
            undecided.decision()
        }))
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let mut all = Rules::default();
        for member in &self.0 {
            let more = member.authorizer.rules(user, namespace);
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
