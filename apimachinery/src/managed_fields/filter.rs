//! Which fields an endpoint lets a writer own.

use super::{path::PathElement, set::FieldSet};

/// The fields that a write through an endpoint can come to own. What a strategy resets is nobody's by that write.
#[derive(Clone, Debug, Default)]
pub enum Filter {
    /// All fields.
    #[default]
    All,
    /// All but these and what is below them.
    Except(FieldSet),
    /// Only these and what is below them, and the way to them.
    Only(Vec<Vec<Step>>),
}

/// A step of a [`Filter::Only`] pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Any,
    Is(PathElement),
}

impl Filter {
    /// All but these dotted paths (`status`, `metadata.labels`): a strategy's reset fields.
    pub fn except(paths: &[&str]) -> Filter {
        if paths.is_empty() { Filter::All } else { Filter::Except(FieldSet::of_fields(paths)) }
    }

    /// Only these dotted paths, in which `*` is any step (`spec.containers.*.resources`).
    pub fn only(paths: &[&str]) -> Filter {
        let step = |name: &str| if name == "*" { Step::Any } else { Step::Is(PathElement::field(name)) };
        Filter::Only(paths.iter().map(|path| path.split('.').map(step).collect()).collect())
    }

    pub(super) fn apply(&self, set: FieldSet) -> FieldSet {
        match self {
            Filter::All => set,
            Filter::Except(fields) => set.without_all_below(fields),
            Filter::Only(patterns) => {
                let patterns: Vec<&[Step]> = patterns.iter().map(Vec::as_slice).collect();
                only(set, &patterns)
            }
        }
    }
}

fn only(set: FieldSet, patterns: &[&[Step]]) -> FieldSet {
    let entries = set.entries.into_iter().filter_map(|mut entry| {
        let tails: Vec<&[Step]> = patterns
            .iter()
            .filter_map(|pattern| pattern.split_first())
            .filter(|(step, _)| match step {
                Step::Any => true,
                Step::Is(element) => *element == entry.element,
            })
            .map(|(_, tail)| tail)
            .collect();
        if tails.is_empty() {
            return None;
        }
        if !tails.iter().any(|tail| tail.is_empty()) {
            entry.children = only(entry.children, &tails);
        }
        (!entry.is_empty()).then_some(entry)
    });
    FieldSet { entries: entries.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_keeps_what_the_endpoint_may_own() {
        let set = FieldSet::of_fields(&["spec", "spec.a.x.resources.cpu", "spec.a.x.image", "status.phase"]);
        assert_eq!(
            Filter::except(&["status"]).apply(set.clone()),
            FieldSet::of_fields(&["spec", "spec.a.x.resources.cpu", "spec.a.x.image"])
        );
        assert_eq!(Filter::only(&["spec.a.*.resources"]).apply(set.clone()), FieldSet::of_fields(&["spec", "spec.a.x.resources.cpu"]));
        assert_eq!(Filter::except(&[]).apply(set.clone()), set);
    }
}
