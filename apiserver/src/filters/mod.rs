//! What every request passes on its way in, in this order and no other:
//! what browsers are told, panic, request info, audit id, deadline, authentication, audit, impersonation, flow control, authorization, dispatch.
//!
//! Only [`serve`] makes an [`Authorized`] request, so no endpoint can be reached around the filters.

pub mod audit;
pub mod authentication;
pub mod authorization;
pub mod browsers;
pub mod client_certificate;
mod counted;
pub mod front_proxy;
pub mod impersonation;
pub mod request_info;
pub mod web_socket_token;
mod written;

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::field::quote;
use apimachinery::status::Status;
use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use jiff::Timestamp;

use crate::api::Api;
use crate::audit::{Layer, annotate, decide, spent};
use crate::endpoints::negotiate::{self, Form};
use crate::endpoints::options::Query;
use crate::endpoints::{dispatch, respond};
use crate::flow_control::Right;
use crate::flow_control::gate::Refusal;
use crate::flow_control::held::Held;
use crate::flow_control::work::{self, Collection};
use crate::metrics::access::{Authenticated, Authorized as Outcome};
use crate::metrics::in_flight::Kind;
use crate::metrics::requests::Key;
use crate::metrics::tally::{self, Serving, Tally, Terminated};
use crate::server::Peer;
use crate::server::lanes::Belonging;
use authentication::User;
use authorization::Decision;
use request_info::RequestInfo;

/// What a request brings: off a connection, or from a part of this process.
pub type RequestBody = Either<Incoming, Full<Bytes>>;

/// So many objects of a collection are looked at for the size of them all.
const SAMPLED: usize = 16;

/// A request whose sender is known and allowed to make it.
pub struct Authorized {
    pub info: RequestInfo,
    pub user: User,
    pub method: Method,
    pub headers: HeaderMap,
    pub raw_query: String,
    pub peer: Peer,
    pub now: Timestamp,
    /// Taken by whoever reads it.
    pub body: Option<RequestBody>,
    /// The protocol upgrade that the client asks for, if it does.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// Of a watch: the right to run, given back when what it begins with was taken.
    pub seat: Option<Held>,
    /// Keeps others from making one.
    _sealed: Sealed,
}

struct Sealed;

impl Authorized {
    /// A request of the API server to itself, which needs no permission: `system:apiserver` in `system:masters`.
    pub fn loopback(method: Method, path: &str, user_agent: &'static str) -> Authorized {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::USER_AGENT, HeaderValue::from_static(user_agent));
        Authorized {
            info: RequestInfo::parse(&method, path, ""),
            user: User { name: "system:apiserver".to_owned(), groups: vec!["system:masters".to_owned()], ..User::default() },
            method,
            headers,
            raw_query: String::new(),
            peer: nowhere(),
            now: Timestamp::now(),
            body: None,
            upgrade: None,
            seat: None,
            _sealed: Sealed,
        }
    }
}

/// How the sender of a request is known.
enum Sender {
    /// By what it shows: a certificate, a token, or nothing.
    Shown,
    /// It is part of this process, which says who it is.
    Vouched(User),
}

/// Answers one request.
pub async fn serve(api: Arc<Api>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    answer(api, request.map(Either::Left), peer, Sender::Shown).await
}

/// Answers a request of a part of this process, which takes every step but the proof of who it is.
pub(crate) async fn serve_own(api: Arc<Api>, request: Request<Full<Bytes>>, user: User) -> Response<Body> {
    answer(api, request.map(Either::Right), nowhere(), Sender::Vouched(user)).await
}

/// The peer of requests that no connection brought.
fn nowhere() -> Peer {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    Peer { address, local: address, certificates: Arc::new([]), belonging: Belonging::default() }
}

async fn answer(api: Arc<Api>, request: Request<RequestBody>, peer: Peer, sender: Sender) -> Response<Body> {
    let told = api.browsers.told(&request);
    let mut answer = match told.alone() {
        Some(mut answer) => {
            answer.headers_mut().insert("audit-id", audit_id(request.headers()));
            answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
            answer
        }
        None => guarded(api, request, peer, sender).await,
    };
    told.tell(answer.headers_mut());
    answer
}

