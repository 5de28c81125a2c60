//! Ingresses: how HTTP from outside reaches services.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{
    Ip, get_warnings_for_ip, is_dns1123_subdomain, is_valid_ip_for_legacy_field, is_wildcard_dns1123_subdomain, name_is_dns_subdomain,
};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{Ingress, IngressRule, IngressSpec, IngressTLS};
use serde_json::Value;

use super::ingress_backend::{validate_backend, validate_http};
use crate::registry::printer::{self, text};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::strategy::{bump_generation_if_changed, drop_field, keep_all_but_status, keep_status, set_generation};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: "networking.k8s.io",
    version: "v1",
    plural: "ingresses",
    singular: "ingress",
    kind: "Ingress",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["ing"],
    categories: &[],
    schema: "io.k8s.api.networking.v1.Ingress",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: "networking.k8s.io",
        version: "v1",
        kind: "Ingress",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Class", Description::Text("The name of the IngressClass resource that should be used for additional configuration")),
    text("Hosts", Description::Text("Hosts that incoming requests are matched against before the ingress rule")),
    text("Address", Description::Text("Address is a list containing ingress points for the load-balancer")),
    text("Ports", Description::Text("Ports of TLS configurations that open")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        printer::name(object),
        at(object, "/spec/ingressClassName").as_str().unwrap_or("<none>").into(),
        hosts(list_at(object, "/spec/rules")).into(),
        addresses(list_at(object, "/status/loadBalancer/ingress")).into(),
        if list_at(object, "/spec/tls").is_empty() { "80" } else { "80, 443" }.into(),
        printer::object_age(object, now),
    ]
}

/// The first three hosts. Rules without one take a place in the count of the rest only.
fn hosts(rules: &[Value]) -> String {
    const SHOWN: usize = 3;
    let mut list: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= list.len() == SHOWN;
        let host = str_at(rule, "/host");
        if !more && !host.is_empty() {
            list.push(host);
        }
    }
    match (list.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, true) => format!("{} + {} more...", list.join(","), rules.len().saturating_sub(SHOWN)),
        (false, false) => list.join(","),
    }
}

fn addresses(points: &[Value]) -> String {
    let address = |point: &Value| {
        let ip = str_at(point, "/ip");
        if ip.is_empty() { str_at(point, "/hostname").to_owned() } else { ip.to_owned() }
    };
    let distinct: BTreeSet<String> = points.iter().map(address).filter(|a| !a.is_empty()).collect();
    distinct.into_iter().collect::<Vec<_>>().join(",")
}

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

fn class_annotation(object: &Value) -> Option<&str> {
    at(object, "/metadata/annotations").get(CLASS_ANNOTATION).and_then(Value::as_str)
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut errors = validate_spec(new, Tolerated::default());
        if let (Some(annotated), Some(class)) = (class_annotation(new), at(new, "/spec/ingressClassName").as_str())
            && annotated != class
        {
            let annotations = Path::new("annotations");
            let detail = "must match `ingressClassName` when both are specified";
            errors.push(Error::invalid(&annotations.child(CLASS_ANNOTATION), annotated, detail));
        }
        errors
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        if class_annotation(new).is_none() || at(new, "/spec/ingressClassName").is_string() {
            return Vec::new();
        }
        vec![format!("annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead")]
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_spec(new, Tolerated::of(old))
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_load_balancer(new, old)
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        let path = Path::new("status.loadBalancer.ingress");
        let points = list_at(new, "/status/loadBalancer/ingress").iter().enumerate();
        points
            .filter(|(_, point)| !str_at(point, "/ip").is_empty())
            .flat_map(|(i, point)| get_warnings_for_ip(&path.index(i), str_at(point, "/ip")))
            .collect()
    }
}

/// What of a stored object is left alone, because older versions took it.
#[derive(Clone, Copy, Default)]
struct Tolerated {
    secret_names: bool,
    rules_of_wildcard_hosts: bool,
}

impl Tolerated {
    fn of(old: &Value) -> Tolerated {
        let ingress: Ingress = view(old);
        let spec = ingress.spec.unwrap_or_default();
        let secret_names = spec.tls.iter().flatten().any(|tls| !secret_name_problems(tls).is_empty());
        let bad_rule =
            |rule: &&IngressRule| !rule.http.iter().flat_map(|http| validate_http(http, &Path::ROOT)).collect::<Vec<_>>().is_empty();
        let wildcards = spec.rules.iter().flatten().filter(|rule| rule.host.as_deref().unwrap_or("").contains('*'));
        Tolerated { secret_names, rules_of_wildcard_hosts: wildcards.filter(bad_rule).count() > 0 }
    }
}

