//! Passes a request on to the server that its path belongs to, in the user's name, and the answer back: streams and upgraded connections
//! included. The words of refusals are the reference's, which answers them as plain text.

use std::fmt::Display;

use axum::body::Body;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::endpoint;
use super::registration::Registration;
use crate::api::Api;
use crate::endpoints::subresources::forward::{CROSS_ORIGIN, FORWARDED_FOR, FORWARDED_URI, HOP_BY_HOP, is_upgrade};
use crate::endpoints::subresources::location::Target;
use crate::endpoints::{Answer, respond};
use crate::filters::{Authorized, front_proxy};
use crate::metrics::tally::Terminated;
use crate::streaming::splice::splice;

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Answers a request to a claimed path.
pub async fn serve(api: &Api, registration: &Registration, request: Authorized) -> Answer {
    if !registration.available {
        return Ok(unavailable());
    }
    if let Err(why) = &registration.way {
        return Ok(ended(StatusCode::INTERNAL_SERVER_ERROR, why));
    }
    let target = match endpoint::resolve(api, &registration.service) {
        Ok(target) => target,
        Err(why) => {
            tracing::warn!(apiservice = registration.name, why, "nowhere to pass requests on to");
            return Ok(unavailable());
        }
    };
    Ok(pass(registration, &target, request).await)
}

async fn pass(registration: &Registration, target: &Target, mut request: Authorized) -> Response<Body> {
    let upgrade = request.upgrade.take().filter(|_| is_upgrade(&request.headers));
    let outgoing = match outgoing(&mut request, target, upgrade.is_some()) {
        Ok(outgoing) => outgoing,
        Err(why) => return failed(&why),
    };
    let sent = match &upgrade {
        Some(_) => registration.send_upgrade(target, outgoing).await,
        None => registration.send(target, outgoing).await,
    };
    match (sent, upgrade) {
        (Err(why), Some(_)) => failed(&format!("error dialing backend: {why}")),
        (Err(why), None) => failed(&format!("error trying to reach service: {why}")),
        (Ok(response), Some(client)) => upgraded(response, client),
        (Ok(response), None) => answered(response),
    }
}

fn unavailable() -> Response<Body> {
    failed(&"service unavailable")
}

