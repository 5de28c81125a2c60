//! Resources and subresources with endpoints of their own, found by group, resource and subresource.
//!
//! Each is one function in a file of its own; this table is the only place that knows them all.

use apimachinery::status::Status;

use super::subresources::{binding, eviction, pod_log, pod_stream, proxy};
use super::{Answer, Call, reviews, token_request};

/// Runs the endpoint of a subresource that is not the object itself, or of a resource that is only ever posted to.
pub async fn connect(call: &mut Call) -> Answer {
    let resource = call.resource.clone();
    let subresource = call.request.info.subresource.clone();
    match (resource.group(), &*resource.plural, subresource.as_str()) {
        ("", "bindings", "") | ("", "pods", "binding") => binding::bind(call).await,
        ("", "pods", "eviction") => eviction::evict(call).await,
        ("", "pods", "log") => pod_log::log(call).await,
        ("", "pods", "attach" | "exec" | "portforward") => pod_stream::stream(call).await,
        ("", "pods" | "services" | "nodes", "proxy") => proxy::proxy(call).await,
        ("", "serviceaccounts", "token") => token_request::token_request(call).await,
        ("authentication.k8s.io", "selfsubjectreviews", "") => reviews::authentication::self_subject_review(call).await,
        ("authentication.k8s.io", "tokenreviews", "") => reviews::authentication::token_review(call).await,
        ("authorization.k8s.io", "selfsubjectrulesreviews", "") => reviews::authorization::rules_review(call).await,
        ("authorization.k8s.io", _, "") => reviews::authorization::access_review(call).await,
        _ => Err(Status::not_found(call.resource.group(), &call.resource.plural, call.name())),
    }
}
