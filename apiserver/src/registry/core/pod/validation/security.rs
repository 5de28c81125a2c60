//! Security contexts of pods and containers: identities, seccomp, AppArmor, sysctls.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_valid_group_id, is_valid_user_id};
use k8s_openapi::api::core::v1::{AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};

use super::containers::validate_choice;
use super::options::Options;
use super::paths::validate_local_descending_path;
use super::windows::validate_windows_options;
use super::{invalid_all, printed};
use crate::registry::core::pod::access::{items, on};

const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const MAX_SYSCTL_BYTES: usize = 253;
/// The longest file name that Linux opens.
const MAX_PROFILE_BYTES: usize = 4095;

pub(super) fn validate_security_context(sc: &SecurityContext, path: &Path<'_>, host_users: bool, opts: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(uid) = sc.run_as_user {
        errors.extend(invalid_all(&path.child("runAsUser"), uid, is_valid_user_id(uid)));
    }
    if let Some(gid) = sc.run_as_group {
        errors.extend(invalid_all(&path.child("runAsGroup"), gid, is_valid_group_id(gid)));
    }
    if let Some(mount) = sc.proc_mount.as_deref() {
        let path = path.child("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            errors.push(Error::not_supported(&path, mount, &["Default", "Unmasked"]));
        }
        if host_users && mount == "Unmasked" {
            errors.push(Error::invalid(&path, mount, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    if let Some(profile) = &sc.seccomp_profile {
        errors.extend(validate_seccomp_profile(profile, &path.child("seccompProfile")));
    }
    if sc.allow_privilege_escalation == Some(false) {
        if on(sc.privileged) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(Error::invalid(path, printed::structure("SecurityContext", sc), detail));
        }
        let added = sc.capabilities.iter().flat_map(|c| items(&c.add));
        for _ in added.filter(|c| !opts.allow_sys_admin_without_escalation && *c == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(path, printed::structure("SecurityContext", sc), detail));
        }
    }
    if let Some(options) = &sc.windows_options {
        errors.extend(validate_windows_options(options, &path.child("windowsOptions")));
    }
    if let Some(profile) = &sc.app_armor_profile {
        errors.extend(validate_app_armor_profile(profile, &path.child("appArmorProfile")));
    }
    errors
}

pub(super) fn validate_pod_security_context(sc: &PodSecurityContext, spec: &PodSpec, path: &Path<'_>, opts: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(gid) = sc.fs_group {
        errors.extend(invalid_all(&path.child("fsGroup"), gid, is_valid_group_id(gid)));
    }
    if let Some(uid) = sc.run_as_user {
        errors.extend(invalid_all(&path.child("runAsUser"), uid, is_valid_user_id(uid)));
    }
    if let Some(gid) = sc.run_as_group {
        errors.extend(invalid_all(&path.child("runAsGroup"), gid, is_valid_group_id(gid)));
    }
    let groups = path.child("supplementalGroups");
    for (i, gid) in items(&sc.supplemental_groups).iter().enumerate() {
        errors.extend(invalid_all(&groups.index(i), *gid, is_valid_group_id(*gid)));
    }
    errors.extend(validate_sysctls(sc, spec, &path.child("sysctls"), opts));
    if let Some(policy) = sc.fs_group_change_policy.as_deref() {
        errors.extend(one_of(policy, &["Always", "OnRootMismatch"], &path.child("fsGroupChangePolicy")));
    }
    if let Some(profile) = &sc.seccomp_profile {
        errors.extend(validate_seccomp_profile(profile, &path.child("seccompProfile")));
    }
    if let Some(options) = &sc.windows_options {
        errors.extend(validate_windows_options(options, &path.child("windowsOptions")));
    }
    if let Some(profile) = &sc.app_armor_profile {
        errors.extend(validate_app_armor_profile(profile, &path.child("appArmorProfile")));
    }
    if let Some(policy) = sc.supplemental_groups_policy.as_deref() {
        errors.extend(one_of(policy, &["Merge", "Strict"], &path.child("supplementalGroupsPolicy")));
    }
    if let Some(policy) = sc.se_linux_change_policy.as_deref() {
        errors.extend(one_of(policy, &["MountOption", "Recursive"], &path.child("seLinuxChangePolicy")));
    }
    errors
}

/// An optional field with a closed set of values, where "" is not one of them.
fn one_of(value: &str, supported: &[&str], path: &Path<'_>) -> Option<Error> {
    (!supported.contains(&value)).then(|| Error::not_supported(path, value, supported))
}

