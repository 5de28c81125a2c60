//! What is accepted in pods and templates and yet not what its author wants.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::field::{Path, quote};
use apimachinery::validation::{get_warnings_for_ip, is_valid_label_value};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, PodTemplateSpec, Volume, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::access::{ResourceList, items, text, visit_containers};
use super::app_armor::profile_of_annotation;
use super::validation::{APP_ARMOR, SECCOMP_CONTAINER, SECCOMP_POD, amount};
use super::virtual_paths;
use crate::registry::core::node_selector;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";
const USE_SECCOMP_FIELD: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const DEAD_ANNOTATIONS: &[(&str, &str)] = &[
    ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// Of a pod.
pub fn warnings_for_pod(pod: &Pod) -> Vec<String> {
    let none = PodSpec::default();
    warnings(&Path::ROOT, pod.spec.as_ref().unwrap_or(&none), &pod.metadata, false)
}

/// Of a pod template at `path`; an absent template warns of nothing. The old one makes no difference upstream either.
pub fn warnings_for_pod_template(path: &Path<'_>, template: &Value, _old: Option<&Value>) -> Vec<String> {
    if template.is_null() {
        return Vec::new();
    }
    let template: PodTemplateSpec = view(template);
    warnings(path, &template.spec.unwrap_or_default(), &template.metadata.unwrap_or_default(), true)
}

fn warnings(path: &Path<'_>, spec: &PodSpec, meta: &ObjectMeta, is_template: bool) -> Vec<String> {
    let spec_path = path.child("spec");
    let metadata = path.child("metadata");
    let annotations = metadata.child("annotations");
    let mut all = Vec::new();
    of_node_choice(spec, &spec_path, &mut all);
    let has = |key: &str| meta.annotations.as_ref().is_some_and(|a| a.contains_key(key));
    for (key, message) in DEAD_ANNOTATIONS.iter().filter(|(key, _)| has(key)) {
        all.push(format!("{}: {message}", annotations.key(key)));
    }
    let volumes = spec_path.child("volumes");
    for (i, volume) in items(&spec.volumes).iter().enumerate() {
        of_volume(volume, &volumes.index(i), &mut all);
    }
    all.extend(virtual_paths::overlaps(items(&spec.volumes)));
    of_repeated_references(spec, &spec_path, &mut all);
    of_fractions(spec.overhead.as_ref(), &spec_path.child("overhead"), &mut all);
    let profile = spec.security_context.as_ref().and_then(|sc| sc.seccomp_profile.as_ref());
    if profile.is_none() && has(SECCOMP_POD) {
        all.push(format!("{}: {USE_SECCOMP_FIELD}", annotations.key(SECCOMP_POD)));
    }
    visit_containers(spec, &spec_path, &mut |container, path| {
        of_profiles(container, spec, meta, is_template, &annotations, &mut all);
        let resources = path.child("resources");
        let lists = container.resources.as_ref();
        of_memory_and_storage(lists.and_then(|r| r.limits.as_ref()), lists.and_then(|r| r.requests.as_ref()), &resources, &mut all);
        of_repeated_variables(container, &path.child("env"), &mut all);
    });
    of_ports(spec, &spec_path, &mut all);
    of_port_names(spec, &spec_path, &mut all);
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        let field = spec_path.child("terminationGracePeriodSeconds");
        all.push(format!("{field}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    if let Some(affinity) = &spec.affinity {
        of_pod_affinity(affinity, &spec_path.child("affinity"), &mut all);
    }
    let dns = spec_path.child("dnsConfig");
    let servers = dns.child("nameservers");
    for (i, server) in spec.dns_config.iter().flat_map(|config| items(&config.nameservers)).enumerate() {
        all.extend(get_warnings_for_ip(&servers.index(i), server));
    }
    let aliases = spec_path.child("hostAliases");
    for (i, alias) in items(&spec.host_aliases).iter().enumerate() {
        all.extend(get_warnings_for_ip(&aliases.index(i).child("ip"), &alias.ip));
    }
    all
}

/// Node labels that are deprecated, and constraints that match nothing.
fn of_node_choice(spec: &PodSpec, path: &Path<'_>, all: &mut Vec<String>) {
    let selector = path.child("nodeSelector");
    for key in spec.node_selector.iter().flat_map(|s| s.keys()) {
        if let Some(message) = node_selector::deprecated_label(key) {
            all.push(format!("{}: {message}", selector.key(key)));
        }
    }
    if let Some(node) = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()) {
        let affinity = path.child("affinity");
        let path = affinity.child("nodeAffinity");
        let required = path.child(REQUIRED);
        let terms = required.child("nodeSelectorTerms");
        let of_required = node.required_during_scheduling_ignored_during_execution.iter().flat_map(|s| &s.node_selector_terms);
        for (i, term) in of_required.enumerate() {
            all.extend(node_selector::warnings_for_term(term, &terms.index(i)));
        }
        let preferred = path.child(PREFERRED);
        for (i, term) in items(&node.preferred_during_scheduling_ignored_during_execution).iter().enumerate() {
            of_preferred_term(&term.preference, &preferred.index(i).child("preference"), all);
        }
    }
    let constraints = path.child("topologySpreadConstraints");
    for (i, constraint) in items(&spec.topology_spread_constraints).iter().enumerate() {
        let path = constraints.index(i);
        if let Some(message) = node_selector::deprecated_label(&constraint.topology_key) {
            all.push(format!("{}: {} is {message}", path.child("topologyKey"), constraint.topology_key));
        }
        if constraint.label_selector.is_none() {
            all.push(format!("{}: {NULL_SELECTOR}", path.child("labelSelector")));
        }
    }
}

/// A preference, whose values are not validated but only warned of.
fn of_preferred_term(term: &NodeSelectorTerm, path: &Path<'_>, all: &mut Vec<String>) {
    let expressions = path.child("matchExpressions");
    for (i, expression) in items(&term.match_expressions).iter().enumerate() {
        let path = expressions.index(i);
        if let Some(message) = node_selector::deprecated_label(&expression.key) {
            all.push(format!("{}: {} is {message}", path.child("key"), expression.key));
        }
        let values = path.child("values");
        for (j, value) in items(&expression.values).iter().enumerate() {
            for message in is_valid_label_value(value) {
                all.push(format!("{}: {value} is invalid, {message}", values.index(j)));
            }
        }
    }
}

fn of_volume(volume: &Volume, path: &Path<'_>, all: &mut Vec<String>) {
    let outdated = [
        (volume.photon_persistent_disk.is_some(), "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        (volume.git_repo.is_some(), "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
        (volume.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        (volume.flocker.is_some(), "flocker", "deprecated in v1.22, non-functional in v1.25+"),
        (volume.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        (volume.quobyte.is_some(), "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        (volume.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        (volume.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        (volume.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for (_, name, message) in outdated.iter().filter(|(set, ..)| *set) {
        all.push(format!("{}: {message}", path.child(name)));
    }
    let claim = volume.ephemeral.as_ref().and_then(|e| e.volume_claim_template.as_ref());
    if let Some(resources) = claim.and_then(|template| template.spec.resources.as_ref()) {
        let ephemeral = path.child("ephemeral");
        let template = ephemeral.child("volumeClaimTemplate");
        let spec = template.child("spec");
        let path = spec.child("resources");
        for (field, list) in [("requests", &resources.requests), ("limits", &resources.limits)] {
            of_fraction(list.as_ref(), "storage", &path.child(field), all);
        }
    }
}

/// Host aliases and pull secrets that say the same twice, or nothing.
fn of_repeated_references(spec: &PodSpec, path: &Path<'_>, all: &mut Vec<String>) {
    let aliases = path.child("hostAliases");
    let mut seen = BTreeSet::new();
    for (i, alias) in items(&spec.host_aliases).iter().enumerate() {
        if !seen.insert(&alias.ip) {
            all.push(format!("{}: duplicate ip {}", aliases.index(i).child("ip"), quote(&alias.ip)));
        }
    }
    let secrets = path.child("imagePullSecrets");
    let mut seen = BTreeSet::new();
    for (i, secret) in items(&spec.image_pull_secrets).iter().enumerate() {
        if !seen.insert(&secret.name) {
            all.push(format!("{}: duplicate name {}", secrets.index(i).child("name"), quote(&secret.name)));
        }
    }
    for (i, _) in items(&spec.image_pull_secrets).iter().enumerate().filter(|(_, secret)| secret.name.is_empty()) {
        all.push(format!("{}: invalid empty name \"\"", secrets.index(i).child("name")));
    }
}

fn of_fraction(list: Option<&ResourceList>, name: &str, path: &Path<'_>, all: &mut Vec<String>) {
    let Some(quantity) = list.and_then(|list| list.get(name)) else { return };
    if amount(quantity).milli_value() % 1000 != 0 {
        all.push(format!("{}: fractional byte value {} is invalid, must be an integer", path.key(name), quote(&quantity.0)));
    }
}

/// Bytes come whole.
fn of_fractions(list: Option<&ResourceList>, path: &Path<'_>, all: &mut Vec<String>) {
    of_fraction(list, "memory", path, all);
    of_fraction(list, "ephemeral-storage", path, all);
}

fn of_memory_and_storage(limits: Option<&ResourceList>, requests: Option<&ResourceList>, path: &Path<'_>, all: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        of_fraction(limits, name, &path.child("limits"), all);
        of_fraction(requests, name, &path.child("requests"), all);
    }
}

/// Profiles that only annotations name.
fn of_profiles(container: &Container, spec: &PodSpec, meta: &ObjectMeta, is_template: bool, annotations: &Path<'_>, all: &mut Vec<String>) {
    let annotation = |prefix: &str| {
        let key = format!("{prefix}{}", container.name);
        let value = meta.annotations.as_ref().and_then(|a| a.get(&key)).cloned();
        value.map(|value| (key, value))
    };
    let sc = container.security_context.as_ref();
    if sc.is_none_or(|sc| sc.seccomp_profile.is_none())
        && let Some((key, _)) = annotation(SECCOMP_CONTAINER)
    {
        all.push(format!("{}: {USE_SECCOMP_FIELD}", annotations.key(&key)));
    }
    // For pods this is said when the annotation becomes the field.
    if is_template
        && sc.is_none_or(|sc| sc.app_armor_profile.is_none())
        && let Some((key, value)) = annotation(APP_ARMOR)
    {
        let of_pod = spec.security_context.as_ref().and_then(|sc| sc.app_armor_profile.as_ref());
        let named = profile_of_annotation(&value).map(|profile| view(&profile));
        if of_pod.is_none() || of_pod != named.as_ref() {
            all.push(format!("{}: deprecated since v1.30; use the \"appArmorProfile\" field instead", annotations.key(&key)));
        }
    }
}

/// A variable that is set again without using what it was.
fn of_repeated_variables(container: &Container, path: &Path<'_>, all: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, var) in items(&container.env).iter().enumerate() {
        if seen.insert(&var.name) {
            continue;
        }
        let reference = format!("$({})", var.name);
        let value = text(&var.value);
        if var.value_from.is_some() || value == reference || !value.contains(&reference) {
            all.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                path.index(i),
                quote(&var.name)
            ));
        }
    }
}

/// Ports that clash with others of the pod.
fn of_ports(spec: &PodSpec, path: &Path<'_>, all: &mut Vec<String>) {
    let mut known: BTreeMap<(i32, String), Vec<(String, ContainerPort)>> = BTreeMap::new();
    visit_containers(spec, path, &mut |container, path| {
        let ports = path.child("ports");
        for (i, port) in items(&container.ports).iter().enumerate() {
            let field = ports.index(i);
            let (ip, host) = (text(&port.host_ip), port.host_port.unwrap_or(0));
            if !ip.is_empty() && host == 0 {
                let (name, protocol) = (text(&port.name), text(&port.protocol));
                all.push(format!(
                    "{field}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{} Protocol:{protocol} HostIP:{ip}}}",
                    port.container_port
                ));
            }
            let others = known.entry((port.container_port, text(&port.protocol).to_owned())).or_default();
            for (other_field, other) in others.iter() {
                let (other_ip, other_host) = (text(&other.host_ip), other.host_port.unwrap_or(0));
                if ip == other_ip && host == other_host {
                    all.push(format!("{field}: duplicate port definition with {other_field}"));
                } else if host == 0 || other_host == 0 {
                    all.push(format!("{field}: overlapping port definition with {other_field}"));
                } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                    all.push(format!("{field}: dangerously ambiguous port definition with {other_field}"));
                }
            }
            others.push((field.to_string(), port.clone()));
        }
    });
}

