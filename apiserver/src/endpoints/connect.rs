//! Resources and subresources with endpoints of their own, found by group, resource and subresource.
//!
//! Each is one function in a file of its own; this table is the only place that knows them all.

use apimachinery::status::Status;

use super::subresources::{binding, eviction, pod_log, pod_stream, proxy};
use super::{Answer, Call};

/// Runs the endpoint of a resource or subresource that is not the object itself.
pub async fn connect(call: Call) -> Answer {
    let (group, resource) = (call.resource.gvk.group.clone(), call.resource.plural.clone());
    let subresource = call.request.info.subresource.clone();
    match (&*group, &*resource, subresource.as_str()) {
        ("", "bindings", "") | ("", "pods", "binding") => binding::bind(call).await,
        ("", "pods", "eviction") => eviction::evict(call).await,
        ("", "pods", "log") => pod_log::log(call).await,
        ("", "pods", "attach" | "exec" | "portforward") => pod_stream::stream(call).await,
        ("", "pods" | "services" | "nodes", "proxy") => proxy::proxy(call).await,
        _ => Err(Status::not_found(&group, &resource, call.name())),
    }
}
