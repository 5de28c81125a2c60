//! The checks of the Pod Security Standards, by level and version, and how their findings are told.

use serde_json::Value;

use super::policy::{Level, LevelVersion, Version};
use super::{baseline, restricted};
use crate::admission::pod_references::containers;

/// Why a check forbids a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Short: `host namespaces`.
    pub reason: &'static str,
    /// What exactly: `hostNetwork=true`.
    pub detail: String,
}

/// A pod, or the template of one.
#[derive(Clone, Copy)]
pub struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

impl<'a> Pod<'a> {
    pub fn containers(&self) -> impl Iterator<Item = &'a Value> {
        containers(self.spec)
    }

    pub fn is_windows(&self) -> bool {
        self.spec.pointer("/os/name").and_then(Value::as_str) == Some("windows")
    }

    /// Whether the pod's root is nobody on the node.
    pub fn has_user_namespace(&self) -> bool {
        self.spec.get("hostUsers") == Some(&Value::Bool(false))
    }

    /// The names of containers for which something holds.
    pub fn names_where(&self, holds: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| holds(c)).map(|c| crate::registry::read::str_at(c, "/name")).collect()
    }
}

pub type CheckFn = fn(&Pod<'_>) -> Option<Violation>;

/// One check: what it does from each minor version on.
pub struct Check {
    pub versions: &'static [(i64, CheckFn)],
    /// From which version on the restricted level leaves this baseline check to a stricter one of its own.
    pub overridden_from: Option<i64>,
}

/// Checks of the baseline level. Findings are told in the order of upstream's names for the checks, which stand before them.
pub const BASELINE: &[Check] = &[
    // appArmorProfile
    Check { versions: &[(0, baseline::app_armor)], overridden_from: None },
    // capabilities_baseline
    Check { versions: &[(0, baseline::capabilities)], overridden_from: Some(22) },
    // hostNamespaces
    Check { versions: &[(0, baseline::host_namespaces)], overridden_from: None },
    // hostPathVolumes
    Check { versions: &[(0, baseline::host_path_volumes)], overridden_from: Some(0) },
    // hostPorts
    Check { versions: &[(0, baseline::host_ports)], overridden_from: None },
    // hostProbesAndHostLifecycle
    Check { versions: &[(34, baseline::host_probes)], overridden_from: None },
    // privileged
    Check { versions: &[(0, baseline::privileged)], overridden_from: None },
    // procMount
    Check { versions: &[(0, baseline::proc_mount), (35, baseline::proc_mount_from_35)], overridden_from: Some(35) },
    // seLinuxOptions
    Check { versions: &[(0, baseline::se_linux), (31, baseline::se_linux_from_31)], overridden_from: None },
    // seccompProfile_baseline
    Check { versions: &[(0, baseline::seccomp_annotations), (19, baseline::seccomp)], overridden_from: Some(19) },
    // sysctls
    Check {
        versions: &[
            (0, baseline::sysctls),
            (27, baseline::sysctls_from_27),
            (29, baseline::sysctls_from_29),
            (32, baseline::sysctls_from_32),
            (37, baseline::sysctls_from_37),
        ],
        overridden_from: None,
    },
    // windowsHostProcess
    Check { versions: &[(0, baseline::windows_host_process)], overridden_from: None },
];

/// Checks that the restricted level adds, in the same order; they come after those of the baseline.
pub const RESTRICTED: &[Check] = &[
    // allowPrivilegeEscalation
    Check { versions: &[(8, restricted::privilege_escalation), (25, restricted::privilege_escalation_from_25)], overridden_from: None },
    // capabilities_restricted
    Check { versions: &[(22, restricted::capabilities), (25, restricted::capabilities_from_25)], overridden_from: None },
    // procMount_restricted
    Check { versions: &[(35, baseline::proc_mount)], overridden_from: None },
    // restrictedVolumes
    Check { versions: &[(0, restricted::volumes)], overridden_from: None },
    // runAsNonRoot
    Check { versions: &[(0, restricted::run_as_non_root), (35, restricted::run_as_non_root_from_35)], overridden_from: None },
    // runAsUser
    Check { versions: &[(23, restricted::run_as_user), (35, restricted::run_as_user_from_35)], overridden_from: None },
    // seccompProfile_restricted
    Check { versions: &[(19, restricted::seccomp), (25, restricted::seccomp_from_25)], overridden_from: None },
];

impl Check {
    fn at(&self, version: Version) -> Option<CheckFn> {
        self.versions.iter().rev().find(|(from, _)| Version::Minor(*from) <= version).map(|(_, check)| *check)
    }

    fn is_overridden(&self, version: Version) -> bool {
        self.overridden_from.is_some_and(|from| Version::Minor(from) <= version)
    }
}

/// All that a pod violates at a level and version.
pub fn evaluate(policy: LevelVersion, pod: &Pod<'_>) -> Vec<Violation> {
    let version = policy.version;
    let restricted = policy.level == Level::Restricted;
    if policy.level == Level::Privileged {
        return Vec::new();
    }
    let baseline = BASELINE.iter().filter(|check| !(restricted && check.is_overridden(version)));
    let stricter = RESTRICTED.iter().filter(|_| restricted);
    baseline.chain(stricter).filter_map(|check| check.at(version)?(pod)).collect()
}

/// `privileged (container "c" must not …), hostPort (…)`.
pub fn details(violations: &[Violation]) -> String {
    let tell = |v: &Violation| if v.detail.is_empty() { v.reason.to_owned() } else { format!("{} ({})", v.reason, v.detail) };
    violations.iter().map(tell).collect::<Vec<_>>().join(", ")
}

/// `privileged, hostPort`.
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|v| v.reason).collect::<Vec<_>>().join(", ")
}

/// `"a", "b"`.
pub fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

pub fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
pub fn name_containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod`, `container "a"`, `pod and containers "a", "b"`: who set something; `None` if nobody did.
pub fn name_setters(pod: bool, containers: &[&str]) -> Option<String> {
    let containers = (!containers.is_empty()).then(|| name_containers(containers));
    let setters: Vec<String> = pod.then(|| "pod".to_owned()).into_iter().chain(containers).collect();
    (!setters.is_empty()).then(|| setters.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_check_are_told_from_the_oldest_on() {
        for list in [BASELINE, RESTRICTED] {
            assert!(list.iter().all(|check| check.versions.is_sorted_by_key(|(from, _)| *from)));
        }
    }
}