fn of_port_names(spec: &PodSpec, path: &Path<'_>, all: &mut Vec<String>) {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    visit_containers(spec, path, &mut |container, path| {
        let ports = path.child("ports");
        for (i, port) in items(&container.ports).iter().enumerate().filter(|(_, port)| !text(&port.name).is_empty()) {
            let (field, name) = (ports.index(i), text(&port.name));
            match known.get(name) {
                Some(other) => all.push(format!(
                    "{field}: duplicate port name {} with {other}, services and probes that select ports by name will use {other}",
                    quote(name)
                )),
                None => {
                    known.insert(name.to_owned(), field.to_string());
                }
            }
        }
    });
}

fn of_pod_affinity(affinity: &Affinity, path: &Path<'_>, all: &mut Vec<String>) {
    let mut of_terms = |required: &[PodAffinityTerm], preferred: &[WeightedPodAffinityTerm], path: &Path<'_>| {
        let (required_path, preferred_path) = (path.child(REQUIRED), path.child(PREFERRED));
        for (i, _) in required.iter().enumerate().filter(|(_, term)| term.label_selector.is_none()) {
            all.push(format!("{}: {NULL_SELECTOR}", required_path.index(i).child("labelSelector")));
        }
        for (i, _) in preferred.iter().enumerate().filter(|(_, term)| term.pod_affinity_term.label_selector.is_none()) {
            let term = preferred_path.index(i);
            all.push(format!("{}: {NULL_SELECTOR}", term.child("podAffinityTerm").child("labelSelector")));
        }
    };
    if let Some(a) = &affinity.pod_affinity {
        let required = items(&a.required_during_scheduling_ignored_during_execution);
        of_terms(required, items(&a.preferred_during_scheduling_ignored_during_execution), &path.child("podAffinity"));
    }
    if let Some(a) = &affinity.pod_anti_affinity {
        let required = items(&a.required_during_scheduling_ignored_during_execution);
        of_terms(required, items(&a.preferred_during_scheduling_ignored_during_execution), &path.child("podAntiAffinity"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_upstream_warns_of_is_warned_of() {
        let container = |more: Value| {
            let mut c = json!({"name": "c"});
            c.as_object_mut().expect("object").extend(more.as_object().cloned().expect("object"));
            json!({"containers": [c]})
        };
        let cases = [
            (
                json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "containers": []}),
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            ),
            (
                container(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]})),
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            ),
            (
                json!({"hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}], "containers": []}),
                "spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\"",
            ),
            (json!({"imagePullSecrets": [{"name": ""}], "containers": []}), "spec.imagePullSecrets[0].name: invalid empty name \"\""),
            (
                container(json!({"resources": {"requests": {"memory": "100m"}}})),
                "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ),
            (
                container(json!({"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP"}]})),
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            ),
            (
                json!({"volumes": [{"name": "v", "gitRepo": {"repository": "x"}}], "containers": []}),
                "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(warnings_for_pod(&view(&json!({"metadata": {}, "spec": spec}))), [want], "{spec}");
        }
    }

    #[test]
    fn templates_are_warned_of_at_their_place() {
        let template = json!({"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/critical-pod": ""}}, "spec": {"containers": []}});
        let path = Path::new("spec");
        assert_eq!(
            warnings_for_pod_template(&path.child("template"), &template, None),
            ["spec.template.metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: \
                 non-functional in v1.16+; use the \"priorityClassName\" field instead"]
        );
    }
}
