//! Which requests of a node are allowed, given what belongs to it. Pure.

use super::graph::{Graph, Kind};
use crate::filters::request_info::RequestInfo;

/// Allowed, or why not (possibly without a reason).
pub type Verdict = Result<(), String>;

/// Judges requests to the resources that are divided among nodes; `None` for all others, which the common rules decide.
pub fn judge(node: &str, request: &RequestInfo, graph: &Graph) -> Option<Verdict> {
    if !request.is_resource {
        return None;
    }
    let judge = Judge { node, request, graph };
    Some(match (request.group.as_str(), request.resource.as_str()) {
        ("", "secrets") => judge.read(Kind::Secret),
        ("", "configmaps") => judge.read(Kind::ConfigMap),
        ("", "persistentvolumeclaims") if request.subresource == "status" => judge.update_status(Kind::Claim),
        ("", "persistentvolumeclaims") => judge.get(Kind::Claim),
        ("", "persistentvolumes") => judge.get(Kind::Volume),
        ("resource.k8s.io", "resourceclaims") => judge.get(Kind::ResourceClaim),
        ("storage.k8s.io", "volumeattachments") => judge.get(Kind::Attachment),
        ("", "serviceaccounts") => judge.service_account(),
        ("coordination.k8s.io", "leases") => judge.lease(),
        ("storage.k8s.io", "csinodes") => judge.csi_node(),
        ("resource.k8s.io", "resourceslices") => judge.resource_slice(),
        ("", "nodes") => judge.node(),
        ("", "pods") => judge.pod(),
        ("certificates.k8s.io", "podcertificaterequests") => judge.certificate_request(),
        _ => return None,
    })
}

struct Judge<'a> {
    node: &'a str,
    request: &'a RequestInfo,
    graph: &'a Graph,
}

fn no(reason: &str) -> Verdict {
    Err(reason.to_owned())
}

