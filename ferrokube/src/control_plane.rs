//! What runs beside the API server in the cluster's process: controllers, scheduler and cluster DNS, as its clients without a connection.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use apimachinery::status::Status;
use apiserver::api::Api;
use apiserver::filters::authentication::User;
use apiserver::in_process;
use apiserver::loopback::Loopback;
use client::requests::Counted;
use client::{Informers, Shutdown};
use controllers::manager::{self, Clients, Selection, SigningFiles};
use serde_json::json;

use crate::nodes::Layout;
use crate::{default_storage, grants, network_policies, process_metrics};

/// The port where cluster DNS listens on the bridge; pods ask at 53 of its service.
const DNS_PORT: u16 = 10053;
/// The host part of the address of cluster DNS among the services, as installers have it.
const DNS_HOST: u8 = 10;
/// Where pods get their addresses from if there are no nodes on this machine.
const DEFAULT_POD_CIDR: &str = "10.244.0.0/16";

/// A part of a cluster that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    KubeControllerManager,
    KubeScheduler,
    KubeProxy,
    Dns,
    /// The default storage class and what its provisioners may do.
    DefaultStorage,
    /// The enforcement of NetworkPolicies, which a network plugin may have of its own.
    NetworkPolicy,
    /// metrics.k8s.io, which `kubectl top` and autoscalers read.
    ResourceMetrics,
}

/// What the control plane is told.
pub struct Config {
    controllers: Option<manager::Config>,
    scheduler: bool,
    default_storage: bool,
    network_policy: bool,
    dns: Option<Dns>,
}

struct Dns {
    /// Where it listens.
    listen: SocketAddr,
    /// The address of its service.
    service: IpAddr,
}

impl Config {
    /// For the API server of this configuration; `layout` if there are nodes on this machine.
    pub fn new(server: &apiserver::run::Config, layout: Option<&Layout>, disabled: &[Part]) -> anyhow::Result<Config> {
        let has = |part| !disabled.contains(&part);
        let pki = |name: &str| Some(server.data_dir.join("pki").join(name));
        let ranges: Vec<String> = server.service_cluster_ip_range.iter().map(ToString::to_string).collect();
        let controllers = manager::Config {
            allocate_node_cidrs: true,
            cluster_cidr: cluster_cidr(layout),
            service_cluster_ip_range: ranges.join(","),
            root_ca_file: pki("ca.crt"),
            cluster_signing: SigningFiles { cert: pki("ca.crt"), key: pki("ca.key") },
            // Where another program signs, nobody here does: there are no tokens for old Secrets, as with upstream.
            service_account_private_key_file: match &server.tokens.service_account_signing_endpoint {
                Some(_) => None,
                None => server.tokens.service_account_signing_key_file.clone().or(pki("sa.key")),
            },
            use_service_account_credentials: true,
            ..manager::Config::default()
        };
        let dns = match layout {
            Some(layout) if has(Part::Dns) => {
                let listen = SocketAddr::new(layout.gateway().into(), DNS_PORT);
                Some(Dns { listen, service: dns_address(server)? })
            }
            _ => None,
        };
        Ok(Config {
            controllers: has(Part::KubeControllerManager).then_some(controllers),
            scheduler: has(Part::KubeScheduler),
            // Directories are made by the nodes of this machine.
            default_storage: layout.is_some() && has(Part::DefaultStorage),
            network_policy: has(Part::NetworkPolicy),
            dns,
        })
    }
}

/// Where pods get their addresses from.
pub fn cluster_cidr(layout: Option<&Layout>) -> String {
    layout.map_or_else(|| DEFAULT_POD_CIDR.to_owned(), Layout::pod_cidr)
}

/// The address of cluster DNS among the services.
pub fn dns_address(server: &apiserver::run::Config) -> anyhow::Result<IpAddr> {
    let range = server.service_cluster_ip_range.first().context("there is no range for services")?;
    Ok(match range.first() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) - 1 + u32::from(DNS_HOST)).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) - 1 + u128::from(DNS_HOST)).into()),
    })
}

/// The controllers of this process: each acts as its own service account.
struct InProcess(Arc<Api>);

/// Those that are on by default, and those that let machines join, as installers turn them on.
const CONTROLLERS: [&str; 3] = ["*", "bootstrap-signer-controller", "token-cleaner-controller"];
const CONTROLLER_MANAGER: &str = "kube-controller-manager";

