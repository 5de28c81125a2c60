//! What an API server puts into its own cluster and keeps there: the namespaces, classes, services and registrations that
//! everybody else relies on.
//!
//! [`prepare`] runs before the server is ready, [`spawn`] starts what goes on afterwards. Everything is written through
//! [`Loopback`], so it passes the same steps as a client's writes. One file an object or a controller; the controllers are pure
//! decisions with a small shell, woken by changes and never by a clock alone.

pub mod api_availability;
pub mod api_services;
pub mod authentication_trust;
pub mod crd_approval;
pub mod crd_cleanup;
pub mod crd_names;
pub mod endpoint_leases;
pub mod identity_lease;
pub mod keyed;
pub mod kubernetes_service;
pub mod legacy_token_tracking;
pub mod priority_classes;
pub mod service_cidr;
pub mod watched;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::status::Status;
use tokio::task::JoinHandle;

use crate::api::Api;
use crate::filters::front_proxy;
use crate::flow_control;
use crate::loopback::Loopback;
use service_cidr::ServiceRange;
use watched::Watched;

/// Who keeps the endpoints of the service `kubernetes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciler {
    /// Somebody else.
    Nobody,
    /// This server, which knows of no other.
    Own,
    /// All servers on the store, by leases that they keep there.
    Leases,
}

/// What the objects say about this server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address that others in the cluster reach this server at; `None` where it has none, and then nobody is told.
    pub advertise_address: Option<IpAddr>,
    /// The port there.
    pub port: u16,
    /// Where nodes serve the service `kubernetes`; 0 for nowhere.
    pub node_port: u16,
    /// Who keeps the endpoints of the service `kubernetes`.
    pub reconciler: Reconciler,
    /// The ranges that services get their addresses from, the default family first.
    pub service_ranges: Vec<ServiceRange>,
    /// The CA of client certificates, PEM.
    pub client_ca: String,
    /// Which front proxies are believed.
    pub front_proxies: front_proxy::Config,
    pub hostname: String,
}

/// Creates what must be there before the server is ready.
pub async fn prepare(api: &Arc<Api>, settings: &Settings) -> Result<(), Status> {
    let client = Loopback::new(api);
    let flow_control = async {
        if client.serves(flow_control::GROUP, flow_control::SCHEMAS) {
            flow_control::ensure::ensure(&client).await?;
        }
        flow_control::follow::refresh(&client);
        Ok(())
    };
    let services = async {
        service_cidr::ensure(&client, settings).await?;
        if let Err(status) = kubernetes_service::prepare(&client, settings).await {
            // A full range, say, must not keep the server from starting: it is tried again later.
            tracing::warn!(error = status.message, "the service kubernetes is not there yet");
        }
        Ok(())
    };
    let accounts = async {
        authentication_trust::ensure(&client, &settings.client_ca, &settings.front_proxies).await?;
        legacy_token_tracking::ensure(&client).await
    };
    tokio::try_join!(flow_control, services, accounts, priority_classes::ensure(&client), api_services::ensure_builtin(&client),)?;
    Ok(())
}

/// Starts what goes on until the server stops. The answer ends when this server is told to stop and clients are led to it no more.
pub fn spawn(api: &Arc<Api>, settings: &Settings) -> JoinHandle<()> {
    let client = Loopback::new(api);
    let flow_objects = [(flow_control::GROUP, flow_control::SCHEMAS), (flow_control::GROUP, flow_control::LEVELS)];
    let (c, watched) = (client.clone(), Watched::new(api, &flow_objects));
    until_stopped(api, async move { flow_control::follow::keep(&c, watched).await });
    let c = client.clone();
    until_stopped(api, async move { flow_control::follow::lend(&c).await });
    let (c, watched) = (client.clone(), Watched::new(api, &flow_objects));
    until_stopped(api, async move { flow_control::ensure::keep(&c, watched).await });

    let (c, s, stop) = (client.clone(), settings.clone(), api.leaving.clone());
    let found = tokio::spawn(async move { kubernetes_service::keep(&c, &s, stop).await });
    let (c, s, watched) = (client.clone(), settings.clone(), authentication_trust::watched(api));
    until_stopped(api, async move { authentication_trust::keep(&c, &s, watched).await });

    api_services::spawn(&client);
    api_availability::spawn(&client);
    crd_names::spawn(&client);
    crd_approval::spawn(&client);
    crd_cleanup::spawn(&client);
    identity_lease::spawn(&client, settings);
    found
}

/// Runs a task until the server is told to stop.
fn until_stopped(api: &Arc<Api>, task: impl Future<Output = ()> + Send + 'static) {
    let mut shutdown = api.shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = task => {}
        }
    });
}
