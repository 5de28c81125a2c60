//! What each of the cluster's own signers signs, and for whom: the rules of the well-known signer names.

use std::collections::BTreeSet;

use super::listed;
use super::request::Request;

pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const API_SERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

const KUBELET_SERVING_USAGES: [&str; 3] = ["digital signature", "key encipherment", "server auth"];
const KUBELET_CLIENT_USAGES: [&str; 3] = ["client auth", "digital signature", "key encipherment"];

/// Whether a signer signs the request; if not, why, in upstream's words.
pub fn check(signer: &str, request: &Request, usages: &[String]) -> Result<(), String> {
    match signer {
        KUBELET_SERVING => kubelet_serving(request, usages),
        KUBELET_CLIENT => kubelet_client(request, usages),
        API_SERVER_CLIENT => api_server_client(usages),
        // Whatever it is, for the sake of requests from before there were signers.
        _ => Ok(()),
    }
}

fn kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    is_of_nodes(request)?;
    refuse(request.dns_names().next().is_none() && !request.has_ips(), "DNS or IP subjectAltName is required")?;
    refuse(request.has_emails(), "Email subjectAltNames are not allowed")?;
    refuse(request.has_uris(), "URI subjectAltNames are not allowed")?;
    usages_match(usages, KUBELET_SERVING_USAGES)?;
    is_node(request)
}

/// Also what makes the approver recognize a request as a kubelet's.
pub fn kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    is_of_nodes(request)?;
    refuse(request.dns_names().next().is_some(), "DNS subjectAltNames are not allowed")?;
    refuse(request.has_emails(), "Email subjectAltNames are not allowed")?;
    refuse(request.has_ips(), "IP subjectAltNames are not allowed")?;
    refuse(request.has_uris(), "URI subjectAltNames are not allowed")?;
    is_node(request)?;
    usages_match(usages, KUBELET_CLIENT_USAGES)
}

fn api_server_client(usages: &[String]) -> Result<(), String> {
    let mut client = false;
    for usage in usages {
        match usage.as_str() {
            "digital signature" | "key encipherment" => {}
            "client auth" => client = true,
            other => return Err(format!("invalid usage for client certificate: {other}")),
        }
    }
    refuse(!client, "missing required usage for client certificate: client auth")
}

fn refuse(whether: bool, why: &str) -> Result<(), String> {
    if whether { Err(why.to_owned()) } else { Ok(()) }
}

fn is_of_nodes(request: &Request) -> Result<(), String> {
    refuse(request.organizations != ["system:nodes"], "subject organization is not system:nodes")
}

fn is_node(request: &Request) -> Result<(), String> {
    refuse(!request.common_name.starts_with("system:node:"), "subject common name does not begin with system:node:")
}

/// Exactly these, or all but the one that only RSA keys have a use for.
fn usages_match(usages: &[String], wanted: [&str; 3]) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let all = BTreeSet::from(wanted);
    let without: BTreeSet<&str> = all.iter().copied().filter(|usage| *usage != "key encipherment").collect();
    refuse(given != all && given != without, &format!("usages did not match {}", listed(wanted)))
}

#[cfg(test)]
mod tests {
    use rcgen::SanType;

    use super::super::request::tests::text;
    use super::*;

    fn usages(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn request(common_name: &str, organization: &str, names: Vec<SanType>) -> Request {
        Request::parse(&text(common_name, organization, names)).unwrap()
    }

    #[test]
    fn a_kubelets_client_certificate_names_a_node_and_nothing_else() {
        let (node, group) = ("system:node:a", "system:nodes");
        let good = usages(&["digital signature", "client auth"]);
        let dns = || vec![SanType::DnsName("a".try_into().unwrap())];
        let cases = [
            (request(node, group, vec![]), &good, None),
            (request(node, "other", vec![]), &good, Some("subject organization is not system:nodes")),
            (request("a", group, vec![]), &good, Some("subject common name does not begin with system:node:")),
            (request(node, group, dns()), &good, Some("DNS subjectAltNames are not allowed")),
            (
                request(node, group, vec![]),
                &usages(&["server auth"]),
                Some("usages did not match [client auth digital signature key encipherment]"),
            ),
        ];
        for (request, usages, expect) in cases {
            assert_eq!(check(KUBELET_CLIENT, &request, usages).err().as_deref(), expect, "{request:?}");
        }
    }

    #[test]
    fn a_kubelets_serving_certificate_is_for_a_name_or_address() {
        let good = usages(&["digital signature", "key encipherment", "server auth"]);
        let ip = vec![SanType::IpAddress([10, 0, 0, 1].into())];
        let with = request("system:node:a", "system:nodes", ip);
        assert_eq!(check(KUBELET_SERVING, &with, &good), Ok(()));
        let without = request("system:node:a", "system:nodes", vec![]);
        assert_eq!(check(KUBELET_SERVING, &without, &good).unwrap_err(), "DNS or IP subjectAltName is required");
    }

    #[test]
    fn a_client_certificate_is_for_clients() {
        let anybody = request("alice", "", vec![]);
        let check = |words: &[&str]| check(API_SERVER_CLIENT, &anybody, &usages(words)).err();
        assert_eq!(check(&["client auth", "digital signature"]), None);
        assert_eq!(check(&["digital signature"]).as_deref(), Some("missing required usage for client certificate: client auth"));
        assert_eq!(check(&["server auth"]).as_deref(), Some("invalid usage for client certificate: server auth"));
    }
}
