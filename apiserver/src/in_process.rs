//! The transport of components that run in the API server's own process: a `kube::Client` without sockets, TLS and credentials.
//!
//! Its requests take the same steps as anybody's, but that the process vouches for who sends them. Bodies are handed over as they
//! are made: a watch is read from the log at the reader's pace, so nothing is queued in between. Protocol upgrades (exec, attach,
//! port-forward) need a connection and fail here.

use std::sync::Arc;

use axum::body::Body;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use tower::{Service, service_fn};

use crate::api::Api;
use crate::discovery::documents::GIT_VERSION;
use crate::filters;
use crate::filters::authentication::User;
use crate::tokens::claims;

/// A client that acts as `user`. `component` is the program that it is part of, such as `kube-scheduler`: the server takes the
/// names of field managers from it.
pub fn client(api: &Arc<Api>, user: User, component: &str) -> kube::Client {
    kube::Client::new(transport(api, user, component), "default")
}

/// What carries the requests of such a client.
pub fn transport(
    api: &Arc<Api>,
    user: User,
    component: &str,
) -> impl Service<Request<kube::client::Body>, Response = Response<Body>, Error = kube::Error, Future: Send + 'static> + Send + 'static + use<>
{
    let api = api.clone();
    let agent = user_agent(component);
    service_fn(move |request: Request<kube::client::Body>| -> BoxFuture<'static, Result<Response<Body>, kube::Error>> {
        let (api, user, agent) = (api.clone(), user.clone(), agent.clone());
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            head.headers.entry(header::USER_AGENT).or_insert(agent);
            if let Some(uri) = without_end(&head.uri) {
                head.uri = uri;
            }
            let body = Full::new(body.collect_bytes().await?);
            Ok(filters::serve_own(api, Request::from_parts(head, body), user).await)
        })
    })
}

/// The same watch without `timeoutSeconds`; nothing if it is no watch, or has none. Clients end watches so that those on dead connections
/// end, too, and there is no connection here that could be dead.
fn without_end(uri: &Uri) -> Option<Uri> {
    let query = uri.query().filter(|query| query.contains("watch=true") && query.contains("timeoutSeconds="))?;
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("timeoutSeconds=")).collect();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{}?{}", uri.path(), kept.join("&")).parse().ok();
    Uri::from_parts(parts).ok()
}

/// A user that is a component: a name such as `system:kube-scheduler`, and no groups but the one of all authenticated users.
pub fn component(name: &str) -> User {
    User { name: name.to_owned(), ..User::default() }
}

/// The user that is a node.
pub fn node(name: &str) -> User {
    User { name: format!("system:node:{name}"), groups: vec!["system:nodes".to_owned()], ..User::default() }
}

/// The user that is a service account.
pub fn service_account(namespace: &str, name: &str) -> User {
    User { name: format!("system:serviceaccount:{namespace}:{name}"), groups: claims::groups(namespace), ..User::default() }
}

