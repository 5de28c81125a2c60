//! The answer to a question about the cluster: the Kubernetes DNS specification, as functions of a view.
//!
//! Where the specification leaves a choice, the answer is that of CoreDNS, which is what clients know.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use client::Object;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service as ServiceObject;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::question::{Service, Subject, subject};
use crate::view::{View, cluster_ips, service_of};

/// The version of the specification, which `dns-version` tells.
const SPECIFICATION: &str = "1.1.0";

/// Times of the zone's SOA, in seconds. Nobody transfers the zone; they are CoreDNS'.
const REFRESH_S: i32 = 7200;
const RETRY_S: i32 = 1800;
const EXPIRE_S: i32 = 86400;

/// The zone that we answer for.
#[derive(Clone, Debug)]
pub struct Zone {
    /// In lower case, label by label.
    labels: Vec<String>,
    origin: Name,
    ttl_s: u32,
}

/// What a question is answered with.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Found {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// There is such a name, without records of this type.
    NoData,
    /// There is no such name.
    NxDomain,
    /// The name stands for another one, whose records are asked for.
    Alias {
        record: Box<Record>,
        target: Name,
    },
    /// Somebody else knows.
    Elsewhere,
}

impl Zone {
    /// # Errors
    /// The domain is not a name.
    pub fn new(domain: &str, ttl_s: u32) -> Result<Zone, hickory_proto::ProtoError> {
        let mut origin = Name::from_ascii(domain)?.to_lowercase();
        origin.set_fqdn(true);
        let labels = origin.iter().map(|label| String::from_utf8_lossy(label).into_owned()).collect();
        Ok(Zone { labels, origin, ttl_s })
    }

    /// Whether the name is in the zone, whatever there is under it.
    pub fn contains(&self, name: &Name) -> bool {
        self.origin.zone_of(name)
    }

    /// The record that says for how long an answer of nothing may be kept.
    pub fn soa(&self, serial: u32) -> Record {
        let name = |label: &[&str]| self.name(label);
        let minimum = self.ttl_s;
        let soa = SOA::new(name(&["ns", "dns"]), name(&["hostmaster"]), serial, REFRESH_S, RETRY_S, EXPIRE_S, minimum);
        Record::from_rdata(self.origin.clone(), self.ttl_s, RData::SOA(soa))
    }

    /// A name in the zone. Labels come from names of objects, which are always valid.
    fn name(&self, labels: &[&str]) -> Name {
        let labels = labels.iter().map(|label| label.as_bytes()).chain(self.origin.iter());
        let mut name = Name::from_labels(labels).unwrap_or_else(|_| self.origin.clone());
        name.set_fqdn(true);
        name
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl_s, data)
    }

    fn found(&self, name: &Name, data: impl IntoIterator<Item = RData>) -> Answer {
        let answers: Vec<Record> = data.into_iter().map(|data| self.record(name, data)).collect();
        if answers.is_empty() { Answer::NoData } else { Answer::Found { answers, additionals: Vec::new() } }
    }

    /// Those of the addresses that the type asks for; no data if there are others only.
    fn addresses(&self, name: &Name, kind: RecordType, ips: impl IntoIterator<Item = IpAddr>) -> Answer {
        self.found(name, ips.into_iter().filter_map(|ip| address(kind, ip)))
    }
}

fn address(kind: RecordType, ip: IpAddr) -> Option<RData> {
    match (kind, ip) {
        (RecordType::A, IpAddr::V4(ip)) => Some(RData::A(A(ip))),
        (RecordType::AAAA, IpAddr::V6(ip)) => Some(RData::AAAA(AAAA(ip))),
        _ => None,
    }
}

fn any_address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// Answers a question of class `IN`. `serial` is that of the zone, should it be asked for.
pub fn answer(name: &Name, kind: RecordType, view: &View, zone: &Zone, serial: u32) -> Answer {
    match subject(name, &zone.labels) {
        Subject::Apex => match kind {
            RecordType::SOA => Answer::Found { answers: vec![zone.soa(serial)], additionals: Vec::new() },
            RecordType::NS => zone.found(name, [RData::NS(NS(zone.name(&["ns", "dns"])))]),
            _ => Answer::NoData,
        },
        Subject::Version if kind == RecordType::TXT => zone.found(name, [RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]))]),
        Subject::NameServer => match view.service("kube-system", "kube-dns") {
            Some(service) => zone.addresses(name, kind, cluster_ips(&service)),
            None => Answer::NoData,
        },
        Subject::Version | Subject::Branch => Answer::NoData,
        Subject::Namespace(namespace) if view.has_namespace(&namespace) => Answer::NoData,
        Subject::Pod { namespace, ip } if view.has_namespace(&namespace) => zone.addresses(name, kind, [ip]),
        Subject::Service(asked) => service(name, kind, &asked, view, zone),
        Subject::Reverse(ip) => reverse(name, kind, ip, view, zone),
        Subject::Namespace(_) | Subject::Pod { .. } | Subject::Nothing => Answer::NxDomain,
        Subject::Elsewhere => Answer::Elsewhere,
    }
}

/// One address and port that a name stands for, and the name that a target has by itself.
struct Target {
    ip: IpAddr,
    /// Nothing for a Service without ports, whose addresses have names all the same.
    port: Option<u16>,
    /// The endpoint's own label; nothing for a cluster IP.
    label: Option<String>,
}