fn failed(why: &dyn Display) -> Response<Body> {
    ended(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn ended(code: StatusCode, why: &dyn Display) -> Response<Body> {
    let mut response = respond::text(code, format!("{why}\n"));
    response.extensions_mut().insert(Terminated::BY_AGGREGATOR);
    response
}

/// The request as the other server gets it.
fn outgoing(request: &mut Authorized, target: &Target, upgrade: bool) -> Result<Request<Body>, http::Error> {
    let mut headers = std::mem::take(&mut request.headers);
    let uri = match request.raw_query.as_str() {
        "" => request.info.path.clone(),
        query => format!("{}?{query}", request.info.path),
    };
    let client = request.peer.address.ip().to_string();
    pass_on(&mut headers, &client, upgrade);
    front_proxy::speak_for(&request.user, &mut headers);
    let authority = HeaderValue::from_str(&target.authority())?;
    headers.insert(header::HOST, authority.clone());
    if !upgrade {
        headers.insert(FORWARDED_HOST, authority);
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
        headers.insert(FORWARDED_URI, HeaderValue::from_str(&request.info.path)?);
    }
    let body = request.body.take().map_or_else(Body::empty, Body::new);
    let mut outgoing = Request::builder().method(request.method.clone()).uri(uri).body(body)?;
    *outgoing.headers_mut() = headers;
    Ok(outgoing)
}

/// Leaves out what concerns the client's connection alone, and says where the request comes from.
fn pass_on(headers: &mut HeaderMap, client: &str, upgrade: bool) {
    if !upgrade {
        // What the client's connection calls its own goes too.
        let own: Vec<String> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
            .collect();
        own.iter().for_each(|name| {
            headers.remove(name.as_str());
        });
        HOP_BY_HOP.iter().for_each(|name| {
            headers.remove(name);
        });
    }
    let before = headers.get(&FORWARDED_FOR).and_then(|value| value.to_str().ok());
    let chain = before.map_or_else(|| client.to_owned(), |before| format!("{before}, {client}"));
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
}

fn answered(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    head.version = http::Version::default();
    if head.status.is_redirection() && head.headers.get(header::LOCATION).is_some_and(|to| !to.is_empty()) {
        // Clients would follow with their credentials.
        let mut refused = Response::new(Body::from("the backend attempted to redirect this request, which is not permitted"));
        *refused.status_mut() = StatusCode::BAD_GATEWAY;
        return refused;
    }
    HOP_BY_HOP.iter().chain(&CROSS_ORIGIN).for_each(|name| {
        head.headers.remove(name);
    });
    Response::from_parts(head, body)
}

/// The answer to a wish to upgrade: when the other server agrees, both connections are joined until one ends.
fn upgraded(mut response: Response<Body>, client: OnUpgrade) -> Response<Body> {
    let code = response.status();
    if code != StatusCode::SWITCHING_PROTOCOLS {
        if code.as_u16() < 400 {
            return failed(&format!("invalid upgrade response: status code {}", code.as_u16()));
        }
        return answered(response);
    }
    let backend = hyper::upgrade::on(&mut response);
    let held = (crate::audit::current(), crate::metrics::tally::current());
    tokio::spawn(async move {
        match tokio::try_join!(client, backend) {
            Ok((client, backend)) => splice(TokioIo::new(client), TokioIo::new(backend)).await,
            Err(error) => tracing::debug!(%error, "an upgraded connection was not joined"),
        }
        drop(held);
    });
    Response::from_parts(response.into_parts().0, Body::empty())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use futures::StreamExt;
    use http::Method;
    use http_body_util::{BodyExt, Either, Full};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::aggregation::remote::Identity;
    use crate::endpoints::subresources::location;
    use crate::filters::authentication::User;
    use crate::pki::Pki;
    use crate::tls;

    /// A server that tells what it was asked, and by whom; below `/slow` it tells one thing more after that.
    async fn extension_server(pki: &Pki) -> SocketAddr {
        let serving = pki.serving(&["s.n.svc".to_owned()], &[]).unwrap();
        let acceptor = tls::acceptor(&serving.certificate, &serving.key, &tls::roots(&pki.front_proxy_ca().unwrap()).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not like the certificate goes away.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let shown = stream.get_ref().1.peer_certificates().is_some();
                    let service = service_fn(move |request| tell(request, shown));
                    let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        address
    }

    async fn tell(request: Request<Incoming>, shown: bool) -> Result<Response<Body>, Infallible> {
        let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let groups: Vec<&str> = request.headers().get_all("x-remote-group").iter().map(|v| v.to_str().unwrap()).collect();
        let told = json!({
            "asked": format!("{} {}", request.method(), request.uri().path_and_query().unwrap()), "user": header("x-remote-user"), "groups": groups,
            "extra": header("x-remote-extra-a%2fb"), "token": header("authorization"), "certificate": shown, "audit": header("audit-id"),
        });
        if request.uri().path().ends_with("/elsewhere") {
            return Ok(Response::builder().status(302).header(header::LOCATION, "https://elsewhere/").body(Body::empty()).unwrap());
        }
        if request.uri().path().ends_with("/echo") {
            tokio::spawn(async move {
                let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                stream.write_all(&word).await.unwrap();
            });
            let agreed = Response::builder().status(101).header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "echo");
            return Ok(agreed.header("x-told", told.to_string()).body(Body::empty()).unwrap());
        }
        if request.uri().path().contains("/slow") {
            let more = futures::stream::once(async { Ok::<_, Infallible>("first\n") }).chain(futures::stream::pending());
            return Ok(Response::new(Body::from_stream(more)));
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok(Response::new(Body::from(format!("{told}\n{}", String::from_utf8_lossy(&body)))))
    }

    fn registration(pki: &Pki, ca: &str) -> Registration {
        let api_service = json!({
            "metadata": {"name": "v1.a.example.com"},
            "spec": {"group": "a.example.com", "version": "v1", "caBundle": STANDARD.encode(ca), "service": {"namespace": "n", "name": "s"}},
        });
        Registration::read(&api_service, &Identity::new(&pki.front_proxy_client().unwrap()).unwrap(), None).unwrap()
    }

    fn request(method: Method, path: &str, body: &'static str) -> Authorized {
        let mut request = Authorized::loopback(method, path, "test");
        let extra = vec![("a/b".to_owned(), vec!["x".to_owned()])];
        request.user = User { name: "ann".to_owned(), groups: vec!["dev".to_owned(), "ops".to_owned()], extra, ..User::default() };
        request.headers.insert("audit-id", HeaderValue::from_static("id"));
        request.headers.insert("x-remote-group", HeaderValue::from_static("system:masters"));
        request.body = (!body.is_empty()).then(|| Either::Right(Full::from(body)));
        request
    }

    #[tokio::test]
    async fn the_other_server_is_told_who_asks_and_proves_who_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let address = extension_server(&pki).await;
        let target = location::anybody("https", "127.0.0.1", address.port().to_string());
        let ours = registration(&pki, &pki.ca().unwrap());
        let mut asked = request(Method::POST, "/apis/a.example.com/v1/things", "a body");
        asked.raw_query = "x=1".to_owned();
        let answer = pass(&ours, &target, asked).await;
        assert_eq!(answer.status(), 200);
        let text = String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let (told, body) = text.split_once('\n').unwrap();
        let expected = json!({
            "asked": "POST /apis/a.example.com/v1/things?x=1", "user": "ann", "groups": ["dev", "ops"], "extra": "x", "token": "",
            "certificate": true, "audit": "id",
        });
        assert_eq!((serde_json::from_str::<serde_json::Value>(told).unwrap(), body), (expected, "a body"));

        let elsewhere = pass(&ours, &target, request(Method::GET, "/apis/a.example.com/v1/elsewhere", "")).await;
        assert_eq!(elsewhere.status(), StatusCode::BAD_GATEWAY);

        let stranger = registration(&pki, &pki.front_proxy_ca().unwrap());
        let refused = pass(&stranger, &target, request(Method::GET, "/apis/a.example.com/v1/things", "")).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let why = refused.into_body().collect().await.unwrap().to_bytes();
        let expected = "error trying to reach service: tls: failed to verify certificate: x509: certificate signed by unknown authority\n";
        assert_eq!(String::from_utf8_lossy(&why), expected);
    }

    #[tokio::test]
    async fn an_upgraded_connection_is_joined_with_the_other_servers() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let address = extension_server(&pki).await;
        let ours = Arc::new(registration(&pki, &pki.ca().unwrap()));
        let target = Arc::new(location::anybody("https", "127.0.0.1", address.port().to_string()));
        let (mut client, server) = tokio::io::duplex(4096);
        let service = service_fn(move |mut incoming: Request<Incoming>| {
            let (ours, target) = (ours.clone(), target.clone());
            async move {
                let mut asked = request(Method::GET, "/apis/a.example.com/v1/echo", "");
                asked.upgrade = Some(hyper::upgrade::on(&mut incoming));
                asked.headers.extend(incoming.headers().clone());
                Ok::<_, Infallible>(pass(&ours, &target, asked).await)
            }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service).with_upgrades());
        client.write_all(b"GET /echo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101") && head.contains("\nupgrade: echo\r\n") && head.contains(r#""user":"ann""#), "{head}");
        client.write_all(b"ping").await.unwrap();
        let mut word = [0; 4];
        client.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
    }

    #[tokio::test]
    async fn what_is_told_bit_by_bit_is_passed_back_bit_by_bit() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let address = extension_server(&pki).await;
        let target = location::anybody("https", "127.0.0.1", address.port().to_string());
        let ours = registration(&pki, &pki.ca().unwrap());
        let answer = pass(&ours, &target, request(Method::GET, "/apis/a.example.com/v1/slow", "")).await;
        // The rest never comes.
        let first = answer.into_body().into_data_stream().next().await.unwrap().unwrap();
        assert_eq!(&first[..], b"first\n");
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_concerns_one_connection_is_not_passed_on() {
        let given =
            [("connection", "keep-alive, X-Mine"), ("x-mine", "1"), ("keep-alive", "5"), ("accept", "*/*"), ("x-forwarded-for", "a")];
        let mut passed = headers(&given);
        pass_on(&mut passed, "10.0.0.9", false);
        assert_eq!(passed, headers(&[("accept", "*/*"), ("x-forwarded-for", "a, 10.0.0.9")]));
        let mut upgrade = headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        pass_on(&mut upgrade, "10.0.0.9", true);
        assert_eq!(upgrade.get("upgrade").unwrap(), "websocket");
    }

    #[test]
    fn redirections_are_not_passed_back() {
        let response = |code: u16, pairs: &[(&'static str, &'static str)]| {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            *response.headers_mut() = headers(pairs);
            response
        };
        assert_eq!(answered(response(302, &[("location", "https://elsewhere/")])).status(), 502);
        assert_eq!(answered(response(304, &[("etag", "\"a\"")])).status(), 304);
        let kept =
            answered(response(200, &[("transfer-encoding", "chunked"), ("access-control-allow-origin", "*"), ("warning", "299 - \"x\"")]));
        assert_eq!(kept.headers(), &headers(&[("warning", "299 - \"x\"")]));
    }
}
