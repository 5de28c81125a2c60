//! From an authorized request to the endpoint that answers it.

use std::sync::Arc;

use apimachinery::status::Status;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response};

use super::negotiate::{self, Encoding};
use super::options::Query;
use super::{
    Answer, Call, body, connect, create, delete, delete_collection, get, list, nonresource, patch, respond, scale, update, versions, watch,
};
use crate::aggregation;
use crate::api::Api;
use crate::audit;
use crate::catalog::{Resource, SubresourceKind};
use crate::filters::Authorized;
use crate::resource_metrics;
use crate::storage::{self, Coming, Freshness, Object};

/// Finds the endpoint and runs it.
pub async fn dispatch(api: Arc<Api>, request: Authorized) -> Answer {
    if let Some(registration) = api.aggregation.claimed(&request.info.path, |document| api.openapi.publishes(document)) {
        audit::passed_on();
        return Box::pin(aggregation::proxy::serve(&api, &registration, request)).await;
    }
    if let Some(metrics) = api.resource_metrics.as_ref().filter(|_| resource_metrics::serve::is_for(&request)) {
        return resource_metrics::serve::serve(&api, metrics, &request).await;
    }
    if !request.info.is_resource {
        return nonresource::serve(&api, &request).await;
    }
    let catalog = api.catalog.load_full();
    let info = &request.info;
    if info.prefix == "api" && !info.group.is_empty() {
        return Err(not_found());
    }
    let Some(resource) = catalog.find(&info.group, &info.version, &info.resource).cloned() else {
        if info.prefix == "api" || catalog.is_builtin_group(&info.group) {
            return Err(not_found());
        }
        return Ok(respond::page_not_found());
    };
    let siblings = catalog.versions_of(&resource);
    let query = Query::parse(&request.raw_query);
    if resource.custom.is_some() && resource.namespaced == info.namespace.is_empty() && (!resource.namespaced || info.parts.len() > 1) {
        return Ok(respond::page_not_found());
    }
    let mut call = Call { api, request, resource, siblings, query, warnings: Vec::new() };
    let form = negotiate::of_errors(&call.request.headers, &call.request.raw_query);
    let answer = match check_route(&call) {
        Ok(()) => {
            let _coming = announce(&call);
            let answer = run(&mut call).await;
            if let Some(warning) = deprecation(&call.resource).filter(|_| !answer.as_ref().is_err_and(has_no_route)) {
                audit::annotate("k8s.io/deprecated", || "true".to_owned());
                let (resource, subresource) = (&call.resource, &call.request.info.subresource);
                call.api.metrics.deprecated(resource.group(), &resource.gvk.version, &resource.plural, subresource);
                call.warnings.insert(0, warning);
            }
            answer
        }
        Err(refused) => Err(refused),
    };
    // Warnings go with errors too: they may say why.
    let response = answer.unwrap_or_else(|status| respond::status(&status, &form));
    Ok(call.finish(response))
}

/// Announces what will be written: others may share its sync. Streams are posted too, and last.
fn announce(call: &Call) -> Option<Coming> {
    let info = &call.request.info;
    let writes = matches!(info.verb.as_str(), "create" | "update" | "patch" | "delete");
    let streams = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy");
    if writes && !streams { call.api.storage.announce() } else { None }
}

