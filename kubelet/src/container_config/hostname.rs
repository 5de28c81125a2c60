//! What a pod is called from inside: its host name and its domain.

use apimachinery::validation::{is_dns1123_label, is_dns1123_subdomain};
use k8s_openapi::api::core::v1::Pod;

use super::Error;

/// The longest host name, and the longest name that the kernel takes.
const MAX_HOSTNAME: usize = 63;
const MAX_NODENAME: usize = 64;

/// A pod's short name and its domain, which is empty unless it has a subdomain.
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> Result<(String, String), Error> {
    let name = pod.metadata.name.as_deref().unwrap_or("");
    let Some(spec) = &pod.spec else { return Ok((name.to_owned(), String::new())) };
    if let Some(hostname) = &spec.hostname_override {
        valid(is_dns1123_subdomain(hostname), "HostnameOverride", hostname, "DNS subdomain")?;
        return Ok((truncated(name, hostname)?, String::new()));
    }
    let hostname = match spec.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        None => name,
        Some(hostname) => {
            valid(is_dns1123_label(hostname), "Hostname", hostname, "DNS label")?;
            hostname
        }
    };
    let hostname = truncated(name, hostname)?;
    let domain = match spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty()) {
        None => String::new(),
        Some(subdomain) => {
            valid(is_dns1123_label(subdomain), "Subdomain", subdomain, "DNS label")?;
            format!("{subdomain}.{}.svc.{cluster_domain}", pod.metadata.namespace.as_deref().unwrap_or(""))
        }
    };
    Ok((hostname, domain))
}

fn valid(errors: Vec<String>, field: &str, value: &str, what: &str) -> Result<(), Error> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Error::new(format!("pod {field} {value:?} is not a valid {what}: {}", errors.join(";")))),
    }
}

fn truncated(pod: &str, hostname: &str) -> Result<String, Error> {
    // Valid names are ASCII.
    let Some(head) = hostname.get(..MAX_HOSTNAME).filter(|_| hostname.len() > MAX_HOSTNAME) else { return Ok(hostname.to_owned()) };
    match head.trim_end_matches(['-', '.']) {
        "" => Err(Error::new(format!("hostname for pod {pod:?} was invalid: {hostname:?}"))),
        head => Ok(head.to_owned()),
    }
}

/// What the kernel is told in the pod's UTS namespace.
pub fn kernel_name(pod: &Pod, cluster_domain: &str) -> Result<String, Error> {
    let (hostname, domain) = hostname_and_domain(pod, cluster_domain)?;
    let wants_fqdn = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    if !wants_fqdn || domain.is_empty() {
        return Ok(hostname);
    }
    let fqdn = format!("{hostname}.{domain}");
    match fqdn.len() > MAX_NODENAME {
        false => Ok(fqdn),
        true => Err(Error::new(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({MAX_NODENAME} characters is the max, {} characters requested)",
            fqdn.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn kernel(name: &str, spec: Value) -> Result<String, String> {
        let pod = serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec})).expect("it is a pod");
        kernel_name(&pod, "cluster.local").map_err(|error| error.message)
    }

    #[test]
    fn a_pod_is_called_what_it_says_or_else_by_its_name() {
        let long = "a".repeat(62);
        let cases = [
            ("p", json!({"containers": []}), Ok("p".to_owned())),
            ("p", json!({"containers": [], "hostname": "h"}), Ok("h".to_owned())),
            ("p", json!({"containers": [], "hostname": "h", "subdomain": "s"}), Ok("h".to_owned())),
            (
                "p",
                json!({"containers": [], "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}),
                Ok("h.s.n.svc.cluster.local".to_owned()),
            ),
            ("p", json!({"containers": [], "hostnameOverride": "a.b"}), Ok("a.b".to_owned())),
            (&format!("{long}-b"), json!({"containers": []}), Ok(long.clone())),
        ];
        for (name, spec, expect) in cases {
            assert_eq!(kernel(name, spec.clone()), expect, "{spec}");
        }
        let refused = kernel(&"a".repeat(60), json!({"containers": [], "subdomain": "s", "setHostnameAsFQDN": true}));
        assert!(refused.is_err_and(|message| message.ends_with("(64 characters is the max, 82 characters requested)")));
    }
}