/// A panic ends this request alone.
async fn guarded(api: Arc<Api>, request: Request<RequestBody>, peer: Peer, sender: Sender) -> Response<Body> {
    if !request_info::has_whole_escapes(request.uri().path()) {
        return respond::broken_path();
    }
    let audit_id = audit_id(request.headers());
    let caught = match api.audit.clone() {
        None => {
            let passing = pin!(pass(api, request, peer, sender, audit_id));
            AssertUnwindSafe(passing).catch_unwind().await
        }
        Some(auditor) => {
            let info = RequestInfo::parse(request.method(), request.uri().path(), request.uri().query().unwrap_or(""));
            let id = String::from_utf8_lossy(audit_id.as_bytes()).into_owned();
            let seen = audit::seen(&request, &id, peer.address.ip(), is_long_running(&info));
            let passing = pin!(pass(api, request, peer, sender, audit_id));
            audit::watched(&auditor, seen, &info, passing).await
        }
    };
    match caught {
        Ok(response) => response,
        Err(_) => {
            // The panic hook has logged it; the client learns only that this request failed.
            let status = Status::internal_error("the server panicked while serving this request");
            respond::status(&status, &Form::JSON)
        }
    }
}

/// Headers that every answer carries.
struct Common {
    audit_id: HeaderValue,
    warning: Option<&'static str>,
    /// Whether the sender is unknown. Over HTTP/2 such get one answer a connection, so that they cannot ask for many things at once.
    stranger: bool,
    /// How long the request may take, its wait for a seat included.
    timeout: Duration,
    flow: Option<(HeaderValue, HeaderValue)>,
    /// How long it has waited for a seat.
    waited: Duration,
}

async fn pass(api: Arc<Api>, mut request: Request<RequestBody>, peer: Peer, sender: Sender, audit_id: HeaderValue) -> Response<Body> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let info = RequestInfo::parse(request.method(), request.uri().path(), &query);
    let mut common = Common { audit_id, warning: None, stranger: false, timeout: api.request_timeout, flow: None, waited: Duration::ZERO };
    let started = Instant::now();
    request.headers_mut().insert("audit-id", common.audit_id.clone());
    let upgrade = request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    let form = negotiate::of_errors(&head.headers, &query);
    let labels = Key::of(&head.method, &info, &query, negotiate::header(&head.headers, &http::header::CONTENT_TYPE));
    let known = api.metrics.requests.known(&labels);
    let (named, labels) = (known.is_none().then(|| info.clone()), labels.unnamed());
    let mut tally = Tally::new(api.metrics.clone(), known, started);
    tally.is_read = head.method == Method::GET && labels.verb != "WATCH" && !is_streamed(&info);
    let verdict = admit(&api, &mut head.headers, &query, &info, (&peer, sender), &mut common).await;
    tally.others = common.waited;
    let mut serving = None;
    let mut response = match verdict {
        Err(refused) => refused.respond(&form, head.uri.path_and_query().map_or("/", |path| path.as_str())),
        Ok((user, mut seat)) => {
            let (long_running, reads) = (is_long_running(&info), Kind::of_verb(&info.verb) == Kind::ReadOnly);
            let now = Instant::now();
            (tally.is_served, tally.is_long) = (true, long_running);
            if !long_running || info.verb == "watch" {
                tally.enter(Kind::of_verb(&info.verb), now);
            }
            let beginning = seat.take_if(|_| long_running).map(|seat| Held::for_at_most(seat, api.request_timeout));
            let request = Authorized {
                info,
                user,
                method: head.method.clone(),
                headers: head.headers,
                raw_query: query,
                peer,
                now: Timestamp::now(),
                body: Some(body),
                upgrade,
                seat: beginning,
                _sealed: Sealed,
            };
            // What only reads is asked of nobody else, and ends when it is answered.
            serving = (long_running || !reads).then(Arc::<Serving>::default);
            let left = (!long_running).then(|| common.timeout.saturating_sub(now.duration_since(started)));
            let answer = pin!(dispatch::dispatch(api.clone(), request));
            let answered = match &serving {
                Some(serving) => tally::scope(serving.clone(), within(left, answer)).await,
                None => within(left, answer).await,
            };
            match answered {
                Ok(Ok(response)) if long_running => response,
                Ok(Ok(response)) => written::holding(response, seat, common.timeout.saturating_sub(started.elapsed())),
                Ok(Err(status)) => respond::status(&status, &form),
                Err(_) => {
                    let late = Status::timeout("request did not complete within the allotted timeout", 0);
                    let mut response = respond::status(&late, &form);
                    response.extensions_mut().insert(Terminated::BY_US);
                    response
                }
            }
        }
    };
    let code = response.status();
    if let Some(info) = &named {
        let is_named = !info.is_resource || code.is_success() || code == StatusCode::SWITCHING_PROTOCOLS || is_there(&api, info);
        let labels = if is_named { labels.named(info) } else { labels };
        tally.label(|metrics| metrics.requests.labelled(&labels));
    }
    tally.answered(code.as_u16());
    if let Some(by) = response.extensions_mut().remove::<Terminated>() {
        tally.terminated(by, code.as_u16());
    }
    let response = counted::followed(response, tally, serving);
    common.stranger &= head.version == http::Version::HTTP_2;
    finish(response, common)
}

