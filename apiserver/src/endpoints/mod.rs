//! One file a verb: what happens between an authorized request and its response.
//!
//! Endpoints speak to clients in the forms that [`negotiate`] allows, to storage in the storage version, and leave everything
//! that is particular about a kind to its strategy.

pub mod body;
pub mod connect;
pub mod convert;
pub mod create;
pub mod delete;
pub mod delete_collection;
pub mod deletion;
pub mod dispatch;
pub mod get;
pub mod list;
pub mod meta;
pub mod negotiate;
pub mod nonresource;
pub mod options;
pub mod patch;
pub mod posted;
pub mod present;
pub mod respond;
pub mod reviews;
pub mod scale;
pub mod select;
pub mod subresources;
pub mod token_request;
pub mod update;
pub mod versions;
pub mod watch;
pub mod write;

use std::sync::Arc;

use apimachinery::status::Status;
use axum::body::Body;
use http::Response;

use crate::api::Api;
use crate::catalog::{Resource, Subresource};
use crate::filters::Authorized;

/// What an endpoint gives back: a response, or a Status that the caller writes in the request's form.
pub type Answer = Result<Response<Body>, Status>;

/// A request to a resource (or one of its subresources), ready for a verb.
pub struct Call {
    pub api: Arc<Api>,
    pub request: Authorized,
    pub resource: Arc<Resource>,
    /// Every served version of the resource.
    pub siblings: Vec<Arc<Resource>>,
    pub query: options::Query,
    pub warnings: Vec<String>,
}

impl Call {
    /// The namespace of the request; empty for cluster-scoped kinds and reads across namespaces.
    pub fn namespace(&self) -> &str {
        if self.resource.namespaced { &self.request.info.namespace } else { "" }
    }

    pub fn name(&self) -> &str {
        &self.request.info.name
    }

    /// The subresource that the path names, if the resource has it.
    pub fn subresource(&self) -> Option<&Subresource> {
        self.resource.subresources.get(&*self.request.info.subresource)
    }

    /// What the resource has of an offer: custom objects are no protobuf, and the status of some groups' kinds is no table.
    pub fn offer(&self, offer: negotiate::Offer) -> negotiate::Offer {
        let without = matches!(self.resource.group(), "apiextensions.k8s.io" | "apiregistration.k8s.io" | "resource.k8s.io");
        let tables = offer.tables && !(without && self.request.info.subresource == "status");
        negotiate::Offer { whole_as_protobuf: self.resource.custom.is_none(), tables, ..offer }
    }

    /// `NotFound` of the named object.
    pub fn not_found(&self) -> Status {
        Status::not_found(self.resource.group(), &self.resource.plural, self.name())
    }
}
