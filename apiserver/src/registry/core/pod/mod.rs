//! core/v1 Pod: its entry in the resource table, and the parts that other kinds with pod templates use.
//!
//! Owns what a pod may be and how it is shown; never what becomes of it (scheduling, running, eviction's I/O).

pub(crate) mod access;
pub mod aggregate;
mod app_armor;
pub mod assignment;
pub mod conditions;
pub mod connect;
pub mod defaults;
pub mod eviction;
mod gates;
pub mod image;
mod label_keys;
pub mod levels;
pub mod printer;
pub mod qos;
pub mod semantic;
pub mod strategy;
pub mod validation;
mod virtual_paths;
pub mod warnings;

use std::borrow::Cow;

use apimachinery::validation::name_is_dns_subdomain;
use serde_json::Value;

use crate::registry::read::{bool_at, str_at};
use crate::registry::{ALL_VERBS, Behaviour, CREATE_ONLY, Definition, SUBRESOURCE_VERBS, Scope, Subresource, Verbs};

const CONNECT_VERBS: Verbs = &["create", "get"];
const PROXY_VERBS: Verbs = &["create", "delete", "get", "patch", "update"];

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "pods",
    singular: "pod",
    kind: "Pod",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["po"],
    categories: &["all"],
    schema: "io.k8s.api.core.v1.Pod",
    name: name_is_dns_subdomain,
    strategy: &strategy::PodStrategy,
    subresources: &[
        endpoint("attach", "PodAttachOptions", CONNECT_VERBS),
        endpoint("binding", "Binding", CREATE_ONLY),
        // Upstream tells ownership nothing of what these two endpoints reset, so that a writer comes to own it.
        of_pod("ephemeralcontainers", &strategy::EphemeralContainersStrategy, &[]),
        Subresource { group: "policy", ..endpoint("eviction", "Eviction", CREATE_ONLY) },
        endpoint("exec", "PodExecOptions", CONNECT_VERBS),
        endpoint("log", "Pod", &["get"]),
        endpoint("portforward", "PodPortForwardOptions", CONNECT_VERBS),
        endpoint("proxy", "PodProxyOptions", PROXY_VERBS),
        of_pod("resize", &strategy::ResizeStrategy, &[]),
        of_pod("status", &strategy::StatusStrategy, &["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"]),
    ],
    selectable: &[
        ("spec.nodeName", |pod| str_at(pod, "/spec/nodeName").into()),
        ("spec.restartPolicy", |pod| str_at(pod, "/spec/restartPolicy").into()),
        ("spec.schedulerName", |pod| str_at(pod, "/spec/schedulerName").into()),
        ("spec.serviceAccountName", |pod| str_at(pod, "/spec/serviceAccountName").into()),
        ("spec.hostNetwork", |pod| (if bool_at(pod, "/spec/hostNetwork") { "true" } else { "false" }).into()),
        ("status.phase", |pod| str_at(pod, "/status/phase").into()),
        ("status.podIP", |pod| str_at(pod, "/status/podIPs/0/ip").into()),
        // Upstream accepts this one and never fills it in.
        ("status.podIPs", |_| Cow::Borrowed("")),
        ("status.nominatedNodeName", |pod| str_at(pod, "/status/nominatedNodeName").into()),
        // The old name of spec.nodeName.
        ("spec.host", |pod: &Value| str_at(pod, "/spec/nodeName").into()),
    ],
    printer: printer::PRINTER,
    reset_fields: &["status"],
};

const fn endpoint(name: &'static str, kind: &'static str, verbs: Verbs) -> Subresource {
    Subresource { name, group: "", version: "v1", kind, verbs, behaviour: Behaviour::Endpoint }
}

const fn of_pod(
    name: &'static str,
    strategy: &'static dyn crate::registry::UpdateStrategy,
    reset_fields: &'static [&'static str],
) -> Subresource {
    let behaviour = Behaviour::Object { strategy, reset_fields };
    Subresource { name, group: "", version: "v1", kind: "Pod", verbs: SUBRESOURCE_VERBS, behaviour }
}
