//! What is written as webhooks and policies are shown it: in the version that each of them wants, made once for all that want the same.

use std::sync::Arc;

use apimachinery::status::Status;
use cel::AccessRequest;
use serde_json::Value;

use super::matching::{Invocation, Subject};
use super::webhook::{in_request_version, request_told, shown_as};
use super::{Attributes, Cluster};
use crate::catalog::Resource;
use crate::expressions::{Permissions, Variables};

/// A write in the versions that were asked for.
pub struct Shown<'a> {
    subject: &'a Subject<'a>,
    cluster: &'a dyn Cluster,
    new: Option<&'a Value>,
    old: Option<&'a Value>,
    /// In the version of the request.
    requested: Option<Pair>,
    permissions: Option<Arc<Permissions>>,
    around: Vec<(Option<Arc<Resource>>, Variables)>,
    told: Vec<(Option<Arc<Resource>>, Variables)>,
}

/// What was made for this version, which is the request's own if it is none other.
fn made_for(made: &[(Option<Arc<Resource>>, Variables)], wanted: Option<&Arc<Resource>>) -> Option<Variables> {
    let is_wanted = |other: &Option<Arc<Resource>>| match (other, wanted) {
        (Some(other), Some(wanted)) => Arc::ptr_eq(other, wanted),
        (other, wanted) => other.is_none() && wanted.is_none(),
    };
    made.iter().find(|(other, _)| is_wanted(other)).map(|(_, variables)| variables.clone())
}

/// The object and what it was before.
#[derive(Clone)]
struct Pair {
    new: Option<Arc<Value>>,
    old: Option<Arc<Value>>,
}

/// The sender's permissions, for expressions to ask about.
pub fn permissions(attributes: &Attributes<'_>, cluster: &dyn Cluster) -> Arc<Permissions> {
    let resource = AccessRequest {
        group: attributes.group().to_owned(),
        resource: attributes.plural().to_owned(),
        subresource: attributes.subresource.to_owned(),
        namespace: attributes.namespace.to_owned(),
        name: attributes.name.to_owned(),
        ..AccessRequest::default()
    };
    Arc::new(Permissions { authorizer: cluster.authorizer(), user: attributes.user.clone(), resource })
}

impl<'a> Shown<'a> {
    /// The objects are as they are in memory.
    pub fn new(subject: &'a Subject<'a>, cluster: &'a dyn Cluster, new: Option<&'a Value>, old: Option<&'a Value>) -> Shown<'a> {
        Shown { subject, cluster, new, old, requested: None, permissions: None, around: Vec::new(), told: Vec::new() }
    }

    /// What expressions are told of the request, but for objects and parameters.
    pub fn around(&mut self, invocation: &Invocation) -> Variables {
        if let Some(around) = made_for(&self.around, invocation.other.as_ref()) {
            return around;
        }
        let attributes = self.subject.attributes;
        let permissions = self.permissions.get_or_insert_with(|| permissions(attributes, self.cluster)).clone();
        let around = Variables::default()
            .with("request", request_told(attributes, invocation))
            .with("namespaceObject", self.subject.namespace_object())
            .permit(permissions);
        self.around.push((invocation.other.clone(), around.clone()));
        around
    }

    /// What expressions are told, but for parameters.
    pub async fn told(&mut self, invocation: &Invocation) -> Result<Variables, Status> {
        let wanted = invocation.other.as_ref();
        if let Some(told) = made_for(&self.told, wanted) {
            return Ok(told);
        }
        let attributes = self.subject.attributes;
        let (new, old) = (self.new, self.old);
        let in_version = |object: &Value| Arc::new(in_request_version(attributes, object.clone()));
        let mut pair = self.requested.get_or_insert_with(|| Pair { new: new.map(in_version), old: old.map(in_version) }).clone();
        if wanted.is_some() {
            for object in [&mut pair.new, &mut pair.old].into_iter().flatten() {
                *object = Arc::new(shown_as(self.cluster, attributes, invocation, object).await?);
            }
        }
        let around = self.around(invocation);
        let told = around.with("object", pair.new.unwrap_or_default()).with("oldObject", pair.old.unwrap_or_default());
        self.told.push((invocation.other.clone(), told.clone()));
        Ok(told)
    }
}
