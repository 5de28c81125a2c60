//! How a DaemonSet's old pods are replaced: with `maxUnavailable` an old pod goes before the new one comes, with `maxSurge` after. Pure.

use std::sync::Arc;

use client::Object;
use k8s_openapi::api::core::v1::Pod;

use super::placement::{Observed, Plan};
use crate::int_or_percent;

/// The pods of a node that are not being deleted.
enum OnNode<'a> {
    One {
        new: Option<&'a Arc<Pod>>,
        old: Option<&'a Arc<Pod>>,
    },
    /// Something has to be put right first.
    TooMany,
}

impl Observed<'_> {
    fn on_node<'a>(&self, pods: &'a [Arc<Pod>]) -> OnNode<'a> {
        let present = pods.iter().filter(|pod| !pod.is_terminating());
        let (new, old): (Vec<_>, Vec<_>) = present.partition(|pod| self.is_updated(pod));
        match (new.as_slice(), old.as_slice()) {
            ([] | [_], [] | [_]) => OnNode::One { new: new.first().copied(), old: old.first().copied() },
            _ => OnNode::TooMany,
        }
    }

    /// The next step of the rollout.
    pub fn roll(&self) -> Result<Plan, int_or_percent::Error> {
        let wanted = self.wanted();
        let (surge, mut unavailable) = (self.max_surge(wanted)?, self.max_unavailable(wanted)?);
        if wanted > 0 && surge == 0 && unavailable == 0 {
            // Shares may come to nothing, and then nothing could ever move.
            unavailable = 1;
        }
        if surge == 0 { Ok(self.replace(unavailable)) } else { Ok(self.surge(surge, wanted)) }
    }

    fn replace(&self, max_unavailable: i32) -> Plan {
        let mut unavailable = 0;
        let (mut delete, mut candidates) = (Vec::new(), Vec::new());
        for pods in self.pods.values() {
            match self.on_node(pods) {
                OnNode::TooMany | OnNode::One { new: None, old: None } | OnNode::One { new: Some(_), old: Some(_) } => unavailable += 1,
                OnNode::One { new: Some(new), old: None } => unavailable += i32::from(!self.is_available(new)),
                // One that is of no use costs nothing.
                OnNode::One { new: None, old: Some(old) } if !self.is_available(old) => {
                    delete.push(old.clone());
                    unavailable += 1;
                }
                OnNode::One { new: None, old: Some(old) } => candidates.push(old.clone()),
            }
        }
        // Nodes that are wanted and have no pod at all.
        let lacking = |node: &&Arc<k8s_openapi::api::core::v1::Node>| {
            self.requirements.judge(node).should_run() && !self.pods.contains_key(node.name())
        };
        unavailable += i32::try_from(self.nodes.iter().filter(lacking).count()).unwrap_or(i32::MAX);
        let budget = usize::try_from(max_unavailable - unavailable).unwrap_or(0);
        delete.extend(candidates.into_iter().take(budget));
        Plan { delete, ..Plan::default() }
    }

    fn surge(&self, max_surge: i32, wanted: i32) -> Plan {
        let mut plan = Plan::default();
        let (mut surging, mut available) = (0, 0);
        let (mut candidates, mut misplaced) = (Vec::new(), Vec::new());
        for (node, pods) in self.pods {
            let OnNode::One { new, old } = self.on_node(pods) else {
                surging += 1;
                continue;
            };
            available += i32::from(old.or(new).is_some_and(|pod| self.is_available(pod)));
            let Some(old) = old else { continue };
            match new {
                Some(new) if self.is_available(new) => plan.delete.push(old.clone()),
                Some(_) => surging += 1,
                None => {
                    let fits = self.nodes.iter().any(|n| n.name() == node && self.requirements.judge(n).should_run());
                    match (fits, self.is_available(old)) {
                        (false, false) => plan.delete.push(old.clone()),
                        (false, true) => misplaced.push(old.clone()),
                        (true, false) => plan.create.push(node.clone()),
                        (true, true) => candidates.push(node.clone()),
                    }
                }
            }
        }
        // Pods on nodes where they no longer belong go when others have taken over.
        let spare = usize::try_from(available - wanted).unwrap_or(0);
        plan.delete.extend(misplaced.into_iter().take(spare));
        let budget = usize::try_from(max_surge - surging).unwrap_or(0);
        plan.create.extend(candidates.into_iter().take(budget));
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::super::placement::tests::{observe, set};
    use super::*;

    fn roll(surge: i32, unavailable: i32, names: &str, pods: &[&str]) -> (Vec<String>, Vec<String>) {
        let plan = observe(&set(surge, unavailable), names, pods, |observed| observed.roll().unwrap());
        (plan.create, plan.delete.iter().map(|pod| pod.name().to_owned()).collect())
    }

    fn want(create: &[&str], delete: &[&str]) -> (Vec<String>, Vec<String>) {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        (owned(create), owned(delete))
    }

    #[test]
    fn old_pods_go_as_far_as_so_many_may_be_missing() {
        let all = ["a/ready/old", "b/ready/old", "c/ready/old"];
        assert_eq!(roll(0, 1, "ABC", &all), want(&[], &["a/ready/old"]));
        assert_eq!(roll(0, 2, "ABC", &all), want(&[], &["a/ready/old", "b/ready/old"]));
        assert_eq!(roll(0, 0, "ABC", &all), want(&[], &["a/ready/old"]));
        assert_eq!(roll(0, 1, "ABC", &["a/unready/new", "b/ready/old", "c/ready/old"]), want(&[], &[]));
        assert_eq!(roll(0, 1, "ABC", &["a/unready/old", "b/ready/old"]), want(&[], &["a/unready/old"]));
        assert_eq!(roll(0, 1, "AB", &["a/going/old", "b/ready/old"]), want(&[], &[]));
        assert_eq!(roll(0, 1, "AB", &["b/ready/old"]), want(&[], &[]));
    }

    #[test]
    fn new_pods_come_as_far_as_so_many_may_be_twice() {
        let all = ["a/ready/old", "b/ready/old", "c/ready/old"];
        assert_eq!(roll(1, 0, "ABC", &all), want(&["a"], &[]));
        assert_eq!(roll(2, 0, "ABC", &all), want(&["a", "b"], &[]));
        assert_eq!(roll(1, 0, "AB", &["a/ready/old", "a/unready/new", "b/ready/old"]), want(&[], &[]));
        assert_eq!(roll(1, 0, "AB", &["a/ready/old", "a/ready/new", "b/ready/old"]), want(&["b"], &["a/ready/old"]));
        assert_eq!(roll(1, 0, "AB", &["a/unready/old", "b/ready/old"]), want(&["a", "b"], &[]));
        assert_eq!(roll(1, 0, "Ab", &["a/ready/new", "b/ready/old"]), want(&[], &["b/ready/old"]));
    }
}
