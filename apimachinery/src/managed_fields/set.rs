//! Sets of field paths: a sorted tree whose nodes may be members themselves, or only lead to members.
//!
//! Owns the set algebra of field ownership. Knows neither schemas nor objects.

use std::cmp::Ordering;

use super::path::PathElement;

/// A set of paths. The root is never a member: nobody owns a whole object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Sorted by element. Every entry is a member or has members below it.
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) element: PathElement,
    pub(super) member: bool,
    pub(super) children: FieldSet,
}

impl Entry {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl FieldSet {
    /// The set with no path.
    pub fn new() -> FieldSet {
        FieldSet::default()
    }

    /// A set of dotted field paths, such as `["status", "metadata.labels"]`.
    pub fn of_fields(paths: &[&str]) -> FieldSet {
        let mut set = FieldSet::new();
        for path in paths {
            let steps: Vec<PathElement> = path.split('.').map(PathElement::field).collect();
            set.insert(&steps);
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn find(&self, element: &PathElement) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.element.cmp(element))
    }

    /// The entry for `element`, made (as a non-member) if absent. The caller must give it a member.
    pub(super) fn entry(&mut self, element: PathElement) -> &mut Entry {
        let at = match self.entries.last() {
            // Walks visit most levels in order, so appending is the common case.
            Some(last) if last.element < element => Err(self.entries.len()),
            _ => self.find(&element),
        };
        let at = match at {
            Ok(at) => at,
            Err(at) => {
                self.entries.insert(at, Entry { element, member: false, children: FieldSet::new() });
                at
            }
        };
        &mut self.entries[at]
    }

    /// Makes a direct child a member.
    pub(super) fn add(&mut self, element: PathElement) {
        self.entry(element).member = true;
    }

    /// Adds everything below a direct child.
    pub(super) fn add_below(&mut self, element: PathElement, below: FieldSet) {
        if below.is_empty() {
            return;
        }
        let entry = self.entry(element);
        entry.children = if entry.children.is_empty() { below } else { entry.children.union(&below) };
    }

    /// Adds a path; the empty path changes nothing.
    pub fn insert(&mut self, path: &[PathElement]) {
        match path {
            [] => {}
            [last] => self.add(last.clone()),
            [first, rest @ ..] => self.entry(first.clone()).children.insert(rest),
        }
    }

    /// Whether the path itself is a member.
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.find(last).is_ok_and(|at| self.entries[at].member),
            [first, rest @ ..] => self.below(first).is_some_and(|children| children.has(rest)),
        }
    }

    pub(super) fn has_member(&self, element: &PathElement) -> bool {
        self.find(element).is_ok_and(|at| self.entries[at].member)
    }

    /// The members below a direct child, if there are any.
    pub(super) fn below(&self, element: &PathElement) -> Option<&FieldSet> {
        let entry = &self.entries[self.find(element).ok()?];
        (!entry.children.is_empty()).then_some(&entry.children)
    }

    /// Members of either.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        if other.is_empty() {
            return self.clone();
        }
        let mut out = Vec::with_capacity(self.entries.len().max(other.entries.len()));
        for pair in zip(&self.entries, &other.entries) {
            out.push(match pair {
                (Some(a), Some(b)) => {
                    Entry { element: a.element.clone(), member: a.member || b.member, children: a.children.union(&b.children) }
                }
                (Some(only), None) | (None, Some(only)) => only.clone(),
                (None, None) => continue,
            });
        }
        FieldSet { entries: out }
    }

    /// As [`FieldSet::union`], of a set that is not needed any more.
    pub fn and(self, other: &FieldSet) -> FieldSet {
        if other.is_empty() { self } else { self.union(other) }
    }

    /// Adds the members of a small set to what may be a large one.
    pub(super) fn absorb(&mut self, other: FieldSet) {
        for Entry { element, member, children } in other.entries {
            let entry = self.entry(element);
            entry.member |= member;
            entry.children.absorb(children);
        }
    }

    /// Members of both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut out = Vec::new();
        for pair in zip(&self.entries, &other.entries) {
            if let (Some(a), Some(b)) = pair {
                let entry =
                    Entry { element: a.element.clone(), member: a.member && b.member, children: a.children.intersection(&b.children) };
                if !entry.is_empty() {
                    out.push(entry);
                }
            }
        }
        FieldSet { entries: out }
    }

    /// Members of this set that are not members of the other; what lies below a removed member stays.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        self.subtract(other, false)
    }

    /// Whether every member is a member of the other.
    pub fn is_within(&self, other: &FieldSet) -> bool {
        let mut others = other.entries.iter();
        self.entries.iter().all(|entry| {
            let found = others.find(|found| found.element >= entry.element).filter(|found| found.element == entry.element);
            found.is_some_and(|found| (found.member || !entry.member) && entry.children.is_within(&found.children))
        })
    }

    /// As [`FieldSet::difference`], of a set that is not needed any more.
    pub fn without(mut self, other: &FieldSet) -> FieldSet {
        for entry in &other.entries {
            let Ok(at) = self.find(&entry.element) else { continue };
            let own = &mut self.entries[at];
            own.member &= !entry.member;
            own.children = std::mem::take(&mut own.children).without(&entry.children);
            if own.is_empty() {
                self.entries.remove(at);
            }
        }
        self
    }

    /// As [`FieldSet::recursive_difference`], of a set that is not needed any more.
    pub fn without_all_below(mut self, other: &FieldSet) -> FieldSet {
        for entry in &other.entries {
            let Ok(at) = self.find(&entry.element) else { continue };
            let own = &mut self.entries[at];
            own.children = std::mem::take(&mut own.children).without_all_below(&entry.children);
            if entry.member || own.is_empty() {
                self.entries.remove(at);
            }
        }
        self
    }

    /// As [`FieldSet::difference`], but with a member goes everything below it.
    pub fn recursive_difference(&self, other: &FieldSet) -> FieldSet {
        self.subtract(other, true)
    }

    fn subtract(&self, other: &FieldSet, recursive: bool) -> FieldSet {
        let mut out = Vec::with_capacity(self.entries.len());
        for pair in zip(&self.entries, &other.entries) {
            match pair {
                (Some(_), Some(b)) if recursive && b.member => {}
                (Some(a), Some(b)) => {
                    let entry = Entry {
                        element: a.element.clone(),
                        member: a.member && !b.member,
                        children: a.children.subtract(&b.children, recursive),
                    };
                    if !entry.is_empty() {
                        out.push(entry);
                    }
                }
                (Some(a), None) => out.push(a.clone()),
                (None, _) => {}
            }
        }
        FieldSet { entries: out }
    }

    /// The members that have no members below them.
    pub fn leaves(&self) -> FieldSet {
        let entries = self.entries.iter().map(|entry| Entry {
            element: entry.element.clone(),
            member: entry.member && entry.children.is_empty(),
            children: entry.children.leaves(),
        });
        FieldSet { entries: entries.collect() }
    }

    /// All member paths: the members of a level come before what lies below them.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, out: &mut Vec<Vec<PathElement>>) {
        for entry in self.entries.iter().filter(|entry| entry.member) {
            let mut path = prefix.clone();
            path.push(entry.element.clone());
            out.push(path);
        }
        for entry in &self.entries {
            prefix.push(entry.element.clone());
            entry.children.collect(prefix, out);
            prefix.pop();
        }
    }
}

