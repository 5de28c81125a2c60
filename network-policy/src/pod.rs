//! What policies look at of a pod, and the small part of a Pod object that this is read from: of thousands of pods that a node
//! watches, nothing else is kept.

use std::collections::BTreeMap;
use std::net::IpAddr;

use client::Object;
use k8s_openapi::api::core::v1::{self, ContainerPort, PodIP};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use netfilter::family::parse_ip;
use serde::{Deserialize, Deserializer, Serialize};

use crate::policy::protocol;

pub type Labels = BTreeMap<String, String>;

/// A pod with addresses of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
    /// What its containers call their ports.
    pub ports: Vec<NamedPort>,
    /// Whether it is on this node.
    pub is_local: bool,
    /// Seconds since the epoch. Of two that say they have one address, the younger one has it.
    pub created: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    pub protocol: u8,
    pub name: String,
    pub number: u16,
}

impl Pod {
    /// The numbers of the ports of this name, which may be several containers'.
    pub fn ports_named<'a>(&'a self, protocol: u8, name: &'a str) -> impl Iterator<Item = u16> + 'a {
        self.ports.iter().filter(move |port| port.protocol == protocol && port.name == name).map(|port| port.number)
    }
}

/// The part of a Pod that is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SlimPod {
    #[serde(default, deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SlimSpec,
    #[serde(default)]
    status: SlimStatus,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<SlimContainer>>,
    init_containers: Option<Vec<SlimContainer>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimContainer {
    ports: Option<Vec<ContainerPort>>,
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct SlimStatus {
    phase: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIP>>,
}

fn slim(metadata: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        resource_version: metadata.resource_version,
        creation_timestamp: metadata.creation_timestamp,
        labels: metadata.labels,
        ..ObjectMeta::default()
    }
}

fn slim_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    ObjectMeta::deserialize(deserializer).map(slim)
}

impl k8s_openapi::Resource for SlimPod {
    const API_VERSION: &'static str = <v1::Pod as k8s_openapi::Resource>::API_VERSION;
    const GROUP: &'static str = <v1::Pod as k8s_openapi::Resource>::GROUP;
    const KIND: &'static str = <v1::Pod as k8s_openapi::Resource>::KIND;
    const VERSION: &'static str = <v1::Pod as k8s_openapi::Resource>::VERSION;
    const URL_PATH_SEGMENT: &'static str = <v1::Pod as k8s_openapi::Resource>::URL_PATH_SEGMENT;
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl k8s_openapi::Metadata for SlimPod {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

/// Containers' ports, and those of init containers that go on running beside them.
fn named_ports<'a>(containers: impl Iterator<Item = &'a [ContainerPort]>) -> Vec<NamedPort> {
    let named = |port: &ContainerPort| {
        Some(NamedPort {
            protocol: protocol(port.protocol.as_deref())?,
            name: port.name.clone().filter(|name| !name.is_empty())?,
            number: u16::try_from(port.container_port).ok()?,
        })
    };
    containers.flatten().filter_map(named).collect()
}

impl SlimPod {
    /// What would be kept of this object.
    fn of(pod: &v1::Pod) -> SlimPod {
        let container =
            |container: &v1::Container| SlimContainer { ports: container.ports.clone(), restart_policy: container.restart_policy.clone() };
        let spec = pod.spec.as_ref().map(|spec| SlimSpec {
            node_name: spec.node_name.clone(),
            host_network: spec.host_network,
            containers: Some(spec.containers.iter().map(container).collect()),
            init_containers: spec.init_containers.as_ref().map(|containers| containers.iter().map(container).collect()),
        });
        SlimPod { metadata: slim(pod.metadata.clone()), spec: spec.unwrap_or_default(), status: SlimStatus::default() }
    }

    /// The pod as policies see it on the node of this name; nothing if it has no address that is its own.
    pub fn pod(&self, node_name: &str) -> Option<Pod> {
        if self.is_over() {
            return None;
        }
        let addresses = self.status.pod_ips.iter().flatten().filter_map(|ip| parse_ip(&ip.ip));
        self.with_addresses(addresses.collect(), node_name)
    }