fn validate_spec(object: &Value, tolerated: Tolerated) -> ErrorList {
    let ingress: Ingress = view(object);
    let spec: IngressSpec = ingress.spec.unwrap_or_default();
    let path = Path::new("spec");
    let rules = spec.rules.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    if rules.is_empty() && spec.default_backend.is_none() {
        errors.push(Error::invalid(&path, at(object, "/spec/rules").clone(), "either `defaultBackend` or `rules` must be specified"));
    }
    if let Some(backend) = &spec.default_backend {
        errors.extend(validate_backend(backend, &path.child("defaultBackend")));
    }
    let rules_path = path.child("rules");
    for (i, rule) in rules.iter().enumerate() {
        errors.extend(validate_rule(rule, tolerated, &rules_path.index(i)));
    }
    let tls_path = path.child("tls");
    for (i, tls) in spec.tls.iter().flatten().enumerate() {
        errors.extend(validate_tls(tls, tolerated, &tls_path.index(i)));
    }
    if let Some(class) = &spec.ingress_class_name {
        let problems = name_is_dns_subdomain(class, false);
        errors.extend(problems.into_iter().map(|message| Error::invalid(&path.child("ingressClassName"), class.as_str(), message)));
    }
    errors
}

fn validate_host(host: &str, path: &Path<'_>) -> ErrorList {
    let problems = if host.contains('*') { is_wildcard_dns1123_subdomain(host) } else { is_dns1123_subdomain(host) };
    problems.into_iter().map(|message| Error::invalid(path, host, message)).collect()
}

fn validate_rule(rule: &IngressRule, tolerated: Tolerated, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    let host = rule.host.as_deref().unwrap_or("");
    if !host.is_empty() {
        let host_path = path.child("host");
        if Ip::parse_sloppy(host).is_some() {
            errors.push(Error::invalid(&host_path, host, "must be a DNS name, not an IP address"));
        }
        errors.extend(validate_host(host, &host_path));
    }
    if !(host.contains('*') && tolerated.rules_of_wildcard_hosts)
        && let Some(http) = &rule.http
    {
        errors.extend(validate_http(http, &path.child("http")));
    }
    errors
}

fn secret_name_problems(tls: &IngressTLS) -> Vec<String> {
    match tls.secret_name.as_deref() {
        None | Some("") => Vec::new(),
        Some(name) => name_is_dns_subdomain(name, false),
    }
}

fn validate_tls(tls: &IngressTLS, tolerated: Tolerated, path: &Path<'_>) -> ErrorList {
    let hosts_path = path.child("hosts");
    let hosts = tls.hosts.iter().flatten().enumerate();
    let mut errors: ErrorList = hosts.flat_map(|(i, host)| validate_host(host, &hosts_path.index(i))).collect();
    if !tolerated.secret_names {
        let name = tls.secret_name.as_deref().unwrap_or("");
        errors.extend(secret_name_problems(tls).into_iter().map(|message| Error::invalid(&path.child("secretName"), name, message)));
    }
    errors
}

fn validate_load_balancer(new: &Value, old: &Value) -> ErrorList {
    const POINTS: &str = "/status/loadBalancer/ingress";
    let known: Vec<&str> = list_at(old, POINTS).iter().map(|point| str_at(point, "/ip")).filter(|ip| !ip.is_empty()).collect();
    let path = Path::new("status.loadBalancer.ingress");
    let mut errors = Vec::new();
    for (i, point) in list_at(new, POINTS).iter().enumerate() {
        let point_path = path.index(i);
        let (ip, host) = (str_at(point, "/ip"), str_at(point, "/hostname"));
        if !ip.is_empty() {
            errors.extend(is_valid_ip_for_legacy_field(&point_path.child("ip"), ip, true, &known));
        }
        if !host.is_empty() {
            let host_path = point_path.child("hostname");
            errors.extend(is_dns1123_subdomain(host).into_iter().map(|message| Error::invalid(&host_path, host, message)));
            if Ip::parse_sloppy(host).is_some() {
                errors.push(Error::invalid(&host_path, host, "must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value) -> Vec<String> {
        validate_spec(&json!({"spec": spec}), Tolerated::default()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_ingress_leads_somewhere() {
        assert_eq!(check(json!({})), ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]);
        assert!(check(json!({"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}})).is_empty());
        assert!(check(json!({"rules": [{"host": "*.example.com"}]})).is_empty());
        assert_eq!(
            check(json!({"rules": [{"host": "10.0.0.1"}]})),
            ["spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address"]
        );
    }

    #[test]
    fn hosts_are_cut_after_three() {
        let rules = |hosts: &[&str]| hosts.iter().map(|h| json!({"host": h})).collect::<Vec<_>>();
        assert_eq!(hosts(&rules(&[])), "*");
        assert_eq!(hosts(&rules(&["", "a"])), "a");
        assert_eq!(hosts(&rules(&["a", "b", "c", "d", "e"])), "a,b,c + 2 more...");
    }

    #[test]
    fn the_class_annotation_agrees_with_the_field() {
        let cx = Cx { now: Timestamp::UNIX_EPOCH, subresource: "", namespace: "n", user: "u", uid: "", groups: &[], extra: &[] };
        let object = json!({"metadata": {"annotations": {CLASS_ANNOTATION: "a"}}, "spec": {"ingressClassName": "b", "rules": [{}]}});
        let texts: Vec<String> = Main.validate(&cx, &object).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match `ingressClassName` when both are specified"]
        );
    }
}