/// As client-go's programs introduce themselves.
fn user_agent(component: &str) -> HeaderValue {
    let text = format!("{component}/{GIT_VERSION} ({}/{})", std::env::consts::OS, std::env::consts::ARCH);
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use futures::StreamExt;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
    use tokio::sync::watch;

    use super::*;
    use crate::authorization::Mode;
    use crate::run::{Config, Server};
    use crate::storage::etcd;
    use crate::{admission, authentication, authorization, tokens};

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn config(data_dir: &std::path::Path) -> Config {
        Config {
            data_dir: data_dir.to_owned(),
            bind_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            secure_port: 0,
            token_auth_file: None,
            authentication: authentication::Config { anonymous_auth: Some(false), ..authentication::Config::default() },
            authorization: authorization::Config { authorization_mode: vec![Mode::Rbac], ..authorization::Config::default() },
            tokens: tokens::Config::default(),
            enable_bootstrap_token_auth: false,
            admission: admission::Config::default(),
            extra_sans: Vec::new(),
            advertise_address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            service_cluster_ip_range: vec!["10.96.0.0/16".parse().unwrap()],
            service_node_port_range: crate::allocation::ports::PortRange::default(),
            kubernetes_service_node_port: 0,
            endpoint_reconciler: crate::system::Reconciler::Own,
            told: crate::api::Told::default(),
            shutdown_delay_duration: Duration::ZERO,
            etcd: None::<etcd::Address>,
            compaction_interval: Duration::ZERO,
            tls_files: None,
            tls_sni: Vec::new(),
            tls_settings: crate::tls::Settings::default(),
            connections: crate::server::Settings::default(),
            client_ca_file: None,
            browsers: crate::filters::browsers::Browsers::default(),
            enable_priority_and_fairness: true,
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            request_timeout: Duration::from_secs(60),
            store_timeouts: crate::api::StoreTimeouts::default(),
            permit_port_sharing: false,
            kubelets: crate::run::Kubelets::default(),
            audit: crate::audit::Config::default(),
            encryption: crate::encryption::Config::default(),
            front_proxies: crate::run::FrontProxies::default(),
            resource_metrics: true,
        }
    }

    fn config_map(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.data = Some([("a".to_owned(), "b".to_owned())].into());
        object
    }

    /// Nothing listens here: what a component does in process needs no socket.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_component_creates_lists_watches_patches_and_deletes_as_the_user_it_is_vouched_for() {
        let directory = tempfile::tempdir().unwrap();
        let (_stop, shutdown) = watch::channel(false);
        let server = Server::start(&config(directory.path()), shutdown).await.unwrap();

        let admin = User { name: "admin".to_owned(), groups: vec!["system:masters".to_owned()], ..User::default() };
        let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client(&server.api, admin, "kube-controller-manager"), "default");
        let seen = maps.list(&ListParams::default()).await.unwrap();
        let revision = seen.metadata.resource_version.unwrap();
        let mut events = maps.watch(&WatchParams::default(), &revision).await.unwrap().boxed();

        let created = maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
        let managers: Vec<_> = created.metadata.managed_fields.iter().flatten().filter_map(|m| m.manager.as_deref()).collect();
        assert_eq!(managers, ["kube-controller-manager"]);
        let patch = serde_json::json!({ "data": { "k": "v" } });
        let patched = maps.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        assert_eq!(patched.data.unwrap()["k"], "v");
        maps.delete("a", &DeleteParams::default()).await.unwrap();

        let mut told = Vec::new();
        while told.len() < 3 {
            let event = tokio::time::timeout(TIMEOUT, events.next()).await.unwrap().unwrap().unwrap();
            told.push(match event {
                WatchEvent::Added(o) => format!("added {}", o.metadata.name.unwrap()),
                WatchEvent::Modified(o) => format!("modified {}", o.metadata.name.unwrap()),
                WatchEvent::Deleted(o) => format!("deleted {}", o.metadata.name.unwrap()),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => panic!("{status:?}"),
            });
        }
        assert_eq!(told, ["added a", "modified a", "deleted a"]);

        // Another user is held to what it may do, and the groups of all users are its own too.
        let account = service_account("kube-system", "nobody-special");
        let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client(&server.api, account, "test"), "default");
        let refused = maps.create(&PostParams::default(), &config_map("b")).await.unwrap_err();
        let kube::Error::Api(status) = refused else { panic!("{refused:?}") };
        let expect = r#"configmaps is forbidden: User "system:serviceaccount:kube-system:nobody-special" cannot create resource "configmaps" in API group "" in the namespace "default""#;
        assert_eq!((status.code, status.message.as_str()), (403, expect));
    }

    #[test]
    fn a_watch_in_process_has_no_end_of_its_own() {
        let without = |uri: &str| without_end(&uri.parse().unwrap()).map(|uri| uri.to_string());
        let watch = "/api/v1/pods?&watch=true&timeoutSeconds=290&allowWatchBookmarks=true";
        assert_eq!(without(watch).as_deref(), Some("/api/v1/pods?&watch=true&allowWatchBookmarks=true"));
        assert_eq!(without("/api/v1/pods?timeoutSeconds=290"), None);
        assert_eq!(without("/api/v1/pods?watch=true"), None);
    }

    /// The discovery that everybody authenticated may read, which says that the group was added.
    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_is_vouched_for_is_authenticated() {
        let directory = tempfile::tempdir().unwrap();
        let (_stop, shutdown) = watch::channel(false);
        let server = Server::start(&config(directory.path()), shutdown).await.unwrap();
        let groups = client(&server.api, component("somebody"), "test").list_api_groups().await.unwrap();
        assert!(groups.groups.iter().any(|g| g.name == "apps"));
    }
}
