//! What packets to Services shall become, before any mode spells it out: frontends with their backends.
//!
//! Pure. The whole is a sum over Services, so that a change costs what its Service costs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::{Object, ObjectKey};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::backend::{self, Backends};
use crate::frontend::{self, Frontend, PortName};
use crate::node::Node;
use netfilter::family::Family;

/// Slices say with this label whose endpoints they hold.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// One port of a Service and the endpoints that its traffic may go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub frontend: Frontend,
    pub backends: Backends,
}

impl ServicePort {
    /// Whether traffic to the cluster IP has somewhere to go.
    pub fn has_internal_endpoints(&self) -> bool {
        self.backends.any && !(self.frontend.internal_local && self.backends.local.is_empty())
    }

    /// Whether traffic from outside has somewhere to go.
    pub fn has_external_endpoints(&self) -> bool {
        self.backends.any && !(self.frontend.external_local && self.backends.local.is_empty())
    }
}

/// The ports of one Service in one family.
pub fn service_ports(service: &Service, slices: &[Arc<EndpointSlice>], node: &Node, family: Family) -> Vec<ServicePort> {
    let frontends = frontend::frontends(service, family);
    if frontends.is_empty() {
        return Vec::new();
    }
    let endpoints = backend::endpoints(slices, node, family);
    let with_backends = |frontend: Frontend| {
        let port = (frontend.name.port.clone(), frontend.name.protocol);
        let backends = backend::choose(endpoints.get(&port).map_or(&[], Vec::as_slice), &frontend, node);
        ServicePort { frontend, backends }
    };
    frontends.into_iter().map(with_backends).collect()
}

/// All ports of all Services in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    services: BTreeMap<ObjectKey, Vec<ServicePort>>,
    endpoints: usize,
}

/// How a Service differs from what it was.
#[derive(Debug)]
pub struct Difference {
    pub service: ObjectKey,
    pub old: Vec<ServicePort>,
    pub new: Vec<ServicePort>,
}

impl Ruleset {
    /// Puts a Service's ports in place of those that it had (none: it is gone). Nothing if they are the same.
    pub fn set(&mut self, service: &ObjectKey, new: Vec<ServicePort>) -> Option<Difference> {
        let old = self.services.remove(service).unwrap_or_default();
        let count = |ports: &[ServicePort]| ports.iter().map(|port| port.backends.len()).sum::<usize>();
        self.endpoints = self.endpoints + count(&new) - count(&old);
        if !new.is_empty() {
            self.services.insert(service.clone(), new.clone());
        }
        (old != new).then(|| Difference { service: service.clone(), old, new })
    }

    pub fn ports(&self) -> impl Iterator<Item = &ServicePort> {
        self.services.values().flatten()
    }

    /// The ports that one Service has.
    pub fn of(&self, service: &ObjectKey) -> &[ServicePort] {
        self.services.get(service).map_or(&[], Vec::as_slice)
    }

    /// How many endpoints rules lead to.
    pub fn endpoints(&self) -> usize {
        self.endpoints
    }

    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// Ports by name.
    pub fn by_name(&self) -> HashMap<&PortName, &ServicePort> {
        self.ports().map(|port| (&port.frontend.name, port)).collect()
    }
}

/// The rules of all Services there are.
pub fn ruleset(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], node: &Node, family: Family) -> Ruleset {
    let mut of_service: HashMap<ObjectKey, Vec<Arc<EndpointSlice>>> = HashMap::new();
    for slice in slices {
        if let Some(key) = service_of(slice) {
            of_service.entry(key).or_default().push(slice.clone());
        }
    }
    let mut ruleset = Ruleset::default();
    for service in services {
        let key = service.key();
        let slices = of_service.get(&key).map_or(&[][..], Vec::as_slice);
        ruleset.set(&key, service_ports(service, slices, node, family));
    }
    ruleset
}

/// The Service whose endpoints a slice holds.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.label(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(slice.namespace(), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{named_service, named_slice};

    #[test]
    fn a_port_has_the_endpoints_of_its_name() {
        let services = [
            Arc::new(named_service("a", r#"{"clusterIP":"10.0.0.1","ports":[{"name":"x","port":80},{"name":"y","port":81}]}"#, "{}")),
            Arc::new(named_service("b", r#"{"clusterIP":"10.0.0.2","ports":[{"port":80}]}"#, "{}")),
        ];
        let slices =
            [Arc::new(named_slice("a", r#"[{"name":"x","port":8080},{"name":"y","port":8081}]"#, r#"[{"addresses":["10.1.0.1"]}]"#))];
        let node = Node::new("n", None, "0.0.0.0");
        let mut rules = ruleset(&services, &slices, &node, Family::V4);
        let text: Vec<String> = rules.ports().map(|p| format!("{} {:?}", p.frontend.name, p.backends.cluster)).collect();
        assert_eq!(text, ["default/a:x [10.1.0.1:8080]", "default/a:y [10.1.0.1:8081]", "default/b []"]);
        assert_eq!((rules.services(), rules.endpoints()), (2, 2));
        let key = ObjectKey::new("default", "a");
        assert!(rules.set(&key, rules.of(&key).to_vec()).is_none());
        let difference = rules.set(&key, Vec::new()).unwrap();
        assert_eq!((difference.old.len(), difference.new.len(), rules.endpoints()), (2, 0, 0));
    }
}
