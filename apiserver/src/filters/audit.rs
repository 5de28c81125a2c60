//! Sees a request come and go, for the audit log: its stages, what it was answered, and that it panicked.
//!
//! What is told is decided by [`crate::audit`] once the sender is known; until then, and where nothing is told, this costs one branch.

use std::any::Any;
use std::net::{IpAddr, Ipv6Addr};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use apimachinery::status::Status;
use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use serde_json::Value;

use super::Authorized;
use super::authentication::User;
use super::request_info::RequestInfo;
use crate::api::Api;
use crate::audit::bodies::Shown;
use crate::audit::event::{Level, Stage};
use crate::audit::{self, Auditor, Context, Seen};
use crate::endpoints::negotiate::header;

const MAX_USER_AGENT_BYTES: usize = 1024;
/// Answers up to this size are looked at for a Status with every level.
const MAX_STATUS_BYTES: u64 = 64 * 1024;

/// What a request says of itself.
pub fn seen<B>(request: &Request<B>, audit_id: &str, peer: IpAddr, long_running: bool) -> Seen {
    let headers = request.headers();
    Seen {
        audit_id: audit_id.to_owned(),
        request_uri: request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        user_agent: user_agent(headers),
        source_ips: source_ips(headers, peer).iter().map(ToString::to_string).collect(),
        long_running,
    }
}

fn user_agent(headers: &HeaderMap) -> String {
    let text = header(headers, &http::header::USER_AGENT);
    if text.len() <= MAX_USER_AGENT_BYTES {
        return text.to_owned();
    }
    // Header values that are text are ASCII, so that any place is a boundary.
    format!("{}...TRUNCATED", text.get(..MAX_USER_AGENT_BYTES).unwrap_or_default())
}

/// Whom proxies name, and who the last of them is.
fn source_ips(headers: &HeaderMap, peer: IpAddr) -> Vec<IpAddr> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let mut ips: Vec<IpAddr> = text("x-forwarded-for").split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
    if let Ok(real) = text("x-real-ip").parse()
        && !ips.contains(&real)
    {
        ips.push(real);
    }
    if ips.last() != Some(&peer) {
        ips.push(peer);
    }
    ips
}

/// Serves a request and tells of it. A panic is told of and given back.
pub async fn watched(
    auditor: &Arc<Auditor>,
    seen: Seen,
    info: &RequestInfo,
    serving: impl Future<Output = Response<Body>>,
) -> Result<Response<Body>, Box<dyn Any + Send>> {
    let context = Context::new(auditor.clone(), seen);
    match audit::scope(context.clone(), AssertUnwindSafe(serving).catch_unwind()).await {
        Ok(response) => Ok(answered(context, info, response).await),
        Err(panic) => {
            let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
            context.panicked(message.as_deref().unwrap_or("unknown")).await;
            Err(panic)
        }
    }
}

/// A request of the server to itself, which comes to no filter, as the audit log tells of it.
pub struct Own {
    /// Nothing is told without an audit policy.
    told: Option<(Arc<Context>, User, RequestInfo)>,
    /// Of what is posted, whose path has no name.
    metadata: Value,
}

impl Own {
    pub fn of(api: &Api, request: &Authorized) -> Own {
        let Some(auditor) = &api.audit else { return Own { told: None, metadata: Value::Null } };
        let query = if request.raw_query.is_empty() { String::new() } else { format!("?{}", request.raw_query) };
        let seen = Seen {
            audit_id: uuid::Uuid::new_v4().to_string(),
            request_uri: format!("{}{query}", request.info.path),
            user_agent: user_agent(&request.headers),
            source_ips: vec![Ipv6Addr::LOCALHOST.to_string()],
            long_running: false,
        };
        let told = (Context::new(auditor.clone(), seen), request.user.clone(), request.info.clone());
        Own { told: Some(told), metadata: Value::Null }
    }

    /// The request is about this object.
    pub fn about(mut self, object: &Value) -> Own {
        if self.told.is_some() {
            self.metadata = object.get("metadata").cloned().unwrap_or_default();
        }
        self
    }