fn service(name: &Name, kind: RecordType, asked: &Service, view: &View, zone: &Zone) -> Answer {
    let Some(object) = view.service(&asked.namespace, &asked.name) else { return Answer::NxDomain };
    let spec = object.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return external(name, kind, asked, spec.external_name.as_deref().unwrap_or(""), zone);
    }
    let ips = cluster_ips(&object);
    let targets = if ips.is_empty() || asked.endpoint.is_some() {
        endpoint_targets(&view.slices(&asked.namespace, &asked.name), asked)
    } else {
        cluster_ip_targets(&object, &ips, asked)
    };
    if targets.is_empty() {
        return Answer::NxDomain;
    }
    match kind {
        RecordType::A | RecordType::AAAA => {
            let mut seen = HashSet::new();
            zone.addresses(name, kind, targets.into_iter().map(|target| target.ip).filter(|ip| seen.insert(*ip)))
        }
        RecordType::SRV => srv(name, asked, &targets, zone),
        _ => Answer::NoData,
    }
}

/// Whether a port is the one that is asked for, if one is.
fn is_asked_for(asked: &Service, name: Option<&str>, protocol: Option<&str>) -> bool {
    asked
        .port
        .as_ref()
        .is_none_or(|(port, of)| name.unwrap_or("").eq_ignore_ascii_case(port) && protocol.unwrap_or("TCP").eq_ignore_ascii_case(of))
}

fn cluster_ip_targets(object: &ServiceObject, ips: &[IpAddr], asked: &Service) -> Vec<Target> {
    let ports = object.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let ports = ports.filter(|port| is_asked_for(asked, port.name.as_deref(), port.protocol.as_deref()));
    ports.flat_map(|port| ips.iter().map(|ip| Target { ip: *ip, port: u16::try_from(port.port).ok(), label: None })).collect()
}

/// The ready endpoints. Those of a Service that publishes others, too, are ready by the word of their slices.
fn endpoint_targets(slices: &[Arc<EndpointSlice>], asked: &Service) -> Vec<Target> {
    let mut targets = Vec::new();
    for slice in slices {
        let ports: Vec<Option<u16>> = match slice.ports.as_deref().unwrap_or_default() {
            [] if asked.port.is_none() => vec![None],
            ports => ports
                .iter()
                .filter(|port| is_asked_for(asked, port.name.as_deref(), port.protocol.as_deref()))
                .map(|port| port.port.and_then(|number| u16::try_from(number).ok()))
                .collect(),
        };
        for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)) {
            for ip in endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
                let label = label(endpoint, ip);
                if asked.endpoint.as_ref().is_none_or(|asked| label.eq_ignore_ascii_case(asked)) {
                    targets.extend(ports.iter().map(|port| Target { ip, port: *port, label: Some(label.clone()) }));
                }
            }
        }
    }
    targets
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// The endpoint's hostname, or its address with dashes.
fn label(endpoint: &Endpoint, ip: IpAddr) -> String {
    match endpoint.hostname.as_deref() {
        Some(hostname) if !hostname.is_empty() => hostname.to_owned(),
        _ => ip.to_string().replace(['.', ':'], "-"),
    }
}

fn srv(name: &Name, asked: &Service, targets: &[Target], zone: &Zone) -> Answer {
    let of = |target: &Target| match &target.label {
        Some(label) => zone.name(&[label, &asked.name, &asked.namespace, "svc"]),
        None => zone.name(&[&asked.name, &asked.namespace, "svc"]),
    };
    let mut answers: Vec<(u16, Name)> = Vec::new();
    let mut additionals = Vec::new();
    let (mut known, mut told) = (HashSet::new(), HashSet::new());
    for target in targets {
        let host = of(target);
        if let Some(port) = target.port
            && known.insert((port, host.clone()))
        {
            answers.push((port, host.clone()));
        }
        if told.insert((host.clone(), target.ip)) {
            additionals.push(zone.record(&host, any_address(target.ip)));
        }
    }
    if answers.is_empty() {
        return Answer::NoData;
    }
    // All are as good as each other, and their shares add up to a hundred.
    let weight = u16::try_from(100 / answers.len()).unwrap_or(0);
    let answers = answers.into_iter().map(|(port, host)| zone.record(name, RData::SRV(SRV::new(0, weight, port, host)))).collect();
    Answer::Found { answers, additionals }
}

fn external(name: &Name, kind: RecordType, asked: &Service, target: &str, zone: &Zone) -> Answer {
    if asked.endpoint.is_some() || asked.port.is_some() {
        return Answer::NxDomain;
    }
    let Ok(mut target) = Name::from_ascii(target) else { return Answer::NoData };
    if target.is_root() {
        return Answer::NoData;
    }
    target.set_fqdn(true);
    let record = zone.record(name, RData::CNAME(CNAME(target.clone())));
    match kind {
        RecordType::CNAME => Answer::Found { answers: vec![record], additionals: Vec::new() },
        RecordType::A | RecordType::AAAA => Answer::Alias { record: Box::new(record), target },
        _ => Answer::NoData,
    }
}

/// The names of an address: its Service's, or those of its endpoints. Nobody's address may still have a name elsewhere.
fn reverse(name: &Name, kind: RecordType, ip: IpAddr, view: &View, zone: &Zone) -> Answer {
    let services = view.services_at(ip);
    let mut names: Vec<Name> = services.iter().map(|service| zone.name(&[service.name(), service.namespace(), "svc"])).collect();
    if names.is_empty() {
        for slice in view.slices_at(ip) {
            let Some(service) = service_of(&slice) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                if endpoint.addresses.iter().any(|text| text.parse() == Ok(ip)) {
                    names.push(zone.name(&[&label(endpoint, ip), &service.name, &service.namespace, "svc"]));
                }
            }
        }
    }
    if names.is_empty() {
        return Answer::Elsewhere;
    }
    names.sort();
    names.dedup();
    if kind == RecordType::PTR { zone.found(name, names.into_iter().map(|name| RData::PTR(PTR(name)))) } else { Answer::NoData }
}

#[cfg(test)]
mod tests;
