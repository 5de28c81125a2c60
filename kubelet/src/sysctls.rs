//! Which kernel parameters a pod may set: those that are safe, and those that this node's configuration allows.

use k8s_openapi::api::core::v1::Pod;

use crate::admission::Rejection;
use crate::pod;

/// Parameters that have no effect outside the pod that sets them, on all kernels that are in use.
const SAFE: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

/// With dots between its parts, whichever separator was written first.
fn normalized(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// The namespace that a parameter belongs to, as messages call it.
fn namespace(name: &str) -> Option<&'static str> {
    const IPC: [&str; 4] = ["kernel.shm", "kernel.msg", "fs.mqueue.", "kernel.sem"];
    if name.starts_with("net.") {
        Some("net")
    } else if IPC.iter().any(|prefix| name.starts_with(prefix)) {
        Some("ipc")
    } else {
        None
    }
}

/// Looks at all parameters that the pod sets. `allowed`: `allowedUnsafeSysctls`, where a `*` at the end stands for anything.
pub fn admit(pod: &Pod, allowed: &[String]) -> Result<(), Rejection> {
    let spec = pod::spec(pod);
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    for sysctl in sysctls {
        let name = normalized(&sysctl.name);
        let matches = |pattern: &String| match normalized(pattern).strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => normalized(pattern) == name,
        };
        let forbidden =
            |problem: String| Err(Rejection { reason: "SysctlForbidden".to_owned(), message: format!("forbidden sysctl: {problem}") });
        if !SAFE.contains(&name.as_str()) && !allowed.iter().any(matches) {
            return forbidden(format!("{name:?} not allowlisted"));
        }
        let host = match namespace(&name) {
            Some("net") => spec.host_network == Some(true),
            Some("ipc") => spec.host_ipc == Some(true),
            _ => false,
        };
        if host {
            return forbidden(format!("{name:?} not allowed with host {} enabled", namespace(&name).unwrap_or("")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_safe_and_allowed_parameters_pass() {
        let allowed = ["kernel.msg*".to_owned(), "net.core.somaxconn".to_owned()];
        for (name, host_network, problem) in [
            ("kernel.shm_rmid_forced", false, None),
            ("kernel/shm_rmid_forced", false, None),
            ("kernel.msgmax", false, None),
            ("net.core.somaxconn", false, None),
            ("net.core.somaxconn", true, Some("\"net.core.somaxconn\" not allowed with host net enabled")),
            ("vm.swappiness", false, Some("\"vm.swappiness\" not allowlisted")),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "hostNetwork": host_network,
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}}))
            .expect("it is a pod");
            let expected = problem.map(|problem| format!("forbidden sysctl: {problem}"));
            assert_eq!(admit(&pod, &allowed).err().map(|rejection| rejection.message), expected, "{name}");
        }
    }
}
