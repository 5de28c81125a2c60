//! Where requests to pods, services and nodes go: targets resolved from objects alone.
//!
//! Pure: nothing here connects to anything. The words of refusals are upstream's.

use std::borrow::Borrow;
use std::net::IpAddr;

use apimachinery::field::quote;
use apimachinery::status::Status;
use apimachinery::validation::Ip;
use serde_json::Value;

use crate::registry::core::pod::connect::proxy_port;
use crate::registry::read::{at, int_at, list_at, str_at};

/// The port of a kubelet that does not report one.
const KUBELET_PORT: i64 = 10_250;

/// Which credentials and which trust a connection is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A kubelet: the API server shows its client certificate.
    Kubelet,
    /// A kubelet that may show any certificate.
    KubeletUnverified,
    /// Whatever listens there: nothing is shown.
    Anybody,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub https: bool,
    pub host: String,
    /// A number, or a name that only the connection finds unusable; empty for the scheme's default.
    pub port: String,
    /// Decoded.
    pub path: String,
    /// Encoded, without the question mark.
    pub query: String,
    pub transport: Transport,
}

impl Target {
    /// `host:port`, brackets around IPv6.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port.is_empty() { host } else { format!("{host}:{}", self.port) }
    }

    /// The path and query of the request line.
    pub fn path_and_query(&self) -> String {
        let path = encode_path(if self.path.is_empty() { "/" } else { &self.path });
        if self.query.is_empty() { path } else { format!("{path}?{}", self.query) }
    }

    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }
}

/// `name`, `name:port` or `scheme:name:port`.
pub fn split(id: &str) -> Option<(&str, &str, &str)> {
    let (scheme, name, port) = match id.split(':').collect::<Vec<_>>().as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some((scheme, name, port))
}

/// Whether Go calls the address global unicast, which private ones are too.
pub fn is_global_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_link_local() || v4.is_broadcast()),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_global_unicast(IpAddr::V4(v4)),
            None => !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local()),
        },
    }
}

/// The kubelet of a node: its address, of the best type that it has, and port.
pub fn kubelet(node: &Value, preferred: &[String]) -> Result<(String, String), Status> {
    let addresses = list_at(node, "/status/addresses");
    let found = preferred.iter().find_map(|kind| addresses.iter().find(|address| str_at(address, "/type") == kind));
    let Some(found) = found else {
        let known: Vec<String> = addresses.iter().map(|a| format!("{{{} {}}}", str_at(a, "/type"), str_at(a, "/address"))).collect();
        return Err(Status::unknown(format!("no preferred addresses found; known addresses: [{}]", known.join(" "))));
    };
    let port = int_at(node, "/status/daemonEndpoints/kubeletEndpoint/Port");
    let port = if port <= 0 { KUBELET_PORT } else { port };
    Ok((str_at(found, "/address").to_owned(), port.to_string()))
}

/// A path on the kubelet of a node.
pub fn on_kubelet(node: &Value, preferred: &[String], path: String, query: String) -> Result<Target, Status> {
    let (host, port) = kubelet(node, preferred)?;
    Ok(Target { https: true, host, port, path, query, transport: Transport::Kubelet })
}

/// A pod's own address, on the port that was asked for or else its first.
pub fn on_pod(pod: &Value, scheme: &str, port: &str) -> Result<Target, Status> {
    let address = str_at(pod, "/status/podIPs/0/ip");
    let parsed = Ip::parse_sloppy(address).and_then(|ip| ip.to_string().parse().ok());
    if !parsed.is_some_and(is_global_unicast) {
        return Err(Status::bad_request("address not allowed"));
    }
    let first = || proxy_port(pod).map_or(String::new(), |port| port.to_string());
    let port = if port.is_empty() { first() } else { port.to_owned() };
    Ok(anybody(scheme, address, port))
}

/// Whatever listens at an address.
pub fn anybody(scheme: &str, host: &str, port: String) -> Target {
    let https = scheme == "https";
    Target { https, host: host.to_owned(), port, path: String::new(), query: String::new(), transport: Transport::Anybody }
}

fn no_endpoints(service: &str) -> Status {
    Status::service_unavailable(format!("no endpoints available for service {}", quote(service)))
}

/// The name of a service's port that was given by number.
pub fn service_port_name(service: &Value, name: &str, port: i64) -> Result<String, Status> {
    let found = list_at(service, "/spec/ports").iter().find(|p| int_at(p, "/port") == port);
    let why = || Status::service_unavailable(format!("no service port {port} found for service {}", quote(name)));
    found.map(|port| str_at(port, "/name").to_owned()).ok_or_else(why)
}

/// An endpoint of a service's named port: `valid` has the last word, `random(n)` gives a number below `n`.
pub fn endpoint(
    service: &str,
    slices: &[impl Borrow<Value>],
    port_name: &str,
    preferred: &str,
    valid: impl Fn(&Value) -> bool,
    mut random: impl FnMut(usize) -> usize,
) -> Result<(String, String), Status> {
    let mut ordered: Vec<&Value> = slices.iter().map(Borrow::borrow).collect();
    if ordered.len() > 1 {
        let turn = random(ordered.len());
        ordered.rotate_left(turn);
        ordered.sort_by_key(|slice| str_at(slice, "/addressType") != preferred);
    }
    for slice in ordered {
        let endpoints = list_at(slice, "/endpoints");
        for port in list_at(slice, "/ports") {
            let named = at(port, "/name").as_str() == Some(port_name);
            let (Some(number), true, false) = (at(port, "/port").as_i64(), named, endpoints.is_empty()) else { continue };
            let offset = random(endpoints.len());
            let (before, after) = endpoints.split_at(offset.min(endpoints.len()));
            let ready = |endpoint: &&Value| at(endpoint, "/conditions/ready").as_bool() != Some(false);
            if let Some(found) = after.iter().chain(before).filter(ready).find(|endpoint| valid(endpoint)) {
                return Ok((str_at(found, "/addresses/0").to_owned(), number.to_string()));
            }
        }
    }
    Err(no_endpoints(service))
}

