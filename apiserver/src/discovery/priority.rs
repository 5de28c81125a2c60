//! Which group and version comes first: the priorities that upstream's API server registers its APIServices with.

use std::cmp::Ordering;

/// `groupPriorityMinimum` and `versionPriority`; the higher comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    pub group: i32,
    pub version: i32,
}

/// Of a custom resource's group and version.
pub const CUSTOM: Priority = Priority { group: 1_000, version: 100 };

/// (group, version, group's priority, version's priority) of the built-in groups.
const BUILTIN: &[(&str, &str, i32, i32)] = &[
    ("apiregistration.k8s.io", "v1", 20_001, 0),
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("storagemigration.k8s.io", "v1", 15_800, 15),
];

impl Priority {
    /// Of a group and version: a built-in one's own, [`CUSTOM`] for any other.
    pub fn of(group: &str, version: &str) -> Priority {
        let found = BUILTIN.iter().find(|(g, v, ..)| *g == group && *v == version);
        found.map_or(CUSTOM, |(_, _, group, version)| Priority { group: *group, version: *version })
    }
}

/// Kubernetes' order of versions: stable above beta above alpha, then by number; any other name is below them, the
/// alphabetically first highest.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(x), Some(y)) => x.cmp(&y),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// Stability, major and minor number of `v1`, `v2beta3`. Numbers do not begin with zero.
fn parse(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, rest) = rest.split_at(digits);
    let (stability, minor) = match (rest.strip_prefix("alpha"), rest.strip_prefix("beta")) {
        (Some(minor), _) => (0, minor),
        (_, Some(minor)) => (1, minor),
        _ if rest.is_empty() => return number(major).map(|major| (2, major, 0)),
        _ => return None,
    };
    Some((stability, number(major)?, number(minor)?))
}

fn number(text: &str) -> Option<u64> {
    if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_by_stability_and_number() {
        let mut versions = vec!["foo10", "v1beta2", "v1", "v3alpha1", "v10", "v12alpha1", "foo1", "v2", "v11beta2", "v1beta1", "v01"];
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(versions, ["v10", "v2", "v1", "v11beta2", "v1beta2", "v1beta1", "v12alpha1", "v3alpha1", "foo1", "foo10", "v01"]);
    }
}