/// Waits for an answer, if it is not left alone for so long.
async fn within<T>(left: Option<Duration>, answer: impl Future<Output = T>) -> Result<T, tokio::time::error::Elapsed> {
    match left {
        Some(left) => tokio::time::timeout(left, answer).await,
        None => Ok(answer.await),
    }
}

/// Whether what a request names is there, so that nobody has made up the words.
fn is_there(api: &Api, info: &RequestInfo) -> bool {
    let catalog = api.catalog.load();
    let resource = catalog.find(&info.group, &info.version, &info.resource);
    resource.is_some_and(|resource| info.subresource.is_empty() || resource.subresources.contains_key(&*info.subresource))
}

/// A refusal by a filter.
enum Refused {
    /// Refusals by authorization carry nosniff, as the reference has it.
    Status { status: Status, nosniff: bool },
    /// No seat was to be had.
    Busy(Refusal),
    /// It had to be told of, and could not be.
    NotAudited,
    /// Who should have said whether it is allowed could not be asked. Plain text, as upstream answers.
    Unanswered(String),
}

impl Refused {
    fn respond(self, form: &Form, uri: &str) -> Response<Body> {
        match self {
            Refused::Status { status, nosniff } => {
                let mut response = respond::status(&status, form);
                if nosniff {
                    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
                }
                response
            }
            Refused::Unanswered(text) => {
                let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                let mut response = respond::text(StatusCode::INTERNAL_SERVER_ERROR, text);
                response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
                response
            }
            Refused::Busy(refusal) => {
                let mut response = respond::text(StatusCode::TOO_MANY_REQUESTS, "Too many requests, please try again later.\n");
                response.headers_mut().insert(http::header::RETRY_AFTER, refusal.retry_after_seconds.into());
                response.extensions_mut().insert(Terminated::BY_US);
                response
            }
            Refused::NotAudited => {
                let text = format!("Internal Server Error: {}: failed to store audit event\n", apimachinery::field::quote(uri));
                respond::text(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        }
    }
}

async fn admit(
    api: &Api,
    headers: &mut HeaderMap,
    query: &str,
    info: &RequestInfo,
    (peer, sender): (&Peer, Sender),
    common: &mut Common,
) -> Result<(User, Option<Right>), Refused> {
    let plain = |status| Refused::Status { status, nosniff: false };
    if !is_long_running(info) {
        common.timeout = deadline(query, api.request_timeout).map_err(plain)?;
    }
    let since = Instant::now();
    let user = match sender {
        Sender::Shown => api.authenticator.authenticate(headers, &peer.certificates, &info.path).await,
        Sender::Vouched(user) => Some(user.authenticated()),
    };
    spent(Layer::Authentication, since);
    let result = match &user {
        Some(_) => Authenticated::Success,
        None if shows_something(headers, peer) => Authenticated::Error,
        None => Authenticated::Failure,
    };
    api.metrics.access.authenticated(result, user.as_ref().map(|user| &*user.name), since.elapsed());
    if user.as_ref().is_none_or(User::is_anonymous) {
        common.stranger = true;
        common.warning = authentication::warning(headers);
    }
    if !decide(user.as_ref(), info).await {
        return Err(Refused::NotAudited);
    }
    let user = user.ok_or_else(|| plain(Status::unauthorized("Unauthorized")))?;
    peer.belonging.to(&user.name);
    api.authenticator.clear(headers);
    let since = Instant::now();
    let acting = impersonation::acting_user(&*api.authorizer, &api.impersonation, user, headers, info).await;
    let user = acting.map_err(|status| Refused::Status { status, nosniff: true })?;
    spent(Layer::Impersonation, since);
    let since = Instant::now();
    let seat = take_seat(api, &user, info, query, common).await?;
    spent(Layer::ApfQueueWait, since);
    let seated = Instant::now();
    common.waited = seated.duration_since(since);
    let decision = api.authorizer.ask(&user, info).wait().await;
    spent(Layer::Authorization, seated);
    api.metrics.access.authorized(outcome(&decision), seated.elapsed());
    match decision {
        Decision::Allow(reason) => {
            annotate("authorization.k8s.io/decision", || "allow".to_owned());
            annotate("authorization.k8s.io/reason", || reason);
            Ok((user, seat))
        }
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            annotate("authorization.k8s.io/decision", || "forbid".to_owned());
            annotate("authorization.k8s.io/reason", || reason.clone());
            Err(Refused::Status { status: authorization::forbidden(&user, info, &reason), nosniff: true })
        }
        Decision::Failed { error, .. } => {
            annotate("authorization.k8s.io/reason", || "internal error".to_owned());
            tracing::warn!(user = user.name, path = info.path, error, "cannot tell whether this is allowed");
            let address = if query.is_empty() { info.path.clone() } else { format!("{}?{query}", info.path) };
            Err(Refused::Unanswered(format!("Internal Server Error: {}: {error}\n", quote(&address))))
        }
    }
}

/// Whether a request shows a certificate or a token, or something that should be one.
fn shows_something(headers: &HeaderMap, peer: &Peer) -> bool {
    !peer.certificates.is_empty() || headers.contains_key(http::header::AUTHORIZATION)
}

fn outcome(decision: &Decision) -> Outcome {
    match decision {
        Decision::Allow(_) => Outcome::Allowed,
        Decision::Deny(_) => Outcome::Denied,
        Decision::NoOpinion(_) => Outcome::NoOpinion,
        Decision::Failed { .. } => Outcome::Error,
    }
}

/// Waits for the request's turn. What runs long takes no seat, except for the beginning of a watch.
async fn take_seat(api: &Api, user: &User, info: &RequestInfo, query: &str, common: &mut Common) -> Result<Option<Right>, Refused> {
    if let Some(limits) = &api.flow_control.in_flight {
        let place = if is_long_running(info) { Ok(None) } else { limits.enter(user, &info.verb) };
        return place.map(|place| place.map(Right::Place)).map_err(Refused::Busy);
    }
    if is_long_running(info) && info.verb != "watch" {
        return Ok(None);
    }
    let collection = || {
        let catalog = api.catalog.load();
        let snapshot = catalog.find(&info.group, &info.version, &info.resource)?.stored.cache()?.snapshot();
        let sample = snapshot.range("", None).take(SAMPLED);
        let (objects, bytes) = sample.fold((0, 0), |(objects, bytes), object| (objects + 1, bytes + object.json().len()));
        Some(Collection { objects: snapshot.len() as u64, average_bytes: bytes.checked_div(objects).unwrap_or(0) as u64 })
    };
    let work = |most| work::seats(info, query, most, collection);
    let Some(classified) = api.flow_control.classify(user, info, work) else { return Ok(None) };
    common.flow = Some((classified.schema_uid.clone(), classified.level_uid.clone()));
    classified.enter().await.map(|seat| Some(Right::Seat(seat))).map_err(Refused::Busy)
}

/// Watches, logs, exec and the like are not bounded in time.
fn is_long_running(info: &RequestInfo) -> bool {
    matches!(info.verb.as_str(), "watch" | "proxy")
        || is_streamed(info)
        || info.subresource == "log"
        || info.path.starts_with("/debug/pprof/")
}

/// Goes both ways, so that it has no size.
fn is_streamed(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "attach" | "exec" | "portforward" | "proxy")
}