fn validate_seccomp_profile(profile: &SeccompProfile, path: &Path<'_>) -> ErrorList {
    let local = path.child("localhostProfile");
    let mut errors = match profile.type_.as_str() {
        "" => vec![Error::required(&path.child("type"), "type is required when seccompProfile is set")],
        kind => validate_choice(kind, PROFILE_TYPES, &path.child("type")),
    };
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", Some(file)) => errors.extend(validate_local_descending_path(file, &local)),
        ("Localhost", None) => errors.push(Error::required(&local, "must be set when seccomp type is Localhost")),
        (_, Some(_)) => {
            errors.push(Error::invalid(
                &local,
                printed::structure("SeccompProfile", profile),
                "can only be set when seccomp type is Localhost",
            ));
        }
        (_, None) => {}
    }
    errors
}

pub(crate) fn validate_app_armor_profile(profile: &AppArmorProfile, path: &Path<'_>) -> ErrorList {
    let local = path.child("localhostProfile");
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None) => vec![Error::required(&local, "must be set when AppArmor type is Localhost")],
        ("Localhost", Some(name)) => {
            let mut errors = ErrorList::new();
            if name.trim() != name {
                errors.push(Error::invalid(&local, name, "must not be padded with whitespace"));
            } else if name.is_empty() {
                errors.push(Error::required(&local, "must be set when AppArmor type is Localhost"));
            }
            if name.len() > MAX_PROFILE_BYTES {
                errors.push(Error::too_long(&local, MAX_PROFILE_BYTES));
            }
            errors
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            vec![Error::invalid(&local, name, "can only be set when AppArmor type is Localhost")]
        }
        ("RuntimeDefault" | "Unconfined", None) => ErrorList::new(),
        ("", _) => vec![Error::required(&path.child("type"), "type is required when appArmorProfile is set")],
        (other, _) => vec![Error::not_supported(&path.child("type"), other, PROFILE_TYPES)],
    }
}

fn validate_sysctls(sc: &PodSecurityContext, spec: &PodSpec, path: &Path<'_>, opts: &Options) -> ErrorList {
    const FORM: &str =
        "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let mut errors = ErrorList::new();
    let mut names = BTreeSet::new();
    for (i, sysctl) in items(&sc.sysctls).iter().enumerate() {
        let at = path.index(i);
        let path = at.child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.push(Error::required(&path, ""));
        } else if !is_valid_sysctl_name(name) {
            errors.push(Error::invalid(&path, name, FORM));
        } else if names.contains(name) {
            errors.push(Error::duplicate(&path, name));
        }
        if let Some(detail) = host_sysctl_conflict(name, spec).filter(|_| !opts.allow_host_sysctls) {
            errors.push(Error::invalid(&path, name, detail));
        }
        names.insert(name);
    }
    errors
}

/// Segments of lower-case letters, digits and inner `-` and `_`, separated by `.` or `/`.
fn is_valid_sysctl_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |s: &str| {
        let s = s.as_bytes();
        s.first().is_some_and(|c| plain(*c))
            && s.last().is_some_and(|c| plain(*c))
            && s.iter().all(|c| plain(*c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= MAX_SYSCTL_BYTES && name.split(['.', '/']).all(segment)
}

/// Why a namespaced sysctl cannot be set in a pod that shares the host's namespace.
pub(super) fn host_sysctl_conflict(name: &str, spec: &PodSpec) -> Option<&'static str> {
    const IPC: &[&str] = &[
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.shm",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.msg",
    ];
    let normal = normal_sysctl_name(name);
    let name = normal.split('*').next().unwrap_or_default();
    if on(spec.host_network) && name.starts_with("net.") {
        return Some("may not be specified when 'hostNetwork' is true");
    }
    if on(spec.host_ipc) && (IPC.contains(&name) || name.starts_with("fs.mqueue.")) {
        return Some("may not be specified when 'hostIPC' is true");
    }
    None
}

/// `net/ipv4/conf/eno2.100/x` in the dotted form, where the roles of dot and slash are swapped.
fn normal_sysctl_name(name: &str) -> String {
    match name.find(['.', '/']).and_then(|at| name.as_bytes().get(at)) {
        Some(b'/') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_are_dotted_segments() {
        for (name, ok) in [("kernel.shm_rmid_forced", true), ("net/ipv4/ip_forward", true), ("a..b", false), ("-a", false), ("Bad", false)]
        {
            assert_eq!(is_valid_sysctl_name(name), ok, "{name}");
        }
    }

    #[test]
    fn namespaced_sysctls_clash_with_the_hosts_namespaces() {
        let spec = PodSpec { host_network: Some(true), host_ipc: Some(true), ..PodSpec::default() };
        for (name, clash) in [("net.ipv4.x", true), ("net/ipv4/x", true), ("kernel.msgmax", true), ("fs.mqueue.x", true), ("vm.x", false)] {
            assert_eq!(host_sysctl_conflict(name, &spec).is_some(), clash, "{name}");
        }
        assert_eq!(host_sysctl_conflict("net.x", &PodSpec::default()), None);
    }
}
