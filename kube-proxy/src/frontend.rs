//! Where a Service's traffic arrives: one frontend for each of its ports, as one family of addresses sees it.

use std::fmt;
use std::net::IpAddr;

use client::{Object, ObjectKey};
use k8s_openapi::api::core::v1::Service;

use netfilter::family::{Cidr, Family, parse_cidr, parse_ip};

/// Services that another proxy takes care of have this label.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// How long a client stays with its endpoint when the Service does not say.
const DEFAULT_AFFINITY_S: u32 = 10800;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// TCP if nothing is said.
    pub fn parse(text: Option<&str>) -> Option<Protocol> {
        match text {
            None | Some("TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// The name as rules spell it.
    pub const fn lower(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// A Service's port by its name, which is empty for the only port of many Services, and by its protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    pub service: ObjectKey,
    pub port: String,
    pub protocol: Protocol,
}

/// `namespace/name:port`, or `namespace/name` when the port has no name.
impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub name: PortName,
    pub cluster_ip: IpAddr,
    pub port: u16,
    pub node_port: Option<u16>,
    pub external_ips: Vec<IpAddr>,
    /// Those on which a load balancer delivers packets as they came. Proxying load balancers have none here.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer's addresses; everybody if empty.
    pub source_ranges: Vec<Cidr>,
    /// For how many seconds a client stays with its endpoint.
    pub affinity_s: Option<u32>,
    pub health_check_node_port: Option<u16>,
    /// Traffic from outside is led to this node's endpoints only.
    pub external_local: bool,
    /// Traffic to the cluster IP is led to this node's endpoints only.
    pub internal_local: bool,
}

impl Frontend {
    /// Whether anything but the cluster IP leads here.
    pub fn is_externally_accessible(&self) -> bool {
        self.node_port.is_some() || !self.load_balancer_ips.is_empty() || !self.external_ips.is_empty()
    }

    /// Whether traffic may go to endpoints on any node. Even with the external policy `Local` it may: what comes from this
    /// node's pods is treated as if it had left and come back through a load balancer.
    pub fn uses_cluster_endpoints(&self) -> bool {
        !self.internal_local || self.is_externally_accessible()
    }

    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_local || (self.external_local && self.is_externally_accessible())
    }
}

/// Whether this is a Service for us: it has a cluster IP, and no other proxy is named.
pub fn is_proxied(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    let ip = spec.cluster_ip.as_deref().unwrap_or("");
    !ip.is_empty() && ip != "None" && spec.type_.as_deref() != Some("ExternalName") && service.label(PROXY_NAME_LABEL).is_none()
}

/// The frontends of a Service in one family; none if it is not for us or has no address in that family.
pub fn frontends(service: &Service, family: Family) -> Vec<Frontend> {
    let Some(spec) = service.spec.as_ref().filter(|_| is_proxied(service)) else { return Vec::new() };
    let Some(cluster_ip) = cluster_ip(service, family) else { return Vec::new() };
    let of_family = |texts: &Option<Vec<String>>| -> Vec<IpAddr> {
        texts.iter().flatten().filter_map(|text| parse_ip(text)).filter(|ip| Family::of(*ip) == family).collect()
    };
    let external_ips = of_family(&spec.external_ips);
    let ingress = service.status.iter().filter_map(|status| status.load_balancer.as_ref()).flat_map(|lb| lb.ingress.iter().flatten());
    let load_balancer_ips: Vec<IpAddr> = ingress
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|ingress| parse_ip(ingress.ip.as_deref()?))
        .filter(|ip| Family::of(*ip) == family)
        .collect();
    let mut source_ranges: Vec<Cidr> = spec
        .load_balancer_source_ranges
        .iter()
        .flatten()
        .filter_map(|range| parse_cidr(range))
        .filter(|cidr| cidr.family() == family)
        .collect();
    // A range that contains everything is no restriction.
    if source_ranges.iter().any(|range| range.prefix == 0) {
        source_ranges.clear();
    }
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let is_external = matches!(kind, "LoadBalancer" | "NodePort") || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    let external_local = is_external && spec.external_traffic_policy.as_deref() == Some("Local");
    let health_check = (kind == "LoadBalancer" && external_local).then_some(spec.health_check_node_port).flatten().and_then(port);
    let affinity_s = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let timeout = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
        timeout.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(DEFAULT_AFFINITY_S)
    });
    let key = service.key();
    let frontend = |p: &k8s_openapi::api::core::v1::ServicePort| {
        Some(Frontend {
            name: PortName {
                service: key.clone(),
                port: p.name.clone().unwrap_or_default(),
                protocol: Protocol::parse(p.protocol.as_deref())?,
            },
            cluster_ip,
            port: port(p.port)?,
            node_port: p.node_port.and_then(port),
            external_ips: external_ips.clone(),
            load_balancer_ips: load_balancer_ips.clone(),
            source_ranges: source_ranges.clone(),
            affinity_s,
            health_check_node_port: health_check,
            external_local,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        })
    };
    spec.ports.iter().flatten().filter_map(frontend).collect()
}

