//! DELETE on a collection: each selected object is deleted by the rules of its kind.

use apimachinery::status::Status;

use super::delete::{Outcome, read_options, remove, warn_of_orphans};
use super::options::ListOptions;
use super::present::Presenter;
use super::select::Filter;
use super::{Answer, Call, list, negotiate};
use crate::registry::table::IncludeObject;

/// Deletes what the selectors choose and answers with the list as it was.
pub async fn delete_collection(call: &mut Call) -> Answer {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), call.offer(negotiate::Offer::OBJECT))?;
    let list_options = ListOptions::parse(&call.query, false)?;
    let options = read_options(call).await?;
    warn_of_orphans(call, &options);
    let filter = Filter::parse(&call.resource, call.namespace(), &list_options.label_selector, &list_options.field_selector)?;
    let page = list::read_page(call, &list_options, &filter).await?;
    for object in &page.objects {
        match remove(call, object.namespace(), object.name(), &options).await {
            Ok(Outcome::Gone(_) | Outcome::GoneDryRun(_) | Outcome::Leaving(_) | Outcome::LeavingDryRun(_)) => {}
            // Somebody else was faster.
            Err(status) if is_not_found(&status) => {}
            Err(status) => return Err(status),
        }
    }
    let presenter = Presenter { resource: &call.resource, form: &form, include_object: IncludeObject::Metadata, now: call.request.now };
    presenter.list(page.objects, &page.meta, &call.request.headers)
}

fn is_not_found(status: &Status) -> bool {
    status.code == 404
}