impl Clients for InProcess {
    fn shared(&self) -> kube::Client {
        counted(&self.0, in_process::component("system:kube-controller-manager"), CONTROLLER_MANAGER)
    }

    fn of(&self, account: &str) -> kube::Client {
        counted(&self.0, in_process::service_account("kube-system", account), CONTROLLER_MANAGER)
    }
}

/// A client in this process whose requests are counted as those of separate processes are.
fn counted(api: &Arc<Api>, user: User, component: &str) -> kube::Client {
    kube::Client::new(Counted::new(in_process::transport(api, user, component), "in-process"), "default")
}

/// Runs everything until shutdown.
pub async fn run(api: Arc<Api>, config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let scheduled: Arc<scheduler::Metrics> = Arc::default();
    let told = scheduled.clone();
    let (has_controllers, has_scheduler) = (config.controllers.is_some(), config.scheduler);
    // One process has one page of metrics.
    api.metrics.tell_also(move |out| {
        process_metrics::render_clients(out);
        if has_controllers {
            controllers::metrics::render(out);
        }
        if has_scheduler {
            out.push_str(&told.render());
        }
    });
    let controllers = {
        let (api, shutdown) = (api.clone(), shutdown.clone());
        async move {
            if let Some(controllers) = config.controllers {
                manager::run(InProcess(api), controllers, &Selection::parse(CONTROLLERS)?, shutdown).await;
            }
            anyhow::Ok(())
        }
    };
    let scheduler = async {
        if !config.scheduler {
            return Ok(());
        }
        let client = counted(&api, in_process::component("system:kube-scheduler"), "kube-scheduler");
        let informers = Informers::new(client.clone(), shutdown.clone());
        scheduler::run_with(client, informers, scheduler::Config::default(), scheduled, shutdown.clone()).await.context("scheduler")
    };
    let storage = async {
        if !config.default_storage {
            return Ok(());
        }
        default_storage::publish(&api).await.map_err(|status| anyhow::anyhow!("the default storage class: {}", status.message))
    };
    let policies = async {
        if !config.network_policy {
            return Ok(());
        }
        network_policies::publish(&api).await.map_err(|status| anyhow::anyhow!("who enforces network policies: {}", status.message))
    };
    let dns = async {
        let Some(dns) = &config.dns else { return Ok(()) };
        publish(&api, dns).await.map_err(|status| anyhow::anyhow!("the service of cluster DNS: {}", status.message))?;
        let config = dns::Config { bind: vec![dns.listen], resolv_conf: PathBuf::from("/etc/resolv.conf"), ..dns::Config::default() };
        let client = in_process::client(&api, in_process::service_account("kube-system", "coredns"), "dns");
        dns::run(client, config, shutdown.clone()).await.context("cluster DNS")
    };
    let (controllers, scheduler, storage, policies, dns) = tokio::join!(controllers, scheduler, storage, policies, dns);
    controllers.and(scheduler).and(storage).and(policies).and(dns)
}

/// Tells pods where cluster DNS is: a service without a selector, and its one endpoint.
async fn publish(api: &Arc<Api>, dns: &Dns) -> Result<(), Status> {
    let client = Loopback::new(api).with_manager("ferrokube");
    let labels = json!({ "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true" });
    let port = |name: &str, protocol: &str, port: u16| json!({ "name": name, "protocol": protocol, "port": port });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "kube-dns", "namespace": "kube-system", "labels": labels },
        "spec": { "clusterIP": dns.service, "ports": [port("dns", "UDP", 53), port("dns-tcp", "TCP", 53)] },
    });
    client.ensure("/api/v1/namespaces/kube-system/services", service).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            // Network policies take it for a pod with these labels, which are those that such pods commonly have.
            "labels": { "kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "ferrokube", "k8s-app": "kube-dns" },
        },
        "addressType": if dns.listen.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [dns.listen.ip()], "conditions": { "ready": true, "serving": true, "terminating": false } }],
        "ports": [port("dns", "UDP", dns.listen.port()), port("dns-tcp", "TCP", dns.listen.port())],
    });
    client.apply("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns", &slice).await?;
    // Cluster DNS reads what the reference's DNS server reads.
    let rules = json!([
        { "apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"] },
        { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
    ]);
    grants::grant(&client, "system:coredns", rules, json!({ "kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system" }))
        .await
}
