//! What nodes may do: a node reads what its pods need, and writes what is its own.
//!
//! [`rules`] decides, [`graph`] knows which object belongs to which node, [`follow`] keeps the graph in step with the watch
//! cache. What a node may *write into* an object is the NodeRestriction admission plugin's business.

pub mod follow;
pub mod graph;
pub mod references;
pub mod rules;

use std::sync::Arc;

use parking_lot::RwLock;

use crate::filters::authentication::User;
use crate::filters::authorization::{Authorizer, Decision, Rules};
use crate::filters::request_info::RequestInfo;
use crate::rbac::policy;
use crate::rbac::rule::Rule;
use graph::Graph;

/// The authorizer over the graph of now.
#[derive(Clone)]
pub struct NodeAuthorizer {
    graph: Arc<RwLock<Graph>>,
    /// What every node may do, whatever runs on it.
    rules: Arc<[Rule]>,
}

impl Default for NodeAuthorizer {
    fn default() -> NodeAuthorizer {
        NodeAuthorizer { graph: Arc::default(), rules: policy::cluster_role_rules("system:node").into() }
    }
}

/// The node that a user is: `Some("")` for a node whose name is not told, `None` for everybody else.
pub fn identity(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    user.in_group("system:nodes").then_some(name)
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        let Some(node) = identity(user) else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user {}", apimachinery::field::quote(&user.name)));
        }
        let verdict = match rules::judge(node, request, &self.graph.read()) {
            Some(verdict) => verdict,
            None if self.rules.iter().any(|rule| rule.allows(request)) => Ok(()),
            None => Err(String::new()),
        };
        match verdict {
            Ok(()) => Decision::Allow(String::new()),
            Err(reason) => Decision::NoOpinion(reason),
        }
    }

    fn rules(&self, user: &User, _namespace: &str) -> Rules {
        if identity(user).is_none() {
            return Rules::default();
        }
        Rules { incomplete: true, errors: vec!["node authorizer does not support user rule resolution".to_owned()], ..Rules::default() }
    }
}
