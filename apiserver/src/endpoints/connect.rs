//! Subresources with endpoints of their own, found by resource and name.
//!
//! Each is one function in a file of its own; this table is the only place that knows them all.

use apimachinery::status::Status;

use super::{Answer, Call};

/// Runs the endpoint of a subresource that is not the object itself.
pub async fn connect(call: Call) -> Answer {
    Err(Status::not_found(call.resource.group(), &call.resource.plural, call.name()))
}
