//! `authorizer`: what the sender of a request, or a service account, may do, asked by an expression.

use std::sync::Arc;

use cel::{AccessDecision, AccessRequest};

use crate::filters::authentication::User;
use crate::filters::authorization::{Authorizer, Decision};
use crate::filters::request_info::RequestInfo;

/// Answers for one request.
pub struct Permissions {
    pub authorizer: Arc<dyn Authorizer>,
    pub user: User,
    /// What the request is about: `authorizer.requestResource`.
    pub resource: AccessRequest,
}

impl cel::Authorizer for Permissions {
    fn authorize(&self, request: &AccessRequest) -> AccessDecision {
        let info = RequestInfo {
            is_resource: request.path.is_none(),
            path: request.path.clone().unwrap_or_default(),
            verb: request.verb.clone(),
            group: request.group.clone(),
            version: "*".to_owned(),
            namespace: request.namespace.clone(),
            resource: request.resource.clone(),
            subresource: request.subresource.clone(),
            name: request.name.clone(),
            ..RequestInfo::default()
        };
        let decision = match &request.service_account {
            None => self.authorizer.authorize(&self.user, &info),
            Some((namespace, name)) => self.authorizer.authorize(&service_account(namespace, name), &info),
        };
        match decision {
            Decision::Allow(reason) => AccessDecision { allowed: true, reason, error: None },
            Decision::Deny(reason) | Decision::NoOpinion(reason) => AccessDecision { allowed: false, reason, error: None },
            Decision::Failed { error, reason, .. } => AccessDecision { allowed: false, reason, error: Some(error) },
        }
    }
}

fn service_account(namespace: &str, name: &str) -> User {
    User {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
        ..User::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expressions::{Expression, Outcome, Variables};

    /// Alice may get pods in `a`; the service account `a/s` may read /healthz.
    struct Few;

    impl Authorizer for Few {
        fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
            let pods = user.name == "alice" && request.is_resource && request.resource == "pods" && request.namespace == "a";
            let health = user.name == "system:serviceaccount:a:s" && !request.is_resource && request.path == "/healthz";
            if (pods || health) && request.verb == "get" {
                Decision::Allow("told so".to_owned())
            } else {
                Decision::NoOpinion(String::new())
            }
        }
    }

    #[test]
    fn an_expression_asks_for_the_sender_and_for_service_accounts() {
        let user = User { name: "alice".to_owned(), ..User::default() };
        let resource = AccessRequest { resource: "pods".to_owned(), namespace: "b".to_owned(), ..AccessRequest::default() };
        let variables = Variables::default().permit(Arc::new(Permissions { authorizer: Arc::new(Few), user, resource }));
        let evaluated = |text: &str| Expression::in_force(text).unwrap().evaluate(&variables);
        for (text, expected) in [
            ("authorizer.group('').resource('pods').namespace('a').check('get').allowed()", true),
            ("authorizer.group('').resource('pods').namespace('a').check('list').allowed()", false),
            ("authorizer.group('').resource('pods').namespace('a').check('get').reason() == 'told so'", true),
            ("authorizer.requestResource.check('get').allowed()", false),
            ("authorizer.path('/healthz').check('get').allowed()", false),
            ("authorizer.serviceAccount('a', 's').path('/healthz').check('get').allowed()", true),
        ] {
            assert_eq!(evaluated(text), Ok(Outcome::Bool(expected)), "{text}");
        }
    }
}
