//! GET of one object.

use http::StatusCode;

use super::present::{Presenter, include_object};
use super::{Answer, Call, negotiate, versions};
use crate::storage::{self, Freshness, Revision};

/// Answers with the object, at least as fresh as `resourceVersion` asks for.
pub async fn get(call: &mut Call) -> Answer {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), call.offer(negotiate::Offer::OBJECT))?;
    let freshness = match call.query.get("resourceVersion").unwrap_or("") {
        "" => Freshness::Latest,
        "0" => Freshness::Any,
        text => Freshness::NotOlderThan(Revision(super::list::parse_revision(text)?)),
    };
    let object = match call.api.storage.get(call.cache()?, call.namespace(), call.name(), freshness).await {
        Ok(object) => object,
        Err(storage::Error::NotFound) => return Err(call.not_found()),
        Err(error) => return Err(call.storage_error(error, call.name())),
    };
    // Only what is there is shown in one way or another.
    let include = include_object(&form, call.query.get("includeObject").unwrap_or(""))?;
    let object = versions::read(&call.api, &call.resource, object).await?;
    let presenter = Presenter { resource: &call.resource, form: &form, include_object: include, now: call.request.now };
    presenter.object(StatusCode::OK, &object, &call.request.headers)
}