/// The rest of a proxied path, with the slashes that the request had.
pub fn subpath(parts: &[String], request_path: &str) -> String {
    let rest = parts.get(3..).unwrap_or_default().join("/");
    let mut path = if rest.is_empty() || rest.starts_with('/') { rest } else { format!("/{rest}") };
    if request_path.ends_with('/') && !path.ends_with('/') {
        path.push('/');
    }
    clean(&path)
}

/// `.` and `..` and doubled slashes resolved; a last slash stays.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    if path.is_empty() {
        return String::new();
    }
    let mut out = format!("/{}", kept.join("/"));
    if path.ends_with('/') && !out.ends_with('/') {
        out.push('/');
    }
    out
}

fn encode(text: &str, keep: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || keep.contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

pub fn encode_path(path: &str) -> String {
    encode(path, b"$&+,/:;=@")
}

/// A query string of pairs sorted by key, those of one key in their order.
pub fn encode_query(pairs: &[(&str, String)]) -> String {
    let mut sorted: Vec<&(&str, String)> = pairs.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    let text = |text: &str| encode(text, b"").replace("%20", "+");
    sorted.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_carry_schemes_and_ports() {
        assert_eq!(split("a"), Some(("", "a", "")));
        assert_eq!(split("a:80"), Some(("", "a", "80")));
        assert_eq!(split("https:a:web"), Some(("https", "a", "web")));
        assert_eq!(split("ftp:a:80"), None);
        assert_eq!(split("a:b:c:d"), None);
        assert_eq!(split(":80"), None);
    }

    #[test]
    fn a_kubelet_is_reached_at_the_preferred_address() {
        let node = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 1234}}}});
        let kubelet =
            |node: &Value, preferred: &[&str]| kubelet(node, &preferred.iter().map(|kind| (*kind).to_owned()).collect::<Vec<_>>());
        let preferred = ["Hostname", "InternalIP"];
        assert_eq!(kubelet(&node, &preferred), Ok(("n".to_owned(), "1234".to_owned())));
        assert_eq!(kubelet(&node, &["InternalIP", "Hostname"]), Ok(("10.0.0.1".to_owned(), "1234".to_owned())));
        let odd = json!({"status": {"addresses": [{"type": "Odd", "address": "x"}]}});
        assert_eq!(kubelet(&odd, &preferred).unwrap_err().message, "no preferred addresses found; known addresses: [{Odd x}]");
        assert_eq!(kubelet(&json!({}), &preferred).unwrap_err().message, "no preferred addresses found; known addresses: []");
    }

    #[test]
    fn a_pod_is_reached_at_its_first_port() {
        let pod = json!({"spec": {"containers": [{}, {"ports": [{"containerPort": 8080}]}]}, "status": {"podIPs": [{"ip": "10.0.0.9"}]}});
        assert_eq!(on_pod(&pod, "", "").unwrap().authority(), "10.0.0.9:8080");
        assert_eq!(on_pod(&pod, "https", "443").unwrap().authority(), "10.0.0.9:443");
        let local = json!({"status": {"podIPs": [{"ip": "127.0.0.1"}]}});
        assert_eq!(on_pod(&local, "", "").unwrap_err().message, "address not allowed");
        assert_eq!(on_pod(&json!({}), "", "").unwrap_err().message, "address not allowed");
        let six = json!({"status": {"podIPs": [{"ip": "fd00::1"}]}});
        assert_eq!(on_pod(&six, "", "").unwrap().authority(), "[fd00::1]");
    }

    #[test]
    fn a_service_is_reached_at_a_ready_endpoint_of_the_port() {
        let slices = [
            json!({"addressType": "IPv6", "ports": [{"name": "web", "port": 1}], "endpoints": [{"addresses": ["fd00::1"]}]}),
            json!({"addressType": "IPv4", "ports": [{"name": "web", "port": 2}], "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.2"]}]}),
        ];
        let find = |port: &str| endpoint("s", &slices, port, "IPv4", |_| true, |_| 0);
        assert_eq!(find("web"), Ok(("10.0.0.2".to_owned(), "2".to_owned())));
        assert_eq!(find("other").unwrap_err().message, "no endpoints available for service \"s\"");
        let service = json!({"spec": {"ports": [{"port": 80, "name": "web"}]}});
        assert_eq!(service_port_name(&service, "s", 80), Ok("web".to_owned()));
        assert_eq!(service_port_name(&service, "s", 81).unwrap_err().message, "no service port 81 found for service \"s\"");
    }

    #[test]
    fn paths_and_queries_are_encoded() {
        let parts = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(subpath(&parts("pods/p/proxy/a b/../c"), "/x"), "/c");
        assert_eq!(subpath(&parts("pods/p/proxy"), "/x/"), "/");
        assert_eq!(subpath(&parts("pods/p/proxy"), "/x"), "");
        assert_eq!(encode_path("/a b/ü:1"), "/a%20b/%C3%BC:1");
        let pairs = [("stdout", "1".to_owned()), ("command", "a b".to_owned()), ("command", "c&d".to_owned())];
        assert_eq!(encode_query(&pairs), "command=a+b&command=c%26d&stdout=1");
    }
}
