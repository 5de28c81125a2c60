//! The checks of the baseline level: known ways out of a container are closed.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::{Pod, Violation, name_containers, name_setters, plural, quoted};
use crate::registry::read::{at, bool_at, int_at, list_at, str_at};

/// The text at a place of a container's or pod's `securityContext`, if it is set.
pub(super) fn security<'a>(of: &'a Value, field: &str) -> Option<&'a Value> {
    of.get("securityContext")?.get(field).filter(|value| !value.is_null())
}

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

const APP_ARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";

pub fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |of: &Value| {
        let profile = security(of, "appArmorProfile").map(|profile| str_at(profile, "/type"));
        profile.filter(|kind| !matches!(*kind, "RuntimeDefault" | "Localhost")).map(str::to_owned)
    };
    let of_pod = bad(pod.spec);
    let containers = pod.names_where(|c| bad(c).is_some());
    let mut values: Vec<String> =
        of_pod.iter().cloned().chain(pod.containers().filter_map(bad)).collect::<BTreeSet<_>>().into_iter().collect();
    let mut setters: Vec<String> = name_setters(of_pod.is_some(), &containers).into_iter().collect();
    let annotations: BTreeSet<String> = at(pod.metadata, "/annotations")
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(key, value)| key.starts_with(APP_ARMOR_PREFIX) && !is_allowed_app_armor(value))
        .map(|(key, value)| format!("{key}={}", apimachinery::field::quote(value)))
        .collect();
    if !annotations.is_empty() {
        setters.push(plural("annotation", "annotations", annotations.len()).to_owned());
        values.extend(annotations);
    }
    if setters.is_empty() {
        return None;
    }
    let reason = if values.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
    violation(reason, format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(&values)))
}

fn is_allowed_app_armor(profile: &str) -> bool {
    profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/")
}

/// Capabilities that a container runtime gives without being asked.
const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The capabilities that a container adds and may not.
pub(super) fn added<'a>(container: &'a Value, allowed: &'a [&str]) -> impl Iterator<Item = &'a str> {
    list_at(container, "/securityContext/capabilities/add").iter().filter_map(Value::as_str).filter(|c| !allowed.contains(c))
}

pub fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.names_where(|c| added(c, &DEFAULT_CAPABILITIES).next().is_some());
    if containers.is_empty() {
        return None;
    }
    let names: BTreeSet<&str> = pod.containers().flat_map(|c| added(c, &DEFAULT_CAPABILITIES)).collect();
    let detail = format!("{} must not include {} in securityContext.capabilities.add", name_containers(&containers), quoted(names));
    violation("non-default capabilities", detail)
}

pub fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|f| pod.spec.get(**f) == Some(&Value::Bool(true)))
        .map(|f| format!("{f}=true"))
        .collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

pub fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = list_at(pod.spec, "/volumes").iter().filter(|v| v.get("hostPath").is_some());
    let names: Vec<&str> = volumes.map(|v| str_at(v, "/name")).collect();
    if names.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names)))
}

pub fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let used = |c: &Value| -> Vec<i64> { list_at(c, "/ports").iter().map(|p| int_at(p, "/hostPort")).filter(|p| *p != 0).collect() };
    let containers = pod.names_where(|c| !used(c).is_empty());
    if containers.is_empty() {
        return None;
    }
    // Sorted as text, as upstream sorts them.
    let ports: BTreeSet<String> = pod.containers().flat_map(used).map(|p| p.to_string()).collect();
    let detail = format!(
        "{} {} {} {}",
        name_containers(&containers),
        plural("uses", "use", containers.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.iter().cloned().collect::<Vec<_>>().join(", ")
    );
    violation("hostPort", detail)
}

pub fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
    const HANDLERS: [&str; 5] = ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let hosts = |c: &Value| -> BTreeSet<String> {
        let places = HANDLERS.iter().flat_map(|handler| ["httpGet", "tcpSocket"].map(|how| format!("{handler}/{how}/host")));
        places.map(|place| str_at(c, &place).to_owned()).filter(|host| !host.is_empty()).collect()
    };
    let containers: BTreeSet<&str> = pod.names_where(|c| !hosts(c).is_empty()).into_iter().collect();
    if containers.is_empty() {
        return None;
    }
    let containers: Vec<&str> = containers.into_iter().collect();
    let hosts: BTreeSet<String> = pod.containers().flat_map(hosts).collect();
    let detail = format!(
        "{} {} {} {}",
        name_containers(&containers),
        plural("uses", "use", containers.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
        quoted(&hosts)
    );
    violation("probe or lifecycle host", detail)
}

