//! The conditions of a namespace that is being deleted: what its deletion met, in upstream's words. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

struct Kind {
    name: &'static str,
    ok_reason: &'static str,
    ok_message: &'static str,
}

const DISCOVERY: &str = "NamespaceDeletionDiscoveryFailure";
const PARSING: &str = "NamespaceDeletionGroupVersionParsingFailure";
const CONTENT: &str = "NamespaceDeletionContentFailure";
const REMAINING: &str = "NamespaceContentRemaining";
const FINALIZERS: &str = "NamespaceFinalizersRemaining";

/// In the order in which upstream writes them.
const KINDS: [Kind; 5] = [
    Kind { name: DISCOVERY, ok_reason: "ResourcesDiscovered", ok_message: "All resources successfully discovered" },
    Kind { name: PARSING, ok_reason: "ParsedGroupVersions", ok_message: "All legacy kube types successfully parsed" },
    Kind { name: CONTENT, ok_reason: "ContentDeleted", ok_message: "All content successfully deleted, may be waiting on finalization" },
    Kind { name: REMAINING, ok_reason: "ContentRemoved", ok_message: "All content successfully removed" },
    Kind { name: FINALIZERS, ok_reason: "ContentHasNoFinalizers", ok_message: "All content-preserving finalizers finished" },
];

/// What one pass over a namespace's contents met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// What discovery could not tell: how many group versions, and the message.
    pub discovery_failure: Option<(usize, String)>,
    pub errors: Vec<String>,
    /// How many objects of each resource (`pods.` for core resources) are left, where any are.
    pub remaining: BTreeMap<String, usize>,
    /// How many of them each finalizer holds.
    pub finalizers: BTreeMap<String, usize>,
}

impl Findings {
    /// The reason and message of a condition that is true.
    fn trouble(&self, kind: &str) -> Option<(&'static str, String)> {
        match kind {
            DISCOVERY => self.discovery_failure.as_ref().map(|(groups, message)| {
                let message =
                    if *groups == 0 { message.clone() } else { format!("Discovery failed for some groups, {groups} failing: {message}") };
                ("DiscoveryFailed", message)
            }),
            CONTENT if !self.errors.is_empty() => {
                let mut errors = self.errors.clone();
                errors.sort();
                let message = format!("Failed to delete all resource types, {} remaining: {}", errors.len(), errors.join(", "));
                Some(("ContentDeletionFailed", message))
            }
            REMAINING if !self.remaining.is_empty() => {
                let each = counted(&self.remaining, |resource, n| format!("{resource} has {n} resource instances"));
                Some(("SomeResourcesRemain", format!("Some resources are remaining: {each}")))
            }
            FINALIZERS if !self.finalizers.is_empty() => {
                let each = counted(&self.finalizers, |finalizer, n| format!("{finalizer} in {n} resource instances"));
                Some(("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {each}")))
            }
            _ => None,
        }
    }
}

fn counted(counts: &BTreeMap<String, usize>, words: impl Fn(&str, usize) -> String) -> String {
    let mut each: Vec<String> = counts.iter().map(|(name, n)| words(name, *n)).collect();
    each.sort();
    each.join(", ")
}

/// Writes the findings into the conditions. Whether anything changed.
pub fn update(status: &mut NamespaceStatus, findings: &Findings, now: Timestamp) -> bool {
    let mut changed = false;
    let conditions = status.conditions.get_or_insert_default();
    for kind in &KINDS {
        let (value, reason, message) = match findings.trouble(kind.name) {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", kind.ok_reason, kind.ok_message.to_owned()),
        };
        let new = NamespaceCondition {
            type_: kind.name.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == kind.name) {
            None => {
                conditions.push(new);
                changed = true;
            }
            Some(old) if old.status != new.status => {
                *old = new;
                changed = true;
            }
            Some(old) if old.reason != new.reason || old.message != new.message => {
                (old.reason, old.message) = (new.reason, new.message);
                changed = true;
            }
            Some(_) => {}
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: &NamespaceStatus) -> Vec<String> {
        let one = |c: &NamespaceCondition| format!("{}={} {}", c.type_, c.status, c.reason.clone().unwrap_or_default());
        status.conditions.iter().flatten().map(one).collect()
    }

    #[test]
    fn all_is_told_to_be_well_when_nothing_is_left() {
        let mut status = NamespaceStatus::default();
        assert!(update(&mut status, &Findings::default(), Timestamp::UNIX_EPOCH));
        assert!(!update(&mut status, &Findings::default(), Timestamp::now()));
        let expected = [
            "NamespaceDeletionDiscoveryFailure=False ResourcesDiscovered",
            "NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions",
            "NamespaceDeletionContentFailure=False ContentDeleted",
            "NamespaceContentRemaining=False ContentRemoved",
            "NamespaceFinalizersRemaining=False ContentHasNoFinalizers",
        ];
        assert_eq!(told(&status), expected);
    }

    #[test]
    fn what_remains_is_counted_in_the_messages() {
        let findings = Findings {
            discovery_failure: Some((1, "no".to_owned())),
            errors: vec!["b".to_owned(), "a".to_owned()],
            remaining: [("pods.".to_owned(), 2), ("deployments.apps".to_owned(), 1)].into(),
            finalizers: [("example.com/x".to_owned(), 3)].into(),
        };
        let mut status = NamespaceStatus::default();
        update(&mut status, &findings, Timestamp::UNIX_EPOCH);
        let messages: Vec<&str> =
            status.conditions.iter().flatten().filter(|c| c.status == "True").filter_map(|c| c.message.as_deref()).collect();
        let expected = [
            "Discovery failed for some groups, 1 failing: no",
            "Failed to delete all resource types, 2 remaining: a, b",
            "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances",
            "Some content in the namespace has finalizers remaining: example.com/x in 3 resource instances",
        ];
        assert_eq!(messages, expected);
    }

    #[test]
    fn the_time_of_a_condition_moves_with_its_status_alone() {
        let mut status = NamespaceStatus::default();
        let mut findings = Findings::default();
        findings.remaining.insert("pods.".to_owned(), 2);
        update(&mut status, &findings, Timestamp::UNIX_EPOCH);
        findings.remaining.insert("pods.".to_owned(), 1);
        assert!(update(&mut status, &findings, Timestamp::now()));
        assert!(status.conditions.iter().flatten().all(|c| c.last_transition_time == Some(Time(Timestamp::UNIX_EPOCH))));
    }
}
