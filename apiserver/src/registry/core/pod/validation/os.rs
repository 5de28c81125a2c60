//! The operating system a pod is for, and the fields that only the other one has.

use apimachinery::field::{Error, ErrorList, Path};
use k8s_openapi::api::core::v1::{PodOS, PodSpec};

use crate::registry::core::pod::access::{items, on, visit_containers};

pub(super) fn validate_os(os: &PodOS, spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    match os.name.as_str() {
        "" => vec![Error::required(&path.child("os").child("name"), "")],
        "linux" => validate_linux(spec, path),
        "windows" => validate_windows(spec, path),
        other => vec![Error::not_supported(&path.child("os"), other, &["linux", "windows"])],
    }
}

fn validate_linux(spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    const DETAIL: &str = "windows options cannot be set for a linux pod";
    let mut errors = ErrorList::new();
    if spec.security_context.as_ref().is_some_and(|sc| sc.windows_options.is_some()) {
        errors.push(Error::forbidden(&path.child("securityContext").child("windowsOptions"), DETAIL));
    }
    visit_containers(spec, path, &mut |container, path| {
        if container.security_context.as_ref().is_some_and(|sc| sc.windows_options.is_some()) {
            errors.push(Error::forbidden(&path.child("securityContext").child("windowsOptions"), DETAIL));
        }
    });
    errors
}

fn validate_windows(spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    fn forbid(errors: &mut ErrorList, path: &Path<'_>, fields: &[(&str, bool)]) {
        for (name, _) in fields.iter().filter(|(_, set)| *set) {
            errors.push(Error::forbidden(&path.child(name), "cannot be set for a windows pod"));
        }
    }
    let mut errors = ErrorList::new();
    if let Some(sc) = &spec.security_context {
        let fields = [
            ("appArmorProfile", sc.app_armor_profile.is_some()),
            ("seLinuxOptions", sc.se_linux_options.is_some()),
            ("seccompProfile", sc.seccomp_profile.is_some()),
            ("fsGroup", sc.fs_group.is_some()),
            ("fsGroupChangePolicy", sc.fs_group_change_policy.is_some()),
            ("sysctls", !items(&sc.sysctls).is_empty()),
            ("runAsUser", sc.run_as_user.is_some()),
            ("runAsGroup", sc.run_as_group.is_some()),
            ("supplementalGroups", sc.supplemental_groups.is_some()),
            ("supplementalGroupsPolicy", sc.supplemental_groups_policy.is_some()),
            ("seLinuxChangePolicy", sc.se_linux_change_policy.is_some()),
        ];
        forbid(&mut errors, &path.child("securityContext"), &fields);
    }
    let fields = [
        ("hostUsers", spec.host_users.is_some()),
        ("hostPID", on(spec.host_pid)),
        ("hostIPC", on(spec.host_ipc)),
        ("shareProcessNamespace", spec.share_process_namespace.is_some()),
    ];
    forbid(&mut errors, path, &fields);
    visit_containers(spec, path, &mut |container, path| {
        let Some(sc) = &container.security_context else { return };
        let fields = [
            ("appArmorProfile", sc.app_armor_profile.is_some()),
            ("seLinuxOptions", sc.se_linux_options.is_some()),
            ("seccompProfile", sc.seccomp_profile.is_some()),
            ("capabilities", sc.capabilities.is_some()),
            ("readOnlyRootFilesystem", sc.read_only_root_filesystem.is_some()),
            ("privileged", sc.privileged.is_some()),
            ("allowPrivilegeEscalation", sc.allow_privilege_escalation.is_some()),
            ("procMount", sc.proc_mount.is_some()),
            ("runAsUser", sc.run_as_user.is_some()),
            ("runAsGroup", sc.run_as_group.is_some()),
        ];
        forbid(&mut errors, &path.child("securityContext"), &fields);
    });
    errors
}