pub fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.names_where(|c| bool_at(c, "/securityContext/privileged"));
    if containers.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", name_containers(&containers)))
}

pub fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |c: &Value| security(c, "procMount").and_then(Value::as_str).filter(|m| *m != "Default").map(str::to_owned);
    let containers = pod.names_where(|c| bad(c).is_some());
    if containers.is_empty() {
        return None;
    }
    let kinds: BTreeSet<String> = pod.containers().filter_map(bad).collect();
    violation("procMount", format!("{} must not set securityContext.procMount to {}", name_containers(&containers), quoted(&kinds)))
}

pub fn proc_mount_from_35(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() { None } else { proc_mount(pod) }
}

pub fn se_linux(pod: &Pod<'_>) -> Option<Violation> {
    se_linux_types(pod, &["", "container_t", "container_init_t", "container_kvm_t"])
}

pub fn se_linux_from_31(pod: &Pod<'_>) -> Option<Violation> {
    se_linux_types(pod, &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"])
}

fn se_linux_types(pod: &Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let is_bad = |of: &Value| {
        security(of, "seLinuxOptions")
            .is_some_and(|o| !allowed.contains(&str_at(o, "/type")) || !str_at(o, "/user").is_empty() || !str_at(o, "/role").is_empty())
    };
    let setters = name_setters(is_bad(pod.spec), &pod.names_where(is_bad))?;
    let all: Vec<&Value> = std::iter::once(pod.spec).chain(pod.containers()).filter_map(|of| security(of, "seLinuxOptions")).collect();
    let types: BTreeSet<&str> = all.iter().map(|o| str_at(o, "/type")).filter(|t| !allowed.contains(t)).collect();
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    for field in ["user", "role"] {
        if all.iter().any(|o| o.get(field).and_then(Value::as_str).is_some_and(|v| !v.is_empty())) {
            data.push(format!("{field} may not be set"));
        }
    }
    violation("seLinuxOptions", format!("{setters} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")))
}

pub fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned())
        .chain(pod.containers().map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", str_at(c, "/name"))));
    let allowed = |v: &str| v == "runtime/default" || v == "docker/default" || v.starts_with("localhost/");
    let forbidden: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = at(pod.metadata, "/annotations").get(&key)?.as_str()?;
            (!allowed(value)).then(|| format!("{key}={}", apimachinery::field::quote(value)))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let list = forbidden.iter().cloned().collect::<Vec<_>>().join(", ");
    violation("seccompProfile", format!("forbidden {} {list}", plural("annotation", "annotations", forbidden.len())))
}

/// The seccomp profile's type, if it is set to one that does not confine.
pub(super) fn bad_seccomp(of: &Value) -> Option<&str> {
    let kind = str_at(security(of, "seccompProfile")?, "/type");
    (!matches!(kind, "RuntimeDefault" | "Localhost")).then_some(kind)
}

pub fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.names_where(|c| bad_seccomp(c).is_some());
    let setters = name_setters(bad_seccomp(pod.spec).is_some(), &containers)?;
    let kinds: BTreeSet<&str> = std::iter::once(pod.spec).chain(pod.containers()).filter_map(bad_seccomp).collect();
    violation("seccompProfile", format!("{setters} must not set securityContext.seccompProfile.type to {}", quoted(&kinds)))
}

const SYSCTLS: [&str; 5] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
];

/// The sysctls that later versions allow too.
const LATER_SYSCTLS: [(i64, &[&str]); 4] = [
    (27, &["net.ipv4.ip_local_reserved_ports"]),
    (29, &["net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"]),
    (32, &["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"]),
    (37, &["net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat"]),
];

fn sysctls_at(pod: &Pod<'_>, version: i64) -> Option<Violation> {
    let later = |name: &str| LATER_SYSCTLS.iter().any(|(from, names)| *from <= version && names.contains(&name));
    let names = list_at(pod.spec, "/securityContext/sysctls").iter().map(|s| str_at(s, "/name"));
    let forbidden: Vec<&str> = names.filter(|name| !SYSCTLS.contains(name) && !later(name)).collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

pub fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_at(pod, 0)
}

pub fn sysctls_from_27(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_at(pod, 27)
}

pub fn sysctls_from_29(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_at(pod, 29)
}

pub fn sysctls_from_32(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_at(pod, 32)
}

pub fn sysctls_from_37(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_at(pod, 37)
}

pub fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let is_host = |of: &Value| bool_at(of, "/securityContext/windowsOptions/hostProcess");
    let setters = name_setters(is_host(pod.spec), &pod.names_where(is_host))?;
    violation("hostProcess", format!("{setters} must not set securityContext.windowsOptions.hostProcess=true"))
}
