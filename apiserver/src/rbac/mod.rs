//! Role based access control: who may do what, by roles and bindings.
//!
//! [`rule`], [`index`] and [`policy`] are pure; [`follow`] keeps the index in step with the watch cache,
//! [`bootstrap`] makes the roles that every cluster has, [`escalation`] is the admission step that keeps users from
//! granting what they do not have. Nothing here authenticates anyone.

pub mod bootstrap;
pub mod escalation;
pub mod follow;
pub mod index;
pub mod policy;
pub mod rule;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::filters::authentication::User;
use crate::filters::authorization::{Authorizer, Decision, Rules, aggregate_errors};
use crate::filters::request_info::RequestInfo;
use index::Index;

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The authorizer over the roles and bindings of now.
#[derive(Clone, Default)]
pub struct Rbac {
    index: Arc<ArcSwap<Index>>,
}

impl Rbac {
    /// Over these roles and bindings, for as long as nothing follows others.
    pub fn of(index: Index) -> Rbac {
        Rbac { index: Arc::new(ArcSwap::from_pointee(index)) }
    }

    /// The roles and bindings as they are; does not change in the hands of the caller.
    pub fn index(&self) -> Arc<Index> {
        self.index.load_full()
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        let mut allowed = None;
        let mut errors = Vec::new();
        self.index.load().visit(user, &request.namespace, |found| {
            match found {
                Ok((source, rule)) if rule.allows(request) => allowed = Some(format!("RBAC: allowed by {}", source.told())),
                Ok(_) => {}
                Err(missing) => errors.push(missing.to_string()),
            }
            allowed.is_none()
        });
        match allowed {
            Some(reason) => Decision::Allow(reason),
            None if errors.is_empty() => Decision::NoOpinion(String::new()),
            None => Decision::NoOpinion(format!("RBAC: {}", aggregate_errors(&errors))),
        }
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let index = self.index.load();
        let (rules, missing) = index.rules(user, namespace);
        let errors = missing.iter().map(ToString::to_string).collect();
        Rules { rules: rules.into_iter().cloned().collect(), incomplete: false, errors }
    }
}
