//! Certificates: a kubelet asks for its own, and for those of its pods.

use apimachinery::field::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::{USER_PREFIX, Write, tokens};
use crate::admission::Operation;
use crate::admission::pod_references::is_mirror;
use crate::admission::signers::subject;
use crate::registry::read::{list_at, str_at};

/// The signers whose certificates speak for nodes.
const NODE_SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

pub(super) fn check_request(write: &Write<'_>) -> Result<(), Status> {
    if write.attributes.operation != Operation::Create || !NODE_SIGNERS.contains(&str_at(write.new(), "/spec/signerName")) {
        return Ok(());
    }
    match subject(str_at(write.new(), "/spec/request")) {
        Err(why) => write.refuse(format!("unable to parse csr: {why}")),
        Ok(subject) if subject.common_name.strip_prefix(USER_PREFIX) != Some(write.node) => {
            write.refuse(format!("can only create a node CSR with CN={USER_PREFIX}{}", write.node))
        }
        Ok(_) => Ok(()),
    }
}

/// A 500 for what a cache that lags could explain: the kubelet tries again.
fn inconsistent<T>(why: String) -> Result<T, Status> {
    Err(Status::unknown(why))
}

pub(super) fn check_pod_request(write: &Write<'_>) -> Result<(), Status> {
    if write.attributes.operation != Operation::Create {
        return write.refuse(format!("unexpected operation {}", write.attributes.operation.as_str()));
    }
    if !write.attributes.subresource.is_empty() {
        return write.refuse(format!("unexpected subresource {}", write.attributes.subresource));
    }
    let (request, namespace) = (write.new(), write.attributes.namespace);
    let of = |field: &str| str_at(request, &format!("/spec/{field}"));
    let pod_name = quote(&format!("{namespace}/{}", of("podName")));
    let account_name = quote(&format!("{namespace}/{}", of("serviceAccountName")));
    if of("nodeName") != write.node {
        let named = quote(of("nodeName"));
        return write
            .refuse(format!("PodCertificateRequest.Spec.NodeName={named}, which is not the requesting node {}", quote(write.node)));
    }
    let find = |plural: &str, namespace: &str, name: &str, what: String| {
        write
            .find(plural, namespace, name)
            .or_else(|s| inconsistent(format!("while retrieving {what} named in the PodCertificateRequest: {}", s.message)))
    };
    let node = find("nodes", "", write.node, format!("node {}", quote(write.node)))?;
    let uid = |object: &Value| str_at(object, "/metadata/uid").to_owned();
    if uid(&node) != of("nodeUID") {
        let (named, found) = (quote(of("nodeUID")), quote(&uid(&node)));
        return inconsistent(format!(
            "PodCertificateRequest for pod {pod_name} names node UID {named}, inconsistent with the running node ({found})"
        ));
    }
    let pod = find("pods", namespace, of("podName"), format!("pod {pod_name}"))?;
    if uid(&pod) != of("podUID") {
        let (named, found) = (quote(of("podUID")), quote(&uid(&pod)));
        return inconsistent(format!(
            "PodCertificateRequest for pod {pod_name} contains pod UID ({named}) which differs from running pod {found}"
        ));
    }
    if str_at(&pod, "/spec/nodeName") != write.node {
        let node = quote(write.node);
        return write.refuse(format!("pod {pod_name} is not running on node {node} named in the PodCertificateRequest"));
    }
    if is_mirror(&pod) {
        return write.refuse(format!("pod {pod_name} is a mirror pod"));
    }
    if str_at(&pod, "/spec/serviceAccountName") != of("serviceAccountName") {
        let (named, found) = (quote(of("serviceAccountName")), quote(str_at(&pod, "/spec/serviceAccountName")));
        return write.refuse(format!(
            "PodCertificateRequest for pod {pod_name} contains serviceAccountName ({named}) that differs from running pod ({found})"
        ));
    }
    let account = find("serviceaccounts", namespace, of("serviceAccountName"), format!("service account {account_name}"))?;
    if uid(&account) != of("serviceAccountUID") {
        let (named, found) = (quote(of("serviceAccountUID")), quote(&uid(&account)));
        return inconsistent(format!(
            "PodCertificateRequest for pod {pod_name} names service account UID {named}, which differs from the running service account ({found})"
        ));
    }
    check_signer(write, &pod, of("signerName"), of("serviceAccountName"), &pod_name)
}