/// The time that a request asks for by `timeout`, if that is less than it has anyway.
fn deadline(query: &str, longest: Duration) -> Result<Duration, Status> {
    let query = Query::parse(query);
    let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(longest) };
    let asked = apimachinery::time::parse_duration(text)
        .map_err(|why| Status::bad_request(format!("invalid timeout specified in the request URL - {why}")))?;
    // Nothing, and less than nothing, is no wish.
    Ok(u64::try_from(asked).ok().filter(|asked| *asked > 0).map_or(longest, |asked| longest.min(Duration::from_nanos(asked))))
}

/// The client's id for the request, or a new one.
fn audit_id(headers: &HeaderMap) -> HeaderValue {
    const MAX_LENGTH: usize = 64;
    if let Some(given) = headers.get("audit-id").filter(|v| !v.is_empty() && v.len() <= MAX_LENGTH) {
        return given.clone();
    }
    HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

fn finish(mut response: Response<Body>, common: Common) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert("audit-id", common.audit_id);
    if common.stranger {
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(value) = common.warning.and_then(|text| HeaderValue::from_str(&dispatch::warning_header(text)).ok()) {
        headers.append(http::header::WARNING, value);
    }
    if !headers.contains_key(http::header::CACHE_CONTROL) {
        headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    }
    if let Some((schema, level)) = common.flow {
        headers.insert("x-kubernetes-pf-flowschema-uid", schema);
        headers.insert("x-kubernetes-pf-prioritylevel-uid", level);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_ask_for_less_time_than_it_has() {
        let minute = Duration::from_secs(60);
        for (query, expect) in [
            ("", Some(minute)),
            ("timeout=", Some(minute)),
            ("timeout=3s", Some(Duration::from_secs(3))),
            ("timeout=0s", Some(minute)),
            ("timeout=-3s", Some(minute)),
            ("timeout=2h", Some(minute)),
            ("timeout=soon", None),
        ] {
            assert_eq!(deadline(query, minute).ok(), expect, "{query}");
        }
    }
}