/// Walks two sorted levels together: each element once, with the entries that have it.
fn zip<'a>(a: &'a [Entry], b: &'a [Entry]) -> impl Iterator<Item = (Option<&'a Entry>, Option<&'a Entry>)> {
    let (mut i, mut j) = (0, 0);
    std::iter::from_fn(move || {
        let (left, right) = (a.get(i), b.get(j));
        let order = match (left, right) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.element.cmp(&right.element),
        };
        match order {
            Ordering::Less => i += 1,
            Ordering::Greater => j += 1,
            Ordering::Equal => {
                i += 1;
                j += 1;
            }
        }
        Some((left.filter(|_| order != Ordering::Greater), right.filter(|_| order != Ordering::Less)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(paths: &[&str]) -> FieldSet {
        FieldSet::of_fields(paths)
    }

    #[test]
    fn the_algebra_treats_a_parent_and_its_children_apart() {
        let a = set(&["a", "a.b", "a.c.d", "e"]);
        let b = set(&["a", "a.c.d", "f"]);
        assert_eq!(a.union(&b), set(&["a", "a.b", "a.c.d", "e", "f"]));
        assert_eq!(a.intersection(&b), set(&["a", "a.c.d"]));
        assert_eq!(a.difference(&b), set(&["a.b", "e"]));
        assert_eq!(b.difference(&a), set(&["f"]));
        assert_eq!(a.recursive_difference(&b), set(&["e"]));
        assert_eq!(a.recursive_difference(&set(&["a.c"])), set(&["a", "a.b", "e"]));
        for other in [&b, &a, &set(&["a.c"]), &set(&[]), &set(&["x.y"])] {
            assert_eq!(a.clone().and(other), a.union(other));
            let mut absorbed = a.clone();
            absorbed.absorb(other.clone());
            assert_eq!(absorbed, a.union(other));
            assert_eq!(a.clone().without(other), a.difference(other));
            assert_eq!(a.clone().without_all_below(other), a.recursive_difference(other));
        }
        assert_eq!(a.leaves(), set(&["a.b", "a.c.d", "e"]));
        assert!(a.difference(&a).is_empty());
    }

    #[test]
    fn only_members_are_found() {
        let a = set(&["a.b"]);
        assert!(a.has(&[PathElement::field("a"), PathElement::field("b")]));
        assert!(!a.has(&[PathElement::field("a")]));
        assert!(!a.has(&[]));
    }
}