    /// Does it, and tells that it is asked for and what came of it: `code` if it goes well.
    pub async fn tell<T>(self, code: u16, doing: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let Some((context, user, info)) = self.told else { return doing.await };
        audit::scope(context.clone(), async {
            if !context.decide(Some(&user), &info).await {
                return Err(Status::internal_error("failed to store audit event"));
            }
            context.annotate("authorization.k8s.io/decision", "allow".to_owned());
            context.annotate("authorization.k8s.io/reason", String::new());
            context.request_object(&self.metadata, None);
            let done = doing.await;
            match &done {
                Ok(_) => context.response(code, None, None),
                Err(status) => context.response(status.code, Some(status.to_value()), None),
            }
            context.complete().await;
            done
        })
        .await
    }
}

/// Tells of an answer: a short one as a whole, a long one when it begins and when it ends.
async fn answered(context: Arc<Context>, info: &RequestInfo, response: Response<Body>) -> Response<Body> {
    if context.level() == Level::None || context.has_ended() {
        return response;
    }
    let response = read(&context, info, response).await;
    if context.is_unauthenticated() {
        context.stage(Stage::ResponseStarted).await;
        context.end_silently();
        return response;
    }
    if !context.long_running {
        context.complete().await;
        return response;
    }
    context.stage(Stage::ResponseStarted).await;
    response.map(|body| Body::new(Held { body, _context: context }))
}

/// Notes what the client is answered, as far as the level wants it.
async fn read(context: &Context, info: &RequestInfo, response: Response<Body>) -> Response<Body> {
    let code = response.status().as_u16();
    let small = response.body().size_hint().exact().is_some_and(|size| size <= MAX_STATUS_BYTES);
    // Discovery is made of objects; the documents beside it are none.
    let is_ours = (info.is_resource || info.path.starts_with("/api")) && !context.is_passed_on();
    let tells_object = context.level() == Level::RequestResponse && is_ours && !context.long_running;
    // What somebody else sends is not waited for.
    let tells_status = small && (code >= 400 || (is_ours && !context.long_running));
    if !(tells_object || tells_status) || context.is_passed_on() {
        context.response(code, None, None);
        return response;
    }
    let (head, body) = response.into_parts();
    // Bodies that do not wait for anything: what is made of memory cannot fail either.
    let Ok(collected) = body.collect().await else {
        context.response(code, None, None);
        return Response::from_parts(head, Body::empty());
    };
    let body: Bytes = collected.to_bytes();
    let shown = Shown::read(&head.headers, &body);
    let status = shown.as_ref().and_then(|shown| shown.status(code));
    let wants_object = context.level() == Level::RequestResponse && (is_ours || status.is_some());
    let object = if wants_object { shown.and_then(|shown| shown.text(context.omits_managed_fields())) } else { None };
    context.response(code, status, object);
    Response::from_parts(head, Body::from(body))
}

/// A body whose end is the end of the request.
struct Held {
    body: Body,
    _context: Arc<Context>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn proxies_tell_where_a_request_comes_from() {
        let peer: IpAddr = "10.0.0.9".parse().unwrap();
        let ips = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            source_ips(&headers.collect(), peer).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ips(&[]), ["10.0.0.9"]);
        assert_eq!(ips(&[("x-forwarded-for", "1.2.3.4, junk,10.0.0.1"), ("x-real-ip", "1.2.3.4")]), ["1.2.3.4", "10.0.0.1", "10.0.0.9"]);
        assert_eq!(ips(&[("x-real-ip", "10.0.0.9")]), ["10.0.0.9"]);
    }

    #[test]
    fn long_user_agents_are_cut() {
        let headers =
            |length: usize| HeaderMap::from_iter([(http::header::USER_AGENT, HeaderValue::try_from("u".repeat(length)).unwrap())]);
        assert_eq!(user_agent(&headers(10)), "uuuuuuuuuu");
        assert_eq!(user_agent(&headers(2000)).len(), 1024 + "...TRUNCATED".len());
    }
}