impl Judge<'_> {
    fn verb(&self) -> &str {
        &self.request.verb
    }

    fn subresource(&self) -> &str {
        &self.request.subresource
    }

    /// Whether something that the node runs needs the named object.
    fn related(&self, kind: Kind) -> Verdict {
        let RequestInfo { namespace, name, .. } = self.request;
        if name.is_empty() {
            return no("No Object name found");
        }
        if self.graph.reaches(kind, namespace, name, self.node) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{}' and this object", self.node))
    }

    fn update_status(&self, kind: Kind) -> Verdict {
        if !matches!(self.verb(), "update" | "patch") {
            return no("can only get/update/patch this type");
        }
        self.related(kind)
    }

    fn get(&self, kind: Kind) -> Verdict {
        if self.verb() != "get" {
            return no("can only get individual resources of this type");
        }
        if !self.subresource().is_empty() {
            return no("cannot get subresource");
        }
        self.related(kind)
    }

    fn read(&self, kind: Kind) -> Verdict {
        if !matches!(self.verb(), "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !self.subresource().is_empty() {
            return no("cannot read subresource");
        }
        if self.request.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(kind)
    }

    fn service_account(&self) -> Verdict {
        if self.verb() == "get" && self.subresource().is_empty() {
            return self.read(Kind::ServiceAccount);
        }
        if self.verb() != "create" || self.request.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if self.subresource() != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(Kind::ServiceAccount)
    }

    fn lease(&self) -> Verdict {
        if !matches!(self.verb(), "get" | "create" | "update" | "patch" | "delete") {
            return no("can only get, create, update, patch, or delete a node lease");
        }
        if self.request.namespace != "kube-node-lease" {
            return no("can only access leases in the \"kube-node-lease\" system namespace");
        }
        // The name of what is created is not known yet; admission checks it.
        if self.verb() != "create" && self.request.name != self.node {
            return no("can only access node lease with the same name as the requesting node");
        }
        Ok(())
    }

    fn csi_node(&self) -> Verdict {
        match self.subresource() {
            "" => {}
            "status" => return no("CSINode status access requires CSIVolumeHealth feature"),
            _ => return no("cannot authorize CSINode subresources"),
        }
        if !matches!(self.verb(), "get" | "create" | "update" | "patch" | "delete") {
            return no("can only get, create, update, patch, or delete a CSINode");
        }
        if self.verb() != "create" && self.request.name != self.node {
            return no("can only access CSINode with the same name as the requesting node");
        }
        Ok(())
    }

    /// Whether the request is limited to objects whose field says this node.
    fn selects_own(&self, field: &str) -> bool {
        self.request.field_selector.iter().any(|term| term.field == field && !term.negated && term.value == self.node)
    }

    fn resource_slice(&self) -> Verdict {
        if !self.subresource().is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match self.verb() {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(Kind::Slice),
            "watch" | "list" | "deletecollection" if self.selects_own("spec.nodeName") => Ok(()),
            "watch" | "list" | "deletecollection" => no("can only list/watch/deletecollection resourceslices with nodeName field selector"),
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn certificate_request(&self) -> Verdict {
        if !self.subresource().is_empty() {
            return no("nodes may not access the status subresource of PodCertificateRequests");
        }
        match self.verb() {
            "create" => Ok(()),
            "get" => self.related(Kind::CertificateRequest),
            "list" | "watch" if self.selects_own("spec.nodeName") => Ok(()),
            "list" | "watch" => no("can only list/watch podcertificaterequests with nodeName field selector"),
            verb => Err(format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    fn node(&self) -> Verdict {
        let (node, name) = (self.node, self.request.name.as_str());
        match (self.subresource(), self.verb()) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
            ("", "get" | "list" | "watch") if name == node => Ok(()),
            ("", "get" | "list" | "watch") if name.is_empty() => {
                Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
            }
            ("", "get" | "list" | "watch") => Err(format!("node '{node}' cannot read '{name}', only its own Node object")),
            _ => no(""),
        }
    }

    fn pod(&self) -> Verdict {
        match (self.subresource(), self.verb()) {
            ("", "get") => self.get(Kind::Pod),
            ("", "list" | "watch") if self.selects_own("spec.nodeName") => Ok(()),
            ("", "list" | "watch") if !self.request.name.is_empty() => self.related(Kind::Pod),
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => no(""),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_does_what_is_its_own() {
        let mut graph = Graph::default();
        let pod = json!({
            "metadata": { "namespace": "a", "name": "p" },
            "spec": { "nodeName": "n", "serviceAccountName": "sa", "volumes": [{ "name": "v", "secret": { "secretName": "s" } }] }
        });
        graph.set_pod("a", "p", Some(&pod));
        let none = "no relationship found between node 'n' and this object";
        for (method, target, expect) in [
            (Method::GET, "/api/v1/namespaces/a/secrets/s", Ok(())),
            (Method::GET, "/api/v1/namespaces/a/secrets?watch=1&fieldSelector=metadata.name%3Ds", Ok(())),
            (Method::GET, "/api/v1/namespaces/a/secrets/t", Err(none)),
            (Method::GET, "/api/v1/namespaces/a/secrets", Err("No Object name found")),
            (Method::DELETE, "/api/v1/namespaces/a/secrets/s", Err("can only read resources of this type")),
            (Method::POST, "/api/v1/namespaces/a/serviceaccounts/sa/token", Ok(())),
            (Method::POST, "/api/v1/namespaces/a/serviceaccounts/other/token", Err(none)),
            (Method::GET, "/api/v1/namespaces/a/pods/p", Ok(())),
            (Method::GET, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn", Ok(())),
            (
                Method::GET,
                "/api/v1/pods?fieldSelector=spec.nodeName%3Dm",
                Err("can only list/watch pods with spec.nodeName field selector"),
            ),
            (Method::GET, "/api/v1/nodes/m", Err("node 'n' cannot read 'm', only its own Node object")),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n", Ok(())),
            (
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/m",
                Err("can only access node lease with the same name as the requesting node"),
            ),
        ] {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let request = RequestInfo::parse(&method, path, query);
            assert_eq!(judge("n", &request, &graph), Some(expect.map_err(str::to_owned)), "{method} {target}");
        }
        assert_eq!(judge("n", &RequestInfo::parse(&Method::GET, "/api/v1/services", ""), &graph), None);
    }
}