/// A port number; zero means none.
pub fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn cluster_ip(service: &Service, family: Family) -> Option<IpAddr> {
    let spec = service.spec.as_ref()?;
    let families = spec.ip_families.as_deref().unwrap_or_default();
    if families.is_empty() {
        return spec.cluster_ip.as_deref().and_then(parse_ip).filter(|ip| Family::of(*ip) == family);
    }
    let place = families.iter().position(|name| name == family.name())?;
    parse_ip(spec.cluster_ips.as_ref()?.get(place)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::service;

    #[test]
    fn a_family_sees_its_own_addresses() {
        let service = service(
            r#"{"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1","fd00::1"],"ipFamilies":["IPv4","IPv6"],"type":"LoadBalancer",
                "externalIPs":["1.2.3.4","fd01::1"],"loadBalancerSourceRanges":[" 10.0.0.0/8","fd00::/8"],
                "ports":[{"name":"http","port":80,"nodePort":30080},{"name":"dns","port":53,"protocol":"UDP"}]}"#,
            r#"{"loadBalancer":{"ingress":[{"ip":"5.6.7.8"},{"ip":"5.6.7.9","ipMode":"Proxy"},{"ip":"fd02::1"},{"hostname":"h"}]}}"#,
        );
        let v4 = frontends(&service, Family::V4);
        assert_eq!(v4.len(), 2);
        assert_eq!(v4[0].name.to_string(), "default/web:http");
        assert_eq!((v4[0].port, v4[0].node_port), (80, Some(30080)));
        assert_eq!(v4[0].external_ips, ["1.2.3.4".parse::<IpAddr>().unwrap()]);
        assert_eq!(v4[0].load_balancer_ips, ["5.6.7.8".parse::<IpAddr>().unwrap()]);
        assert_eq!(v4[0].source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8"]);
        assert_eq!(v4[1].name.protocol, Protocol::Udp);
        let v6 = frontends(&service, Family::V6);
        assert_eq!(v6[0].cluster_ip.to_string(), "fd00::1");
    }

    #[test]
    fn some_services_are_not_ours() {
        for spec in [
            r#"{"clusterIP":"None","ports":[{"port":80}]}"#,
            r#"{"ports":[{"port":80}]}"#,
            r#"{"type":"ExternalName","clusterIP":"10.0.0.1","ports":[{"port":80}]}"#,
        ] {
            assert!(frontends(&service(spec, "{}"), Family::V4).is_empty(), "{spec}");
        }
        let mut other = service(r#"{"clusterIP":"10.0.0.1","ports":[{"port":80}]}"#, "{}");
        assert_eq!(frontends(&other, Family::V4).len(), 1);
        other.metadata.labels.get_or_insert_default().insert(PROXY_NAME_LABEL.to_owned(), "other".to_owned());
        assert!(frontends(&other, Family::V4).is_empty());
    }

    #[test]
    fn policies_count_where_upstream_counts_them() {
        let of = |spec: &str| frontends(&service(spec, "{}"), Family::V4).remove(0);
        let cluster = of(r#"{"clusterIP":"10.0.0.1","externalTrafficPolicy":"Local","ports":[{"port":80}]}"#);
        assert!(!cluster.external_local && cluster.uses_cluster_endpoints() && !cluster.uses_local_endpoints());
        let balanced = of(
            r#"{"clusterIP":"10.0.0.1","type":"LoadBalancer","externalTrafficPolicy":"Local","healthCheckNodePort":31000,"ports":[{"port":80,"nodePort":30000}]}"#,
        );
        assert!(balanced.external_local && balanced.uses_cluster_endpoints() && balanced.uses_local_endpoints());
        assert_eq!(balanced.health_check_node_port, Some(31000));
        let internal = of(r#"{"clusterIP":"10.0.0.1","internalTrafficPolicy":"Local","sessionAffinity":"ClientIP","ports":[{"port":80}]}"#);
        assert!(!internal.uses_cluster_endpoints() && internal.uses_local_endpoints());
        assert_eq!(internal.affinity_s, Some(10800));
    }
}
