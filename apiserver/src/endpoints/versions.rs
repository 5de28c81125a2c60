//! Objects between the version that they are stored in and that of a request, where a webhook converts them.
//!
//! Of such kinds an object lies in storage, and in memory, in the version that was the stored one when it was written. It is converted
//! when somebody asks for another one, and kept with the stored object while it is asked for; requests work on it in their own
//! version from end to end. Kinds without a conversion webhook pass through here untouched, and without waiting.

use std::sync::Arc;

use apimachinery::status::Status;
use serde_json::Value;

use super::convert;
use super::select::Filter;
use crate::admission::Lookup;
use crate::api::Api;
use crate::catalog::Resource;
use crate::crd::conversion::{self, Converter, Turn};
use crate::crd::resource::is_of_version;
use crate::storage::{EncodingId, Event, EventKind, Object};

/// Objects and bytes of objects in one question to a webhook. An object that is larger goes alone.
const MAX_REVIEW_OBJECTS: usize = 500;
const MAX_REVIEW_BYTES: usize = 1024 * 1024;

/// A stored object in the resource's version.
pub async fn read(api: &Arc<Api>, resource: &Resource, object: Arc<Object>) -> Result<Arc<Object>, Status> {
    let Some(converter) = resource.webhook.as_ref().filter(|_| !is_of(resource, &object)) else { return Ok(object) };
    let objects = [object];
    let mut read = Box::pin(convert_all(api, resource, converter, &objects)).await.map_err(Status::unknown)?;
    read.pop().ok_or_else(|| Status::unknown("CR conversion failed"))
}