/// Kinds that are served for old clients' sake: what every answer about them warns of.
fn deprecation(resource: &Resource) -> Option<String> {
    if let Some(form) = &resource.custom {
        return form.deprecation.clone();
    }
    let gvk = &resource.gvk;
    match (&*gvk.group, &*gvk.version, &*gvk.kind) {
        ("", "v1", "Endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()),
        ("", "v1", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+".to_owned()),
        _ => None,
    }
}

/// Whether a request is refused because of its method, or of what its body is, and so reaches nothing that would warn.
fn has_no_route(refusal: &Status) -> bool {
    refusal.code == 405 || refusal.message == negotiate::NO_ROUTE_FOR_BODY
}

/// 404 in the words of a server that knows the group but not the path.
fn not_found() -> Status {
    Status::generic(404, "", "", "", "", "")
}

fn not_allowed() -> Status {
    Status::generic(405, "", "", "", "", "")
}

/// Whether the path and the method exist, and the client accepts what the route produces.
fn check_route(call: &Call) -> Result<(), Status> {
    let info = &call.request.info;
    let across_namespaces = call.resource.namespaced && info.namespace.is_empty();
    if info.parts.len() > 3 && call.subresource().is_none_or(|s| !matches!(s.kind, SubresourceKind::Endpoint)) {
        return Err(not_found());
    }
    if !info.subresource.is_empty() && call.subresource().is_none() {
        return Err(if call.resource.custom.is_some() { call.not_found() } else { not_found() });
    }
    let named = info.parts.len() > 1;
    if across_namespaces && !call.resource.allows("list") {
        return Err(not_found());
    }
    // A cluster-scoped resource has no path below a namespace; a namespaced object none above one.
    if named && across_namespaces {
        return Err(not_found());
    }
    if !call.resource.namespaced && !info.namespace.is_empty() && &*call.resource.plural != "namespaces" {
        return Err(not_found());
    }
    // What is only ever posted has no path of its own.
    let is_kept = ["get", "update", "patch", "delete"].iter().any(|verb| call.resource.allows(verb));
    if named && info.subresource.is_empty() && !is_kept {
        return Err(not_found());
    }
    if info.subresource == "proxy" {
        // Whatever the method is, it is passed on.
        return Ok(());
    }
    let verb = route_verb(&call.request.method, &info.verb, named).ok_or_else(not_allowed)?;
    let allowed = match call.subresource() {
        Some(subresource) => subresource.verbs.iter().any(|v| &**v == verb),
        None => call.resource.allows(verb),
    };
    if !allowed || (across_namespaces && !matches!(verb, "list" | "watch")) {
        return Err(not_allowed());
    }
    if call.request.method == Method::HEAD {
        return Err(not_allowed());
    }
    let produces = matches!(call.subresource().map(|s| &s.kind), Some(SubresourceKind::Endpoint));
    if !produces {
        negotiate::route_accepts(&call.request.headers, &Encoding::ALL)?;
    }
    Ok(())
}

/// The verb that discovery lists for a method on a collection or an object.
fn route_verb(method: &Method, verb: &str, named: bool) -> Option<&'static str> {
    Some(match (method.as_str(), named) {
        ("GET" | "HEAD", false) if verb == "watch" => "watch",
        ("GET" | "HEAD", false) => "list",
        ("GET" | "HEAD", true) if verb == "watch" => "watch",
        ("GET" | "HEAD", true) => "get",
        ("POST", _) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return None,
    })
}

async fn run(call: &mut Call) -> Answer {
    let named = call.request.info.parts.len() > 1;
    match call.subresource().map(|s| &s.kind) {
        Some(SubresourceKind::Scale) => return scale::scale(call).await,
        // On the heap, as it is rare and would make every request's future as big as its own.
        Some(SubresourceKind::Endpoint) => return Box::pin(connect::connect(call)).await,
        _ => {}
    }
    if call.request.method == Method::POST && named {
        return Err(not_allowed());
    }
    if !call.resource.allows("get") && call.request.method == Method::POST {
        return Box::pin(connect::connect(call)).await;
    }
    match call.request.info.verb.as_str() {
        "create" => create::create(call).await,
        "get" => get::get(call).await,
        "list" => list::list(call).await,
        "watch" => {
            let deprecated = call.request.info.path.contains("/watch/");
            watch::watch(call, deprecated).await
        }
        "update" => update::update(call).await,
        "patch" => patch::patch(call).await,
        "delete" => delete::delete(call).await,
        "deletecollection" => delete_collection::delete_collection(call).await,
        _ => Err(not_allowed()),
    }
}

impl Call {
    pub fn user_agent(&self) -> &str {
        negotiate::header(&self.request.headers, &http::header::USER_AGENT)
    }

    /// The request's body; empty if it has been taken already.
    pub async fn read_body(&mut self) -> Result<Bytes, Status> {
        match self.request.body.take() {
            Some(incoming) => body::read(incoming).await,
            None => Ok(Bytes::new()),
        }
    }

    /// The named object as of now, at least as fresh as the last acknowledged write of any server.
    pub async fn current(&self) -> Result<Option<Arc<Object>>, Status> {
        self.fresh(self.namespace(), self.name()).await
    }

    /// An object as of now, in the version of the request.
    pub async fn fresh(&self, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, Status> {
        match self.api.storage.get(self.cache()?, namespace, name, Freshness::Latest).await {
            Ok(object) => versions::read(&self.api, &self.resource, object).await.map(Some),
            Err(storage::Error::NotFound) => Ok(None),
            Err(error) => Err(self.storage_error(error, name)),
        }
    }

    /// The named object as of now, or 404.
    pub async fn fresh_named(&self) -> Result<Arc<Object>, Status> {
        self.current().await?.ok_or_else(|| self.not_found())
    }

    /// Adds the warnings to a response.
    pub fn finish(self, mut response: Response<Body>) -> Response<Body> {
        let mut seen: Vec<&String> = Vec::new();
        for warning in &self.warnings {
            if seen.contains(&warning) {
                continue;
            }
            seen.push(warning);
            if let Ok(value) = HeaderValue::from_str(&warning_header(warning)) {
                response.headers_mut().append(HeaderName::from_static("warning"), value);
            }
        }
        response
    }
}

/// `299 - "text"` (RFC 7234), with what a header cannot carry escaped or dropped.
pub fn warning_header(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 10);
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    format!("299 - \"{escaped}\"")
}