/// The pod must want a certificate of the signer, or the node be allowed to ask for one.
fn check_signer(write: &Write<'_>, pod: &Value, signer: &str, account: &str, pod_name: &str) -> Result<(), Status> {
    let mut sources = list_at(pod, "/spec/volumes").iter().flat_map(|v| list_at(v, "/projected/sources"));
    let wanted = sources.any(|s| s.get("podCertificate").is_some_and(|c| str_at(c, "/signerName") == signer));
    // RBAC has no slashes in resources; names of trust bundles are munged alike.
    let resource = signer.replace('/', ":");
    if wanted || tokens::may(write, "request-serviceaccounts-podcertificate-signer", &resource, account) {
        return Ok(());
    }
    write.refuse(format!("pod {pod_name} does not mount a podCertificate projected volume for signer {}", quote(signer)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::check;
    use super::super::tests::by_node;
    use super::*;
    use crate::admission::signers::tests::request;
    use crate::admission::testing::Objects;

    #[test]
    fn a_kubelet_asks_for_its_own_certificate() {
        // The rule looks at the request alone, whatever resource carries it.
        let ask = |signer: &str, name: &str| {
            let object = json!({ "spec": { "signerName": signer, "request": request(name, "system:nodes") } });
            let write = by_node(Operation::Create, "", "v1", "configmaps");
            let attributes = write.attributes();
            let write = Write { attributes: &attributes, lookup: &Objects::default(), node: "n", new: Some(&object), old: None };
            check_request(&write).map_err(|s| s.message)
        };
        assert_eq!(ask(NODE_SIGNERS[0], "system:node:n"), Ok(()));
        assert_eq!(ask("example.com/other", "system:node:m"), Ok(()));
        assert!(ask(NODE_SIGNERS[1], "system:node:m").unwrap_err().ends_with("can only create a node CSR with CN=system:node:n"));
        let nobody = by_node(Operation::Create, "", "v1", "configmaps");
        assert!(check(&nobody.attributes(), &Objects::default(), None, None).is_ok());
    }

    #[test]
    fn a_kubelet_asks_for_certificates_of_its_pods() {
        let named = |name: &str, uid: &str| json!({ "name": name, "namespace": "ns", "uid": uid });
        let volume = json!({ "projected": { "sources": [{ "podCertificate": { "signerName": "example.com/a" } }] } });
        let objects = Objects::of(vec![
            ("", "nodes", json!({ "metadata": { "name": "n", "uid": "nu" } })),
            (
                "",
                "pods",
                json!({ "metadata": named("p", "pu"), "spec": { "nodeName": "n", "serviceAccountName": "a", "volumes": [volume] } }),
            ),
            ("", "serviceaccounts", json!({ "metadata": named("a", "au") })),
        ]);
        let ask = |field: &str, value: &str| {
            let mut spec = json!({
                "nodeName": "n", "nodeUID": "nu", "podName": "p", "podUID": "pu",
                "serviceAccountName": "a", "serviceAccountUID": "au", "signerName": "example.com/a",
            });
            spec[field] = json!(value);
            let object = json!({ "spec": spec });
            let write = by_node(Operation::Create, "", "v1", "configmaps");
            let attributes = write.attributes();
            check_pod_request(&Write { attributes: &attributes, lookup: &objects, node: "n", new: Some(&object), old: None })
                .map_err(|s| (s.code, s.message))
        };
        assert_eq!(ask("nodeName", "n"), Ok(()));
        assert_eq!(ask("nodeName", "m").unwrap_err().0, 403);
        assert_eq!(ask("podUID", "other").unwrap_err().0, 500);
        assert!(
            ask("signerName", "example.com/b")
                .unwrap_err()
                .1
                .ends_with("pod \"ns/p\" does not mount a podCertificate projected volume for signer \"example.com/b\"")
        );
    }
}
