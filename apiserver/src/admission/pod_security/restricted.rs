//! The checks that the restricted level adds: what a pod must say to be hardened.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{added, bad_seccomp, security};
use super::checks::{Pod, Violation, name_containers, name_setters, plural, quoted};
use crate::registry::read::{list_at, str_at};

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

pub fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.names_where(|c| security(c, "allowPrivilegeEscalation") != Some(&Value::Bool(false)));
    if containers.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", name_containers(&containers));
    violation("allowPrivilegeEscalation != false", detail)
}

pub fn privilege_escalation_from_25(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { privilege_escalation(pod) }
}

pub fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 1] = ["NET_BIND_SERVICE"];
    let drops_all = |c: &Value| list_at(c, "/securityContext/capabilities/drop").iter().any(|d| d == "ALL");
    let keeping = pod.names_where(|c| !drops_all(c));
    let adding = pod.names_where(|c| added(c, &ALLOWED).next().is_some());
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", name_containers(&keeping)));
    }
    if !adding.is_empty() {
        let names: BTreeSet<&str> = pod.containers().flat_map(|c| added(c, &ALLOWED)).collect();
        let names = quoted(names);
        details.push(format!("{} must not include {names} in securityContext.capabilities.add", name_containers(&adding)));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

pub fn capabilities_from_25(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { capabilities(pod) }
}

const ALLOWED_VOLUMES: [&str; 9] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];

const KNOWN_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let has = |v: &Value, source: &str| v.get(source).is_some_and(|s| !s.is_null());
    let restricted = list_at(pod.spec, "/volumes").iter().filter(|v| !ALLOWED_VOLUMES.iter().any(|source| has(v, source)));
    let restricted: Vec<&Value> = restricted.collect();
    if restricted.is_empty() {
        return None;
    }
    let kind = |v: &&Value| KNOWN_VOLUMES.iter().find(|source| has(v, source)).copied().unwrap_or("unknown");
    let kinds: BTreeSet<&str> = restricted.iter().map(kind).collect();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", restricted.len()),
        quoted(restricted.iter().map(|v| str_at(v, "/name"))),
        plural("uses", "use", restricted.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(&kinds)
    );
    violation("restricted volume types", detail)
}

pub fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let set = |of: &Value| security(of, "runAsNonRoot").and_then(Value::as_bool);
    let of_pod = set(pod.spec);
    let refusing = pod.names_where(|c| set(c) == Some(false));
    if let Some(setters) = name_setters(of_pod == Some(false), &refusing) {
        return violation(REASON, format!("{setters} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.names_where(|c| set(c).is_none());
    if silent.is_empty() || of_pod == Some(true) {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", name_containers(&silent)))
}

pub fn run_as_non_root_from_35(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() { None } else { run_as_non_root(pod) }
}

pub fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let is_root = |of: &Value| security(of, "runAsUser").and_then(Value::as_i64) == Some(0);
    let setters = name_setters(is_root(pod.spec), &pod.names_where(is_root))?;
    violation("runAsUser=0", format!("{setters} must not set runAsUser=0"))
}

pub fn run_as_user_from_35(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() { None } else { run_as_user(pod) }
}

pub fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    if let Some(violation) = super::baseline::seccomp(pod) {
        return Some(violation);
    }
    let is_set = |of: &Value| security(of, "seccompProfile").is_some() && bad_seccomp(of).is_none();
    let silent = pod.names_where(|c| security(c, "seccompProfile").is_none());
    if silent.is_empty() || is_set(pod.spec) {
        return None;
    }
    let detail =
        format!("pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"", name_containers(&silent));
    violation("seccompProfile", detail)
}

pub fn seccomp_from_25(pod: &Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { seccomp(pod) }
}
