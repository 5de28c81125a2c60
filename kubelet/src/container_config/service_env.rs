//! What containers learn of services by their environment: `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` and the variables of Docker's links.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

/// The variables of the services that a pod of `namespace` sees. `kubernetes` is seen from everywhere, others only if the pod wants links.
pub fn variables(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut seen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or("");
        let its_namespace = service.metadata.namespace.as_deref().unwrap_or("");
        if cluster_ip(service).is_none() {
            continue;
        }
        if its_namespace == "default" && name == "kubernetes" {
            seen.entry(name).or_insert(service);
        } else if links && its_namespace == namespace {
            seen.insert(name, service);
        }
    }
    let mut variables = BTreeMap::new();
    for (name, service) in seen {
        add(&mut variables, name, service);
    }
    variables
}

fn cluster_ip(service: &Service) -> Option<&str> {
    let ip = service.spec.as_ref()?.cluster_ip.as_deref()?;
    (!ip.is_empty() && ip != "None").then_some(ip)
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn add(variables: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let (Some(ip), Some(spec)) = (cluster_ip(service), &service.spec) else { return };
    let ports = spec.ports.as_deref().unwrap_or(&[]);
    let prefix = variable_name(name);
    variables.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
        let (lower, number) = (protocol.to_lowercase(), port.port);
        let url = format!("{lower}://{host}:{number}");
        if index == 0 {
            variables.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), number.to_string());
        }
        let link = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        variables.insert(format!("{link}_PROTO"), lower);
        variables.insert(format!("{link}_PORT"), number.to_string());
        variables.insert(format!("{link}_ADDR"), ip.to_owned());
        variables.insert(link, url);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(namespace: &str, name: &str, ip: &str, ports: serde_json::Value) -> Arc<Service> {
        let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": ip, "ports": ports}});
        Arc::new(serde_json::from_value(object).expect("it is a service"))
    }

    #[test]
    fn variables_tell_of_the_services_that_the_pod_may_see() {
        let services = [
            service("default", "kubernetes", "10.0.0.1", json!([{"name": "https", "port": 443, "protocol": "TCP"}])),
            service("a", "my-db", "fd00::1", json!([{"port": 53, "protocol": "UDP"}])),
            service("a", "headless", "None", json!([{"port": 1}])),
            service("b", "other", "10.0.0.2", json!([{"port": 1}])),
        ];
        let all: Vec<String> = variables(&services, "a", true).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            all,
            [
                "KUBERNETES_PORT=tcp://10.0.0.1:443",
                "KUBERNETES_PORT_443_TCP=tcp://10.0.0.1:443",
                "KUBERNETES_PORT_443_TCP_ADDR=10.0.0.1",
                "KUBERNETES_PORT_443_TCP_PORT=443",
                "KUBERNETES_PORT_443_TCP_PROTO=tcp",
                "KUBERNETES_SERVICE_HOST=10.0.0.1",
                "KUBERNETES_SERVICE_PORT=443",
                "KUBERNETES_SERVICE_PORT_HTTPS=443",
                "MY_DB_PORT=udp://[fd00::1]:53",
                "MY_DB_PORT_53_UDP=udp://[fd00::1]:53",
                "MY_DB_PORT_53_UDP_ADDR=fd00::1",
                "MY_DB_PORT_53_UDP_PORT=53",
                "MY_DB_PORT_53_UDP_PROTO=udp",
                "MY_DB_SERVICE_HOST=fd00::1",
                "MY_DB_SERVICE_PORT=53",
            ]
        );
        assert!(variables(&services, "a", false).keys().all(|name| name.starts_with("KUBERNETES_")));
    }
}