    /// Whether the addresses that it had may be somebody else's now.
    pub fn is_over(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    pub fn created(&self) -> i64 {
        created(&self.metadata)
    }

    pub fn labels(&self) -> Labels {
        self.metadata.labels.clone().unwrap_or_default()
    }

    fn with_addresses(&self, addresses: Vec<IpAddr>, node_name: &str) -> Option<Pod> {
        if addresses.is_empty() || self.spec.host_network == Some(true) {
            return None;
        }
        let sidecars = self.spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let containers = self.spec.containers.iter().flatten().chain(sidecars);
        Some(Pod {
            namespace: self.namespace().to_owned(),
            labels: self.labels(),
            addresses,
            ports: named_ports(containers.map(|container| container.ports.as_deref().unwrap_or_default())),
            is_local: self.spec.node_name.as_deref() == Some(node_name),
            created: created(&self.metadata),
        })
    }
}

/// A pod of this node that has just been given its addresses, before anybody has told the API server.
pub fn starting(pod: &v1::Pod, addresses: &[String]) -> Option<Pod> {
    let addresses = addresses.iter().filter_map(|address| parse_ip(address)).collect();
    let pod = SlimPod::of(pod).with_addresses(addresses, "")?;
    Some(Pod { is_local: true, ..pod })
}

/// What runs without a pod and says so by a slice: to policies it is a pod with the slice's labels and ports.
pub fn stand_in(slice: &EndpointSlice) -> Option<Pod> {
    let addresses: Vec<IpAddr> = slice.endpoints.iter().flatten().flat_map(|e| &e.addresses).filter_map(|text| parse_ip(text)).collect();
    let named = |port: &k8s_openapi::api::discovery::v1::EndpointPort| {
        Some(NamedPort {
            protocol: protocol(port.protocol.as_deref())?,
            name: port.name.clone().filter(|name| !name.is_empty())?,
            number: u16::try_from(port.port?).ok()?,
        })
    };
    (!addresses.is_empty()).then(|| Pod {
        namespace: slice.namespace().to_owned(),
        labels: slice.metadata.labels.clone().unwrap_or_default(),
        addresses,
        ports: slice.ports.iter().flatten().filter_map(named).collect(),
        is_local: false,
        created: created(&slice.metadata),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "a", "name": "p", "labels": {"app": "x"}, "annotations": {"long": "text"}},
            "spec": {"nodeName": "n1",
                "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]}],
                "initContainers": [
                    {"name": "s", "restartPolicy": "Always", "ports": [{"name": "http", "containerPort": 82, "protocol": "UDP"}]},
                    {"name": "i", "ports": [{"name": "gone", "containerPort": 83}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        })
    }

    #[test]
    fn the_slim_object_and_the_whole_one_say_the_same() {
        let slim: SlimPod = serde_json::from_value(object()).unwrap();
        assert!(slim.metadata.annotations.is_none());
        let pod = slim.pod("n1").unwrap();
        assert_eq!(pod.ports_named(6, "http").chain(pod.ports_named(17, "http")).collect::<Vec<_>>(), [80, 82]);
        assert!(pod.is_local && pod.ports.len() == 2 && !slim.pod("n2").unwrap().is_local);
        let whole: v1::Pod = serde_json::from_value(object()).unwrap();
        assert_eq!(starting(&whole, &["10.0.0.1".to_owned(), "fd00::1".to_owned()]), Some(pod));
    }

    #[test]
    fn pods_without_addresses_of_their_own_do_not_count() {
        let with = |change: &dyn Fn(&mut Value)| {
            let mut value = object();
            change(&mut value);
            serde_json::from_value::<SlimPod>(value).unwrap().pod("n1")
        };
        assert!(with(&|value| value["spec"]["hostNetwork"] = json!(true)).is_none());
        assert!(with(&|value| value["status"]["podIPs"] = json!([])).is_none());
        assert!(with(&|value| value["status"]["phase"] = json!("Failed")).is_none());
        assert!(with(&|_| {}).is_some());
    }
}
