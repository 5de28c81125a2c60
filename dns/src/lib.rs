//! Cluster DNS: names of Services, their endpoints and pods, as the Kubernetes DNS specification has them; everything else is
//! asked upstream.
//!
//! [`question`] says what a name means, [`answer`] what is known about it: both are pure. Reads Services, EndpointSlices and
//! Namespaces, never pods, and writes nothing.

pub mod answer;
mod cache;
mod config;
mod forward;
pub mod question;
mod resolv_conf;
mod respond;
mod server;
mod view;

pub use config::Config;
pub use view::View;

use std::net::SocketAddr;
use std::sync::Arc;

use client::{Informers, Shutdown};
use kube::Client;

use answer::Zone;
use forward::Forwarder;
use respond::Responder;
use server::Listener;

/// Why cluster DNS ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{domain:?} is not a domain: {source}")]
    Domain { domain: String, source: hickory_proto::ProtoError },
}

/// Answers questions until shutdown. Listens at once and answers `SERVFAIL` for the cluster's names until it knows them all.
pub async fn run(client: Client, config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let view = View::of(&Informers::new(client, shutdown.clone()));
    Server::bind(view, &config).await?.serve(shutdown).await;
    Ok(())
}

/// A server that listens and takes nothing yet.
pub struct Server {
    listeners: Vec<Listener>,
    responder: Arc<Responder>,
}

impl Server {
    /// With informers that somebody else may have, too.
    pub async fn bind(view: View, config: &Config) -> Result<Server, Error> {
        let zone = Zone::new(&config.domain, config.ttl_s).map_err(|source| Error::Domain { domain: config.domain.clone(), source })?;
        let servers = if config.upstream.is_empty() {
            let text = std::fs::read_to_string(&config.resolv_conf);
            if let Err(error) = &text {
                tracing::warn!(file = %config.resolv_conf.display(), %error, "names outside of the cluster are refused");
            }
            resolv_conf::servers(&text.unwrap_or_default())
        } else {
            config.upstream.clone()
        };
        let forwarder = Forwarder::new(respond::others(servers, &config.bind));
        let mut listeners = Vec::new();
        for address in &config.bind {
            let listener = Listener::bind(*address).await.map_err(|source| Error::Listen { address: *address, source })?;
            listeners.push(listener);
        }
        Ok(Server { listeners, responder: Arc::new(Responder { view, zone, forwarder }) })
    }

    /// Where it listens, now that free ports have numbers.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.address().ok()).collect()
    }

    pub async fn serve(self, shutdown: Shutdown) {
        let serving = self.listeners.into_iter().map(|listener| listener.serve(self.responder.clone(), shutdown.clone()));
        futures::future::join_all(serving).await;
    }
}
