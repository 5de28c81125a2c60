//! `pods/log`: a container's log, streamed from the pod's kubelet.

use apimachinery::field::{ErrorList, quote};
use apimachinery::status::Status;
use apimachinery::time::{Moment, parse_time};
use axum::body::Body;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;

use super::location::{Target, Transport, encode_query};
use crate::endpoints::options::Query;
use crate::endpoints::{Answer, Call};
use crate::registry::core::pod::connect::{self, LogOptions};
use crate::registry::read::str_at;
use crate::streaming::bytes_out::{self, Form};
use crate::streaming::web_socket;

/// Streams the log.
pub async fn log(call: &mut Call) -> Answer {
    let options = Options::parse(&call.query)?;
    let errors = options.check();
    if !errors.is_empty() {
        return Err(Status::invalid("", "PodLogOptions", call.name(), &errors));
    }
    let pod = call.fresh_named().await?.value();
    let container = connect::container(&pod, &options.container).map_err(Status::bad_request)?;
    let node = str_at(&pod, "/spec/nodeName");
    if node.is_empty() {
        // Nobody runs it yet, so it has said nothing.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let node = super::node(call, node).await?;
    let path = format!("/containerLogs/{}/{}/{container}", str_at(&pod, "/metadata/namespace"), str_at(&pod, "/metadata/name"));
    let mut target = call.api.backends.on_kubelet(&node, path, options.query())?;
    if options.insecure_skip_tls_verify_backend {
        target.transport = Transport::KubeletUnverified;
    }
    fetch(call, &target).await
}

async fn fetch(call: &mut Call, target: &Target) -> Answer {
    let request = http::Request::builder()
        .method(Method::GET)
        .uri(target.path_and_query())
        .header(header::HOST, target.authority())
        .body(Body::empty())
        .map_err(|e| Status::internal_error(&e.to_string()))?;
    let url = format!("{}://{}{}", target.scheme(), target.authority(), target.path_and_query());
    let sent = call.api.backends.send(target, request).await;
    let response = sent.map_err(|e| Status::unknown(format!("Get {}: {e}", quote(&url))))?;
    let code = response.status();
    if code.is_redirection() && response.headers().contains_key(header::LOCATION) {
        return Err(Status::unknown(format!("Get {}: redirects forbidden", quote(&url))));
    }
    if !(200..=206).contains(&code.as_u16()) {
        return Err(refused(call, code, response.into_body()).await);
    }
    let body = Body::new(response.into_body());
    if let Some(offered) = web_socket::offered(&call.request.headers) {
        let form = bytes_out::form(&offered);
        return over_web_socket(call, body, form);
    }
    let mut streamed = Response::new(body);
    streamed.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(streamed)
}

/// Sends the log as messages. A client that offers only forms that we do not have is turned away, as upstream's library does.
fn over_web_socket(call: &mut Call, body: Body, form: Option<Form>) -> Answer {
    let Some(form) = form else {
        let mut refusal = Response::new(Body::empty());
        *refusal.status_mut() = StatusCode::FORBIDDEN;
        return Ok(refusal);
    };
    let agreement = web_socket::agreement(&call.request.headers, form.protocol);
    let (Some(client), Some(agreement)) = (call.request.upgrade.take(), agreement) else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    tokio::spawn(async move {
        match web_socket::open(client).await {
            Ok(socket) => bytes_out::send(socket, body, form).await,
            Err(error) => tracing::debug!(%error, "a client did not take its WebSocket"),
        }
    });
    Ok(agreement)
}

/// Bytes of what a kubelet says in place of a log.
const MAX_REFUSAL_BYTES: usize = 50_000;

/// What the kubelet said in place of a log.
async fn refused(call: &Call, code: StatusCode, mut body: hyper::body::Incoming) -> Status {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        text.extend_from_slice(&data[..data.len().min(MAX_REFUSAL_BYTES - text.len())]);
        if text.len() == MAX_REFUSAL_BYTES {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text);
    match code {
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal_error(&text),
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        _ => Status::generic(code.as_u16(), "", "", "pods/log", call.name(), &text),
    }
}

/// PodLogOptions.
#[derive(Debug, Default)]
struct Options {
    container: String,
    follow: bool,
    previous: bool,
    timestamps: bool,
    since_seconds: Option<i64>,
    since_time: Option<Moment>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
    stream: bool,
    insecure_skip_tls_verify_backend: bool,
}

impl Options {
    fn parse(query: &Query) -> Result<Options, Status> {
        let since_time = match query.get("sinceTime").filter(|text| !text.is_empty() && *text != "null") {
            Some(text) => Some(parse_time(text).map_err(|e| Status::bad_request(e.to_string()))?),
            None => None,
        };
        Ok(Options {
            container: query.get("container").unwrap_or("").to_owned(),
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            since_seconds: super::integer(query, "sinceSeconds")?,
            since_time,
            tail_lines: super::integer(query, "tailLines")?,
            limit_bytes: super::integer(query, "limitBytes")?,
            stream: query.get("stream").is_some(),
            insecure_skip_tls_verify_backend: query.flag("insecureSkipTLSVerifyBackend"),
        })
    }

    fn check(&self) -> ErrorList {
        connect::validate_log_options(&LogOptions {
            tail_lines: self.tail_lines,
            limit_bytes: self.limit_bytes,
            since_seconds: self.since_seconds,
            since_time: self.since_time.is_some(),
            stream: self.stream,
        })
    }

    /// What the kubelet is asked for.
    fn query(&self) -> String {
        let mut pairs: Vec<(&str, String)> = Vec::new();
        for (key, set) in [("follow", self.follow), ("previous", self.previous), ("timestamps", self.timestamps)] {
            if set {
                pairs.push((key, "true".to_owned()));
            }
        }
        let numbers = [("sinceSeconds", self.since_seconds), ("tailLines", self.tail_lines), ("limitBytes", self.limit_bytes)];
        pairs.extend(numbers.into_iter().filter_map(|(key, number)| Some((key, number?.to_string()))));
        pairs.extend(self.since_time.map(|time| ("sinceTime", time.to_time())));
        encode_query(&pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(query: &str) -> Vec<String> {
        Options::parse(&Query::parse(query)).unwrap().check().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn options_are_checked_and_passed_on() {
        assert_eq!(
            problems("tailLines=-1&limitBytes=0"),
            ["tailLines: Invalid value: -1: must be greater than or equal to 0", "limitBytes: Invalid value: 0: must be greater than 0",]
        );
        assert_eq!(problems("sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z&stream=All").len(), 2);
        let error = Options::parse(&Query::parse("tailLines=x")).unwrap_err();
        assert_eq!((error.code, &*error.message), (400, "strconv.ParseInt: parsing \"x\": invalid syntax"));
        let options = Options::parse(&Query::parse("follow=true&tailLines=5&timestamps=false&sinceTime=2020-01-01T00:00:00Z")).unwrap();
        assert_eq!(options.query(), "follow=true&sinceTime=2020-01-01T00%3A00%3A00Z&tailLines=5");
    }
}