/// Stored objects in the resource's version, in their order: all of them, or none.
pub async fn read_all(api: &Arc<Api>, resource: &Resource, objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, Status> {
    let Some(converter) = &resource.webhook else { return Ok(objects) };
    if objects.iter().all(|object| is_of(resource, object)) {
        return Ok(objects);
    }
    Box::pin(convert_all(api, resource, converter, &objects)).await.map_err(Status::unknown)
}

/// An object of the resource's version as it is to be stored.
pub async fn write(api: &Arc<Api>, resource: &Resource, object: Value) -> Result<Value, Status> {
    match &resource.webhook {
        Some(converter) if resource.gvk.version != resource.stored.gvk.version => {
            Box::pin(to_stored(api, resource, converter, object)).await.map_err(Status::unknown)
        }
        _ => Ok(object),
    }
}

/// An object of one version as another one of the same resource.
pub async fn between(lookup: &dyn Lookup, from: &Resource, to: &Resource, object: &Value) -> Result<Value, Status> {
    match &from.webhook {
        Some(converter) => {
            let converted = Box::pin(converter.convert_one(lookup, object.clone(), &to.api_version())).await;
            converted.map_err(|why| Status::internal_error(&why))
        }
        None => Ok(convert::from_storage(to, convert::to_storage(from, object.clone()))),
    }
}

/// A value from storage in the resource's version.
pub async fn stored_as(lookup: &dyn Lookup, resource: &Resource, object: Value) -> Result<Value, String> {
    let Some(converter) = &resource.webhook else { return Ok(convert::from_storage(resource, object)) };
    let mut converted = Box::pin(converter.convert_one(lookup, object, &resource.api_version())).await?;
    if let Some(form) = &resource.custom {
        form.adopt(&mut converted)?;
    }
    Ok(converted)
}

/// What a watch tells in the resource's version: events in their order, and why it cannot go on after them, if it cannot.
pub async fn read_events(
    api: &Arc<Api>,
    resource: &Resource,
    filter: &Filter,
    events: Vec<Arc<Event>>,
) -> (Vec<Arc<Event>>, Option<Status>) {
    let Some(converter) = &resource.webhook else { return (events, None) };
    let events: Vec<Arc<Event>> = events.into_iter().filter(|event| filter.may_match(&event.object)).collect();
    Box::pin(convert_events(api, resource, converter, filter, events)).await
}

async fn convert_events(
    api: &Arc<Api>,
    resource: &Resource,
    converter: &Converter,
    filter: &Filter,
    events: Vec<Arc<Event>>,
) -> (Vec<Arc<Event>>, Option<Status>) {
    let looks_inside = filter.looks_inside();
    // Together first; if that fails, one by one, so that what can be told is told.
    if let Ok(all) = converted_events(api, resource, converter, looks_inside, &events).await {
        return (all, None);
    }
    let mut told = Vec::new();
    for event in &events {
        match converted_events(api, resource, converter, looks_inside, std::slice::from_ref(event)).await {
            Ok(one) => told.extend(one),
            Err(why) => return (told, Some(Status::unknown(why))),
        }
    }
    (told, None)
}

async fn converted_events(
    api: &Arc<Api>,
    resource: &Resource,
    converter: &Converter,
    looks_inside: bool,
    events: &[Arc<Event>],
) -> Result<Vec<Arc<Event>>, String> {
    let mut objects = Vec::with_capacity(events.len());
    for event in events {
        // The last state of what is gone is the one before under another revision.
        let before = event.previous.as_ref().filter(|_| event.kind == EventKind::Deleted).and_then(|before| known(resource, before));
        if let Some(before) = before {
            event.object.keep_version(version_id(resource), Arc::new(before.at_revision(event.revision)));
        }
        objects.push(event.object.clone());
        objects.extend(event.previous.clone().filter(|_| looks_inside));
    }
    let mut converted = convert_all(api, resource, converter, &objects).await?.into_iter();
    let mut out = Vec::with_capacity(events.len());
    for event in events {
        let Some(object) = converted.next() else { break };
        let previous = if looks_inside && event.previous.is_some() { converted.next() } else { event.previous.clone() };
        out.push(Arc::new(event.about(object, previous)));
    }
    Ok(out)
}

async fn to_stored(api: &Arc<Api>, resource: &Resource, converter: &Converter, object: Value) -> Result<Value, String> {
    let stored = &resource.stored;
    let mut converted = converter.convert_one(api, object, &stored.gvk.api_version()).await?;
    if let Some(form) = &stored.custom {
        form.adopt(&mut converted)?;
        form.complete(&mut converted);
    }
    Ok(converted)
}

async fn convert_all(
    api: &Arc<Api>,
    resource: &Resource,
    converter: &Converter,
    objects: &[Arc<Object>],
) -> Result<Vec<Arc<Object>>, String> {
    let mut out = Vec::with_capacity(objects.len());
    let mut rest = objects;
    while !rest.is_empty() {
        let (page, after) = rest.split_at(page_length(rest));
        out.extend(convert_page(api, resource, converter, page).await?);
        rest = after;
    }
    Ok(out)
}

/// How many objects go into one question; at least one.
fn page_length(objects: &[Arc<Object>]) -> usize {
    let mut bytes = 0;
    let fits = objects.iter().take(MAX_REVIEW_OBJECTS).take_while(|object| {
        bytes += object.json().len();
        bytes <= MAX_REVIEW_BYTES
    });
    fits.count().max(1)
}

/// Converts what nobody else is converting already, and waits for the rest.
async fn convert_page(
    api: &Arc<Api>,
    resource: &Resource,
    converter: &Converter,
    objects: &[Arc<Object>],
) -> Result<Vec<Arc<Object>>, String> {
    let mut out: Vec<Option<Arc<Object>>> = vec![None; objects.len()];
    let mut failed_once = false;
    loop {
        let missing: Vec<usize> = (0..objects.len()).filter(|at| out[*at].is_none()).collect();
        if missing.is_empty() {
            return Ok(out.into_iter().flatten().collect());
        }
        let wanted = missing.iter().map(|at| &objects[*at]);
        let (turns, lead) = converter.flights.board(resource.number, wanted, |object| known(resource, object));
        let mut led = Vec::new();
        let mut waits = Vec::new();
        for (at, turn) in missing.into_iter().zip(turns) {
            match turn {
                Turn::Known(object) => out[at] = Some(object),
                Turn::Lead => led.push(at),
                Turn::Wait(flight) => waits.push((at, flight)),
            }
        }
        if !led.is_empty() {
            let originals: Vec<&Arc<Object>> = led.iter().map(|at| &objects[*at]).collect();
            let made = ask(api, resource, converter, &originals).await;
            match &made {
                Ok(made) => lead.land(made.iter().cloned().map(Ok)),
                Err(why) => lead.land(std::iter::repeat_with(|| Err(why.clone()))),
            }
            for (at, made) in led.into_iter().zip(made?) {
                out[at] = Some(made);
            }
        }
        for (at, flight) in waits {
            match conversion::outcome(flight).await {
                Some(Ok(object)) => out[at] = Some(object),
                // Another object of another's question may have been to blame.
                Some(Err(why)) if failed_once => return Err(why),
                Some(Err(_)) => failed_once = true,
                None => {}
            }
        }
    }
}

async fn ask(api: &Arc<Api>, resource: &Resource, converter: &Converter, originals: &[&Arc<Object>]) -> Result<Vec<Arc<Object>>, String> {
    let values = originals.iter().map(|object| object.value()).collect();
    let converted = converter.convert(api, values, &resource.api_version()).await?;
    converted.into_iter().zip(originals).map(|(value, original)| keep(api, resource, value, original)).collect()
}

/// Makes an object of what a webhook has answered, and keeps it for others.
fn keep(api: &Api, resource: &Resource, mut value: Value, original: &Object) -> Result<Arc<Object>, String> {
    if let Some(form) = &resource.custom {
        form.adopt(&mut value)?;
    }
    let cache = resource.stored.cache().ok_or("storage is (re)initializing")?;
    let prepared = api.storage.prepare(cache, &value).map_err(|error| error.to_string())?;
    let converted = Arc::new(original.in_version(&prepared));
    original.keep_version(version_id(resource), converted.clone());
    Ok(converted)
}

/// An object in the resource's version, if it lies so or has been converted lately.
fn known(resource: &Resource, object: &Arc<Object>) -> Option<Arc<Object>> {
    if is_of(resource, object) { Some(object.clone()) } else { object.version(version_id(resource)) }
}

fn version_id(resource: &Resource) -> EncodingId {
    EncodingId(resource.number * 2)
}

/// Whether an object lies in the resource's version.
fn is_of(resource: &Resource, object: &Object) -> bool {
    is_of_version(object.json(), &resource.api_version())
}
