//! Why no node would do, counted by reason, and the sentence that tells it.

use std::collections::BTreeMap;

use crate::framework::{PluginId, PluginSet, Rejection};
use crate::snapshot::NodeIndex;

/// The refusals of one cycle. Many nodes are refused for the same reason, which is kept once.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    kinds: Vec<(PluginId, Rejection, usize)>,
    /// The nodes that were refused, and by which kind.
    nodes: Vec<(NodeIndex, u32)>,
    /// What is said of all nodes that were not looked at.
    pub absent: Option<Rejection>,
    /// Plugins whose refusals an event may lift.
    pub plugins: PluginSet,
    pub pre_filter_message: String,
    pub post_filter_message: String,
}

impl Diagnosis {
    /// The number of a kind of refusal, new or known.
    pub fn kind(&mut self, plugin: PluginId, rejection: &Rejection) -> u32 {
        let known = self.kinds.iter().position(|(p, r, _)| *p == plugin && r == rejection);
        let place = known.unwrap_or_else(|| {
            self.kinds.push((plugin, rejection.clone(), 0));
            self.plugins.insert(plugin);
            self.kinds.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// A node was refused.
    pub fn refuse(&mut self, node: NodeIndex, kind: u32) {
        self.nodes.push((node, kind));
        self.kinds[kind as usize].2 += 1;
    }

    /// How many nodes were refused.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What was said of a node: its own refusal, or that of nodes not looked at.
    pub fn of(&self, node: NodeIndex) -> Option<&Rejection> {
        let kind = self.nodes.iter().find(|(n, _)| *n == node).map(|(_, kind)| *kind);
        kind.map(|kind| &self.kinds[kind as usize].1).or(self.absent.as_ref())
    }

    /// Nodes on which room could be made by taking pods off.
    pub fn resolvable(&self) -> impl Iterator<Item = NodeIndex> {
        self.nodes.iter().filter(|(_, kind)| self.kinds[*kind as usize].1.resolvable).map(|(node, _)| *node)
    }

    /// The sentence, for so many nodes in all.
    pub fn message(&self, nodes: usize) -> String {
        let mut message = format!("0/{nodes} nodes are available:");
        if self.pre_filter_message.is_empty() {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for (_, rejection, count) in &self.kinds {
                for reason in rejection.reasons.iter() {
                    *counts.entry(reason).or_insert(0) += count;
                }
            }
            if let Some(absent) = self.absent.as_ref().filter(|_| self.nodes.len() < nodes) {
                for reason in absent.reasons.iter() {
                    *counts.entry(reason).or_insert(0) += nodes - self.nodes.len();
                }
            }
            let mut told: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            told.sort();
            if !told.is_empty() {
                message.push_str(&format!(" {}.", told.join(", ")));
            }
        } else {
            message.push_str(&format!(" {}.", self.pre_filter_message));
        }
        if !self.post_filter_message.is_empty() {
            message.push_str(&format!(" {}", self.post_filter_message));
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_sorted_as_texts() {
        let mut diagnosis = Diagnosis::default();
        let cpu = diagnosis.kind(1, &Rejection::resolvable("Insufficient cpu"));
        let taint = diagnosis.kind(2, &Rejection::unresolvable("node(s) had untolerated taint(s)"));
        diagnosis.refuse(0, taint);
        diagnosis.refuse(1, cpu);
        diagnosis.refuse(2, taint);
        diagnosis.post_filter_message = "preemption: why not.".into();
        assert_eq!(
            diagnosis.message(3),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). preemption: why not."
        );
        diagnosis.absent = Some(Rejection::unresolvable("node(s) didn't satisfy plugin(s) [NodeAffinity]"));
        assert_eq!(
            diagnosis.message(12),
            "0/12 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s), 9 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: why not."
        );
        assert_eq!(diagnosis.resolvable().collect::<Vec<_>>(), [1]);
        diagnosis.pre_filter_message = "a claim is missing".into();
        assert_eq!(diagnosis.message(3), "0/3 nodes are available: a claim is missing. preemption: why not.");
    }
}
