//! What was found out about nodes for pods that are alike. A verdict that reads the node and the pod's template alone holds for
//! every such pod until the node changes, so that of a thousand equal pods one pays for the search.

use std::sync::Arc;

use crate::framework::{PluginId, PluginSet, Rejection};
use crate::preemption::Candidate;
use crate::snapshot::NodeIndex;

/// Templates whose verdicts are kept, each with some dozen bytes a node.
const KEPT: usize = 16;

/// A verdict on a node that was reached before: none if the node has passed.
pub type Known = Option<u32>;

#[derive(Clone, Copy, Default)]
struct Entry {
    /// The node's generation for which the verdict holds; 0 for none.
    generation: u64,
    /// 0 if the node has passed, else one more than the place of the refusal.
    verdict: u32,
    scored: u64,
    score: i64,
}

/// What scores depend on beyond the node: which plugins have something to say, where images are, and who has which devices.
pub type Scope = (PluginSet, u64, u64);

/// Whom a node would have to lose, or the place of the refusal.
pub type Victims = Result<Arc<Candidate>, u32>;

/// Verdicts for one template.
#[derive(Default)]
pub struct Memo {
    key: (u64, usize),
    entries: Vec<Entry>,
    pub refusals: Vec<(PluginId, Rejection)>,
    /// The filters that verdicts are about, and the state of device classes that they were reached under.
    checked: (PluginSet, u64),
    /// What removing pods would do, by node, with the generation for which it holds.
    victims: Vec<Option<(u64, Victims)>>,
    /// The state of disruption budgets that these were found under.
    budgets_epoch: u64,
    scope: Option<Scope>,
    used: u64,
}

impl Memo {
    /// The verdict on a node, if it is known and the node is as it was.
    pub fn verdict(&self, node: NodeIndex, generation: u64) -> Option<Known> {
        let entry = self.entries.get(node as usize).filter(|entry| entry.generation == generation)?;
        Some(entry.verdict.checked_sub(1))
    }

    fn entry(&mut self, node: NodeIndex) -> &mut Entry {
        let place = node as usize;
        if self.entries.len() <= place {
            self.entries.resize(place + 1, Entry::default());
        }
        &mut self.entries[place]
    }

    pub fn pass(&mut self, node: NodeIndex, generation: u64) {
        let entry = self.entry(node);
        (entry.generation, entry.verdict) = (generation, 0);
    }

    /// The place of a refusal, new or known.
    pub fn place(&mut self, plugin: PluginId, rejection: Rejection) -> u32 {
        let place = self.refusals.iter().position(|(p, r)| *p == plugin && *r == rejection).unwrap_or_else(|| {
            self.refusals.push((plugin, rejection));
            self.refusals.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX - 1)
    }

    /// Whom the node would have to lose, if it is known and node and budgets are as they were.
    pub fn victims(&self, node: NodeIndex, generation: u64) -> Option<&Victims> {
        self.victims.get(node as usize)?.as_ref().filter(|(known, _)| *known == generation).map(|(_, victims)| victims)
    }

    pub fn set_victims(&mut self, node: NodeIndex, generation: u64, victims: Victims) {
        let place = node as usize;
        if self.victims.len() <= place {
            self.victims.resize(place + 1, None);
        }
        self.victims[place] = Some((generation, victims));
    }

    /// Forgets what was found under other budgets.
    pub fn set_budgets(&mut self, epoch: u64) {
        if self.budgets_epoch != epoch {
            self.budgets_epoch = epoch;
            self.victims.clear();
        }
    }

    pub fn refuse(&mut self, node: NodeIndex, generation: u64, plugin: PluginId, rejection: Rejection) -> u32 {
        let place = self.place(plugin, rejection);
        let entry = self.entry(node);
        (entry.generation, entry.verdict) = (generation, place + 1);
        place
    }

    /// Forgets verdicts of other filters, and those under other device classes.
    pub fn set_checked(&mut self, checked: (PluginSet, u64)) {
        if self.checked != checked {
            self.checked = checked;
            self.entries.iter_mut().for_each(|entry| entry.generation = 0);
            self.victims.clear();
        }
    }

    /// Forgets scores that were given under other circumstances.
    pub fn set_scope(&mut self, scope: Scope) {
        if self.scope != Some(scope) {
            self.scope = Some(scope);
            self.entries.iter_mut().for_each(|entry| entry.scored = 0);
        }
    }

    pub fn score(&self, node: NodeIndex, generation: u64) -> Option<i64> {
        self.entries.get(node as usize).filter(|entry| entry.scored == generation).map(|entry| entry.score)
    }

    pub fn set_score(&mut self, node: NodeIndex, generation: u64, score: i64) {
        let entry = self.entry(node);
        (entry.scored, entry.score) = (generation, score);
    }
}

/// The memos of the templates that came last.
#[derive(Default)]
pub struct Memos {
    all: Vec<Memo>,
    clock: u64,
}

impl Memos {
    /// The memo of a template under a profile.
    pub fn of(&mut self, template: u64, profile: usize) -> &mut Memo {
        self.clock += 1;
        let key = (template, profile);
        let place = match self.all.iter().position(|memo| memo.key == key) {
            Some(place) => place,
            None if self.all.len() < KEPT => {
                self.all.push(Memo { key, ..Memo::default() });
                self.all.len() - 1
            }
            None => {
                let oldest = (0..self.all.len()).min_by_key(|place| self.all[*place].used).unwrap_or(0);
                self.all[oldest] = Memo { key, ..Memo::default() };
                oldest
            }
        };
        self.all[place].used = self.clock;
        &mut self.all[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_holds_until_the_node_changes() {
        let mut memos = Memos::default();
        let memo = memos.of(1, 0);
        assert_eq!(memo.verdict(3, 7), None);
        memo.pass(3, 7);
        memo.refuse(4, 8, 2, Rejection::resolvable("no"));
        assert_eq!((memo.verdict(3, 7), memo.verdict(4, 8), memo.verdict(3, 8)), (Some(None), Some(Some(0)), None));
        assert_eq!(memo.refuse(5, 9, 2, Rejection::resolvable("no")), 0);
        assert_eq!(memos.of(2, 0).verdict(3, 7), None);
        assert_eq!(memos.of(1, 0).verdict(3, 7), Some(None));
    }

    #[test]
    fn a_score_holds_under_the_circumstances_that_it_was_given_in() {
        let mut memo = Memo::default();
        memo.set_scope((PluginSet::EMPTY, 1, 0));
        memo.set_score(0, 5, 42);
        memo.set_scope((PluginSet::EMPTY, 1, 0));
        assert_eq!((memo.score(0, 5), memo.score(0, 6)), (Some(42), None));
        memo.set_scope((PluginSet::EMPTY, 2, 0));
        assert_eq!(memo.score(0, 5), None);
    }
}
