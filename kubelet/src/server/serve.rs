//! The way of a request: authentication, authorization, then what its route names.

use std::sync::Arc;

use axum::body::Body;
use client::Shutdown;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use kube::Client;
use tokio::net::TcpListener;

use super::authentication::{Authenticator, User};
use super::authorization::{self, Authorizer, Decision};
use super::listener::{self, Peer};
use super::respond::text;
use super::route::{self, Enabled, Route};
use super::{Config, Node, checkpoint, container_log, health, pages, run, stream, system_log, tls};

struct Server {
    node: Arc<dyn Node>,
    config: Config,
    authenticator: Authenticator,
    authorizer: Authorizer,
}

/// Serves the kubelet's API until shutdown. `client` asks the API server about tokens and permissions.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    node: Arc<dyn Node>,
    client: Client,
    shutdown: Shutdown,
) -> Result<(), tls::Error> {
    let acceptor = tls::acceptor(&config.certificate, config.client_ca.as_deref())?;
    let webhook = config.webhook_authentication.map(|ttl| (client.clone(), ttl));
    let server = Arc::new(Server {
        authenticator: Authenticator::new(config.anonymous, webhook),
        authorizer: Authorizer::new(node.name(), client, config.authorization),
        node,
        config,
    });
    let handler = move |request, peer| {
        let server = server.clone();
        async move { server.handle(request, peer).await }
    };
    listener::serve(listener, acceptor, handler, shutdown).await;
    Ok(())
}

impl Server {
    async fn handle(&self, mut request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let user = match self.authenticator.authenticate(request.headers(), &peer.certificates).await {
            Ok(Some(user)) => user,
            Ok(None) => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Err(error) => {
                tracing::warn!(%error, "unable to authenticate a request");
                return text(StatusCode::UNAUTHORIZED, "Unauthorized");
            }
        };
        if let Some(refusal) = self.refuse(&user, &request).await {
            return refusal;
        }
        // Nobody behind us is to learn the bearer's secret.
        request.headers_mut().remove(header::AUTHORIZATION);
        self.answer(request, &peer).await
    }

    async fn refuse(&self, user: &User, request: &Request<Incoming>) -> Option<Response<Body>> {
        let attributes = authorization::attributes(request.method(), request.uri().path());
        let verb = attributes.verb;
        match self.authorizer.authorize(user, &attributes).await {
            Decision::Allowed => None,
            Decision::Refused => {
                let (name, subresources) = (&user.name, attributes.subresources.join(" "));
                let message = format!("Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{subresources}])\n");
                Some(text(StatusCode::FORBIDDEN, message))
            }
            Decision::Failed(subresource, error) => {
                tracing::warn!(%error, user = user.name, verb, subresource, "authorization error");
                let message = format!("Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})", user.name);
                Some(text(StatusCode::INTERNAL_SERVER_ERROR, message))
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        let config = &self.config;
        let enabled = Enabled { debugging_handlers: config.debugging_handlers, system_log_handler: config.system_log_handler };
        let node = &*self.node;
        let query = route::query(request.uri().query());
        match route::route(request.method(), request.uri().path(), enabled) {
            Route::Health(check) => health::healthz(node, check.as_deref(), &query),
            Route::Pods => pages::pods(node),
            Route::RunningPods => pages::running_pods(node).await,
            Route::Summary => pages::summary(node, &query).await,
            Route::Metrics(page) => pages::metrics(node, page).await,
            Route::Configz => pages::configz(node),
            Route::SystemLogs(path) => system_log::show(&config.system_log_dir, &path, request.uri().path()).await,
            Route::ContainerLogs(container) => container_log::serve(node, &container, &query).await,
            Route::Run(container) => run::run(node, &container, &query).await,
            Route::Exec(container) => stream::exec(node, &container, &query, request, peer).await,
            Route::Attach(container) => stream::attach(node, &container, &query, request, peer).await,
            Route::PortForward(pod) => stream::port_forward(node, &pod, &query, request, peer).await,
            Route::Checkpoint(container) => checkpoint::checkpoint(node, &container, &query, &config.checkpoints_dir).await,
            Route::Disabled(why) => text(StatusCode::METHOD_NOT_ALLOWED, format!("{why}\n")),
            Route::MethodNotAllowed(allowed) => {
                let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
                response
            }
            Route::NotFound => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }
}
